//! Arithmetic flags that live on: across memory accesses, calls, jumps of every kind, page boundaries, and instructions
//! that only the interpreter does.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, on_every_tier};
use ring3_x86_cpu::state::*;
use std::cell::Cell;

const VALUES: u64 = 0x9000;
const SCRATCH: u64 = 0xa000;
const TARGET: u64 = 0xa100;
/// A function that returns at once, on a page of its own.
const FUNCTION: u64 = 0x1_8000;
const HANDLER: u64 = 0x1_9000;
const LATER: u64 = 0x80_0000_0000;

const CF: u32 = 1;
const AF: u32 = 0x10;
const OF: u32 = 0x800;
const ALL: u32 = 0x8d5;

/// Instructions that set flags from R8 and R9, with a change to R10 only, and those flags that are defined then.
const SETTERS: [(Build, u32); 21] = [
    (|a| a.add(r10, r9), ALL),
    (|a| a.sub(r10, r9), ALL),
    (|a| a.add(r10, i32::MIN), ALL),
    (|a| a.sub(r10, i32::MIN), ALL),
    (|a| a.cmp(r10d, r9d), ALL),
    (|a| a.adc(r10b, r9b), ALL),
    (|a| a.sbb(r10w, r9w), ALL),
    (|a| a.inc(r10), ALL),
    (|a| a.dec(r10d), ALL),
    (|a| a.neg(r10), ALL),
    (|a| a.and(r10, r9), ALL & !AF),
    (|a| a.test(r10b, r9b), ALL & !AF),
    (|a| a.xor(r10d, r9d), ALL & !AF),
    (|a| a.shl(r10, 1), ALL & !AF),
    (|a| a.sar(r10d, 1), ALL & !AF),
    (|a| a.imul_2(r10, r9), CF | OF),
    (|a| a.bt(r10, r9), CF),
    (|a| a.popcnt(r10, r9), ALL),
    (|a| a.xadd(r10, r9), ALL),
    (|a| a.cmpxchg(r10, r9), ALL),
    (
        |a| {
            a.fldpi()?;
            a.fild(word_ptr(VALUES))?;
            a.fcomip(st0, st1)?;
            a.fstp(st0)
        },
        ALL,
    ),
];

/// What comes between the setter and the reader; may change RAX, RCX, RDX, RSI, RDI and RBX.
const BETWEEN: [(&str, Build); 25] = [
    ("a load", |a| a.mov(rax, qword_ptr(SCRATCH))),
    ("a store", |a| a.mov(qword_ptr(SCRATCH), rax)),
    ("a load of sixteen bytes", |a| {
        a.movups(xmm0, xmmword_ptr(SCRATCH))
    }),
    ("x87", |a| {
        a.fldz()?;
        a.fstp(st0)
    }),
    ("x87 and memory", |a| {
        a.fld(qword_ptr(SCRATCH))?;
        a.fistp(dword_ptr(SCRATCH))?;
        a.fnstsw(ax)
    }),
    ("MMX", |a| {
        a.movd(mm1, eax)?;
        a.pmovmskb(edx, mm1)?;
        a.emms()
    }),
    ("push and pop", |a| {
        a.push(rax)?;
        a.pop(rbx)
    }),
    ("not", |a| a.not(qword_ptr(SCRATCH))),
    ("a cmov from memory", |a| a.cmovb(rax, qword_ptr(SCRATCH))),
    ("a conditional jump", |a| {
        let mut next = a.create_label();
        a.jbe(next)?;
        a.mov(rax, qword_ptr(SCRATCH))?;
        a.set_label(&mut next)?;
        a.nop()
    }),
    ("a jump", |a| {
        let mut next = a.create_label();
        a.jmp(next)?;
        a.hlt()?;
        a.set_label(&mut next)?;
        a.nop()
    }),
    ("an indirect jump", |a| {
        let mut next = a.create_label();
        a.lea(rax, ptr(next))?;
        a.jmp(rax)?;
        a.hlt()?;
        a.set_label(&mut next)?;
        a.nop()
    }),
    ("a jump through memory", |a| {
        let mut next = a.create_label();
        a.lea(rax, ptr(next))?;
        a.mov(qword_ptr(TARGET), rax)?;
        a.jmp(qword_ptr(TARGET))?;
        a.set_label(&mut next)?;
        a.nop()
    }),
    ("call and ret", |a| a.call(FUNCTION)),
    ("an indirect call", |a| {
        a.mov(eax, FUNCTION as u32)?;
        a.call(rax)
    }),
    ("a call through memory", |a| {
        a.mov(qword_ptr(TARGET), FUNCTION as i32)?;
        a.call(qword_ptr(TARGET))
    }),
    ("a jump by push and ret", |a| {
        let mut next = a.create_label();
        a.lea(rax, ptr(next))?;
        a.push(rax)?;
        a.ret()?;
        a.set_label(&mut next)?;
        a.nop()
    }),
    ("a loop", |a| {
        let mut top = a.create_label();
        a.mov(ecx, 3)?;
        a.set_label(&mut top)?;
        a.mov(rax, qword_ptr(SCRATCH))?;
        a.loop_(top)
    }),
    ("a string", |a| {
        a.mov(esi, SCRATCH as u32)?;
        a.mov(edi, SCRATCH as u32 + 0x80)?;
        a.mov(ecx, 9)?;
        a.rep().movsb()
    }),
    ("a read of the time", |a| a.rdtsc()),
    ("a write to a port", |a| a.out(0x80, al)),
    ("INVLPG", |a| a.invlpg(byte_ptr(SCRATCH))),
    ("a write to CR3", |a| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    }),
    ("an interrupt", |a| a.int(0x80)),
    ("a page fault", |a| {
        a.mov(rsi, LATER)?;
        a.mov(rax, qword_ptr(rsi))
    }),
];

