//! Local APICs of a VM: each behind its own lock, reachable from any thread, with timers off the host's clock.
//!
//! * `target`: one vCPU's APIC, and what other threads post to the vCPU; `list`: all of a VM, and the way of a
//!   message to them; `shown`: what needs no lock; `msrs`: the registers; `client`: KVM_GET/SET_LAPIC and what goes with them.
//!
//! The functions here also serve a vCPU whose APIC is the client's: it has an APIC base and a CR8, no more.

pub mod client;
pub mod list;
pub mod msrs;
pub mod shown;
pub mod target;

use ring3_host::addr::GuestPhys;

use crate::controllers;
use crate::exit::Exit;
use crate::lapic::{Effect, EndOfInterrupt, LapicView, Writer};
use crate::msr::{By, Denied};
use crate::vcpu::{Unit, X86Vcpu};
use crate::vm::X86Vm;
use crate::{pv_eoi, vapic};
pub use list::Apics;
pub use target::Target;

/// IA32_APIC_BASE's bits that a vCPU without an APIC of ours checks.
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_RESERVED: u64 = 0x2ff;

const TPR_OFFSET: usize = 0x80;

/// Whether the vCPU's local APIC is ours.
pub fn in_kernel(vcpu: &X86Vcpu) -> bool {
    vcpu.shared().apic.is_some()
}

/// IA32_APIC_BASE.
pub fn base(vcpu: &X86Vcpu, unit: &Unit) -> u64 {
    match &vcpu.shared().apic {
        Some(apic) => apic.shown.base(),
        None => unit.client_apic.base,
    }
}

pub fn set_base(vcpu: &X86Vcpu, unit: &mut Unit, value: u64, by: By) -> Result<(), Denied> {
    let reserved = u64::MAX.checked_shl(unit.cpuid.physical_bits()).unwrap_or(0);
    if let Some(apic) = &vcpu.shared().apic {
        let writer = if by == By::Client {
            Writer::Client
        } else {
            Writer::Guest
        };
        let mut inner = apic.lock();
        inner
            .lapic
            .set_base(value, reserved, writer)
            .map_err(|_| Denied::Invalid)?;
        let view = inner.lapic.take_changed_view();
        drop(inner);
        follow_view(vcpu, view);
        return Ok(());
    }
    let x2apic_alone = value & (BASE_ENABLED | BASE_X2APIC) == BASE_X2APIC;
    if value & (reserved | BASE_RESERVED) != 0 || x2apic_alone {
        return Err(Denied::Invalid);
    }
    unit.client_apic.base = value;
    Ok(())
}

pub fn cr8(vcpu: &X86Vcpu, unit: &Unit) -> u64 {
    match &vcpu.shared().apic {
        Some(apic) => apic.shown.cr8(),
        None => unit.client_apic.cr8,
    }
}

pub fn set_cr8(vcpu: &X86Vcpu, unit: &mut Unit, value: u64) {
    match &vcpu.shared().apic {
        Some(apic) => {
            collect(vcpu, unit);
            apic.lock().lapic.set_cr8(value & 15);
            vapic::follow(vcpu, unit);
            look_at_pending(vcpu);
        }
        None => unit.client_apic.cr8 = value & 15,
    }
}

/// The vector that would be delivered now.
pub fn pending_vector(vcpu: &X86Vcpu) -> Option<u8> {
    vcpu.shared().apic.as_ref()?.shown.pending()
}

/// Takes that vector.
pub fn acknowledge(vcpu: &X86Vcpu) -> Option<u8> {
    let apic = vcpu.shared().apic.as_ref()?;
    // Nothing becomes undeliverable behind the vCPU's back, so there is no need to lock only to find nothing.
    apic.shown.pending()?;
    apic.lock().lapic.acknowledge()
}

/// Whether the 8259's line reaches this vCPU.
pub fn accepts_extint(vcpu: &X86Vcpu) -> bool {
    vcpu.shared()
        .apic
        .as_ref()
        .is_some_and(|apic| apic.shown.accepts_extint())
}

/// Whether the interrupt in service may end without anybody's notice, and the guest asked for that.
pub fn may_end_unseen(vcpu: &X86Vcpu) -> bool {
    let apic = vcpu.shared().apic.as_ref();
    apic.is_some_and(|apic| apic.shown.may_end_unseen())
}

/// Whether it is to be told when that is so.
pub fn allow_unseen_ends(vcpu: &X86Vcpu, allowed: bool) {
    if let Some(apic) = &vcpu.shared().apic {
        apic.lock().lapic.allow_unseen_ends(allowed);
    }
}

/// The end of an interrupt that no I/O APIC wants to hear of.
pub fn end_of_interrupt_unseen(vcpu: &X86Vcpu) {
    if let Some(apic) = &vcpu.shared().apic {
        apic.lock().lapic.end_of_interrupt();
        look_at_pending(vcpu);
    }
}

/// What guest memory says in the APIC's place becomes the APIC's.
#[inline]
pub fn collect(vcpu: &X86Vcpu, unit: &mut Unit) {
    pv_eoi::collect(vcpu, unit);
    vapic::collect(vcpu, unit);
}

/// Whether an address is the task priority's in the APIC's window.
#[inline]
pub fn is_task_priority(vcpu: &X86Vcpu, gpa: GuestPhys) -> bool {
    let apic = vcpu.shared().apic.as_ref();
    gpa.offset() == TPR_OFFSET && apic.is_some_and(|apic| apic.shown.claims(gpa.0))
}

/// The task priority, the class in service and the highest vector requested, as guests find them in their memory.
pub fn vapic_word(vcpu: &X86Vcpu) -> u32 {
    let apic = vcpu.shared().apic.as_ref();
    apic.map_or(0, |apic| apic.lock().lapic.vapic_word())
}

