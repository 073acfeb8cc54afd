//! The processor's run loop: find a block, execute it, deal with what stopped it.

use crate::block::{Block, Blocks};
use crate::core::Attention;
use crate::event::{Event, Undeliverable};
use crate::op::Op;
use crate::state::{DR6_BD, DR6_BS, DR7_ENABLES, Interruptibility, RIP_SLOT, flags};
use crate::world::{Posted, World};
use crate::{Core, Fault, Features, Step, Stop, Vector};
use iced_x86::Code;
use ring3_host::addr::GuestPhys;
use std::sync::atomic::{AtomicU32, Ordering};

/// Why the processor stopped running guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The kick word is not zero.
    Kicked,
    /// The world holds an exit for its client.
    Paused,
    /// HLT retired.
    Halted,
    TripleFault,
    /// An external interrupt could be delivered now, and the caller asked to be told.
    InterruptWindow,
    NmiWindow,
    /// RSM retired: what had to wait for that can be delivered.
    Resumed,
    /// The meter's alarm was due.
    Metered,
    /// A debug event that the client wants: the exception vector and DR6's bits; nothing was delivered.
    Debug {
        vector: u8,
        dr6: u64,
    },
    /// Both: the client's single step was over a HLT.
    HaltedAtStep {
        dr6: u64,
    },
    /// An instruction locked the bus, and the caller asked to be told; see [`Core::locked_bus`].
    BusLock,
    /// The delivery of an event raises others without end.
    Endless,
    /// An event's tables or stack are no memory.
    Undeliverable(Undeliverable),
    /// The instruction at RIP is beyond this processor's abilities.
    Unsupported,
    /// Guest memory could not be reached by the host, in this page.
    LostMemory(GuestPhys),
}

pub struct Cpu {
    pub core: Core,
    blocks: Blocks,
}

/// How the execution of a block ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ended {
    /// At its end, or early because something wants attention. RIP is right.
    Retired,
    /// By a stop of the operation at RIP.
    Stopped(Stop),
}

/// What there was in an instruction's place, and whether that leaves the processor.
enum Instead {
    /// Code to be decoded: nothing was executed.
    Looking(Option<Leave>),
    /// The delivery of an event.
    Event(Option<Leave>),
}

/// Something faster than this interpreter, for the blocks that it takes.
pub trait Tier {
    /// Executes guest code from the block at RIP on, or nothing: `None` leaves the block to the interpreter. What ends it
    /// ends here as in the interpreter, with all state where the interpreter has it. `kick` is to be looked at before
    /// any code is executed for an unbounded number of times.
    fn enter(
        &mut self,
        core: &mut Core,
        blocks: &mut Blocks,
        block: u32,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Option<Ended>;
}

/// No other tier.
pub struct Interpreted;

impl Tier for Interpreted {
    #[inline(always)]
    fn enter(
        &mut self,
        _: &mut Core,
        _: &mut Blocks,
        _: u32,
        _: &mut dyn World,
        _: &AtomicU32,
    ) -> Option<Ended> {
        None
    }
}

impl Cpu {
    pub fn new() -> Cpu {
        Cpu {
            core: Core::new(),
            blocks: Blocks::new(),
        }
    }

    /// Runs guest code until there is a reason to leave. The kick word is looked at before each block.
    pub fn run(&mut self, world: &mut dyn World, kick: &AtomicU32) -> Leave {
        self.run_with(&mut Interpreted, world, kick)
    }

    /// As [`Cpu::run`], with blocks offered to another tier first.
    pub fn run_with(&mut self, tier: &mut impl Tier, world: &mut dyn World, kick: &AtomicU32) -> Leave {
        if let Some(leave) = self.open_window() {
            return leave;
        }
        loop {
            if kick.load(Ordering::Acquire) != 0 {
                return Leave::Kicked;
            }
            if let Some(leave) = self.turn(tier, world, kick) {
                return leave;
            }
        }
    }

