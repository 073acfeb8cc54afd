//! The paravirtual end of interrupt: the guest clears a byte of its memory where it would write to the APIC.

use crate::run::CODE;
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::KvmMsi;
use ring3_uapi::x86::pv::MSR_KVM_PV_EOI_EN;

const BYTE: u64 = 0x3000;
const VECTOR: u8 = 0x41;
const APIC_BASE: u32 = 0x1b;
/// The spurious vector's register, and its bit that enables the APIC.
const SVR: u32 = 0x80f;

/// Whether the vector is in service.
fn in_service(vcpu: &Vcpu) -> bool {
    let regs = vcpu.get_lapic().unwrap().regs;
    regs[0x120] & 2 != 0
}

/// A guest about to execute `code`, with `handler` for the vector.
fn guest(code: &[u8], handler: &[u8]) -> Option<(Vm, Vcpu, Memory)> {
    let (vm, vcpu) = vcpu_with_irqchip()?;
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    vcpu.set_cpuid2(&kvm().unwrap().supported_cpuid().unwrap())
        .unwrap();
    ram.write(CODE as usize, code).unwrap();
    ram.write(0x2000, handler).unwrap();
    ram.store(4 * usize::from(VECTOR), &0x2000u32).unwrap();
    crate::run::start(&vcpu);
    Some((vm, vcpu, ram))
}

/// A timer's deadline that is past when it is set, by a handler that has ended its interrupt already: the next interrupt must
/// not wait for something else to take the guest out of guest mode.
#[test]
fn a_deadline_in_the_past_is_due_behind_an_end_unseen() {
    const TSC_DEADLINE: u32 = 0x6e0;
    const LVT_TIMER: u32 = 0x832;
    const DEADLINE_MODE: u64 = 1 << 18;
    // mov ebx, 4000000h; sti; dec ebx; jnz -4; out 13h, al
    let code = [0x66, 0xbb, 0, 0, 0, 4, 0xfb, 0x66, 0x4b, 0x75, 0xfc, 0xe6, 0x13];
    // mov byte [BYTE], 0; inc word [3010h]; cmp word [3010h], 3; jb +2; out 11h, al
    // xor edx, edx; mov eax, 1; mov ecx, TSC_DEADLINE; wrmsr; iret
    let handler = [
        0xc6, 0x06, 0x00, 0x30, 0x00, 0xff, 0x06, 0x10, 0x30, 0x83, 0x3e, 0x10, 0x30, 3, 0x72, 2, 0xe6, 0x11,
        0x66, 0x31, 0xd2, 0x66, 0xb8, 1, 0, 0, 0, 0x66, 0xb9, 0xe0, 0x06, 0, 0, 0x0f, 0x30, 0xcf,
    ];
    let Some((_vm, vcpu, _ram)) = guest(&code, &handler) else {
        return;
    };
    let base = vcpu.get_msr(APIC_BASE).unwrap();
    for (register, value) in [
        (APIC_BASE, base | 1 << 10),
        (SVR, 0x1ff),
        (LVT_TIMER, DEADLINE_MODE | u64::from(VECTOR)),
        (MSR_KVM_PV_EOI_EN, BYTE | 1),
        (TSC_DEADLINE, 1),
    ] {
        assert_eq!(vcpu.set_msr(register, value), OK, "{register:#x}");
    }
    let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!(io.port, 0x11, "interrupts stopped");
}

#[test]
fn an_interrupt_ends_without_a_write_to_the_apic() {
    // sti; hlt; jmp -3
    let code = [0xfb, 0xf4, 0xeb, 0xfd];
    // mov al, [BYTE]; out 10h, al; mov byte [BYTE], 0; out 11h, al; iret
    let handler = [
        0xa0, 0x00, 0x30, 0xe6, 0x10, 0xc6, 0x06, 0x00, 0x30, 0x00, 0xe6, 0x11, 0xcf,
    ];
    let Some((vm, vcpu, ram)) = guest(&code, &handler) else {
        return;
    };
    let base = vcpu.get_msr(APIC_BASE).unwrap();
    assert_eq!(vcpu.set_msr(APIC_BASE, base | 1 << 10), OK, "x2APIC mode");
    assert_eq!(vcpu.set_msr(SVR, 0x1ff), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_PV_EOI_EN), Ok(0));
    assert_eq!(
        vcpu.set_msr(MSR_KVM_PV_EOI_EN, BYTE | 2 | 1),
        Err(Errno::EINVAL),
        "not aligned"
    );
    assert_eq!(vcpu.set_msr(MSR_KVM_PV_EOI_EN, BYTE | 1), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_PV_EOI_EN), Ok(BYTE | 1));
    let message = KvmMsi {
        address_lo: 0xfee0_0000,
        data: VECTOR.into(),
        ..Default::default()
    };
    for _ in 0..3 {
        assert_eq!(vm.signal_msi(&message), Ok(1));
        let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
            panic!("{:?}", vcpu.last_exit())
        };
        assert_eq!(
            (io.port, vcpu.port_data(&io)),
            (0x10, vec![1]),
            "it may be cleared"
        );
        assert!(in_service(&vcpu));
        assert_eq!(
            ram.load::<u8>(BYTE as usize),
            Ok(0),
            "not while the guest is away"
        );
        let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
            panic!("{:?}", vcpu.last_exit())
        };
        assert_eq!(io.port, 0x11);
        assert!(!in_service(&vcpu), "it ended");
    }
    assert_eq!(vcpu.set_msr(MSR_KVM_PV_EOI_EN, 0), OK);
    assert_eq!(vm.signal_msi(&message), Ok(1));
    let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!((io.port, vcpu.port_data(&io)), (0x10, vec![0]), "no more");
}
