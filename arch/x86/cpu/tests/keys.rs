//! Protection keys of user pages: what they bar, whom, and that translations do not outlive a change of PKRU.

mod machine;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::state::*;

/// A page with a protection key at `KEYED`, the rest of its 2 MiB having none; `KERNEL` is a page of the supervisor's with that
/// key. `USER_CODE` is for level 3.
const KEYED: u64 = 0x4_0000;
const KERNEL: u64 = 0x4_1000;
const PLAIN: u64 = 0x4_2000;
const KEY: u64 = 5;
const TABLE: u64 = 0x10_3000;

const ACCESS: u32 = 1 << (2 * KEY);
const WRITE: u32 = 2 << (2 * KEY);

/// Error codes.
const PRESENT: u64 = 1;
const STORE: u64 = 2;
const USER: u64 = 4;
const BY_KEY: u64 = 32;

const HANDLER: u64 = 0x5000;

fn long() -> Machine {
    let mut m = Machine::long();
    m.world.poke64(0x10_2000, TABLE | 7);
    for page in 0..512 {
        m.world.poke64(TABLE + 8 * page, page << 12 | 7);
    }
    m.world.poke64(TABLE + 8 * (KEYED >> 12), KEYED | 7 | KEY << 59);
    m.world.poke64(TABLE + 8 * (KERNEL >> 12), KERNEL | 3 | KEY << 59);
    for vector in [6, 13, 14] {
        m.vector64(vector, HANDLER + 16 * vector, 0x8e, 0);
        m.code(64, HANDLER + 16 * vector, |a| a.hlt());
    }
    m.state().cr4 |= CR4_PKE | CR4_OSXSAVE;
    m.state().xcr0 = 3 | 1 << 9;
    m.cpu.core.flush_tlb();
    m
}

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// The error code of the page fault that the code at this level ends with, 0 if it comes to its HLT (or, at level 3, to the #GP
/// that this is there).
#[track_caller]
fn fault(m: &mut Machine, level: u8, build: Build) -> u64 {
    m.code(64, 0x1000, |a| {
        build(a)?;
        a.hlt()
    });
    m.cpu.drop_all_code();
    let kernel = m.state().seg;
    match level {
        3 => m.user(0x1000, 0x7000),
        _ => (m.state().rip, m.state().gpr[RSP]) = (0x1000, 0x8000),
    }
    m.halt();
    let vector = m.state().rip.checked_sub(HANDLER).map_or(0, |at| at / 16);
    let error = m.words(m.cpu.core.state.gpr[RSP], 8, 1)[0];
    m.state().seg = kernel;
    m.cpu.core.refresh();
    if vector == 14 { error } else { 0 }
}

const READ: Build = |a| a.mov(rax, qword_ptr(KEYED));
const STORE_TO: Build = |a| a.mov(qword_ptr(KEYED), rax);

/// PKRU changes as WRPKRU changes it.
fn set_keys(m: &mut Machine, pkru: u32) {
    m.state().gpr[RBX] = pkru.into();
    assert_eq!(
        fault(m, 0, |a| {
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.mov(eax, ebx)?;
            a.wrpkru()
        }),
        0
    );
    assert_eq!(m.state().pkru, pkru);
}

#[test]
fn keys_bar_accesses_and_writes() {
    let mut m = long();
    for level in [0, 3] {
        let user = if level == 3 { USER } else { 0 };
        for _ in 0..2 {
            set_keys(&mut m, 0);
            assert_eq!(fault(&mut m, level, READ), 0);
            assert_eq!(fault(&mut m, level, STORE_TO), 0);
            set_keys(&mut m, WRITE);
            assert_eq!(fault(&mut m, level, READ), 0);
            assert_eq!(
                fault(&mut m, level, STORE_TO),
                PRESENT | BY_KEY | STORE | user,
                "level {level}"
            );
            set_keys(&mut m, ACCESS);
            assert_eq!(fault(&mut m, level, READ), PRESENT | BY_KEY | user);
            assert_eq!(fault(&mut m, level, STORE_TO), PRESENT | BY_KEY | STORE | user);
            // Other keys do not matter.
            set_keys(&mut m, !(ACCESS | WRITE | 3));
            assert_eq!(fault(&mut m, level, STORE_TO), 0);
        }
    }
}

#[test]
fn pages_without_a_key_have_key_zero() {
    let mut m = long();
    let read: Build = |a| a.mov(rax, qword_ptr(PLAIN));
    assert_eq!(fault(&mut m, 0, read), 0);
    // What the processor itself needs is the supervisor's.
    for page in 0..16 {
        m.world.poke64(TABLE + 8 * page, page << 12 | 3);
    }
    m.cpu.core.flush_tlb();
    set_keys(&mut m, 1);
    assert_eq!(fault(&mut m, 0, read), PRESENT | BY_KEY);
    set_keys(&mut m, 0);
    assert_eq!(fault(&mut m, 0, read), 0);
}

