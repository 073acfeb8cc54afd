//! The registers of asynchronous page faults; the faults themselves are in `tiers`, since they take a guest with page tables.

use crate::run::CODE;
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::x86::pv::*;

const STRUCTURE: u64 = 0x3000;
const TOKEN: usize = STRUCTURE as usize + 4;
const VECTOR: u8 = 0x41;
const HANDLER: u32 = 0x2000;
const ENABLED: u64 = KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT;
const SVR: u32 = 0x80f;
const APIC_BASE: u32 = 0x1b;

const INVALID: Result<(), Errno> = Err(Errno::EINVAL);

fn guest() -> Option<(Vcpu, Memory, Vm)> {
    let (vm, vcpu) = vcpu_with_irqchip()?;
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    vcpu.set_cpuid2(&kvm()?.supported_cpuid().unwrap()).unwrap();
    Some((vcpu, ram, vm))
}

#[test]
fn registers_come_back_and_reserved_bits_do_not_go_in() {
    let Some((vcpu, _ram, _vm)) = guest() else { return };
    assert_eq!(vcpu.get_msr(MSR_KVM_ASYNC_PF_EN), Ok(0));
    for bit in [1 << 4, 1 << 5] {
        assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, bit), INVALID);
    }
    assert_eq!(
        vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, 0x10_0000 | ENABLED),
        INVALID,
        "no memory"
    );
    assert_eq!(
        vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, 0x10_0000 | KVM_ASYNC_PF_ENABLED),
        OK,
        "not used"
    );
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, STRUCTURE | ENABLED), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_ASYNC_PF_EN), Ok(STRUCTURE | ENABLED));
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_INT, 0x100), INVALID);
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_INT, VECTOR.into()), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_ASYNC_PF_INT), Ok(VECTOR.into()));
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_ACK, 1), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_ASYNC_PF_ACK), Ok(0));
}

#[test]
fn they_need_a_local_apic_of_the_kernels() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, 0), OK);
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, STRUCTURE), INVALID);
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_INT, VECTOR.into()), INVALID);
}

#[test]
fn enabling_wakes_whoever_waits() {
    let Some((vcpu, ram, _vm)) = guest() else { return };
    // sti; hlt; jmp -3, and for the interrupt: mov al, [TOKEN]; out 10h, al; iret
    ram.write(CODE as usize, &[0xfb, 0xf4, 0xeb, 0xfd]).unwrap();
    ram.write(HANDLER as usize, &[0xa0, 0x04, 0x30, 0xe6, 0x10, 0xcf])
        .unwrap();
    ram.store(4 * usize::from(VECTOR), &HANDLER).unwrap();
    crate::run::start(&vcpu);
    let base = vcpu.get_msr(APIC_BASE).unwrap();
    for (register, value) in [
        (APIC_BASE, base | 1 << 10),
        (SVR, 0x1ff),
        (MSR_KVM_ASYNC_PF_INT, VECTOR.into()),
        (MSR_KVM_ASYNC_PF_EN, STRUCTURE | ENABLED),
    ] {
        assert_eq!(vcpu.set_msr(register, value), OK, "{register:#x}");
    }
    let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!((io.port, vcpu.port_data(&io)), (0x10, vec![0xff]));
    assert_eq!(ram.load::<u32>(TOKEN), Ok(!0), "everybody");
}
