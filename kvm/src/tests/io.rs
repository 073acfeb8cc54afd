//! The I/O buses and KVM_IOEVENTFD.

use super::Machine;
use crate::errno::Errno;
use crate::io::{Bus, IoDevice};
use ring3_host::fd::{eventfd, eventfd_take};
use ring3_uapi::ioctl::KVM_IOEVENTFD;
use ring3_uapi::{
    KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IOEVENTFD_FLAG_PIO,
    KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, KvmIoeventfd,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Barrier, Mutex};

const PIO: u32 = KVM_IOEVENTFD_FLAG_PIO;
const MATCH: u32 = KVM_IOEVENTFD_FLAG_DATAMATCH;
const GONE: u32 = KVM_IOEVENTFD_FLAG_DEASSIGN;

fn event(fd: &OwnedFd, flags: u32, addr: u64, len: u32, datamatch: u64) -> KvmIoeventfd {
    KvmIoeventfd {
        datamatch,
        addr,
        len,
        fd: fd.as_raw_fd(),
        flags,
        ..KvmIoeventfd::default()
    }
}

fn fired(fd: &OwnedFd) -> u64 {
    eventfd_take(fd).expect("an eventfd").unwrap_or(0)
}

#[test]
fn a_write_must_match_in_all() {
    let machine = Machine::new();
    let io = machine.vm.io();
    let (any, exact, long) = (eventfd().unwrap(), eventfd().unwrap(), eventfd().unwrap());
    let set = |event: &KvmIoeventfd| machine.call(KVM_IOEVENTFD, event);
    assert_eq!(set(&event(&any, PIO, 0x10, 2, 0)), Ok(0));
    assert_eq!(set(&event(&exact, PIO | MATCH, 0x20, 4, 0x1234)), Ok(0));
    assert_eq!(set(&event(&long, 0, 0x1000, 0, 0)), Ok(0));
    assert!(io.write(Bus::Pio, 0x10, &[0, 0]));
    assert!(!io.write(Bus::Pio, 0x10, &[0]) && !io.write(Bus::Pio, 0x10, &[0; 4]));
    assert!(!io.write(Bus::Pio, 0x11, &[0]) && !io.write(Bus::Mmio, 0x10, &[0, 0]));
    assert!(!io.read(Bus::Pio, 0x10, &mut [0; 2]));
    assert_eq!(fired(&any), 1);
    assert!(io.write(Bus::Pio, 0x20, &0x1234u32.to_le_bytes()));
    assert!(!io.write(Bus::Pio, 0x20, &0x1235u32.to_le_bytes()));
    assert!(!io.write(Bus::Pio, 0x20, &0x1234u16.to_le_bytes()));
    assert_eq!(fired(&exact), 1);
    // Any length, but only exactly there.
    for len in [1, 2, 4, 8] {
        assert!(io.write(Bus::Mmio, 0x1000, &[7; 8][..len]));
        assert!(!io.write(Bus::Mmio, 0x1001, &[7; 8][..len]));
    }
    assert_eq!(fired(&long), 4);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let machine = Machine::new();
    let fd = eventfd().unwrap();
    let not_event = ring3_host::fd::memfd_create("not an eventfd", 0).unwrap();
    let set = |event: &KvmIoeventfd| machine.call(KVM_IOEVENTFD, event);
    for bad in [
        event(&fd, 0, 0, 3, 0),
        event(&fd, 0, 0, 16, 0),
        event(&fd, 0, u64::MAX - 2, 4, 0),
        event(&fd, 1 << 5, 0, 4, 0),
        event(&fd, MATCH, 0, 0, 0),
        event(&not_event, 0, 0, 4, 0),
    ] {
        assert_eq!(set(&bad), Err(Errno::EINVAL), "{bad:?}");
    }
    let closed = KvmIoeventfd {
        fd: -1,
        ..event(&fd, 0, 0, 4, 0)
    };
    assert_eq!(set(&closed), Err(Errno::EBADF));
    assert_eq!(
        set(&KvmIoeventfd {
            flags: GONE,
            ..closed
        }),
        Err(Errno::EBADF)
    );
    assert_eq!(machine.value(KVM_IOEVENTFD, 16), Err(Errno::EFAULT));
    // Removing looks at nothing but what is to be removed.
    assert_eq!(set(&event(&fd, GONE, 0, 3, 0)), Err(Errno::ENOENT));
}

#[test]
fn two_that_a_write_could_mean_collide() {
    let machine = Machine::new();
    let (a, b) = (eventfd().unwrap(), eventfd().unwrap());
    let set = |event: &KvmIoeventfd| machine.call(KVM_IOEVENTFD, event);
    assert_eq!(set(&event(&a, MATCH, 0x10, 4, 1)), Ok(0));
    assert_eq!(set(&event(&b, MATCH, 0x10, 4, 1)), Err(Errno::EEXIST));
    assert_eq!(set(&event(&b, 0, 0x10, 4, 0)), Err(Errno::EEXIST));
    assert_eq!(set(&event(&b, 0, 0x10, 0, 0)), Err(Errno::EEXIST));
    // Another value, length, bus.
    assert_eq!(set(&event(&b, MATCH, 0x10, 4, 2)), Ok(0));
    assert_eq!(set(&event(&b, 0, 0x10, 2, 0)), Ok(0));
    assert_eq!(set(&event(&b, PIO | MATCH, 0x10, 4, 1)), Ok(0));
    // The bus of virtio-ccw notifications is one of its own.
    let ccw = event(&b, KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, 0x10, 4, 0);
    assert_eq!((set(&ccw), set(&ccw)), (Ok(0), Err(Errno::EEXIST)));
    assert!(machine.vm.io().write(Bus::Mmio, 0x10, &2u32.to_le_bytes()));
    assert_eq!((fired(&a), fired(&b)), (0, 1));
}

