//! Blocks of decoded operations, found by where the guest's code lies in guest-physical memory.
//!
//! A block never outlives the bytes it was made from: guest stores to a page with blocks on it are told by the
//! world (see [`crate::world::Memory::code_written`]), and writes by others are found out when an executable
//! translation is entered, by comparing the page with what it held when it was decoded ([`Blocks::validate`]).

use crate::core::{Attention, Core};
use crate::decode::{self, MAX_INSTRUCTION};
use crate::mmu::{Fetched, Reach};
use crate::op::Op;
use crate::world::{Backing, World};
use crate::{Fault, Step, Stop};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;
use rustc_hash::FxHashMap;

const MAX_OPS: usize = 48;
const JUMPS: usize = 1 << 13;
/// Blocks that may exist before all are dropped.
const MAX_BLOCKS: usize = 1 << 17;

pub struct Block {
    pub ops: Box<[Op]>,
    /// Length of the code in bytes.
    pub len: u16,
    /// The last operation sets RIP itself.
    pub branches: bool,
    start: u64,
    /// No other block ever had it; [`DROPPED`] once the block is.
    serial: u64,
    key: u8,
    /// The page that the block's only instruction runs into.
    second: Option<u64>,
    /// What a further tier keeps with the block; gone when the block is.
    pub translated: Translated,
}

/// What a further tier knows of a block.
#[derive(Default)]
pub struct Translated {
    /// How often the block was about to be executed here.
    pub heat: u32,
    /// The tier's own numbers for the block's translations.
    pub entries: Vec<u32>,
}

impl Block {
    /// Whether its only instruction runs into another page.
    pub fn crosses_page(&self) -> bool {
        self.second.is_some()
    }
}

/// A remembered lookup of a block by linear address. It holds during its epoch, which is that of the address space or that
/// of global translations, and as long as its block is the one with this serial number.
#[derive(Clone, Copy)]
struct Jump {
    linear: u64,
    epoch: u64,
    serial: u64,
    block: u32,
    context: u8,
}

/// What is known of a page that code was decoded from.
struct CodePage {
    blocks: Vec<u32>,
    /// Which 64-byte lines blocks were made from.
    lines: u64,
    /// The page's bytes then; only the lines in `lines` mean anything.
    bytes: Box<[u8; 4096]>,
}

pub struct Blocks {
    slab: Vec<Block>,
    free: Vec<u32>,
    by_address: FxHashMap<(u64, u8), u32>,
    pages: FxHashMap<u64, CodePage>,
    jumps: Box<[Jump]>,
    last_serial: u64,
    /// Counts the times that blocks were dropped.
    drops: u32,
    /// Counts the times that all blocks were.
    clears: u32,
}

const DROPPED: u64 = 0;

const NO_JUMP: Jump = Jump {
    linear: u64::MAX,
    epoch: 0,
    serial: DROPPED,
    block: 0,
    context: 0,
};

impl Blocks {
    pub fn new() -> Blocks {
        Blocks {
            slab: Vec::new(),
            free: Vec::new(),
            by_address: FxHashMap::default(),
            pages: FxHashMap::default(),
            jumps: vec![NO_JUMP; JUMPS].into_boxed_slice(),
            last_serial: 0,
            drops: 0,
            clears: 0,
        }
    }

    #[inline(always)]
    pub fn get(&self, index: u32) -> &Block {
        &self.slab[index as usize]
    }

    /// Where a lookup is remembered. Programs have much of their code at the same addresses: the epoch keeps those of
    /// different address spaces apart. The kernel's is mostly the same in all.
    #[inline(always)]
    fn jump_slot(core: &Core, linear: u64) -> usize {
        let space = if core.mode.cpl == 3 {
            core.epoch.wrapping_mul(0x9e5)
        } else {
            0
        };
        (linear ^ linear >> 13 ^ space) as usize & (JUMPS - 1)
    }

    /// The block at the current RIP, decoded now if need be.
    #[inline(always)]
    pub fn find(&mut self, core: &mut Core, world: &mut dyn World) -> Step<u32> {
        let linear = core.code_address();
        let jump = &self.jumps[Self::jump_slot(core, linear)];
        if jump.linear == linear
            && jump.context == core.context
            && (jump.epoch == core.epoch || jump.epoch == core.global_epoch)
            && self
                .slab
                .get(jump.block as usize)
                .is_some_and(|block| block.serial == jump.serial)
        {
            return Ok(jump.block);
        }
        self.find_slow(core, world, linear)
    }

