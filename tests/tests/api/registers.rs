//! Registers: what a vCPU starts with, and that what is set comes back.

use crate::*;
use ring3_uapi::cap::KVM_CAP_XSAVE2;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use ring3_uapi::{KVM_REG_SIZE_U64, KVM_REG_X86, KvmOneReg};

#[test]
fn at_reset() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let regs = vcpu.get_regs().unwrap();
    assert_eq!((regs.rip, regs.rflags, regs.rsp), (0xfff0, 2, 0));
    let sregs = vcpu.get_sregs().unwrap();
    assert_eq!(
        (sregs.cs.base, sregs.cs.selector, sregs.cs.limit),
        (0xffff_0000, 0xf000, 0xffff)
    );
    assert_eq!((sregs.cs.type_, sregs.cs.s, sregs.cs.present), (11, 1, 1));
    assert_eq!(
        (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer),
        (0x6000_0010, 0, 0, 0)
    );
    assert_eq!(sregs.apic_base, 0xfee0_0900);
    let debug = vcpu.get_debugregs().unwrap();
    assert_eq!((debug.dr6, debug.dr7), (0xffff_0ff0, 0x400));
}

#[test]
fn general_registers() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let regs = KvmRegs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: 7,
        rbp: 8,
        r8: 9,
        r9: 10,
        r10: 11,
        r11: 12,
        r12: 13,
        r13: 14,
        r14: 15,
        r15: u64::MAX,
        rip: 0x1234,
        rflags: 0x246,
    };
    assert_eq!(vcpu.set_regs(&regs), OK);
    assert_eq!(vcpu.get_regs(), Ok(regs));
    // Bit 1 is always there.
    assert_eq!(vcpu.set_regs(&KvmRegs { rflags: 0, ..regs }), OK);
    assert_eq!(vcpu.get_regs().unwrap().rflags, 2);
    assert_eq!(vcpu.raw(KVM_GET_REGS, NOWHERE), Err(Errno::EFAULT));
    assert_eq!(vcpu.raw(KVM_SET_REGS, NOWHERE), Err(Errno::EFAULT));
}

#[test]
fn floating_point() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let mut fpu = vcpu.get_fpu().unwrap();
    // MXCSR is in the structure, but KVM neither fills nor takes it; the XSAVE image has it.
    assert_eq!((fpu.fcw, fpu.mxcsr), (0x37f, 0));
    assert_eq!(vcpu.get_xsave().unwrap().region[6], 0x1f80);
    (fpu.fcw, fpu.fsw, fpu.mxcsr) = (0x27f, 0x3800, 0x1fa0);
    fpu.xmm[15] = [0x5a; 16];
    fpu.fpr[3][..10].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x80, 9, 0x40]);
    assert_eq!(vcpu.set_fpu(&fpu), OK);
    let back = vcpu.get_fpu().unwrap();
    assert_eq!(
        (back.fcw, back.fsw, back.xmm[15], back.fpr[3]),
        (fpu.fcw, fpu.fsw, fpu.xmm[15], fpu.fpr[3])
    );
}

#[test]
fn the_extended_image() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let mut xsave = vcpu.get_xsave().unwrap();
    // The state bitmap: x87 and SSE are there, in use.
    xsave.region[128] |= 3;
    xsave.region[0] = 0x027f;
    xsave.region[6] = 0x1fa0;
    xsave.region[40..44].copy_from_slice(&[1, 2, 3, 4]);
    assert_eq!(vcpu.set_xsave(&xsave), OK);
    let back = vcpu.get_xsave().unwrap();
    assert_eq!((back.region[0], back.region[6]), (0x027f, 0x1fa0));
    assert_eq!(back.region[40..44], [1, 2, 3, 4]);
    assert_eq!(vcpu.get_fpu().unwrap().fcw, 0x27f);
    xsave.region[6] = 0xffff_ffff;
    assert_eq!(
        vcpu.set_xsave(&xsave),
        Err(Errno::EINVAL),
        "reserved bits of MXCSR"
    );
}

/// CPUID's leaf 0DH of the supported table, with other state components.
fn with_components(table: &[KvmCpuidEntry2], components: u32) -> Vec<KvmCpuidEntry2> {
    let mut table = table.to_vec();
    for entry in table.iter_mut().filter(|e| (e.function, e.index) == (0xd, 0)) {
        entry.eax = components;
    }
    table
}

