//! Small programs, run to HLT.

use iced_x86::code_asm::*;
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::testing::TestWorld;
use ring3_x86_cpu::{Cpu, Leave};
use std::sync::atomic::AtomicU32;

/// A processor in 64-bit mode at CPL 0 with the first 2 MiB mapped one to one, RIP at 0x1000, stack at 0x8000.
fn long_mode(world: &mut TestWorld) -> Cpu {
    world.poke64(0x10_0000, 0x10_1003);
    world.poke64(0x10_1000, 0x10_2003);
    world.poke64(0x10_2000, 0x83);
    let mut cpu = Cpu::new();
    let state = &mut cpu.core.state;
    state.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    state.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    state.cr3 = 0x10_0000;
    state.efer = EFER_LME | EFER_LMA | EFER_NXE;
    state.seg[CS] = Segment {
        selector: 8,
        base: 0,
        limit: u32::MAX,
        attributes: Attributes(0xa09b),
    };
    for seg in [ES, SS, DS, FS, GS] {
        state.seg[seg] = Segment {
            selector: 16,
            base: 0,
            limit: u32::MAX,
            attributes: Attributes(0xc093),
        };
    }
    state.rip = 0x1000;
    state.gpr[RSP] = 0x8000;
    cpu.core.refresh();
    cpu
}

fn run64(build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> (Cpu, TestWorld) {
    let mut world = TestWorld::new(512);
    let mut cpu = long_mode(&mut world);
    let mut asm = CodeAssembler::new(64).unwrap();
    build(&mut asm).unwrap();
    asm.hlt().unwrap();
    world.poke(0x1000, &asm.assemble(0x1000).unwrap());
    let kick = AtomicU32::new(0);
    let left = cpu.run(&mut world, &kick);
    let mut at = [0];
    world.peek(cpu.core.state.rip, &mut at);
    assert!(
        left == Leave::Halted || at == [0xf4],
        "{left:?} at {:#x}",
        cpu.core.state.rip
    );
    (cpu, world)
}

use iced_x86::IcedError;

#[test]
fn a_loop_adds_up() {
    let (cpu, _) = run64(|a| {
        let mut top = a.create_label();
        a.xor(eax, eax)?;
        a.mov(ecx, 100_000)?;
        a.set_label(&mut top)?;
        a.add(rax, rcx)?;
        a.dec(ecx)?;
        a.jne(top)
    });
    assert_eq!(cpu.core.state.gpr[RAX], 5_000_050_000);
}

#[test]
fn calls_return_and_the_stack_balances() {
    let (cpu, world) = run64(|a| {
        let mut function = a.create_label();
        let mut end = a.create_label();
        a.mov(edi, 10)?;
        a.call(function)?;
        a.jmp(end)?;
        a.set_label(&mut function)?;
        a.push(rdi)?;
        a.lea(rax, qword_ptr(rdi + rdi * 4 + 7))?;
        a.mov(qword_ptr(0x9000u64), rax)?;
        a.pop(rdx)?;
        a.ret()?;
        a.set_label(&mut end)?;
        a.nop()
    });
    assert_eq!(cpu.core.state.gpr[RAX], 57);
    assert_eq!(cpu.core.state.gpr[RDX], 10);
    assert_eq!(cpu.core.state.gpr[RSP], 0x8000);
    assert_eq!(world.peek64(0x9000), 57);
}

#[test]
fn strings_copy_across_pages() {
    let (cpu, world) = run64(|a| {
        a.mov(rdi, 0x20_ff0u64)?;
        a.mov(al, 0x5a)?;
        a.mov(ecx, 0x40)?;
        a.rep().stosb()?;
        a.mov(rsi, 0x20_ff0u64)?;
        a.mov(rdi, 0x30_ff8u64)?;
        a.mov(ecx, 8)?;
        a.rep().movsq()
    });
    assert_eq!(cpu.core.state.gpr[RCX], 0);
    assert_eq!(cpu.core.state.gpr[RDI], 0x31_038);
    assert_eq!(world.peek64(0x31_030), 0x5a5a_5a5a_5a5a_5a5a);
}

#[test]
fn a_program_may_change_itself() {
    let (cpu, _) = run64(|a| {
        let mut top = a.create_label();
        a.mov(ecx, 2)?;
        a.xor(eax, eax)?;
        a.set_label(&mut top)?;
        a.add(eax, 1)?;
        a.lea(rdx, qword_ptr(top))?;
        // The low byte of the immediate that ADD EAX, imm32 has.
        a.mov(byte_ptr(rdx + 1), 5)?;
        a.dec(ecx)?;
        a.jne(top)
    });
    assert_eq!(cpu.core.state.gpr[RAX], 6);
}

#[test]
fn code_written_before_it_ran_may_change_too() {
    let (cpu, _) = run64(|a| {
        // MOV AL, 1; RET on a page that has been written to: writes are direct when it first runs.
        a.mov(rdi, 0x3_0000u64)?;
        a.mov(dword_ptr(rdi), 0xc3_01b0)?;
        a.call(rdi)?;
        a.mov(bl, al)?;
        a.mov(byte_ptr(rdi + 1), 2)?;
        a.call(rdi)
    });
    assert_eq!(cpu.core.state.gpr[RBX], 1);
    assert_eq!(cpu.core.state.gpr[RAX], 2);
}

#[test]
fn vector_forms_run_on_the_host() {
    let (cpu, world) = run64(|a| {
        a.mov(rax, 0x0102_0304_0506_0708u64)?;
        a.movq(xmm3, rax)?;
        a.punpcklqdq(xmm3, xmm3)?;
        a.paddb(xmm3, xmm3)?;
        a.movdqu(xmmword_ptr(0x9ff8u64), xmm3)?;
        a.fld1()?;
        a.fldpi()?;
        a.faddp(st1, st0)?;
        a.fstp(qword_ptr(0x9100u64))
    });
    assert_eq!(world.peek64(0x9ff8), 0x0204_0608_0a0c_0e10);
    assert_eq!(world.peek64(0xa000), 0x0204_0608_0a0c_0e10);
    assert_eq!(f64::from_bits(world.peek64(0x9100)), 1.0 + std::f64::consts::PI);
    assert_eq!(cpu.core.state.gpr[RAX], 0x0102_0304_0506_0708);
}
