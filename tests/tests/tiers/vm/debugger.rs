//! KVM_SET_GUEST_DEBUG on code that is hot: steps, breakpoints on code and data, the guest's own debug registers, and back
//! to full speed.

use iced_x86::code_asm::*;
use ring3_client::{Vcpu, VcpuExit};
use ring3_tests::bare::guest::{Guest, go_to};
use ring3_tests::bare::places::*;
use ring3_uapi::x86::*;
use ring3_uapi::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP};

const FUNCTION: u64 = 0x1_8000;
const DATA: u64 = 0x20_0000;
const ROUNDS: u64 = 30;
/// Instructions of the program up to its HLT.
const EXECUTED: u64 = 1 + 6 * ROUNDS;

/// R12 counts down; the function adds it to the word at [`DATA`].
fn guest() -> Guest {
    let mut guest = Guest::new(1);
    guest.code(FUNCTION, |a| {
        a.add(qword_ptr(DATA), r12)?;
        a.ret()
    });
    guest.code(START, |a| {
        let mut top = a.create_label();
        a.mov(r12d, ROUNDS as u32)?;
        a.set_label(&mut top)?;
        a.call(FUNCTION)?;
        a.adc(r13, 1)?;
        a.dec(r12d)?;
        a.jne(top)?;
        a.hlt()
    });
    // Hot.
    guest.halt();
    again(&mut guest);
    guest
}

fn again(guest: &mut Guest) {
    guest.ram.put(DATA, 0);
    go_to(guest.vcpu(), START, STACK);
}

fn check(guest: &Guest) {
    assert_eq!(guest.word(DATA), ROUNDS * (ROUNDS + 1) / 2);
    assert_eq!(guest.vcpu().get_regs().expect("KVM_GET_REGS").r13, ROUNDS);
}

fn debug(vcpu: &Vcpu, control: u32, registers: [u64; 8]) {
    let debug = KvmGuestDebug {
        control,
        pad: 0,
        arch: KvmGuestDebugArch { debugreg: registers },
    };
    vcpu.set_guest_debug(&debug).expect("KVM_SET_GUEST_DEBUG");
}

#[track_caller]
fn stops(vcpu: &Vcpu) -> u64 {
    let left = vcpu.run();
    let Ok(VcpuExit::Debug(at)) = left else {
        panic!("{left:?}")
    };
    assert_eq!(at.exception, 1);
    at.pc
}

/// Without a debugger the program comes to its end, and does so again.
fn goes_on_undisturbed(mut guest: Guest) {
    debug(guest.vcpu(), 0, [0; 8]);
    guest.halt();
    check(&guest);
    again(&mut guest);
    guest.halt();
    check(&guest);
}

#[test]
fn steps() {
    let guest = guest();
    debug(
        guest.vcpu(),
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
        [0; 8],
    );
    let mut calls = 0;
    for _ in 0..EXECUTED {
        calls += u64::from(stops(guest.vcpu()) == FUNCTION);
    }
    assert_eq!(calls, ROUNDS);
    goes_on_undisturbed(guest);
}

#[test]
fn steps_in_the_middle_of_full_speed() {
    let mut guest = guest();
    for n in 0..10 {
        debug(
            guest.vcpu(),
            KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            [0; 8],
        );
        for _ in 0..n * 7 {
            stops(guest.vcpu());
        }
        debug(guest.vcpu(), 0, [0; 8]);
        guest.halt();
        check(&guest);
        again(&mut guest);
    }
}

#[test]
fn breakpoints_on_code() {
    let guest = guest();
    let control = 0x400 | 2;
    debug(
        guest.vcpu(),
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        [FUNCTION, 0, 0, 0, 0, 0, 0, control],
    );
    for _ in 0..ROUNDS {
        assert_eq!(stops(guest.vcpu()), FUNCTION);
        // As debuggers do: step over it.
        debug(
            guest.vcpu(),
            KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP,
            [0; 8],
        );
        stops(guest.vcpu());
        debug(
            guest.vcpu(),
            KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
            [FUNCTION, 0, 0, 0, 0, 0, 0, control],
        );
    }
    guest.halt();
    check(&guest);
}

#[test]
fn breakpoints_on_data() {
    let guest = guest();
    // Writes of eight bytes; and back to full speed afterwards.
    let control = 0x400 | 2 | 1 << 16 | 2 << 18;
    debug(
        guest.vcpu(),
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        [DATA, 0, 0, 0, 0, 0, 0, control],
    );
    for _ in 0..ROUNDS {
        // The instruction that wrote is behind.
        assert_eq!(stops(guest.vcpu()), FUNCTION + 8);
    }
    goes_on_undisturbed(guest);
}

#[test]
fn the_guests_own_debug_registers_set_from_outside() {
    const HANDLER: u64 = 0x1_c000;
    let mut guest = guest();
    gate(&mut guest.ram, 1, HANDLER, 0x8e, 1);
    guest.code(HANDLER, |a| {
        a.inc(r14)?;
        a.iretq()
    });
    let mut registers = guest.vcpu().get_debugregs().expect("KVM_GET_DEBUGREGS");
    registers.db[0] = DATA;
    registers.dr7 = 0x400 | 2 | 1 << 16 | 2 << 18;
    guest.vcpu().set_debugregs(&registers).expect("KVM_SET_DEBUGREGS");
    guest.halt();
    check(&guest);
    assert_eq!(guest.vcpu().get_regs().expect("KVM_GET_REGS").r14, ROUNDS);
    // While the client's are in force, the guest's are not.
    again(&mut guest);
    debug(
        guest.vcpu(),
        KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP,
        [0, 0, 0, 0, 0, 0, 0, 0x400],
    );
    guest.halt();
    check(&guest);
    assert_eq!(guest.vcpu().get_regs().expect("KVM_GET_REGS").r14, 0);
}
