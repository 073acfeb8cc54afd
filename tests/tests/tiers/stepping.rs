//! Single steps and debug registers on code that is hot already: every instruction traps, and nothing else changes.

use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions};
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Machine, assemble, on_every_tier};
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::core::DebugControl;
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 30;
const HANDLER: u64 = 0x1_8000;
const FUNCTION: u64 = 0x1_9000;
const DATA: u64 = 0x20_0000;

/// A loop with memory, flags and a call: nine instructions a round, the call's two included.
fn program(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    let mut top = a.create_label();
    a.mov(r12d, ROUNDS as u32)?;
    a.set_label(&mut top)?;
    a.mov(rax, qword_ptr(DATA))?;
    a.add(rax, r12)?;
    a.mov(qword_ptr(DATA), rax)?;
    a.call(FUNCTION)?;
    a.adc(r13, 0)?;
    a.dec(r12d)?;
    a.jne(top)?;
    a.hlt()
}

fn prepare(m: &mut Machine) {
    m.code(FUNCTION, |a| {
        a.cmp(rax, 100)?;
        a.ret()
    });
    m.code(START, program);
    // Hot, and then from the beginning.
    m.halt();
    m.world.put(DATA, 0);
    m.supervisor(START);
    m.state().gpr[13] = 0;
}

/// Where the program's HLT lies.
fn end() -> u64 {
    START + assemble(START, program).len() as u64 - 1
}

fn check(m: &Machine) {
    assert_eq!(m.word(DATA), ROUNDS * (ROUNDS + 1) / 2);
    assert_eq!(m.gpr(13), 3, "comparisons of 30, 59 and 87 with 100");
}

/// The instructions that the loop executes, HLT not counted.
const EXECUTED: u64 = 1 + 9 * ROUNDS;

#[test]
fn by_the_client() {
    on_every_tier(|m| {
        prepare(m);
        m.cpu.core.debug.single_step = true;
        for _ in 0..EXECUTED {
            let left = m.run();
            assert!(
                matches!(left, Leave::Debug { vector: 1, dr6: hits } if hits & DR6_BS != 0),
                "{left:?}"
            );
        }
        assert_eq!(m.state().rip, end());
        check(m);
        m.cpu.core.debug.single_step = false;
        // And at full speed again.
        m.world.put(DATA, 0);
        m.supervisor(START);
        m.state().gpr[13] = 0;
        m.halt();
        check(m);
    });
}

#[test]
fn by_the_guests_trap_flag() {
    on_every_tier(|m| {
        prepare(m);
        m.vector(1, HANDLER, 1);
        m.code(HANDLER, |a| {
            let mut go_on = a.create_label();
            a.inc(r14)?;
            a.cmp(qword_ptr(rsp), end() as i32)?;
            a.jne(go_on)?;
            a.and(dword_ptr(rsp + 16), !(flags::TF as i32))?;
            a.set_label(&mut go_on)?;
            a.iretq()
        });
        m.state().set_rflags(flags::TF);
        m.halt();
        assert_eq!(m.gpr(14), EXECUTED);
        check(m);
    });
}

