//! Breakpoints, watchpoints and single steps: the guest's own, and those of the client's debugger.

mod machine;

use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::core::DebugControl;
use ring3_x86_cpu::state::*;

const DB: u8 = 1;
const BP: u8 = 3;

/// DR7 that enables breakpoint `n` with the given R/W and LEN fields.
fn enabled(n: usize, kind: u64, length: u64) -> u64 {
    DR7_FIXED | 2 << (2 * n) | kind << (16 + 4 * n) | length << (18 + 4 * n)
}

fn hit(vector: u8, conditions: u64) -> Leave {
    Leave::Debug {
        vector,
        dr6: conditions,
    }
}

#[test]
fn int3_goes_to_the_client_that_asked_and_leaves_rip_at_it() {
    let mut m = Machine::long();
    m.code(64, 0x1000, |a| {
        a.nop()?;
        a.int3()
    });
    m.cpu.core.debug.intercept_bp = true;
    assert_eq!(m.run(), hit(BP, 0));
    assert_eq!(m.state().rip, 0x1001);
    assert_eq!(m.state().gpr[RSP], 0x8000);
}

#[test]
fn a_breakpoint_on_its_own_handler_is_one_step_each_time() {
    let mut m = Machine::long();
    m.vector64(DB.into(), 0x1000, 0x8e, 0);
    m.code(64, 0x1000, |a| a.nop());
    m.state().dr[0] = 0x1000;
    m.state().dr7 = enabled(0, 0, 0);
    m.cpu.core.refresh();
    let before = m.state().gpr[RSP];
    let mut delivered = 0;
    for _ in 0..8 {
        // Nothing is executed where code has to be decoded first.
        match m.cpu.run_one(&mut m.world) {
            None => delivered += 1,
            other => assert_eq!(other, Some(Leave::Kicked)),
        }
    }
    assert!(delivered >= 7, "{delivered}");
    assert!(m.state().gpr[RSP] < before);
}

#[test]
fn int3_goes_to_the_guest_otherwise() {
    let mut m = Machine::long();
    m.vector64(3, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.int3());
    m.halt();
    assert_eq!(m.words(0x8000 - 40, 8, 1), [0x1001]);
}

#[test]
fn the_client_steps_through_code_that_does_not_notice() {
    let mut m = Machine::long();
    m.code(64, 0x1000, |a| {
        a.pushfq()?;
        a.pop(rax)?;
        a.sti()?;
        a.nop()
    });
    m.cpu.core.debug = DebugControl {
        single_step: true,
        intercept_db: true,
        ..Default::default()
    };
    for rip in [0x1001, 0x1002, 0x1003, 0x1004] {
        assert_eq!(m.run(), hit(DB, DR6_BS));
        assert_eq!(m.state().rip, rip);
    }
    assert_eq!(m.state().gpr[RAX] & flags::TF, 0);
    assert_eq!(m.state().dr6, DR6_FIXED);
}

#[test]
fn a_step_into_a_fault_stops_in_its_handler() {
    let mut m = Machine::long();
    m.vector64(6, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.nop());
    m.code(64, 0x1000, |a| a.ud2());
    m.cpu.core.debug = DebugControl {
        single_step: true,
        intercept_db: true,
        ..Default::default()
    };
    assert_eq!(m.run(), hit(DB, DR6_BS));
    assert_eq!(m.state().rip, 0x5001);
}

#[test]
fn each_of_the_clients_registers_breaks_on_execution() {
    for n in 0..4 {
        let mut m = Machine::long();
        m.code(64, 0x1000, |a| {
            a.inc(rbx)?;
            a.inc(rbx)?;
            a.inc(rbx)
        });
        let mut addresses = [0; 4];
        addresses[n] = 0x1003;
        m.cpu.core.debug = DebugControl {
            intercept_db: true,
            hardware: Some((addresses, enabled(n, 0, 0))),
            ..Default::default()
        };
        assert_eq!(m.run(), hit(DB, 1 << n));
        assert_eq!((m.state().rip, m.state().gpr[RBX]), (0x1003, 1));
        // The same place hits again; RF lets one instruction through.
        assert_eq!(m.run(), hit(DB, 1 << n));
        m.state().flags.system |= flags::RF;
        m.code(64, 0x1006, |a| a.hlt());
        m.halt();
        assert_eq!(m.state().gpr[RBX], 2);
    }
}

