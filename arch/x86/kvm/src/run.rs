//! KVM_RUN: from the client's last answer to the next exit.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ring3_host::addr::GuestPhys;
use ring3_host::time::{host_tsc, tsc_khz};
use ring3_kvm::Errno;
use ring3_kvm::stats::rows;
use ring3_kvm::vcpu::{KickBits, Polling, Request};
use ring3_uapi::x86::{KVM_RUN_X86_BUS_LOCK, KVM_X86_NOTIFY_VMEXIT_USER};
use ring3_uapi::*;
use ring3_x86_cpu::Leave;
use ring3_x86_jit::Engine;

use crate::exit::{self, Exit};
use crate::inject::{self, Injected};
use crate::steal::{self, TlbFlush};
use crate::vcpu::{CLOCK_UPDATE, PMU_UPDATE, VcpuState, X86Vcpu, init, startup};
use crate::world::{Machine, memory_fault};
use crate::{apic, async_pf, pmu, pv_eoi, run_page, stats, vapic};

/// What one turn of the loop came to.
enum Turn {
    Again,
    /// An exit is queued for the client.
    Exit,
}

pub fn run(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState) -> Result<(), Errno> {
    if s.unit.mp_state != KVM_MP_STATE_UNINITIALIZED {
        run_page::load(vcpu, s)?;
    }
    s.unit.steal.entered();
    let result = enter(vcpu, s);
    s.unit.steal.left();
    run_page::save(vcpu, s);
    if result == Err(Errno::EINTR) && vcpu.seat().kick().contains(KickBits::SIGNAL) {
        vcpu.stats().at(stats::SIGNAL_EXITS).add(1);
    }
    result
}

fn enter(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState) -> Result<(), Errno> {
    let page = vcpu.pages();
    if s.unit.mp_state == KVM_MP_STATE_UNINITIALIZED {
        return wait_for_start(vcpu, s);
    }
    s.unit.io.complete(page);
    s.cpu.client_ran();
    // The instruction that waits for an answer is executed even on the way out: the answer must not be lost.
    if s.unit.io.answered() && finish_instruction(vcpu, s) {
        return Ok(());
    }
    if s.unit.io.show(page) {
        return Ok(());
    }
    if vcpu.immediate_exit() {
        return Err(Errno::EINTR);
    }
    // Nothing could start it: the client put it in a state that there is not.
    if s.unit.mp_state == KVM_MP_STATE_INIT_RECEIVED && s.cpu.core.state.smm.active {
        return Err(Errno::EINVAL);
    }
    loop {
        match turn(vcpu, s)? {
            Turn::Again => {}
            Turn::Exit => {
                s.unit.io.show(page);
                return Ok(());
            }
        }
    }
}

/// An application processor that was never started: KVM_RUN sleeps until it is, then tells the client to call again.
fn wait_for_start(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState) -> Result<(), Errno> {
    if vcpu.immediate_exit() {
        return Err(Errno::EINTR);
    }
    loop {
        let kick = vcpu.seat().kick().take();
        if kick.contains(KickBits::SIGNAL) {
            return Err(Errno::EINTR);
        }
        serve_requests(vcpu, s)?;
        accept_apic_events(vcpu, s);
        if s.unit.mp_state != KVM_MP_STATE_UNINITIALIZED {
            return Err(Errno::EAGAIN);
        }
        vcpu.halt(None, Polling::Allowed);
    }
}

/// Executes the one instruction whose answer the client just gave. True if that needs the client again.
fn finish_instruction(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState) -> bool {
    s.unit.io.rewind();
    let place = s.cpu.core.state.rip;
    let leave = loop {
        // What is posted meanwhile is served first; a signal must wait until the instruction is complete.
        let seat = vcpu.seat();
        seat.kick().take();
        if serve_requests(vcpu, s).is_err() {
            return false;
        }
        let Some(_guest) = seat.enter_guest_to_complete() else {
            continue;
        };
        let mut machine = Machine {
            vcpu,
            unit: &mut s.unit,
        };
        match s.cpu.run_one(&mut machine) {
            Some(Leave::Kicked) => {}
            leave => break leave,
        }
    };
    if s.cpu.core.state.rip != place {
        s.unit.io.end_port_string();
    }
    // Events that were posted are looked at before the guest runs on.
    vcpu.seat().event();
    match leave {
        None => false,
        Some(leave) => matches!(handle(vcpu, s, leave), Ok(Turn::Exit)) && s.unit.io.show(vcpu.pages()),
    }
}

