//! KVM_RUN: what keeps a vCPU from entering, in the order that it is looked at.

use crate::run::guest;
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::ioctl::KVM_RUN;
use ring3_uapi::run::{CR8, KVM_DIRTY_REGS, KVM_VALID_REGS};
use ring3_uapi::x86::*;
use ring3_uapi::*;

/// Bits for which there are no registers.
const NO_REGISTERS: u64 = !KVM_SYNC_X86_VALID_FIELDS;

#[test]
fn registers_in_the_run_page_that_cannot_be() {
    // hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0xf4]) else {
        return;
    };
    for arg in [1, NOWHERE, u64::MAX] {
        assert_eq!(vcpu.raw(KVM_RUN, arg), Err(Errno::EINVAL));
    }
    let page = vcpu.run_page();
    for field in [KVM_VALID_REGS, KVM_DIRTY_REGS] {
        for bit in (0..64).filter(|bit| NO_REGISTERS >> bit & 1 != 0) {
            page.store(field, &(1u64 << bit));
            assert_eq!(vcpu.run(), Err(Errno::EINVAL), "{bit}");
        }
        // An immediate exit is looked at later.
        vcpu.set_immediate_exit(1);
        assert_eq!(vcpu.run(), Err(Errno::EINVAL));
        vcpu.set_immediate_exit(0);
        page.store(field, &0u64);
    }
    let good = KvmSyncRegs {
        regs: vcpu.get_regs().unwrap(),
        sregs: vcpu.get_sregs().unwrap(),
        events: vcpu.get_vcpu_events().unwrap(),
    };
    let mut wrong = good;
    wrong.sregs.cr0 = 1 << 31;
    vcpu.set_sync_regs(&wrong, KVM_SYNC_X86_SREGS);
    assert_eq!(vcpu.run(), Err(Errno::EINVAL));
    let mut wrong = good;
    wrong.events.flags = 1 << 31;
    vcpu.set_sync_regs(&wrong, KVM_SYNC_X86_EVENTS);
    assert_eq!(vcpu.run(), Err(Errno::EINVAL));
    vcpu.set_sync_regs(&good, KVM_SYNC_X86_VALID_FIELDS);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(page.load::<u64>(KVM_DIRTY_REGS), 0, "they were taken");
}

#[test]
fn task_priorities_that_cannot_be() {
    // hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0xf4]) else {
        return;
    };
    let page = vcpu.run_page();
    for wrong in [16u64, 1 << 63] {
        page.store(CR8, &wrong);
        assert_eq!(vcpu.run(), Err(Errno::EINVAL), "{wrong:#x}");
    }
    page.store(CR8, &15u64);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(vcpu.get_sregs().unwrap().cr8, 15);
    // With a local APIC it is the guest's.
    let Some((_vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    vcpu.run_page().store(CR8, &16u64);
    vcpu.set_immediate_exit(1);
    assert_eq!(vcpu.run(), Err(Errno::EINTR));
}

/// A processor that was never started looks at nothing before it is.
#[test]
fn a_start_is_waited_for() {
    let Some((vm, _first)) = vcpu_with_irqchip() else {
        return;
    };
    let second = vm.create_vcpu(1).unwrap();
    second.run_page().store(KVM_DIRTY_REGS, &NO_REGISTERS);
    second.set_immediate_exit(1);
    assert_eq!(second.run(), Err(Errno::EINTR));
    second.set_immediate_exit(0);
    // Linux knows where its APIC is from the first time on that something of that is set.
    second.set_lapic(&second.get_lapic().unwrap()).unwrap();
    // INIT.
    let init = KvmMsi {
        address_lo: 0xfee0_1000,
        data: 5 << 8,
        ..Default::default()
    };
    assert_eq!(vm.signal_msi(&init), Ok(1));
    assert_eq!(second.run(), Err(Errno::EAGAIN), "it is on its way");
    let state = second.get_mp_state().unwrap();
    assert_eq!(state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
    assert_eq!(second.run(), Err(Errno::EINVAL), "now it looks");
}
