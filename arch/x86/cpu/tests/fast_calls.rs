//! SYSENTER and SYSEXIT, in 32-bit and 64-bit code, on Intel's processors and on others.

mod machine;

use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::state::*;

/// CPUID's leaf 0 of a vendor: EBX, EDX and ECX spell its name.
fn vendor(m: &mut Machine, name: &[u8; 12]) {
    let word = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
    m.world.cpuid.insert(0, [1, word(0), word(8), word(4)]);
}

/// The handler at 5000 notes CS in ESI and returns with SYSEXIT to 1100, on a stack at 7800.
fn prepare(m: &mut Machine, bits: u32) {
    let msr = &mut m.state().msr;
    (msr.sysenter_cs, msr.sysenter_esp, msr.sysenter_eip) = (CODE0.into(), 0x8800, 0x5000);
    m.code(bits, 0x5000, |a| {
        a.mov(esi, cs)?;
        a.mov(edx, 0x1100)?;
        a.mov(ecx, 0x7800)?;
        // SYSEXIT, to code as wide as this.
        if bits == 64 {
            a.db(&[0x48, 0x0f, 0x35])
        } else {
            a.sysexit()
        }
    });
    m.code(bits, 0x1000, |a| a.sysenter());
    m.code(bits, 0x1100, |a| {
        a.mov(edi, cs)?;
        a.int(0x80)
    });
}

#[test]
fn there_and_back_in_32_bits() {
    let mut m = Machine::protected();
    m.vector(0x80, gate(CODE0, 0x5800, 0xee, 0));
    m.code(32, 0x5800, |a| a.hlt());
    prepare(&mut m, 32);
    m.user(0x1000, 0x7000);
    m.halt();
    let gpr = m.state().gpr;
    assert_eq!(gpr[RSI], u64::from(CODE0));
    assert_eq!(gpr[RDI], u64::from(CODE0 + 16) | 3);
    // The frame of INT: EIP, CS, EFLAGS, ESP, SS.
    let frame = m.words(INNER_STACK - 20, 4, 5);
    assert_eq!(frame[2] & flags::IF, 0, "SYSENTER cleared IF, SYSEXIT left it");
    assert_eq!(frame[3..], [0x7800, u64::from(CODE0 + 24) | 3]);
}

#[test]
fn there_and_back_in_64_bits_on_intel() {
    let mut m = Machine::long();
    vendor(&mut m, b"GenuineIntel");
    m.vector64(0x80, 0x5800, 0xee, 0);
    m.code(64, 0x5800, |a| a.hlt());
    prepare(&mut m, 64);
    m.user(0x1000, 0x7000);
    m.halt();
    let gpr = m.state().gpr;
    assert_eq!(gpr[RSI], u64::from(CODE0));
    assert_eq!(gpr[RDI], u64::from(CODE0 + 32) | 3);
    assert_eq!(
        m.words(INNER_STACK - 16, 8, 2),
        [0x7800, u64::from(CODE0 + 40) | 3]
    );
}

#[test]
fn not_in_long_mode_on_amd() {
    let mut m = Machine::long();
    vendor(&mut m, b"AuthenticAMD");
    m.vector64(6, 0x5800, 0x8e, 0);
    m.code(64, 0x5800, |a| a.hlt());
    prepare(&mut m, 64);
    m.user(0x1000, 0x7000);
    m.halt();
    assert_eq!(m.state().rip, 0x5801);
}

#[test]
fn not_without_a_selector_nor_from_level_3() {
    for (selector, code) in [(0, &[0x0f, 0x34][..]), (u64::from(CODE0), &[0x0f, 0x35])] {
        let mut m = Machine::protected();
        m.vector(13, gate(CODE0, 0x5800, 0x8e, 0));
        m.code(32, 0x5800, |a| a.hlt());
        m.state().msr.sysenter_cs = selector;
        m.bytes(0x1000, code);
        m.user(0x1000, 0x7000);
        m.halt();
        assert_eq!(m.state().rip, 0x5801, "{code:x?}");
        // Error code and EIP.
        assert_eq!(m.words(INNER_STACK - 24, 4, 2), [0, 0x1000]);
    }
}

/// SYSCALL to 5000, which notes RFLAGS's image; SYSRET to 1100 from there.
fn prepare_syscall(m: &mut Machine, mask: u64) {
    let msr = &mut m.state().msr;
    msr.star = u64::from(CODE0 + 3) << 48 | u64::from(CODE0) << 32;
    (msr.lstar, msr.fmask) = (0x5000, mask);
    m.code(64, 0x5000, |a| {
        a.nop()?;
        a.mov(rcx, 0x1100u64)?;
        a.db(&[0x48, 0x0f, 0x07])
    });
    m.code(64, 0x1000, |a| a.syscall());
    m.code(64, 0x1100, |a| {
        a.nop()?;
        a.nop()
    });
    m.vector64(1, 0x5800, 0x8e, 0);
    m.code(64, 0x5800, |a| a.hlt());
}

/// Where the first trap found RIP, the frame's first word.
fn trapped_at(m: &mut Machine) -> u64 {
    m.halt();
    let top = m.state().gpr[RSP];
    m.words(top, 8, 1)[0]
}

#[test]
fn tf_that_syscall_clears_does_not_trap_after_it_but_after_the_sysret_that_sets_it() {
    let mut m = Machine::long();
    prepare_syscall(&mut m, flags::TF);
    m.user(0x1000, 0x7000);
    m.state().set_rflags(flags::TF);
    assert_eq!(
        trapped_at(&mut m),
        0x1100,
        "neither in the kernel nor an instruction later"
    );
    assert_ne!(m.state().dr6 & DR6_BS, 0);
}

#[test]
fn tf_that_syscall_leaves_traps_at_its_target() {
    let mut m = Machine::long();
    prepare_syscall(&mut m, 0);
    m.user(0x1000, 0x7000);
    m.state().gpr[RSP] = 0x7000;
    m.state().set_rflags(flags::TF);
    assert_eq!(trapped_at(&mut m), 0x5000);
}
