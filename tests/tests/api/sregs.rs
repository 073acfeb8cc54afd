//! What no processor can be: special, debug and extended registers that are refused, and the CPUID that decides.

use crate::run::guest;
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::x86::*;

const CR0_PE: u64 = 1;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;

/// In paged 64-bit mode.
fn long(sregs: &mut KvmSregs) {
    sregs.cr0 = CR0_PE | CR0_PG;
    sregs.cr4 = CR4_PAE;
    sregs.efer = LME | LMA;
}

type Change = fn(&mut KvmSregs);

/// What neither form of the request takes.
const REFUSED: [(&str, Change); 16] = [
    ("the upper half of CR0", |s| s.cr0 |= 1 << 32),
    ("paging without protection", |s| s.cr0 |= CR0_PG),
    ("NW without CD", |s| s.cr0 = CR0_NW),
    ("a bit of CR4 that there is not", |s| s.cr4 |= 1 << 63),
    ("CR4.VMXE without VMX", |s| s.cr4 |= 1 << 13),
    ("a bit of EFER that there is not", |s| s.efer |= 1 << 63),
    ("LMA alone", |s| s.efer |= LMA),
    ("LMA without paging", |s| s.efer |= LMA | LME),
    ("64-bit code outside of 64-bit mode", |s| s.cs.l = 1),
    ("64-bit mode without PAE", |s| {
        long(s);
        s.cr4 = 0;
    }),
    ("64-bit mode without LMA", |s| {
        long(s);
        s.efer = LME;
    }),
    ("CR3 beyond the physical addresses", |s| {
        long(s);
        s.cr3 = 1 << 52;
    }),
    ("CR3's reserved bits", |s| {
        long(s);
        s.cr3 = 1 << 63;
    }),
    ("reserved bits of the APIC's base", |s| s.apic_base |= 1),
    ("an APIC's base beyond the physical addresses", |s| {
        s.apic_base |= 1 << 52;
    }),
    ("x2APIC mode of an APIC that is off", |s| s.apic_base = 1 << 10),
];

/// The same registers in the second form.
fn second(sregs: &KvmSregs, form: KvmSregs2) -> KvmSregs2 {
    KvmSregs2 {
        cs: sregs.cs,
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
        apic_base: sregs.apic_base,
        ..form
    }
}

#[test]
fn special_registers_that_cannot_be() {
    let Some((_vm, vcpu)) = vcpu_with_cpuid() else {
        return;
    };
    let (good, good2) = (vcpu.get_sregs().unwrap(), vcpu.get_sregs2().unwrap());
    for (name, change) in REFUSED {
        let mut wrong = good;
        change(&mut wrong);
        assert_eq!(vcpu.set_sregs(&wrong), Err(Errno::EINVAL), "{name}");
        let wrong = second(&wrong, good2);
        assert_eq!(vcpu.set_sregs2(&wrong), Err(Errno::EINVAL), "{name}, again");
    }
    assert_eq!(vcpu.get_sregs(), Ok(good), "nothing has changed");
    let mut sregs = good;
    long(&mut sregs);
    assert_eq!(vcpu.set_sregs(&sregs), OK);
    sregs.cr0 |= CR0_CD | CR0_NW;
    assert_eq!(vcpu.set_sregs(&sregs), OK);
}

#[test]
fn page_directory_pointers_need_pae_paging() {
    let Some((_vm, vcpu)) = vcpu_with_cpuid() else {
        return;
    };
    let good = vcpu.get_sregs2().unwrap();
    let valid = KVM_SREGS2_FLAGS_PDPTRS_VALID;
    let flagged = |flags| KvmSregs2 { flags, ..good };
    assert_eq!(vcpu.set_sregs2(&flagged(1 << 63)), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_sregs2(&flagged(valid << 1)), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_sregs2(&flagged(valid)), Err(Errno::EINVAL), "no paging");
    let mut sregs = vcpu.get_sregs().unwrap();
    long(&mut sregs);
    let in_long_mode = second(&sregs, flagged(valid));
    assert_eq!(vcpu.set_sregs2(&in_long_mode), Err(Errno::EINVAL));
    sregs.efer = 0;
    let pae = KvmSregs2 {
        pdptrs: [0x1001, 0x2001, 0x3001, 0x4001],
        ..second(&sregs, flagged(valid))
    };
    assert_eq!(vcpu.set_sregs2(&pae), OK);
    let back = vcpu.get_sregs2().unwrap();
    assert_eq!((back.flags, back.pdptrs), (valid, pae.pdptrs));
}

#[test]
fn debug_registers_that_cannot_be() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let good = vcpu.get_debugregs().unwrap();
    for (dr6, dr7, flags) in [
        (1 << 32, good.dr7, 0),
        (good.dr6, 1 << 32, 0),
        (good.dr6, good.dr7, 1),
        (good.dr6, good.dr7, 1 << 63),
    ] {
        let wrong = KvmDebugregs {
            dr6,
            dr7,
            flags,
            ..good
        };
        assert_eq!(vcpu.set_debugregs(&wrong), Err(Errno::EINVAL), "{wrong:?}");
    }
    assert_eq!(vcpu.get_debugregs(), Ok(good));
}

