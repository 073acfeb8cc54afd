//! Page tables that change while what they map is in use, as data and as code, in pages of each size.
//!
//! Until the translation is invalidated either the old page or the new one may be found; from then on only the new one.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, on_every_tier, repeat};
use ring3_x86_cpu::state::*;

/// A large linear page in a table of its own.
pub const WINDOW: u64 = 0x80_0000_0000;
/// What INVPCID is told.
const DESCRIPTOR: u64 = 0x9000;
const ROUNDS: u32 = 30;

/// Ways to invalidate the translation of the address in RDI. All may change RAX.
pub const FLUSHES: [(&str, Build); 8] = [
    ("INVLPG", |a| a.invlpg(byte_ptr(rdi))),
    ("INVLPG of another byte of the page", |a| {
        a.mov(rax, rdi)?;
        a.and(rax, !0xfff)?;
        a.invlpg(byte_ptr(rax + 0xfff))
    }),
    ("a write to CR3", |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    }),
    ("a change of CR4.PGE", |a| {
        a.mov(rax, cr4)?;
        a.xor(rax, CR4_PGE as i32)?;
        a.mov(cr4, rax)
    }),
    ("INVPCID of an address", |a| invpcid(a, 0)),
    ("INVPCID of a space", |a| invpcid(a, 1)),
    ("INVPCID of everything", |a| invpcid(a, 2)),
    ("INVPCID of all but global pages", |a| invpcid(a, 3)),
];

fn invpcid(a: &mut CodeAssembler, kind: u64) -> Result<(), IcedError> {
    a.mov(qword_ptr(DESCRIPTOR), 0)?;
    a.mov(qword_ptr(DESCRIPTOR + 8), rdi)?;
    a.mov(rax, kind)?;
    a.invpcid(rax, xmmword_ptr(DESCRIPTOR))
}

/// Two pages of a size, and places in them that are used.
struct Pages {
    size: Size,
    gpas: [u64; 2],
    offsets: [u64; 2],
}

const PAGES: [Pages; 3] = [
    Pages {
        size: Size::Small,
        gpas: [0x20_0000, 0x40_1000],
        offsets: [0, 0xf00],
    },
    Pages {
        size: Size::Large,
        gpas: [0x20_0000, 0x40_0000],
        offsets: [0x3000, 0x5_0000],
    },
    Pages {
        size: Size::Huge,
        gpas: [0, HIGH],
        offsets: [0x8_0000, 0x9_3000],
    },
];

/// Maps the first page, and leaves entries for both in R8 and R9, where the entry lies in RSI, and the first place in RDI.
fn prepare(m: &mut Machine, pages: &Pages, bits: u64) {
    let at = m.map(WINDOW, pages.gpas[0], bits, pages.size);
    let large = if pages.size == Size::Small { 0 } else { PS };
    let gpr = &mut m.state().gpr;
    gpr[8] = pages.gpas[0] | bits | large | A | D;
    gpr[9] = pages.gpas[1] | bits | large | A | D;
    gpr[RSI] = at;
    gpr[RDI] = WINDOW + pages.offsets[0];
    gpr[RBP] = pages.offsets[1] - pages.offsets[0];
}

/// A loop that maps the other page, looks at both places, invalidates, and looks again. `look` leaves in EAX what is at
/// RDX: 1 in the first page, 2 in the second. R10 counts what must not be.
fn alternate(m: &mut Machine, look: Build, flush: Build) {
    m.code(START, |a| {
        let mut top = a.create_label();
        a.xor(r10, r10)?;
        a.mov(ebx, ROUNDS)?;
        a.mov(r11d, 1)?;
        a.set_label(&mut top)?;
        a.xchg(r8, r9)?;
        a.mov(qword_ptr(rsi), r8)?;
        // 1 becomes 2 and 2 becomes 1.
        a.xor(r11d, 3)?;
        for place in 0..2 {
            place_in_rdx(a, place)?;
            look(a)?;
            // Either: 1 or 2.
            a.dec(eax)?;
            a.shr(eax, 1)?;
            a.add(r10, rax)?;
        }
        flush(a)?;
        for place in 0..2 {
            place_in_rdx(a, place)?;
            look(a)?;
            a.xor(eax, r11d)?;
            a.add(r10, rax)?;
        }
        a.dec(ebx)?;
        a.jne(top)?;
        a.hlt()
    });
    m.halt();
    assert_eq!(m.gpr(10), 0);
}

