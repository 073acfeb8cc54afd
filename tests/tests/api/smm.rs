//! System management mode: ways in and out, and the memory that only it sees.

use crate::run::{CODE, guest};
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::cap::*;
use ring3_uapi::run::FLAGS;
use ring3_uapi::x86::*;
use ring3_uapi::*;

const SMBASE: u32 = 0x9e;
const SMI_COUNT: u32 = 0x34;
/// Slot 0 of the address space of system management mode.
const SMRAM: u32 = 1 << 16;
const HANDLER: usize = 0x8000;
/// out 10h, al; out 11h, al; hlt
const PROGRAM: [u8; 5] = [0xe6, 0x10, 0xe6, 0x11, 0xf4];
/// out 18h, al; rsm
const REPORT: [u8; 4] = [0xe6, 0x18, 0x0f, 0xaa];

fn port(vcpu: &Vcpu) -> u16 {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => io.port,
        exit => panic!("{exit:?}"),
    }
}

fn runs_in_smm(vcpu: &Vcpu) -> bool {
    vcpu.run_page().load::<u16>(FLAGS) & KVM_RUN_X86_SMM != 0
}

/// 64 KiB from address zero that only system management mode sees, with SMBASE there.
fn smram(vm: &Vm, vcpu: &Vcpu, handler: &[u8]) -> Memory {
    let smram = memory(0x10000);
    smram.write(HANDLER, handler).unwrap();
    vm.add_memory(SMRAM, 0, &smram, KVM_MEM_LOG_DIRTY_PAGES).unwrap();
    vcpu.set_msr(SMBASE, 0).unwrap();
    smram
}

#[test]
fn it_is_offered() {
    let Some((vm, vcpu)) = vcpu() else { return };
    assert_eq!(vm.check_extension(KVM_CAP_X86_SMM), Ok(1));
    assert_eq!(vm.check_extension(KVM_CAP_MULTI_ADDRESS_SPACE), Ok(2));
    assert_eq!(vcpu.get_msr(SMBASE), Ok(0x30000));
    assert_eq!(vcpu.set_msr(SMBASE, 0x7000_0000), OK);
    assert_eq!(vcpu.get_msr(SMBASE), Ok(0x7000_0000));
    let listed = kvm().unwrap().msr_index_list().unwrap();
    assert!(listed.contains(&SMBASE) && listed.contains(&SMI_COUNT));
}

#[test]
fn an_smi_runs_the_handler_and_rsm_the_program() {
    let Some((vm, vcpu, _ram)) = guest(&PROGRAM) else {
        return;
    };
    let smram = smram(&vm, &vcpu, &REPORT);
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x10, false));
    assert_eq!(vcpu.smi(), OK);
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x18, true));
    let sregs = vcpu.get_sregs().unwrap();
    assert_eq!((sregs.cs.base, sregs.cs.limit, sregs.cs.db), (0, u32::MAX, 0));
    assert_eq!((sregs.cr0 & 1, sregs.idt.limit), (0, 0));
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x11, false));
    assert_eq!(vcpu.get_msr(SMI_COUNT), Ok(1));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    // What a processor without long mode saves.
    assert_eq!(smram.load::<u32>(0xfefc), Ok(0x2_0000));
    assert_eq!(smram.load::<u32>(0xfff0), Ok(CODE as u32 + 2));
}

/// The same addresses mean other memory: code, data, and what was written last.
#[test]
fn neither_mode_sees_the_memory_of_the_other() {
    let Some((vm, vcpu, ram)) = guest(&[0xf4]) else {
        return;
    };
    // The program where the handler is: al = [5000h]; out 10h; inc [5000h]; again.
    let code = [0xa0, 0x00, 0x50, 0xe6, 0x10, 0xfe, 0x06, 0x00, 0x50, 0xeb, 0xf5];
    ram.write(HANDLER, &code).unwrap();
    ram.store(0x5000, &1u8).unwrap();
    // The handler: al = [5000h]; out 18h; inc [5000h]; rsm
    let handler = [0xa0, 0x00, 0x50, 0xe6, 0x18, 0xfe, 0x06, 0x00, 0x50, 0x0f, 0xaa];
    let smram = smram(&vm, &vcpu, &handler);
    smram.store(0x5000, &101u8).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    regs.rip = HANDLER as u64;
    vcpu.set_regs(&regs).unwrap();
    let value = |expected| match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => assert_eq!((io.port, vcpu.port_data(&io)[0]), expected),
        exit => panic!("{exit:?}"),
    };
    // Often enough for the program to be hot.
    for round in 0..40 {
        value((0x10, 1 + round));
        vcpu.smi().unwrap();
        value((0x18, 101 + round));
    }
    assert_eq!(ram.load::<u8>(0x5000), Ok(40));
    assert_eq!(smram.load::<u8>(0x5000), Ok(140));
    // Each slot has its own log: of SMRAM the counter's page, the handler's, and the one of the saved state.
    let dirty = vm.get_dirty_log(SMRAM, 16).unwrap();
    assert_eq!(dirty[0], 1 << 5 | 1 << 8 | 1 << 15);
    assert_eq!(vm.get_dirty_log(0, 16).unwrap()[0] & 0xff00, 1 << 8);
}