#[test]
fn only_user_pages_and_data_are_checked() {
    let mut m = long();
    set_keys(&mut m, ACCESS | WRITE);
    assert_eq!(fault(&mut m, 0, |a| a.mov(qword_ptr(KERNEL), rax)), 0);
    m.bytes(KEYED, &[0xc3]);
    assert_eq!(
        fault(&mut m, 0, |a| {
            a.mov(rax, KEYED)?;
            a.call(rax)
        }),
        0,
        "instructions are fetched"
    );
    m.state().cr4 &= !CR4_PKE;
    m.cpu.core.flush_tlb();
    assert_eq!(fault(&mut m, 0, STORE_TO), 0, "without CR4.PKE");
}

#[test]
fn supervisors_write_where_write_protection_is_off() {
    let mut m = long();
    m.state().cr0 &= !CR0_WP;
    m.cpu.core.flush_tlb();
    set_keys(&mut m, WRITE);
    assert_eq!(fault(&mut m, 0, STORE_TO), 0);
    assert_eq!(fault(&mut m, 3, STORE_TO), PRESENT | BY_KEY | STORE | USER);
    set_keys(&mut m, ACCESS);
    assert_eq!(fault(&mut m, 0, READ), PRESENT | BY_KEY);
}

#[test]
fn a_translation_does_not_outlive_its_key() {
    let mut m = long();
    // The page is accessed, barred, and accessed again, without anything else in between.
    let both: Build = |a| {
        a.xor(ecx, ecx)?;
        a.xor(edx, edx)?;
        a.xor(eax, eax)?;
        a.wrpkru()?;
        a.mov(rbx, qword_ptr(KEYED))?;
        a.mov(eax, ACCESS)?;
        a.wrpkru()?;
        a.mov(rbx, qword_ptr(KEYED))
    };
    for level in [0, 3] {
        let user = if level == 3 { USER } else { 0 };
        assert_eq!(fault(&mut m, level, both), PRESENT | BY_KEY | user);
    }
    // The same by XRSTOR, of an area that has PKRU, and of one that has it in its initial state.
    let area = 0x6000;
    m.world.poke64(area + 2688, ACCESS.into());
    m.world.poke64(area + 512, 1 << 9);
    set_keys(&mut m, 0);
    assert_eq!(fault(&mut m, 0, READ), 0);
    let restored: Build = |a| {
        a.mov(eax, 1 << 9)?;
        a.xor(edx, edx)?;
        a.xrstor(ptr(0x6000))?;
        a.mov(rbx, qword_ptr(KEYED))
    };
    assert_eq!(fault(&mut m, 0, restored), PRESENT | BY_KEY);
    m.world.poke64(area + 512, 0);
    assert_eq!(fault(&mut m, 0, restored), 0);
    assert_eq!(m.state().pkru, 0);
}

#[test]
fn the_register_is_saved_and_read() {
    let mut m = long();
    set_keys(&mut m, 0x1234_5678);
    let save: Build = |a| {
        a.xor(ecx, ecx)?;
        a.rdpkru()?;
        a.mov(rbx, rax)?;
        a.mov(eax, 1 << 9)?;
        a.xor(edx, edx)?;
        a.xsave(ptr(0x6000))
    };
    assert_eq!(fault(&mut m, 0, save), 0);
    assert_eq!(m.state().gpr[RBX], 0x1234_5678);
    assert_eq!(m.words(0x6000 + 512, 8, 1), [1 << 9]);
    assert_eq!(m.words(0x6000 + 2688, 8, 1), [0x1234_5678]);
}

/// The vector that code at level 0 ends with.
fn vector(m: &mut Machine, build: Build) -> u64 {
    fault(m, 0, build);
    m.state().rip.checked_sub(HANDLER).map_or(0, |at| at / 16)
}

#[test]
fn reading_and_writing_the_register_has_conditions() {
    let mut m = long();
    let rows: [(Build, u64); 4] = [
        (|a| a.rdpkru(), 13),
        (|a| a.wrpkru(), 13),
        (
            |a| {
                a.xor(ecx, ecx)?;
                a.mov(edx, 1)?;
                a.wrpkru()
            },
            13,
        ),
        (
            |a| {
                a.xor(ecx, ecx)?;
                a.mov(edx, 1)?;
                a.rdpkru()
            },
            0,
        ),
    ];
    for (build, expected) in rows {
        m.state().gpr[RCX] = 1;
        assert_eq!(vector(&mut m, build), expected);
    }
    m.state().cr4 &= !CR4_PKE;
    m.cpu.core.flush_tlb();
    m.state().gpr[RCX] = 0;
    assert_eq!(vector(&mut m, |a| a.rdpkru()), 6);
    assert_eq!(vector(&mut m, |a| a.wrpkru()), 6);
}