    /// One turn of [`Cpu::run_with`], whatever the kick word says: a block (or the tier's part), one instruction where they
    /// are to be looked at closely, or the delivery of what kept it from being executed.
    pub fn run_turn(
        &mut self,
        tier: &mut impl Tier,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Option<Leave> {
        self.open_window().or_else(|| self.turn(tier, world, kick))
    }

    #[inline(always)]
    fn turn(&mut self, tier: &mut impl Tier, world: &mut dyn World, kick: &AtomicU32) -> Option<Leave> {
        if !self.core.is_careful() {
            return self.step(tier, world, kick);
        }
        match self.find_carefully(world) {
            Ok(index) => self.careful_step(index, world),
            Err(Instead::Looking(leave) | Instead::Event(leave)) => leave,
        }
    }

    /// Executes one instruction (or one event's delivery), whatever the kick word says. [`Leave::Kicked`] means that
    /// nothing was executed: code had to be decoded first, and what others posted meanwhile comes before it.
    pub fn run_one(&mut self, world: &mut dyn World) -> Option<Leave> {
        match self.find_carefully(world) {
            Ok(index) => self.careful_step(index, world),
            Err(Instead::Looking(leave)) => leave.or(Some(Leave::Kicked)),
            Err(Instead::Event(leave)) => leave,
        }
    }

    /// To be called when code of the client could have run: it may have written to code.
    pub fn client_ran(&mut self) {
        self.core.distrust_code();
    }

    /// Another processor wrote to translated code in the page of `gpa`.
    pub fn drop_code(&mut self, gpa: GuestPhys) {
        self.blocks.drop_page(gpa);
        self.core.resync();
    }

    /// The guest's CPUID changed: what was decoded by the old one goes.
    pub fn set_features(&mut self, features: Features) {
        if self.core.features != features {
            self.core.features = features;
            self.drop_all_code();
        }
    }

    /// Other processors wrote to more translated code than could be told.
    pub fn drop_all_code(&mut self) {
        self.blocks.clear();
        self.core.resync();
    }

    #[inline(always)]
    fn step(&mut self, tier: &mut impl Tier, world: &mut dyn World, kick: &AtomicU32) -> Option<Leave> {
        let core = &mut self.core;
        let ended = match self.blocks.find(core, world) {
            // Whatever the search brought up comes before the block.
            Ok(_) if core.attention.0 != 0 => Ended::Stopped(Stop::Again),
            Ok(index) => match tier.enter(core, &mut self.blocks, index, world, kick) {
                Some(ended) => ended,
                None => interpret(core, self.blocks.get(index), world),
            },
            Err(stop) => Ended::Stopped(stop),
        };
        if matches!(ended, Ended::Retired) && core.attention.0 == 0 {
            return None;
        }
        self.settle(ended, world)
    }

    /// The block at RIP, after its breakpoints; `Err` if something came before it.
    #[cold]
    fn find_carefully(&mut self, world: &mut dyn World) -> Result<u32, Instead> {
        let core = &mut self.core;
        if !core.state.flags.has(flags::RF) && !core.state.interruptibility.mov_ss_shadow {
            let hits = core.code_breakpoints();
            if hits != 0 {
                return Err(Instead::Event(self.debug_exception(hits, world)));
            }
        }
        match self.blocks.find(core, world) {
            Ok(index) if core.attention.0 == 0 => Ok(index),
            Ok(_) => Err(Instead::Looking(self.settle(Ended::Stopped(Stop::Again), world))),
            Err(stop) => Err(Instead::Event(
                self.settle(Ended::Stopped(stop), world)
                    .or_else(|| self.open_window()),
            )),
        }
    }

    /// The first instruction of a block, with everything that is looked at only rarely: single step, shadows.
    #[cold]
    fn careful_step(&mut self, index: u32, world: &mut dyn World) -> Option<Leave> {
        let core = &mut self.core;
        let before = core.state.interruptibility;
        let trapping = core.state.flags.has(flags::TF);
        let resume = core.state.flags.has(flags::RF);
        core.state.interruptibility = Interruptibility {
            nmi_blocked: before.nmi_blocked,
            ..Default::default()
        };
        core.state.flags.system &= !flags::RF;
        let block = self.blocks.get(index);
        let untrapped = block.ops.first().is_some_and(has_own_trap_rule);
        let stepping = core.debug.single_step || trapping && !untrapped;
        let ended = if core.fits_segment(block.ops.first().map_or(0, |op| op.next)) {
            execute(core, block, world, 1)
        } else {
            Ended::Stopped(Fault::GP0.into())
        };
        if let Ended::Stopped(stop) = ended {
            if resume && !matches!(stop, Stop::Again) {
                core.state.flags.system |= flags::RF;
            }
            if matches!(stop, Stop::Pause | Stop::Undeliverable) {
                core.state.interruptibility = before;
            }
        }
        let progressed = matches!(ended, Ended::Retired | Ended::Stopped(Stop::Again));
        if core.state.interruptibility.mov_ss_shadow {
            // A load of SS holds back every debug trap; the single-step one is lost, the others wait.
            core.attention.0 &= !Attention::DEBUG;
        } else if progressed {
            if stepping {
                core.debug_status |= DR6_BS;
            }
            if core.debug_status != 0 {
                core.attention.0 |= Attention::DEBUG;
            }
        }
        self.settle(ended, world).or_else(|| self.open_window())
    }

    /// Deals with what ended a block, and with what its operations asked for.
    fn settle(&mut self, ended: Ended, world: &mut dyn World) -> Option<Leave> {
        let core = &mut self.core;
        let attention = std::mem::take(&mut core.attention);
        let has = |bit| attention.0 & bit != 0;
        if !core.stale_code.is_empty() {
            for gpa in std::mem::take(&mut core.stale_code) {
                self.blocks.drop_page(gpa);
            }
        }
        let paused = matches!(ended, Ended::Stopped(Stop::Pause));
        let mut posted = has(Attention::POSTED);
        if (posted || has(Attention::RETIRED)) && !paused {
            posted |= world.retired(core.attended) == Posted::Pause;
        }
        let mut leave = match ended {
            Ended::Retired | Ended::Stopped(Stop::Again) => None,
            Ended::Stopped(stop) => self.stopped(stop, world),
        };
        let progressed = matches!(ended, Ended::Retired | Ended::Stopped(Stop::Again));
        let trapped = has(Attention::DEBUG) && progressed && leave.is_none();
        if trapped {
            let hits = std::mem::take(&mut self.core.debug_status);
            leave = self.debug_exception(hits, world);
        }
        if posted {
            return Some(leave.unwrap_or(Leave::Paused));
        }
        if has(Attention::HALT) {
            match leave {
                // The trap after a HLT ends it at once.
                None if trapped => {}
                None => return Some(Leave::Halted),
                Some(Leave::Debug { dr6, .. }) => return Some(Leave::HaltedAtStep { dr6 }),
                Some(_) => {}
            }
        }
        if has(Attention::BUS_LOCK) {
            return Some(leave.unwrap_or(Leave::BusLock));
        }
        if has(Attention::RESUMED) && leave.is_none() {
            return Some(Leave::Resumed);
        }
        if has(Attention::METERED) && leave.is_none() {
            return Some(Leave::Metered);
        }
        if has(Attention::WINDOW) && leave.is_none() {
            return self.open_window();
        }
        leave
    }

    fn stopped(&mut self, stop: Stop, world: &mut dyn World) -> Option<Leave> {
        match stop {
            Stop::Fault(fault) => {
                if fault.vector == Vector::DB {
                    let hits = std::mem::take(&mut self.core.debug_status);
                    return self.debug_exception(hits, world);
                }
                // What the instruction hit on its way counts only once it retires.
                self.core.debug_status = 0;
                let raised = self.core.raise(fault, world);
                self.delivered(raised)
            }
            other => self.delivered(Err(other)),
        }
    }

    /// What a delivery's outcome means to the run loop.
    fn delivered(&mut self, outcome: Step) -> Option<Leave> {
        match outcome {
            Ok(()) | Err(Stop::Again) => None,
            Err(Stop::Pause) => Some(Leave::Paused),
            Err(Stop::LostMemory) => Some(Leave::LostMemory(self.core.lost_memory)),
            Err(Stop::TripleFault) => Some(Leave::TripleFault),
            Err(Stop::Endless) => Some(Leave::Endless),
            Err(Stop::Undeliverable) => Some(Leave::Undeliverable(self.core.undeliverable)),
            Err(Stop::Intercepted(vector)) => Some(Leave::Debug { vector, dr6: 0 }),
            // A fault during delivery was turned into #DF or shutdown already.
            Err(Stop::Unsupported | Stop::Fault(_)) => Some(Leave::Unsupported),
        }
    }

    /// #DB with these DR6 bits, to the client if it wants it, else to the guest.
    fn debug_exception(&mut self, hits: u64, world: &mut dyn World) -> Option<Leave> {
        let core = &mut self.core;
        let stepped_by_client = core.debug.single_step && hits & DR6_BS != 0;
        let watched_by_client = core.debug.hardware.is_some() && hits & 0xf != 0;
        if core.debug.intercept_db || stepped_by_client || watched_by_client {
            return Some(Leave::Debug {
                vector: Vector::DB as u8,
                dr6: hits,
            });
        }
        if hits & DR6_BD != 0 {
            // The one debug exception that is a fault and returns with RF set; for breakpoints that is the handler's.
            core.state.flags.system |= flags::RF;
        }
        core.debug_status = hits;
        let raised = core.raise(Fault::plain(Vector::DB), world);
        self.delivered(raised)
    }

    /// Whether an event that the caller waits for could be delivered at this boundary.
    fn open_window(&mut self) -> Option<Leave> {
        let core = &self.core;
        if core.windows.nmi && core.accepts_nmi() {
            return Some(Leave::NmiWindow);
        }
        if core.windows.interrupt && core.accepts_interrupts() {
            return Some(Leave::InterruptWindow);
        }
        None
    }

    /// Delivers an interrupt or exception at the current instruction boundary.
    pub fn deliver(&mut self, event: Event, world: &mut dyn World) -> Option<Leave> {
        let outcome = self.core.deliver(event, world);
        self.delivered(outcome)
    }
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu::new()
    }
}

impl Core {
    /// Whether the next instruction needs the careful way.
    #[inline(always)]
    pub fn is_careful(&self) -> bool {
        let shadows = self.state.interruptibility;
        self.state.flags.system & (flags::TF | flags::RF) != 0
            || shadows.sti_shadow
            || shadows.mov_ss_shadow
            || self.debug.single_step
            || self.debug.hardware.is_some()
            || self.state.dr7 & DR7_ENABLES != 0
    }

