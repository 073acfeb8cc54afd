//! Page tables: rights, reserved bits, error codes, address spaces.

mod machine;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::state::*;

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;

/// A directory for the linear addresses from 4 MiB on, and a table for its first 2 MiB.
const TABLE: u64 = 0x10_3000;
/// Where the page under test is mapped, and its entry.
const PAGE: u64 = 0x40_0000;

/// 64-bit mode; the page at [`PAGE`] is mapped to 0x6000 by `entry`.
fn long(entry: u64) -> Machine {
    let mut m = Machine::long();
    m.world.poke64(0x10_2000 + 8 * 2, TABLE | 7);
    m.world.poke64(TABLE, 0x6000 | entry);
    m.vector64(14, 0x5000, 0x8e, 0);
    m.vector64(13, 0x5010, 0x8e, 0);
    m.code(64, 0x5000, |a| a.hlt());
    m.code(64, 0x5010, |a| a.hlt());
    m
}

/// The error code of the #PF that an access to [`PAGE`] ends with, if it ends so.
fn fault(m: &mut Machine, user: bool, access: Build) -> Option<u64> {
    m.code(64, 0x1000, |a| {
        a.mov(rbx, PAGE)?;
        access(a)?;
        a.int3()
    });
    m.vector64(3, 0x5020, 0xee, 0);
    m.code(64, 0x5020, |a| a.hlt());
    if user {
        m.user(0x1000, 0x7000);
    }
    m.halt();
    if m.state().rip == 0x5021 {
        return None;
    }
    assert_eq!(m.state().rip, 0x5001);
    assert_eq!(m.state().cr2, PAGE);
    let top = m.state().gpr[RSP];
    Some(m.words(top, 8, 1)[0])
}

const READ: Build = |a| a.mov(al, byte_ptr(rbx));
const WRITE: Build = |a| a.mov(byte_ptr(rbx), al);
const EXECUTE: Build = |a| {
    // RET, put there by a write through the other mapping.
    a.mov(byte_ptr(0x6000u64), 0xc3)?;
    a.call(rbx)
};

#[test]
fn rights_and_error_codes() {
    // Entry, CR0.WP, CR4.SMEP and SMAP, at level 3, access, error code.
    let rows: [(u64, bool, u64, bool, Build, Option<u64>); 18] = [
        (0, true, 0, false, READ, Some(0)),
        (0, true, 0, true, READ, Some(4)),
        (0, true, 0, true, WRITE, Some(6)),
        (0, true, 0, false, EXECUTE, Some(0x10)),
        (P | U, true, 0, false, WRITE, Some(3)),
        (P | U, false, 0, false, WRITE, None),
        (P | U, false, 0, true, WRITE, Some(7)),
        (P | W, true, 0, true, READ, Some(5)),
        (P | W, true, 0, true, EXECUTE, Some(0x15)),
        (P | W | U | NX, true, 0, true, EXECUTE, Some(0x15)),
        (P | W | NX, true, 0, false, EXECUTE, Some(0x11)),
        (P | W | NX, true, 0, false, WRITE, None),
        (P | W | U, true, 0, false, EXECUTE, None),
        (P | W | U, true, CR4_SMEP, false, EXECUTE, Some(0x11)),
        (P | W | U, true, CR4_SMAP, false, READ, Some(1)),
        (P | W | U, true, CR4_SMAP, false, WRITE, Some(3)),
        (P | W | 1 << 51, true, 0, false, READ, Some(9)),
        (P | W | U | 1 << 51, true, 0, true, WRITE, Some(0xf)),
    ];
    for (n, (entry, wp, features, user, access, expected)) in rows.into_iter().enumerate() {
        let mut m = long(entry);
        if features != 0 {
            // Level 0 lives in pages of its own then.
            m.world.poke64(0x10_2000, PS | P | W);
        }
        if !wp {
            m.state().cr0 &= !CR0_WP;
        }
        m.state().cr4 |= features;
        m.cpu.core.refresh();
        assert_eq!(fault(&mut m, user, access), expected, "row {n}");
    }
}

#[test]
fn smap_lets_in_with_ac_only() {
    for (open, expected) in [(true, None), (false, Some(1))] {
        let mut m = long(P | W | U);
        m.world.poke64(0x10_2000, PS | P | W);
        m.state().cr4 |= CR4_SMAP;
        m.cpu.core.refresh();
        let access: Build = if open {
            |a| {
                a.stac()?;
                a.mov(al, byte_ptr(rbx))?;
                a.clac()
            }
        } else {
            |a| {
                a.stac()?;
                a.mov(al, byte_ptr(rbx))?;
                a.clac()?;
                a.mov(al, byte_ptr(rbx))
            }
        };
        assert_eq!(fault(&mut m, false, access), expected);
    }
}

