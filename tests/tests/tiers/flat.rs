//! 32-bit code, in segments that are all of the linear addresses, and in those that no longer are.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::tiers::AnyTier;
use ring3_tests::bare::{Machine, assemble_as, on_every_tier, repeat};
use ring3_x86_cpu::state::*;

const ROUNDS: u32 = 60;
const SCRATCH: u64 = 0x9100;
/// Beyond what is mapped one to one.
const TOP: u64 = 0xffff_f000;
const TOP_FRAME: u64 = 0xa000;

/// Descriptors besides those of the 64-bit machine.
const FLAT0: u16 = 0x38;
const FLAT3: u16 = 0x43;
const BASED: u16 = 0x48;
const READ_ONLY: u16 = 0x50;
/// Where the based segment begins.
const BASE: u64 = 0x20_0000;

fn descriptor(access: u64, base: u64) -> u64 {
    0x00cf_0000_0000_ffff | access << 40 | (base & 0xff_ffff) << 16 | base >> 24 << 56
}

fn segment(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: Attributes(attributes),
    }
}

/// Assembles 32-bit code for `at`.
fn code(m: &mut Machine, at: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    m.world.poke(at, &assemble_as(32, at, build));
}

/// The machine is about to execute 32-bit code at [`START`], at level 0 or 3 of compatibility mode.
fn enter(m: &mut Machine, level: u16) {
    for (selector, access, base) in [
        (FLAT0, 0x9b, 0),
        (FLAT3, 0xfb, 0),
        (BASED, 0x93, BASE),
        (READ_ONLY, 0x91, 0),
    ] {
        let at = GDT + u64::from(selector & !7);
        m.world.put(at, descriptor(access, base));
    }
    let state = m.state();
    state.gdtr.limit = 0x5f;
    let (code, data) = if level == 0 {
        (segment(FLAT0, 0xc09b), segment(DATA0, 0xc093))
    } else {
        (segment(FLAT3, 0xc0fb), segment(DATA3, 0xc0f3))
    };
    state.seg = [data; 6];
    state.seg[CS] = code;
    m.cpu.core.refresh();
}

/// As `enter`, at level 0 of a processor without long mode, after its control registers were set.
fn enter_protected(m: &mut Machine, set: impl FnOnce(&mut State)) {
    enter(m, 0);
    let state = m.state();
    state.efer = 0;
    state.cr4 &= !CR4_PAE;
    state.cr0 &= !CR0_PG;
    set(state);
    m.cpu.core.refresh();
    m.cpu.core.flush_tlb();
}

/// RETF of 64-bit code, with slots of eight bytes.
fn far_return(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.db(&[0x48, 0xcb])
}

/// Calls, a frame, the stack, a counter in memory, and something of every kind of address.
fn busy(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut function = a.create_label();
    repeat(a, ROUNDS, |a| {
        a.push(ebx)?;
        a.push(7)?;
        a.call(function)?;
        a.add(esp, 4)?;
        a.pop(ecx)?;
        a.mov(dword_ptr(ecx * 4 + 0x9200), eax)?;
        a.add(eax, dword_ptr(ecx * 4 + 0x9200))?;
        a.adc(dword_ptr(SCRATCH as u32), 1)?;
        a.mov(edx, SCRATCH as u32)?;
        a.add(eax, dword_ptr(edx))?;
        a.inc(dword_ptr(edx + 4))
    })?;
    a.set_label(&mut function)?;
    a.push(ebp)?;
    a.mov(ebp, esp)?;
    a.sub(esp, 16)?;
    a.add(eax, dword_ptr(ebp + 8))?;
    a.mov(dword_ptr(ebp - 8), eax)?;
    a.rol(dword_ptr(ebp - 8), 3)?;
    a.mov(eax, dword_ptr(ebp - 8))?;
    a.leave()?;
    a.ret()
}

#[track_caller]
fn finish(m: &mut Machine) {
    m.halt();
    assert_eq!(m.word(SCRATCH) >> 32, u64::from(ROUNDS));
    assert_eq!(m.gpr(RSP), STACK);
    assert_translated(m);
}

