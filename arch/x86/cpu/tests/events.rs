//! Events in every mode: what the handler finds, and where IRET leads.

mod machine;

use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::event::Event;
use ring3_x86_cpu::state::*;

#[test]
fn real_mode_interrupt_and_return() {
    let mut m = Machine::real();
    m.world.poke(4 * 0x21, &[0x00, 0x20, 0x00, 0x10]); // 1000:2000
    m.code(16, 0x1000, |a| {
        a.sti()?;
        a.int(0x21)?;
        a.hlt()
    });
    m.code(16, 0x1_2000, |a| {
        a.mov(bx, sp)?;
        a.pushf()?;
        a.pop(cx)?;
        a.iret()
    });
    m.halt();
    assert_eq!(m.state().gpr[RBX], 0x7ffa);
    assert_eq!(m.state().gpr[RCX] & (flags::IF | flags::TF), 0);
    assert!(m.state().flags.has(flags::IF));
    assert_eq!(m.state().gpr[RSP], 0x8000);
    assert_eq!(m.state().rip, 0x1004);
    assert_eq!(m.words(0x7ffa, 2, 3)[..2], [0x1003, 0]);
}

#[test]
fn protected_mode_system_call_switches_stacks() {
    let mut m = Machine::protected();
    m.vector(0x80, gate(CODE0, 0x5000, 0xee, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x1000, |a| a.int(0x80));
    m.user(0x1000, 0x7000);
    m.halt();
    assert_eq!(m.state().cpl(), 0);
    let frame = m.words(INNER_STACK - 20, 4, 5);
    assert_eq!(
        frame,
        [0x1002, u64::from(CODE3), flags::IF | 2, 0x7000, u64::from(DATA3)]
    );
    assert_eq!(m.state().gpr[RSP], INNER_STACK - 20);
    assert!(!m.state().flags.has(flags::IF));
    assert_eq!(m.state().seg[SS].selector, DATA0);
}

#[test]
fn protected_mode_iret_to_user_nulls_inner_segments() {
    let mut m = Machine::protected();
    m.vector(0x80, gate(CODE0, 0x5000, 0xef, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x6000, |a| {
        a.mov(ebx, ds)?;
        a.int(0x80)
    });
    m.code(32, 0x1000, |a| {
        a.push(i32::from(DATA3))?;
        a.push(0x7000)?;
        a.push(0x3202)?;
        a.push(i32::from(CODE3))?;
        a.push(0x6000)?;
        a.iretd()
    });
    m.halt();
    assert_eq!(m.state().gpr[RBX], 0);
    // A trap gate leaves IF on, and level 0 could set IOPL.
    assert_eq!(
        m.state().rflags() & (flags::IF | flags::IOPL),
        flags::IF | flags::IOPL
    );
}

#[test]
fn user_interrupt_through_a_level_0_gate_is_gp() {
    let mut m = Machine::protected();
    m.vector(0x81, gate(CODE0, 0x4000, 0x8e, 0));
    m.vector(13, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x1000, |a| {
        a.nop()?;
        a.int(0x81)
    });
    m.user(0x1000, 0x7000);
    m.halt();
    let frame = m.words(INNER_STACK - 24, 4, 3);
    assert_eq!(frame, [0x81 * 8 + 2, 0x1001, u64::from(CODE3)]);
}

#[test]
fn external_interrupt_through_an_absent_gate_sets_ext() {
    let mut m = Machine::protected();
    m.vector(0x40, gate(CODE0, 0x4000, 0x0e, 0));
    m.vector(11, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| a.hlt());
    let Machine { cpu, world } = &mut m;
    assert_eq!(cpu.deliver(Event::External { vector: 0x40 }, world), None);
    m.halt();
    assert_eq!(m.words(0x8000 - 16, 4, 2), [0x40 * 8 + 3, 0x1000]);
}

#[test]
fn long_mode_exception_uses_its_interrupt_stack() {
    let mut m = Machine::long();
    m.vector64(6, 0x5000, 0x8e, 3);
    m.world.poke64(TSS + 0x24 + 16, 0xa008);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.ud2());
    m.user(0x1000, 0x7004);
    m.halt();
    let frame = m.words(0xa000 - 40, 8, 5);
    assert_eq!(
        frame,
        [
            0x1000,
            u64::from(CODE3),
            flags::IF | flags::RF | 2,
            0x7004,
            u64::from(DATA3)
        ]
    );
    assert_eq!(m.state().gpr[RSP], 0xa000 - 40);
    assert_eq!(m.state().seg[SS].selector, 0);
    assert_eq!(m.state().cpl(), 0);
}

#[test]
fn long_mode_interrupt_returns_to_user() {
    let mut m = Machine::long();
    m.vector64(0x80, 0x5000, 0xee, 0);
    m.vector64(0x81, 0x5100, 0xee, 0);
    m.code(64, 0x5000, |a| {
        a.inc(rbx)?;
        a.iretq()
    });
    m.code(64, 0x5100, |a| a.hlt());
    m.code(64, 0x1000, |a| {
        a.int(0x80)?;
        a.int(0x80)?;
        a.mov(rcx, rsp)?;
        a.int(0x81)
    });
    m.user(0x1000, 0x7004);
    m.halt();
    assert_eq!((m.state().gpr[RBX], m.state().gpr[RCX]), (2, 0x7004));
}

#[test]
fn page_fault_names_its_address_and_cause() {
    let mut m = Machine::long();
    m.vector64(14, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| {
        a.mov(rax, 0x4012_3456u64)?;
        a.mov(byte_ptr(rax), 1)
    });
    m.user(0x1000, 0x7000);
    m.halt();
    assert_eq!(m.state().cr2, 0x4012_3456);
    let top = INNER_STACK - 48;
    assert_eq!(m.words(top, 8, 1), [6]);
    assert_eq!(m.state().gpr[RSP], top);
}

#[test]
fn contributory_faults_make_a_double_fault() {
    let mut m = Machine::long();
    // #GP's gate is absent: #NP while delivering #GP.
    m.vector64(13, 0x4000, 0x0e, 0);
    m.vector64(8, 0x5000, 0x8e, 1);
    m.world.poke64(TSS + 0x24, 0xa000);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.cli());
    m.user(0x1000, 0x7000);
    m.halt();
    assert_eq!(m.words(0xa000 - 48, 8, 3), [0, 0x1000, u64::from(CODE3)]);
}