    /// Whether RFLAGS.IF and the shadows let an external interrupt in.
    pub fn accepts_interrupts(&self) -> bool {
        let shadows = self.state.interruptibility;
        self.state.flags.has(flags::IF) && !shadows.sti_shadow && !shadows.mov_ss_shadow
    }

    pub fn accepts_nmi(&self) -> bool {
        let shadows = self.state.interruptibility;
        !shadows.nmi_blocked && !shadows.mov_ss_shadow && !shadows.sti_shadow
    }

    /// The linear address of the instruction at RIP.
    #[inline(always)]
    pub fn code_address(&self) -> u64 {
        if self.mode.code_bits == 64 {
            self.state.rip
        } else {
            self.state.seg[crate::state::CS].base.wrapping_add(self.state.rip) & 0xffff_ffff
        }
    }

    /// Whether `len` bytes at RIP lie inside the code segment.
    #[inline(always)]
    fn fits_segment(&self, len: u16) -> bool {
        self.mode.code_bits == 64
            || self.state.rip + u64::from(len.max(1)) - 1 <= u64::from(self.state.seg[crate::state::CS].limit)
    }

    fn code_breakpoints(&self) -> u64 {
        let (addresses, control) = self.debug_registers();
        if control & DR7_ENABLES == 0 {
            return 0;
        }
        let linear = self.code_address();
        (0..4)
            .filter(|n| {
                let enabled = control >> (2 * n) & 3 != 0;
                let execute = control >> (16 + 4 * n) & 3 == 0;
                enabled && execute && addresses[*n] == linear
            })
            .fold(0, |hits, n| hits | 1 << n)
    }