fn place_in_rdx(a: &mut CodeAssembler, place: usize) -> Result<(), IcedError> {
    if place == 0 {
        a.mov(rdx, rdi)
    } else {
        a.lea(rdx, ptr(rdi + rbp))
    }
}

fn each(bits: u64, fill: fn(&mut Machine, u64, u8), look: Build) {
    for pages in &PAGES {
        for (name, flush) in FLUSHES {
            println!("{:?} pages, {name}", pages.size);
            on_every_tier(|m| {
                for (n, gpa) in pages.gpas.into_iter().enumerate() {
                    for offset in pages.offsets {
                        fill(m, gpa + offset, n as u8 + 1);
                    }
                }
                prepare(m, pages, bits);
                alternate(m, look, flush);
            });
        }
    }
}

#[test]
fn of_data_that_is_read() {
    each(
        P | W,
        |m, gpa, value| m.world.put(gpa, value.into()),
        |a| a.mov(eax, dword_ptr(rdx)),
    );
}

#[test]
fn of_data_that_is_changed() {
    each(
        P | W,
        |m, gpa, value| m.world.put(gpa, value.into()),
        |a| {
            a.add(dword_ptr(rdx), 1)?;
            a.mov(eax, dword_ptr(rdx))?;
            a.sub(dword_ptr(rdx), 1)?;
            a.dec(eax)
        },
    );
}

#[test]
fn of_code() {
    // MOV EAX, imm32; RET
    each(
        P | W,
        |m, gpa, value| m.world.poke(gpa, &[0xb8, value, 0, 0, 0, 0xc3]),
        |a| a.call(rdx),
    );
}

#[test]
fn of_code_that_an_instruction_runs_into() {
    const BEFORE: u64 = 0x60_0000;
    for (name, flush) in FLUSHES {
        println!("{name}");
        on_every_tier(|m| {
            // MOV EAX, imm32, whose immediate is in the page that is edited; RET
            m.map(WINDOW - PAGE, BEFORE, P | W, Size::Small);
            m.world.poke(BEFORE + PAGE - 1, &[0xb8]);
            for (gpa, value) in PAGES[0].gpas.into_iter().zip(1..) {
                m.world.poke(gpa, &[value, 0, 0, 0, 0xc3]);
            }
            prepare(m, &PAGES[0], P | W);
            alternate(
                m,
                |a| {
                    a.mov(rdx, WINDOW - 1)?;
                    a.call(rdx)
                },
                flush,
            );
        });
    }
}

#[test]
fn of_code_that_is_jumped_to() {
    // MOV EAX, imm32; JMP RCX
    each(
        P | W,
        |m, gpa, value| m.world.poke(gpa, &[0xb8, value, 0, 0, 0, 0xff, 0xe1]),
        |a| {
            let mut back = a.create_label();
            a.lea(rcx, ptr(back))?;
            a.jmp(rdx)?;
            a.set_label(&mut back)?;
            a.nop()
        },
    );
}

#[test]
fn of_global_pages() {
    // Neither a write to CR3 nor INVPCID of less than everything touches them.
    let suffices = |name: &str| {
        !["CR3", "space", "but", "INVPCID of an address"]
            .iter()
            .any(|part| name.contains(part))
    };
    for pages in &PAGES {
        for (name, flush) in FLUSHES.into_iter().filter(|(name, _)| suffices(name)) {
            println!("{:?} pages, {name}", pages.size);
            on_every_tier(|m| {
                for (n, gpa) in pages.gpas.into_iter().enumerate() {
                    for offset in pages.offsets {
                        m.world.put(gpa + offset, n as u64 + 1);
                    }
                }
                m.state().cr4 |= CR4_PGE;
                m.cpu.core.refresh();
                prepare(m, pages, P | W | G);
                alternate(m, |a| a.mov(eax, dword_ptr(rdx)), flush);
            });
        }
    }
}