/// Translated instructions are not counted.
#[track_caller]
fn assert_translated(m: &Machine) {
    let counted = m.cpu.core.instructions;
    match m.tier {
        AnyTier::Interpreter => assert!(counted > u64::from(4 * ROUNDS)),
        AnyTier::Eager(_) => assert!(counted < 40, "{counted} instructions were interpreted"),
        AnyTier::Usual(_) => {}
    }
}

#[test]
fn compatibility_mode_is_translated() {
    on_every_tier(|m| {
        enter(m, 0);
        code(m, START, busy);
        finish(m);
    });
}

#[test]
fn compatibility_mode_at_level_3_is_translated() {
    on_every_tier(|m| {
        const USER: u64 = 0x4000_0000;
        enter(m, 3);
        for page in [START, 0x9000, STACK - PAGE] {
            m.map(USER + page, page, P | W | U, Size::Small);
        }
        m.state().rip = USER + START;
        m.state().gpr[RSP] = USER + STACK;
        m.world.poke(
            START,
            &assemble_as(32, USER + START, |a| {
                repeat(a, ROUNDS, |a| {
                    a.push(ebx)?;
                    a.add(eax, dword_ptr(esp))?;
                    a.mov(dword_ptr((USER + SCRATCH) as u32), eax)?;
                    a.pop(ecx)
                })
            }),
        );
        // HLT is not for level 3.
        assert_eq!(m.trap().vector, 13);
        assert_eq!(m.word(SCRATCH), u64::from(ROUNDS * (ROUNDS + 1) / 2));
        assert_translated(m);
    });
}

#[test]
fn code_without_paging_is_translated() {
    on_every_tier(|m| {
        enter_protected(m, |_| {});
        code(m, START, busy);
        finish(m);
    });
}

#[test]
fn code_with_32_bit_page_tables_is_translated() {
    on_every_tier(|m| {
        const DIRECTORY: u64 = 0x12_0000;
        enter_protected(m, |state| {
            state.cr4 |= CR4_PSE;
            state.cr3 = DIRECTORY;
            state.cr0 |= CR0_PG;
        });
        m.world
            .put(DIRECTORY, PS | P | W | (0x40_0000 | PS | P | W) << 32);
        code(m, START, busy);
        finish(m);
    });
}

#[test]
fn code_with_page_tables_of_pae_is_translated() {
    on_every_tier(|m| {
        enter_protected(m, |state| {
            state.cr4 |= CR4_PAE;
            state.cr3 = TABLES + PAGE;
            state.pdptr = [(TABLES + 2 * PAGE) | P, 0, 0, 0];
            state.cr0 |= CR0_PG;
        });
        code(m, START, busy);
        finish(m);
    });
}

#[test]
fn addresses_have_32_bits() {
    on_every_tier(|m| {
        enter(m, 0);
        m.map(TOP, TOP_FRAME, P | W, Size::Small);
        m.world.put(SCRATCH, 0x1111);
        code(m, START, |a| {
            repeat(a, ROUNDS, |a| {
                // Over the end, by base, by index, and by what is added to both.
                a.mov(esi, 0xffff_f000u32)?;
                a.add(eax, dword_ptr(esi + (SCRATCH + 0x1000) as i32))?;
                a.mov(ecx, 0x4000_0000)?;
                a.add(eax, dword_ptr(ecx * 4 + SCRATCH as i32))?;
                a.lea(edx, dword_ptr(esi + esi * 2 + 0x2345))?;
                // The stack begins at the top.
                a.xor(esp, esp)?;
                a.push(eax)?;
                a.push(edx)?;
                a.mov(ecx, dword_ptr(esp + 4))?;
                a.add(ecx, dword_ptr(esp))?;
                a.pop(edx)?;
                a.pop(ebp)?;
                a.mov(ebp, esp)?;
                // So do strings, and end at zero.
                a.mov(edi, 0xffff_fff0u32)?;
                a.stosd()?;
                a.stosb()?;
                a.mov(dword_ptr((SCRATCH + 8) as u32), edi)?;
                a.mov(edi, 0xffff_ffe0u32)?;
                a.mov(ecx, 8)?;
                a.rep().stosd()?;
                a.mov(esi, 0xffff_ffe0u32)?;
                a.mov(edi, (SCRATCH + 16) as u32)?;
                a.mov(ecx, 8)?;
                a.rep().movsd()?;
                a.xor(esp, esp)?;
                a.push(ecx)
            })
        });
        m.halt();
        assert_eq!(m.gpr(RAX), u64::from(0x2222 * ROUNDS));
        assert_eq!(m.gpr(RSP), 0xffff_fffc);
        assert_eq!(m.gpr(RDX), (3 * 0xffff_f000u64 + 0x2345) & 0xffff_ffff);
        assert_eq!((m.gpr(RBP), m.gpr(RSI), m.word(SCRATCH + 8)), (0, 0, 0xffff_fff5));
        assert_eq!(m.word(SCRATCH + 16) as u32, 0x2222 * ROUNDS);
        assert_translated(m);
    });
}

