//! What interrupt controllers, their routes, messages and eventfds refuse, by who has which controllers.

use crate::*;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use std::fs::File;
use std::os::fd::AsRawFd;

/// A VM whose client has the controllers that have pins.
fn split() -> Option<Vm> {
    let vm = vm()?;
    vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [24, 0, 0, 0]).unwrap();
    Some(vm)
}

/// A VM with all controllers.
fn full() -> Option<Vm> {
    let vm = vm()?;
    vm.create_irqchip().unwrap();
    Some(vm)
}

fn pin(gsi: u32, chip: u32, pin: u32) -> KvmIrqRoutingEntry {
    KvmIrqRoutingEntry::to_irqchip(gsi, chip, pin)
}

const MESSAGE: KvmMsi = KvmMsi {
    address_lo: 0xfee0_0000,
    address_hi: 0,
    data: 0x41,
    flags: 0,
    devid: 0,
    pad: [0; 12],
};

#[test]
fn what_takes_all_controllers() {
    let (Some(vm), Some(split)) = (vm(), split()) else {
        return;
    };
    for vm in [&vm, &split] {
        for chip in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_IOAPIC, 99] {
            assert_eq!(vm.get_irqchip(chip).map(drop), Err(Errno::ENXIO));
            let state = KvmIrqchip {
                chip_id: chip,
                ..Default::default()
            };
            assert_eq!(vm.set_irqchip(&state), Err(Errno::ENXIO));
        }
        assert_eq!(vm.create_pit2(&KvmPitConfig::default()), Err(Errno::ENOENT));
        assert_eq!(vm.raw(KVM_CREATE_PIT, 0), Err(Errno::ENOENT));
        assert_eq!(vm.get_pit2().map(drop), Err(Errno::ENXIO));
        assert_eq!(
            vm.raw(KVM_GET_PIT2, NOWHERE),
            Err(Errno::ENXIO),
            "which is seen first"
        );
        assert_eq!(vm.set_pit2(&KvmPitState2::default()), Err(Errno::ENXIO));
        let control = KvmReinjectControl::default();
        assert_eq!(vm.reinject_control(&control), Err(Errno::ENXIO));
    }
    let Some(full) = full() else { return };
    for chip in [3, u32::MAX] {
        assert_eq!(full.get_irqchip(chip).map(drop), Err(Errno::EINVAL));
        let state = KvmIrqchip {
            chip_id: chip,
            ..Default::default()
        };
        assert_eq!(full.set_irqchip(&state), Err(Errno::EINVAL));
    }
    assert_eq!(full.get_pit2().map(drop), Err(Errno::ENXIO), "nobody made one");
}

#[test]
fn what_takes_local_apics() {
    let Some((vm, vcpu)) = vcpu() else { return };
    assert_eq!(vm.set_irq_line(0, 1), Err(Errno::ENXIO));
    assert_eq!(vm.irq_line_status(0, 1), Err(Errno::ENXIO));
    assert_eq!(vm.signal_msi(&MESSAGE), Err(Errno::EINVAL));
    assert_eq!(vm.set_gsi_routing(&[]), Err(Errno::EINVAL));
    assert_eq!(vm.register_irqfd(&eventfd(), 0), Err(Errno::EINVAL));
    assert_eq!(vm.create_irqchip(), Err(Errno::EINVAL), "after a vCPU");
    assert_eq!(vcpu.get_lapic().map(drop), Err(Errno::EINVAL));
    assert_eq!(
        vcpu.raw(KVM_GET_LAPIC, NOWHERE),
        Err(Errno::EINVAL),
        "which is seen first"
    );
    assert_eq!(vcpu.raw(KVM_SET_LAPIC, NOWHERE), Err(Errno::EINVAL));
    assert_eq!(vcpu.raw(KVM_SET_VAPIC_ADDR, NOWHERE), Err(Errno::EINVAL));
}

#[test]
fn routes_that_lead_nowhere() {
    let Some(vm) = full() else { return };
    let good = pin(5, KVM_IRQCHIP_IOAPIC, 5);
    let msi = KvmIrqRoutingEntry::to_msi(24, 0xfee0_0000, 0x41);
    for (name, wrong) in [
        ("a pin of no chip", vec![pin(5, 3, 0)]),
        ("an I/O APIC's pin 24", vec![pin(5, KVM_IRQCHIP_IOAPIC, 24)]),
        ("an 8259's pin 8", vec![pin(5, KVM_IRQCHIP_PIC_MASTER, 8)]),
        ("the other 8259's pin 8", vec![pin(5, KVM_IRQCHIP_PIC_SLAVE, 8)]),
        ("GSI 4096", vec![pin(4096, KVM_IRQCHIP_IOAPIC, 5)]),
        ("type 0", vec![KvmIrqRoutingEntry { type_: 0, ..good }]),
        ("type 99", vec![KvmIrqRoutingEntry { type_: 99, ..good }]),
        ("an s390 adapter", vec![KvmIrqRoutingEntry { type_: 3, ..good }]),
        ("a flag of a pin", vec![KvmIrqRoutingEntry { flags: 1, ..good }]),
        (
            "a flag of a message",
            vec![KvmIrqRoutingEntry { flags: 2, ..msi }],
        ),
        ("a chip twice", vec![good, pin(5, KVM_IRQCHIP_IOAPIC, 6)]),
        (
            "a pin and a message",
            vec![good, KvmIrqRoutingEntry { gsi: 5, ..msi }],
        ),
        ("two messages", vec![msi, msi]),
    ] {
        assert_eq!(vm.set_gsi_routing(&wrong), Err(Errno::EINVAL), "{name}");
    }
    let header = [1u32, 1];
    let flagged = vm.raw(KVM_SET_GSI_ROUTING, header.as_ptr() as u64);
    assert_eq!(flagged, Err(Errno::EINVAL), "no flags of the whole");
    let both = [good, pin(5, KVM_IRQCHIP_PIC_MASTER, 5), msi];
    assert_eq!(vm.set_gsi_routing(&both), OK, "a pin of each chip is fine");
    let device = KvmIrqRoutingEntry {
        flags: KVM_MSI_VALID_DEVID,
        ..msi
    };
    assert_eq!(vm.set_gsi_routing(&[device]), OK);
    assert_eq!(vm.set_gsi_routing(&[]), OK, "none at all");
    let Some(split) = split() else { return };
    assert_eq!(
        split.set_gsi_routing(&[good]),
        Err(Errno::EINVAL),
        "no pins there"
    );
    assert_eq!(split.set_gsi_routing(&[msi]), OK);
}

