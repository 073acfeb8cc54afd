//! Stacks in unusual places: changed under calls, in the page of the code, not aligned.

use crate::calls::{PAGES, repeat};
use iced_x86::code_asm::*;
use ring3_tests::bare::on_every_tier;
use ring3_tests::bare::places::*;
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 50;

#[test]
fn two_stacks_take_turns() {
    // A function that changes stacks: each side returns to where the other left off.
    const OTHER: u64 = 0xd000;
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            a.push(rbx)?;
            a.push(rbp)?;
            a.xchg(rsp, r15)?;
            a.pop(rbp)?;
            a.pop(rbx)?;
            a.ret()
        });
        m.code(PAGES[1], |a| {
            let mut top = a.create_label();
            a.mov(ebx, 7)?;
            a.set_label(&mut top)?;
            a.add(r14, rbx)?;
            a.call(PAGES[0])?;
            a.jmp(top)
        });
        // What the switch pops: RBP, RBX, and where to go.
        m.world.put(OTHER + 16, PAGES[1]);
        m.state().gpr[15] = OTHER;
        m.state().gpr[RBX] = 100;
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.add(r13, rbx)?;
                a.call(PAGES[0])
            })
        });
        m.halt();
        assert_eq!((m.gpr(13), m.gpr(14)), (100 * ROUNDS, 7 * ROUNDS));
    });
}

#[test]
fn a_stack_in_a_page_of_code() {
    // Each call stores to the page that it is made from.
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            a.add(r13, qword_ptr(rsp))?;
            a.ret()
        });
        m.state().gpr[RSP] = PAGES[0] + 0xf00;
        m.code(PAGES[0] + 0x100, |a| {
            repeat(a, ROUNDS, |a| {
                a.push(r12)?;
                a.call(PAGES[0])?;
                a.pop(rax)?;
                a.add(r14, rax)
            })
        });
        m.state().rip = PAGES[0] + 0x100;
        m.halt();
        assert_eq!(m.gpr(14), ROUNDS * (ROUNDS + 1) / 2);
    });
}

#[test]
fn code_on_the_stack() {
    on_every_tier(|m| {
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                // ADD R13, imm8; RET, with the counter as the constant.
                a.mov(rax, 0xc3_00c5_8349u64)?;
                a.mov(ecx, r12d)?;
                a.shl(rcx, 24)?;
                a.or(rax, rcx)?;
                a.push(rax)?;
                a.call(rsp)?;
                a.pop(rax)
            })
        });
        m.halt();
        assert_eq!(m.gpr(13), ROUNDS * (ROUNDS + 1) / 2);
    });
}

#[test]
fn operands_are_read_before_anything_is_pushed() {
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            a.inc(r13)?;
            a.ret_1(8)
        });
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.push(PAGES[0] as i32)?;
                a.call(qword_ptr(rsp))?;
                a.push(PAGES[0] as i32)?;
                a.push(rsp)?;
                a.pop(rax)?;
                a.add(r14, rax)?;
                a.pop(rax)?;
                a.mov(rbp, rsp)?;
                a.push(rbp)?;
                a.pop(rsp)
            })
        });
        m.halt();
        assert_eq!((m.gpr(13), m.gpr(14)), (ROUNDS, ROUNDS * (STACK - 8)));
        assert_eq!(m.gpr(RSP), STACK);
    });
}

#[test]
fn a_stack_that_is_not_aligned() {
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            a.push(rbp)?;
            a.mov(rbp, rsp)?;
            a.inc(r13)?;
            a.leave()?;
            a.ret()
        });
        // The return address lies across two pages.
        m.state().gpr[RSP] = 0xd003;
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.call(PAGES[0])?;
                a.push(r12)?;
                a.call(PAGES[0])?;
                a.pop(rax)?;
                a.add(r14, rax)
            })
        });
        m.halt();
        assert_eq!((m.gpr(13), m.gpr(14)), (2 * ROUNDS, ROUNDS * (ROUNDS + 1) / 2));
    });
}

#[test]
fn values_across_two_pages_are_pushed() {
    on_every_tier(|m| {
        m.state().gpr[RSP] = 0xcf00;
        m.code(PAGES[0], |a| {
            a.add(r13, r12)?;
            a.ret()
        });
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.mov(qword_ptr(rsp + 0xfd), r12)?;
                a.push(qword_ptr(rsp + 0xfd))?;
                a.pop(rax)?;
                a.add(r14, rax)?;
                a.mov(qword_ptr(rsp + 0xfd), PAGES[0] as i32)?;
                a.call(qword_ptr(rsp + 0xfd))
            })
        });
        m.halt();
        let sum = ROUNDS * (ROUNDS + 1) / 2;
        assert_eq!((m.gpr(13), m.gpr(14)), (sum, sum));
    });
}

#[test]
fn a_frame_across_two_pages_again_and_again() {
    // Longer than it takes until the translator gives up having its accesses share a lookup.
    const MANY: u64 = 3_000;
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            a.sub(rsp, 0x80)?;
            a.mov(qword_ptr(rsp), r12)?;
            a.mov(qword_ptr(rsp + 0x78), r13)?;
            a.add(r13, qword_ptr(rsp))?;
            a.xor(r14, qword_ptr(rsp + 0x78))?;
            a.add(rsp, 0x80)?;
            a.ret()
        });
        m.state().gpr[RSP] = 0xd040;
        m.code(START, |a| repeat(a, MANY, |a| a.call(PAGES[0])));
        m.halt();
        let sums = (1..=MANY).rev().scan(0, |sum, n| {
            let before = *sum;
            *sum += n;
            Some(before)
        });
        assert_eq!(m.gpr(13), MANY * (MANY + 1) / 2);
        assert_eq!(m.gpr(14), sums.fold(0, |all, sum| all ^ sum));
    });
}