#[test]
fn protection_keys_stay_where_an_image_leaves_them_out() {
    const PKRU: u32 = 1 << 9;
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    let table = kvm.supported_cpuid().unwrap();
    let Some(place) = table
        .iter()
        .find(|e| (e.function, e.index) == (0xd, 9) && e.eax != 0)
    else {
        return println!("skipped: the host has no protection keys");
    };
    assert_eq!(vcpu.set_cpuid2(&table), OK);
    let at = place.ebx as usize / 4;
    let mut xsave = vcpu.get_xsave().unwrap();
    xsave.region[128] |= PKRU;
    xsave.region[at] = 0x5555_5554;
    assert_eq!(vcpu.set_xsave(&xsave), OK);
    xsave.region[128] &= !PKRU;
    xsave.region[at] = 7;
    assert_eq!(vcpu.set_xsave(&xsave), OK);
    let back = vcpu.get_xsave().unwrap();
    assert_eq!((back.region[128] & PKRU, back.region[at]), (PKRU, 0x5555_5554));
}

#[test]
fn large_components_are_for_those_who_asked_linux() {
    const XTILE: u32 = 3 << 17;
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    // Nobody here asked.
    let table = kvm.supported_cpuid().unwrap();
    let offered = table.iter().find(|e| (e.function, e.index) == (0xd, 0));
    let components = offered.map_or(0, |e| e.eax);
    assert_eq!(components & XTILE, 0);
    assert_eq!(kvm.check_extension(KVM_CAP_XSAVE2), Ok(4096));
    let greedy = with_components(&table, components | XTILE);
    assert_eq!(vcpu.set_cpuid2(&greedy), Err(Errno::EPERM));
    assert_eq!(vcpu.set_cpuid2(&table), OK);
    let mut xsave = vcpu.get_xsave().unwrap();
    xsave.region[128] |= 1 << 18;
    assert_eq!(vcpu.set_xsave(&xsave), Err(Errno::EINVAL));
}

#[test]
fn msrs() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    vcpu.set_cpuid2(&kvm.supported_cpuid().unwrap()).unwrap();
    const LSTAR: u32 = 0xc000_0082;
    const PAT: u32 = 0x277;
    const HWCR: u32 = 0xc001_0015;
    for (msr, value) in [
        (0x174, 0x10),
        // Guests of AMD's have only 32 bits of these two.
        (0x175, 0x8000_1000),
        (0x176, 0x8000_2000),
        (0xc000_0081, 0x0023_0010_0000_0000),
        (LSTAR, 0xffff_8000_0000_3000),
        (0xc000_0084, 0x4_7700),
        (0xc000_0102, 0x7fff_0000_1000),
        (PAT, 0x0007_0406_0007_0406),
        // TscFreqSel.
        (HWCR, 1 << 24),
    ] {
        assert_eq!(vcpu.set_msr(msr, value), OK, "{msr:#x}");
        assert_eq!(vcpu.get_msr(msr), Ok(value), "{msr:#x}");
    }
    // A batch stops at the first that fails, and says how far it came.
    let entry = |index, data| KvmMsrEntry {
        index,
        reserved: 0,
        data,
    };
    assert_eq!(
        vcpu.set_msrs(&[entry(0x174, 8), entry(0x7fff_ffff, 2), entry(0x175, 9)]),
        Ok(1)
    );
    assert_eq!(vcpu.get_msr(0x174), Ok(8));
    assert_eq!(vcpu.set_msrs(&vec![entry(0x174, 8); 256]), Err(Errno::E2BIG));
    assert_eq!(vcpu.raw(KVM_GET_MSRS, NOWHERE), Err(Errno::EFAULT));
}

#[test]
fn the_microcode_is_new_enough() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    if kernel_is_pvm(&kvm) {
        return skipped("kvm_pvm has no revision");
    }
    let table = kvm.supported_cpuid().unwrap();
    let intel = table[0].ebx == u32::from_le_bytes(*b"Genu");
    let revision = if intel { 1 << 32 } else { 0x0100_0065 };
    assert_eq!(vcpu.get_msr(0x8b), Ok(revision));
}

#[test]
fn fast_strings_are_for_the_client_to_offer() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    if kernel_is_pvm(&kvm) {
        return skipped("kvm_pvm offers them itself");
    }
    const MISC_ENABLE: u32 = 0x1a0;
    assert_eq!(vcpu.get_msr(MISC_ENABLE), Ok(0x1800));
    assert_eq!(vcpu.set_msr(MISC_ENABLE, 0x1801), OK);
    assert_eq!(vcpu.get_msr(MISC_ENABLE), Ok(0x1801));
}

