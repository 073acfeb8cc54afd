//! The VM: capabilities, devices, and its end.

use super::{Machine, OWN_DEVICE, OWN_REQUEST, Open, Step, Tiny, memory};
use crate::arch::Types;
use crate::errno::Errno;
use crate::file::{FileKind, Inherited};
use crate::files::Files;
use crate::system::open_system;
use crate::vcpu::{Polling, Request};
use ring3_host::fd::{identity, memfd_create};
use ring3_host::testing::ClientMemory;
use ring3_uapi::cap::*;
use ring3_uapi::device::{KVM_CREATE_DEVICE_TEST, KVM_DEV_TYPE_VFIO, KVM_DEV_VFIO_FILE};
use ring3_uapi::device::{KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL};
use ring3_uapi::ioctl::*;
use ring3_uapi::{KvmCreateDevice, KvmDeviceAttr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use zerocopy::IntoBytes;

#[test]
fn the_device_makes_vms() {
    let kvm = Open(open_system::<Tiny>().unwrap());
    assert_eq!(Files::process().kind(kvm.0), Some(FileKind::System));
    assert_eq!(kvm.ioctl(KVM_GET_API_VERSION, 0), Ok(12));
    assert_eq!(kvm.ioctl(KVM_GET_API_VERSION, 1), Err(Errno::EINVAL));
    assert_eq!(kvm.ioctl(KVM_GET_VCPU_MMAP_SIZE, 0), Ok(3 * 4096));
    assert_eq!(kvm.ioctl(KVM_CREATE_VM, 5), Err(Errno::EINVAL));
    let vm = Open(kvm.ioctl(KVM_CREATE_VM, 0).unwrap() as RawFd);
    drop(kvm);
    assert_eq!(vm.file().kind(), FileKind::Vm);
    assert_eq!(vm.ioctl(OWN_REQUEST, 5), Ok(5));
    let stats = Open(vm.ioctl(KVM_GET_STATS_FD, 0).unwrap() as RawFd);
    assert_eq!(Files::process().kind(stats.0), Some(FileKind::Stats));
}

#[test]
fn capabilities_say_what_is_there() {
    let machine = Machine::new();
    let check = |cap: u32| machine.value(KVM_CHECK_EXTENSION, cap.into()).unwrap();
    for (cap, answer) in [
        (KVM_CAP_USER_MEMORY, 1),
        (KVM_CAP_HALT_POLL, 1),
        (KVM_CAP_IMMEDIATE_EXIT, 1),
        (KVM_CAP_COALESCED_MMIO, 2),
        (KVM_CAP_COALESCED_PIO, 1),
        (KVM_CAP_READONLY_MEM, 1),
        (KVM_CAP_MULTI_ADDRESS_SPACE, 2),
        (KVM_CAP_NR_MEMSLOTS, 16),
        (KVM_CAP_IRQ_ROUTING, 32),
        (KVM_CAP_NR_VCPUS, 4),
        (KVM_CAP_MAX_VCPUS, i64::from(Tiny::LIMITS.vcpus)),
        (KVM_CAP_MAX_VCPU_ID, 16),
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3),
        (KVM_CAP_BINARY_STATS_FD, 1),
        (KVM_CAP_GUEST_MEMFD, 1),
        (KVM_CAP_GUEST_MEMFD_FLAGS, 3),
        (KVM_CAP_MEMORY_ATTRIBUTES, 0),
        (KVM_CAP_DIRTY_LOG_RING, 1 << 20),
        (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 20),
        // Absent.
        (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0),
    ] {
        assert_eq!(check(cap), answer, "{cap}");
    }
    assert_eq!(
        machine.value(KVM_CHECK_EXTENSION, u64::from(KVM_CAP_USER_MEMORY) | 1 << 32),
        Ok(0)
    );
}

fn create(machine: &Machine, kind: u32, flags: u32) -> Result<u32, Errno> {
    let mut args = KvmCreateDevice {
        type_: kind,
        fd: 77,
        flags,
    };
    machine.value(KVM_CREATE_DEVICE, std::ptr::from_mut(&mut args) as u64)?;
    Ok(args.fd)
}

