//! The registers through which a guest places its steal-time record and forbids polling.

use ring3_uapi::x86::pv::KVM_STEAL_RESERVED_MASK;

use crate::cpuid::features::pv;
use crate::msr::{Access, Denied, allow, misc};

pub fn read_steal(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(pv::STEAL_TIME)?;
    Ok(a.unit.steal.register)
}

pub fn write_steal(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(pv::STEAL_TIME)?;
    allow(value & KVM_STEAL_RESERVED_MASK == 0)?;
    a.unit.steal.set_register(value);
    // The record is filled at the next entry; the guest must not run on until then.
    a.vcpu.seat().event();
    Ok(())
}

pub fn read_poll(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(pv::POLL_CONTROL)?;
    misc::plain(a)
}

pub fn write_poll(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(pv::POLL_CONTROL)?;
    allow(value & !1 == 0)?;
    misc::store(a, value)
}