#[test]
fn a_large_page_is_split_and_joined() {
    const SMALL: u64 = 0x30_0000;
    on_every_tier(|m| {
        // The page table maps each page where the large page does, but for one.
        let directory = m.map(WINDOW, 0x20_0000, P | W, Size::Large);
        let table = 0x60_0000;
        for n in 0..512 {
            m.world.put(table + 8 * n, (0x20_0000 + n * PAGE) | P | W);
        }
        m.world.put(table + 8 * 0x50, SMALL | P | W);
        m.world.put(0x20_0000 + 0x50 * PAGE, 1);
        m.world.put(SMALL, 2);
        let gpr = &mut m.state().gpr;
        (gpr[RSI], gpr[R8], gpr[R9]) = (directory, 0x20_0000 | P | W | PS, table | P | W);
        gpr[RDI] = WINDOW;
        m.code(START, |a| {
            repeat(a, ROUNDS, |a| {
                for (register, expected) in [(r9, 2), (r8, 1)] {
                    a.mov(qword_ptr(rsi), register)?;
                    // Any address in the large page stands for all of it, but a small page only for itself.
                    if expected == 2 {
                        a.invlpg(byte_ptr(rdi))?;
                    } else {
                        a.mov(rax, cr3)?;
                        a.mov(cr3, rax)?;
                    }
                    a.mov(eax, dword_ptr(rdi + 0x50 * PAGE as i32))?;
                    a.xor(eax, expected)?;
                    a.add(r10, rax)?;
                }
                Ok(())
            })
        });
        m.halt();
        assert_eq!(m.gpr(10), 0);
    });
}

const R8: usize = 8;
const R9: usize = 9;

#[test]
fn accessed_and_dirty_bits_come_back() {
    for pages in &PAGES {
        on_every_tier(|m| {
            prepare(m, pages, P | W);
            m.code(START, |a| {
                repeat(a, ROUNDS, |a| {
                    a.and(qword_ptr(rsi), !(A | D) as i32)?;
                    a.invlpg(byte_ptr(rdi))?;
                    a.mov(eax, dword_ptr(rdi))?;
                    a.mov(eax, dword_ptr(rsi))?;
                    a.and(eax, (A | D) as i32)?;
                    a.xor(eax, A as i32)?;
                    a.add(r10, rax)?;
                    a.mov(dword_ptr(rdi), ebx)?;
                    a.mov(eax, dword_ptr(rsi))?;
                    a.and(eax, (A | D) as i32)?;
                    a.xor(eax, (A | D) as i32)?;
                    a.add(r10, rax)?;
                    Ok(())
                })
            });
            m.halt();
            assert_eq!(m.gpr(10), 0);
        });
    }
}

#[test]
fn rights_that_are_taken_away_and_given_back() {
    // The handler gives back what was taken, and counts.
    const HANDLER: u64 = 0x1_8000;
    let rows: [(&str, u64, Build, u64); 3] = [
        ("present", P, |a| a.mov(eax, dword_ptr(rdi)), 0),
        ("writable", W, |a| a.mov(dword_ptr(rdi), ecx), 3),
        ("executable", NX, |a| a.call(rdi), 0x11),
    ];
    for pages in &PAGES {
        for (name, bit, access, error) in rows {
            println!("{:?} pages, {name}", pages.size);
            on_every_tier(|m| {
                prepare(m, pages, P | W);
                m.world.poke(pages.gpas[0] + pages.offsets[0], &[0xc3]);
                m.vector(14, HANDLER, 1);
                m.state().gpr[RDX] = bit;
                m.code(HANDLER, |a| {
                    a.add(r10, 1)?;
                    a.add(r11, qword_ptr(rsp))?;
                    a.xor(qword_ptr(rsi), rdx)?;
                    a.invlpg(byte_ptr(rdi))?;
                    a.add(rsp, 8)?;
                    a.iretq()
                });
                m.code(START, |a| {
                    let mut top = a.create_label();
                    a.mov(ebx, ROUNDS)?;
                    // RET, which the stores leave where it is.
                    a.mov(ecx, 0xc3)?;
                    a.set_label(&mut top)?;
                    access(a)?;
                    a.xor(qword_ptr(rsi), rdx)?;
                    a.invlpg(byte_ptr(rdi))?;
                    access(a)?;
                    a.dec(ebx)?;
                    a.jne(top)?;
                    a.hlt()
                });
                m.halt();
                assert_eq!(m.gpr(10), ROUNDS as u64);
                assert_eq!(m.gpr(11), error * ROUNDS as u64);
            });
        }
    }
}
