//! Blocks of decoded operations, found by where the guest's code lies in guest-physical memory.
//!
//! A block never outlives the bytes it was made from: guest stores to a page with blocks on it are told by the
//! world (see [`crate::world::Memory::code_written`]), and writes by others are found out when an executable
//! translation is entered, by comparing the page with what it held when it was decoded ([`Blocks::validate`]).
//!
//! [`lookups`] remembers what was found where, [`make`] decodes blocks, [`page`] is what is known of the pages they were decoded from.

mod lookups;
mod make;
mod page;

use crate::core::Core;
use crate::mmu::{Fetch, Fetched, Reach};
use crate::op::Op;
use crate::world::{Backing, World};
use crate::{Step, Stop};
use lookups::Lookups;
use page::CodePage;
use ring3_host::addr::GuestPhys;
use ring3_host::mem::{HostFault, HostPage};
use rustc_hash::FxHashMap;
use std::borrow::Cow;

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
    /// The heat at which it is worth the next translation.
    pub due: u32,
    /// The tier's own numbers for the block's translations.
    pub entries: Vec<u32>,
}

impl Block {
    /// Whether its only instruction runs into another page.
    pub fn crosses_page(&self) -> bool {
        self.second.is_some()
    }
}

pub struct Blocks {
    slab: Vec<Block>,
    free: Vec<u32>,
    by_address: FxHashMap<(u64, u8), u32>,
    /// By guest-physical page address, plus one for those of system management mode.
    pages: FxHashMap<u64, CodePage>,
    lookups: Lookups,
    last_serial: u64,
    /// Counts the times that blocks were dropped.
    drops: u32,
    /// The guest-physical pages whose blocks were, for a further tier; `None` if they are too many.
    dropped: Option<Vec<u64>>,
    /// Counts the times that all blocks were.
    clears: u32,
}

const DROPPED: u64 = 0;
/// Dropped pages that are told one by one.
const MOST_DROPPED: usize = 64;

impl Blocks {
    pub fn new() -> Blocks {
        Blocks {
            slab: Vec::new(),
            free: Vec::new(),
            by_address: FxHashMap::default(),
            pages: FxHashMap::default(),
            lookups: Lookups::new(),
            last_serial: 0,
            drops: 0,
            dropped: Some(Vec::new()),
            clears: 0,
        }
    }

    #[inline(always)]
    pub fn get(&self, index: u32) -> &Block {
        &self.slab[index as usize]
    }

    /// The block at the current RIP, decoded now if need be.
    #[inline(always)]
    pub fn find(&mut self, core: &mut Core, world: &mut dyn World) -> Step<u32> {
        let linear = core.code_address();
        if let Some(known) = self.lookups.find(core, linear)
            && let Some(block) = self.slab.get(known.block as usize)
            && block.serial == known.serial
        {
            return Ok(known.block);
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
        let mut stamp = reach;
        if self.get(block).crosses_page() {
            let next = core.next_page(linear);
            let (.., second) = self.fetch(core, world, next)?;
            core.note_code(&[(linear, reach), (next, second)]);
            if second == Reach::Local {
                stamp = Reach::Local;
            }
        } else {
            core.note_code(&[(linear, reach)]);
        }
        let serial = self.get(block).serial;
        // Unless the page was found changed only now.
        if serial != DROPPED {
            self.lookups.remember(core, linear, stamp, block, serial);
        }
        Ok(block)
    }

    /// What is known of a page is found under, by the guest-physical addresses that are in force.
    fn page_key(core: &Core, gpa: u64) -> u64 {
        gpa & !0xfff | u64::from(core.mode.smm)
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
            fetched,
        } = core.fetch_address(world, linear)?;
        let Backing::Ram { page, .. } = backing else {
            return Err(Stop::Unsupported);
        };
        self.validate(Blocks::page_key(core, gpa.0), page, fetched, core.turn)
            .map_err(|_| core.lost(gpa.0))?;
        Ok((gpa, page, reach))
    }

    /// Drops the blocks of a page if its bytes are no longer those they were made from.
    ///
    /// This is how writes by others than the guest's processors are found out: the client's, which come between two
    /// KVM_RUNs, and those of its threads, of vhost and of other processes, which come at any time. A guest may learn
    /// from memory alone that such a write is done, so nothing that is seen here (an exit, an interrupt) says that
    /// there was none since the page was last compared, and each new executable entry of the TLB compares it, and the first
    /// fetch since client code could have run.
    fn validate(&mut self, key: u64, page: HostPage, fetched: Fetch, turn: u64) -> Result<(), HostFault> {
        if let Some(code) = self.pages.get_mut(&key)
            && (fetched == Fetch::Fresh || code.turn != turn)
        {
            code.turn = turn;
            if !code.is_still_in(page)? {
                self.drop_page(GuestPhys(key));
            }
        }
        Ok(())
    }

    /// Drops every block made from the page of `gpa`, be it of system management mode or not.
    pub fn drop_page(&mut self, gpa: GuestPhys) {
        let page = gpa.0 & !0xfff;
        let known = [self.pages.remove(&page), self.pages.remove(&(page | 1))];
        if known.iter().all(Option::is_none) {
            return;
        }
        for index in known.into_iter().flatten().flat_map(CodePage::into_blocks) {
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
        match &mut self.dropped {
            Some(pages) if pages.len() < MOST_DROPPED => pages.push(page),
            _ => self.dropped = None,
        }
    }

    /// The pages whose blocks were dropped since this was last asked; `None` if they are too many to tell.
    pub fn take_dropped(&mut self) -> Option<Vec<u64>> {
        self.dropped.replace(Vec::new())
    }

    /// The guest-physical pages that a block begins in, and that its only instruction runs into.
    pub fn pages_of(&self, block: u32) -> (u64, Option<u64>) {
        let block = self.get(block);
        (block.start & !0xfff, block.second.map(|second| second & !0xfff))
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.slab.clear();
        self.free.clear();
        self.by_address.clear();
        self.pages.clear();
        self.clears = self.clears.wrapping_add(1);
        self.dropped = Some(Vec::new());
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

    /// The bytes a block was made from.
    pub fn code(&self, block: &Block) -> Option<Cow<'_, [u8]>> {
        let smm = u64::from(block.key >> 3 & 1);
        let page = self.pages.get(&(block.start & !0xfff | smm))?;
        let (offset, len) = ((block.start & 0xfff) as usize, usize::from(block.len));
        let Some(second) = block.second else {
            return page.bytes(offset, len).map(Cow::Borrowed);
        };
        let here = len.min(4096 - offset);
        let mut code = page.bytes(offset, here)?.to_vec();
        code.extend_from_slice(self.pages.get(&(second & !0xfff | smm))?.bytes(0, len - here)?);
        Some(Cow::Owned(code))
    }

    /// The block that begins at that place of the page that `block` begins in, decoded for the same mode.
    pub fn neighbour(&self, block: u32, linear: u64) -> Option<u32> {
        let block = self.get(block);
        let start = block.start & !0xfff | linear & 0xfff;
        self.by_address.get(&(start, block.key)).copied()
    }
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks::new()
    }
}
