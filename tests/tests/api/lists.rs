//! E2BIG: lists that there is too little room for, and lists that are too long.

use crate::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use zerocopy::IntoBytes;

/// A request with an argument.
type Call<'a> = &'a dyn Fn(u64) -> Result<i64, Errno>;

/// A request that fills a list: a header of so many 32-bit words, whose first counts, and entries of so many.
struct Filled<'a> {
    name: &'a str,
    call: Call<'a>,
    header: usize,
    entry: usize,
}

impl Filled<'_> {
    /// Makes it with room for `count` entries: what comes of it, and what the header says then.
    fn with_room(&self, count: usize) -> (Result<i64, Errno>, usize) {
        let mut words = vec![0u32; self.header + count * self.entry];
        words[0] = count as u32;
        let result = (self.call)(words.as_mut_bytes().as_mut_ptr() as u64);
        (result, words[0] as usize)
    }

    /// It answers with `length` entries where there is room for `least`. `told` is what the header says else.
    fn check(&self, length: usize, least: usize, told: impl Fn(usize) -> usize) {
        for short in [0, least - 1] {
            let answer = (Err(Errno::E2BIG), told(short));
            assert_eq!(self.with_room(short), answer, "{} of {short}", self.name);
        }
        for room in [least, length + 300] {
            assert_eq!(self.with_room(room), (Ok(0), length), "{} of {room}", self.name);
        }
    }
}

#[test]
fn lists_of_msrs_say_how_long_they_are() {
    let Some(kvm) = kvm() else { return };
    let all = kvm.msr_index_list().unwrap().len();
    let features = kvm.msr_feature_index_list().unwrap().len();
    for (name, request, length) in [
        ("KVM_GET_MSR_INDEX_LIST", KVM_GET_MSR_INDEX_LIST, all),
        (
            "KVM_GET_MSR_FEATURE_INDEX_LIST",
            KVM_GET_MSR_FEATURE_INDEX_LIST,
            features,
        ),
    ] {
        let list = Filled {
            name,
            call: &|at| kvm.raw(request, at),
            header: 1,
            entry: 1,
        };
        list.check(length, length, |_| length);
    }
}

#[test]
fn tables_of_cpuid_do_not_say_how_long_they_are() {
    let (Some(kvm), Some((_vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    let table = kvm.supported_cpuid().unwrap();
    vcpu.set_cpuid2(&table).unwrap();
    let (supported, own) = (table.len(), vcpu.get_cpuid2().unwrap().len());
    let emulated = kvm.emulated_cpuid().unwrap().len();
    let check = |name, call: Call, length: usize, least: usize| {
        let list = Filled {
            name,
            call,
            header: 2,
            entry: size_of::<KvmCpuidEntry2>() / 4,
        };
        list.check(length, least, |room| room);
    };
    let ask = |request| {
        let kvm = &kvm;
        move |at| kvm.raw(request, at)
    };
    let supports = ask(KVM_GET_SUPPORTED_CPUID);
    check("KVM_GET_SUPPORTED_CPUID", &supports, supported, supported);
    // Room is asked for before it is known that there is nothing to come.
    let emulates = ask(KVM_GET_EMULATED_CPUID);
    check("KVM_GET_EMULATED_CPUID", &emulates, emulated, emulated + 1);
    check("KVM_GET_CPUID2", &|at| vcpu.raw(KVM_GET_CPUID2, at), own, own);
}

#[test]
fn padding_of_emulated_cpuid_is_zero() {
    let Some(kvm) = kvm() else { return };
    let mut words = [0u32; 2 + 4 * 10];
    words[0] = 4;
    let mut ask = |padding| {
        words[2 + 9] = padding;
        kvm.raw(KVM_GET_EMULATED_CPUID, words.as_mut_ptr() as u64)
    };
    assert_eq!(ask(1), Err(Errno::EINVAL));
    assert_eq!(ask(0), Ok(0));
}

/// Nobody looks at what is behind a header that asks for too much.
#[test]
fn lists_from_the_client_have_a_limit() {
    let (Some(kvm), Some((vm, vcpu))) = (kvm(), vcpu_with_irqchip()) else {
        return;
    };
    let header = |count: u32| [count, 0];
    let rows: [(&str, u32, Call); 5] = [
        ("KVM_GET_MSRS on /dev/kvm", 256, &|at| kvm.raw(KVM_GET_MSRS, at)),
        ("KVM_GET_MSRS", 256, &|at| vcpu.raw(KVM_GET_MSRS, at)),
        ("KVM_SET_MSRS", 256, &|at| vcpu.raw(KVM_SET_MSRS, at)),
        ("KVM_SET_CPUID", 257, &|at| vcpu.raw(KVM_SET_CPUID, at)),
        ("KVM_SET_CPUID2", 257, &|at| vcpu.raw(KVM_SET_CPUID2, at)),
    ];
    for (name, least, call) in rows {
        for count in [least, u32::MAX] {
            let header = header(count);
            let result = call(header.as_ptr() as u64);
            assert_eq!(result, Err(Errno::E2BIG), "{name} of {count}");
        }
        assert_eq!(call(header(0).as_ptr() as u64), Ok(0), "{name} of none");
    }
    let routing = header(4097);
    let result = vm.raw(KVM_SET_GSI_ROUTING, routing.as_ptr() as u64);
    assert_eq!(result, Err(Errno::EINVAL), "this one has another number");
    let entry = KvmMsrEntry {
        index: 0x10,
        ..Default::default()
    };
    assert_eq!(vcpu.get_msrs(&mut vec![entry; 255]), Ok(255));
    assert_eq!(vcpu.set_cpuid2(&vec![KvmCpuidEntry2::default(); 256]), OK);
    assert_eq!(vcpu.set_cpuid(&vec![KvmCpuidEntry::default(); 256]), OK);
}

#[test]
fn a_batch_ends_where_it_fails() {
    let (Some(kvm), Some((_vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    let entry = |index| KvmMsrEntry {
        index,
        ..Default::default()
    };
    const NO_SUCH: u32 = 0x7fff_ffff;
    assert_eq!(vcpu.get_msrs(&mut [entry(NO_SUCH), entry(0x10)]), Ok(0));
    assert_eq!(vcpu.get_msrs(&mut [entry(0x10), entry(NO_SUCH)]), Ok(1));
    let feature = kvm.msr_feature_index_list().unwrap()[0];
    let mut both = [entry(feature), entry(NO_SUCH), entry(feature)];
    assert_eq!(kvm.feature_msrs(&mut both), Ok(1));
    let mut list = [7u64; 2];
    assert_eq!(vcpu.raw(KVM_GET_REG_LIST, list.as_mut_ptr() as u64), Ok(0));
    assert_eq!(list[0], 0, "no registers of KVM's own");
}
