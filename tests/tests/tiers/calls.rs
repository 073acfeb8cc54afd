//! Calls and returns that match, and those that do not: whatever predicts returns must be right about all of them.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::on_every_tier;
use ring3_tests::bare::places::*;
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 50;
/// The top of a stack of some mebibytes.
const DEEP_STACK: u64 = 0x70_0000;
const DEEP: u64 = 100_000;
/// Pages of functions.
pub const PAGES: [u64; 3] = [0x1_4000, 0x1_9000, 0x1_f000];

/// A loop at [`START`] that counts down in R12.
pub fn repeat(
    a: &mut CodeAssembler,
    rounds: u64,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(r12d, rounds as u32)?;
    a.set_label(&mut top)?;
    body(a)?;
    a.dec(r12d)?;
    a.jne(top)?;
    a.hlt()
}

/// Calls itself RCX times.
fn recursive(a: &mut CodeAssembler, next: u64) -> Result<(), IcedError> {
    let mut end = a.create_label();
    a.test(ecx, ecx)?;
    a.je(end)?;
    a.push(rcx)?;
    a.dec(ecx)?;
    a.call(next)?;
    a.pop(rcx)?;
    a.add(rax, rcx)?;
    a.set_label(&mut end)?;
    a.ret()
}

#[test]
fn a_hundred_thousand_deep() {
    on_every_tier(|m| {
        m.code(PAGES[0], |a| recursive(a, PAGES[0]));
        m.code(START, |a| {
            repeat(a, 3, |a| {
                a.mov(ecx, DEEP as u32)?;
                a.call(PAGES[0])
            })
        });
        m.state().gpr[RSP] = DEEP_STACK;
        m.halt();
        assert_eq!(m.gpr(RAX), 3 * DEEP * (DEEP + 1) / 2);
        assert_eq!(m.gpr(RSP), DEEP_STACK);
    });
}

#[test]
fn deep_over_three_pages() {
    on_every_tier(|m| {
        for n in 0..3 {
            m.code(PAGES[n], |a| recursive(a, PAGES[(n + 1) % 3]));
        }
        m.code(START, |a| {
            repeat(a, 3, |a| {
                a.mov(ecx, DEEP as u32)?;
                a.call(PAGES[0])
            })
        });
        m.state().gpr[RSP] = DEEP_STACK;
        m.halt();
        assert_eq!(m.gpr(RAX), 3 * DEEP * (DEEP + 1) / 2);
    });
}

#[test]
fn thrown_out_of_the_depth() {
    // At the bottom, RSP and RIP of the outermost caller are loaded, as longjmp does.
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            let mut bottom = a.create_label();
            a.test(ecx, ecx)?;
            a.je(bottom)?;
            a.dec(ecx)?;
            a.call(PAGES[0])?;
            a.ud2()?;
            a.set_label(&mut bottom)?;
            a.mov(rsp, rbp)?;
            a.jmp(rdi)
        });
        m.code(PAGES[1], |a| {
            a.inc(r13)?;
            a.ret()
        });
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                let mut landing = a.create_label();
                a.call(PAGES[1])?;
                a.mov(rbp, rsp)?;
                a.lea(rdi, ptr(landing))?;
                a.mov(ecx, r12d)?;
                a.call(PAGES[0])?;
                a.ud2()?;
                a.set_label(&mut landing)?;
                a.call(PAGES[1])?;
                a.add(r14, 1)
            })
        });
        m.halt();
        assert_eq!((m.gpr(13), m.gpr(14)), (2 * ROUNDS, ROUNDS));
        assert_eq!(m.gpr(RSP), STACK);
    });
}

#[test]
fn returns_as_jumps() {
    on_every_tier(|m| {
        for (n, page) in PAGES.into_iter().enumerate() {
            m.code(page, |a| {
                a.add(r13, 1 << (8 * n))?;
                a.jmp(r15)
            });
        }
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                for page in PAGES {
                    let mut back = a.create_label();
                    a.lea(r15, ptr(back))?;
                    a.push(page as i32)?;
                    a.ret()?;
                    a.set_label(&mut back)?;
                    a.nop()?;
                }
                Ok(())
            })
        });
        m.halt();
        assert_eq!(m.gpr(13), ROUNDS * 0x1_0101);
        assert_eq!(m.gpr(RSP), STACK);
    });
}