/// Folds the flags in the low half of R11 into R14, as many of them as are defined.
fn fold(a: &mut CodeAssembler, defined: u32) -> Result<(), IcedError> {
    a.and(r11d, defined as i32)?;
    a.rol(r14, 7)?;
    a.xor(r14, r11)
}

type Jump = fn(&mut CodeAssembler, CodeLabel) -> Result<(), IcedError>;

/// Ways to read the flags; each leaves them in R11 as they are in RFLAGS.
const READERS: [(&str, Build); 3] = [
    ("LAHF", |a| {
        a.seto(bl)?;
        a.lahf()?;
        a.movzx(r11d, bl)?;
        a.shl(r11d, 11)?;
        a.movzx(eax, ah)?;
        a.or(r11d, eax)
    }),
    ("PUSHF", |a| {
        a.pushfq()?;
        a.pop(r11)
    }),
    ("conditional jumps", |a| {
        let jumps: [(Jump, i32); 5] = [
            (|a, to| a.jno(to), 0x800),
            (|a, to| a.jae(to), 1),
            (|a, to| a.jne(to), 0x40),
            (|a, to| a.jns(to), 0x80),
            (|a, to| a.jnp(to), 4),
        ];
        a.mov(r11d, 0)?;
        for (jump, bit) in jumps {
            let mut next = a.create_label();
            jump(a, next)?;
            a.lea(r11, ptr(r11 + bit))?;
            a.set_label(&mut next)?;
            a.nop()?;
        }
        Ok(())
    }),
];

/// Goes through all values with all setters; R14 tells what the flags were.
fn program(
    a: &mut CodeAssembler,
    between: Option<Build>,
    reader: Build,
    readable: u32,
) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(r12d, PAIRS as u32)?;
    a.set_label(&mut top)?;
    for (setter, defined) in SETTERS {
        a.mov(r8, qword_ptr(r12 * 8 + VALUES))?;
        a.mov(r9, qword_ptr(r12 * 8 + VALUES - 8))?;
        a.mov(rax, r8)?;
        a.mov(r10, r8)?;
        setter(a)?;
        if let Some(between) = between {
            between(a)?;
        }
        reader(a)?;
        fold(a, defined & readable)?;
    }
    a.dec(r12d)?;
    a.jne(top)?;
    a.hlt()
}

