//! KVM_X86_SETUP_MCE and KVM_X86_SET_MCE, and the registers of the banks.

use crate::*;
use ring3_uapi::x86::*;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const MC0_CTL: u32 = 0x400;
const MC0_STATUS: u32 = 0x401;
const MC0_CTL2: u32 = 0x280;
/// In the capabilities: MCG_CTL is there, corrected errors interrupt.
const CTL: u64 = 1 << 8;
const CMCI: u64 = 1 << 10;
const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const BANKS: u64 = 10;

#[test]
fn banks_that_cannot_be() {
    let (Some(kvm), Some((_vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    let supported = kvm.mce_cap_supported().unwrap();
    assert_eq!(supported & CTL, CTL);
    for wrong in [0, 33, 0xff, BANKS | 1 << 63, BANKS | !supported & !0xff_00ff] {
        assert_eq!(vcpu.setup_mce(&wrong), Err(Errno::EINVAL), "{wrong:#x}");
    }
    // The bits of the extended registers' count are let through.
    assert_eq!(vcpu.setup_mce(&(BANKS | supported | 0xff_0000)), OK);
    assert_eq!(vcpu.setup_mce(&(BANKS | supported)), OK);
    assert_eq!(vcpu.get_msr(MCG_CAP), Ok(BANKS | supported));
    assert_eq!(vcpu.setup_mce(&32), OK, "and again, with no more than banks");
}

#[test]
fn a_setup_starts_the_registers_anew() {
    let (Some(kvm), Some((_vm, vcpu))) = (kvm(), vcpu()) else {
        return;
    };
    let supported = kvm.mce_cap_supported().unwrap();
    vcpu.setup_mce(&(BANKS | supported)).unwrap();
    assert_eq!(vcpu.get_msr(MCG_CTL), Ok(u64::MAX));
    let last = BANKS as u32 - 1;
    for (msr, value) in [(MCG_CTL, 0), (MC0_CTL + 4 * last, 0), (MC0_STATUS, VALID | 7)] {
        assert_eq!(vcpu.set_msr(msr, value), OK, "{msr:#x}");
        assert_eq!(vcpu.get_msr(msr), Ok(value), "{msr:#x}");
    }
    assert_eq!(vcpu.set_msr(MCG_CTL, 1), Err(Errno::EINVAL), "all or nothing");
    assert_eq!(
        vcpu.set_msr(MC0_CTL + 4 * BANKS as u32, 0),
        Err(Errno::EINVAL),
        "no such bank"
    );
    if supported & CMCI != 0 {
        assert_eq!(vcpu.set_msr(MC0_CTL2 + last, 1 << 30), OK);
        assert_eq!(vcpu.set_msr(MC0_CTL2 + last, 1 << 31), Err(Errno::EINVAL));
    }
    vcpu.setup_mce(&(BANKS | supported)).unwrap();
    assert_eq!(vcpu.get_msr(MCG_CTL), Ok(u64::MAX));
    assert_eq!(vcpu.get_msr(MC0_CTL + 4 * last), Ok(u64::MAX));
    assert_eq!(vcpu.get_msr(MC0_CTL2 + last), Ok(0));
    assert_eq!(vcpu.get_msr(MC0_STATUS), Ok(VALID | 7), "what happened, happened");
}

#[test]
fn errors_are_logged() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    vcpu.setup_mce(&(BANKS | CTL)).unwrap();
    let corrected = KvmX86Mce {
        status: VALID | 5,
        addr: 0x1000,
        misc: 0x2000,
        bank: 0,
        ..Default::default()
    };
    for wrong in [
        KvmX86Mce {
            bank: BANKS as u8,
            ..corrected
        },
        KvmX86Mce {
            bank: 255,
            ..corrected
        },
        KvmX86Mce {
            status: 5,
            ..corrected
        },
    ] {
        assert_eq!(vcpu.set_mce(&wrong), Err(Errno::EINVAL), "{wrong:?}");
    }
    assert_eq!(vcpu.get_msr(MC0_STATUS), Ok(0));
    assert_eq!(vcpu.set_mce(&corrected), OK);
    let registers = || [0, 1, 2].map(|i| vcpu.get_msr(MC0_STATUS + i).unwrap());
    assert_eq!(registers(), [VALID | 5, 0x1000, 0x2000]);
    assert_eq!(vcpu.set_mce(&corrected), OK);
    assert_eq!(registers()[0], VALID | OVERFLOW | 5, "there was one already");
    assert_eq!(vcpu.get_msr(MCG_STATUS), Ok(0));
}
