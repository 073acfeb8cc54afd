//! The client's side of time: KVM_GET/SET_CLOCK, KVM_GET/SET_TSC_KHZ, KVM_KVMCLOCK_CTRL, the TSC attributes.

use ring3_host::time::{realtime_and_tsc, realtime_now};
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::KvmDeviceAttr;
use ring3_uapi::x86::{
    KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET,
    KvmClockData,
};

use super::tsc::MAX_KHZ;
use crate::vcpu::{VcpuState, X86Vcpu, tsc_moved};
use crate::vm::X86Vm;

/// KVM_GET_CLOCK.
pub fn get_clock(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let (realtime, tsc) = realtime_and_tsc();
    let stable = if vm.arch().tsc.together() {
        KVM_CLOCK_TSC_STABLE
    } else {
        0
    };
    arg.write(&KvmClockData {
        clock: vm.arch().clock.at(tsc),
        flags: stable | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC,
        realtime: realtime.0,
        host_tsc: tsc,
        ..KvmClockData::default()
    })?;
    Ok(0)
}

/// KVM_SET_CLOCK. With a realtime given, the clock also advances by what has passed since then.
pub fn set_clock(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let data: KvmClockData = arg.read()?;
    // HOST_TSC and TSC_STABLE are accepted and ignored, so that what was read can be written back.
    if data.flags & !(KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC | KVM_CLOCK_TSC_STABLE) != 0 {
        return Err(Errno::EINVAL);
    }
    let passed = if data.flags & KVM_CLOCK_REALTIME != 0 {
        realtime_now().0.saturating_sub(data.realtime)
    } else {
        0
    };
    vm.arch().clock.set(data.clock.wrapping_add(passed));
    crate::vm::publish_clocks(vm);
    Ok(0)
}

/// Of the argument, Linux looks at the lower half.
fn valid_khz(khz: u64) -> Result<u32, Errno> {
    let khz = khz as u32;
    if khz < MAX_KHZ {
        Ok(khz)
    } else {
        Err(Errno::EINVAL)
    }
}

/// KVM_SET_TSC_KHZ on a vCPU.
pub fn set_khz(vcpu: &X86Vcpu, s: &mut VcpuState, khz: u64) -> Result<i64, Errno> {
    s.unit.tsc.set_khz(valid_khz(khz)?).map_err(|_| Errno::EINVAL)?;
    tsc_moved(vcpu, &mut s.unit);
    Ok(0)
}

/// KVM_GET_TSC_KHZ on a vCPU.
pub fn get_khz(s: &VcpuState) -> Result<i64, Errno> {
    Ok(i64::from(s.unit.tsc.khz))
}

/// KVM_SET_TSC_KHZ on a VM: for all vCPUs, before there are any.
pub fn set_vm_khz(vm: &X86Vm, khz: u64) -> Result<i64, Errno> {
    let khz = valid_khz(khz)?;
    let _changes = vm.changes().lock();
    if !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    vm.arch().tsc.set_default_khz(khz);
    Ok(0)
}

/// KVM_GET_TSC_KHZ on a VM.
pub fn get_vm_khz(vm: &X86Vm) -> Result<i64, Errno> {
    Ok(i64::from(vm.arch().tsc.default_khz()))
}

/// KVM_KVMCLOCK_CTRL: the guest is told that it was stopped.
pub fn stopped(vcpu: &X86Vcpu, s: &mut VcpuState) -> Result<i64, Errno> {
    if !s.unit.clock.enabled() {
        return Err(Errno::EINVAL);
    }
    s.unit.clock.stopped = true;
    let tsc = s.unit.tsc;
    s.unit.clock.publish(vcpu.vm(), &tsc);
    Ok(0)
}

/// A vCPU's attributes: group and number.
pub const ATTRIBUTES: &[(u32, u64)] = &[(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET)];

fn known(attr: &KvmDeviceAttr) -> Result<(), Errno> {
    if ATTRIBUTES.contains(&(attr.group, attr.attr)) {
        Ok(())
    } else {
        Err(Errno::ENXIO)
    }
}

/// KVM_HAS_DEVICE_ATTR on a vCPU.
pub fn has_attr(_: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    known(&arg.read()?)?;
    Ok(0)
}

/// KVM_GET_DEVICE_ATTR on a vCPU.
pub fn get_attr(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let attr: KvmDeviceAttr = arg.read()?;
    known(&attr)?;
    UserPtr::new(attr.addr).write(&s.unit.tsc.offset)?;
    Ok(0)
}

/// KVM_SET_DEVICE_ATTR on a vCPU.
pub fn set_attr(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let attr: KvmDeviceAttr = arg.read()?;
    known(&attr)?;
    s.unit.tsc.offset = UserPtr::new(attr.addr).read()?;
    tsc_moved(vcpu, &mut s.unit);
    Ok(0)
}
