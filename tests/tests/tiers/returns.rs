//! Returns to callers that are not what they were: their code was changed, their page was mapped elsewhere, or the place
//! is no place to return to.

use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, on_every_tier};
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 50;
const FUNCTION: u64 = 0x1_4000;
/// Where the caller runs, and the two pages that may be there.
const CALLER: u64 = 0x80_0000_0000;
const FIRST: u64 = 0x20_0000;
const SECOND: u64 = 0x20_1000;
/// A single branch.
const BRANCH: u64 = 0x1_5000;

#[test]
fn whose_code_the_callee_changed() {
    // Into the immediate of the addition behind the call; from the same page, and from another.
    for function in [START + 0x800, FUNCTION] {
        on_every_tier(|m| {
            m.code(function, |a| {
                a.mov(rax, qword_ptr(rsp))?;
                a.mov(byte_ptr(rax + 3), r12b)?;
                a.ret()
            });
            m.code(START, |a| {
                let mut top = a.create_label();
                a.mov(r12d, ROUNDS as u32)?;
                a.set_label(&mut top)?;
                a.call(function)?;
                a.db(&[0x48, 0x81, 0xc3, 0, 0, 0, 0])?;
                a.dec(r12d)?;
                a.jne(top)?;
                a.hlt()
            });
            m.halt();
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2);
        });
    }
}

