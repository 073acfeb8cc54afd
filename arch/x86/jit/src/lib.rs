//! The identity translator: guest code becomes host code of the same architecture.
//!
//! A [`Jit`] is a [`Tier`] of `ring3_x86_cpu`'s processor: blocks that were executed a few times are translated, and run until
//! something needs the interpreter or the world. Guest registers and flags are in the host's while translated code runs; memory
//! is reached through the interpreter's software TLB, and whatever is not a plain memory access is done by the
//! interpreter's own handlers, so that both agree on everything rare.
//!
//! * [`translate`](mod@translate): a block to host code; [`liveness`] says where flags matter; [`emit`] writes instructions.
//! * [`context`]: what translated code finds through GS; [`stubs`]: the code around it; [`memory`]: where it lies.
//! * [`fault`]: accesses to memory that the client took away, and divisions that fail.
//!
//! Not supported, and left to the interpreter: code that is not 64-bit, blocks whose only instruction crosses a page. Vector and x87
//! instructions are callouts. Arithmetic flags that nothing reads before they are overwritten are not kept exact where
//! translated code is interrupted.

mod context;
mod emit;
mod fault;
mod liveness;
mod memory;
mod stubs;
mod translate;

use crate::context::{Context, EXIT_LINK, EXIT_LOOKUP, to_lahf};
use crate::memory::CodeMemory;
use crate::stubs::Stubs;
use ring3_x86_cpu::block::Blocks;
use ring3_x86_cpu::core::Attention;
use ring3_x86_cpu::op::Op;
use ring3_x86_cpu::state::{FS, GS, RIP_SLOT};
use ring3_x86_cpu::{Core, Ended, Tier, World};
use std::sync::atomic::{AtomicU32, Ordering};
use translate::Source;

/// How often a block is interpreted before it is translated.
const THRESHOLD: u32 = 12;
/// The heat of a block that cannot be translated.
const NEVER: u32 = u32::MAX;

/// A callout: the operation, where its block runs, and whether it sets RIP.
pub(crate) struct Site {
    op: Op,
    base: u64,
    branches: bool,
}

/// A jump to a block of the same page.
struct Link {
    site: u64,
    target: u64,
    backward: bool,
    user: bool,
}

/// Where a block's translation is, for one linear address and privilege.
#[derive(Clone, Copy)]
struct Translation {
    linear: u64,
    user: bool,
    checked: u64,
    entry: u64,
}

/// What caches were filled by.
#[derive(Clone, Copy, PartialEq)]
struct Validity {
    epoch: u32,
    drops: u32,
}

/// One vCPU's translations.
pub struct Jit {
    context: Box<Context>,
    memory: CodeMemory,
    stubs: Stubs,
    /// Where translations begin.
    first: u64,
    translations: Vec<Translation>,
    sites: Vec<Site>,
    links: Vec<Link>,
    faults: fault::Table,
    valid: Validity,
    clears: u32,
    /// The link by which translated code was left.
    pending: Option<usize>,
}

// SAFETY: the pointers in the context are set for each stay in translated code, and mean nothing outside of it.
unsafe impl Send for Jit {}

impl Jit {
    /// `None` where the host lacks something that translations need.
    pub fn new() -> Option<Jit> {
        if !host_suffices() {
            return None;
        }
        let mut memory = CodeMemory::new().ok()?;
        let (stubs, code) = stubs::write(memory.next(), callout as *const () as u64);
        memory.add(&code)?;
        let faults = fault::Table::register(memory.start(), memory::SIZE)?;
        Some(Jit {
            context: Context::new(),
            first: memory.next(),
            memory,
            stubs,
            translations: Vec::new(),
            sites: Vec::new(),
            links: Vec::new(),
            faults,
            valid: Validity { epoch: 0, drops: 0 },
            clears: 0,
            pending: None,
        })
    }

