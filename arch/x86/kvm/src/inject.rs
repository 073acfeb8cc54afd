//! Event injection: what is delivered before the guest runs on, and in what order.
//!
//! Half-delivered events come first, then exceptions, SMIs, NMIs and interrupts, each only at a boundary that lets it in;
//! what has to wait asks the processor for a window.

use ring3_x86_cpu::event::Event;
use ring3_x86_cpu::state::Exception;
use ring3_x86_cpu::{Leave, Vector};

use crate::events::Interrupt;
use crate::exit::Exit;
use crate::vcpu::{VcpuState, X86Vcpu};
use crate::world::Machine;
use crate::{apic, controllers, run_page, smm, stats};

/// What injection came to.
pub enum Injected {
    /// The guest can run.
    Ready,
    /// A delivery left the processor.
    Left(Leave),
    Exit(Exit),
}

/// Whether an interrupt controller has something for this vCPU.
pub fn has_interrupt(vcpu: &X86Vcpu, s: &VcpuState) -> bool {
    s.unit.events.interrupt.is_some()
        || (s.unit.external_vector.is_some() && apic::accepts_extint(vcpu))
        || apic::pending_vector(vcpu).is_some()
        || (controllers::extint_pending(vcpu.vm()) && apic::accepts_extint(vcpu))
}

/// Takes the interrupt to be delivered now: the 8259's first, as in Linux, then the local APIC's.
fn take_interrupt(vcpu: &X86Vcpu, s: &mut VcpuState) -> Option<u8> {
    if apic::accepts_extint(vcpu) {
        if let Some(vector) = s.unit.external_vector.take() {
            return Some(vector);
        }
        if let Some(vector) = controllers::acknowledge_extint(vcpu.vm()) {
            return Some(vector);
        }
    }
    apic::acknowledge(vcpu)
}

/// Whether the client may inject with KVM_INTERRUPT now.
pub fn ready_for_client(vcpu: &X86Vcpu, s: &VcpuState) -> bool {
    let events = &s.unit.events;
    let half_delivered =
        events.exception_injected.is_some() || events.interrupt.is_some() || events.nmi_injected;
    s.cpu.core.accepts_interrupts()
        && !half_delivered
        && events.exception_pending.is_none()
        && (!apic::in_kernel(vcpu) || apic::accepts_extint(vcpu))
}

/// Injects at most one event of each rank that the boundary lets in.
pub fn inject(vcpu: &X86Vcpu, s: &mut VcpuState) -> Injected {
    crate::run::collect_posted(vcpu, s);
    s.cpu.core.windows = Default::default();
    if s.unit.events.triple_fault {
        s.unit.events.triple_fault = false;
        return Injected::Exit(Exit::Shutdown);
    }
    if let Some(left) = begun(vcpu, s)
        .or_else(|| exception(vcpu, s))
        .or_else(|| smi(vcpu, s))
        .or_else(|| nmi(vcpu, s))
    {
        return Injected::Left(left);
    }
    interrupts(vcpu, s)
}

/// Finishes a delivery that was begun: its vector goes in again.
fn begun(vcpu: &X86Vcpu, s: &mut VcpuState) -> Option<Leave> {
    if let Some(exception) = s.unit.events.exception_injected {
        let leave = deliver_exception(vcpu, s, exception);
        s.unit.events.exception_injected = None;
        return leave;
    }
    if s.unit.events.nmi_injected {
        vcpu.stats().at(stats::NMI_INJECTIONS).add(1);
        let leave = deliver(vcpu, s, Event::Nmi);
        s.unit.events.nmi_injected = leave.is_some_and(is_undelivered);
        return leave;
    }
    let interrupt = s.unit.events.interrupt?;
    deliver_interrupt(vcpu, s, interrupt)
}

fn exception(vcpu: &X86Vcpu, s: &mut VcpuState) -> Option<Leave> {
    let exception = s.unit.events.exception_pending.take()?;
    let leave = deliver_exception(vcpu, s, exception);
    if leave.is_some_and(is_undelivered) {
        s.unit.events.exception_injected = Some(Exception {
            payload: None,
            ..exception
        });
    }
    leave
}

