//! EFAULT: addresses where nothing is, structures that memory ends in the middle of, and what structures point to.

use crate::*;
use ring3_host::testing::ClientMemory;
use ring3_uapi::arch::{Archs, Level};
use ring3_uapi::device::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::layout::by_c_name;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use zerocopy::{Immutable, IntoBytes};

const PAGE: usize = 4096;

/// A page with nothing behind it.
struct Edge(ClientMemory);

impl Edge {
    fn new() -> Edge {
        let memory = ClientMemory::new(2).unwrap();
        memory.unmap(PAGE, PAGE).unwrap();
        Edge(memory)
    }

    /// Where the last `bytes` bytes are.
    fn last(&self, bytes: usize) -> u64 {
        self.0.address() + (PAGE - bytes) as u64
    }

    /// Puts a structure at the end, and says where.
    fn end<T: IntoBytes + Immutable>(&self, value: &T) -> u64 {
        let bytes = value.as_bytes();
        self.0.write(PAGE - bytes.len(), bytes);
        self.last(bytes.len())
    }
}

/// The requests of a kind of descriptor that ring3 has, as far as this KVM has them, too.
fn rows(level: Level) -> impl Iterator<Item = &'static IoctlRow> {
    let served = ring3_client::in_process::tables();
    let there = |row: &&IoctlRow| {
        let mut caps = ring3_uapi::cap::CAPABILITIES.iter();
        let cap = caps.find(|cap| cap.name == row.capability);
        cap.is_none_or(|cap| offered(cap.number))
    };
    IOCTLS
        .iter()
        .filter(move |row| served.requests(level).contains(&row.request))
        .filter(move |row| row.archs(level).contains(Archs::X86) && structure(row).is_some())
        .filter(there)
}

/// The bytes of a row's structure, if it has one, and whether KVM does no more than fill it.
fn structure(row: &IoctlRow) -> Option<(usize, bool)> {
    let (name, filled) = match row.arg {
        Arg::None | Arg::Zero | Arg::Value => return None,
        Arg::Out(name) => (name, true),
        Arg::In(name) | Arg::InOut(name) | Arg::InList(name, _) | Arg::InOutList(name, _) => (name, false),
    };
    Some((by_c_name(name).expect("described").size(), filled))
}

/// Every request with a structure is made with one that is not there, not all there, and cannot be written.
fn sweep(level: Level, call: impl Fn(u32, u64) -> Result<i64, Errno>) {
    let (edge, fixed) = (Edge::new(), ClientMemory::new(2).unwrap());
    fixed.protect(0, 2 * PAGE).unwrap();
    let mut count = 0;
    for row in rows(level) {
        let Some((size, filled)) = structure(row) else {
            continue;
        };
        let (name, request) = (row.name, row.request);
        let places = [NOWHERE, edge.last(size - 1), u64::MAX - size as u64 / 2, 1 << 63];
        for at in places {
            assert_eq!(call(request, at), Err(Errno::EFAULT), "{name} at {at:#x}");
        }
        if filled {
            let result = call(request, fixed.address());
            assert_eq!(result, Err(Errno::EFAULT), "{name} where it cannot be written");
        }
        count += 1;
    }
    assert!(count > 5, "{level:?}");
}

#[test]
fn system_requests_want_memory() {
    let Some(kvm) = kvm() else { return };
    sweep(Level::System, |request, arg| kvm.raw(request, arg));
}

#[test]
fn vm_requests_want_memory() {
    let Some(vm) = vm() else { return };
    vm.create_irqchip().unwrap();
    vm.create_pit2(&KvmPitConfig::default()).unwrap();
    sweep(Level::Vm, |request, arg| vm.raw(request, arg));
}

