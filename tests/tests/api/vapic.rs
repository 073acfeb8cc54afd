//! The task priority of guests that set it often: reports of accesses, and the word in guest memory that takes its place.

use crate::run::CODE;
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::KvmMsi;
use ring3_uapi::run::RunTprAccess;
use ring3_uapi::x86::{KvmTprAccessCtl, KvmVapicAddr};

const WORD: u64 = 0x3000;
const VECTOR: u8 = 0x41;
const HANDLER: u32 = 0x2000;
const TPR: usize = 0x80;

/// A guest about to execute `code`, with the APIC's window where DS begins.
fn guest(code: &[u8]) -> Option<(Vm, Vcpu, Memory)> {
    let (vm, vcpu) = vcpu_with_irqchip()?;
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    ram.write(CODE as usize, code).unwrap();
    crate::run::start(&vcpu);
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.ds.base = 0xfee0_0000;
    sregs.apic_base |= 1 << 11;
    vcpu.set_sregs(&sregs).unwrap();
    let mut apic = vcpu.get_lapic().unwrap();
    // The spurious vector's register: enabled.
    apic.regs[0xf0..0xf2].copy_from_slice(&[0xff, 1]);
    vcpu.set_lapic(&apic).unwrap();
    Some((vm, vcpu, ram))
}

fn reporting(vcpu: &Vcpu, enabled: u32) -> Result<(), Errno> {
    vcpu.tpr_access_reporting(&mut KvmTprAccessCtl {
        enabled,
        ..Default::default()
    })
}

/// The next write to a port: which, and what.
fn output(vcpu: &Vcpu) -> (u16, u8) {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => (io.port, vcpu.port_data(&io)[0]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn accesses_to_the_task_priority_are_reported() {
    // mov eax, [80h]; mov [80h], eax; add dword [80h], 10h; out 10h, al; mov [80h], eax; out 10h, al
    let Some((_vm, vcpu, _ram)) = guest(&[
        0x66, 0xa1, 0x80, 0, 0x66, 0xa3, 0x80, 0, 0x66, 0x83, 0x06, 0x80, 0, 0x10, 0xe6, 0x10, 0x66, 0xa3,
        0x80, 0, 0xe6, 0x10,
    ]) else {
        return;
    };
    let mut flags = KvmTprAccessCtl {
        enabled: 1,
        flags: 1,
        ..Default::default()
    };
    assert_eq!(vcpu.tpr_access_reporting(&mut flags), Err(Errno::EINVAL));
    assert_eq!(reporting(&vcpu, 1), OK);
    for (rip, len, is_write) in [(CODE, 4, 0), (CODE + 4, 4, 1), (CODE + 8, 6, 1)] {
        let access = RunTprAccess {
            rip,
            is_write,
            ..Default::default()
        };
        let Ok(VcpuExit::TprAccess(seen)) = vcpu.run() else {
            panic!("{:?}", vcpu.last_exit())
        };
        assert_eq!((seen.rip, seen.is_write), (access.rip, access.is_write));
        assert_eq!(vcpu.get_regs().unwrap().rip, rip + len, "behind it");
    }
    assert_eq!(vcpu.get_lapic().unwrap().regs[TPR], 0x10);
    assert_eq!(output(&vcpu).0, 0x10);
    assert_eq!(reporting(&vcpu, 0), OK);
    assert_eq!(output(&vcpu).0, 0x10, "no report");
}

#[test]
fn a_word_of_memory_takes_the_task_prioritys_place() {
    // mov byte es:[WORD], 50h; out 10h, al; mov al, es:[WORD + 3]; out 11h, al; sti; nop
    // mov byte es:[WORD], 0; mov eax, KVM_HC_VAPIC_POLL_IRQ; vmcall; hlt
    let Some((vm, vcpu, ram)) = guest(&[
        0x26, 0xc6, 0x06, 0, 0x30, 0x50, 0xe6, 0x10, 0x26, 0xa0, 0x03, 0x30, 0xe6, 0x11, 0xfb, 0x90, 0x26,
        0xc6, 0x06, 0, 0x30, 0, 0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0x01, 0xc1, 0xf4,
    ]) else {
        return;
    };
    // mov al, es:[WORD + 1]; out 12h, al; iret
    let handler = [0x26, 0xa0, 0x01, 0x30, 0xe6, 0x12, 0xcf];
    ram.write(HANDLER as usize, &handler).unwrap();
    ram.store(4 * usize::from(VECTOR), &HANDLER).unwrap();

    assert_eq!(set_word(&vcpu, 0x10_0000), Err(Errno::EINVAL), "no memory");
    assert_eq!(set_word(&vcpu, WORD), OK);
    assert_eq!(output(&vcpu).0, 0x10);
    assert_eq!(vcpu.get_lapic().unwrap().regs[TPR], 0x50, "the guest's");
    let message = KvmMsi {
        address_lo: 0xfee0_0000,
        data: VECTOR.into(),
        ..Default::default()
    };
    assert_eq!(vm.signal_msi(&message), Ok(1));
    assert_eq!(
        output(&vcpu),
        (0x11, VECTOR),
        "what is requested, and has to wait"
    );
    assert_eq!(output(&vcpu), (0x12, VECTOR & 0xf0), "in service");
    assert_eq!(vcpu.get_lapic().unwrap().regs[TPR], 0);
}

fn set_word(vcpu: &Vcpu, vapic_addr: u64) -> Result<(), Errno> {
    vcpu.set_vapic_addr(&KvmVapicAddr { vapic_addr })
}

#[test]
fn without_an_apic_of_the_kernels_there_is_no_word() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    assert_eq!(set_word(&vcpu, 0), Err(Errno::EINVAL));
    assert_eq!(reporting(&vcpu, 1), OK, "there is nothing to be checked");
}