    #[inline(never)]
    fn find_slow(&mut self, core: &mut Core, world: &mut dyn World, linear: u64) -> Step<u32> {
        core.check_target(core.state.rip)?;
        let (gpa, _, reach) = self.fetch(core, world, linear)?;
        let key = core.mode.key();
        let known = self.by_address.get(&(gpa.0, key)).copied();
        let block = match known {
            Some(block) => match self.get(block).second {
                Some(second) => {
                    let next = core.next_page(linear);
                    let (found, ..) = self.fetch(core, world, next)?;
                    // Fetching may have found the page changed, and dropped the block.
                    if found.0 & !0xfff == second && self.by_address.get(&(gpa.0, key)) == Some(&block) {
                        block
                    } else {
                        self.decode(core, world, linear, gpa)?
                    }
                }
                None => block,
            },
            None => self.decode(core, world, linear, gpa)?,
        };
        core.mmu.spaces.note_code(linear, reach);
        let mut stamp = reach;
        if self.get(block).crosses_page() {
            let next = core.next_page(linear);
            let (.., reach) = self.fetch(core, world, next)?;
            core.mmu.spaces.note_code(next, reach);
            if reach == Reach::Local {
                stamp = Reach::Local;
            }
        }
        let serial = self.get(block).serial;
        // Unless the page was found changed only now.
        if serial != DROPPED {
            self.jumps[Self::jump_slot(core, linear)] = Jump {
                linear,
                epoch: core.mmu.spaces.epoch(stamp),
                serial,
                block,
                context: core.context,
            };
        }
        Ok(block)
    }

    /// Translates an address that code is fetched from, and makes sure that what was decoded from its page is
    /// still there if the translation is new.
    fn fetch(
        &mut self,
        core: &mut Core,
        world: &mut dyn World,
        linear: u64,
    ) -> Step<(GuestPhys, HostPage, Reach)> {
        let Fetched {
            gpa,
            backing,
            reach,
            fresh,
        } = core.fetch_address(world, linear)?;
        let Backing::Ram { page, .. } = backing else {
            return Err(Stop::Unsupported);
        };
        if fresh {
            self.validate(gpa, page).map_err(|_| core.lost(gpa.0))?;
        }
        Ok((gpa, page, reach))
    }