#[test]
fn extended_control_registers_that_cannot_be() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    let good = vcpu.get_xcrs().unwrap();
    assert_eq!((good.nr_xcrs, good.xcrs[0].xcr, good.xcrs[0].value), (1, 0, 1));
    let with = |value| {
        let mut xcrs = good;
        xcrs.xcrs[0].value = value;
        xcrs
    };
    assert_eq!(
        vcpu.set_xcrs(&with(3)),
        Err(Errno::EINVAL),
        "its CPUID has no XSAVE"
    );
    let table = kvm.supported_cpuid().unwrap();
    vcpu.set_cpuid2(&table).unwrap();
    let leaf = table
        .iter()
        .find(|entry| (entry.function, entry.index) == (0xd, 0));
    let all = leaf.map_or(1, |leaf| u64::from(leaf.edx) << 32 | u64::from(leaf.eax));
    assert_eq!(vcpu.set_xcrs(&with(all)), OK);
    for (name, value) in [
        ("nothing", 0),
        ("not the x87", all & !1),
        ("AVX without SSE", 5),
        ("half of AVX-512", 0x27),
        ("what there is not", all | 1 << 62),
    ] {
        assert_eq!(vcpu.set_xcrs(&with(value)), Err(Errno::EINVAL), "{name}");
    }
    assert_eq!(vcpu.get_xcrs().unwrap().xcrs[0].value, all);
    let many = KvmXcrs { nr_xcrs: 17, ..good };
    assert_eq!(vcpu.set_xcrs(&many), Err(Errno::EINVAL));
    let flagged = KvmXcrs { flags: 1, ..good };
    assert_eq!(vcpu.set_xcrs(&flagged), Err(Errno::EINVAL));
    // Others than XCR0 are not looked at, nor is it an error to set none.
    let mut other = with(0);
    other.xcrs[0].xcr = 1;
    assert_eq!(vcpu.set_xcrs(&other), OK);
    assert_eq!(vcpu.set_xcrs(&KvmXcrs { nr_xcrs: 0, ..good }), OK);
    assert_eq!(vcpu.get_xcrs().unwrap().xcrs[0].value, all);
}

#[test]
fn extended_images_that_cannot_be() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    const MXCSR: usize = 6;
    const COMPONENTS: usize = 128;
    let mut good = vcpu.get_xsave().unwrap();
    // The x87 and SSE.
    good.region[COMPONENTS] = 3;
    let set = |image: &KvmXsave, word: usize, bits| {
        let mut image = *image;
        image.region[word] |= bits;
        vcpu.set_xsave(&image)
    };
    assert_eq!(set(&good, MXCSR, 1 << 31), Err(Errno::EINVAL));
    assert_eq!(
        set(&good, COMPONENTS + 1, 1 << 30),
        Err(Errno::EINVAL),
        "none such"
    );
    assert_eq!(set(&good, COMPONENTS + 4, 1), Err(Errno::EINVAL), "of the header");
    assert_eq!(set(&good, COMPONENTS + 15, 1), Err(Errno::EINVAL), "to its end");
    assert_eq!(set(&good, MXCSR, 0x1000), OK);
    good.region[COMPONENTS] = 0;
    assert_eq!(set(&good, MXCSR, 1 << 31), OK, "of nothing, not even that counts");
}

#[test]
fn the_table_of_cpuid_is_checked() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let leaf = |bits: u32| KvmCpuidEntry2 {
        function: 0x8000_0008,
        eax: bits << 8 | 40,
        ..Default::default()
    };
    for (bits, expected) in [
        (47, Err(Errno::EINVAL)),
        (56, Err(Errno::EINVAL)),
        (48, OK),
        (57, OK),
        (0, OK),
    ] {
        assert_eq!(vcpu.set_cpuid2(&[leaf(bits)]), expected, "{bits} bits");
        let old = KvmCpuidEntry {
            function: 0x8000_0008,
            eax: bits << 8 | 40,
            ..Default::default()
        };
        assert_eq!(vcpu.set_cpuid(&[old]), expected, "{bits} bits, again");
    }
}

#[test]
fn a_guest_that_has_run_keeps_its_cpuid() {
    // hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0xf4]) else {
        return;
    };
    let table = kvm().unwrap().supported_cpuid().unwrap();
    vcpu.set_cpuid2(&table).unwrap();
    let mut other = vcpu.get_cpuid2().unwrap();
    other.truncate(other.len() - 1);
    vcpu.set_immediate_exit(1);
    assert_eq!(vcpu.run(), Err(Errno::EINTR));
    assert_eq!(vcpu.set_cpuid2(&other), OK, "that was no step");
    vcpu.set_immediate_exit(0);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    let now = vcpu.get_cpuid2().unwrap();
    assert_eq!(vcpu.set_cpuid2(&now), OK, "it can be said again");
    let mut changed = now.clone();
    changed[0].eax ^= 1;
    for wrong in [&changed[..], &now[1..], &[]] {
        assert_eq!(vcpu.set_cpuid2(wrong), Err(Errno::EINVAL));
    }
}
