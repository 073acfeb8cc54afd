//! KVM_ENABLE_CAP: what it refuses, on a VM before and after there are vCPUs, and on a vCPU.

use crate::*;
use ring3_uapi::KvmEnableCap;
use ring3_uapi::arch::Archs;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::KVM_ENABLE_CAP;
use ring3_uapi::x86::*;

/// All bits that the capability does not offer.
fn beyond(kvm: &Kvm, cap: u32) -> u64 {
    !(kvm.check_extension(cap).unwrap() as u64)
}

fn enable(vm: &Vm, cap: u32, value: u64) -> Result<(), Errno> {
    vm.enable_cap(cap, [value, 0, 0, 0])
}

/// With a flag, which none has.
fn with_flags(call: impl Fn(u32, u64) -> Result<i64, Errno>, cap: u32) -> Result<i64, Errno> {
    let cap = KvmEnableCap {
        cap,
        flags: 1,
        ..Default::default()
    };
    call(KVM_ENABLE_CAP, &raw const cap as u64)
}

#[test]
fn what_is_only_asked_for_is_not_switched() {
    let Some((vm, vcpu)) = vcpu() else { return };
    let rows = CAPABILITIES.iter().filter(|row| row.archs.contains(Archs::X86));
    for row in rows {
        let (cap, name) = (row.number, row.name);
        if row.kind != Kind::EnableVm {
            assert_eq!(enable(&vm, cap, 0), Err(Errno::EINVAL), "{name}");
        }
        if row.kind != Kind::EnableVcpu {
            let result = vcpu.enable_cap(cap, [0; 4]);
            assert_eq!(result, Err(Errno::EINVAL), "{name} on a vCPU");
        }
    }
    assert_eq!(enable(&vm, u32::MAX, 0), Err(Errno::EINVAL));
    assert_eq!(vcpu.enable_cap(u32::MAX, [0; 4]), Err(Errno::EINVAL));
}

#[test]
fn there_are_no_flags() {
    let Some((vm, vcpu)) = vcpu() else { return };
    for row in CAPABILITIES.iter().filter(|row| row.kind != Kind::Query) {
        let vms = with_flags(|request, arg| vm.raw(request, arg), row.number);
        assert_eq!(vms, Err(Errno::EINVAL), "{}", row.name);
        let vcpus = with_flags(|request, arg| vcpu.raw(request, arg), row.number);
        assert_eq!(vcpus, Err(Errno::EINVAL), "{} on a vCPU", row.name);
    }
}

#[test]
fn values_that_mean_nothing() {
    let (Some(kvm), Some(vm)) = (kvm(), vm()) else {
        return;
    };
    let beyond = |cap| beyond(&kvm, cap);
    for (cap, value) in [
        // Set at first, but not by hand.
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2),
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 4),
        (KVM_CAP_HALT_POLL, 1 << 32),
        (KVM_CAP_DISABLE_QUIRKS2, beyond(KVM_CAP_DISABLE_QUIRKS2)),
        (KVM_CAP_SPLIT_IRQCHIP, 4097),
        (KVM_CAP_X2APIC_API, beyond(KVM_CAP_X2APIC_API)),
        (KVM_CAP_X86_DISABLE_EXITS, beyond(KVM_CAP_X86_DISABLE_EXITS)),
        (KVM_CAP_X86_USER_SPACE_MSR, 1 << 31),
        (KVM_CAP_X86_BUS_LOCK_EXIT, 4),
        (KVM_CAP_X86_BUS_LOCK_EXIT, 3),
        (KVM_CAP_EXIT_HYPERCALL, 1 << 63),
        (KVM_CAP_EXIT_ON_EMULATION_FAILURE, 2),
        (KVM_CAP_PMU_CAPABILITY, 2),
        (KVM_CAP_X86_NOTIFY_VMEXIT, 0),
        (KVM_CAP_X86_NOTIFY_VMEXIT, 1 << 31),
        (KVM_CAP_X86_APIC_BUS_CYCLES_NS, 0),
        (KVM_CAP_X86_APIC_BUS_CYCLES_NS, u64::MAX),
        (KVM_CAP_DIRTY_LOG_RING, 0),
        (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0),
        (KVM_CAP_MAX_VCPU_ID, u64::MAX),
    ] {
        let name = ring3_uapi::cap::lookup(cap).unwrap().name;
        assert_eq!(enable(&vm, cap, value), Err(Errno::EINVAL), "{name} {value:#x}");
    }
    for (cap, value) in [
        (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 0),
        (KVM_CAP_HALT_POLL, u32::MAX.into()),
        // The older of the two does not look.
        (KVM_CAP_DISABLE_QUIRKS, beyond(KVM_CAP_DISABLE_QUIRKS2)),
        (KVM_CAP_X86_USER_SPACE_MSR, 7),
        (KVM_CAP_MSR_PLATFORM_INFO, u64::MAX),
        (KVM_CAP_EXCEPTION_PAYLOAD, 1),
        (KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1),
        (KVM_CAP_X86_BUS_LOCK_EXIT, 0),
    ] {
        let name = ring3_uapi::cap::lookup(cap).unwrap().name;
        assert_eq!(enable(&vm, cap, value), OK, "{name} {value:#x}");
    }
}