    /// Drops the blocks of a page if its bytes are no longer those they were made from.
    fn validate(&mut self, gpa: GuestPhys, page: HostPage) -> Result<(), ring3_host::mem::HostFault> {
        let base = gpa.0 & !0xfff;
        let Some(code) = self.pages.get(&base) else {
            return Ok(());
        };
        let mut now = [0; 64];
        for line in 0..64 {
            if code.lines >> line & 1 != 0 {
                page.read(line * 64, &mut now)?;
                if now != code.bytes[line * 64..line * 64 + 64] {
                    self.drop_page(gpa);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Drops every block made from the page of `gpa`.
    pub fn drop_page(&mut self, gpa: GuestPhys) {
        let Some(code) = self.pages.remove(&(gpa.0 & !0xfff)) else {
            return;
        };
        for index in code.blocks {
            let block = &mut self.slab[index as usize];
            if self.by_address.get(&(block.start, block.key)) == Some(&index) {
                self.by_address.remove(&(block.start, block.key));
            }
            if !block.ops.is_empty() {
                block.ops = Box::new([]);
                block.serial = DROPPED;
                self.free.push(index);
            }
        }
        self.drops = self.drops.wrapping_add(1);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.slab.clear();
        self.free.clear();
        self.by_address.clear();
        self.pages.clear();
        self.clears = self.clears.wrapping_add(1);
        self.drops = self.drops.wrapping_add(1);
    }

    /// Changes whenever a remembered lookup may be of a block that is gone.
    #[inline(always)]
    pub fn drops(&self) -> u32 {
        self.drops
    }

    /// Changes whenever all blocks went, and with them whatever their operations refer to.
    #[inline(always)]
    pub fn clears(&self) -> u32 {
        self.clears
    }

    /// A further tier lost what it kept with blocks.
    pub fn forget_translations(&mut self) {
        for block in &mut self.slab {
            block.translated = Translated::default();
        }
    }

    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> &mut Block {
        &mut self.slab[index as usize]
    }

    /// The bytes a block was made from, if they lie in one page.
    pub fn code(&self, block: &Block) -> Option<&[u8]> {
        let page = self.pages.get(&(block.start & !0xfff))?;
        let offset = (block.start & 0xfff) as usize;
        page.bytes.get(offset..offset + usize::from(block.len))
    }

    fn decode(&mut self, core: &mut Core, world: &mut dyn World, linear: u64, gpa: GuestPhys) -> Step<u32> {
        if self.slab.len() - self.free.len() >= MAX_BLOCKS {
            self.clear();
            core.native.clear();
            core.indexed.clear();
            core.resync();
        }
        let offset = (linear & 0xfff) as usize;
        let (_, page, _) = self.fetch(core, world, linear)?;
        let mut bytes = [0; 4096];
        loop {
            page.read(offset, &mut bytes[offset..])
                .map_err(|_| core.lost(gpa.0))?;
            let (mut ops, mut len, branches) = decode_ops(core, &bytes[offset..]);
            let mut second = None;
            let mut branches = branches;
            if ops.is_empty() {
                let (op, size, branch, page2) = self.decode_across(core, world, linear, &bytes[offset..])?;
                ops.push(op);
                len = size;
                branches = branch;
                second = page2;
            }
            let in_page = len.min(4096 - offset);
            self.mark(core, world, gpa, line_mask(offset, in_page));
            if let Some(second) = second {
                self.mark(core, world, GuestPhys(second), line_mask(0, len - in_page));
            }
            // The bytes may have changed before the page was marked.
            let mut again = [0; 4096];
            page.read(offset, &mut again[offset..])
                .map_err(|_| core.lost(gpa.0))?;
            if again[offset..offset + in_page] != bytes[offset..offset + in_page] {
                continue;
            }
            let block = Block {
                ops: ops.into_boxed_slice(),
                len: len as u16,
                branches,
                start: gpa.0,
                serial: self.next_serial(),
                key: core.mode.key(),
                second,
                translated: Translated::default(),
            };
            let index = self.insert(block);
            self.note_page(gpa.0 & !0xfff, index, page, line_mask(offset, in_page))
                .map_err(|_| core.lost(gpa.0))?;
            if let Some(second) = second {
                let next = core.next_page(linear);
                let (_, page, _) = self.fetch(core, world, next)?;
                let lines = line_mask(0, len - in_page);
                self.note_page(second, index, page, lines)
                    .map_err(|_| core.lost(second))?;
            }
            return Ok(index);
        }
    }

    /// Has the world told of every later write to these lines, this processor's own included.
    fn mark(&mut self, core: &mut Core, world: &mut dyn World, gpa: GuestPhys, lines: u64) {
        core.attention.0 |= Attention::DECODED;
        world.mark_code(gpa, lines);
        if !self.pages.contains_key(&(gpa.0 & !0xfff)) {
            core.mmu.protect(gpa);
        }
    }

    /// Decodes the one instruction that begins in a page's last bytes and runs into the next page.
    fn decode_across(
        &mut self,
        core: &mut Core,
        world: &mut dyn World,
        linear: u64,
        head: &[u8],
    ) -> Step<(Op, usize, bool, Option<u64>)> {
        let rip = core.state.rip;
        let bits = core.mode.code_bits;
        let mut bytes = [0; 2 * MAX_INSTRUCTION];
        let had = head.len().min(MAX_INSTRUCTION);
        bytes[..had].copy_from_slice(&head[..had]);
        let mut len = had;
        let mut second = None;
        let (_, short) = decode::instruction(&bytes[..had], rip, bits);
        if short && had < MAX_INSTRUCTION {
            let next = core.next_page(linear);
            let (gpa, page, _) = self.fetch(core, world, next)?;
            page.read(0, &mut bytes[had..had + MAX_INSTRUCTION])
                .map_err(|_| core.lost(gpa.0))?;
            len = had + MAX_INSTRUCTION;
            second = Some(gpa.0 & !0xfff);
        }
        let (instr, short) = decode::instruction(&bytes[..len], rip, bits);
        if short {
            // Longer than 15 bytes.
            return Err(Fault::GP0.into());
        }
        let op = decode::operation(core, &instr, &bytes, rip, 0);
        let size = instr.len().max(1);
        if size <= had {
            second = None;
        }
        Ok((op, size, decode::sets_rip(&instr), second))
    }

    fn next_serial(&mut self) -> u64 {
        self.last_serial += 1;
        self.last_serial
    }

    fn insert(&mut self, block: Block) -> u32 {
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

    fn note_page(
        &mut self,
        base: u64,
        block: u32,
        page: HostPage,
        lines: u64,
    ) -> Result<(), ring3_host::mem::HostFault> {
        let code = self.pages.entry(base).or_insert_with(|| CodePage {
            blocks: Vec::new(),
            lines: 0,
            bytes: Box::new([0; 4096]),
        });
        code.blocks.push(block);
        for line in 0..64 {
            if lines >> line & 1 != 0 && code.lines >> line & 1 == 0 {
                page.read(line * 64, &mut code.bytes[line * 64..line * 64 + 64])?;
            }
        }
        code.lines |= lines;
        Ok(())
    }
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks::new()
    }
}

/// Decodes as much of a block as lies wholly in `bytes`: operations, length, and whether the last one sets RIP.
fn decode_ops(core: &mut Core, bytes: &[u8]) -> (Vec<Op>, usize, bool) {
    let base = core.state.rip;
    let mut ops = Vec::with_capacity(16);
    let mut at = 0;
    while ops.len() < MAX_OPS && at < bytes.len() {
        let rip = base.wrapping_add(at as u64);
        let window = &bytes[at..bytes.len().min(at + MAX_INSTRUCTION)];
        let (instr, short) = decode::instruction(window, rip, core.mode.code_bits);
        if short {
            break;
        }
        ops.push(decode::operation(core, &instr, window, base, at as u16));
        at += instr.len().max(1);
        if decode::ends_block(&instr) {
            return (ops, at, decode::sets_rip(&instr));
        }
    }
    (ops, at, false)
}

/// The 64-byte lines of a page that `len` bytes at `offset` lie in.
fn line_mask(offset: usize, len: usize) -> u64 {
    let first = offset / 64;
    let last = (offset + len.max(1) - 1).min(4095) / 64;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}
