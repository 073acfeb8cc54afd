//! Events on their way to the guest, and KVM_GET/SET_VCPU_EVENTS.
//!
//! An exception or interrupt is *pending* until the run loop starts to deliver it, and *injected* from then until
//! the delivery is complete; the client can see and restore both states.

use std::sync::atomic::Ordering::Relaxed;

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::*;
use ring3_x86_cpu::state::{Exception, Interruptibility};

use crate::vcpu::{VcpuState, X86Vcpu};
use crate::{apic, smm};

/// An interrupt whose delivery has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    pub vector: u8,
    /// From an INT instruction.
    pub soft: bool,
}

/// The events of one vCPU that its own thread handles. Those of other threads are in [`crate::vcpu::Shared`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    pub exception_pending: Option<Exception>,
    pub exception_injected: Option<Exception>,
    pub interrupt: Option<Interrupt>,
    pub nmi_injected: bool,
    pub nmi_pending: u8,
    pub smi_pending: bool,
    pub triple_fault: bool,
}

impl Events {
    pub fn queue_exception(&mut self, vector: u8, error: Option<u32>) {
        self.exception_pending = Some(Exception {
            vector,
            error,
            payload: None,
        });
    }

    pub fn queue_interrupt(&mut self, vector: u8) {
        self.interrupt = Some(Interrupt { vector, soft: false });
    }

    /// Something for the run loop to deliver.
    pub fn any(&self) -> bool {
        self.exception_pending.is_some()
            || self.exception_injected.is_some()
            || self.interrupt.is_some()
            || self.nmi_injected
            || self.nmi_pending != 0
            || self.smi_pending
            || self.triple_fault
    }
}

fn payload_enabled(vcpu: &X86Vcpu) -> bool {
    vcpu.vm().arch().settings.exception_payload.load(Relaxed)
}

fn triple_fault_enabled(vcpu: &X86Vcpu) -> bool {
    vcpu.vm().arch().settings.triple_fault_event.load(Relaxed)
}

fn exception_to_wire(events: &Events, payload_enabled: bool, wire: &mut KvmVcpuEvents) {
    let (exception, injected) = match (events.exception_injected, events.exception_pending) {
        (Some(e), _) => (e, true),
        (None, Some(e)) => (e, false),
        (None, None) => return,
    };
    // A client that does not know of payloads sees a pending exception as injected.
    wire.exception.injected = (injected || !payload_enabled).into();
    wire.exception.pending = (!injected).into();
    wire.exception.nr = exception.vector;
    wire.exception.has_error_code = exception.error.is_some().into();
    wire.exception.error_code = exception.error.unwrap_or(0);
    if payload_enabled && let Some(payload) = exception.payload {
        wire.exception_has_payload = 1;
        wire.exception_payload = payload;
    }
}