    /// Forgets every translation.
    fn flush(&mut self) {
        self.memory.truncate(self.first);
        self.translations.clear();
        self.sites.clear();
        self.links.clear();
        self.faults.clear();
        self.context.forget_jumps();
        self.pending = None;
    }

    /// Makes sure that what is remembered still holds.
    #[inline]
    fn revalidate(&mut self, core: &Core, blocks: &Blocks) {
        if self.clears != blocks.clears() {
            self.clears = blocks.clears();
            self.flush();
        }
        let now = Validity {
            epoch: core.epoch,
            drops: blocks.drops(),
        };
        if self.valid != now {
            self.valid = now;
            self.context.forget_jumps();
            self.pending = None;
        }
    }

    /// The translation of a block, made now if it is time.
    fn find(&mut self, core: &Core, blocks: &mut Blocks, index: u32) -> Option<Translation> {
        let linear = core.state.rip;
        let user = core.mode.cpl == 3;
        let block = blocks.get_mut(index);
        let known = block.translated.entries.iter().find_map(|n| {
            let found = *self.translations.get(*n as usize)?;
            (found.linear == linear && found.user == user).then_some(found)
        });
        if known.is_some() || block.translated.heat == NEVER {
            return known;
        }
        block.translated.heat += 1;
        if block.translated.heat < THRESHOLD {
            return None;
        }
        self.translate(core, blocks, index, linear, user)
    }

    #[cold]
    fn translate(
        &mut self,
        core: &Core,
        blocks: &mut Blocks,
        index: u32,
        linear: u64,
        user: bool,
    ) -> Option<Translation> {
        let block = blocks.get(index);
        let made = match blocks.code(block) {
            Some(code) if !block.crosses_page() => {
                let source = Source {
                    linear,
                    user,
                    code,
                    ops: &block.ops,
                    features: core.features,
                };
                let (sites, links) = (self.sites.len() as u32, self.links.len() as u32);
                translate::translate(&source, self.memory.next(), self.stubs, sites, links)
            }
            _ => None,
        };
        let Some(made) = made else {
            blocks.get_mut(index).translated.heat = NEVER;
            return None;
        };
        let Some(base) = self.memory.add(&made.code) else {
            // Full: begin anew. This block's turn comes again.
            blocks.forget_translations();
            self.flush();
            return None;
        };
        for link in made.links {
            self.links.push(Link {
                site: base + u64::from(link.site.0),
                target: link.target,
                backward: link.backward,
                user,
            });
        }
        self.sites.extend(made.sites);
        let offset = (base - self.memory.start()) as u32;
        for (from, to) in made.faults {
            self.faults.add(offset + from.0, offset + to.0);
        }
        let translation = Translation {
            linear,
            user,
            checked: base + u64::from(made.checked.0),
            entry: base + u64::from(made.entry.0),
        };
        self.translations.push(translation);
        let number = self.translations.len() as u32 - 1;
        blocks.get_mut(index).translated.entries.push(number);
        Some(translation)
    }

    /// Makes the jump by which translated code was left a direct one, if it leads here.
    fn link(&mut self, to: &Translation) {
        let Some(link) = self.pending.take().and_then(|n| self.links.get(n)) else {
            return;
        };
        if link.target == to.linear && link.user == to.user {
            let target = if link.backward { to.checked } else { to.entry };
            self.memory.patch(link.site, target);
        }
    }