#[test]
fn accessed_and_dirty_bits_follow_the_access() {
    let mut m = long(P | W);
    assert_eq!(fault(&mut m, false, READ), None);
    assert_eq!(m.words(TABLE, 8, 1), [0x6000 | P | W | A]);
    let mut m = long(P | W);
    assert_eq!(fault(&mut m, false, WRITE), None);
    assert_eq!(m.words(TABLE, 8, 1), [0x6000 | P | W | A | D]);
    assert_eq!(m.words(0x10_2010, 8, 1), [TABLE | 7 | A]);
    // A write that is refused leaves no mark of its own.
    let mut m = long(P | U);
    assert_eq!(fault(&mut m, true, WRITE), Some(7));
    assert_eq!(m.words(TABLE, 8, 1)[0] & D, 0);
}

#[test]
fn nx_is_a_reserved_bit_until_it_is_enabled() {
    let mut m = long(P | W | NX);
    m.state().efer &= !EFER_NXE;
    m.cpu.core.refresh();
    assert_eq!(fault(&mut m, false, READ), Some(9));
}

#[test]
fn a_page_stays_mapped_until_it_is_invalidated() {
    let mut m = long(P | W);
    m.world.poke64(0x6000, 0x66);
    m.world.poke64(0x7000, 0x77);
    assert_eq!(
        fault(&mut m, false, |a| {
            a.mov(cl, byte_ptr(rbx))?;
            a.mov(rax, 0x7003u64)?;
            a.mov(qword_ptr(TABLE), rax)?;
            a.invlpg(ptr(rbx))?;
            a.mov(dl, byte_ptr(rbx))
        }),
        None
    );
    assert_eq!((m.state().gpr[RCX], m.state().gpr[RDX] & 0xff), (0x66, 0x77));
}

/// Two address spaces that map [`PAGE`] differently, and the PCIDs 1 and 2 for them.
fn two_spaces() -> Machine {
    let mut m = long(P | W);
    m.world.poke64(0x6000, 0x66);
    m.world.poke64(0x7000, 0x77);
    m.world.poke64(0x10_4000, 0x10_5007);
    m.world.poke64(0x10_5000, 0x10_6007);
    m.world.poke64(0x10_6000, 0x87);
    m.world.poke64(0x10_6000 + 16, 0x10_7007);
    m.world.poke64(0x10_7000, 0x7003);
    m.world.cpuid.insert(0, [7, 0, 0, 0]);
    m.world.cpuid.insert(1, [0, 0, 1 << 17, 0]);
    m.state().cr4 |= CR4_PCIDE;
    m
}

#[test]
fn pcids_keep_address_spaces_apart() {
    let mut m = two_spaces();
    assert_eq!(
        fault(&mut m, false, |a| {
            a.mov(rsi, 0x10_0001u64)?;
            a.mov(rdi, 0x10_4002u64)?;
            a.mov(cr3, rsi)?;
            a.mov(al, byte_ptr(rbx))?;
            a.mov(cr3, rdi)?;
            a.mov(ah, byte_ptr(rbx))?;
            // Back without a flush, and the entry changed meanwhile: what was cached may still serve, and must not
            // be the other space's.
            a.bts(rsi, 63)?;
            a.mov(cr3, rsi)?;
            a.mov(cl, byte_ptr(rbx))?;
            a.mov(rdx, cr3)
        }),
        None
    );
    let gpr = m.state().gpr;
    assert_eq!((gpr[RAX] & 0xffff, gpr[RCX] & 0xff), (0x7766, 0x66));
    assert_eq!(gpr[RDX], 0x10_0001, "bit 63 does not stay");
}

#[test]
fn a_change_of_cr3_without_bit_63_flushes_its_pcid() {
    let mut m = two_spaces();
    assert_eq!(
        fault(&mut m, false, |a| {
            a.mov(rsi, 0x10_0001u64)?;
            a.mov(cr3, rsi)?;
            a.mov(cl, byte_ptr(rbx))?;
            a.mov(rax, 0x7003u64)?;
            a.mov(qword_ptr(TABLE), rax)?;
            a.mov(cr3, rsi)?;
            a.mov(dl, byte_ptr(rbx))
        }),
        None
    );
    assert_eq!((m.state().gpr[RCX], m.state().gpr[RDX] & 0xff), (0x66, 0x77));
}

