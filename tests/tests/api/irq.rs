//! Interrupt controllers, lines, routes, and the eventfds that stand for them.

use crate::*;
use ring3_uapi::cap::{
    KVM_CAP_MAX_VCPU_ID, KVM_CAP_X2APIC_API, KVM_CAP_X86_APIC_BUS_CYCLES_NS, KVM_CAP_X86_DISABLE_EXITS,
};
use ring3_uapi::x86::*;

#[test]
fn controllers_and_timer_once() {
    let Some(vm) = vm() else { return };
    assert_eq!(vm.create_irqchip(), OK);
    assert_eq!(vm.create_irqchip(), Err(Errno::EEXIST));
    assert_eq!(vm.create_pit2(&KvmPitConfig::default()), OK);
    assert_eq!(vm.create_pit2(&KvmPitConfig::default()), Err(Errno::EEXIST));
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
}
