//! The virtual interrupt flag of virtual-8086 mode (CR4.VME) and of protected mode (CR4.PVI).

mod machine;

use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::state::*;

/// A machine in virtual-8086 mode at 0:1000 with IOPL 0 and CR4.VME; #GP ends at a HLT. Interrupts are sent to the program's
/// own handlers but for those in `redirected`.
fn machine(redirected: &[u8]) -> Machine {
    let mut m = Machine::protected();
    m.vector(13, gate(CODE0, 0x5800, 0x8e, 0));
    m.code(32, 0x5800, |a| a.hlt());
    m.world.poke(TSS + 0x66, &0x88u16.to_le_bytes());
    for vector in redirected {
        let at = TSS + 0x68 + u64::from(vector / 8);
        m.world.poke(at, &[1 << (vector % 8)]);
    }
    let state = m.state();
    state.cr4 |= CR4_VME;
    state.tr.limit = 0xfff;
    for seg in [CS, DS, ES, FS, GS, SS] {
        state.seg[seg] = Segment {
            selector: 0,
            base: 0,
            limit: 0xffff,
            attributes: Attributes(0xf3),
        };
    }
    state.rip = 0x1000;
    state.gpr[RSP] = 0x7000;
    state.set_rflags(flags::VM | flags::IF);
    m.cpu.core.refresh();
    m
}

#[test]
fn cli_and_sti_change_vif() {
    let mut m = machine(&[]);
    m.code(16, 0x1000, |a| {
        a.sti()?;
        a.pushf()?;
        a.pop(ax)?;
        a.cli()?;
        a.pushf()?;
        a.pop(bx)?;
        a.hlt()
    });
    m.halt();
    // PUSHF shows VIF in IF's place, and IOPL 3.
    let shown = |value: u64| value & (flags::IF | flags::IOPL);
    let gpr = m.state().gpr;
    assert_eq!(shown(gpr[RAX]), flags::IF | flags::IOPL);
    assert_eq!(shown(gpr[RBX]), flags::IOPL);
    // EFLAGS in the frame of #GP: error code, EIP, CS, EFLAGS.
    let eflags = m.words(INNER_STACK - 40, 4, 4)[3];
    assert_eq!(
        eflags & (flags::IF | flags::VIF | flags::VM),
        flags::IF | flags::VM
    );
}

#[test]
fn sti_with_an_interrupt_pending_tells_the_monitor() {
    let mut m = machine(&[]);
    m.code(16, 0x1000, |a| a.sti());
    m.state().flags.system |= flags::VIP;
    m.halt();
    assert_eq!(m.words(INNER_STACK - 40, 4, 2), [0, 0x1000]);
}

#[test]
fn interrupts_go_to_the_programs_handlers_or_to_the_monitor() {
    // INT 21H: the program's own, by its vector table at 0:84.
    let mut m = machine(&[0x22]);
    m.world.poke(0x21 * 4, &[0x00, 0x60, 0, 0]);
    m.code(16, 0x6000, |a| {
        a.mov(cx, 0x1234)?;
        a.iret()
    });
    m.code(16, 0x1000, |a| {
        a.int(0x21)?;
        a.int(0x22)
    });
    m.halt();
    assert_eq!(m.state().gpr[RCX] & 0xffff, 0x1234);
    // INT 22H is redirected: #GP with its vector, since IOPL is 0.
    let frame = m.words(INNER_STACK - 40, 4, 2);
    assert_eq!(frame[1], 0x1002);
}

#[test]
fn protected_mode_has_the_like() {
    let mut m = Machine::protected();
    m.vector(13, gate(CODE0, 0x5800, 0x8e, 0));
    m.code(32, 0x5800, |a| a.hlt());
    m.state().cr4 |= CR4_PVI;
    m.code(32, 0x1000, |a| {
        a.sti()?;
        a.cli()?;
        a.sti()?;
        a.hlt()
    });
    m.user(0x1000, 0x7000);
    m.state().set_rflags(0);
    m.halt();
    // Error code, EIP, CS, EFLAGS.
    let frame = m.words(INNER_STACK - 24, 4, 4);
    assert_eq!(frame[1], 0x1003);
    assert_eq!(frame[3] & (flags::IF | flags::VIF), flags::VIF);
}