#[test]
fn invpcid_of_each_type_reaches_what_it_names() {
    for kind in 0..4u64 {
        let mut m = two_spaces();
        m.world.poke64(0x8000 - 0x100, 1);
        m.world.poke64(0x8000 - 0xf8, PAGE);
        m.state().gpr[R8] = kind;
        assert_eq!(
            fault(&mut m, false, |a| {
                a.mov(rsi, 0x10_0001u64)?;
                a.mov(cr3, rsi)?;
                a.mov(cl, byte_ptr(rbx))?;
                a.mov(rax, 0x7003u64)?;
                a.mov(qword_ptr(TABLE), rax)?;
                a.invpcid(r8, xmmword_ptr(0x7f00u64))?;
                a.mov(dl, byte_ptr(rbx))
            }),
            None
        );
        assert_eq!(m.state().gpr[RDX] & 0xff, 0x77, "type {kind}");
    }
}

const R8: usize = 8;

#[test]
fn invpcid_rejects_what_is_reserved() {
    // Type, descriptor, CR4.PCIDE.
    for (kind, low, address, pcide) in [
        (4, 0, 0, true),
        (0, 1 << 12, PAGE, true),
        (0, 1, 1 << 63, true),
        (0, 1, PAGE, false),
        (1, 1, 0, false),
    ] {
        let mut m = two_spaces();
        if !pcide {
            m.state().cr4 &= !CR4_PCIDE;
        }
        m.world.poke64(0x7f00, low);
        m.world.poke64(0x7f08, address);
        m.state().gpr[R8] = kind;
        m.code(64, 0x1000, |a| a.invpcid(r8, xmmword_ptr(0x7f00u64)));
        m.halt();
        assert_eq!(m.state().rip, 0x5011, "type {kind}, {low:#x}, {address:#x}");
    }
}

#[test]
fn pcide_has_conditions() {
    // CR3's low bits must be clear to switch PCIDs on, and paging must stay on while they are.
    let tries: [(&str, u64, Build); 2] = [
        ("PCIDE with a PCID in CR3", 0x10_0008, |a| {
            a.mov(rax, cr4)?;
            a.bts(rax, 17)?;
            a.mov(cr4, rax)
        }),
        ("PG off with PCIDE", 0x10_0000, |a| {
            a.mov(rax, cr4)?;
            a.bts(rax, 17)?;
            a.mov(cr4, rax)?;
            a.mov(rax, cr0)?;
            a.btr(rax, 31)?;
            a.mov(cr0, rax)
        }),
    ];
    for (name, root, build) in tries {
        let mut m = two_spaces();
        m.state().cr4 &= !CR4_PCIDE;
        m.state().cr3 = root;
        m.code(64, 0x1000, build);
        m.halt();
        assert_eq!(m.state().rip, 0x5011, "{name}");
    }
}

#[test]
fn there_is_no_fifth_level() {
    let mut m = long(P);
    m.world.cpuid.insert(0, [7, 0, 0, 0]);
    m.code(64, 0x1000, |a| {
        a.mov(rax, cr4)?;
        a.bts(rax, 12)?;
        a.mov(cr4, rax)
    });
    m.halt();
    assert_eq!(m.state().rip, 0x5011);
}

#[test]
fn non_canonical_addresses_fault_by_segment() {
    let rows: [(&str, u64, Build); 4] = [
        ("data", 13, |a| a.mov(al, byte_ptr(rdx))),
        ("stack", 12, |a| {
            a.mov(rbp, rdx)?;
            a.mov(al, byte_ptr(rbp))
        }),
        ("push", 12, |a| {
            a.mov(rsp, rdx)?;
            a.push(rax)
        }),
        ("jump", 13, |a| a.jmp(rdx)),
    ];
    for (name, vector, build) in rows {
        let mut m = long(P);
        m.world.poke64(TSS + 0x24, 0x9000);
        for v in [12, 13] {
            m.vector64(v, 0x5100 + 16 * v, 0x8e, 1);
            m.code(64, 0x5100 + 16 * v, |a| a.hlt());
        }
        m.code(64, 0x1000, |a| {
            a.mov(rdx, 0x0000_8000_0000_1000u64)?;
            build(a)
        });
        m.halt();
        assert_eq!(m.state().rip, 0x5101 + 16 * vector, "{name}");
        assert_eq!(m.words(0x9000 - 48, 8, 1), [0], "{name}");
    }
}