    /// Runs translated code from `entry` on.
    fn run(&mut self, entry: u64, core: &mut Core, world: &mut dyn World, kick: &AtomicU32) -> Ended {
        let user = core.mode.cpl == 3;
        let context = &mut *self.context;
        context.gpr.copy_from_slice(&core.state.gpr[..16]);
        context.lahf = to_lahf(core.state.flags.arithmetic());
        context.table = core.mmu.table_address();
        context.kick = kick.as_ptr() as u64;
        context.fs_base = core.state.seg[FS].base;
        context.gs_base = core.state.seg[GS].base;
        context.jumps = context.caches[usize::from(user)].as_ptr() as u64;
        context.entry = entry;
        context.count = 0;
        context.sites = self.sites.as_ptr();
        // SAFETY: the pointer outlives its use, which ends with `enter`; only its lifetime is taken off.
        context.world =
            Some(unsafe { std::mem::transmute::<*mut dyn World, *mut (dyn World + 'static)>(world) });
        context.core = core;
        // SAFETY: the stub is a function of this type, and `entry` is a translation in memory that is still there. What
        // it refers to was set just above, and nobody else uses the core, the world or the context meanwhile.
        unsafe {
            let enter: extern "C" fn(*mut Context) = std::mem::transmute(self.stubs.enter as *const ());
            enter(context);
        }
        core.instructions += context.count;
        match context.exit_kind {
            EXIT_LOOKUP => core.state.rip = context.exit,
            EXIT_LINK => {
                let number = context.exit as usize;
                self.pending = Some(number);
                core.state.rip = self.links.get(number).map_or(core.state.rip, |link| link.target);
            }
            _ => return context.ended.take().unwrap_or(Ended::Retired),
        }
        core.state.gpr[..16].copy_from_slice(&context.gpr);
        core.state.flags.set_arithmetic(context.flags);
        Ended::Retired
    }
}

/// The tier of a vCPU: the translator where the host suffices, unless `RING3_ENGINE` says `interpreter`.
pub struct Engine(Option<Box<Jit>>);

impl Engine {
    pub fn new() -> Engine {
        let interpreted = std::env::var_os("RING3_ENGINE").is_some_and(|engine| engine == "interpreter");
        Engine(if interpreted {
            None
        } else {
            Jit::new().map(Box::new)
        })
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
        if core.mode.code_bits != 64 {
            return None;
        }
        self.revalidate(core, blocks);
        let found = self.find(core, blocks, block)?;
        self.link(&found);
        self.context
            .remember_jump(found.user, found.linear, found.checked);
        if kick.load(Ordering::Relaxed) != 0 {
            return Some(Ended::Retired);
        }
        Some(self.run(found.entry, core, world, kick))
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
        && fsgsbase_enabled()
}

/// Whether the kernel lets programs change the GS base themselves.
fn fsgsbase_enabled() -> bool {
    const HWCAP2_FSGSBASE: usize = 2;
    rustix::param::linux_hwcap().1 & HWCAP2_FSGSBASE != 0
}

/// Executes the operation of a site as the interpreter does. Not zero if translated code is to be left.
extern "C" fn callout(context: *mut Context, site: u32) -> u32 {
    // SAFETY: translated code calls this with its own context, in which `Jit::run` put pointers to what it holds.
    let (context, core, site) = unsafe {
        let context = &mut *context;
        let core = &mut *context.core;
        let site = &*context.sites.add(site as usize);
        (context, core, site)
    };
    // SAFETY: as above.
    let Some(world) = context.world.map(|world| unsafe { &mut *world }) else {
        return 1;
    };
    core.state.gpr[..16].copy_from_slice(&context.gpr);
    core.state.gpr[usize::from(RIP_SLOT)] = site.base;
    core.state.flags.set_arithmetic(context.flags);
    core.state.rip = site.base;
    let op = &site.op;
    let ended = match (op.run)(core, op, world) {
        Ok(()) if !site.branches && core.attention == Attention::default() => {
            context.gpr.copy_from_slice(&core.state.gpr[..16]);
            context.lahf = to_lahf(core.state.flags.arithmetic());
            return 0;
        }
        Ok(()) => {
            if !site.branches {
                core.state.rip = site.base.wrapping_add(u64::from(op.next));
            }
            Ended::Retired
        }
        Err(stop) => {
            core.state.rip = site.base.wrapping_add(u64::from(op.start));
            Ended::Stopped(stop)
        }
    };
    context.exit_kind = context::EXIT_ENDED;
    context.ended = Some(ended);
    1
}