#[test]
fn memory_types_are_checked() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let Some(kvm) = kvm() else { return };
    if kernel_is_pvm(&kvm) {
        return skipped("kvm_pvm takes any value for the PAT MSR");
    }
    assert_eq!(vcpu.set_msr(0x277, 2), Err(Errno::EINVAL), "no memory type 2");
    assert_eq!(vcpu.set_msr(0x277, 8), Err(Errno::EINVAL));
}

#[test]
fn tsc_frequency() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let khz = vcpu.get_tsc_khz().unwrap();
    assert!(khz > 100_000);
    assert_eq!(vcpu.set_tsc_khz(khz), OK);
    assert_eq!(vcpu.get_tsc_khz(), Ok(khz));
}

#[test]
fn translation_without_paging() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let translation = vcpu.translate(0x1234).unwrap();
    assert_eq!((translation.physical_address, translation.valid), (0x1234, 1));
}

/// An MSR as KVM_GET_ONE_REG names it.
fn msr_id(index: u32) -> u64 {
    KVM_REG_X86 | KVM_REG_SIZE_U64 | 2 << 32 | u64::from(index)
}

#[test]
fn msrs_one_by_one() {
    const KERNEL_GS_BASE: u32 = 0xc000_0102;
    let Some((_vm, vcpu)) = vcpu() else { return };
    let mut value = 0u64;
    let ask = |request, id: u64, at: u64| {
        let reg = KvmOneReg { id, addr: at };
        vcpu.raw(request, &raw const reg as u64).map(drop)
    };
    vcpu.set_cpuid2(&kvm().unwrap().supported_cpuid().unwrap())
        .unwrap();
    let wanted = 0x1234_5678u64;
    let id = msr_id(KERNEL_GS_BASE);
    assert_eq!(ask(KVM_SET_ONE_REG, id, &raw const wanted as u64), OK);
    assert_eq!(vcpu.get_msr(KERNEL_GS_BASE), Ok(wanted));
    assert_eq!(ask(KVM_GET_ONE_REG, id, &raw mut value as u64), OK);
    assert_eq!(value, wanted);
    for wrong in [
        id ^ KVM_REG_X86,
        id ^ KVM_REG_SIZE_U64,
        id | 1 << 40,
        id ^ 1 << 32,
        msr_id(0xdead_beef),
    ] {
        assert_eq!(
            ask(KVM_GET_ONE_REG, wrong, &raw mut value as u64),
            Err(Errno::EINVAL),
            "{wrong:#x}"
        );
    }
    for request in [KVM_GET_ONE_REG, KVM_SET_ONE_REG] {
        assert_eq!(ask(request, id, NOWHERE), Err(Errno::EFAULT));
        assert_eq!(vcpu.raw(request, NOWHERE).map(drop), Err(Errno::EFAULT));
    }
    let mut list = [7u64; 2];
    assert_eq!(vcpu.raw(KVM_GET_REG_LIST, list.as_mut_ptr() as u64), Ok(0));
    assert_eq!(list, [0, 7]);
}

#[test]
fn control_registers_that_the_guest_cannot_have() {
    const EFER_NX: u64 = 1 << 11;
    let Some((_vm, vcpu)) = vcpu() else { return };
    let sregs = vcpu.get_sregs().unwrap();
    let set = |change: &dyn Fn(&mut KvmSregs)| {
        let mut wanted = sregs;
        change(&mut wanted);
        vcpu.set_sregs(&wanted)
    };
    assert_eq!(set(&|s| s.cr0 = s.cr0 & !(1 << 30) | 1 << 29), Err(Errno::EINVAL));
    assert_eq!(set(&|s| s.cr0 |= 1 << 31), Err(Errno::EINVAL), "paging alone");
    assert_eq!(set(&|s| s.cr4 |= 1 << 20), Err(Errno::EINVAL), "no SMEP");
    if !kernel_is_pvm(&kvm().unwrap()) {
        // Linux 7.3 looks at CPUID here; older ones do not.
        let nx = set(&|s| s.efer |= EFER_NX);
        assert!(
            back_end() == BackEnd::Device || nx == Err(Errno::EINVAL),
            "{nx:?}"
        );
    }
    vcpu.set_cpuid2(&kvm().unwrap().supported_cpuid().unwrap())
        .unwrap();
    assert_eq!(set(&|s| s.efer |= EFER_NX), OK);
    assert_eq!(vcpu.get_sregs().unwrap().efer & EFER_NX, EFER_NX);
}
