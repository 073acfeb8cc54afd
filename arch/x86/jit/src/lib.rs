//! The identity translator: guest code becomes host code of the same architecture.
//!
//! A [`Jit`] is a [`Tier`] of `ring3_x86_cpu`'s processor: blocks that were executed a few times are translated, and run until
//! something needs the interpreter or the world. Guest registers and flags are in the host's while translated code runs; memory
//! is reached through the interpreter's software TLB, and whatever is not a plain memory access is done by the
//! interpreter's own handlers, so that both agree on everything rare.
//!
//! * [`trace`]: which blocks are translated together; [`translate`](mod@translate): a trace to host code; [`flags`] says where
//!   flags are, [`groups`] which accesses share a lookup; [`emit`] writes instructions.
//! * [`flat`]: what is special about 32-bit code.
//! * [`links`]: jumps from page to page, and while they hold; [`callout`]: the operations that handlers do.
//! * [`context`]: what translated code finds through GS; [`stubs`]: the code around it; [`memory`]: where it lies; [`perf`]: what profilers hear of it.
//! * [`fault`]: accesses to memory that the client took away, and divisions that fail; [`x87`]: the x87 state in the host's unit.
//!
//! Not supported, and left to the interpreter: code that is neither 64-bit nor, in [`flat`] segments, 32-bit, or at level 1
//! or 2, or in system management mode; and all code while instructions are counted for performance counters. x87 and MMX instructions are callouts while an x87 exception is not masked.

mod callout;
mod context;
mod emit;
mod fault;
mod flags;
mod flat;
mod groups;
mod links;
mod memory;
mod perf;
mod registers;
mod stubs;
mod trace;
mod translate;
mod x87;

use crate::callout::{Misses, Site, Stay};
use crate::context::{EXIT_LINK, EXIT_LOOKUP, EXIT_RETURN, Jumps, forget_pages, from_aside, word};
use crate::emit::Width;
use crate::links::{Link, Links, PageKey, Translation};
use crate::memory::{CodeMemory, ShadowStack};
use crate::stubs::Stubs;
use ring3_host::addr::GuestPhys;
use ring3_x86_cpu::block::Blocks;
use ring3_x86_cpu::mmu::access::is_canonical;
use ring3_x86_cpu::state::{CR0_EM, CR0_TS, CR4_OSFXSR, CR4_OSXSAVE, RSP};
use ring3_x86_cpu::{Core, Ended, Fault, Tier, World};
use rustc_hash::FxHashSet;
use std::sync::atomic::AtomicU32;
use translate::{Level, Source};

/// How often a block is interpreted before it is translated.
const THRESHOLD: u32 = 12;
/// How often it is interpreted thereafter before it is translated for another linear address, or setting. There would be no end of
/// them otherwise: each process has its libraries elsewhere, and most do little with most of them.
const AGAIN: u32 = 500;
/// The heat of a block that cannot be translated.
const NEVER: u32 = u32::MAX;

/// Translations of a block that are remembered: one for each address it is executed at, in each setting.
const MOST_ENTRIES: usize = 8;

/// Instructions that are remembered because no group is to begin with them.
const MOST_APART: usize = 4096;

/// What a translation takes for granted. Jumps lead only to translations of the same setting.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Setting {
    user: bool,
    width: Width,
    level: Level,
}

impl Setting {
    /// Jump caches.
    pub const CACHES: usize = 4;

    /// The number of the jump cache.
    #[inline(always)]
    pub fn cache(&self) -> usize {
        usize::from(self.user) | usize::from(self.width == Width::Four) << 1
    }

    /// `None` where nothing is translated: in 16-bit code, where segments are not flat, at levels 1 and 2, in system management
    /// mode, whose addresses mean other memory, and while instructions are counted.
    #[inline(always)]
    pub fn of(core: &Core) -> Option<Setting> {
        let width = match core.mode.code_bits {
            64 => Width::Eight,
            32 if flat::is_flat(core) => Width::Four,
            _ => return None,
        };
        if core.mode.smm || core.state.meter.on || matches!(core.mode.cpl, 1 | 2) {
            return None;
        }
        let state = &core.state;
        let enabled = |components: u64| state.cr4 & CR4_OSXSAVE != 0 && state.xcr0 & components == components;
        let level = if state.cr0 & (CR0_EM | CR0_TS) != 0 || state.cr4 & CR4_OSFXSR == 0 {
            Level::None
        } else if enabled(0b1110_0110) {
            Level::Avx512
        } else if enabled(0b110) {
            Level::Avx
        } else {
            Level::Sse
        };
        Some(Setting {
            user: core.mode.cpl == 3,
            width,
            level,
        })
    }
}