#[test]
fn each_of_the_clients_registers_watches_data() {
    for n in 0..4 {
        let mut m = Machine::long();
        m.code(64, 0x1000, |a| {
            a.mov(rax, qword_ptr(0x6000u64))?;
            a.mov(dword_ptr(0x5ffeu64), 0x1234)?;
            a.hlt()
        });
        let mut addresses = [0; 4];
        addresses[n] = 0x6000;
        m.cpu.core.debug = DebugControl {
            intercept_db: true,
            hardware: Some((addresses, enabled(n, 1, 3))),
            ..Default::default()
        };
        // The first instruction has a 64-bit address in it.
        let read = 0x1000 + 10;
        let after = read + 11;
        assert_eq!(m.run(), hit(DB, 1 << n));
        assert_eq!(m.state().rip, after);
        assert_eq!(m.words(0x5ffe, 4, 1), [0x1234]);
        m.halt();
        // Reads count if asked for, and the page is known by now.
        m.cpu.core.debug.hardware = Some((addresses, enabled(n, 3, 3)));
        m.cpu.core.flush_tlb();
        m.state().rip = 0x1000;
        assert_eq!(m.run(), hit(DB, 1 << n));
        assert_eq!(m.state().rip, read);
    }
}

#[test]
fn general_detect_in_the_clients_register_reaches_the_client() {
    let mut m = Machine::long();
    m.code(64, 0x1000, |a| a.mov(rax, dr0));
    m.cpu.core.debug = DebugControl {
        intercept_db: true,
        hardware: Some(([0; 4], DR7_FIXED | DR7_GD)),
        ..Default::default()
    };
    assert_eq!(m.run(), hit(DB, DR6_BD));
    assert_eq!(m.state().rip, 0x1000);
}

#[test]
fn int1_goes_to_a_client_that_takes_debug_exceptions() {
    let mut m = Machine::long();
    m.bytes(0x1000, &[0xf1]);
    m.cpu.core.debug.intercept_db = true;
    assert_eq!(m.run(), hit(DB, 0));
    assert_eq!(m.state().rip, 0x1000);
}

#[test]
fn the_guests_breakpoint_hits_once_per_execution() {
    let mut m = Machine::long();
    m.vector64(1, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| {
        a.inc(rcx)?;
        a.mov(rdx, qword_ptr(rsp + 16))?;
        a.or(dword_ptr(rsp + 16), flags::RF as i32)?;
        a.iretq()
    });
    m.code(64, 0x1000, |a| {
        a.nop()?;
        a.inc(rbx)?;
        a.hlt()
    });
    m.state().dr[2] = 0x1001;
    m.state().dr7 = enabled(2, 0, 0);
    m.halt();
    assert_eq!((m.state().gpr[RCX], m.state().gpr[RBX]), (1, 1));
    assert_eq!(m.state().dr6, DR6_FIXED | 4);
    // Setting RF is left to the handler, and the flag does not outlive the instruction.
    assert_eq!(m.state().gpr[RDX] & flags::RF, 0);
    assert_eq!(m.state().rflags() & flags::RF, 0);
}

#[test]
fn the_guests_watchpoint_traps_after_the_access() {
    let mut m = Machine::long();
    m.vector64(1, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| {
        a.mov(byte_ptr(0x6003u64), 7)?;
        a.nop()
    });
    m.state().dr[1] = 0x6000;
    m.state().dr7 = enabled(1, 1, 3);
    m.halt();
    assert_eq!(m.state().dr6, DR6_FIXED | 2);
    assert_eq!(m.words(0x8000 - 40, 8, 1), [0x1008]);
    assert_eq!(m.words(0x6003, 1, 1), [7]);
}