#[test]
fn whose_code_changed_below_many_returns() {
    // Ten frames deep the instruction that all of them return to is changed.
    on_every_tier(|m| {
        m.code(FUNCTION, |a| {
            let (mut bottom, mut patched) = (a.create_label(), a.create_label());
            a.dec(ecx)?;
            a.je(bottom)?;
            a.call(FUNCTION)?;
            a.db(&[0x48, 0x81, 0xc3])?;
            a.set_label(&mut patched)?;
            a.dd(&[0])?;
            a.ret()?;
            a.set_label(&mut bottom)?;
            a.lea(rax, ptr(patched))?;
            a.mov(dword_ptr(rax), r12d)?;
            a.ret()
        });
        m.code(START, |a| {
            let mut top = a.create_label();
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.mov(ecx, 11)?;
            a.call(FUNCTION)?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!(m.gpr(RBX), 10 * ROUNDS * (ROUNDS + 1) / 2);
    });
}

/// Two callers alike but for what they add behind the call. Returns where the entry of their page lies.
fn two_callers(m: &mut Machine) -> u64 {
    for (gpa, amount) in [(FIRST, 1), (SECOND, 1000)] {
        m.code_at(gpa, CALLER, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.call(r15)?;
            a.add(rbx, amount)?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
    }
    let state = m.state();
    (state.gpr[15], state.gpr[12], state.rip) = (FUNCTION, ROUNDS, CALLER);
    m.map(CALLER, FIRST, P | W, Size::Small)
}

#[test]
fn whose_page_the_callee_mapped_elsewhere() {
    on_every_tier(|m| {
        let entry = two_callers(m);
        m.code(FUNCTION, |a| {
            a.xor(qword_ptr(entry), (FIRST ^ SECOND) as i32)?;
            a.mov(rax, CALLER)?;
            a.invlpg(byte_ptr(rax))?;
            a.ret()
        });
        m.halt();
        assert_eq!(m.gpr(RBX), ROUNDS / 2 * 1001);
    });
}

#[test]
fn in_another_address_space() {
    for pcids in [false, true] {
        on_every_tier(|m| {
            two_callers(m);
            let other = m.another_space();
            m.map_in(other, CALLER, SECOND, P | W, Size::Small);
            let (mut here, mut there) = (TABLES, other);
            if pcids {
                m.state().cr4 |= CR4_PCIDE;
                m.cpu.core.refresh();
                (here, there) = (TABLES | 1 << 63, other | 1 | 1 << 63);
            }
            m.world.put(0x9000, here);
            m.world.put(0x9008, there);
            m.code(FUNCTION, |a| {
                a.xor(ebp, 8)?;
                a.mov(rax, qword_ptr(rbp + 0x9000))?;
                a.mov(cr3, rax)?;
                a.ret()
            });
            m.halt();
            assert_eq!(m.gpr(RBX), ROUNDS / 2 * 1001);
        });
    }
}

/// The function changes the entry of the caller's page, once.
fn changes_in_round_5(
    m: &mut Machine,
    change: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) {
    m.code(FUNCTION, |a| {
        let mut stay = a.create_label();
        a.cmp(r12d, 5)?;
        a.jne(stay)?;
        change(a)?;
        a.mov(rax, CALLER)?;
        a.invlpg(byte_ptr(rax))?;
        a.set_label(&mut stay)?;
        a.ret()
    });
}

#[test]
fn whose_page_is_gone() {
    // The fault is the return's target's, not the return's.
    on_every_tier(|m| {
        let entry = two_callers(m);
        changes_in_round_5(m, |a| a.mov(qword_ptr(entry), 0));
        let trap = m.trap();
        assert_eq!((trap.vector, trap.error), (14, 0x10));
        assert_eq!((trap.rip, trap.cr2, trap.rsp), (CALLER + 3, CALLER + 3, STACK));
        assert_eq!((m.gpr(RBX), m.gpr(12)), (ROUNDS - 5, 5));
    });
}

#[test]
fn whose_page_must_not_be_executed_any_more() {
    on_every_tier(|m| {
        let entry = two_callers(m);
        changes_in_round_5(m, |a| a.bts(qword_ptr(entry), 63));
        let trap = m.trap();
        assert_eq!((trap.vector, trap.error, trap.rip), (14, 0x11, CALLER + 3));
    });
}

/// Targets that cannot be: not canonical, not mapped, not to be executed; with vector, error code, and whether the
/// instruction itself faults.
const TARGETS: [(u64, u64, u64, bool); 3] = [
    (0x8000_0000_0000, 13, 0, true),
    (CALLER + PAGE, 14, 0x10, false),
    (CALLER + 2 * PAGE, 14, 0x11, false),
];

#[test]
fn to_where_nothing_can_be_executed() {
    for (target, vector, error, own) in TARGETS {
        // RET, JMP, CALL, JMP and CALL through memory: how much of the stack each uses if it completes.
        let branches: [(Build, i64); 6] = [
            (|a| a.ret(), 8),
            (|a| a.ret_1(0x20), 0x28),
            (|a| a.jmp(rdx), 0),
            (|a| a.jmp(qword_ptr(rsp)), 0),
            (|a| a.call(rdx), -8),
            (|a| a.call(qword_ptr(rsp)), -8),
        ];
        for (n, (branch, used)) in branches.into_iter().enumerate() {
            on_every_tier(|m| {
                m.map(CALLER + 2 * PAGE, FIRST, P | W | NX, Size::Small);
                m.code(BRANCH, branch);
                // Good targets first, so that what is hot is as it will be.
                m.code(START, |a| {
                    let (mut top, mut good, mut bad) = (a.create_label(), a.create_label(), a.create_label());
                    a.mov(r12d, 20)?;
                    a.set_label(&mut top)?;
                    a.mov(rsp, STACK)?;
                    a.lea(rdx, ptr(good))?;
                    a.cmp(r12d, 1)?;
                    a.jne(bad)?;
                    a.mov(rdx, target)?;
                    a.set_label(&mut bad)?;
                    a.mov(qword_ptr(rsp - 0x40), rdx)?;
                    a.lea(rsp, ptr(rsp - 0x40))?;
                    a.mov(al, 0x7f)?;
                    a.add(al, 1)?;
                    a.jmp(BRANCH)?;
                    a.set_label(&mut good)?;
                    a.dec(r12d)?;
                    a.jne(top)?;
                    a.hlt()
                });
                let trap = m.trap();
                assert_eq!((trap.vector, trap.error), (vector, error), "branch {n}");
                assert_eq!(trap.rflags & 0x8d5, 0x890);
                let top = (STACK as i64 - 0x40 + if own { 0 } else { used }) as u64;
                assert_eq!(trap.rsp, top);
                assert_eq!(trap.rip, if own { BRANCH } else { target });
            });
        }
    }
}