/// One vCPU's translations.
pub struct Jit {
    jumps: Jumps,
    memory: CodeMemory,
    stubs: Stubs,
    /// Where translations begin.
    first: u64,
    translations: Vec<Translation>,
    sites: Vec<Site>,
    links: Links,
    shadow: ShadowStack,
    faults: fault::Table,
    /// What the translations' jumps were made for.
    level: Level,
    drops: u32,
    clears: u32,
    /// How often a block is interpreted before it is translated.
    threshold: u32,
    /// And before each further translation of it.
    again: u32,
    counting: Counting,
    /// Instructions that no group is to begin with, and how often groups were slow.
    apart: FxHashSet<GuestPhys>,
    misses: Misses,
    callouts: u64,
    made: Made,
}

/// What was translated, also what is gone by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    pub translations: u64,
    /// Of host code.
    pub bytes: u64,
}

impl Jit {
    /// `None` where the host lacks something that translations need.
    pub fn new() -> Option<Jit> {
        if !host_suffices() {
            return None;
        }
        let mut memory = CodeMemory::new().ok()?;
        let (stubs, code) = stubs::write(memory.next(), callout::callout as *const () as u64).ok()?;
        let at = memory.add(&code)?;
        perf::stubs((at, &code));
        let mut shadow = ShadowStack::new().ok()?;
        shadow.set_bottom(stubs.return_below);
        let faults = fault::Table::register(memory.start(), memory::SIZE)?;
        Some(Jit {
            jumps: Jumps::new(),
            first: memory.next(),
            memory,
            stubs,
            translations: Vec::new(),
            sites: Vec::new(),
            links: Links::default(),
            shadow,
            faults,
            level: Level::None,
            drops: 0,
            clears: 0,
            threshold: THRESHOLD,
            again: AGAIN,
            counting: Counting::No,
            apart: FxHashSet::default(),
            misses: Misses::default(),
            callouts: 0,
            made: Made::default(),
        })
    }

    /// As [`Jit::new`], translating every block at once: for tests.
    pub fn eager() -> Option<Jit> {
        Some(Jit {
            threshold: 1,
            again: 1,
            ..Jit::new()?
        })
    }

    /// How many operations the interpreter's handlers did for translated code: for tests.
    pub fn callouts(&self) -> u64 {
        self.callouts
    }

    /// Forgets every translation.
    fn flush(&mut self) {
        self.memory.truncate(self.first);
        self.translations.clear();
        self.sites.clear();
        self.links.clear();
        self.faults.clear();
        self.jumps.clear();
    }

    /// Makes sure that what is remembered still holds.
    #[inline(always)]
    fn revalidate(&mut self, core: &Core, blocks: &mut Blocks, setting: Setting) {
        if self.drops != blocks.drops() || self.level != setting.level {
            self.revalidate_all(blocks, setting);
        }
        self.links.follow(core, &mut self.jumps, &mut self.memory);
    }

    #[cold]
    fn revalidate_all(&mut self, blocks: &mut Blocks, setting: Setting) {
        self.drops = blocks.drops();
        let dropped = blocks.take_dropped();
        if self.clears != blocks.clears() {
            self.clears = blocks.clears();
            self.flush();
        } else if let (Some(pages), true) = (dropped, self.level == setting.level) {
            for physical in pages {
                self.links.drop_page(physical, &mut self.jumps, &mut self.memory);
            }
        } else {
            self.links.forget_all(&mut self.jumps, &mut self.memory);
        }
        self.level = setting.level;
    }