/// What the handler writes to the program's code, through an address of its own, is executed.
#[test]
fn a_handler_patches_the_program() {
    // out 10h, al; jmp back
    let Some((vm, vcpu, ram)) = guest(&[0xe6, 0x10, 0xeb, 0xfc]) else {
        return;
    };
    // mov byte [ds:9001h], 12h, which is where the other space has 1001h; rsm
    let handler = [0xc6, 0x06, 0x01, 0x90, 0x12, 0x0f, 0xaa];
    let smram = memory(0x8000);
    vm.add_memory(SMRAM, 0x1_0000, &smram, 0).unwrap();
    vm.set_user_memory_region(&KvmUserspaceMemoryRegion {
        slot: SMRAM + 1,
        memory_size: 0x8000,
        guest_phys_addr: 0x8000,
        userspace_addr: ram.address(),
        ..Default::default()
    })
    .unwrap();
    // The handler's page is the last of SMRAM, its saved state that of the program's memory.
    vcpu.set_msr(SMBASE, 0xf000).unwrap();
    smram.write(0x17000 - 0x10000, &handler).unwrap();
    let areas = memory(0x10000);
    vm.add_memory(SMRAM + 2, 0x1_8000, &areas, 0).unwrap();
    for _ in 0..30 {
        assert_eq!(port(&vcpu), 0x10);
    }
    vcpu.smi().unwrap();
    assert_eq!(port(&vcpu), 0x12);
}

#[test]
fn an_smi_in_the_mode_waits_for_its_end() {
    let Some((vm, vcpu, _ram)) = guest(&PROGRAM) else {
        return;
    };
    let _smram = smram(&vm, &vcpu, &REPORT);
    vcpu.smi().unwrap();
    assert_eq!(port(&vcpu), 0x18);
    vcpu.smi().unwrap();
    let events = vcpu.get_vcpu_events().unwrap();
    assert_eq!((events.smi.smm, events.smi.pending), (1, 1));
    assert_eq!([port(&vcpu), port(&vcpu), port(&vcpu)], [0x18, 0x10, 0x11]);
    assert_eq!(vcpu.get_msr(SMI_COUNT), Ok(2));
}

#[test]
fn nmis_wait_for_its_end() {
    let Some((vm, vcpu, ram)) = guest(&PROGRAM) else {
        return;
    };
    let _smram = smram(&vm, &vcpu, &REPORT);
    // Of NMIs: out 30h, al; iret
    ram.write(0x3000, &[0xe6, 0x30, 0xcf]).unwrap();
    ram.store(2 * 4, &0x3000u32).unwrap();
    vcpu.smi().unwrap();
    assert_eq!(port(&vcpu), 0x18);
    assert_eq!(vcpu.get_vcpu_events().unwrap().nmi.masked, 1);
    vcpu.nmi().unwrap();
    assert_eq!([port(&vcpu), port(&vcpu)], [0x30, 0x10]);
    // One that comes while an NMI is handled leaves NMIs blocked.
    vcpu.nmi().unwrap();
    assert_eq!(port(&vcpu), 0x30);
    vcpu.smi().unwrap();
    assert_eq!(port(&vcpu), 0x18);
    assert_eq!(vcpu.get_vcpu_events().unwrap().smi.smm_inside_nmi, 1);
    assert_eq!(port(&vcpu), 0x11);
    assert_eq!(vcpu.get_vcpu_events().unwrap().nmi.masked, 0);
}

