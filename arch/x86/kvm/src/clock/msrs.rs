//! The registers of guest time.

use ring3_host::addr::GuestPhys;

use super::pvclock::write_wall_clock;
use crate::cpuid::features;
use crate::msr::index::{KVM_SYSTEM_TIME_NEW, KVM_WALL_CLOCK_NEW};
use crate::msr::{Access, Denied};

pub fn read_tsc(a: &mut Access) -> Result<u64, Denied> {
    Ok(a.unit.tsc.now())
}

/// The client's write tries to keep the vCPUs together; the guest's moves its own counter, and TSC_ADJUST with it.
pub fn write_tsc(a: &mut Access, value: u64) -> Result<(), Denied> {
    if a.by_client() {
        a.vcpu.vm().arch().tsc.synchronize(&mut a.unit.tsc, value);
    } else {
        let by = a.unit.tsc.offset_for(value).wrapping_sub(a.unit.tsc.offset);
        a.unit.tsc.offset = a.unit.tsc.offset.wrapping_add(by);
        a.unit.tsc_adjust = a.unit.tsc_adjust.wrapping_add(by);
    }
    moved(a);
    Ok(())
}

pub fn read_adjust(a: &mut Access) -> Result<u64, Denied> {
    Ok(a.unit.tsc_adjust)
}

pub fn write_adjust(a: &mut Access, value: u64) -> Result<(), Denied> {
    if !a.unit.cpuid.has(features::TSC_ADJUST) {
        return Ok(());
    }
    if !a.by_client() {
        let by = value.wrapping_sub(a.unit.tsc_adjust);
        a.unit.tsc.offset = a.unit.tsc.offset.wrapping_add(by);
        moved(a);
    }
    a.unit.tsc_adjust = value;
    Ok(())
}

/// The vCPU's counter jumped: what was derived from it follows.
fn moved(a: &mut Access) {
    crate::vcpu::tsc_moved(a.vcpu, a.unit);
}

pub fn read_wall_clock(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(wall_clock_feature(a))?;
    Ok(a.vcpu
        .vm()
        .arch()
        .wall_clock
        .load(std::sync::atomic::Ordering::Relaxed))
}

pub fn write_wall_clock_msr(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(wall_clock_feature(a))?;
    a.vcpu
        .vm()
        .arch()
        .wall_clock
        .store(value, std::sync::atomic::Ordering::Relaxed);
    if value != 0 {
        // An address without memory is the guest's own loss.
        let _ = write_wall_clock(a.vcpu.vm(), GuestPhys(value));
    }
    Ok(())
}

fn wall_clock_feature(a: &Access) -> u32 {
    if a.index == KVM_WALL_CLOCK_NEW {
        features::pv::CLOCKSOURCE2
    } else {
        features::pv::CLOCKSOURCE
    }
}

fn system_time_feature(a: &Access) -> u32 {
    if a.index == KVM_SYSTEM_TIME_NEW {
        features::pv::CLOCKSOURCE2
    } else {
        features::pv::CLOCKSOURCE
    }
}

pub fn read_system_time(a: &mut Access) -> Result<u64, Denied> {
    a.pv_feature(system_time_feature(a))?;
    Ok(a.unit.clock.system_time)
}

pub fn write_system_time(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.pv_feature(system_time_feature(a))?;
    a.unit.clock.system_time = value;
    let tsc = a.unit.tsc;
    a.unit.clock.publish(a.vcpu.vm(), &tsc);
    Ok(())
}