#[test]
fn a_watchpoint_hit_by_a_load_of_ss_traps_one_instruction_later() {
    let mut m = Machine::protected();
    m.vector(1, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.world.poke(0x6000, &DATA0.to_le_bytes());
    m.code(32, 0x1000, |a| {
        a.mov(ss, word_ptr(0x6000))?;
        a.inc(ebx)?;
        a.inc(ebx)
    });
    m.state().dr[0] = 0x6000;
    m.state().dr7 = enabled(0, 3, 1);
    m.halt();
    assert_eq!(m.state().dr6, DR6_FIXED | 1);
    assert_eq!(m.state().gpr[RBX], 1);
}

#[test]
fn the_single_step_trap_of_a_load_of_ss_is_lost() {
    let mut m = Machine::protected();
    m.vector(1, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x1000, |a| {
        a.mov(ss, eax)?;
        a.inc(ebx)?;
        a.inc(ebx)
    });
    m.state().gpr[RAX] = u64::from(DATA0);
    m.state().set_rflags(flags::TF);
    m.halt();
    assert_eq!(m.state().dr6, DR6_FIXED | DR6_BS);
    assert_eq!(m.state().gpr[RBX], 1);
}

#[test]
fn a_hit_of_an_instruction_that_then_faults_does_not_count() {
    let mut m = Machine::long();
    m.vector64(13, 0x5000, 0x8e, 0);
    m.vector64(1, 0x5100, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.movsb());
    m.state().gpr[RSI] = 0x6000;
    m.state().gpr[RDI] = 1 << 63;
    m.state().dr[0] = 0x6000;
    m.state().dr7 = enabled(0, 3, 0);
    m.halt();
    assert_eq!((m.state().rip, m.state().dr6), (0x5001, DR6_FIXED));
}

#[test]
fn watchpoint_and_single_step_make_one_exception() {
    let mut m = Machine::long();
    m.vector64(1, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.mov(byte_ptr(0x6000u64), 7));
    m.state().dr[3] = 0x6000;
    m.state().dr7 = enabled(3, 1, 0);
    m.state().set_rflags(flags::TF);
    m.halt();
    assert_eq!(m.state().dr6, DR6_FIXED | DR6_BS | 8);
}

#[test]
fn debug_registers_4_and_5_are_aliases_until_cr4_de() {
    let mut m = Machine::long();
    m.vector64(6, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    // MOV RAX, DR5; MOV CR4, RCX; MOV RAX, DR5
    m.bytes(0x1000, &[0x0f, 0x21, 0xe8, 0x0f, 0x22, 0xe1, 0x0f, 0x21, 0xe8]);
    m.state().gpr[RCX] = m.cpu.core.state.cr4 | CR4_DE;
    m.halt();
    assert_eq!(m.state().gpr[RAX], DR7_FIXED);
    assert_eq!(m.words(0x8000 - 40, 8, 1), [0x1006]);
}

#[test]
fn the_high_half_of_dr6_and_dr7_is_reserved() {
    for register in [6u8, 7] {
        let mut m = Machine::long();
        m.vector64(13, 0x5000, 0x8e, 0);
        m.code(64, 0x5000, |a| a.hlt());
        m.bytes(
            0x1000,
            &[0x0f, 0x23, 0xc0 | register << 3, 0x0f, 0x23, 0xc1 | register << 3],
        );
        m.state().gpr[RAX] = 0xffff_ffff & !DR7_GD & !DR7_ENABLES;
        m.state().gpr[RCX] = 1 << 32;
        m.halt();
        assert_eq!(m.words(0x8000 - 48, 8, 2), [0, 0x1003]);
    }
}

#[test]
fn the_single_step_trap_after_hlt_ends_it() {
    let mut m = Machine::long();
    m.vector64(1, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| {
        a.mov(eax, 7)?;
        a.hlt()
    });
    m.code(64, 0x1000, |a| a.hlt());
    m.state().set_rflags(flags::TF);
    m.halt();
    assert_eq!(m.state().gpr[RAX], 7, "the handler's own HLT");
    assert_eq!(m.words(0x8000 - 40, 8, 1), [0x1001]);
}

#[test]
fn a_watchpoint_hit_by_a_load_of_ss_comes_with_the_exception_of_int1() {
    let mut m = Machine::protected();
    m.vector(1, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| {
        a.inc(ebx)?;
        a.iretd()
    });
    m.code(32, 0x1000, |a| {
        a.mov(ss, word_ptr(0x6000))?;
        a.int1()?;
        a.hlt()
    });
    m.world.poke64(0x6000, DATA0.into());
    m.state().dr[1] = 0x6000;
    m.state().dr7 = enabled(1, 3, 1);
    m.halt();
    assert_eq!((m.state().gpr[RBX], m.state().dr6), (1, DR6_FIXED | 2));
}