#[test]
fn removing_names_it_in_full() {
    let machine = Machine::new();
    let (a, b) = (eventfd().unwrap(), eventfd().unwrap());
    let set = |event: &KvmIoeventfd| machine.call(KVM_IOEVENTFD, event);
    assert_eq!(set(&event(&a, PIO | MATCH, 0x10, 4, 1)), Ok(0));
    for other in [
        event(&b, PIO | MATCH | GONE, 0x10, 4, 1),
        event(&a, MATCH | GONE, 0x10, 4, 1),
        event(&a, PIO | GONE, 0x10, 4, 1),
        event(&a, PIO | MATCH | GONE, 0x11, 4, 1),
        event(&a, PIO | MATCH | GONE, 0x10, 2, 1),
        event(&a, PIO | MATCH | GONE, 0x10, 4, 2),
    ] {
        assert_eq!(set(&other), Err(Errno::ENOENT), "{other:?}");
    }
    let gone = event(&a, PIO | MATCH | GONE, 0x10, 4, 1);
    assert_eq!((set(&gone), set(&gone)), (Ok(0), Err(Errno::ENOENT)));
    assert!(!machine.vm.io().write(Bus::Pio, 0x10, &1u32.to_le_bytes()));
}

/// Runs `work` on two threads at the same time; how many of them said yes.
fn twice_at_once(work: impl Fn() -> bool + Sync) -> usize {
    let start = Barrier::new(2);
    let each = || {
        start.wait();
        work()
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(each);
        usize::from(each()) + usize::from(other.join().expect("no panic"))
    })
}

#[test]
fn of_two_at_once_one_gets_it() {
    let machine = Machine::new();
    let fd = eventfd().unwrap();
    for _ in 0..300 {
        let set = |flags| machine.call(KVM_IOEVENTFD, &event(&fd, flags, 0x10, 4, 0));
        assert_eq!(twice_at_once(|| set(PIO) == Ok(0)), 1);
        assert_eq!(twice_at_once(|| set(PIO | GONE) == Ok(0)), 1);
    }
}

struct Notes {
    name: u8,
    seen: Arc<Mutex<Vec<u8>>>,
    takes: bool,
}

impl IoDevice for Notes {
    fn read(&self, _: u64, data: &mut [u8]) -> bool {
        data.fill(self.name);
        self.takes
    }

    fn write(&self, _: u64, _: &[u8]) -> bool {
        self.seen.lock().unwrap().push(self.name);
        self.takes
    }
}

#[test]
fn ranges_are_asked_in_order_until_one_takes_it() {
    let machine = Machine::new();
    let io = machine.vm.io();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let device = |name, takes| -> Arc<dyn IoDevice> {
        Arc::new(Notes {
            name,
            seen: Arc::clone(&seen),
            takes,
        })
    };
    let (long, short) = (device(1, false), device(2, true));
    io.add_device(Bus::Pio, 0x40, 0x20, Arc::clone(&long)).unwrap();
    io.add_device(Bus::Pio, 0x50, 2, Arc::clone(&short)).unwrap();
    assert!(io.write(Bus::Pio, 0x50, &[0, 0]));
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [1, 2]);
    // An access must lie inside.
    assert!(!io.write(Bus::Pio, 0x51, &[0, 0]));
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [1]);
    assert!(!io.write(Bus::Pio, 0x5f, &[0, 0]));
    let mut data = [0; 2];
    assert!(io.read(Bus::Pio, 0x50, &mut data));
    assert_eq!(data, [2, 2]);
    io.remove_device(Bus::Pio, &short);
    assert!(!io.read(Bus::Pio, 0x50, &mut data));
}

#[test]
fn devices_are_counted_and_eventfds_are_not() {
    let machine = Machine::new();
    let io = machine.vm.io();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let device: Arc<dyn IoDevice> = Arc::new(Notes {
        name: 0,
        seen,
        takes: true,
    });
    for i in 0..1000 {
        assert_eq!(io.add_device(Bus::Mmio, i, 1, Arc::clone(&device)), Ok(()));
    }
    assert_eq!(
        io.add_device(Bus::Mmio, 1000, 1, Arc::clone(&device)),
        Err(Errno::ENOSPC)
    );
    assert_eq!(io.add_device(Bus::Pio, 0, 1, Arc::clone(&device)), Ok(()));
    io.remove_device(Bus::Mmio, &device);
    let fd = eventfd().unwrap();
    for i in 0..1100 {
        assert_eq!(machine.call(KVM_IOEVENTFD, &event(&fd, 0, i * 8, 4, 0)), Ok(0));
    }
    assert_eq!(io.add_device(Bus::Mmio, 0, 1, device), Ok(()));
}