#[test]
fn vcpu_requests_want_memory() {
    let Some((_vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    sweep(Level::Vcpu, |request, arg| vcpu.raw(request, arg));
}

#[test]
fn what_is_written_back_needs_a_place() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let Some(kvm) = kvm() else { return };
    let zeroes = ClientMemory::new(1).unwrap();
    zeroes.protect(0, PAGE).unwrap();
    let at = zeroes.address();
    for result in [
        kvm.raw(KVM_GET_MSR_INDEX_LIST, at),
        kvm.raw(KVM_GET_MSR_FEATURE_INDEX_LIST, at),
        vm.raw(KVM_GET_IRQCHIP, at),
        vm.raw(KVM_IRQ_LINE_STATUS, at),
        vcpu.raw(KVM_TRANSLATE, at),
    ] {
        assert_eq!(result, Err(Errno::EFAULT));
    }
    // Nothing that it asks for is wrong, but it could not be told.
    if offered(ring3_uapi::cap::KVM_CAP_PRE_FAULT_MEMORY) {
        assert_eq!(vcpu.raw(KVM_PRE_FAULT_MEMORY, at), Err(Errno::EFAULT));
    }
}

/// A header at the end of memory, whose entries would be behind it.
#[test]
fn lists_want_all_of_their_entries() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let Some(kvm) = kvm() else { return };
    let edge = Edge::new();
    let faults = |result, name: &str| assert_eq!(result, Err(Errno::EFAULT), "{name}");
    let msrs = edge.end(&KvmMsrs { nmsrs: 1, pad: 0 });
    faults(kvm.raw(KVM_GET_MSRS, msrs), "KVM_GET_MSRS on /dev/kvm");
    faults(vcpu.raw(KVM_GET_MSRS, msrs), "KVM_GET_MSRS");
    faults(vcpu.raw(KVM_SET_MSRS, msrs), "KVM_SET_MSRS");
    for request in [KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST] {
        let list = edge.end(&KvmMsrList { nmsrs: 1000 });
        faults(kvm.raw(request, list), "a list of MSRs");
    }
    let cpuid = |nent| edge.end(&KvmCpuid2 { nent, padding: 0 });
    faults(vcpu.raw(KVM_SET_CPUID, cpuid(1)), "KVM_SET_CPUID");
    faults(vcpu.raw(KVM_SET_CPUID2, cpuid(1)), "KVM_SET_CPUID2");
    faults(
        kvm.raw(KVM_GET_SUPPORTED_CPUID, cpuid(256)),
        "KVM_GET_SUPPORTED_CPUID",
    );
    let padded = kvm.raw(KVM_GET_EMULATED_CPUID, cpuid(4));
    assert_eq!(padded, Err(Errno::EINVAL), "as if the padding were wrong");
    vcpu.set_cpuid2(&kvm.supported_cpuid().unwrap()).unwrap();
    faults(vcpu.raw(KVM_GET_CPUID2, cpuid(256)), "KVM_GET_CPUID2");
    let routing = edge.end(&KvmIrqRouting { nr: 1, flags: 0 });
    faults(vm.raw(KVM_SET_GSI_ROUTING, routing), "KVM_SET_GSI_ROUTING");
    let mask = edge.end(&KvmSignalMask { len: 8 });
    faults(vcpu.raw(KVM_SET_SIGNAL_MASK, mask), "KVM_SET_SIGNAL_MASK");
    let filter = edge.end(&KvmPmuEventFilter {
        nevents: 1,
        ..Default::default()
    });
    faults(
        vm.raw(KVM_SET_PMU_EVENT_FILTER, filter),
        "KVM_SET_PMU_EVENT_FILTER",
    );
}

#[test]
fn bitmaps_must_be_there() {
    let Some(vm) = vm() else { return };
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, KVM_MEM_LOG_DIRTY_PAGES).unwrap();
    let log = KvmDirtyLog {
        dirty_bitmap: NOWHERE,
        ..Default::default()
    };
    let at = &raw const log as u64;
    assert_eq!(vm.raw(KVM_GET_DIRTY_LOG, at), Err(Errno::EFAULT));
    let log = KvmClearDirtyLog {
        num_pages: 16,
        dirty_bitmap: NOWHERE,
        ..Default::default()
    };
    let at = &raw const log as u64;
    assert_eq!(vm.raw(KVM_CLEAR_DIRTY_LOG, at), Err(Errno::EFAULT));
    let mut filter = KvmMsrFilter::default();
    filter.ranges[3] = KvmMsrFilterRange {
        flags: KVM_MSR_FILTER_READ,
        nmsrs: 1,
        base: 0x10,
        bitmap: NOWHERE,
        ..Default::default()
    };
    assert_eq!(vm.set_msr_filter(&filter), Err(Errno::EFAULT));
    filter.ranges[3].nmsrs = 0;
    assert_eq!(vm.set_msr_filter(&filter), OK, "nobody needs it");
}

#[test]
fn values_of_attributes_must_be_there() {
    let Some((vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    let attr = |group, attr| KvmDeviceAttr {
        flags: 0,
        group,
        attr,
        addr: NOWHERE,
    };
    let offset = attr(KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET);
    let at = &raw const offset as u64;
    assert_eq!(vcpu.raw(KVM_HAS_DEVICE_ATTR, at), Ok(0), "which does not look");
    for request in [KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR] {
        assert_eq!(vcpu.raw(request, at), Err(Errno::EFAULT));
    }
    let features = attr(KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP);
    let at = &raw const features as u64;
    assert_eq!(kvm.raw(KVM_HAS_DEVICE_ATTR, at), Ok(0));
    assert_eq!(kvm.raw(KVM_GET_DEVICE_ATTR, at), Err(Errno::EFAULT));
    let Ok(device) = vm.create_device(KVM_DEV_TYPE_VFIO) else {
        return skipped("no VFIO device");
    };
    let file = attr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD);
    let at = &raw const file as u64;
    assert_eq!(device.raw(KVM_SET_DEVICE_ATTR, at), Err(Errno::EFAULT));
    assert_eq!(
        device.raw(KVM_GET_DEVICE_ATTR, NOWHERE),
        Err(Errno::EPERM),
        "of this there is nothing to get"
    );
}