fn attr(device: &Open, request: u32, attr: &KvmDeviceAttr) -> Result<i64, Errno> {
    device.ioctl(request, std::ptr::from_ref(attr) as u64)
}

#[test]
fn a_device_whose_number_cannot_be_told_is_closed() {
    let machine = Machine::new();
    let args = KvmCreateDevice {
        type_: KVM_DEV_TYPE_VFIO,
        ..KvmCreateDevice::default()
    };
    let page = ClientMemory::new(1).expect("memory");
    page.write(0, args.as_bytes());
    page.protect(0, 4096).expect("memory");
    assert_eq!(
        machine.value(KVM_CREATE_DEVICE, page.address()),
        Err(Errno::EFAULT)
    );
    // A VM has one of these at most.
    drop(Open(
        create(&machine, KVM_DEV_TYPE_VFIO, 0).expect("no other") as RawFd
    ));
}

#[test]
fn devices_can_be_asked_for_and_made() {
    let machine = Machine::new();
    assert_eq!(create(&machine, 1234, 0), Err(Errno::ENODEV));
    assert_eq!(create(&machine, 1234, KVM_CREATE_DEVICE_TEST), Err(Errno::ENODEV));
    // Asking makes none.
    assert_eq!(create(&machine, OWN_DEVICE, KVM_CREATE_DEVICE_TEST), Ok(77));
    let device = Open(create(&machine, OWN_DEVICE, 0).unwrap() as RawFd);
    assert_eq!(device.file().kind(), FileKind::Device);
    let any = KvmDeviceAttr::default();
    assert_eq!(attr(&device, KVM_HAS_DEVICE_ATTR, &any), Ok(0));
    assert_eq!(attr(&device, KVM_GET_DEVICE_ATTR, &any), Err(Errno::ENXIO));
    assert_eq!(device.ioctl(KVM_HAS_DEVICE_ATTR, 8), Err(Errno::EFAULT));
    assert_eq!(device.ioctl(KVM_RUN, 0), Err(Errno::ENOTTY));
}

#[test]
fn a_vm_has_one_vfio_device() {
    let machine = Machine::new();
    assert_eq!(
        create(&machine, KVM_DEV_TYPE_VFIO, KVM_CREATE_DEVICE_TEST),
        Ok(77)
    );
    let device = Open(create(&machine, KVM_DEV_TYPE_VFIO, 0).unwrap() as RawFd);
    assert_eq!(create(&machine, KVM_DEV_TYPE_VFIO, 0), Err(Errno::EBUSY));
    assert_eq!(
        create(&machine, KVM_DEV_TYPE_VFIO, KVM_CREATE_DEVICE_TEST),
        Ok(77)
    );
    let file = memfd_create("not a group", 0).unwrap();
    let (number, closed) = (file.as_raw_fd(), -1);
    let with = |attr, number: &RawFd| KvmDeviceAttr {
        group: KVM_DEV_VFIO_FILE,
        attr,
        addr: std::ptr::from_ref(number) as u64,
        ..KvmDeviceAttr::default()
    };
    for (what, result) in [
        (with(KVM_DEV_VFIO_FILE_ADD, &number), Errno::EINVAL),
        (with(KVM_DEV_VFIO_FILE_ADD, &closed), Errno::EBADF),
        (with(KVM_DEV_VFIO_FILE_DEL, &number), Errno::ENOENT),
        (with(KVM_DEV_VFIO_FILE_DEL, &closed), Errno::EBADF),
        (with(3, &number), Errno::ENXIO),
        (
            KvmDeviceAttr {
                group: 2,
                ..with(KVM_DEV_VFIO_FILE_ADD, &number)
            },
            Errno::ENXIO,
        ),
        (
            KvmDeviceAttr {
                addr: 8,
                ..with(KVM_DEV_VFIO_FILE_ADD, &number)
            },
            Errno::EFAULT,
        ),
    ] {
        assert_eq!(attr(&device, KVM_SET_DEVICE_ATTR, &what), Err(result), "{what:?}");
    }
    let add = with(KVM_DEV_VFIO_FILE_ADD, &number);
    assert_eq!(attr(&device, KVM_HAS_DEVICE_ATTR, &add), Ok(0));
    assert_eq!(attr(&device, KVM_GET_DEVICE_ATTR, &add), Err(Errno::EPERM));
    drop(device);
    drop(Open(create(&machine, KVM_DEV_TYPE_VFIO, 0).unwrap() as RawFd));
}

