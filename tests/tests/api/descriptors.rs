//! Requests that a descriptor does not take, by its kind.

use crate::*;
use ring3_uapi::arch::{Archs, Level};
use ring3_uapi::device::KVM_DEV_TYPE_VFIO;
use ring3_uapi::ioctl::*;

/// What each kind of descriptor says to a request that it does not know.
const UNKNOWN: [(Level, Errno); 4] = [
    (Level::System, Errno::EINVAL),
    (Level::Vm, Errno::ENOTTY),
    (Level::Vcpu, Errno::EINVAL),
    (Level::Device, Errno::ENOTTY),
];

/// Whether x86 has the request on descriptors of this kind, by whatever name.
fn has(level: Level, request: u32) -> bool {
    let rows = IOCTLS.iter().filter(|row| row.request == request);
    rows.map(|row| row.archs(level))
        .any(|archs| archs.contains(Archs::X86))
}

/// Makes all requests that are not in `known` on the kind of descriptor that `call` is for.
fn refused(level: Level, known: impl Fn(u32) -> bool, call: impl Fn(u32) -> Result<i64, Errno>) {
    let (_, errno) = UNKNOWN.into_iter().find(|row| row.0 == level).expect("a row");
    for row in IOCTLS.iter().filter(|row| !known(row.request)) {
        assert_eq!(call(row.request), Err(errno), "{} on {level:?}", row.name);
    }
    for other in [io(0xfe), 0, 0x5401, KVM_RUN ^ 0x100] {
        assert_eq!(call(other), Err(errno), "{other:#x} on {level:?}");
    }
}

#[test]
fn no_descriptor_takes_the_requests_of_others() {
    let (Some(kvm), Some((vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    let known = |level| move |request| has(level, request);
    refused(Level::System, known(Level::System), |request| kvm.raw(request, 0));
    refused(Level::Vm, known(Level::Vm), |request| vm.raw(request, 0));
    refused(Level::Vcpu, known(Level::Vcpu), |request| vcpu.raw(request, 0));
    let Ok(device) = vm.create_device(KVM_DEV_TYPE_VFIO) else {
        return skipped("no VFIO device");
    };
    refused(Level::Device, known(Level::Device), |request| {
        device.raw(request, 0)
    });
}

#[test]
fn files_without_requests_take_none() {
    let Some((vm, vcpu)) = vcpu() else { return };
    let stats = [vm.stats().unwrap(), vcpu.stats().unwrap()];
    for row in IOCTLS {
        for stats in &stats {
            assert_eq!(stats.raw(row.request, 0), Err(Errno::ENOTTY), "{}", row.name);
        }
    }
    if !offered(ring3_uapi::cap::KVM_CAP_GUEST_MEMFD) {
        return;
    }
    let memfd = vm.create_guest_memfd(0x1000, 0).unwrap();
    for row in IOCTLS {
        assert_eq!(memfd.raw(row.request, 0), Err(Errno::ENOTTY), "{}", row.name);
    }
}

/// What ring3 lacks of the API is refused like what nobody knows.
#[test]
fn what_is_absent_is_unknown() {
    if back_end() == BackEnd::Device {
        return skipped("what other KVMs lack is not known");
    }
    let (Some(kvm), Some((vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    let tables = ring3_client::in_process::tables();
    let served = |level| {
        let tables = &tables;
        move |request| tables.requests(level).contains(&request)
    };
    refused(Level::System, served(Level::System), |request| {
        kvm.raw(request, NOWHERE)
    });
    refused(Level::Vm, served(Level::Vm), |request| vm.raw(request, NOWHERE));
    refused(Level::Vcpu, served(Level::Vcpu), |request| {
        vcpu.raw(request, NOWHERE)
    });
}