/// Numbers at the edges of their formats.
const NUMBERS: [u64; 17] = [
    0,
    1,
    0xf,
    0x10,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
    0x1234_5678_9abc_def0,
];
const PAIRS: usize = NUMBERS.len() - 1;

fn prepare(m: &mut Machine) {
    for (n, number) in NUMBERS.into_iter().enumerate() {
        m.world.put(VALUES + 8 * n as u64, number);
    }
    m.code(FUNCTION, |a| a.ret());
    m.vector(0x80, FUNCTION + 0x10, 1);
    m.code(FUNCTION + 0x10, |a| a.iretq());
    m.vector(14, HANDLER, 1);
    // The load that faults is three bytes long.
    m.code(HANDLER, |a| {
        a.add(rsp, 8)?;
        a.add(qword_ptr(rsp), 3)?;
        a.iretq()
    });
}

#[test]
fn live_across_everything() {
    for (name, reader) in READERS {
        let readable = if name.contains("jumps") { ALL & !AF } else { ALL };
        let expected = Cell::new(None);
        let mut all: Vec<(&str, Option<Build>)> = vec![("nothing", None)];
        all.extend(BETWEEN.map(|(name, between)| (name, Some(between))));
        for (between_name, between) in all {
            println!("{between_name}, read by {name}");
            on_every_tier(|m| {
                prepare(m);
                m.code(START, |a| program(a, between, reader, readable));
                m.halt();
                let found = m.gpr(14);
                assert_eq!(expected.get().unwrap_or(found), found, "{between_name}");
                expected.set(Some(found));
                // The time is not the same after another number of instructions.
                (m.state().gpr[RAX], m.state().gpr[RDX]) = (0, 0);
            });
        }
    }
}

#[test]
fn live_across_the_end_of_a_page() {
    // The addition is the page's last instruction, or lies across its end.
    for before in 0..4 {
        on_every_tier(|m| {
            m.state().gpr[RBX] = 0x7fff_ffff_ffff_ff00;
            m.state().gpr[RCX] = 2000;
            let at = 0x1_8000 - 5 - 3 + before;
            m.code(at, |a| {
                a.mov(edx, 1)?;
                a.add(rbx, rdx)?;
                a.seto(al)?;
                a.lahf()?;
                a.movzx(edx, ax)?;
                a.rol(r14, 5)?;
                a.xor(r14, rdx)?;
                a.dec(ecx)?;
                a.jne(at)?;
                a.hlt()
            });
            m.state().rip = at;
            m.halt();
            assert_eq!(m.gpr(RBX), 0x7fff_ffff_ffff_ff00 + 2000);
        });
    }
}

#[test]
fn a_chain_of_carries_through_memory() {
    const LIMBS: u64 = 64;
    on_every_tier(|m| {
        for n in 0..LIMBS {
            m.world.put(0x20_0000 + 8 * n, u64::MAX);
            m.world.put(0x20_1000 - 8 * (LIMBS / 2) + 8 * n, n % 3);
        }
        m.state().gpr[RDX] = 50;
        m.code(START, |a| {
            let (mut top, mut limb) = (a.create_label(), a.create_label());
            a.set_label(&mut top)?;
            a.mov(esi, 0x20_0000)?;
            a.mov(edi, 0x20_1000 - 4 * LIMBS as u32)?;
            a.mov(ecx, LIMBS as u32)?;
            a.stc()?;
            a.set_label(&mut limb)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.adc(qword_ptr(rdi), rax)?;
            a.lea(rsi, ptr(rsi + 8))?;
            a.lea(rdi, ptr(rdi + 8))?;
            a.dec(ecx)?;
            a.jne(limb)?;
            a.adc(r15, 0)?;
            a.dec(edx)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        // All ones and a carry leave every limb what it was, and the carry comes out again.
        assert_eq!(m.gpr(15), 50);
        for n in 0..LIMBS {
            assert_eq!(m.word(0x20_1000 - 8 * (LIMBS / 2) + 8 * n), n % 3);
        }
    });
}
