//! Routing, KVM_IRQ_LINE, KVM_SIGNAL_MSI and KVM_IRQFD.

use super::Machine;
use crate::errno::Errno;
use crate::irq::{IrqSource, Level, LineStatus, Msi, Pin, Route, set_gsi_routing};
use ring3_host::fd::{eventfd, eventfd_signal, eventfd_take, memfd_create};
use ring3_uapi::ioctl::{KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KVM_IRQFD, KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI};
use ring3_uapi::{
    KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE, KVM_MSI_VALID_DEVID, KvmIrqLevel, KvmIrqRouting,
    KvmIrqRoutingEntry, KvmIrqfd, KvmMsi,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

const RESAMPLE: u32 = KVM_IRQFD_FLAG_RESAMPLE;
const GONE: u32 = KVM_IRQFD_FLAG_DEASSIGN;

fn pin(chip: u32, pin: u32) -> Route {
    Route::Pin(Pin { chip, pin })
}

fn route(machine: &Machine, entries: &[KvmIrqRoutingEntry]) -> Result<(), Errno> {
    set_gsi_routing(&*machine.vm, entries)
}

/// With GSI `n` on pin `n` of controller 0.
fn wired() -> Machine {
    let machine = Machine::with_controller();
    let entries: Vec<_> = (0..8).map(|n| KvmIrqRoutingEntry::to_irqchip(n, 0, n)).collect();
    route(&machine, &entries).expect("every pin exists");
    machine
}

fn irqfd(fd: &OwnedFd, gsi: u32, flags: u32, resample: Option<&OwnedFd>) -> KvmIrqfd {
    KvmIrqfd {
        fd: fd.as_raw_fd() as u32,
        gsi,
        flags,
        resamplefd: resample.map_or(u32::MAX, |fd| fd.as_raw_fd() as u32),
        ..KvmIrqfd::default()
    }
}

/// Waits for what the service thread does.
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "nothing came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn driven(machine: &Machine, count: usize) -> Vec<(Route, IrqSource, Level)> {
    let mut all = Vec::new();
    eventually(|| {
        all.extend(machine.driven());
        (all.len() >= count).then_some(())
    });
    all
}

#[test]
fn a_gsi_goes_to_one_pin_of_each_controller() {
    let machine = Machine::with_controller();
    let to = KvmIrqRoutingEntry::to_irqchip;
    assert_eq!(route(&machine, &[to(1, 0, 1), to(1, 2, 3)]), Ok(()));
    assert_eq!(
        machine.vm.set_irq(1, IrqSource::Client, Level::High),
        LineStatus::Delivered(2)
    );
    assert_eq!(
        machine.driven(),
        [
            (pin(0, 1), IrqSource::Client, Level::High),
            (pin(2, 3), IrqSource::Client, Level::High)
        ]
    );
    let mut unknown = to(1, 0, 1);
    unknown.type_ = 99;
    let mut flagged = to(1, 0, 1);
    flagged.flags = 1;
    for bad in [
        vec![to(1, 0, 1), to(1, 0, 2)],
        vec![to(1, 0, 1), KvmIrqRoutingEntry::to_msi(1, 0xfee0_0000, 0)],
        vec![to(32, 0, 1)],
        vec![to(1, 0, 8)],
        vec![unknown],
        vec![flagged],
    ] {
        assert_eq!(route(&machine, &bad), Err(Errno::EINVAL), "{bad:?}");
    }
    // What was refused changed nothing; an empty table disconnects all.
    let table = machine.vm.irqs().routing().table();
    assert_eq!(table.gsi_of(Pin { chip: 2, pin: 3 }), Some(1));
    assert_eq!(route(&machine, &[]), Ok(()));
    assert_eq!(
        machine.vm.set_irq(1, IrqSource::Client, Level::High),
        LineStatus::Ignored
    );
    assert_eq!(
        machine.vm.set_irq(u32::MAX, IrqSource::Client, Level::High),
        LineStatus::Ignored
    );
}

#[test]
fn messages_keep_their_device() {
    let machine = Machine::with_controller();
    let mut entry = KvmIrqRoutingEntry::to_msi(4, 0x1_fee0_1000, 0x31);
    assert_eq!(route(&machine, &[entry]), Ok(()));
    let msi = |device| {
        Route::Msi(Msi {
            address: 0x1_fee0_1000,
            data: 0x31,
            device,
        })
    };
    assert_eq!(machine.vm.irqs().routing().table().routes(4), [msi(None)]);
    entry.flags = KVM_MSI_VALID_DEVID;
    assert_eq!(route(&machine, &[entry]), Ok(()));
    assert_eq!(machine.vm.irqs().routing().table().routes(4), [msi(Some(0))]);
    let mut sent = KvmMsi {
        address_lo: 0xfee0_1000,
        address_hi: 1,
        data: 0x31,
        ..KvmMsi::default()
    };
    assert_eq!(machine.call(KVM_SIGNAL_MSI, &sent), Ok(1));
    assert_eq!(machine.driven(), [(msi(None), IrqSource::Client, Level::High)]);
    sent.flags = 2;
    assert_eq!(machine.call(KVM_SIGNAL_MSI, &sent), Err(Errno::EINVAL));
}