fn deliver_exception(vcpu: &X86Vcpu, s: &mut VcpuState, exception: Exception) -> Option<Leave> {
    if let Some(payload) = exception.payload {
        if exception.vector == Vector::PF as u8 {
            s.cpu.core.state.cr2 = payload;
        } else if exception.vector == Vector::DB as u8 {
            s.cpu.core.state.dr6 |= payload;
        }
    }
    deliver(
        vcpu,
        s,
        Event::Exception {
            vector: exception.vector,
            error: exception.error,
        },
    )
}

/// One that comes in system management mode waits for its end, of which the run loop is told anyway.
fn smi(vcpu: &X86Vcpu, s: &mut VcpuState) -> Option<Leave> {
    let waits = s.cpu.core.state.smm.active || s.unit.debug.blocks_interrupts();
    if !s.unit.events.smi_pending || waits {
        return None;
    }
    s.unit.events.smi_pending = false;
    smm::enter(vcpu, s)
}

fn nmi(vcpu: &X86Vcpu, s: &mut VcpuState) -> Option<Leave> {
    if s.unit.events.nmi_pending == 0 {
        return None;
    }
    if !s.cpu.core.accepts_nmi() {
        s.cpu.core.windows.nmi = true;
        return None;
    }
    s.unit.events.nmi_pending -= 1;
    vcpu.stats().at(stats::NMI_INJECTIONS).add(1);
    let leave = deliver(vcpu, s, Event::Nmi);
    s.unit.events.nmi_injected = leave.is_some_and(is_undelivered);
    s.cpu.core.windows.nmi = s.unit.events.nmi_pending != 0;
    leave
}

fn interrupts(vcpu: &X86Vcpu, s: &mut VcpuState) -> Injected {
    let wanted = run_page::wants_window(vcpu) && !controllers::has_chips(vcpu.vm());
    let pending = !s.unit.debug.blocks_interrupts() && has_interrupt(vcpu, s);
    if !pending && !wanted {
        return Injected::Ready;
    }
    if !s.cpu.core.accepts_interrupts() {
        s.cpu.core.windows.interrupt = true;
        return Injected::Ready;
    }
    if pending && let Some(vector) = take_interrupt(vcpu, s) {
        let leave = deliver_interrupt(vcpu, s, Interrupt { vector, soft: false });
        if let Some(leave) = leave {
            return Injected::Left(leave);
        }
        // More may wait behind it.
        s.cpu.core.windows.interrupt = wanted || has_interrupt(vcpu, s);
        return Injected::Ready;
    }
    if wanted && ready_for_client(vcpu, s) {
        vcpu.stats().at(stats::REQUEST_IRQ_EXITS).add(1);
        return Injected::Exit(Exit::InterruptWindow);
    }
    Injected::Ready
}

fn deliver_interrupt(vcpu: &X86Vcpu, s: &mut VcpuState, interrupt: Interrupt) -> Option<Leave> {
    vcpu.stats().at(stats::IRQ_INJECTIONS).add(1);
    s.unit.events.interrupt = Some(interrupt);
    let event = if interrupt.soft {
        Event::Software {
            vector: interrupt.vector,
            next: s.cpu.core.state.rip,
        }
    } else {
        Event::External {
            vector: interrupt.vector,
        }
    };
    let leave = deliver(vcpu, s, event);
    if !leave.is_some_and(is_undelivered) {
        s.unit.events.interrupt = None;
    }
    leave
}

fn deliver(vcpu: &X86Vcpu, s: &mut VcpuState, event: Event) -> Option<Leave> {
    let mut machine = Machine {
        vcpu,
        unit: &mut s.unit,
    };
    s.cpu.deliver(event, &mut machine)
}

/// Whether the event is still to be delivered.
fn is_undelivered(leave: Leave) -> bool {
    matches!(leave, Leave::Paused | Leave::Undeliverable(_) | Leave::Endless)
}