fn turn(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState) -> Result<Turn, Errno> {
    let kick = vcpu.seat().kick().take();
    if kick.contains(KickBits::SIGNAL) {
        return Err(Errno::EINTR);
    }
    if kick.contains(KickBits::EVENT) {
        vcpu.stats().at(stats::REQ_EVENT).add(1);
    }
    serve_requests(vcpu, s)?;
    accept_apic_events(vcpu, s);
    if s.unit.async_pf.is_due() {
        async_pf::look(vcpu, s);
    }
    if s.unit.mp_state != KVM_MP_STATE_RUNNABLE || s.unit.async_pf.halted {
        if !wakes(vcpu, s) {
            steal::going(vcpu, &mut s.unit);
            vcpu.halt(None, steal::polling(&s.unit));
            return Ok(Turn::Again);
        }
        vcpu.shared().posted.take_unhalted();
        s.unit.mp_state = KVM_MP_STATE_RUNNABLE;
        s.unit.async_pf.halted = false;
    }
    if vcpu.dirty_ring_full() {
        return Ok(queue(s, Exit::DirtyRingFull));
    }
    let Some(guest) = vcpu.seat().enter_guest() else {
        return Ok(Turn::Again);
    };
    s.unit.ran = true;
    if s.unit.steal.is_due() && steal::back(vcpu, &mut s.unit) == TlbFlush::Asked {
        flush_tlb(vcpu, s);
    }
    s.unit.io.rewind();
    let leave = match inject::inject(vcpu, s) {
        Injected::Ready => {
            let mut machine = Machine {
                vcpu,
                unit: &mut s.unit,
            };
            pv_eoi::offer(vcpu, machine.unit);
            vapic::offer(vcpu, machine.unit);
            let before = (s.cpu.core.instructions, host_tsc());
            let leave = s
                .cpu
                .run_with(&mut s.engine, &mut machine, vcpu.seat().kick().word());
            pv_eoi::collect(vcpu, &mut s.unit);
            vapic::withdraw(vcpu, &mut s.unit);
            let after = (s.cpu.core.instructions, host_tsc());
            account(vcpu, before, after, &s.engine);
            leave
        }
        Injected::Left(leave) => leave,
        Injected::Exit(exit) => {
            s.unit.io.queue(exit);
            Leave::Paused
        }
    };
    drop(guest);
    handle(vcpu, s, leave)
}

/// Counts a stay in guest mode, from one pair of instructions and ticks to another.
fn account(vcpu: &X86Vcpu, before: (u64, u64), after: (u64, u64), engine: &Engine) {
    let stats = vcpu.stats();
    stats
        .at(rows::GUEST_INSTRUCTIONS)
        .add(after.0.wrapping_sub(before.0));
    let ticks = u128::from(after.1.wrapping_sub(before.1));
    stats
        .at(rows::GUEST_NS)
        .add((ticks * 1_000_000 / u128::from(tsc_khz())) as u64);
    stats.exits.add(1);
    stats.at(stats::EXITS).add(1);
    let made = engine.made();
    stats
        .at(rows::COUNTS_INSTRUCTIONS)
        .set(engine.counts_all().into());
    stats.at(rows::TRANSLATIONS).set(made.translations);
    stats.at(rows::TRANSLATED_BYTES).set(made.bytes);
}

fn handle(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState, leave: Leave) -> Result<Turn, Errno> {
    let locked_bus = std::mem::take(&mut s.cpu.core.locked_bus);
    let turn = handle_leave(vcpu, s, leave)?;
    if !locked_bus {
        return Ok(turn);
    }
    s.unit.run_flags |= KVM_RUN_X86_BUS_LOCK;
    Ok(match turn {
        Turn::Again => queue(s, Exit::BusLock),
        Turn::Exit => turn,
    })
}

