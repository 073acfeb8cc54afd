//! Address spaces: the same linear address is other data and other code in each, with and without PCIDs, and whatever is
//! kept over a change of space.

use crate::page_edits::WINDOW;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, on_every_tier, repeat};
use ring3_x86_cpu::state::*;

const ROUNDS: u32 = 40;
const DESCRIPTOR: u64 = 0x9000;
/// Bit 63 of a value for CR3: keep the translations of the PCID.
const KEEP: u64 = 1 << 63;
/// Pages by space: data, and code that tells the number of its space.
const DATA: u64 = 0x20_0000;
const CODE: u64 = 0x21_0000;
/// Where each space has its code.
const FUNCTION: u64 = WINDOW + 0x5000;
/// More than a processor keeps.
const MANY: u64 = 13;

/// Makes `count` spaces and leaves the values for CR3 in a table at [`ROOTS`].
fn spaces(m: &mut Machine, count: u64, pcids: bool) -> Vec<u64> {
    let mut entries = Vec::new();
    for n in 0..count {
        let root = if n == 0 { TABLES } else { m.another_space() };
        let (data, code) = (DATA + n * PAGE, CODE + n * PAGE);
        entries.push(m.map_in(root, WINDOW, data, P | W, Size::Small));
        m.map_in(root, FUNCTION, code, P | W, Size::Small);
        m.world.put(data, n + 1);
        // MOV EAX, imm32; RET
        m.world.poke(code, &[0xb8, n as u8 + 1, 0, 0, 0, 0xc3]);
        let pcid = if pcids { n } else { 0 };
        m.world.put(ROOTS + 8 * n, root | pcid);
    }
    if pcids {
        m.state().cr4 |= CR4_PCIDE;
        m.cpu.core.refresh();
    }
    entries
}

const ROOTS: u64 = 0xa000;

/// Goes round all spaces and looks at data and code in each; R10 counts what is another space's.
fn go_round(m: &mut Machine, count: u64, keep: u64) {
    m.state().gpr[R9] = keep;
    m.code(START, |a| {
        let (mut top, mut space) = (a.create_label(), a.create_label());
        a.mov(ebx, ROUNDS)?;
        a.mov(r12, WINDOW)?;
        a.mov(r13, FUNCTION)?;
        a.set_label(&mut top)?;
        a.xor(ebp, ebp)?;
        a.set_label(&mut space)?;
        a.mov(rax, qword_ptr(rbp * 8 + ROOTS))?;
        a.or(rax, r9)?;
        a.mov(cr3, rax)?;
        a.inc(ebp)?;
        a.mov(eax, dword_ptr(r12))?;
        a.xor(eax, ebp)?;
        a.add(r10, rax)?;
        a.call(r13)?;
        a.xor(eax, ebp)?;
        a.add(r10, rax)?;
        a.cmp(ebp, count as i32)?;
        a.jne(space)?;
        a.dec(ebx)?;
        a.jne(top)?;
        a.hlt()
    });
    m.halt();
    assert_eq!(m.gpr(10), 0);
}

const R9: usize = 9;

#[test]
fn are_told_apart_without_pcids() {
    for count in [2, MANY] {
        on_every_tier(|m| {
            spaces(m, count, false);
            go_round(m, count, 0);
        });
    }
}

#[test]
fn are_told_apart_by_their_pcids() {
    for count in [2, MANY] {
        for keep in [0, KEEP] {
            on_every_tier(|m| {
                spaces(m, count, true);
                go_round(m, count, keep);
            });
        }
    }
}

#[test]
fn pages_that_both_have_stay_one_page() {
    on_every_tier(|m| {
        let entries = spaces(m, 2, true);
        m.world.put(entries[1], DATA | P | W);
        m.code(START, |a| {
            a.mov(r12, WINDOW)?;
            a.mov(r9, KEEP)?;
            repeat(a, ROUNDS, |a| {
                for n in 0..2 {
                    a.mov(rax, qword_ptr(ROOTS + 8 * n))?;
                    a.or(rax, r9)?;
                    a.mov(cr3, rax)?;
                    a.add(qword_ptr(r12), n as i32 + 1)?;
                }
                Ok(())
            })
        });
        m.halt();
        assert_eq!(m.word(DATA), 1 + 3 * ROUNDS as u64);
    });
}

