//! Interrupt controllers, lines, routes, and the eventfds that stand for them.

use crate::*;
use ring3_uapi::cap::{
    KVM_CAP_MAX_VCPU_ID, KVM_CAP_X2APIC_API, KVM_CAP_X86_APIC_BUS_CYCLES_NS, KVM_CAP_X86_DISABLE_EXITS,
};
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use std::fs::File;
use std::os::fd::AsRawFd;

fn eventfd() -> std::os::fd::OwnedFd {
    ring3_host::fd::eventfd().expect("eventfd")
}

#[test]
fn without_controllers() {
    let Some((vm, vcpu)) = vcpu() else { return };
    assert_eq!(vm.set_irq_line(0, 1), Err(Errno::ENXIO));
    assert_eq!(vm.get_irqchip(0).map(drop), Err(Errno::ENXIO));
    assert_eq!(vm.set_irqchip(&KvmIrqchip::default()), Err(Errno::ENXIO));
    assert_eq!(vm.get_pit2().map(drop), Err(Errno::ENXIO));
    assert_eq!(vm.create_pit2(&KvmPitConfig::default()), Err(Errno::ENOENT));
    assert_eq!(
        vm.reinject_control(&KvmReinjectControl::default()),
        Err(Errno::ENXIO)
    );
    assert_eq!(vm.create_irqchip(), Err(Errno::EINVAL), "after a vCPU");
    assert_eq!(vcpu.get_lapic().map(drop), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_lapic(&KvmLapicState::default()), Err(Errno::EINVAL));
    assert_eq!(vm.signal_msi(&KvmMsi::default()), Err(Errno::EINVAL));
}

#[test]
fn controllers_and_timer_once() {
    let Some(vm) = vm() else { return };
    assert_eq!(vm.create_irqchip(), OK);
    assert_eq!(vm.create_irqchip(), Err(Errno::EEXIST));
    assert_eq!(vm.create_pit2(&KvmPitConfig::default()), OK);
    assert_eq!(vm.create_pit2(&KvmPitConfig::default()), Err(Errno::EEXIST));
    assert_eq!(vm.get_irqchip(3).map(drop), Err(Errno::EINVAL));
}

#[test]
fn controller_state_comes_back() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let mut chip = vm.get_irqchip(KVM_IRQCHIP_IOAPIC).unwrap();
    let mut ioapic = chip.ioapic();
    assert_eq!(ioapic.base_address, 0xfec0_0000);
    ioapic.redirtbl[5] = 0x1_0031;
    chip.set_ioapic(ioapic);
    assert_eq!(vm.set_irqchip(&chip), OK);
    assert_eq!(vm.get_irqchip(KVM_IRQCHIP_IOAPIC).unwrap().ioapic(), ioapic);

    let mut chip = vm.get_irqchip(KVM_IRQCHIP_PIC_SLAVE).unwrap();
    let pic = KvmPicState {
        imr: 0xa5,
        irq_base: 0x70,
        ..chip.pic()
    };
    chip.set_pic(pic);
    assert_eq!(vm.set_irqchip(&chip), OK);
    assert_eq!(vm.get_irqchip(KVM_IRQCHIP_PIC_SLAVE).unwrap().pic(), pic);

    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[0x80] = 0x50;
    assert_eq!(vcpu.set_lapic(&lapic), OK);
    assert_eq!(vcpu.get_lapic().unwrap().regs[0x80], 0x50);
}