#[test]
fn operands_end_with_the_segment() {
    for (vector, build) in [
        (13, (|a| a.add(eax, dword_ptr(esi))) as ring3_tests::bare::Build),
        (13, |a| a.add(dword_ptr(esi + edx * 1), eax)),
        (12, |a| {
            a.mov(esp, esi)?;
            a.pop(eax)
        }),
        (12, |a| {
            a.lea(esp, dword_ptr(esi + 4))?;
            a.push(eax)
        }),
        (13, |a| a.mov(eax, dword_ptr(esi).gs())),
    ] {
        on_every_tier(|m| {
            enter(m, 0);
            m.map(TOP, TOP_FRAME, P | W, Size::Small);
            m.state().seg[GS].base = 0x8104;
            code(m, START, |a| {
                repeat(a, ROUNDS, |a| {
                    a.xor(edx, edx)?;
                    a.cmp(ebx, 1)?;
                    a.sete(cl)?;
                    a.movzx(ecx, cl)?;
                    a.shl(ecx, 1)?;
                    // 0xffff_fffc, and in the last round two more.
                    a.lea(esi, dword_ptr(ecx - 4))?;
                    build(a)?;
                    a.mov(esp, 0x9800)
                })
            });
            assert_eq!(m.trap().vector, vector);
            assert_eq!(m.gpr(RBX), 1);
        });
    }
}

#[test]
fn a_data_segment_gets_a_base() {
    on_every_tier(|m| {
        enter(m, 0);
        m.world.put(SCRATCH, 1);
        m.world.put(BASE + SCRATCH, 0x100);
        code(m, START, |a| {
            a.mov(esi, u32::from(BASED))?;
            a.mov(edi, u32::from(DATA0))?;
            repeat(a, ROUNDS, |a| {
                a.add(eax, dword_ptr(SCRATCH as u32))?;
                a.mov(ds, esi)?;
                a.add(eax, dword_ptr(SCRATCH as u32))?;
                a.inc(dword_ptr((SCRATCH + 8) as u32))?;
                a.mov(ds, edi)?;
                a.inc(dword_ptr((SCRATCH + 16) as u32))
            })
        });
        m.halt();
        assert_eq!(m.gpr(RAX), u64::from(0x101 * ROUNDS));
        assert_eq!(m.word(BASE + SCRATCH + 8), u64::from(ROUNDS));
        assert_eq!(m.word(SCRATCH + 16), u64::from(ROUNDS));
    });
}

#[test]
fn a_segment_becomes_unusable() {
    // In the last round: null, or read-only.
    for selector in [0, READ_ONLY] {
        on_every_tier(|m| {
            enter(m, 0);
            for n in 1..=u64::from(ROUNDS) {
                let last = if n == 1 { selector } else { DATA0 };
                m.world.put(SCRATCH + 8 * n, last.into());
            }
            code(m, START, |a| {
                a.mov(edi, BASE as u32)?;
                repeat(a, ROUNDS, |a| {
                    a.mov(eax, dword_ptr(ebx * 8 + SCRATCH as i32))?;
                    a.mov(es, eax)?;
                    a.stosd()
                })
            });
            assert_eq!(m.trap().vector, 13);
            assert_eq!(m.gpr(RDI), BASE + u64::from(4 * (ROUNDS - 1)));
        });
    }
}

