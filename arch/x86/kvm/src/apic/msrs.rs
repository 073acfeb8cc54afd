//! The local APIC's registers as MSRs: the base, the x2APIC range, the TSC deadline.

use crate::msr::{Access, Denied};
use crate::vapic;

pub fn read_base(a: &mut Access) -> Result<u64, Denied> {
    Ok(super::base(a.vcpu, a.unit))
}

pub fn write_base(a: &mut Access, value: u64) -> Result<(), Denied> {
    super::set_base(a.vcpu, a.unit, value, a.by)
}

pub fn read_x2apic(a: &mut Access) -> Result<u64, Denied> {
    let apic = a.vcpu.shared().apic.as_ref().ok_or(Denied::Invalid)?;
    super::collect(a.vcpu, a.unit);
    let inner = apic.lock();
    inner
        .lapic
        .msr_read(a.index, &inner.port)
        .map_err(|_| Denied::Invalid)
}

pub fn write_x2apic(a: &mut Access, value: u64) -> Result<(), Denied> {
    let apic = a.vcpu.shared().apic.as_ref().ok_or(Denied::Invalid)?;
    super::collect(a.vcpu, a.unit);
    let mut guard = apic.lock();
    let inner = &mut *guard;
    let effect = inner
        .lapic
        .msr_write(a.index, value, &mut inner.port)
        .map_err(|_| Denied::Invalid)?;
    let view = inner.lapic.take_changed_view();
    drop(guard);
    vapic::follow(a.vcpu, a.unit);
    super::carry_out(a.vcpu, a.unit, effect);
    super::follow_view(a.vcpu, view);
    Ok(())
}

pub fn read_deadline(a: &mut Access) -> Result<u64, Denied> {
    Ok(a.vcpu
        .shared()
        .apic
        .as_ref()
        .map_or(0, |apic| apic.lock().lapic.tsc_deadline()))
}

pub fn write_deadline(a: &mut Access, value: u64) -> Result<(), Denied> {
    if let Some(apic) = &a.vcpu.shared().apic {
        // A deadline in the past requests an interrupt at once, which one that has ended must not hold back.
        super::collect(a.vcpu, a.unit);
        let mut guard = apic.lock();
        let inner = &mut *guard;
        inner.lapic.set_tsc_deadline(value, &mut inner.port);
        drop(guard);
        super::look_at_pending(a.vcpu);
    }
    Ok(())
}
