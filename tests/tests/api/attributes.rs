//! Attributes of `/dev/kvm`, vCPUs and devices that there are not, and devices that cannot be made.

use crate::*;
use ring3_uapi::KvmDeviceAttr;
use ring3_uapi::device::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Makes a request for an attribute, whose value is at `addr`.
fn ask(
    call: impl Fn(u32, u64) -> Result<i64, Errno>,
    request: u32,
    (group, attr): (u32, u64),
    addr: u64,
) -> Result<i64, Errno> {
    let attr = KvmDeviceAttr {
        flags: 0,
        group,
        attr,
        addr,
    };
    call(request, &raw const attr as u64)
}

/// None of anybody's.
const UNKNOWN: [(u32, u64); 3] = [(0, 99), (99, 0), (u32::MAX, u64::MAX)];

#[test]
fn attributes_that_there_are_not() {
    let (Some(kvm), Some((_vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    for unknown in UNKNOWN {
        for request in [KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR] {
            let result = ask(|request, arg| vcpu.raw(request, arg), request, unknown, NOWHERE);
            assert_eq!(result, Err(Errno::ENXIO), "{unknown:?}");
        }
        for request in [KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR] {
            let result = ask(|request, arg| kvm.raw(request, arg), request, unknown, NOWHERE);
            assert_eq!(result, Err(Errno::ENXIO), "{unknown:?}");
        }
    }
    let known = (KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP);
    let result = ask(
        |request, arg| kvm.raw(request, arg),
        KVM_SET_DEVICE_ATTR,
        known,
        0,
    );
    assert_eq!(result, Err(Errno::EINVAL), "nobody sets what there is");
}

#[test]
fn an_offset_of_the_counter_comes_back() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    assert_eq!(vcpu.has_attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET), OK);
    let before = vcpu.get_attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET).unwrap();
    for offset in [before.wrapping_add(1 << 40), 0, before] {
        let set = vcpu.set_attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, offset);
        assert_eq!(set, OK);
        let back = vcpu.get_attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET);
        assert_eq!(back, Ok(offset));
    }
}

#[test]
fn devices_that_cannot_be_made() {
    let Some(vm) = vm() else { return };
    for unknown in [0, KVM_DEV_TYPE_ARM_VGIC_V2, KVM_DEV_TYPE_XICS, 9999, u32::MAX] {
        assert_eq!(vm.has_device(unknown), Err(Errno::ENODEV), "{unknown}");
        assert_eq!(
            vm.create_device(unknown).map(drop),
            Err(Errno::ENODEV),
            "{unknown}"
        );
    }
    if vm.has_device(KVM_DEV_TYPE_VFIO).is_err() {
        return skipped("no VFIO device");
    }
    let one = vm.create_device(KVM_DEV_TYPE_VFIO).unwrap();
    assert_eq!(vm.create_device(KVM_DEV_TYPE_VFIO).map(drop), Err(Errno::EBUSY));
    assert_eq!(vm.has_device(KVM_DEV_TYPE_VFIO), OK, "to ask makes none");
    drop(one);
    assert!(vm.create_device(KVM_DEV_TYPE_VFIO).is_ok());
}

#[test]
fn files_that_are_not_vfios() {
    let Some(vm) = vm() else { return };
    let Ok(device) = vm.create_device(KVM_DEV_TYPE_VFIO) else {
        return skipped("no VFIO device");
    };
    let null = File::open("/dev/null").unwrap();
    let set = |attr, fd: i32| {
        let call = |request, arg| device.raw(request, arg);
        let at = &raw const fd as u64;
        ask(call, KVM_SET_DEVICE_ATTR, (KVM_DEV_VFIO_FILE, attr), at)
    };
    for attr in [KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL] {
        assert_eq!(set(attr, -1), Err(Errno::EBADF));
        assert_eq!(device.has_attr(KVM_DEV_VFIO_FILE, attr), OK);
    }
    assert_eq!(set(KVM_DEV_VFIO_FILE_ADD, null.as_raw_fd()), Err(Errno::EINVAL));
    assert_eq!(set(KVM_DEV_VFIO_FILE_DEL, null.as_raw_fd()), Err(Errno::ENOENT));
    for (group, attr) in UNKNOWN {
        assert_eq!(device.has_attr(group, attr), Err(Errno::ENXIO));
    }
    assert_eq!(device.has_attr(KVM_DEV_VFIO_FILE, 0), Err(Errno::ENXIO));
    assert_eq!(set(0, null.as_raw_fd()), Err(Errno::ENXIO));
    let call = |request, arg| device.raw(request, arg);
    let known = (KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD);
    let get = ask(call, KVM_GET_DEVICE_ATTR, known, NOWHERE);
    assert_eq!(get, Err(Errno::EPERM), "nobody gets what was added");
}