#[test]
fn a_benign_fault_is_followed_by_the_second_one() {
    let mut m = Machine::long();
    m.vector64(6, 0x4000, 0x0e, 0);
    m.vector64(11, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.ud2());
    m.halt();
    assert_eq!(m.words(0x8000 - 48, 8, 2), [6 * 8 + 3, 0x1000]);
}

#[test]
fn a_fault_in_a_double_fault_is_shutdown() {
    let mut m = Machine::long();
    m.state().idtr.limit = 0;
    m.code(64, 0x1000, |a| a.ud2());
    assert_eq!(m.run(), Leave::TripleFault);
}

#[test]
fn nmi_blocks_nmis_until_iret() {
    let mut m = Machine::long();
    m.vector64(2, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| {
        a.inc(rbx)?;
        a.iretq()
    });
    m.code(64, 0x1000, |a| a.hlt());
    let Machine { cpu, world } = &mut m;
    assert_eq!(cpu.deliver(Event::Nmi, world), None);
    assert!(!cpu.core.accepts_nmi());
    m.halt();
    assert!(m.cpu.core.accepts_nmi());
    assert_eq!(m.state().gpr[RBX], 1);
}

#[test]
fn sti_and_mov_ss_cast_a_shadow_of_one_instruction() {
    let mut m = Machine::long();
    m.code(64, 0x1000, |a| {
        a.sti()?;
        a.nop()?;
        a.mov(eax, i32::from(DATA0))?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.hlt()
    });
    let step = |m: &mut Machine| {
        let Machine { cpu, world } = m;
        while let Some(left) = cpu.run_one(world) {
            assert_eq!(left, Leave::Kicked, "code was decoded");
        }
        cpu.core.accepts_interrupts()
    };
    assert!(!step(&mut m));
    assert!(step(&mut m));
    assert!(step(&mut m));
    assert!(!step(&mut m));
    assert!(step(&mut m));
}

#[test]
fn single_step_traps_after_the_instruction() {
    let mut m = Machine::long();
    m.vector64(1, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.inc(rbx)?;
        a.inc(rbx)
    });
    m.halt();
    assert_eq!(m.state().gpr[RBX], 1);
    assert_eq!(m.state().dr6 & (DR6_BS | 0xf), DR6_BS);
    let saved = m.words(m.cpu.core.state.gpr[RSP], 8, 3);
    assert_eq!(saved[2] & (flags::TF | flags::RF), flags::TF);
    assert!(!m.state().flags.has(flags::TF));
}

#[test]
fn general_detect_faults_on_debug_register_access() {
    let mut m = Machine::long();
    m.vector64(1, 0x5000, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x1000, |a| a.mov(rax, dr0));
    m.state().dr7 |= DR7_GD;
    m.halt();
    assert_eq!(m.state().dr6 & DR6_BD, DR6_BD);
    assert_eq!(m.state().dr7 & DR7_GD, 0);
    assert_eq!(m.words(0x8000 - 40, 8, 1), [0x1000]);
}

#[test]
fn iret_to_user_nulls_gs_but_keeps_its_base() {
    let mut m = Machine::long();
    m.vector64(0x80, 0x5000, 0xee, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x6000, |a| {
        a.mov(ebx, gs)?;
        a.mov(rcx, qword_ptr(0x10).gs())?;
        a.int(0x80)
    });
    m.code(64, 0x1000, |a| {
        a.push(i32::from(DATA3))?;
        a.push(0x7000)?;
        a.push(0x202)?;
        a.push(i32::from(CODE3))?;
        a.push(0x6000)?;
        a.iretq()
    });
    m.world.poke64(0xa010, 0x1234);
    // Not null, and of level 0.
    m.state().seg[GS].base = 0xa000;
    m.halt();
    assert_eq!((m.state().gpr[RBX], m.state().gpr[RCX]), (0, 0x1234));
}
