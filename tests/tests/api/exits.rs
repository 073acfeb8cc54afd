//! Exits that a client has to ask for, and those that tell of a guest that cannot go on.

use crate::run::{CODE, guest};
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::cap::*;
use ring3_uapi::exit::{KVM_EXIT_X86_BUS_LOCK, KVM_INTERNAL_ERROR_DELIVERY_EV};
use ring3_uapi::run::FLAGS;
use ring3_uapi::x86::*;

/// A guest in real mode about to execute `code`, on a vCPU made after `prepare`.
fn guest_after(prepare: impl FnOnce(&Vm), code: &[u8]) -> Option<(Vm, Vcpu, Memory)> {
    let vm = vm()?;
    prepare(&vm);
    let vcpu = vm.create_vcpu(0).unwrap();
    let ram = memory(0x10000);
    ram.write(CODE as usize, code).unwrap();
    vm.add_memory(0, 0, &ram, 0).unwrap();
    crate::run::start(&vcpu);
    Some((vm, vcpu, ram))
}

#[test]
fn bus_locks() {
    if !offered(KVM_CAP_X86_BUS_LOCK_EXIT) {
        return;
    }
    // lock inc word [0x3040]; lock inc word [0x303f]; hlt
    let code = [0xf0, 0xff, 0x06, 0x40, 0x30, 0xf0, 0xff, 0x06, 0x3f, 0x30, 0xf4];
    let enable = |vm: &Vm, mode| vm.enable_cap(KVM_CAP_X86_BUS_LOCK_EXIT, [mode, 0, 0, 0]);
    let both = KVM_BUS_LOCK_DETECTION_OFF | KVM_BUS_LOCK_DETECTION_EXIT;
    let prepare = |vm: &Vm| {
        assert_eq!(enable(vm, both), Err(Errno::EINVAL));
        assert_eq!(enable(vm, 4), Err(Errno::EINVAL));
        assert_eq!(enable(vm, KVM_BUS_LOCK_DETECTION_EXIT), OK);
    };
    let Some((_vm, vcpu, ram)) = guest_after(prepare, &code) else {
        return;
    };
    assert_eq!(vcpu.run(), Ok(VcpuExit::Other(KVM_EXIT_X86_BUS_LOCK)));
    assert_ne!(vcpu.run_page().load::<u16>(FLAGS) & KVM_RUN_X86_BUS_LOCK, 0);
    // Before the instruction on AMD's processors, behind it on Intel's and here.
    let done = vcpu.get_regs().unwrap().rip == CODE + 10;
    assert_eq!(ram.load::<u16>(0x3040), Ok(1));
    assert_eq!(ram.load::<u8>(0x303f), Ok(u8::from(done)));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(vcpu.run_page().load::<u16>(FLAGS) & KVM_RUN_X86_BUS_LOCK, 0);
    assert_eq!(ram.load::<u8>(0x303f), Ok(1));

    let off = |vm: &Vm| assert_eq!(enable(vm, KVM_BUS_LOCK_DETECTION_OFF), OK);
    let Some((_vm, vcpu, _ram)) = guest_after(off, &code) else {
        return;
    };
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
}

#[test]
fn events_are_not_delivered_from_a_device() {
    // int 20h; hlt, with a table of interrupts where no memory is
    let Some((_vm, vcpu, _ram)) = guest(&[0xcd, 0x20, 0xf4]) else {
        return;
    };
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.idt.base = 0x20000;
    vcpu.set_sregs(&sregs).unwrap();
    let Ok(VcpuExit::InternalError(error)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!((error.suberror, error.ndata), (KVM_INTERNAL_ERROR_DELIVERY_EV, 5));
    // A software interrupt, valid.
    assert_eq!(error.data[0], 1 << 31 | 4 << 8 | 0x20);
    assert_eq!(error.data[3], 0x20000 + 4 * 0x20);
    assert_eq!(vcpu.get_regs().unwrap().rip, CODE);
}

#[test]
fn the_other_makers_hypercall_is_replaced_or_unknown() {
    let Some(kvm) = kvm() else { return };
    let cpuid = kvm.supported_cpuid().unwrap();
    let amd = cpuid
        .iter()
        .any(|e| e.function == 0 && e.ebx == u32::from_le_bytes(*b"Auth"));
    let (own, foreign) = if amd { (0xd9, 0xc1) } else { (0xc1, 0xd9) };
    for disabled in [false, true] {
        // A hypercall that there is none of; hlt; and for #UD: mov bx, 7; hlt
        let Some((vm, vcpu, ram)) = guest(&[0x0f, 0x01, foreign, 0xf4]) else {
            return;
        };
        vcpu.set_cpuid2(&cpuid).unwrap();
        ram.write(0x2000, &[0xbb, 7, 0, 0xf4]).unwrap();
        ram.store(6 * 4, &0x2000u32).unwrap();
        if disabled {
            let quirk = KVM_X86_QUIRK_FIX_HYPERCALL_INSN;
            assert_eq!(vm.enable_cap(KVM_CAP_DISABLE_QUIRKS2, [quirk, 0, 0, 0]), OK);
        }
        assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
        assert_eq!(vcpu.get_regs().unwrap().rbx, if disabled { 7 } else { 0 });
        let left = ram.load::<u8>(CODE as usize + 2);
        assert_eq!(left, Ok(if disabled { foreign } else { own }));
    }
}

#[test]
fn switches_have_their_rules() {
    let Some(vm) = vm() else { return };
    let enable = |cap, value| vm.enable_cap(cap, [value, 0, 0, 0]);
    assert_eq!(enable(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 2), Err(Errno::EINVAL));
    assert_eq!(enable(KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1), OK);
    if offered(KVM_CAP_X86_NOTIFY_VMEXIT) {
        let enabled = KVM_X86_NOTIFY_VMEXIT_ENABLED;
        for wrong in [0, KVM_X86_NOTIFY_VMEXIT_USER, enabled | 4] {
            assert_eq!(enable(KVM_CAP_X86_NOTIFY_VMEXIT, wrong), Err(Errno::EINVAL));
        }
        assert_eq!(enable(KVM_CAP_X86_NOTIFY_VMEXIT, enabled | 100 << 32), OK);
        let _vcpu = vm.create_vcpu(0).unwrap();
        assert_eq!(
            enable(KVM_CAP_X86_NOTIFY_VMEXIT, enabled),
            Err(Errno::EINVAL),
            "there is a vCPU"
        );
    }
}
