//! The prefix for forced emulation before instructions of hot code.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Machine, on_every_tier};
use ring3_x86_cpu::core::Prefix;
use ring3_x86_cpu::state::*;

const ROUNDS: u32 = 40;
const HANDLER: u64 = 0x1_8000;
const DATA: u64 = 0x20_0000;
const NOWHERE: u64 = 0x70_0000_0000;

fn prefix(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.db(b"\x0f\x0bkvm")
}

/// Every instruction has the prefix: a load relative to RIP and one that faults, arithmetic, a store, CPUID, jumps.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ebx, ROUNDS)?;
    a.set_label(&mut top)?;
    prefix(a)?;
    a.mov(rax, qword_ptr(DATA))?;
    prefix(a)?;
    a.add(rax, rbx)?;
    prefix(a)?;
    a.mov(qword_ptr(DATA), rax)?;
    prefix(a)?;
    a.mov(rcx, qword_ptr(rdi))?;
    prefix(a)?;
    a.dec(ebx)?;
    prefix(a)?;
    a.jne(top)?;
    a.hlt()
}

fn prepare(m: &mut Machine) {
    // Counts in R10, notes the last RIP in R11, and goes on behind the load of three bytes.
    m.vector(14, HANDLER, 1);
    m.code(HANDLER, |a| {
        a.inc(r10)?;
        a.add(rsp, 8)?;
        a.mov(r11, qword_ptr(rsp))?;
        a.add(qword_ptr(rsp), 3)?;
        a.iretq()
    });
    m.code(START, program);
    m.state().gpr[RDI] = NOWHERE;
}

#[test]
fn prefixed_instructions_are_executed_and_faults_are_theirs() {
    on_every_tier(|m| {
        m.cpu.core.forced_emulation = Prefix::Skipped;
        prepare(m);
        m.halt();
        let rounds = u64::from(ROUNDS);
        assert_eq!(m.word(DATA), rounds * (rounds + 1) / 2);
        assert_eq!(m.gpr(10), rounds);
        let mut code = [0; 8];
        let at = m.gpr(11);
        m.world.peek(at - 5, &mut code);
        assert_eq!(
            &code, b"\x0f\x0bkvm\x48\x8b\x0f",
            "the load itself, not its prefix"
        );
    });
}

#[test]
fn it_is_undefined_unless_asked_for() {
    on_every_tier(|m| {
        prepare(m);
        let trap = m.trap();
        assert_eq!((trap.vector, trap.rip), (6, START + 5));
    });
}
