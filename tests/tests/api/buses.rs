//! Eventfds and coalesced zones on the buses: what cannot be put there, and how much can.

use crate::*;
use ring3_uapi::*;
use std::fs::File;
use std::os::fd::AsRawFd;

#[test]
fn eventfds_that_cannot_be() {
    let Some(vm) = vm() else { return };
    let event = eventfd();
    let null = File::open("/dev/null").unwrap();
    let good = KvmIoeventfd {
        addr: 0xd000_0000,
        len: 4,
        fd: event.as_raw_fd(),
        ..Default::default()
    };
    let len = |len| KvmIoeventfd { len, ..good };
    let flags = |flags| KvmIoeventfd { flags, ..good };
    let fd = |fd, flags| KvmIoeventfd { fd, flags, ..good };
    let end = KVM_IOEVENTFD_FLAG_DEASSIGN;
    for (name, args, errno) in [
        ("three bytes", len(3), Errno::EINVAL),
        ("16 bytes", len(16), Errno::EINVAL),
        ("a flag that there is not", flags(1 << 5), Errno::EINVAL),
        ("no descriptor", fd(-1, 0), Errno::EBADF),
        ("/dev/null", fd(null.as_raw_fd(), 0), Errno::EINVAL),
        ("the end of no descriptor", fd(-1, end), Errno::EBADF),
        ("the end of /dev/null", fd(null.as_raw_fd(), end), Errno::EINVAL),
        ("the end of what never began", flags(end), Errno::ENOENT),
        (
            "a value of no length",
            KvmIoeventfd {
                flags: KVM_IOEVENTFD_FLAG_DATAMATCH,
                ..len(0)
            },
            Errno::EINVAL,
        ),
        (
            "more than there are addresses",
            KvmIoeventfd {
                addr: u64::MAX - 2,
                ..good
            },
            Errno::EINVAL,
        ),
    ] {
        assert_eq!(vm.ioeventfd(&args), Err(errno), "{name}");
    }
}

#[test]
fn eventfds_that_collide() {
    let Some(vm) = vm() else { return };
    let (event, other) = (eventfd(), eventfd());
    let with = |fd: &dyn AsRawFd, flags, len, datamatch| {
        vm.ioeventfd(&KvmIoeventfd {
            addr: 0xd000_0000,
            fd: fd.as_raw_fd(),
            flags,
            len,
            datamatch,
            ..Default::default()
        })
    };
    let value = KVM_IOEVENTFD_FLAG_DATAMATCH;
    let end = KVM_IOEVENTFD_FLAG_DEASSIGN;
    assert_eq!(with(&event, value, 4, 1), OK);
    assert_eq!(with(&other, value, 4, 1), Err(Errno::EEXIST), "the same value");
    assert_eq!(with(&other, 0, 4, 0), Err(Errno::EEXIST), "any value");
    assert_eq!(with(&other, 0, 0, 0), Err(Errno::EEXIST), "any length");
    assert_eq!(with(&other, value, 4, 2), OK);
    assert_eq!(with(&other, value, 2, 1), OK, "another length");
    assert_eq!(with(&other, KVM_IOEVENTFD_FLAG_PIO, 0, 0), OK, "another bus");
    for (flags, len, datamatch) in [
        (end | value, 4, 2),
        (end, 4, 0),
        (end | value, 2, 1),
        (end | KVM_IOEVENTFD_FLAG_PIO, 0, 0),
    ] {
        assert_eq!(with(&event, flags, len, datamatch), Err(Errno::ENOENT));
    }
    assert_eq!(with(&event, end | value, 4, 1), OK);
    assert_eq!(with(&event, end | value, 4, 1), Err(Errno::ENOENT));
}

#[test]
fn zones_are_many_but_not_without_end() {
    let Some(vm) = vm() else { return };
    let zone = |pio, addr| KvmCoalescedMmioZone { addr, size: 8, pio };
    for pio in [2, u32::MAX] {
        assert_eq!(vm.register_coalesced_mmio(&zone(pio, 0)), Err(Errno::EINVAL));
        assert_eq!(vm.unregister_coalesced_mmio(&zone(pio, 0)), Err(Errno::EINVAL));
    }
    assert_eq!(vm.unregister_coalesced_mmio(&zone(0, 0)), OK, "there is none");
    // It does not count, but is counted for.
    let event = eventfd();
    let ioeventfd = |addr| {
        vm.ioeventfd(&KvmIoeventfd {
            addr,
            len: 4,
            fd: event.as_raw_fd(),
            ..Default::default()
        })
    };
    assert_eq!(ioeventfd(0xe000_0000), OK);
    let mmio = |i: u64| zone(0, 0xd000_0000 + 8 * i);
    for i in 0..1000 {
        assert_eq!(vm.register_coalesced_mmio(&mmio(i)), OK, "{i}");
    }
    assert_eq!(vm.register_coalesced_mmio(&mmio(1000)), Err(Errno::ENOSPC));
    assert_eq!(vm.register_coalesced_mmio(&zone(1, 0x80)), OK, "another bus");
    assert_eq!(ioeventfd(0xe000_0004), Err(Errno::ENOSPC));
    assert_eq!(vm.unregister_coalesced_mmio(&mmio(7)), OK);
    assert_eq!(ioeventfd(0xe000_0004), OK);
    assert_eq!(vm.register_coalesced_mmio(&mmio(1000)), OK);
}
