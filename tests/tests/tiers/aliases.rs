//! One page of code at two linear addresses: what is stored through one is executed through both, and what becomes of
//! one leaves the other alone.

use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Machine, on_every_tier};
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 40;
const ONE: u64 = 0x80_0000_0000;
const OTHER: u64 = 0x90_0000_0000;
const FIRST: u64 = 0x20_0000;
const SECOND: u64 = 0x20_1000;

/// Maps both addresses to the first page; returns where their entries lie. Each page adds its number to RBX.
fn prepare(m: &mut Machine) -> [u64; 2] {
    for (gpa, amount) in [(FIRST, 1), (SECOND, 1000)] {
        m.code_at(gpa, ONE, |a| {
            a.add(rbx, amount)?;
            a.ret()
        });
    }
    (m.state().gpr[14], m.state().gpr[15]) = (ONE, OTHER);
    [ONE, OTHER].map(|linear| m.map(linear, FIRST, P | W, Size::Small))
}

#[test]
fn know_where_they_are_executed() {
    on_every_tier(|m| {
        prepare(m);
        // CALL +0; POP RAX; RET: the same bytes, another result.
        m.world.poke(FIRST, &[0xe8, 0, 0, 0, 0, 0x58, 0xc3]);
        m.code(START, |a| {
            let mut top = a.create_label();
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.call(r14)?;
            a.sub(rax, r14)?;
            a.add(rbx, rax)?;
            a.call(r15)?;
            a.sub(rax, r15)?;
            a.add(rbx, rax)?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!(m.gpr(RBX), 2 * 5 * ROUNDS);
    });
}

#[test]
fn one_of_which_is_mapped_elsewhere() {
    on_every_tier(|m| {
        let [_, other] = prepare(m);
        m.code(START, |a| {
            let mut top = a.create_label();
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.call(r14)?;
            a.call(r15)?;
            a.xor(qword_ptr(other), (FIRST ^ SECOND) as i32)?;
            a.invlpg(byte_ptr(r15))?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!(m.gpr(RBX), ROUNDS + ROUNDS / 2 * 1001);
    });
}

#[test]
fn both_execute_what_is_stored_through_either() {
    on_every_tier(|m| {
        prepare(m);
        // ADD RBX, imm8; RET
        m.world.poke(FIRST, &[0x48, 0x83, 0xc3, 0, 0xc3]);
        m.code(START, |a| {
            let mut top = a.create_label();
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            for (through, first, second) in [(r14, r15, r14), (r15, r14, r15)] {
                a.mov(byte_ptr(through + 3), r12b)?;
                a.call(first)?;
                a.call(second)?;
            }
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!(m.gpr(RBX), 4 * ROUNDS * (ROUNDS + 1) / 2);
    });
}

#[test]
fn one_of_which_must_not_be_executed() {
    on_every_tier(|m| {
        let [_, other] = prepare(m);
        m.code(START, |a| {
            let (mut top, mut stay) = (a.create_label(), a.create_label());
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.call(r14)?;
            a.call(r15)?;
            a.cmp(r12d, 5)?;
            a.jne(stay)?;
            a.bts(qword_ptr(other), 63)?;
            a.invlpg(byte_ptr(r15))?;
            a.set_label(&mut stay)?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        let trap = m.trap();
        assert_eq!((trap.vector, trap.error, trap.rip), (14, 0x11, OTHER));
        assert_eq!(m.gpr(RBX), 2 * (ROUNDS - 4) + 1);
    });
}