pub fn to_wire(vcpu: &X86Vcpu, s: &mut VcpuState) -> KvmVcpuEvents {
    crate::run::collect_posted(vcpu, s);
    let events = &s.unit.events;
    let shadow = s.cpu.core.state.interruptibility;
    let mut wire = KvmVcpuEvents::default();
    exception_to_wire(events, payload_enabled(vcpu), &mut wire);
    if let Some(interrupt) = events.interrupt {
        wire.interrupt.injected = (!interrupt.soft).into();
        wire.interrupt.nr = interrupt.vector;
    }
    wire.interrupt.shadow = if shadow.mov_ss_shadow {
        KVM_X86_SHADOW_INT_MOV_SS
    } else {
        0
    } | if shadow.sti_shadow {
        KVM_X86_SHADOW_INT_STI
    } else {
        0
    };
    wire.nmi.injected = events.nmi_injected.into();
    wire.nmi.pending = (events.nmi_pending != 0).into();
    wire.nmi.masked = shadow.nmi_blocked.into();
    wire.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
    let smm = s.cpu.core.state.smm;
    wire.smi.smm = smm.active.into();
    wire.smi.pending = events.smi_pending.into();
    wire.smi.smm_inside_nmi = smm.inside_nmi.into();
    wire.smi.latched_init = u8::from(apic::init_latched(vcpu));
    if payload_enabled(vcpu) {
        wire.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if triple_fault_enabled(vcpu) {
        wire.triple_fault.pending = events.triple_fault.into();
        wire.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    wire
}

/// KVM_GET_VCPU_EVENTS.
pub fn get(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire = to_wire(vcpu, s);
    arg.write(&wire)?;
    Ok(0)
}

/// KVM_SET_VCPU_EVENTS.
pub fn set(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmVcpuEvents = arg.read()?;
    apply(vcpu, s, &wire)?;
    Ok(0)
}

const KNOWN_FLAGS: u32 = KVM_VCPUEVENT_VALID_NMI_PENDING
    | KVM_VCPUEVENT_VALID_SIPI_VECTOR
    | KVM_VCPUEVENT_VALID_SHADOW
    | KVM_VCPUEVENT_VALID_SMM
    | KVM_VCPUEVENT_VALID_PAYLOAD
    | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;

/// Whether the exception is injected, and whether it is pending.
fn check(vcpu: &X86Vcpu, w: &KvmVcpuEvents) -> Result<(bool, bool), Errno> {
    if w.flags & !KNOWN_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let (injected, pending) = if w.flags & KVM_VCPUEVENT_VALID_PAYLOAD != 0 {
        if !payload_enabled(vcpu) {
            return Err(Errno::EINVAL);
        }
        (
            w.exception.injected != 0 && w.exception.pending == 0,
            w.exception.pending != 0,
        )
    } else {
        (w.exception.injected != 0, false)
    };
    if (injected || pending) && (w.exception.nr > 31 || w.exception.nr == 2) {
        return Err(Errno::EINVAL);
    }
    if w.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT != 0 && !triple_fault_enabled(vcpu) {
        return Err(Errno::EINVAL);
    }
    Ok((injected, pending))
}

pub fn apply(vcpu: &X86Vcpu, s: &mut VcpuState, w: &KvmVcpuEvents) -> Result<(), Errno> {
    let (injected, pending) = check(vcpu, w)?;
    crate::run::collect_posted(vcpu, s);
    let events = &mut s.unit.events;
    let exception = Exception {
        vector: w.exception.nr,
        error: (w.exception.has_error_code != 0).then_some(w.exception.error_code),
        payload: (pending && w.exception_has_payload != 0).then_some(w.exception_payload),
    };
    events.exception_injected = injected.then_some(exception);
    events.exception_pending = pending.then_some(exception);
    events.interrupt = (w.interrupt.injected != 0).then_some(Interrupt {
        vector: w.interrupt.nr,
        soft: w.interrupt.soft != 0,
    });
    events.nmi_injected = w.nmi.injected != 0;
    if w.flags & KVM_VCPUEVENT_VALID_NMI_PENDING != 0 {
        events.nmi_pending = w.nmi.pending.min(2);
    }
    if w.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT != 0 {
        events.triple_fault = w.triple_fault.pending != 0;
    }
    let old: Interruptibility = s.cpu.core.state.interruptibility;
    let shadow = &mut s.cpu.core.state.interruptibility;
    if w.flags & KVM_VCPUEVENT_VALID_SHADOW != 0 {
        shadow.sti_shadow = w.interrupt.shadow & KVM_X86_SHADOW_INT_STI != 0;
        shadow.mov_ss_shadow = w.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS != 0;
    }
    shadow.nmi_blocked = w.nmi.masked != 0;
    if *shadow != old {
        s.state_changed();
    }
    if w.flags & KVM_VCPUEVENT_VALID_SIPI_VECTOR != 0 {
        apic::set_sipi_vector(vcpu, w.sipi_vector as u8);
    }
    if w.flags & KVM_VCPUEVENT_VALID_SMM != 0 {
        apply_smi(vcpu, s, &w.smi);
    }
    Ok(())
}

fn apply_smi(vcpu: &X86Vcpu, s: &mut VcpuState, w: &KvmVcpuEventsSmi) {
    s.unit.events.smi_pending = w.pending != 0;
    let smm = &mut s.cpu.core.state.smm;
    let active = w.smm != 0;
    let changed = smm.active != active;
    smm.active = active;
    smm.inside_nmi = active && w.smm_inside_nmi != 0;
    if changed {
        smm::follow(vcpu, s);
    }
    apic::set_init_latched(vcpu, w.latched_init != 0);
}
