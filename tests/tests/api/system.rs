//! `/dev/kvm`, capabilities, CPUID and MSR lists.

use crate::*;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::pv::*;
use ring3_uapi::x86::*;
use zerocopy::IntoBytes;

#[test]
fn version_and_sizes() {
    let Some(kvm) = kvm() else { return };
    assert_eq!(kvm.api_version(), Ok(12));
    assert_eq!(kvm.raw(KVM_GET_API_VERSION, 1), Err(Errno::EINVAL));
    assert!(kvm.vcpu_mmap_size().unwrap() >= ring3_uapi::run::X86_VCPU_MMAP_SIZE);
    assert_eq!(kvm.raw(KVM_GET_VCPU_MMAP_SIZE, 1), Err(Errno::EINVAL));
}

#[test]
fn capabilities() {
    let Some(kvm) = kvm() else { return };
    let vm = kvm.create_vm(0).unwrap();
    for cap in [
        KVM_CAP_IRQCHIP,
        KVM_CAP_HLT,
        KVM_CAP_USER_MEMORY,
        KVM_CAP_SET_TSS_ADDR,
        KVM_CAP_EXT_CPUID,
        KVM_CAP_MP_STATE,
        KVM_CAP_SYNC_MMU,
        KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        KVM_CAP_USER_NMI,
        KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        KVM_CAP_IRQFD,
        KVM_CAP_IOEVENTFD,
        KVM_CAP_VCPU_EVENTS,
        KVM_CAP_DEBUGREGS,
        KVM_CAP_XSAVE,
        KVM_CAP_XCRS,
        KVM_CAP_IMMEDIATE_EXIT,
        KVM_CAP_CHECK_EXTENSION_VM,
    ] {
        let name = ring3_uapi::cap::lookup(cap).unwrap().name;
        assert_eq!(kvm.check_extension(cap), Ok(1), "{name}");
        assert_eq!(vm.check_extension(cap), Ok(1), "{name}");
    }
    assert_eq!(kvm.check_extension(KVM_CAP_PV_MMU), Ok(0));
    assert_eq!(kvm.check_extension(9999), Ok(0));
    assert!(kvm.check_extension(KVM_CAP_NR_MEMSLOTS).unwrap() >= 32);
    let (advised, most) = (
        kvm.check_extension(KVM_CAP_NR_VCPUS),
        kvm.check_extension(KVM_CAP_MAX_VCPUS),
    );
    assert!(advised.unwrap() >= 1 && most.unwrap() >= advised.unwrap());
    assert!(kvm.check_extension(KVM_CAP_MAX_VCPU_ID).unwrap() >= most.unwrap());
    assert_eq!(
        kvm.check_extension(KVM_CAP_COALESCED_MMIO),
        Ok(KVM_COALESCED_MMIO_PAGE_OFFSET as i64)
    );
    assert!(kvm.check_extension(KVM_CAP_XSAVE2).unwrap() >= 4096);
}

#[test]
fn vm_types() {
    let Some(kvm) = kvm() else { return };
    assert_eq!(kvm.create_vm(0xdead).map(drop), Err(Errno::EINVAL));
    assert!(kvm.create_vm(KVM_X86_DEFAULT_VM).is_ok());
    let types = kvm.check_extension(KVM_CAP_VM_TYPES).unwrap();
    assert_ne!(types & 1 << KVM_X86_DEFAULT_VM, 0);
    for kind in (0..64).filter(|kind| types >> kind & 1 == 0) {
        assert_eq!(kvm.create_vm(kind).map(drop), Err(Errno::EINVAL), "{kind}");
    }
}

#[test]
fn msr_lists() {
    let Some(kvm) = kvm() else { return };
    let list = kvm.msr_index_list().unwrap();
    for msr in [
        0x10,
        0x174,
        0x175,
        0x176,
        0x277,
        0xc000_0081,
        MSR_KVM_SYSTEM_TIME_NEW,
    ] {
        assert!(list.contains(&msr), "{msr:#x}");
    }
    let mut features: Vec<KvmMsrEntry> = kvm
        .msr_feature_index_list()
        .unwrap()
        .into_iter()
        .map(entry)
        .collect();
    let count = features.len();
    assert_eq!(kvm.feature_msrs(&mut features), Ok(count));
}

fn entry(index: u32) -> KvmMsrEntry {
    KvmMsrEntry {
        index,
        ..Default::default()
    }
}

#[test]
fn supported_cpuid() {
    let Some(kvm) = kvm() else { return };
    let table = kvm.supported_cpuid().unwrap();
    let leaf = |function| table.iter().find(|entry| entry.function == function);
    assert!(leaf(0).is_some() && leaf(1).is_some() && leaf(0x8000_0001).is_some());
    let signature = leaf(KVM_CPUID_SIGNATURE).expect("the signature leaf");
    let words = [signature.ebx, signature.ecx, signature.edx];
    assert_eq!(words.as_bytes(), KVM_SIGNATURE);
    assert!(leaf(KVM_CPUID_FEATURES).is_some_and(|e| e.eax & (1 << KVM_FEATURE_CLOCKSOURCE2) != 0));
}

#[test]
fn a_vcpus_cpuid_comes_back() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    let table = kvm.supported_cpuid().unwrap();
    assert_eq!(vcpu.set_cpuid2(&table), OK);
    let back = vcpu.get_cpuid2().unwrap();
    assert_eq!(back.len(), table.len());
    assert_eq!((back[0].function, back[0].ebx), (table[0].function, table[0].ebx));
}