#[test]
fn the_table_comes_after_its_header() {
    let machine = wired();
    let entries = [
        KvmIrqRoutingEntry::to_irqchip(5, 0, 3),
        KvmIrqRoutingEntry::to_irqchip(6, 0, 0),
    ];
    let header = KvmIrqRouting { nr: 2, flags: 0 };
    let args = [header.as_bytes(), entries.as_bytes()].concat();
    let set = |machine: &Machine| machine.value(KVM_SET_GSI_ROUTING, args.as_ptr() as u64);
    assert_eq!(set(&machine), Ok(0));
    let table = machine.vm.irqs().routing().table();
    assert_eq!(
        (table.routes(5), table.routes(6)),
        (&[pin(0, 3)][..], &[pin(0, 0)][..])
    );
    for header in [
        KvmIrqRouting { nr: 33, flags: 0 },
        KvmIrqRouting { nr: 0, flags: 1 },
    ] {
        assert_eq!(machine.call(KVM_SET_GSI_ROUTING, &header), Err(Errno::EINVAL));
    }
    assert_eq!(set(&Machine::new()), Err(Errno::EINVAL));
}

#[test]
fn lines_need_a_controller() {
    let machine = wired();
    let mut line = KvmIrqLevel { irq: 3, level: 7 };
    assert_eq!(machine.call(KVM_IRQ_LINE, &line), Ok(0));
    assert_eq!(machine.driven(), [(pin(0, 3), IrqSource::Client, Level::High)]);
    line.level = 0;
    assert_eq!(machine.call(KVM_IRQ_LINE_STATUS, &line), Ok(0));
    assert_eq!(line.status(), 1);
    let mut line = KvmIrqLevel { irq: 30, level: 1 };
    assert_eq!(
        machine.value(KVM_IRQ_LINE_STATUS, std::ptr::from_mut(&mut line) as u64),
        Ok(0)
    );
    assert_eq!(line.status(), -1);
    let without = Machine::new();
    assert_eq!(without.call(KVM_IRQ_LINE, &line), Err(Errno::ENXIO));
    assert_eq!(
        without.call(KVM_SIGNAL_MSI, &KvmMsi::default()),
        Err(Errno::EINVAL)
    );
}

#[test]
fn statuses_add_up() {
    use LineStatus::{Coalesced, Delivered, Ignored};
    assert_eq!(Ignored.merge(Ignored).code(), -1);
    assert_eq!(Ignored.merge(Coalesced).code(), 0);
    assert_eq!(Coalesced.merge(Delivered(2)).code(), 2);
    assert_eq!(Delivered(1).merge(Delivered(2)).code(), 3);
}

#[test]
fn a_signal_pulses_the_line() {
    let machine = wired();
    let event = eventfd().unwrap();
    assert_eq!(machine.call(KVM_IRQFD, &irqfd(&event, 3, 0, None)), Ok(0));
    eventfd_signal(&event).unwrap();
    let pulse = [
        (pin(0, 3), IrqSource::Client, Level::High),
        (pin(0, 3), IrqSource::Client, Level::Low),
    ];
    assert_eq!(driven(&machine, 2), pulse);
    assert_eq!(machine.call(KVM_IRQFD, &irqfd(&event, 4, GONE, None)), Ok(0));
    eventfd_signal(&event).unwrap();
    assert_eq!(driven(&machine, 2), pulse);
    // Only the right line takes it off; what is signalled from then on stays in the eventfd.
    assert_eq!(machine.call(KVM_IRQFD, &irqfd(&event, 3, GONE, None)), Ok(0));
    eventfd_signal(&event).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(
        (machine.driven(), eventfd_take(&event).unwrap()),
        (vec![], Some(1))
    );
    // One that is signalled already fires as soon as it is assigned.
    eventfd_signal(&event).unwrap();
    assert_eq!(machine.call(KVM_IRQFD, &irqfd(&event, 3, 0, None)), Ok(0));
    assert_eq!(driven(&machine, 2), pulse);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let machine = wired();
    let (event, other) = (eventfd().unwrap(), eventfd().unwrap());
    let file = memfd_create("not an eventfd", 0).unwrap();
    let set = |args: &KvmIrqfd| machine.call(KVM_IRQFD, args);
    assert_eq!(set(&irqfd(&event, 3, 4, None)), Err(Errno::EINVAL));
    assert_eq!(set(&irqfd(&file, 3, 0, None)), Err(Errno::EINVAL));
    assert_eq!(set(&irqfd(&file, 3, GONE, None)), Err(Errno::EINVAL));
    assert_eq!(set(&irqfd(&event, 3, RESAMPLE, None)), Err(Errno::EBADF));
    assert_eq!(set(&irqfd(&event, 3, RESAMPLE, Some(&file))), Err(Errno::EINVAL));
    let closed = KvmIrqfd {
        fd: u32::MAX,
        ..irqfd(&event, 3, 0, None)
    };
    assert_eq!(set(&closed), Err(Errno::EBADF));
    assert_eq!(set(&irqfd(&event, 3, 0, None)), Ok(0));
    // An eventfd stands for one line only.
    assert_eq!(set(&irqfd(&event, 4, 0, None)), Err(Errno::EBUSY));
    assert_eq!(set(&irqfd(&other, 3, 0, None)), Ok(0));
    assert_eq!(
        Machine::new().call(KVM_IRQFD, &irqfd(&event, 3, 0, None)),
        Err(Errno::EINVAL)
    );
}