/// 32-bit protected mode; page tables for PAE: PDPTRs at 0x10_0000, one directory that maps the first 4 MiB.
fn pae() -> Machine {
    let mut m = Machine::protected();
    m.world.poke64(0x10_0000, 0x10_1001);
    m.world.poke64(0x10_1000, 0x83);
    m.world.poke64(0x10_1008, 0x20_0083);
    m.vector(13, gate(CODE0, 0x5000, 0x8e, 0));
    m.vector(14, gate(CODE0, 0x5010, 0x8e, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x5010, |a| a.hlt());
    m.state().cr4 |= CR4_PAE;
    m.state().cr3 = 0x10_0000;
    m
}

#[test]
fn pdptrs_are_loaded_with_cr3_and_not_looked_at_again() {
    let mut m = pae();
    m.code(32, 0x1000, |a| {
        a.mov(eax, cr0)?;
        a.bts(eax, 31)?;
        a.mov(cr0, eax)?;
        // The pointer in memory is gone, the one in the processor is not.
        a.mov(dword_ptr(0x10_0000), 0)?;
        a.mov(ecx, dword_ptr(0x1f_0000))?;
        a.inc(ebx)?;
        a.mov(eax, cr3)?;
        a.mov(cr3, eax)
    });
    assert_eq!(m.run(), Leave::TripleFault, "nothing is mapped any more");
    assert_eq!(m.state().gpr[RBX], 1);
}

#[test]
fn reserved_bits_in_a_pdptr_are_gp() {
    for bit in [1, 2, 5, 63] {
        let mut m = pae();
        m.world.poke64(0x10_0008, 0x10_1001 | 1 << bit);
        m.code(32, 0x1000, |a| {
            a.mov(eax, cr0)?;
            a.bts(eax, 31)?;
            a.mov(cr0, eax)
        });
        m.halt();
        assert_eq!(m.state().rip, 0x5001, "bit {bit}");
        assert_eq!(m.state().cr0 & CR0_PG, 0);
    }
}

#[test]
fn an_absent_pdptr_is_a_fault_of_a_page_that_is_not_present() {
    let mut m = pae();
    m.code(32, 0x1000, |a| {
        a.mov(eax, cr0)?;
        a.bts(eax, 31)?;
        a.mov(cr0, eax)?;
        a.mov(dword_ptr(0x4000_0000), 1)
    });
    m.halt();
    assert_eq!((m.state().rip, m.state().cr2), (0x5011, 0x4000_0000));
    assert_eq!(m.words(0x8000 - 16, 4, 1), [2]);
}

#[test]
fn bit_21_of_a_4_mebibyte_entry_is_reserved() {
    let mut m = Machine::protected();
    m.vector(14, gate(CODE0, 0x5010, 0x8e, 0));
    m.code(32, 0x5010, |a| a.hlt());
    m.world.poke64(0x10_0000, 0x83);
    m.world.poke64(0x10_0004, 0x20_0083);
    m.state().cr3 = 0x10_0000;
    m.state().cr4 |= CR4_PSE;
    m.code(32, 0x1000, |a| {
        a.mov(eax, cr0)?;
        a.bts(eax, 31)?;
        a.mov(cr0, eax)?;
        a.mov(dword_ptr(0x40_0000), eax)
    });
    m.halt();
    assert_eq!(m.state().rip, 0x5011);
    assert_eq!(m.words(0x8000 - 16, 4, 1), [0xb]);
}

#[test]
fn alignment_is_checked_for_users_with_am_and_ac() {
    let run = |am: bool, ac: bool, user: bool| {
        let mut m = long(P);
        m.vector64(17, 0x5200, 0x8e, 0);
        m.vector64(3, 0x5210, 0xee, 0);
        m.code(64, 0x5200, |a| a.hlt());
        m.code(64, 0x5210, |a| a.hlt());
        m.code(64, 0x1000, |a| {
            a.mov(eax, dword_ptr(0x6001u64))?;
            a.int3()
        });
        if user {
            m.user(0x1000, 0x7000);
        }
        if am {
            m.state().cr0 |= CR0_AM;
        }
        if ac {
            m.state().flags.system |= flags::AC;
        }
        m.cpu.core.refresh();
        m.halt();
        m.state().rip == 0x5201
    };
    assert!(run(true, true, true));
    assert!(!run(false, true, true));
    assert!(!run(true, false, true));
    assert!(!run(true, true, false));
}