    /// The translation of a block, made now if it is time.
    fn find(
        &mut self,
        core: &Core,
        blocks: &mut Blocks,
        index: u32,
        setting: Setting,
    ) -> Option<Translation> {
        let linear = core.state.rip;
        let block = blocks.get_mut(index);
        let known = block.translated.entries.iter().rev().find_map(|n| {
            let found = *self.translations.get(*n as usize)?;
            (found.linear == linear && found.setting == setting).then_some(found)
        });
        if known.is_some() || block.translated.heat == NEVER {
            return known;
        }
        block.translated.heat += 1;
        if block.translated.heat < block.translated.due.max(self.threshold) {
            return None;
        }
        self.translate(core, blocks, index, setting)
    }

    #[cold]
    fn translate(
        &mut self,
        core: &Core,
        blocks: &mut Blocks,
        index: u32,
        setting: Setting,
    ) -> Option<Translation> {
        let linear = core.state.rip;
        let (physical, second) = blocks.pages_of(index);
        let made = trace::collect(core, blocks, index, linear).and_then(|trace| {
            translate::translate(&Source {
                linear,
                trace: &trace,
                core,
                physical: GuestPhys(physical),
                apart: &self.apart,
                level: setting.level,
                counting: self.counting,
                user: setting.user,
                width: setting.width,
                base: self.memory.next(),
                cold: self.memory.next_cold(),
                stubs: self.stubs,
                first_site: self.sites.len() as u32,
                first_link: self.links.len() as u32,
                first_word: self.memory.word(self.memory.next_word()),
            })
        });
        let Some(made) = made else {
            blocks.get_mut(index).translated.heat = NEVER;
            return None;
        };
        let first_word = self.memory.next_word();
        let (hot, cold) = (self.memory.add(&made.code), self.memory.add_cold(&made.cold));
        let taken = self.memory.take_words(made.words.len());
        let (Some(hot), Some(cold), true) = (hot, cold, taken) else {
            // Full: begin anew. This block's turn comes again.
            blocks.forget_translations();
            self.flush();
            return None;
        };
        perf::translated(linear, setting.user, (hot, &made.code), (cold, &made.cold));
        self.made.translations += 1;
        self.made.bytes += (made.code.len() + made.cold.len()) as u64;
        for (n, first) in made.words.iter().enumerate() {
            self.memory.set_word(first_word + n, *first);
        }
        let links = made.links.into_iter().map(|jump| Link {
            jump,
            word: first_word,
            setting,
        });
        self.links.add(links, made.words);
        self.sites.extend(made.sites);
        let start = self.memory.start();
        for (from, to) in made.faults {
            self.faults.add((from - start) as u32, (to - start) as u32);
        }
        let translation = Translation {
            linear,
            setting,
            page: self.links.page(PageKey {
                linear: linear >> 12,
                physical,
                second,
                setting,
            }),
            entries: made.entries,
        };
        self.links.add_entry(&translation);
        self.translations.push(translation);
        let number = self.translations.len() as u32 - 1;
        let translated = &mut blocks.get_mut(index).translated;
        translated.due = translated.heat.saturating_add(self.again).min(NEVER - 1);
        if translated.entries.len() == MOST_ENTRIES {
            translated.entries.remove(0);
        }
        translated.entries.push(number);
        Some(translation)
    }