#[test]
fn what_shapes_vcpus_comes_before_them() {
    let Some((vm, vcpu)) = vcpu() else { return };
    for (cap, value, errno) in [
        (KVM_CAP_SPLIT_IRQCHIP, 24, Errno::EEXIST),
        (KVM_CAP_SPLIT_IRQCHIP, 4097, Errno::EINVAL),
        (KVM_CAP_X86_DISABLE_EXITS, 0, Errno::EINVAL),
        (KVM_CAP_PMU_CAPABILITY, 0, Errno::EINVAL),
        (
            KVM_CAP_X86_NOTIFY_VMEXIT,
            KVM_X86_NOTIFY_VMEXIT_ENABLED,
            Errno::EINVAL,
        ),
        // As long as there are no APICs it is that.
        (KVM_CAP_X86_APIC_BUS_CYCLES_NS, 40, Errno::ENXIO),
        (KVM_CAP_DIRTY_LOG_RING, 4096, Errno::EINVAL),
        (KVM_CAP_MAX_VCPU_ID, 7, Errno::EINVAL),
    ] {
        let name = ring3_uapi::cap::lookup(cap).unwrap().name;
        if offered(cap) {
            assert_eq!(enable(&vm, cap, value), Err(errno), "{name} {value:#x}");
        }
    }
    // What it is anyway can be said again.
    let ids = vm.check_extension(KVM_CAP_MAX_VCPU_ID).unwrap() as u64;
    assert_eq!(enable(&vm, KVM_CAP_MAX_VCPU_ID, ids), OK);
    assert_eq!(
        vcpu.enable_cap(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, [1, 0, 0, 0]),
        OK
    );
}

#[test]
fn pages_may_only_be_split_by_who_may_restart_the_machine() {
    if !offered(KVM_CAP_VM_DISABLE_NX_HUGE_PAGES) {
        return;
    }
    let Some(vm) = vm() else { return };
    let disable = |value| enable(&vm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, value);
    if ring3_host::process::may_restart_machine() {
        assert_eq!(disable(1), Err(Errno::EINVAL));
        assert_eq!(disable(0), OK);
        let _vcpu = vm.create_vcpu(0).unwrap();
        assert_eq!(disable(0), Err(Errno::EINVAL), "too late");
    } else {
        assert_eq!(disable(0), Err(Errno::EPERM));
        assert_eq!(disable(1), Err(Errno::EPERM), "whatever is asked");
    }
}

#[test]
fn interrupt_controllers_are_chosen_once() {
    let (Some(split), Some(full)) = (vm(), vm()) else {
        return;
    };
    let choose = |vm: &Vm, pins| enable(vm, KVM_CAP_SPLIT_IRQCHIP, pins);
    assert_eq!(choose(&split, 4096), OK, "as many as there are routes");
    assert_eq!(choose(&split, 24), Err(Errno::EEXIST));
    assert_eq!(split.create_irqchip(), Err(Errno::EEXIST));
    assert_eq!(full.create_irqchip(), OK);
    assert_eq!(choose(&full, 24), Err(Errno::EEXIST));
    assert_eq!(choose(&full, 4097), Err(Errno::EINVAL), "which is seen first");
}

#[test]
fn a_quirk_that_is_off_stays_off() {
    let Some(vm) = vm() else { return };
    vm.create_irqchip().unwrap();
    let disable = |quirks| enable(&vm, KVM_CAP_DISABLE_QUIRKS2, quirks);
    assert_eq!(disable(KVM_X86_QUIRK_LINT0_REENABLED), OK);
    assert_eq!(disable(0), OK);
    let vcpu = vm.create_vcpu(0).unwrap();
    // With the quirk, LINT0 of the boot processor is open for the 8259.
    const MASKED: u8 = 1;
    assert_eq!(vcpu.get_lapic().unwrap().regs[0x352] & MASKED, MASKED);
}