#[test]
fn the_mode_comes_back_as_an_event() {
    let Some((vm, vcpu, _ram)) = guest(&PROGRAM) else {
        return;
    };
    let _smram = smram(&vm, &vcpu, &REPORT);
    let mut events = vcpu.get_vcpu_events().unwrap();
    assert_ne!(events.flags & KVM_VCPUEVENT_VALID_SMM, 0);
    assert_eq!(events.smi, KvmVcpuEventsSmi::default());
    events.smi = KvmVcpuEventsSmi {
        smm: 1,
        pending: 1,
        smm_inside_nmi: 1,
        latched_init: 0,
    };
    assert_eq!(vcpu.set_vcpu_events(&events), OK);
    assert_eq!(vcpu.get_vcpu_events().unwrap().smi, events.smi);
    // It sees the memory of the mode: there is only the handler's.
    let mut regs = vcpu.get_regs().unwrap();
    regs.rip = HANDLER as u64;
    vcpu.set_regs(&regs).unwrap();
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x18, true));
    // Without the flag, nothing of it is looked at.
    let other = KvmVcpuEvents {
        flags: 0,
        smi: Default::default(),
        ..vcpu.get_vcpu_events().unwrap()
    };
    assert_eq!(vcpu.set_vcpu_events(&other), OK);
    assert_eq!(vcpu.get_vcpu_events().unwrap().smi.smm, 1);
    events.smi = Default::default();
    assert_eq!(vcpu.set_vcpu_events(&events), OK);
    regs.rip = CODE;
    vcpu.set_regs(&regs).unwrap();
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x10, false));
}

#[test]
fn messages_bring_smis_and_inits_wait() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    ram.write(CODE as usize, &PROGRAM).unwrap();
    vm.add_memory(0, 0, &ram, 0).unwrap();
    // What INIT leads to: out 30h, al
    let top = memory(0x1000);
    top.write(0xff0, &[0xe6, 0x30]).unwrap();
    vm.add_memory(1, 0xffff_f000, &top, 0).unwrap();
    let _smram = smram(&vm, &vcpu, &REPORT);
    crate::run::start(&vcpu);
    let message = |mode: u32| {
        let msi = KvmMsi {
            address_lo: 0xfee0_0000,
            data: mode << 8 | 1 << 14,
            ..Default::default()
        };
        assert_eq!(vm.signal_msi(&msi), Ok(1));
    };
    assert_eq!(port(&vcpu), 0x10);
    message(2);
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x18, true));
    message(5);
    let events = vcpu.get_vcpu_events().unwrap();
    assert_eq!((events.smi.smm, events.smi.latched_init), (1, 1));
    // A processor that waits to be started is not in the mode.
    let waits = KvmMpState {
        mp_state: KVM_MP_STATE_INIT_RECEIVED,
    };
    assert_eq!(vcpu.set_mp_state(&waits), OK);
    assert_eq!(vcpu.run(), Err(Errno::EINVAL));
    let runs = KvmMpState {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    assert_eq!(vcpu.set_mp_state(&runs), OK);
    assert_eq!((port(&vcpu), runs_in_smm(&vcpu)), (0x30, false));
    assert_eq!(vcpu.get_vcpu_events().unwrap().smi.latched_init, 0);
    assert_eq!(vcpu.get_msr(SMBASE), Ok(0), "INIT leaves it");
    assert_eq!(vcpu.get_msr(SMI_COUNT), Ok(0));
}

#[test]
fn a_halted_processor_is_woken() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    ram.write(CODE as usize, &[0xf4, 0xe6, 0x10]).unwrap();
    vm.add_memory(0, 0, &ram, 0).unwrap();
    let _smram = smram(&vm, &vcpu, &REPORT);
    crate::run::start(&vcpu);
    let halted = KvmMpState {
        mp_state: KVM_MP_STATE_HALTED,
    };
    vcpu.set_mp_state(&halted).unwrap();
    vcpu.smi().unwrap();
    assert_eq!(port(&vcpu), 0x18);
    // The state has no word of the halt; the program goes on.
    let mut regs = vcpu.get_regs().unwrap();
    regs.rflags = 2;
    vcpu.set_regs(&regs).unwrap();
    vcpu.nmi().unwrap();
    ram.store(2 * 4, &(CODE as u32 + 1)).unwrap();
    assert_eq!(port(&vcpu), 0x10);
}

#[test]
fn without_memory_at_smbase_the_vm_is_lost() {
    let Some((_vm, vcpu, _ram)) = guest(&PROGRAM) else {
        return;
    };
    assert_eq!(vcpu.set_msr(SMBASE, 0x100_0000), OK);
    assert_eq!(vcpu.smi(), OK);
    assert_eq!(vcpu.run(), Err(Errno::EIO));
    assert_eq!(vcpu.get_regs().map(drop), Err(Errno::EIO));
}