#[test]
fn a_trap_flag_that_popf_sets_and_clears() {
    // One instruction behind POPF is traced in each round.
    on_every_tier(|m| {
        m.vector(1, HANDLER, 1);
        m.code(HANDLER, |a| {
            a.inc(r14)?;
            a.mov(r15, qword_ptr(rsp))?;
            a.and(dword_ptr(rsp + 16), !(flags::TF as i32))?;
            a.iretq()
        });
        let mut behind = 0;
        let code = assemble(START, |a| {
            let mut top = a.create_label();
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.pushfq()?;
            a.or(dword_ptr(rsp), flags::TF as i32)?;
            a.popfq()?;
            a.inc(r13)?;
            behind = a.instructions().len();
            a.inc(r13)?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        m.world.poke(START, &code);
        m.halt();
        let decoder = Decoder::with_ip(64, &code, START, DecoderOptions::NONE);
        let place = decoder.into_iter().nth(behind).expect("it is there").ip();
        assert_eq!((m.gpr(13), m.gpr(14), m.gpr(15)), (2 * ROUNDS, ROUNDS, place));
    });
}

/// DR7 that enables breakpoint `n` with the given R/W and LEN fields.
fn enabled(n: usize, kind: u64, length: u64) -> u64 {
    DR7_FIXED | 2 << (2 * n) | kind << (16 + 4 * n) | length << (18 + 4 * n)
}

#[test]
fn breakpoints_on_code_that_is_hot() {
    // The client's first, then the guest's own.
    on_every_tier(|m| {
        prepare(m);
        let control = (([0, FUNCTION, 0, 0]), enabled(1, 0, 0));
        m.cpu.core.debug = DebugControl {
            hardware: Some(control),
            ..DebugControl::default()
        };
        for _ in 0..ROUNDS {
            assert_eq!(m.run(), Leave::Debug { vector: 1, dr6: 2 });
            assert_eq!(m.state().rip, FUNCTION);
            m.state().flags.system |= flags::RF;
        }
        m.halt();
        check(m);
        m.cpu.core.debug = DebugControl::default();
        m.vector(1, HANDLER, 1);
        m.code(HANDLER, |a| {
            a.inc(r14)?;
            a.or(dword_ptr(rsp + 16), flags::RF as i32)?;
            a.iretq()
        });
        m.world.put(DATA, 0);
        m.supervisor(START);
        (m.state().gpr[13], m.state().dr[1], m.state().dr7) = (0, FUNCTION, enabled(1, 0, 0));
        m.halt();
        check(m);
        assert_eq!(m.gpr(14), ROUNDS);
    });
}

#[test]
fn breakpoints_on_data_that_is_hot() {
    // MOV DR7 in the guest, in between: hot loads and stores go straight to memory before it and after it.
    for (kind, per_round) in [(1, 1), (3, 2)] {
        on_every_tier(|m| {
            prepare(m);
            m.vector(1, HANDLER, 1);
            m.code(HANDLER, |a| {
                a.inc(r14)?;
                a.iretq()
            });
            let driver = 0x1_b000;
            m.code(driver, |a| {
                let mut back = a.create_label();
                a.mov(rax, DATA)?;
                a.mov(dr0, rax)?;
                for (n, control) in [DR7_FIXED, enabled(0, kind, 2), DR7_FIXED]
                    .into_iter()
                    .enumerate()
                {
                    a.mov(rax, control)?;
                    a.mov(dr7, rax)?;
                    a.mov(qword_ptr(DATA + 8), n as i32)?;
                    a.call(FUNCTION + 0x100)?;
                }
                a.set_label(&mut back)?;
                a.hlt()
            });
            m.code(FUNCTION + 0x100, |a| {
                let mut top = a.create_label();
                a.mov(r12d, ROUNDS as u32)?;
                a.set_label(&mut top)?;
                a.mov(rcx, qword_ptr(DATA))?;
                a.add(rcx, r12)?;
                a.mov(qword_ptr(DATA), rcx)?;
                a.dec(r12d)?;
                a.jne(top)?;
                a.ret()
            });
            m.state().rip = driver;
            m.halt();
            assert_eq!(m.gpr(14), per_round * ROUNDS);
            assert_eq!(m.word(DATA), 3 * ROUNDS * (ROUNDS + 1) / 2);
        });
    }
}

#[test]
fn a_watched_page_still_faults_and_still_holds_code() {
    // The watchpoint lies in the page of the code itself, on a constant of an instruction.
    on_every_tier(|m| {
        m.vector(1, HANDLER, 1);
        m.code(HANDLER, |a| {
            a.inc(r14)?;
            a.iretq()
        });
        m.code(START, |a| {
            let (mut top, mut patched) = (a.create_label(), a.create_label());
            a.lea(rdi, ptr(patched))?;
            a.mov(dr0, rdi)?;
            a.mov(rax, enabled(0, 1, 0))?;
            a.mov(dr7, rax)?;
            a.mov(r12d, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.mov(byte_ptr(rdi), r12b)?;
            a.db(&[0x48, 0x81, 0xc3])?;
            a.set_label(&mut patched)?;
            a.dd(&[0])?;
            a.dec(r12d)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!((m.gpr(RBX), m.gpr(14)), (ROUNDS * (ROUNDS + 1) / 2, ROUNDS));
    });
}

/// Pages of level 3.
const USER_CODE: u64 = 0x90_0000_0000;
const USER_STACK: u64 = USER_CODE + 0x10_0000;

#[test]
fn tf_that_a_hot_sysret_sets_traps_before_the_program_goes_on() {
    on_every_tier(|m| {
        m.map(USER_CODE, 0x21_0000, P | W | U, Size::Small);
        m.map(USER_STACK, 0x22_0000, P | W | U, Size::Small);
        m.state().msr.lstar = HANDLER;
        m.state().msr.fmask = flags::TF;
        // The last of its calls returns with TF set.
        m.code(HANDLER, |a| {
            let mut back = a.create_label();
            a.dec(ebx)?;
            a.jne(back)?;
            a.or(r11, flags::TF as i32)?;
            a.set_label(&mut back)?;
            a.sysretq()
        });
        m.code_at(0x21_0000, USER_CODE, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.syscall()?;
            a.inc(r13)?;
            a.jmp(top)
        });
        m.state().gpr[RBX] = ROUNDS;
        m.user(USER_CODE, USER_STACK + PAGE);
        let trap = m.trap();
        assert_eq!((trap.vector, trap.rip), (1, USER_CODE + 2));
        assert_eq!(m.gpr(13), ROUNDS - 1);
        // With TF from before, and cleared on the way: no trap in the kernel.
        m.state().gpr[RBX] = ROUNDS;
        m.user(USER_CODE, USER_STACK + PAGE);
        m.state().set_rflags(flags::TF);
        let trap = m.trap();
        assert_eq!((trap.vector, trap.rip, trap.cs & 3), (1, USER_CODE + 2, 3));
    });
}
