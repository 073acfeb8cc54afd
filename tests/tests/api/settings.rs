//! What of a VM is said before it has vCPUs, and how many of those there can be.

use crate::*;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;

#[test]
fn places_for_what_processors_of_intels_need() {
    let Some(vm) = vm() else { return };
    // Three pages below 4 GiB.
    assert_eq!(vm.set_tss_addr(0xffff_d000), OK);
    for beyond in [0xffff_d001, 1 << 32, u64::MAX] {
        assert_eq!(vm.set_tss_addr(beyond), Err(Errno::EINVAL), "{beyond:#x}");
    }
    assert_eq!(vm.set_tss_addr(0xfffb_d000), OK);
    assert_eq!(vm.set_identity_map_addr(&0), OK, "the usual place");
    assert_eq!(vm.raw(KVM_SET_IDENTITY_MAP_ADDR, NOWHERE), Err(Errno::EFAULT));
    let _vcpu = vm.create_vcpu(0).unwrap();
    let late = vm.raw(KVM_SET_IDENTITY_MAP_ADDR, NOWHERE);
    assert_eq!(late, Err(Errno::EINVAL), "which is seen first");
    assert_eq!(vm.set_tss_addr(0xfffb_d000), OK, "at any time");
}

#[test]
fn frequencies_of_counters() {
    let Some(vm) = vm() else { return };
    let host = vm.get_tsc_khz().unwrap();
    assert_eq!(vm.set_tsc_khz(host), OK);
    // The upper half of the argument is not looked at.
    let wide = vm.raw(KVM_SET_TSC_KHZ, 1 << 32 | u64::from(host));
    assert_eq!(wide, Ok(0));
    assert_eq!(vm.get_tsc_khz(), Ok(host));
    let scales = offered(KVM_CAP_TSC_CONTROL);
    if scales {
        assert_eq!(vm.set_tsc_khz(u32::MAX), Err(Errno::EINVAL));
        assert_eq!(vm.set_tsc_khz(host / 2), OK);
        assert_eq!(vm.get_tsc_khz(), Ok(host / 2));
    }
    let wanted = vm.get_tsc_khz().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(vcpu.get_tsc_khz(), Ok(wanted));
    assert_eq!(vm.set_tsc_khz(host), Err(Errno::EINVAL), "there is a vCPU");
    assert_eq!(vcpu.set_tsc_khz(0), OK, "the host's");
    assert_eq!(vcpu.get_tsc_khz(), Ok(host));
    if scales {
        assert_eq!(vcpu.set_tsc_khz(u32::MAX), Err(Errno::EINVAL));
    }
}

#[test]
fn ids_are_below_the_limit() {
    let Some(vm) = vm() else { return };
    let limit = vm.check_extension(KVM_CAP_MAX_VCPU_ID).unwrap() as u64;
    // The first that there cannot be is let through here.
    for (id, expected) in [
        (limit, OK),
        (limit + 1, Err(Errno::EINVAL)),
        (1 << 32, Err(Errno::EINVAL)),
        (0, OK),
    ] {
        assert_eq!(vm.set_boot_cpu_id(id), expected, "{id}");
    }
    for wrong in [limit, u32::MAX.into(), 1 << 32, u64::MAX] {
        assert_eq!(vm.create_vcpu(wrong).map(drop), Err(Errno::EINVAL), "{wrong}");
    }
    let _last = vm.create_vcpu(limit - 1).unwrap();
    assert_eq!(vm.create_vcpu(limit - 1).map(drop), Err(Errno::EEXIST));
    for id in [0, limit + 1] {
        assert_eq!(vm.set_boot_cpu_id(id), Err(Errno::EBUSY), "{id}");
    }
}

#[test]
fn capabilities_have_small_numbers() {
    let (Some(kvm), Some(vm)) = (kvm(), vm()) else {
        return;
    };
    let wide = 1 << 32 | u64::from(KVM_CAP_USER_MEMORY);
    assert_eq!(kvm.raw(KVM_CHECK_EXTENSION, wide), Ok(0));
    assert_eq!(vm.raw(KVM_CHECK_EXTENSION, u64::MAX), Ok(0));
}

#[test]
fn flags_of_the_clock() {
    let Some(vm) = vm() else { return };
    let now = vm.get_clock().unwrap();
    for flags in [1, 1 << 0 | KVM_CLOCK_REALTIME, 1 << 4, 1 << 31] {
        let wrong = KvmClockData { flags, ..now };
        assert_eq!(vm.set_clock(&wrong), Err(Errno::EINVAL), "{flags:#x}");
    }
    assert_eq!(vm.set_clock(&now), OK, "what was told can be said");
    let all = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    assert_eq!(vm.set_clock(&KvmClockData { flags: all, ..now }), OK);
}

#[test]
fn filters_of_registers() {
    let Some(vm) = vm() else { return };
    let bitmap = [0u8; KVM_MSR_FILTER_MAX_BITMAP_SIZE];
    let most = bitmap.len() as u32 * 8;
    let filter = |flags, range_flags, nmsrs| {
        let mut filter = KvmMsrFilter {
            flags,
            ..Default::default()
        };
        filter.ranges[15] = KvmMsrFilterRange {
            flags: range_flags,
            nmsrs,
            base: 0x174,
            bitmap: bitmap.as_ptr() as u64,
            ..Default::default()
        };
        vm.set_msr_filter(&filter)
    };
    let both = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    for (name, result) in [
        ("an unknown flag", filter(2, both, 8)),
        ("an unknown flag of a range", filter(0, 4, 8)),
        ("a range of no kind of access", filter(0, 0, 8)),
        ("too long a range", filter(0, both, most + 1)),
        ("the longest of all", filter(0, both, u32::MAX)),
        ("nothing at all", filter(KVM_MSR_FILTER_DEFAULT_DENY, both, 0)),
    ] {
        assert_eq!(result, Err(Errno::EINVAL), "{name}");
    }
    assert_eq!(filter(KVM_MSR_FILTER_DEFAULT_DENY, both, most), OK);
    assert_eq!(filter(0, 4, 0), OK, "an empty range is none");
}