fn handle_leave(vcpu: &Arc<X86Vcpu>, s: &mut VcpuState, leave: Leave) -> Result<Turn, Errno> {
    if let Some(page) = s.unit.async_pf.take_wanted() {
        async_pf::fetch(vcpu, s, page);
        return Ok(Turn::Again);
    }
    match leave {
        Leave::Kicked | Leave::BusLock | Leave::Resumed => Ok(Turn::Again),
        Leave::NmiWindow => {
            vcpu.stats().at(stats::NMI_WINDOW_EXITS).add(1);
            Ok(Turn::Again)
        }
        Leave::InterruptWindow => Ok(interrupt_window(vcpu, s)),
        Leave::Metered => {
            pmu::update(vcpu, &mut s.unit.pmu, &mut s.cpu.core.state.meter);
            Ok(Turn::Again)
        }
        Leave::Paused => Ok(Turn::Exit),
        Leave::Halted => Ok(halted(vcpu, s)),
        Leave::TripleFault => Ok(queue(s, Exit::Shutdown)),
        Leave::Debug { vector, dr6 } => Ok(debug(s, vector, dr6)),
        // Without an interrupt controller of ours the client learns of the HLT only; else it learns of the step, and the
        // processor halts all the same.
        Leave::HaltedAtStep { dr6 } => Ok(match halted(vcpu, s) {
            Turn::Exit => Turn::Exit,
            Turn::Again => debug(s, ring3_x86_cpu::Vector::DB as u8, dr6),
        }),
        Leave::Unsupported => Ok(unsupported(vcpu, s)),
        Leave::Endless => {
            let flags = vcpu.vm().arch().settings.notify_vmexit.load(Relaxed);
            Ok(if flags & KVM_X86_NOTIFY_VMEXIT_USER != 0 {
                queue(s, Exit::Notify)
            } else {
                Turn::Again
            })
        }
        Leave::Undeliverable(event) => Ok(queue(s, Exit::DeliveryFailure(event))),
        Leave::LostMemory(gpa) => {
            if let Some(fault) = memory_fault(vcpu, &mut s.unit, gpa) {
                exit::memory_fault(vcpu.pages(), &fault);
            }
            Err(Errno::EFAULT)
        }
    }
}

fn queue(s: &mut VcpuState, exit: Exit) -> Turn {
    s.unit.io.queue(exit);
    Turn::Exit
}

/// A debug exception that the client wants.
fn debug(s: &mut VcpuState, vector: u8, dr6: u64) -> Turn {
    let (_, dr7) = s.cpu.core.debug_registers();
    let exit = Exit::Debug {
        exception: vector.into(),
        pc: s.cpu.core.code_address(),
        dr6: dr6 | ring3_x86_cpu::state::DR6_FIXED,
        dr7,
    };
    queue(s, exit)
}

/// HLT: ours to sleep on if the local APIC is ours, otherwise the client's.
fn halted(vcpu: &X86Vcpu, s: &mut VcpuState) -> Turn {
    vcpu.stats().at(stats::HALT_EXITS).add(1);
    if !apic::in_kernel(vcpu) {
        return queue(s, Exit::Halt);
    }
    s.unit.mp_state = KVM_MP_STATE_HALTED;
    if s.unit.io.is_empty() {
        Turn::Again
    } else {
        Turn::Exit
    }
}

fn interrupt_window(vcpu: &X86Vcpu, s: &mut VcpuState) -> Turn {
    vcpu.stats().at(stats::IRQ_WINDOW_EXITS).add(1);
    if run_page::wants_window(vcpu) && inject::ready_for_client(vcpu, s) {
        vcpu.stats().at(stats::REQUEST_IRQ_EXITS).add(1);
        return queue(s, Exit::InterruptWindow);
    }
    Turn::Again
}

/// As in Linux, a program of the guest's gets #UD, unless the client asked to hear of each such failure.
fn unsupported(vcpu: &X86Vcpu, s: &mut VcpuState) -> Turn {
    let settings = &vcpu.vm().arch().settings;
    if s.cpu.core.state.cpl() == 0 || settings.exit_on_emulation_failure.load(Relaxed) {
        let failure = emulation_failure(vcpu, s);
        return queue(s, failure);
    }
    s.unit
        .events
        .queue_exception(ring3_x86_cpu::Vector::UD as u8, None);
    Turn::Again
}

