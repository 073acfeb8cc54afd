//! Operations that translated code has the interpreter's handlers do, and what may follow them without a way out.

use crate::Setting;
use crate::context::{EXIT_ENDED, Jumps, forget_pages, from_aside, to_aside, word};
use crate::flat;
use crate::x87;
use ring3_host::addr::GuestPhys;
use ring3_x86_cpu::core::Attention;
use ring3_x86_cpu::op::Op;
use ring3_x86_cpu::state::{FS, GS, RIP_SLOT};
use ring3_x86_cpu::{Core, Ended, Step, Stop, World};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What translated code does next.
const GO_ON: u32 = 0;
const LEAVE: u32 = 1;
/// Goes to the translation that the entry word names.
pub const GO_TO: u32 = 2;

/// What an operation can do to what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// It sets RIP.
    Branches,
    /// It may change how the next instruction is executed.
    Changes,
    /// The same, and the translation minds the shadow of an STI.
    MayShadow,
}

/// A callout: the operation, where its block runs, and what it can do.
pub(crate) struct Site {
    pub op: Op,
    pub base: u64,
    pub kind: Kind,
    /// The instruction's guest-physical address, if a group begins with its access.
    pub leads: Option<GuestPhys>,
}

/// Tells when the slow ways of groups' first accesses take so much of the time that it were better without the groups.
#[derive(Default)]
pub(crate) struct Misses {
    since: Option<Instant>,
    count: u32,
}

impl Misses {
    /// So many in so short a time are a tenth of it at least: each leaves translated code.
    const MANY: u32 = 64;
    const SOON: Duration = Duration::from_micros(250);

    /// Whether this one is too much.
    fn one_more(&mut self) -> bool {
        self.count += 1;
        if self.count < Misses::MANY {
            return false;
        }
        self.count = 0;
        let before = self.since.replace(Instant::now());
        before.is_some_and(|before| before.elapsed() < Misses::SOON)
    }
}

/// What a stay in translated code needs besides the core.
pub(crate) struct Stay<'a> {
    pub world: &'a mut dyn World,
    pub sites: &'a [Site],
    pub jumps: &'a Jumps,
    pub kick: &'a AtomicU32,
    pub setting: Setting,
    /// What the jump cache holds for.
    pub epochs: (u64, u64),
    /// How an operation that was called ended the stay, if one did.
    pub ended: Option<Ended>,
    pub misses: &'a mut Misses,
    /// An instruction that no group is to begin with any more.
    pub apart: Option<GuestPhys>,
    /// Operations that were called.
    pub callouts: u64,
}

/// Executes the operation of a site as the interpreter does; tells what comes next.
pub extern "C" fn callout(core: *mut Core, site: u32) -> u32 {
    // SAFETY: translated code calls this with the core that `Jit::run` entered it with, whose word is that stay.
    let (core, stay) = unsafe {
        let core = &mut *core;
        let stay = &mut *(core.tier[word::STAY] as *mut Stay<'_>);
        (core, stay)
    };
    let Some(site) = stay.sites.get(site as usize) else {
        core.tier[word::EXIT_KIND] = EXIT_ENDED;
        return LEAVE;
    };
    if site.leads.is_some() && stay.misses.one_more() {
        stay.apart = site.leads;
    }
    stay.callouts += 1;
    x87::show_pointers(core, stay.sites);
    core.state.gpr[usize::from(RIP_SLOT)] = site.base;
    core.state
        .flags
        .set_arithmetic(from_aside(core.tier[word::ASIDE]));
    core.state.rip = site.base;
    let shadows = core.state.interruptibility;
    core.state.interruptibility.sti_shadow = false;
    let table = core.mmu.table_address();
    let done = (site.op.run)(core, &site.op, stay.world);
    if done.is_ok() {
        let next = match site.kind {
            Kind::Plain => (core.attention == Attention::default()).then_some(GO_ON),
            Kind::Branches => goes_to(core, stay),
            Kind::Changes => goes_on(core, stay),
            Kind::MayShadow => {
                let shadow = std::mem::take(&mut core.state.interruptibility.sti_shadow);
                let next = goes_on(core, stay);
                core.state.interruptibility.sti_shadow = shadow;
                next
            }
        };
        if let Some(next) = next {
            prepare(core);
            // Only these may have voided a translation.
            if site.kind == Kind::Changes || core.mmu.table_address() != table {
                forget_pages(&mut core.tier);
            }
            return next;
        }
    } else if matches!(done, Err(Stop::Pause | Stop::Undeliverable)) {
        core.state.interruptibility = shadows;
    }
    stay.ended = Some(end(core, site, done));
    core.tier[word::EXIT_KIND] = EXIT_ENDED;
    LEAVE
}

/// How the operation ends the stay.
fn end(core: &mut Core, site: &Site, done: Step) -> Ended {
    match done {
        Ok(()) => {
            core.attended = site.base.wrapping_add(u64::from(site.op.start));
            if site.kind != Kind::Branches {
                core.state.rip = site.base.wrapping_add(u64::from(site.op.next));
            }
            Ended::Retired
        }
        Err(stop) => {
            core.state.rip = site.base.wrapping_add(u64::from(site.op.start));
            Ended::Stopped(stop)
        }
    }
}

/// Has the words say what the processor's state is, which an operation may have changed.
pub(crate) fn prepare(core: &mut Core) {
    let words = &mut core.tier;
    words[word::ASIDE] = to_aside(core.state.flags.arithmetic());
    words[word::TABLE] = core.mmu.table_address();
    let bases = if core.mode.code_bits == 64 {
        [FS, GS].map(|seg| core.state.seg[seg].base)
    } else {
        [FS, GS].map(|seg| flat::base(&core.state.seg[seg]))
    };
    [words[word::FS_BASE], words[word::GS_BASE]] = bases;
}

/// Whether nothing but these wants attention, and no instruction needs care; then they have it.
fn is_calm(core: &mut Core, stay: &Stay<'_>, but: u32) -> bool {
    let mut ignored = but;
    if !core.windows.interrupt && !core.windows.nmi {
        ignored |= Attention::WINDOW;
    }
    let calm = core.attention.0 & !ignored == 0
        && stay.epochs == (core.epoch, core.global_epoch)
        && core.stale_code.is_empty()
        && !core.is_careful();
    if calm {
        core.attention.0 = 0;
    }
    calm
}

/// Whether the next instruction's translation can follow.
fn goes_on(core: &mut Core, stay: &Stay<'_>) -> Option<u32> {
    (Setting::of(core) == Some(stay.setting) && is_calm(core, stay, 0)).then_some(GO_ON)
}

/// Whether there is a translation where the operation led.
fn goes_to(core: &mut Core, stay: &mut Stay<'_>) -> Option<u32> {
    let setting = Setting::of(core)?;
    if setting.level != stay.setting.level || stay.kick.load(Ordering::Relaxed) != 0 {
        return None;
    }
    let code = stay.jumps.find(setting, core.state.rip)?;
    // What changes of mode ask for is done here.
    if !is_calm(core, stay, Attention::RESYNC) {
        return None;
    }
    stay.setting = setting;
    core.tier[word::JUMPS_AT] = stay.jumps.cache(setting);
    core.tier[word::ENTRY] = code;
    Some(GO_TO)
}
