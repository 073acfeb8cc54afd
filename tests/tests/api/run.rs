//! KVM_RUN: a few instructions of real-mode guest, and the ways out.

use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::KVM_MEM_LOG_DIRTY_PAGES;
use ring3_uapi::cap::KVM_CAP_MSR_PLATFORM_INFO;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;

pub const CODE: u64 = 0x1000;

/// Has the vCPU execute what is at [`CODE`], in real mode, with a stack.
pub fn start(vcpu: &Vcpu) {
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_regs(&KvmRegs {
        rip: CODE,
        rflags: 2,
        rsp: 0x8000,
        ..Default::default()
    })
    .unwrap();
}

/// A guest of 64 KiB in real mode, about to execute `code`.
pub fn guest(code: &[u8]) -> Option<(Vm, Vcpu, Memory)> {
    let (vm, vcpu) = vcpu()?;
    let ram = memory(0x10000);
    ram.write(CODE as usize, code).unwrap();
    vm.add_memory(0, 0, &ram, KVM_MEM_LOG_DIRTY_PAGES).unwrap();
    start(&vcpu);
    Some((vm, vcpu, ram))
}

#[test]
fn out_and_halt() {
    // mov al, 'A'; out 0x10, al; hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0xb0, b'A', 0xe6, 0x10, 0xf4]) else {
        return;
    };
    let Ok(VcpuExit::IoOut(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!((io.port, io.size, io.count), (0x10, 1, 1));
    assert_eq!(vcpu.port_data(&io), b"A");
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(vcpu.get_regs().unwrap().rip, CODE + 5);
}

#[test]
fn port_reads_are_answered() {
    // in ax, 0x20; hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0xe5, 0x20, 0xf4]) else {
        return;
    };
    let Ok(VcpuExit::IoIn(io)) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!((io.port, io.size, io.count), (0x20, 2, 1));
    vcpu.complete_io_in(&io, &[0x34, 0x12]);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(vcpu.get_regs().unwrap().rax, 0x1234);
}

#[test]
fn mmio_both_ways() {
    // mov ax, 0x2000; mov ds, ax; mov al, [0]; inc al; mov [1], al; hlt
    let code = [
        0xb8, 0x00, 0x20, 0x8e, 0xd8, 0xa0, 0, 0, 0xfe, 0xc0, 0xa2, 1, 0, 0xf4,
    ];
    let Some((_vm, vcpu, _ram)) = guest(&code) else {
        return;
    };
    assert_eq!(
        vcpu.run(),
        Ok(VcpuExit::MmioRead {
            address: 0x20000,
            len: 1
        })
    );
    vcpu.complete_mmio_read(&[0x41]);
    let Ok(VcpuExit::MmioWrite { address, len, data }) = vcpu.run() else {
        panic!("{:?}", vcpu.last_exit())
    };
    assert_eq!((address, len, data[0]), (0x20001, 1, 0x42));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
}

#[test]
fn stores_reach_memory_and_the_dirty_log() {
    // mov word [0x3000], 0xbeef; hlt
    let Some((vm, vcpu, ram)) = guest(&[0xc7, 0x06, 0x00, 0x30, 0xef, 0xbe, 0xf4]) else {
        return;
    };
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(ram.load::<u16>(0x3000), Ok(0xbeef));
    assert_eq!(vm.get_dirty_log(0, 16).unwrap()[0] & (1 << 3), 1 << 3);
    assert_eq!(
        vm.get_dirty_log(0, 16).unwrap()[0] & (1 << 3),
        0,
        "reading clears"
    );
}

#[test]
fn immediate_exit() {
    let Some((_vm, vcpu, _ram)) = guest(&[0xf4]) else {
        return;
    };
    vcpu.set_immediate_exit(1);
    assert_eq!(vcpu.run(), Err(Errno::EINTR));
    assert_eq!(vcpu.get_regs().unwrap().rip, CODE);
    vcpu.set_immediate_exit(0);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(vcpu.raw(KVM_RUN, 1), Err(Errno::EINVAL));
}

#[test]
fn an_immediate_exit_leaves_the_last_exit_to_be_read() {
    // out 10h, al; hlt
    let Some((_vm, vcpu, _ram)) = guest(&[0xe6, 0x10, 0xf4]) else {
        return;
    };
    let exit = vcpu.run().unwrap();
    vcpu.set_immediate_exit(1);
    assert_eq!(vcpu.run(), Err(Errno::EINTR));
    assert_eq!(vcpu.last_exit(), exit);
    assert_eq!(vcpu.get_regs().unwrap().rip, CODE + 2, "and completes it");
}

#[test]
fn the_client_can_keep_platform_info_for_itself() {
    // mov ecx, ceh; rdmsr; hlt, and for its fault: mov bx, 7; hlt
    let Some((vm, vcpu, ram)) = guest(&[0x66, 0xb9, 0xce, 0, 0, 0, 0x0f, 0x32, 0xf4]) else {
        return;
    };
    ram.write(0x2000, &[0xbb, 7, 0, 0xf4]).unwrap();
    ram.store(13 * 4, &0x2000u32).unwrap();
    let start = vcpu.get_regs().unwrap();
    for (may, rbx) in [(0, 7), (1, 0)] {
        assert_eq!(vm.enable_cap(KVM_CAP_MSR_PLATFORM_INFO, [may, 0, 0, 0]), OK);
        assert_eq!(vcpu.set_regs(&KvmRegs { rbx: 0, ..start }), OK);
        assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
        assert_eq!(vcpu.get_regs().unwrap().rbx, rbx);
        assert!(vcpu.get_msr(0xce).is_ok());
    }
}

#[test]
fn an_interrupt_wakes_it() {
    // sti; hlt; hlt, and at 0x2000: mov bx, 7; iret
    let Some((_vm, vcpu, ram)) = guest(&[0xfb, 0xf4, 0xf4]) else {
        return;
    };
    ram.write(0x2000, &[0xbb, 7, 0, 0xcf]).unwrap();
    ram.store(0x41 * 4, &0x2000u32).unwrap();
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!((vcpu.if_flag(), vcpu.ready_for_interrupt_injection()), (1, 1));
    assert_eq!(vcpu.interrupt(0x41), OK);
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    let regs = vcpu.get_regs().unwrap();
    assert_eq!((regs.rbx, regs.rip), (7, CODE + 3));
}