/// The failing instruction's bytes, as far as they can be read.
fn emulation_failure(vcpu: &X86Vcpu, s: &mut VcpuState) -> Exit {
    vcpu.stats().at(stats::INSN_EMULATION_FAIL).add(1);
    let mut bytes = [0; 15];
    let mut len = 0;
    let address = s.cpu.core.code_address();
    let mut machine = Machine {
        vcpu,
        unit: &mut s.unit,
    };
    for (i, byte) in bytes.iter_mut().enumerate() {
        let linear = address.wrapping_add(i as u64);
        let Some(gpa) = s.cpu.core.translate(&mut machine, linear) else {
            break;
        };
        let mut one = [0];
        if machine.unit.read_guest(vcpu, gpa, &mut one).is_err() {
            break;
        }
        *byte = one[0];
        len = i as u8 + 1;
    }
    tracing::warn!(rip = address, bytes = ?&bytes[..usize::from(len)], "instruction not supported");
    Exit::EmulationFailure { bytes, len }
}

fn flush_tlb(vcpu: &X86Vcpu, s: &mut VcpuState) {
    vcpu.stats().at(stats::TLB_FLUSH).add(1);
    s.cpu.core.flush_tlb();
}

fn serve_requests(vcpu: &X86Vcpu, s: &mut VcpuState) -> Result<(), Errno> {
    let seat = vcpu.seat();
    if !seat.has_requests() {
        return Ok(());
    }
    let requests = seat.take_requests();
    if requests.contains(Request::DEAD) {
        return Err(Errno::EIO);
    }
    if requests.contains(Request::TLB_FLUSH) || requests.contains(Request::SLOTS_CHANGED) {
        flush_tlb(vcpu, s);
    }
    if requests.contains(Request::PAGES) {
        let notices = seat.take_notices();
        if notices.everything {
            s.cpu.drop_all_code();
            s.cpu.core.mmu.protect_all();
        }
        for gfn in &notices.code_dropped {
            s.cpu.drop_code(GuestPhys(*gfn << 12));
        }
        for gfn in &notices.write_revoked {
            s.cpu.core.mmu.protect(GuestPhys(*gfn << 12));
        }
    }
    if requests.contains(PMU_UPDATE) {
        pmu::refilter(vcpu, s);
    }
    if requests.contains(CLOCK_UPDATE) {
        let tsc = s.unit.tsc;
        s.unit.clock.publish(vcpu.vm(), &tsc);
    }
    Ok(())
}

/// SMIs and NMIs that others posted become this vCPU's: of NMIs two at most are remembered, one while one is being handled.
pub fn collect_posted(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let posted = &vcpu.shared().posted;
    s.unit.events.smi_pending |= posted.take_smi();
    let new = posted.take_nmis();
    if new != 0 {
        let blocked = s.cpu.core.state.interruptibility.nmi_blocked;
        let events = &mut s.unit.events;
        let most = if blocked || events.nmi_injected { 1 } else { 2 };
        let all = u32::from(events.nmi_pending).saturating_add(new);
        events.nmi_pending = all.min(most) as u8;
    }
}

/// INIT and STARTUP. In system management mode the one waits, the other is lost.
pub fn accept_apic_events(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let posted = &vcpu.shared().posted;
    if !posted.has_start() || !apic::in_kernel(vcpu) {
        return;
    }
    if s.cpu.core.state.smm.active {
        posted.take_sipi();
        return;
    }
    if posted.take_init() {
        init(vcpu, s);
        let boot = crate::vcpu::is_boot_processor(vcpu.vm(), vcpu.seat().id());
        s.unit.mp_state = if boot {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_INIT_RECEIVED
        };
    }
    if let Some(vector) = posted.take_sipi()
        && s.unit.mp_state == KVM_MP_STATE_INIT_RECEIVED
    {
        startup(s, vector);
        s.unit.mp_state = KVM_MP_STATE_RUNNABLE;
    }
}

/// Whether a vCPU that does not run has a reason to.
fn wakes(vcpu: &X86Vcpu, s: &mut VcpuState) -> bool {
    let halted = matches!(s.unit.mp_state, KVM_MP_STATE_HALTED | KVM_MP_STATE_AP_RESET_HOLD);
    if !halted && !s.unit.async_pf.halted {
        return false;
    }
    collect_posted(vcpu, s);
    let events = &s.unit.events;
    let nmi = events.nmi_injected || (events.nmi_pending != 0 && s.cpu.core.accepts_nmi());
    let smi = events.smi_pending && !s.cpu.core.state.smm.active;
    nmi || smi
        || events.exception_pending.is_some()
        || events.triple_fault
        || vcpu.shared().posted.unhalted()
        || (s.cpu.core.accepts_interrupts() && inject::has_interrupt(vcpu, s))
}