#[test]
fn fs_and_gs_begin_anywhere() {
    on_every_tier(|m| {
        enter(m, 0);
        m.world.put(BASE - 8, 3);
        m.world.put(BASE + 64, 5);
        // The segment of FS is lost at the end.
        m.world.put(SCRATCH + 8, 0);
        for n in 2..=u64::from(ROUNDS) {
            m.world.put(SCRATCH + 8 * n, BASED.into());
        }
        code(m, START, |a| {
            a.mov(ecx, u32::from(BASED))?;
            a.mov(gs, ecx)?;
            repeat(a, ROUNDS, |a| {
                a.mov(ecx, 0xffff_fff8u32)?;
                a.add(eax, dword_ptr(ecx).gs())?;
                a.add(eax, dword_ptr(0xffff_fff8u32).gs())?;
                a.mov(edx, 8)?;
                a.add(eax, dword_ptr(edx * 8).gs())?;
                a.mov(ecx, dword_ptr(ebx * 8 + SCRATCH as i32))?;
                a.mov(fs, ecx)?;
                // Where the null segment would be if it could be used.
                a.inc(dword_ptr(edx * 8 + 8))?;
                a.inc(dword_ptr(edx * 8 + 8).fs())
            })
        });
        assert_eq!(m.trap().vector, 13);
        assert_eq!(m.gpr(RAX), u64::from(11 * ROUNDS));
        assert_eq!(m.word(BASE + 72), u64::from(ROUNDS - 1));
        assert_translated(m);
    });
}

#[test]
fn the_same_page_in_both_sizes() {
    // In 64-bit code ADD RAX, RAX; in 32-bit code DEC EAX; ADD EAX, EAX. And a store through a stack pointer of either width.
    const SHARED: u64 = 0x1_8000;
    const SHORT: u64 = START + 0x200;
    const LONG: u64 = START + 0x400;
    on_every_tier(|m| {
        enter(m, 0);
        m.supervisor(START);
        m.world.poke(SHARED, &[0x48, 0x01, 0xc0, 0x50, 0x5a, 0xc3]);
        m.code(START, |a| {
            a.mov(ebx, ROUNDS)?;
            a.mov(eax, 3)?;
            a.jmp(LONG)
        });
        m.code(LONG, |a| {
            let mut end = a.create_label();
            a.mov(ecx, SHARED as u32)?;
            a.call(rcx)?;
            a.dec(ebx)?;
            a.je(end)?;
            a.and(eax, 0xff_ffff)?;
            a.push(i32::from(FLAT0))?;
            a.push(SHORT as i32)?;
            far_return(a)?;
            a.set_label(&mut end)?;
            a.hlt()
        });
        code(m, SHORT, |a| {
            a.mov(ecx, SHARED as u32)?;
            a.call(ecx)?;
            a.push(i32::from(CODE0))?;
            a.push(LONG as i32)?;
            a.retf()
        });
        m.halt();
        let expected = (1..ROUNDS).fold(6u64, |value, _| 4 * ((value & 0xff_ffff) - 1));
        assert_eq!((m.gpr(RAX), m.gpr(RDX)), (expected, expected));
        assert_eq!(m.gpr(RSP), STACK);
    });
}

#[test]
fn short_forms_of_inc_and_dec() {
    on_every_tier(|m| {
        enter(m, 0);
        code(m, START, |a| {
            repeat(a, ROUNDS, |a| {
                // INC of all but EBX, with the stack pointer up and down; the carry stays.
                a.stc()?;
                a.db(&[0x40, 0x41, 0x42, 0x44, 0x4c, 0x45, 0x46, 0x47])?;
                a.adc(dword_ptr(SCRATCH as u32), 0)?;
                a.db(&[0x48, 0x49])?;
                a.setns(byte_ptr((SCRATCH + 8) as u32))?;
                // INC AX, and twice DEC CX.
                a.db(&[0x66, 0x40, 0x66, 0x49, 0x66, 0x49])
            })
        });
        m.halt();
        let all = [RAX, RCX, RDX, RBP, RSI, RDI].map(|n| m.gpr(n));
        let rounds = u64::from(ROUNDS);
        assert_eq!(all[..1], [rounds]);
        assert_eq!(all[1] & 0xffff, 0x1_0000 - 2 * rounds);
        assert_eq!(all[2..], [rounds; 4]);
        assert_eq!((m.gpr(RSP), m.word(SCRATCH)), (STACK, rounds));
        assert_translated(m);
    });
}

