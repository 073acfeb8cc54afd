//! Pending events, run states, and what is queued to a vCPU.

use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;

/// Whether halted or held, an NMI is a reason to run on; a SIPI wakes who waits for it.
#[test]
fn what_waits_is_woken() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    // out 0x10, al; hlt, and where NMIs go: out 0x11, al
    ram.write(0x1000, &[0xe6, 0x10, 0xf4]).unwrap();
    ram.write(0x2000, &[0xe6, 0x11]).unwrap();
    ram.store(2 * 4, &0x2000u32).unwrap();
    vm.add_memory(0, 0, &ram, 0).unwrap();
    let port_reached = |vcpu: &Vcpu| match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => io.port,
        exit => panic!("{exit:?}"),
    };
    for mp_state in [KVM_MP_STATE_HALTED, KVM_MP_STATE_AP_RESET_HOLD] {
        crate::run::start(&vcpu);
        let unmasked = vcpu.get_vcpu_events().unwrap();
        vcpu.set_vcpu_events(&KvmVcpuEvents {
            nmi: Default::default(),
            ..unmasked
        })
        .unwrap();
        assert_eq!(vcpu.set_mp_state(&KvmMpState { mp_state }), OK);
        assert_eq!(vcpu.nmi(), OK);
        assert_eq!(port_reached(&vcpu), 0x11, "{mp_state}");
        let runs = KvmMpState {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        assert_eq!(vcpu.get_mp_state(), Ok(runs));
    }
    let second = vm.create_vcpu(1).unwrap();
    let started = KvmMpState {
        mp_state: KVM_MP_STATE_SIPI_RECEIVED,
    };
    assert_eq!(second.set_mp_state(&started), OK);
    // Vector zero: the vectors' page is what it executes, so that page says so.
    ram.write(0, &[0xe6, 0x12]).unwrap();
    assert_eq!(port_reached(&second), 0x12);
}

#[test]
fn other_processors_wait_for_the_first() {
    let Some((vm, _vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let second = vm.create_vcpu(1).unwrap();
    assert_eq!(
        second.get_mp_state(),
        Ok(KvmMpState {
            mp_state: KVM_MP_STATE_UNINITIALIZED
        })
    );
}

#[test]
fn signal_masks() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    assert_eq!(vcpu.set_signal_mask(Some(1 << 9)), OK);
    assert_eq!(vcpu.set_signal_mask(None), OK);
    for len in [0u32, 4, 16, 128] {
        let wrong = [len, 0, 0];
        let result = vcpu.raw(KVM_SET_SIGNAL_MASK, wrong.as_ptr() as u64);
        assert_eq!(result, Err(Errno::EINVAL), "eight bytes, not {len}");
    }
}

#[test]
fn a_clock_that_is_not_there_cannot_be_paused() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    assert_eq!(vcpu.kvmclock_ctrl(), Err(Errno::EINVAL));
}

/// While one NMI is being handled one more is remembered, however many come; before, it is two.
#[test]
fn nmis_that_wait_are_few() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    // inc bl; in the first of them: out 0x11, al; iret. Then: out 0x10, al
    ram.write(0x1000, &[0x90, 0xe6, 0x10]).unwrap();
    ram.write(0x2000, &[0xfe, 0xc3, 0x80, 0xfb, 1, 0x75, 2, 0xe6, 0x11, 0xcf])
        .unwrap();
    ram.store(2 * 4, &0x2000u32).unwrap();
    vm.add_memory(0, 0, &ram, 0).unwrap();
    crate::run::start(&vcpu);
    let port_reached = || match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => io.port,
        exit => panic!("{exit:?}"),
    };
    assert_eq!(vcpu.nmi(), OK);
    assert_eq!(port_reached(), 0x11);
    for _ in 0..10 {
        assert_eq!(vcpu.nmi(), OK);
    }
    assert_eq!(port_reached(), 0x10);
    assert_eq!(vcpu.get_regs().unwrap().rbx & 0xff, 2);
}