#[test]
fn a_panic_costs_the_vm_and_no_more() {
    let (machine, other) = (Machine::new(), Machine::new());
    let vcpu = machine.vcpu(0);
    let device = Open(create(&machine, OWN_DEVICE, 0).unwrap() as RawFd);
    vcpu.guest(|_| Step::Halt(None, Polling::Allowed));
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| vcpu.run());
        while vcpu.vcpu.stats().at(crate::stats::rows::BLOCKING).get() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(
            attr(&device, KVM_SET_DEVICE_ATTR, &KvmDeviceAttr::default()),
            Err(Errno::EIO)
        );
        assert_eq!(runs.join().expect("it only returns"), Err(Errno::EIO));
    });
    // It does not come back to life.
    assert!(vcpu.vcpu.seat().take_requests().contains(Request::DEAD));
    assert_eq!(vcpu.vcpu.seat().take_requests(), vcpu.vcpu.seat().take_requests());
    assert_eq!(vcpu.run(), Err(Errno::EIO));
    // Before anything else is looked at.
    assert_eq!(vcpu.fd.ioctl(0x5401, 0), Err(Errno::EIO));
    assert_eq!(machine.value(KVM_CHECK_EXTENSION, 0), Err(Errno::EIO));
    assert_eq!(
        attr(&device, KVM_HAS_DEVICE_ATTR, &KvmDeviceAttr::default()),
        Err(Errno::EIO)
    );
    assert_eq!(other.value(OWN_REQUEST, 3), Ok(3));
}

#[test]
fn the_last_descriptor_takes_the_vm_apart() {
    let machine = Machine::new();
    let pages = memory(1);
    machine.set_slot(0, 0, 0, &pages).unwrap();
    let vcpu = machine.vcpu(0);
    let vm = Arc::downgrade(&machine.vm);
    drop(machine);
    assert_eq!(vcpu.run(), Ok(0));
    assert!(vm.upgrade().is_some());
    drop(vcpu);
    assert!(vm.upgrade().is_none());
}

#[test]
fn a_forked_childs_table_has_the_device_only() {
    let files = Files::new();
    let (kvm, vm) = (memfd_create("kvm", 0).unwrap(), memfd_create("vm", 0).unwrap());
    let id = identity(&kvm).unwrap();
    let kvm = files
        .install(Arc::new(Inherited(FileKind::System)), kvm)
        .map(Open)
        .unwrap();
    let vm = files
        .install(Arc::new(Inherited(FileKind::Vm)), vm)
        .map(Open)
        .unwrap();
    files.forked(|kind| match kind {
        FileKind::System => Open(open_system::<Tiny>().unwrap()).file(),
        other => Arc::new(Inherited(other)),
    });
    let child = files.newest();
    let of = |fd: &Open| child.get(fd.0).expect("it is ours still");
    assert_eq!(of(&kvm).ioctl(KVM_GET_API_VERSION, 0), Ok(12));
    assert_eq!(of(&vm).ioctl(KVM_CHECK_EXTENSION, 0), Err(Errno::EIO));
    assert_eq!(
        (of(&vm).kind(), child.kind(kvm.0)),
        (FileKind::Vm, Some(FileKind::System))
    );
    assert_eq!(identity(ring3_host::fd::dup_raw(kvm.0).unwrap()).unwrap(), id);
    // What the child closes, the parent's table does not miss.
    child.closed(vm.0);
    assert!(child.get(vm.0).is_none() && files.get(vm.0).is_some());
}