#[test]
fn a_resampled_line_stays_up_until_it_is_acknowledged() {
    let machine = wired();
    let (event, resample) = (eventfd().unwrap(), eventfd().unwrap());
    let (second, second_resample) = (eventfd().unwrap(), eventfd().unwrap());
    let here = Pin { chip: 0, pin: 3 };
    assert!(!machine.vm.ack_wanted(here));
    assert_eq!(
        machine.call(KVM_IRQFD, &irqfd(&event, 3, RESAMPLE, Some(&resample))),
        Ok(0)
    );
    assert_eq!(
        machine.call(KVM_IRQFD, &irqfd(&second, 3, RESAMPLE, Some(&second_resample))),
        Ok(0)
    );
    assert!(machine.vm.ack_wanted(here) && !machine.vm.ack_wanted(Pin { chip: 0, pin: 4 }));
    eventfd_signal(&event).unwrap();
    assert_eq!(
        driven(&machine, 1),
        [(pin(0, 3), IrqSource::Resample, Level::High)]
    );
    machine.vm.irq_acked(Pin { chip: 0, pin: 4 });
    assert_eq!(eventfd_take(&resample).unwrap(), None);
    machine.vm.irq_acked(here);
    // Lowered once, and all who share the line are told.
    assert_eq!(machine.driven(), [(pin(0, 3), IrqSource::Resample, Level::Low)]);
    assert_eq!(eventfd_take(&resample).unwrap(), Some(1));
    assert_eq!(eventfd_take(&second_resample).unwrap(), Some(1));
    assert_eq!(machine.call(KVM_IRQFD, &irqfd(&event, 3, GONE, None)), Ok(0));
    assert_eq!(machine.driven(), []);
    assert!(machine.vm.ack_wanted(here));
    // With the last one the line falls.
    assert_eq!(machine.call(KVM_IRQFD, &irqfd(&second, 3, GONE, None)), Ok(0));
    assert_eq!(machine.driven(), [(pin(0, 3), IrqSource::Resample, Level::Low)]);
    assert!(!machine.vm.ack_wanted(here));
    machine.vm.irq_acked(here);
    assert_eq!(eventfd_take(&resample).unwrap(), None);
}

#[test]
fn an_irqfd_ends_with_its_eventfd() {
    let machine = wired();
    let assign = |fd: &OwnedFd, gsi| machine.call(KVM_IRQFD, &irqfd(fd, gsi, 0, None));
    let event = eventfd().unwrap();
    assert_eq!(assign(&event, 1), Ok(0));
    assert_eq!(assign(&event, 2), Err(Errno::EBUSY));
    // Another descriptor is as good as the first.
    let again = event.try_clone().unwrap();
    drop(event);
    assert_eq!(assign(&again, 2), Err(Errno::EBUSY));
    eventfd_signal(&again).unwrap();
    assert_eq!(driven(&machine, 2)[0].0, pin(0, 1));
    drop(again);
    for _ in 0..10 {
        assert_eq!(assign(&eventfd().unwrap(), 1), Ok(0));
    }
    assert!(machine.vm.irqs().irqfds().count() <= 1 + 10);
    let event = eventfd().unwrap();
    assert_eq!(assign(&event, 1), Ok(0));
    if ring3_host::eventfd::files_compare() {
        assert_eq!(machine.vm.irqs().irqfds().count(), 1);
    }
}
