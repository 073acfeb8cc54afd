//! Making blocks: bytes are read, decoded, marked as code, and read again.

use super::page::{CodePage, line_mask};
use super::{Block, Blocks, Translated};
use crate::core::{Attention, Core};
use crate::decode::{self, MAX_PREFIXED};
use crate::op::Op;
use crate::world::World;
use crate::{Fault, Step};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

const MAX_OPS: usize = 48;
/// Blocks that may exist before all are dropped.
const MAX_BLOCKS: usize = 1 << 17;
/// No block is longer.
const MAX_BYTES: usize = MAX_OPS * MAX_PREFIXED;

/// A block's bytes in one page.
struct Piece {
    gpa: GuestPhys,
    page: HostPage,
    /// As they were decoded.
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl Piece {
    fn new(gpa: GuestPhys, page: HostPage) -> Piece {
        Piece {
            gpa,
            page,
            bytes: [0; MAX_BYTES],
            len: 0,
        }
    }

    fn lines(&self) -> u64 {
        line_mask(self.gpa.offset(), self.len)
    }

    /// Reads what may belong to a block, at most so much, and returns how much that is.
    fn read(&mut self, core: &mut Core, most: usize) -> Step<usize> {
        let offset = self.gpa.offset();
        let len = most.min(4096 - offset);
        self.page
            .read(offset, &mut self.bytes[..len])
            .map_err(|_| core.lost(self.gpa.0))?;
        Ok(len)
    }

    /// Whether memory has the bytes that were decoded.
    fn is_unchanged(&self, core: &mut Core) -> Step<bool> {
        let mut again = [0; MAX_BYTES];
        self.page
            .read(self.gpa.offset(), &mut again[..self.len])
            .map_err(|_| core.lost(self.gpa.0))?;
        Ok(again[..self.len] == self.bytes[..self.len])
    }
}

/// A block's operations, its length, and whether the last operation sets RIP.
struct Decoded {
    ops: Vec<Op>,
    len: usize,
    branches: bool,
}

impl Blocks {
    pub(super) fn decode(
        &mut self,
        core: &mut Core,
        world: &mut dyn World,
        linear: u64,
        gpa: GuestPhys,
    ) -> Step<u32> {
        if self.slab.len() - self.free.len() >= MAX_BLOCKS {
            self.clear();
            core.native.clear();
            core.indexed.clear();
            core.resync();
        }
        let (_, page, _) = self.fetch(core, world, linear)?;
        let mut first = Piece::new(gpa, page);
        loop {
            let here = first.read(core, MAX_BYTES)?;
            let mut decoded = decode_ops(core, &first.bytes[..here]);
            let mut second = None;
            if decoded.ops.is_empty() {
                (decoded, second) = self.decode_across(core, world, linear, &first.bytes[..here])?;
            }
            first.len = decoded.len.min(here);
            self.mark(core, world, &first);
            if let Some(second) = &second {
                self.mark(core, world, second);
            }
            // The bytes may have changed before the pages were marked.
            if !first.is_unchanged(core)? {
                continue;
            }
            if let Some(second) = &second
                && !second.is_unchanged(core)?
            {
                continue;
            }
            let index = self.insert(Block {
                ops: decoded.ops.into_boxed_slice(),
                len: decoded.len as u16,
                branches: decoded.branches,
                start: gpa.0,
                serial: self.last_serial + 1,
                key: core.mode.key(),
                second: second.as_ref().map(|piece| piece.gpa.0),
                translated: Translated::default(),
            });
            self.note(core, index, &first)?;
            if let Some(second) = &second {
                self.note(core, index, second)?;
            }
            return Ok(index);
        }
    }

    /// Has the world told of every later write to these lines, this processor's own included.
    fn mark(&mut self, core: &mut Core, world: &mut dyn World, piece: &Piece) {
        core.attention.0 |= Attention::DECODED;
        world.mark_code(piece.gpa, piece.lines());
        if !self.pages.contains_key(&(piece.gpa.0 & !0xfff)) {
            core.mmu.protect(piece.gpa);
        }
    }

    /// Decodes the one instruction that begins in a page's last bytes and runs into the next page, or would if it were no
    /// instruction.
    fn decode_across(
        &mut self,
        core: &mut Core,
        world: &mut dyn World,
        linear: u64,
        head: &[u8],
    ) -> Step<(Decoded, Option<Piece>)> {
        let rip = core.state.rip;
        let bits = core.mode.code_bits;
        let mut bytes = [0; 2 * MAX_PREFIXED];
        let had = head.len().min(MAX_PREFIXED);
        bytes[..had].copy_from_slice(&head[..had]);
        let mut len = had;
        let mut second = None;
        let short = decode::prefixed(&bytes[..had], rip, bits, core.forced_emulation).short;
        if short && had < MAX_PREFIXED {
            let (gpa, page, _) = self.fetch(core, world, core.next_page(linear))?;
            let mut piece = Piece::new(gpa, page);
            let more = piece.read(core, MAX_PREFIXED)?;
            bytes[had..had + more].copy_from_slice(&piece.bytes[..more]);
            len = had + more;
            second = Some(piece);
        }
        let found = decode::prefixed(&bytes[..len], rip, bits, core.forced_emulation);
        if found.short {
            // Longer than 15 bytes.
            return Err(Fault::GP0.into());
        }
        let size = found.size();
        let own = &bytes[found.skipped..];
        let decoded = Decoded {
            ops: vec![decode::operation(
                core,
                &found.instr,
                own,
                rip,
                found.skipped as u16,
            )],
            len: size,
            branches: decode::sets_rip(&found.instr),
        };
        let second = second.filter(|_| size > had).map(|piece| Piece {
            len: size - had,
            ..piece
        });
        Ok((decoded, second))
    }

    fn insert(&mut self, block: Block) -> u32 {
        self.last_serial = block.serial;
        let address = (block.start, block.key);
        let index = match self.free.pop() {
            Some(index) => {
                self.slab[index as usize] = block;
                index
            }
            None => {
                self.slab.push(block);
                (self.slab.len() - 1) as u32
            }
        };
        self.by_address.insert(address, index);
        index
    }

    fn note(&mut self, core: &mut Core, block: u32, piece: &Piece) -> Step {
        self.pages
            .entry(piece.gpa.0 & !0xfff)
            .or_insert_with(CodePage::new)
            .add(block, piece.page, piece.lines())
            .map_err(|_| core.lost(piece.gpa.0))
    }
}

/// Decodes as much of a block as lies wholly in `bytes`.
fn decode_ops(core: &mut Core, bytes: &[u8]) -> Decoded {
    let base = core.state.rip;
    let mut ops = Vec::with_capacity(16);
    let mut len = 0;
    while ops.len() < MAX_OPS && len < bytes.len() {
        let rip = base.wrapping_add(len as u64);
        let window = &bytes[len..bytes.len().min(len + MAX_PREFIXED)];
        let found = decode::prefixed(window, rip, core.mode.code_bits, core.forced_emulation);
        if found.short {
            break;
        }
        let own = &window[found.skipped..];
        let start = (len + found.skipped) as u16;
        ops.push(decode::operation(core, &found.instr, own, base, start));
        len += found.size();
        if decode::ends_block(&found.instr) {
            return Decoded {
                ops,
                len,
                branches: decode::sets_rip(&found.instr),
            };
        }
    }
    Decoded {
        ops,
        len,
        branches: false,
    }
}