#[test]
fn retpolines() {
    on_every_tier(|m| {
        for (n, page) in PAGES.into_iter().enumerate() {
            m.code(page, |a| {
                a.add(r13, 1 << (8 * n))?;
                a.ret()
            });
            m.world.put(0x9000 + 8 * n as u64, page);
        }
        let thunk = 0x1_2000;
        m.code(thunk, |a| {
            let (mut spin, mut go) = (a.create_label(), a.create_label());
            a.call(go)?;
            a.set_label(&mut spin)?;
            a.pause()?;
            a.lfence()?;
            a.jmp(spin)?;
            a.set_label(&mut go)?;
            a.mov(qword_ptr(rsp), rax)?;
            a.ret()
        });
        m.code(START, |a| {
            repeat(a, 3 * ROUNDS, |a| {
                a.lea(rdx, ptr(rdx + 1))?;
                a.cmp(edx, 3)?;
                a.mov(eax, 0)?;
                a.cmove(edx, eax)?;
                a.mov(rax, qword_ptr(rdx * 8 + 0x9000))?;
                a.call(thunk)
            })
        });
        m.halt();
        assert_eq!(m.gpr(13), ROUNDS * 0x1_0101);
    });
}

#[test]
fn calls_that_only_tell_where_they_are() {
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            let mut here = a.create_label();
            a.call(here)?;
            a.set_label(&mut here)?;
            a.pop(rax)?;
            a.add(r13, rax)?;
            a.ret()
        });
        m.code(START, |a| repeat(a, ROUNDS, |a| a.call(PAGES[0])));
        m.halt();
        assert_eq!(m.gpr(13), ROUNDS * (PAGES[0] + 5));
        assert_eq!(m.gpr(RSP), STACK);
    });
}

#[test]
fn returns_that_release_arguments() {
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            a.mov(rax, qword_ptr(rsp + 8))?;
            a.add(rax, qword_ptr(rsp + 16))?;
            a.call(PAGES[1])?;
            a.ret_1(16)
        });
        m.code(PAGES[1], |a| {
            a.push(rax)?;
            a.call(PAGES[2])?;
            a.ret()
        });
        m.code(PAGES[2], |a| {
            a.add(r13, qword_ptr(rsp + 8))?;
            a.ret_1(8)
        });
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.push(40)?;
                a.push(r12)?;
                a.call(PAGES[0])
            })
        });
        m.halt();
        assert_eq!(m.gpr(13), ROUNDS * 40 + ROUNDS * (ROUNDS + 1) / 2);
        assert_eq!(m.gpr(RSP), STACK);
    });
}

#[test]
fn returns_that_were_moved_on() {
    // The callee skips what follows the call, every other time.
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            let mut even = a.create_label();
            a.test(r12d, 1)?;
            a.je(even)?;
            a.add(qword_ptr(rsp), 3)?;
            a.set_label(&mut even)?;
            a.ret()
        });
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.call(PAGES[0])?;
                // Three bytes.
                a.inc(r13)?;
                a.inc(r14)
            })
        });
        m.halt();
        assert_eq!((m.gpr(13), m.gpr(14)), (ROUNDS / 2, ROUNDS));
    });
}

#[test]
fn frames_that_are_dropped() {
    // Each depth returns past so many callers as R12 says.
    on_every_tier(|m| {
        m.code(PAGES[0], |a| {
            let mut bottom = a.create_label();
            a.dec(ecx)?;
            a.je(bottom)?;
            a.call(PAGES[0])?;
            a.inc(r13)?;
            a.ret()?;
            a.set_label(&mut bottom)?;
            a.lea(rsp, ptr(rsp + rdx * 8))?;
            a.ret()
        });
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                a.mov(ecx, 20)?;
                a.mov(edx, r12d)?;
                a.and(edx, 15)?;
                a.call(PAGES[0])
            })
        });
        m.halt();
        let returned: u64 = (1..=ROUNDS).map(|n| 19 - (n & 15)).sum();
        assert_eq!(m.gpr(13), returned);
        assert_eq!(m.gpr(RSP), STACK);
    });
}
