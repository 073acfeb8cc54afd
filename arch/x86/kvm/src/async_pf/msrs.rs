//! The registers through which a guest asks for asynchronous page faults.

use ring3_host::addr::GuestPhys;
use ring3_uapi::x86::pv::{KVM_ASYNC_PF_DELIVERY_AS_INT, KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT};

use super::is_enabled;
use crate::apic;
use crate::cpuid::features::pv;
use crate::msr::{Access, Denied, allow};

const RESERVED: u64 = 0x30;

pub fn read_enable(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(pv::ASYNC_PF)?;
    Ok(a.unit.async_pf.enable)
}

pub fn write_enable(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(pv::ASYNC_PF)?;
    allow(value & RESERVED == 0)?;
    for (bit, feature) in [
        (KVM_ASYNC_PF_DELIVERY_AS_PF_VMEXIT, pv::ASYNC_PF_VMEXIT),
        (KVM_ASYNC_PF_DELIVERY_AS_INT, pv::ASYNC_PF_INT),
    ] {
        allow(value & bit == 0 || a.pv_feature(feature).is_ok())?;
    }
    if !apic::in_kernel(a.vcpu) {
        return allow(value == 0);
    }
    let at = GuestPhys(value & !0x3f);
    let enabled = is_enabled(value);
    let mut structure = [0; 8];
    allow(!enabled || a.unit.read_guest(a.vcpu, at, &mut structure).is_ok())?;
    a.unit.async_pf.enable = value;
    if enabled {
        a.unit.async_pf.wake_everybody();
        a.vcpu.seat().event();
    } else {
        a.unit.async_pf.forget();
    }
    Ok(())
}

pub fn read_interrupt(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(pv::ASYNC_PF_INT)?;
    Ok(a.unit.async_pf.interrupt)
}

pub fn write_interrupt(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(pv::ASYNC_PF_INT)?;
    allow(value <= 0xff && apic::in_kernel(a.vcpu))?;
    a.unit.async_pf.interrupt = value;
    Ok(())
}

pub fn read_ack(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(pv::ASYNC_PF_INT)?;
    Ok(0)
}

/// The guest has read the token: it can take the next one.
pub fn write_ack(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(pv::ASYNC_PF_INT)?;
    if value & 1 != 0 && a.unit.async_pf.is_due() {
        a.vcpu.seat().event();
    }
    Ok(())
}