/// Ways to make the entry of space 1 known that was changed from space 0; each ends in space 1.
const FLUSHES: [(&str, Build); 6] = [
    ("by the change of space", |a| enter(a, 1, false)),
    ("by INVLPG there", |a| {
        enter(a, 1, true)?;
        a.invlpg(byte_ptr(r12))
    }),
    ("by INVPCID of the address", |a| {
        invpcid(a, 0)?;
        enter(a, 1, true)
    }),
    ("by INVPCID of the space", |a| {
        invpcid(a, 1)?;
        enter(a, 1, true)
    }),
    ("by INVPCID of everything", |a| {
        invpcid(a, 2)?;
        enter(a, 1, true)
    }),
    ("by INVPCID of all but global pages", |a| {
        invpcid(a, 3)?;
        enter(a, 1, true)
    }),
];

fn enter(a: &mut CodeAssembler, space: u64, keep: bool) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(ROOTS + 8 * space))?;
    if keep {
        a.bts(rax, 63)?;
    }
    a.mov(cr3, rax)
}

/// INVPCID for space 1 and the address in R12.
fn invpcid(a: &mut CodeAssembler, kind: u64) -> Result<(), IcedError> {
    a.mov(qword_ptr(DESCRIPTOR), 1)?;
    a.mov(qword_ptr(DESCRIPTOR + 8), r12)?;
    a.mov(rax, kind)?;
    a.invpcid(rax, xmmword_ptr(DESCRIPTOR))
}

#[test]
fn an_entry_changed_from_another_space() {
    for (name, flush) in FLUSHES {
        for global in [0, G] {
            let spares_global = ["change", "but", "the space", "INVPCID of the address"];
            if global == G && spares_global.iter().any(|part| name.contains(part)) {
                continue;
            }
            println!("{name}, {global:#x}");
            on_every_tier(|m| {
                let entries = spaces(m, 2, true);
                if global == G {
                    m.state().cr4 |= CR4_PGE;
                    m.cpu.core.refresh();
                    m.world.put(entries[1], (DATA + PAGE) | P | W | G);
                }
                m.world.put(DATA + 9 * PAGE, 2 ^ 7);
                m.world.put(DATA + PAGE, 2);
                let gpr = &mut m.state().gpr;
                (gpr[RSI], gpr[8]) = (entries[1], PAGE ^ (9 * PAGE));
                m.code(START, |a| edit_from_afar(a, flush));
                m.halt();
                assert_eq!(m.gpr(10), 0);
            });
        }
    }
}

fn edit_from_afar(a: &mut CodeAssembler, flush: Build) -> Result<(), IcedError> {
    a.mov(r12, WINDOW)?;
    a.mov(ebp, 2)?;
    repeat(a, ROUNDS, |a| {
        // Space 1 knows the page.
        enter(a, 1, true)?;
        a.mov(eax, dword_ptr(r12))?;
        enter(a, 0, true)?;
        a.xor(qword_ptr(rsi), r8)?;
        a.xor(ebp, 7)?;
        flush(a)?;
        a.mov(eax, dword_ptr(r12))?;
        a.xor(eax, ebp)?;
        a.add(r10, rax)?;
        Ok(())
    })
}

#[test]
fn code_that_two_spaces_map_and_one_remaps() {
    on_every_tier(|m| {
        // Both have the same page of code at first; then space 1 gets its own.
        spaces(m, 2, true);
        let mut next = m.another_space() + 2 * PAGE;
        let root = m.word(ROOTS + 8) & !0xfff;
        let at = entry(&mut m.world, root, &mut next, FUNCTION, Size::Small);
        m.world.put(at, CODE | P | W);
        m.state().gpr[RSI] = at;
        m.code(START, |a| {
            let (mut top, mut same) = (a.create_label(), a.create_label());
            a.mov(ebx, ROUNDS)?;
            a.mov(r12, WINDOW)?;
            a.mov(r13, FUNCTION)?;
            a.set_label(&mut top)?;
            for space in 0..2 {
                enter(a, space, true)?;
                a.call(r13)?;
                // Sums for each space.
                a.add(qword_ptr(0xb000 + 8 * space), rax)?;
            }
            a.cmp(ebx, ROUNDS / 2)?;
            a.jne(same)?;
            a.xor(qword_ptr(rsi), PAGE as i32)?;
            a.invlpg(byte_ptr(r13))?;
            a.set_label(&mut same)?;
            a.dec(ebx)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        let rounds = ROUNDS as u64;
        assert_eq!(m.word(0xb000), rounds);
        // The change comes after the round that has the number ROUNDS / 2.
        assert_eq!(m.word(0xb008), rounds + rounds / 2 - 1);
    });
}
