//! The meter of retired instructions and branches, and RDPMC.

mod machine;

use machine::Machine;
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::{Leave, Vector};

fn metered(mut machine: Machine) -> Machine {
    machine.state().meter.on = true;
    machine.state().meter.alarm = u64::MAX;
    machine
}

const fn retired(instructions: u64, branches: u64) -> Retired {
    Retired {
        instructions,
        branches,
    }
}

#[test]
fn each_instruction_that_retires_counts_once() {
    let mut machine = metered(Machine::real());
    machine.code(16, 0x1000, |a| {
        let mut again = a.create_label();
        a.mov(iced_x86::code_asm::cx, 10)?;
        a.set_label(&mut again)?;
        a.nop()?;
        a.loop_(again)?;
        a.hlt()
    });
    machine.halt();
    // MOV and HLT once, NOP and LOOP ten times; a LOOP that falls through is a branch, too.
    assert_eq!(machine.state().meter.kernel, retired(22, 10));
    assert_eq!(machine.state().meter.user, retired(0, 0));
    // A repeated instruction is one.
    let mut machine = metered(Machine::real());
    machine.state().gpr[RCX] = 100;
    machine.bytes(0x1000, &[0xf3, 0xaa, 0xf4]);
    machine.halt();
    assert_eq!(machine.state().meter.kernel, retired(2, 0));
}

#[test]
fn what_faults_does_not_count() {
    let mut machine = metered(Machine::real());
    // ud2; the handler: hlt
    machine.bytes(0x1000, &[0x90, 0x0f, 0x0b]);
    machine.bytes(0x2000, &[0xf4]);
    machine.world.poke(4 * Vector::UD as u64, &[0x00, 0x20, 0, 0]);
    machine.halt();
    assert_eq!(machine.state().meter.kernel, retired(2, 0));
}

#[test]
fn privilege_is_told_apart() {
    let mut machine = metered(Machine::long());
    machine.vector64(0x30, 0x5000, 0xee, 0);
    machine.bytes(0x5000, &[0x90, 0xf4]);
    // nop; int 30h
    machine.bytes(0x1000, &[0x90, 0xcd, 0x30]);
    machine.user(0x1000, 0x7000);
    machine.halt();
    assert_eq!(machine.state().meter.user, retired(2, 1));
    assert_eq!(machine.state().meter.kernel, retired(2, 0));
}

#[test]
fn stepping_counts_the_same() {
    let mut machine = metered(Machine::real());
    machine.cpu.core.debug.single_step = true;
    // nop; jmp +0; nop
    machine.bytes(0x1000, &[0x90, 0xeb, 0x00, 0x90, 0x90]);
    for _ in 0..3 {
        assert!(matches!(machine.run(), Leave::Debug { .. }));
    }
    assert_eq!(machine.state().meter.kernel, retired(3, 1));
}

#[test]
fn the_alarm_goes_off_at_the_end_of_its_block() {
    let mut machine = metered(Machine::real());
    machine.state().meter.alarm = 5;
    // nop; jmp back
    machine.bytes(0x1000, &[0x90, 0xeb, 0xfd]);
    assert_eq!(machine.run(), Leave::Metered);
    assert_eq!(machine.state().meter.instructions(), 6);
}

/// CR4.PCE opens RDPMC to all levels. This world has no counter, which is #GP as well: only who may not ask at all is told apart
/// by the KVM's tests.
#[test]
fn counters_that_are_not_there_fault() {
    for pce in [0, CR4_PCE] {
        let mut machine = Machine::long();
        machine.state().cr4 |= pce;
        machine.vector64(Vector::GP as u64, 0x5000, 0x8e, 0);
        machine.bytes(0x5000, &[0xf4]);
        machine.bytes(0x1000, &[0x0f, 0x33]);
        machine.user(0x1000, 0x7000);
        machine.halt();
        assert_eq!(machine.state().rip, 0x5001);
    }
}