#[test]
fn old_forms_of_instructions() {
    on_every_tier(|m| {
        enter(m, 0);
        m.world.put(SCRATCH, 0x4321);
        code(m, START, |a| {
            repeat(a, ROUNDS, |a| {
                // MOV EAX, moffs; ADD [moffs] by the alias of 80H; MOV moffs, AL
                a.db(&[0xa1, 0, 0x91, 0, 0])?;
                a.db(&[0x82, 0x05, 8, 0x91, 0, 0, 3])?;
                a.add(ecx, eax)?;
                a.mov(al, bl)?;
                a.daa()?;
                a.aas()?;
                a.db(&[0xa2, 16, 0x91, 0, 0])?;
                a.pushad()?;
                a.popad()?;
                a.push(ds)?;
                a.pop(ds)?;
                a.pushfd()?;
                a.pop(edx)?;
                a.and(edx, 0x8d5)?;
                a.add(dword_ptr((SCRATCH + 24) as u32), edx)?;
                a.mov(ah, byte_ptr(SCRATCH as u32))
            })
        });
        m.halt();
        assert_eq!(m.gpr(RCX), u64::from(0x4321 * ROUNDS));
        assert_eq!(m.word(SCRATCH + 8), u64::from(3 * ROUNDS));
        assert_translated(m);
    });
}

#[test]
fn code_changes_itself() {
    on_every_tier(|m| {
        enter(m, 0);
        code(m, START, |a| {
            let mut patched = a.create_label();
            repeat(a, ROUNDS, |a| {
                a.mov(edx, START as u32)?;
                a.mov(byte_ptr(edx + 0x81), bl)?;
                a.call(START + 0x80)?;
                a.add(ecx, eax)
            })?;
            a.set_label(&mut patched)?;
            a.nop()
        });
        code(m, START + 0x80, |a| {
            a.mov(eax, 0)?;
            a.ret()
        });
        m.halt();
        assert_eq!(m.gpr(RCX), u64::from(ROUNDS * (ROUNDS + 1) / 2));
    });
}

#[test]
fn the_instruction_pointer_wraps() {
    on_every_tier(|m| {
        enter(m, 0);
        m.map(TOP, TOP_FRAME, P | W, Size::Small);
        // INC EAX up to the end; at zero, DEC EBX; JNE back; HLT.
        m.world.poke(TOP_FRAME + 0xff0, &[0x40; 16]);
        m.world.poke(0, &[0x4b, 0x75, 0xed, 0xf4]);
        m.state().gpr[RBX] = ROUNDS.into();
        m.state().rip = TOP + 0xff0;
        m.halt();
        assert_eq!((m.gpr(RAX), m.cpu.core.state.rip), (u64::from(16 * ROUNDS), 4));
    });
}

#[test]
fn upper_halves_outlive_32_bit_code() {
    const SHORT: u64 = START + 0x200;
    for pointer in [STACK, STACK | 7 << 32] {
        on_every_tier(|m| {
            enter(m, 0);
            m.supervisor(START);
            m.map((STACK - PAGE) | (7 << 32), STACK - PAGE, P | W, Size::Small);
            m.state().gpr[RSP] = pointer;
            for n in [RAX, RCX, RDX, RBP, RSI, RDI] {
                m.state().gpr[n] = 0x1234_5678_0000_9200 + 16 * n as u64;
            }
            m.code(START, |a| {
                a.mov(ebx, ROUNDS)?;
                a.push(i32::from(FLAT0))?;
                a.push(SHORT as i32)?;
                far_return(a)
            });
            code(m, SHORT, |a| {
                let mut top = a.create_label();
                a.set_label(&mut top)?;
                a.push(eax)?;
                a.add(dword_ptr(ecx), eax)?;
                a.inc(ax)?;
                a.mov(dl, byte_ptr(esi))?;
                a.stosb()?;
                a.add(dword_ptr(esp), 1)?;
                a.pop(ebp)?;
                a.dec(ebx)?;
                a.jne(top)?;
                a.hlt()
            });
            m.halt();
            assert_eq!(m.gpr(RAX) >> 32, 0x1234_5678);
            assert_eq!(m.gpr(RSP), pointer);
        });
    }
}