    /// RIP as the mode has it. Only branches cut EIP to 16 bits: code in a 16-bit segment may go on beyond 64 KiB, if the segment
    /// does (as that of system management mode).
    #[inline(always)]
    pub(crate) fn mask_rip(&self, rip: u64) -> u64 {
        match self.mode.code_bits {
            64 => rip,
            _ => rip & 0xffff_ffff,
        }
    }
}

/// Whether TF before an instruction does not mean a trap after it. Delivering a software interrupt clears TF before the trap
/// would be taken; SYSCALL and SYSRET look at the TF that they leave.
fn has_own_trap_rule(op: &Op) -> bool {
    matches!(
        op.code(),
        Code::Int3 | Code::Int_imm8 | Code::Into | Code::Int1 | Code::Syscall | Code::Sysretd | Code::Sysretq
    )
}

/// Executes a whole block.
#[inline(always)]
fn interpret(core: &mut Core, block: &Block, world: &mut dyn World) -> Ended {
    if core.fits_segment(block.len) {
        execute(core, block, world, usize::MAX)
    } else {
        execute_to_limit(core, block, world)
    }
}

/// Executes at most `limit` operations of a block.
#[inline(always)]
fn execute(core: &mut Core, block: &Block, world: &mut dyn World, limit: usize) -> Ended {
    if core.state.meter.on {
        return execute_metered(core, block, world, limit);
    }
    let base = core.state.rip;
    core.state.gpr[usize::from(RIP_SLOT)] = base;
    let count = block.ops.len().min(limit);
    for (done, op) in block.ops[..count].iter().enumerate() {
        match (op.run)(core, op, world) {
            Ok(()) => {
                if core.attention.0 != 0 {
                    core.attended = core.mask_rip(base.wrapping_add(u64::from(op.start)));
                    if done + 1 < block.ops.len() || !block.branches {
                        core.state.rip = core.mask_rip(base.wrapping_add(u64::from(op.next)));
                    }
                    core.instructions += done as u64 + 1;
                    return Ended::Retired;
                }
            }
            Err(stop) => {
                core.state.rip = core.mask_rip(base.wrapping_add(u64::from(op.start)));
                core.instructions += done as u64;
                return Ended::Stopped(stop);
            }
        }
    }
    if count < block.ops.len() || !block.branches {
        let next = block.ops[..count].last().map_or(0, |op| op.next);
        core.state.rip = core.mask_rip(base.wrapping_add(u64::from(next)));
    }
    core.instructions += count as u64;
    Ended::Retired
}

/// As [`execute`], with the meter running.
#[inline(never)]
fn execute_metered(core: &mut Core, block: &Block, world: &mut dyn World, limit: usize) -> Ended {
    let base = core.state.rip;
    core.state.gpr[usize::from(RIP_SLOT)] = base;
    let count = block.ops.len().min(limit);
    let mut ended = Ended::Retired;
    for (done, op) in block.ops[..count].iter().enumerate() {
        let last = done + 1 == block.ops.len();
        let branches = u64::from(last && block.branches);
        let cpl = core.mode.cpl;
        let retired = core.state.meter.at(cpl);
        let before = *retired;
        retired.instructions += 1;
        retired.branches += branches;
        let outcome = (op.run)(core, op, world);
        core.instructions += 1;
        let next = if outcome.is_ok() { op.next } else { op.start };
        if outcome.is_err() || branches == 0 {
            core.state.rip = core.mask_rip(base.wrapping_add(u64::from(next)));
        }
        if let Err(stop) = outcome {
            core.instructions -= 1;
            *core.state.meter.at(cpl) = before;
            ended = Ended::Stopped(stop);
            break;
        }
        if core.attention.0 != 0 {
            core.attended = core.mask_rip(base.wrapping_add(u64::from(op.start)));
            break;
        }
    }
    if core.state.meter.is_due() {
        core.attention.0 |= Attention::METERED;
    }
    ended
}

/// Executes the part of a block that lies inside the code segment.
#[cold]
fn execute_to_limit(core: &mut Core, block: &Block, world: &mut dyn World) -> Ended {
    let fitting = block
        .ops
        .iter()
        .take_while(|op| core.fits_segment(op.next))
        .count();
    if fitting == 0 {
        return Ended::Stopped(Fault::GP0.into());
    }
    execute(core, block, world, fitting)
}