/// The guest set its task priority in its memory.
pub fn set_task_priority(vcpu: &X86Vcpu, priority: u8) {
    if let Some(apic) = &vcpu.shared().apic {
        apic.lock().lapic.set_task_priority(priority);
        look_at_pending(vcpu);
    }
}

/// A read of the APIC's window; false if the address is not in it.
pub fn mmio_read(vcpu: &X86Vcpu, unit: &mut Unit, gpa: GuestPhys, data: &mut [u8]) -> bool {
    let Some(apic) = &vcpu.shared().apic else {
        return false;
    };
    if !apic.shown.claims(gpa.0) {
        return false;
    }
    collect(vcpu, unit);
    let inner = apic.lock();
    inner.lapic.mmio_read(gpa.0, data, &inner.port);
    true
}

/// A write to the APIC's window; false if the address is not in it.
pub fn mmio_write(vcpu: &X86Vcpu, unit: &mut Unit, gpa: GuestPhys, data: &[u8]) -> bool {
    let Some(apic) = &vcpu.shared().apic else {
        return false;
    };
    if !apic.shown.claims(gpa.0) {
        return false;
    }
    collect(vcpu, unit);
    let mut guard = apic.lock();
    let inner = &mut *guard;
    let effect = inner.lapic.mmio_write(gpa.0, data, &mut inner.port);
    let view = inner.lapic.take_changed_view();
    drop(guard);
    vapic::follow(vcpu, unit);
    carry_out(vcpu, unit, effect);
    follow_view(vcpu, view);
    true
}

/// Does what a write to the APIC asked of the rest of the VM.
fn carry_out(vcpu: &X86Vcpu, unit: &mut Unit, effect: Effect) {
    match effect {
        Effect::None => {}
        Effect::Send(message) => {
            let arch = vcpu.vm().arch();
            arch.apics.send(
                &message,
                vcpu.seat().index() as usize,
                arch.settings.broadcast_rule(),
            );
        }
        Effect::EndOfInterrupt(eoi) => end_of_interrupt(vcpu, unit, &eoi),
    }
    look_at_pending(vcpu);
}

/// Has the run loop deliver what became deliverable by an access of the vCPU's own.
fn look_at_pending(vcpu: &X86Vcpu) {
    if pending_vector(vcpu).is_some() {
        vcpu.seat().event();
    }
}

/// When the APIC's ids or mode changed, so may have what EOIs leave the APICs.
fn follow_view(vcpu: &X86Vcpu, changed: Option<LapicView>) {
    if changed.is_some() {
        controllers::refresh_eoi_vectors(vcpu.vm());
    }
}

fn end_of_interrupt(vcpu: &X86Vcpu, unit: &mut Unit, eoi: &EndOfInterrupt) {
    let vm = vcpu.vm();
    if controllers::is_split(vm) {
        unit.io.queue(Exit::IoapicEoi { vector: eoi.vector });
    } else {
        controllers::end_of_interrupt(vm, vcpu.seat().index() as usize, eoi);
    }
}

/// KVM_HC_KICK_CPU: ends the paravirtual halt of the vCPU with this APIC id.
pub fn unhalt(vm: &X86Vm, apic_id: u32) {
    vm.arch().apics.each(|target| {
        if target.seat.id() == apic_id {
            target.post_unhalt();
        }
    });
}

/// A logical destination, or a shorthand: nothing that KVM_HC_SEND_IPI can be asked for.
const ICR_OTHER_DESTINATION: u64 = 0xc_0800;

/// KVM_HC_SEND_IPI: to the APIC ids `first` + i for each bit i of the bitmap; none of them means everybody. Answers how many
/// took it, or `None` if the ICR's value names destinations itself.
pub fn send_ipis(vcpu: &X86Vcpu, bitmap: [u64; 2], first: u32, icr: u64, width: u32) -> Option<u64> {
    use crate::lapic::{ApicMessage, ApicMode};
    if icr & ICR_OTHER_DESTINATION != 0 {
        return None;
    }
    let asked = |id: u32| {
        let bit = id.checked_sub(first)?;
        let word = bitmap.get((bit / width) as usize)?;
        Some(word >> (bit % width) & 1 != 0)
    };
    let mut sent = 0;
    vcpu.vm().arch().apics.each(|target| {
        let view = target.shown.view();
        let id = match view.mode {
            ApicMode::Disabled => return,
            ApicMode::X2apic => view.x2apic_id,
            ApicMode::Xapic => view.xapic_id.into(),
        };
        if asked(id) == Some(true) {
            sent += u64::from(target.accept(&ApicMessage::from_icr(icr as u32, id)));
        }
    });
    Some(sent)
}

pub fn is_unhalted(vcpu: &X86Vcpu) -> bool {
    vcpu.shared().posted.unhalted()
}

/// An INIT waits to be taken.
pub fn init_latched(vcpu: &X86Vcpu) -> bool {
    vcpu.shared().posted.init_pending()
}

pub fn set_init_latched(vcpu: &X86Vcpu, latched: bool) {
    if in_kernel(vcpu) {
        vcpu.shared().posted.set_init(latched);
    }
}

/// KVM_MP_STATE_SIPI_RECEIVED: a STARTUP with the vector set by KVM_SET_VCPU_EVENTS.
pub fn post_sipi(vcpu: &X86Vcpu) {
    vcpu.shared().posted.repeat_sipi();
    vcpu.seat().event();
}

pub fn set_sipi_vector(vcpu: &X86Vcpu, vector: u8) {
    vcpu.shared().posted.set_sipi_vector(vector);
}