    /// Runs a translation and what follows.
    fn run(
        &mut self,
        from: &Translation,
        core: &mut Core,
        blocks: &mut Blocks,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Ended {
        let mut stay = Stay {
            world,
            sites: &self.sites,
            jumps: &self.jumps,
            kick,
            setting: from.setting,
            epochs: (core.epoch, core.global_epoch),
            ended: None,
            misses: &mut self.misses,
            apart: None,
            callouts: 0,
        };
        callout::prepare(core);
        let words = &mut core.tier;
        words[word::KICK] = kick.as_ptr() as u64;
        words[word::JUMPS_AT] = self.jumps.cache(from.setting);
        words[word::COUNT] = 0;
        words[word::ENTRY] = from.entries.aside;
        forget_pages(words);
        words[word::SHADOW_TOP] = self.shadow.top();
        words[word::SHADOW_LIMIT] = self.shadow.limit();
        words[word::VECTOR] = &raw mut *core.state.vector as u64;
        words[word::VECTOR_LOADED] = 0;
        words[word::X87_LOADED] = 0;
        words[word::STATE_LOADED] = 0;
        words[word::X87_LAST] = 0;
        words[word::X87_LAST_DATA] = 0;
        words[word::NEED_VECTOR] = self.stubs.load_vector;
        words[word::STAY] = &raw mut stay as u64;
        // SAFETY: the stub is a function of this type, and the entry is a translation in memory that is still there. What
        // it refers to was set just above, and nobody else uses the core, the world or the stay meanwhile.
        unsafe {
            let enter: extern "C" fn(*mut Core) = std::mem::transmute(self.stubs.enter as *const ());
            enter(core);
        }
        let ended = stay.ended;
        if let Some(place) = stay.apart {
            if self.apart.len() == MOST_APART {
                self.apart.clear();
            }
            self.apart.insert(place);
            blocks.drop_page(place);
        }
        self.callouts += stay.callouts;
        x87::show_pointers(core, &self.sites);
        let words = &core.tier;
        core.instructions += words[word::COUNT];
        let (kind, exit) = (words[word::EXIT_KIND], words[word::EXIT]);
        core.state.rip = match kind {
            EXIT_LOOKUP | EXIT_RETURN => exit,
            EXIT_LINK => {
                self.links.pending = Some(exit as usize);
                self.links.target(exit as usize).unwrap_or(core.state.rip)
            }
            _ => return ended.unwrap_or(Ended::Retired),
        };
        core.state.flags.set_arithmetic(from_aside(words[word::ASIDE]));
        if kind == EXIT_RETURN {
            return self.returned(core);
        }
        Ended::Retired
    }

    /// Left by a return to an address that has no translation. If it cannot have one, the return is what faults.
    #[cold]
    fn returned(&self, core: &mut Core) -> Ended {
        let site = self.sites.get(core.tier[word::RETURN] as usize);
        if let (false, Some(site)) = (is_canonical(core.state.rip), site) {
            let more = if site.op.code() == iced_x86::Code::Retnq_imm16 {
                site.op.imm
            } else {
                0
            };
            let rsp = &mut core.state.gpr[RSP];
            *rsp = rsp.wrapping_sub(8 + more);
            core.state.rip = site.base.wrapping_add(u64::from(site.op.start));
            return Ended::Stopped(Fault::GP0.into());
        }
        Ended::Retired
    }
}

/// Whether translations count the instructions they execute, which costs them a little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    Yes,
    No,
}

/// The tier of a vCPU: the translator where the host suffices, unless `RING3_ENGINE` says `interpreter`.
pub struct Engine(Option<Box<Jit>>);

impl Engine {
    /// Translated instructions are counted only if `RING3_STATS` wants an account.
    pub fn new() -> Engine {
        let counting = match std::env::var_os("RING3_STATS") {
            Some(path) if !path.is_empty() => Counting::Yes,
            _ => Counting::No,
        };
        let interpreted = std::env::var_os("RING3_ENGINE").is_some_and(|engine| engine == "interpreter");
        if interpreted {
            return Engine(None);
        }
        perf::start();
        Engine(Jit::new().map(|jit| Box::new(Jit { counting, ..jit })))
    }

    /// What was translated.
    #[inline]
    pub fn made(&self) -> Made {
        self.0.as_ref().map_or(Made::default(), |jit| jit.made)
    }

    /// Whether all instructions are counted, and not only those that are interpreted.
    pub fn counts_all(&self) -> bool {
        self.0.as_ref().is_none_or(|jit| jit.counting == Counting::Yes)
    }
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new()
    }
}

impl Tier for Engine {
    #[inline(always)]
    fn enter(
        &mut self,
        core: &mut Core,
        blocks: &mut Blocks,
        block: u32,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Option<Ended> {
        self.0.as_mut()?.enter(core, blocks, block, world, kick)
    }
}

impl Tier for Jit {
    fn enter(
        &mut self,
        core: &mut Core,
        blocks: &mut Blocks,
        block: u32,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Option<Ended> {
        let setting = Setting::of(core)?;
        self.revalidate(core, blocks, setting);
        let found = self.find(core, blocks, block, setting)?;
        self.links.enter(core, &found, &mut self.jumps, &mut self.memory);
        Some(self.run(&found, core, blocks, world, kick))
    }
}

/// Whether the host has the instructions that translations and their surroundings consist of.
fn host_suffices() -> bool {
    is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("movbe")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("sse4.2")
        && ring3_host::machine::fsgsbase()
}
