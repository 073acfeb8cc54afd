//! KVM_SET_GUEST_DEBUG: what the client's debugger gets to see.

use crate::run::{CODE, guest};
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::x86::*;
use ring3_uapi::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP};

fn debug(vcpu: &Vcpu, control: u32, registers: [u64; 8]) {
    let debug = KvmGuestDebug {
        control: KVM_GUESTDBG_ENABLE | control,
        pad: 0,
        arch: KvmGuestDebugArch { debugreg: registers },
    };
    vcpu.set_guest_debug(&debug).unwrap();
}

#[track_caller]
fn stops(vcpu: &Vcpu, exception: u32, pc: u64) {
    let exit = vcpu.run();
    assert!(
        matches!(exit, Ok(VcpuExit::Debug(at)) if (at.exception, at.pc) == (exception, pc)),
        "{exit:?}"
    );
}

#[test]
fn software_breakpoints() {
    // nop; int3; hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0x90, 0xcc, 0xf4]) else {
        return;
    };
    debug(&vcpu, KVM_GUESTDBG_USE_SW_BP, [0; 8]);
    stops(&vcpu, 3, CODE + 1);
    assert_eq!(vcpu.get_regs().unwrap().rip, CODE + 1);
    let regs = KvmRegs {
        rip: CODE + 2,
        ..vcpu.get_regs().unwrap()
    };
    vcpu.set_regs(&regs).unwrap();
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
}

#[test]
fn hardware_breakpoints() {
    // nop; mov [0x3000], al; hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0x90, 0xa2, 0x00, 0x30, 0xf4]) else {
        return;
    };
    for n in 0..4 {
        let mut registers = [0; 8];
        registers[n] = CODE + 1;
        registers[7] = 0x400 | 2 << (2 * n);
        debug(&vcpu, KVM_GUESTDBG_USE_HW_BP, registers);
        stops(&vcpu, 1, CODE + 1);
        registers[n] = 0x3000;
        registers[7] |= 1 << (16 + 4 * n);
        debug(&vcpu, KVM_GUESTDBG_USE_HW_BP, registers);
        stops(&vcpu, 1, CODE + 4);
        let regs = KvmRegs {
            rip: CODE,
            ..vcpu.get_regs().unwrap()
        };
        vcpu.set_regs(&regs).unwrap();
    }
}

#[test]
fn single_steps() {
    // xor eax, eax; in al, 0x20; out 0x21, al; nop; hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0x31, 0xc0, 0xe4, 0x20, 0xe6, 0x21, 0x90, 0xf4]) else {
        return;
    };
    debug(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8]);
    stops(&vcpu, 1, CODE + 2);
    let Ok(VcpuExit::IoIn(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    vcpu.complete_io_in(&io, &[0x77]);
    stops(&vcpu, 1, CODE + 4);
    assert_eq!(vcpu.get_regs().unwrap().rax & 0xff, 0x77);
    assert_eq!(vcpu.get_regs().unwrap().rflags & 1 << 8, 0);
    let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!(vcpu.port_data(&io), [0x77]);
    vcpu.set_guest_debug(&KvmGuestDebug::default()).unwrap();
    let last = vcpu.run();
    assert!(
        matches!(last, Ok(VcpuExit::Hlt) | Ok(VcpuExit::Debug(_))),
        "{last:?}"
    );
}

#[test]
fn a_halt_that_is_stepped_over_still_halts() {
    // hlt; nop: KVM without an interrupt controller of its own tells the client of the HLT, not of the step.
    let Some((_vm, vcpu, _ram)) = guest(&[0xf4, 0x90]) else {
        return;
    };
    debug(&vcpu, KVM_GUESTDBG_SINGLESTEP, [0; 8]);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(vcpu.get_regs().unwrap().rip, CODE + 1);
}
