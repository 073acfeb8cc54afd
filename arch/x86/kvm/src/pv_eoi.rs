//! The paravirtual end of interrupt: a byte of the guest's memory through which it ends an interrupt without touching the APIC.
//!
//! Before the guest runs the byte is set, if the interrupt in service may end unseen: nothing else is requested, and no I/O
//! APIC wants to hear of its end. The guest clears the byte where it would write to the EOI register. Whether it did is looked
//! at as soon as it has left, and before each access to the APIC of its own, so that nobody sees the difference. An
//! interrupt that comes meanwhile makes it leave, as any does.

use ring3_host::addr::GuestPhys;
use ring3_host::mem::{HostFault, HostPage};
use ring3_uapi::x86::pv::KVM_MSR_ENABLED;

use crate::apic;
use crate::cpuid::features::pv;
use crate::msr::{Access, Denied, allow};
use crate::vcpu::{Unit, X86Vcpu};

/// A vCPU's.
#[derive(Clone, Copy, Debug, Default)]
pub struct PvEoi {
    /// MSR_KVM_PV_EOI_EN.
    register: u64,
    /// The byte is set.
    offered: bool,
}

impl PvEoi {
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.register & KVM_MSR_ENABLED != 0
    }

    fn address(&self) -> GuestPhys {
        GuestPhys(self.register & !KVM_MSR_ENABLED)
    }
}

/// Changes the guest's byte. `None` if there is no memory there.
fn exchange(
    vcpu: &X86Vcpu,
    unit: &mut Unit,
    change: impl FnOnce(HostPage, usize) -> Result<u8, HostFault>,
) -> Option<u8> {
    let at = unit.pv_eoi.address();
    unit.change_guest(vcpu, at, 1, change)
}

/// The guest is about to run, in guest mode.
#[inline]
pub fn offer(vcpu: &X86Vcpu, unit: &mut Unit) {
    if unit.pv_eoi.is_enabled() && apic::may_end_unseen(vcpu) {
        let set = exchange(vcpu, unit, |page, at| page.store(at, 1u8).map(|()| 1));
        unit.pv_eoi.offered = set.is_some();
    }
}

/// The guest has left, in guest mode still, or is about to access its APIC.
#[inline]
pub fn collect(vcpu: &X86Vcpu, unit: &mut Unit) {
    if unit.pv_eoi.offered {
        end_if_taken(vcpu, unit);
    }
}

#[cold]
fn end_if_taken(vcpu: &X86Vcpu, unit: &mut Unit) {
    unit.pv_eoi.offered = false;
    let left = exchange(vcpu, unit, |page, at| {
        let left: u8 = page.load(at)?;
        if left != 0 {
            page.store(at, 0u8)?;
        }
        Ok(left)
    });
    if left == Some(0) {
        apic::end_of_interrupt_unseen(vcpu);
    }
}

pub fn read(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(pv::PV_EOI)?;
    Ok(a.unit.pv_eoi.register)
}

pub fn write(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(pv::PV_EOI)?;
    allow(apic::in_kernel(a.vcpu))?;
    let register = PvEoi {
        register: value,
        offered: false,
    };
    allow(register.address().0.is_multiple_of(4))?;
    collect(a.vcpu, a.unit);
    a.unit.pv_eoi = register;
    apic::allow_unseen_ends(a.vcpu, register.is_enabled());
    Ok(())
}