#[test]
fn messages_that_reach_nobody() {
    let Some(vm) = full() else { return };
    for flags in [2, 1 << 31] {
        let flagged = KvmMsi { flags, ..MESSAGE };
        assert_eq!(vm.signal_msi(&flagged), Err(Errno::EINVAL));
    }
    assert_eq!(vm.signal_msi(&MESSAGE), Err(Errno::EPERM), "there are no vCPUs");
    let _vcpu = vm.create_vcpu(0).unwrap();
    let to = |id: u32| KvmMsi {
        address_lo: 0xfee0_0000 | id << 12,
        ..MESSAGE
    };
    assert!(vm.signal_msi(&MESSAGE).is_ok());
    assert_eq!(vm.signal_msi(&to(5)), Ok(0), "none of theirs");
    // Above 255, an id's upper part is above the lowest byte.
    let wide = KvmMsi {
        address_hi: 1,
        ..MESSAGE
    };
    assert_eq!(vm.signal_msi(&wide), Ok(0), "a part that is not looked at");
    let ids = KVM_X2APIC_API_USE_32BIT_IDS;
    vm.enable_cap(KVM_CAP_X2APIC_API, [ids, 0, 0, 0]).unwrap();
    assert_eq!(vm.signal_msi(&wide), Err(Errno::EINVAL));
    let route = KvmIrqRoutingEntry::to_msi(24, 0x1_fee0_0000, 0x41);
    assert_eq!(vm.set_gsi_routing(&[route]), Err(Errno::EINVAL));
}

#[test]
fn eventfds_of_lines() {
    let (Some(full), Some(split)) = (full(), split()) else {
        return;
    };
    let (event, other) = (eventfd(), eventfd());
    let null = File::open("/dev/null").unwrap();
    let number = |fd: &dyn AsRawFd| fd.as_raw_fd() as u32;
    let good = KvmIrqfd {
        fd: number(&event),
        gsi: 5,
        ..Default::default()
    };
    let resample = |fd| KvmIrqfd {
        flags: KVM_IRQFD_FLAG_RESAMPLE,
        resamplefd: fd,
        ..good
    };
    let deassign = |fd| KvmIrqfd {
        flags: KVM_IRQFD_FLAG_DEASSIGN,
        fd,
        ..good
    };
    for (name, args, errno) in [
        ("flag 2", KvmIrqfd { flags: 4, ..good }, Errno::EINVAL),
        ("no descriptor", KvmIrqfd { fd: u32::MAX, ..good }, Errno::EBADF),
        (
            "/dev/null",
            KvmIrqfd {
                fd: number(&null),
                ..good
            },
            Errno::EINVAL,
        ),
        ("no second descriptor", resample(u32::MAX), Errno::EBADF),
        ("/dev/null as the second", resample(number(&null)), Errno::EINVAL),
        ("the end of no descriptor", deassign(u32::MAX), Errno::EBADF),
        ("the end of /dev/null", deassign(number(&null)), Errno::EINVAL),
    ] {
        assert_eq!(full.irqfd(&args), Err(errno), "{name}");
    }
    assert_eq!(full.irqfd(&deassign(number(&event))), OK, "of what never began");
    let both = resample(number(&other));
    assert_eq!(split.irqfd(&both), Err(Errno::EINVAL), "no pins to look at");
    assert_eq!(full.irqfd(&both), OK);
    assert_eq!(full.irqfd(&both), Err(Errno::EBUSY));
    assert_eq!(split.irqfd(&good), Err(Errno::EBUSY), "of all VMs");
    assert_eq!(full.irqfd(&deassign(number(&event))), OK);
    assert_eq!(split.irqfd(&good), OK);
}

#[test]
fn the_shared_task_priority_is_in_memory() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x2000);
    vm.add_memory(0, 0x10000, &ram, 0).unwrap();
    let set = |vapic_addr| vcpu.set_vapic_addr(&KvmVapicAddr { vapic_addr });
    for there in [0x10000, 0x10ffe, 0x11ffc, 0] {
        assert_eq!(set(there), OK, "{there:#x}");
    }
    for gone in [0xffc, 0xfffd, 0x11ffd, 0x12000, u64::MAX] {
        assert_eq!(set(gone), Err(Errno::EINVAL), "{gone:#x}");
    }
}