#[test]
fn timer_state_comes_back() {
    let Some(vm) = vm() else { return };
    vm.create_irqchip().unwrap();
    vm.create_pit2(&KvmPitConfig {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .unwrap();
    let mut state = vm.get_pit2().unwrap();
    (state.channels[2].count, state.channels[2].mode) = (0x1234, 3);
    assert_eq!(vm.set_pit2(&state), OK);
    let back = vm.get_pit2().unwrap();
    assert_eq!((back.channels[2].count, back.channels[2].mode), (0x1234, 3));
    assert_eq!(
        vm.reinject_control(&KvmReinjectControl {
            pit_reinject: 1,
            ..Default::default()
        }),
        OK
    );
}

#[test]
fn lines() {
    let Some((vm, _vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    assert_eq!(vm.set_irq_line(4, 1), OK);
    assert_eq!(vm.set_irq_line(4, 0), OK);
    assert!(vm.irq_line_status(4, 1).is_ok());
    assert_eq!(vm.raw(KVM_IRQ_LINE, NOWHERE), Err(Errno::EFAULT));
}

#[test]
fn routes() {
    let Some((vm, _vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let pin = KvmIrqRoutingEntry::to_irqchip(5, KVM_IRQCHIP_IOAPIC, 5);
    let msi = KvmIrqRoutingEntry::to_msi(24, 0xfee0_0000, 0x41);
    assert_eq!(vm.set_gsi_routing(&[pin, msi]), OK);
    assert_eq!(vm.set_gsi_routing(&[]), OK);
    let bad = KvmIrqRoutingEntry { type_: 99, ..pin };
    assert_eq!(vm.set_gsi_routing(&[bad]), Err(Errno::EINVAL));
    let flagged = KvmIrqRoutingEntry {
        flags: 1 << 31,
        ..pin
    };
    assert_eq!(vm.set_gsi_routing(&[flagged]), Err(Errno::EINVAL));
    let no_pin = KvmIrqRoutingEntry::to_irqchip(5, KVM_IRQCHIP_IOAPIC, 99);
    assert_eq!(vm.set_gsi_routing(&[no_pin]), Err(Errno::EINVAL));
    assert_eq!(vm.set_gsi_routing(&vec![pin; 4097]), Err(Errno::EINVAL));
}

#[test]
fn irqfds() {
    let Some((vm, _vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let (one, two) = (eventfd(), eventfd());
    assert_eq!(vm.register_irqfd(&one, 5), OK);
    assert_eq!(
        vm.register_irqfd(&one, 6),
        Err(Errno::EBUSY),
        "one line for an eventfd"
    );
    assert_eq!(vm.register_irqfd(&two, 5), OK, "though many eventfds for a line");
    let Some((other, _other_vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let elsewhere = other.register_irqfd(&one, 5);
    assert_eq!(elsewhere, Err(Errno::EBUSY), "of all VMs");
    assert_eq!(vm.unregister_irqfd(&one, 5), OK);
    assert_eq!(other.register_irqfd(&one, 5), OK);
    assert_eq!(other.unregister_irqfd(&one, 5), OK);
    assert_eq!(vm.register_irqfd(&one, 6), OK);
    let nothing = KvmIrqfd {
        fd: u32::MAX,
        ..Default::default()
    };
    assert_eq!(vm.irqfd(&nothing), Err(Errno::EBADF));
    let null = File::open("/dev/null").unwrap();
    assert_eq!(vm.register_irqfd(&null, 5), Err(Errno::EINVAL), "not an eventfd");
    let flagged = KvmIrqfd {
        fd: two.as_raw_fd() as u32,
        gsi: 5,
        flags: 1 << 31,
        ..Default::default()
    };
    assert_eq!(vm.irqfd(&flagged), Err(Errno::EINVAL));
}

#[test]
fn ioeventfds() {
    let Some(vm) = vm() else { return };
    let fd = eventfd();
    let good = KvmIoeventfd {
        addr: 0xd000_0000,
        len: 4,
        fd: fd.as_raw_fd(),
        ..Default::default()
    };
    let with = |flags, len| vm.ioeventfd(&KvmIoeventfd { flags, len, ..good });
    assert_eq!(with(0, 3), Err(Errno::EINVAL));
    assert_eq!(with(1 << 31, 4), Err(Errno::EINVAL));
    assert_eq!(with(KVM_IOEVENTFD_FLAG_DATAMATCH, 0), Err(Errno::EINVAL));
    assert_eq!(with(KVM_IOEVENTFD_FLAG_DEASSIGN, 4), Err(Errno::ENOENT));
    let wraps = KvmIoeventfd {
        addr: u64::MAX,
        len: 8,
        ..good
    };
    assert_eq!(vm.ioeventfd(&wraps), Err(Errno::EINVAL));
    assert_eq!(with(0, 4), OK);
    assert_eq!(with(0, 4), Err(Errno::EEXIST));
    assert_eq!(with(KVM_IOEVENTFD_FLAG_DEASSIGN, 4), OK);
    assert_eq!(vm.ioeventfd(&KvmIoeventfd { fd: -1, ..good }), Err(Errno::EBADF));
}

#[test]
fn msis() {
    let Some((vm, _vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let msi = KvmMsi {
        address_lo: 0xfee0_0000,
        data: 0x41,
        ..Default::default()
    };
    assert!(vm.signal_msi(&msi).is_ok());
    assert_eq!(
        vm.signal_msi(&KvmMsi {
            flags: 1 << 31,
            ..msi
        }),
        Err(Errno::EINVAL)
    );
}

#[test]
fn vcpus_and_what_must_come_before_them() {
    let Some(vm) = vm() else { return };
    assert_eq!(vm.set_identity_map_addr(&0xfffb_c000), OK);
    assert_eq!(vm.set_tss_addr(0xfffb_d000), OK);
    assert_eq!(vm.set_boot_cpu_id(0), OK);
    assert_eq!(vm.set_boot_cpu_id(1 << 20), Err(Errno::EINVAL), "no such id");
    assert_eq!(vm.set_boot_cpu_id(1 << 32), Err(Errno::EINVAL));
    let _one = vm.create_vcpu(0).unwrap();
    assert_eq!(vm.create_vcpu(0).map(drop), Err(Errno::EEXIST));
    assert_eq!(vm.create_vcpu(1 << 20).map(drop), Err(Errno::EINVAL));
    assert_eq!(vm.create_vcpu(1 << 32).map(drop), Err(Errno::EINVAL));
    assert_eq!(vm.set_identity_map_addr(&0xfffb_c000), Err(Errno::EINVAL));
    assert_eq!(vm.set_boot_cpu_id(0), Err(Errno::EBUSY));
    assert_eq!(vm.create_device(9999).map(drop), Err(Errno::ENODEV));
    assert_eq!(vm.has_device(9999), Err(Errno::ENODEV));
}

#[test]
fn ids_of_vcpus_can_be_limited() {
    let Some(vm) = vm() else { return };
    let most = vm.check_extension(KVM_CAP_MAX_VCPU_ID).unwrap() as u64;
    let limit = |most| vm.enable_cap(KVM_CAP_MAX_VCPU_ID, [most, 0, 0, 0]);
    assert_eq!(limit(most + 1), Err(Errno::EINVAL));
    assert_eq!(vm.set_boot_cpu_id(4), OK);
    assert_eq!(limit(3), Err(Errno::EINVAL), "below the boot processor's");
    assert_eq!(limit(4), OK);
    assert_eq!(limit(5), Err(Errno::EINVAL), "only once");
    assert_eq!(vm.create_vcpu(4).map(drop), Err(Errno::EINVAL));
    assert!(vm.create_vcpu(3).is_ok());
}

#[test]
fn exits_are_disabled_before_there_are_vcpus() {
    let Some(vm) = vm() else { return };
    let exits = vm.check_extension(KVM_CAP_X86_DISABLE_EXITS).unwrap() as u64;
    let disable = || {
        vm.enable_cap(
            KVM_CAP_X86_DISABLE_EXITS,
            [exits & KVM_X86_DISABLE_EXITS_HLT, 0, 0, 0],
        )
    };
    assert_eq!(disable(), OK);
    let _vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(disable(), Err(Errno::EINVAL));
}

#[test]
fn apic_ids_widen_for_all_processors() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let Some(kvm) = kvm() else { return };
    let one = vm.create_vcpu(1).unwrap();
    one.set_cpuid2(&kvm.supported_cpuid().unwrap()).unwrap();
    // APIC ID register of the second one.
    let id = || {
        let regs = one.get_lapic().unwrap().regs;
        u32::from_le_bytes(regs[0x20..0x24].try_into().unwrap())
    };
    const APIC_BASE: u32 = 0x1b;
    let base = one.get_msr(APIC_BASE).unwrap();
    assert_eq!(id(), 1 << 24);
    // x2APIC mode.
    assert_eq!(one.set_msr(APIC_BASE, base | 1 << 10), OK);
    assert_eq!(id(), 1 << 24);
    let mut lapic = one.get_lapic().unwrap();
    lapic.regs[0x23] = 5;
    assert_eq!(one.set_lapic(&lapic), OK);
    assert_eq!(id(), 1 << 24, "read-only");
    let wide = [KVM_X2APIC_API_USE_32BIT_IDS, 0, 0, 0];
    assert_eq!(vm.enable_cap(KVM_CAP_X2APIC_API, wide), OK);
    assert_eq!(id(), 1);
    // And straight back, which only a client can do.
    assert_eq!(one.set_msr(APIC_BASE, base), OK);
    assert_eq!(id(), 1 << 24);
    drop(vcpu);
}

#[test]
fn the_apic_bus_has_a_frequency() {
    let Some(vm) = vm() else { return };
    let Some(kvm) = kvm() else { return };
    const CYCLE: u32 = KVM_CAP_X86_APIC_BUS_CYCLES_NS;
    let choose = |ns| vm.enable_cap(CYCLE, [ns, 0, 0, 0]);
    assert_eq!(choose(0), Err(Errno::EINVAL));
    assert_eq!(choose(u64::MAX / 128), Err(Errno::EINVAL));
    assert_eq!(choose(40), Err(Errno::ENXIO), "no APICs");
    vm.create_irqchip().unwrap();
    assert_eq!(choose(40), OK);
    if !kernel_is_pvm(&kvm) {
        assert_eq!(vm.check_extension(CYCLE), Ok(40));
    }
    assert_eq!(kvm.check_extension(CYCLE), Ok(1), "of others it is another");
    let _vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(choose(40), Err(Errno::EINVAL));
}

#[test]
fn the_clock() {
    let Some(vm) = vm() else { return };
    let before = vm.get_clock().unwrap();
    let ahead = before.clock + 3_600_000_000_000;
    assert_eq!(
        vm.set_clock(&KvmClockData {
            clock: ahead,
            ..Default::default()
        }),
        OK
    );
    assert!(vm.get_clock().unwrap().clock >= ahead);
    assert_eq!(
        vm.set_clock(&KvmClockData {
            flags: 1 << 31,
            ..Default::default()
        }),
        Err(Errno::EINVAL)
    );
}
