//! Instructions by the position of their memory operand.

use iced_x86::code_asm::*;
use ring3_tests::bare::Build;

/// Which rights an operand wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read,
    Write,
    /// Both; page faults say that it was a write.
    Both,
}

/// What the operand's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// RDI.
    Destination,
    /// RSI, with RDI good.
    Source,
    /// RBP.
    Frame,
    /// RSP.
    Top,
    /// So much below RSP as the operand is long.
    Below,
}

pub struct Row {
    pub name: &'static str,
    pub touch: Touch,
    pub place: Where,
    /// In bytes.
    pub size: u64,
    /// Crossing a page would be another fault.
    pub aligned: bool,
    pub build: Build,
}

const fn row(name: &'static str, touch: Touch, place: Where, size: u64, build: Build) -> Row {
    Row {
        name,
        touch,
        place,
        size,
        aligned: false,
        build,
    }
}

const fn aligned(row: Row) -> Row {
    Row { aligned: true, ..row }
}

use Touch::*;
use Where::*;

pub const ROWS: &[Row] = &[
    row("mov from", Read, Destination, 8, |a| a.mov(rbx, qword_ptr(rdi))),
    row("mov from, to a register at home", Read, Destination, 8, |a| {
        a.mov(r13, qword_ptr(rdi))
    }),
    row("mov a byte from", Read, Destination, 1, |a| {
        a.mov(ah, byte_ptr(rdi))
    }),
    row("movzx", Read, Destination, 2, |a| a.movzx(ebx, word_ptr(rdi))),
    row("movsxd", Read, Destination, 4, |a| a.movsxd(rbx, dword_ptr(rdi))),
    row("add from", Read, Destination, 8, |a| a.add(rax, qword_ptr(rdi))),
    row("sbb from", Read, Destination, 4, |a| a.sbb(eax, dword_ptr(rdi))),
    row("cmp with", Read, Destination, 8, |a| a.cmp(qword_ptr(rdi), rax)),
    row("cmp with a constant", Read, Destination, 4, |a| {
        a.cmp(dword_ptr(rdi), 7)
    }),
    row("test", Read, Destination, 2, |a| a.test(word_ptr(rdi), ax)),
    row("imul", Read, Destination, 8, |a| a.imul_2(rax, qword_ptr(rdi))),
    row("mul", Read, Destination, 8, |a| a.mul(qword_ptr(rdi))),
    row("cmov", Read, Destination, 8, |a| a.cmovo(rbx, qword_ptr(rdi))),
    row("cmov that does not move", Read, Destination, 4, |a| {
        a.cmove(ebx, dword_ptr(rdi))?;
        a.cmovne(ebx, dword_ptr(rdi))
    }),
    row("bt", Read, Destination, 8, |a| a.bt(qword_ptr(rdi), rdx)),
    row("popcnt", Read, Destination, 8, |a| a.popcnt(rbx, qword_ptr(rdi))),
    row("bsf", Read, Destination, 8, |a| a.bsf(rbx, qword_ptr(rdi))),
    row("movbe", Read, Destination, 4, |a| a.movbe(ebx, dword_ptr(rdi))),
    row("shlx", Read, Destination, 8, |a| a.shlx(rbx, qword_ptr(rdi), rdx)),
    row("andn", Read, Destination, 8, |a| a.andn(rbx, rdx, qword_ptr(rdi))),
    row("adcx", Read, Destination, 8, |a| a.adcx(rbx, qword_ptr(rdi))),
    row("crc32", Read, Destination, 8, |a| a.crc32(rbx, qword_ptr(rdi))),
    row("movups from", Read, Destination, 16, |a| {
        a.movups(xmm0, xmmword_ptr(rdi))
    }),
    aligned(row("paddd", Read, Destination, 16, |a| {
        a.paddd(xmm0, xmmword_ptr(rdi))
    })),
    row("movq from", Read, Destination, 8, |a| {
        a.movq(xmm0, qword_ptr(rdi))
    }),
    row("cvtsi2sd", Read, Destination, 8, |a| {
        a.cvtsi2sd(xmm0, qword_ptr(rdi))
    }),
    row("pinsrw", Read, Destination, 2, |a| {
        a.pinsrw(xmm0, word_ptr(rdi), 3)
    }),
    row("jmp", Read, Destination, 8, |a| a.jmp(qword_ptr(rdi))),
    row("call", Read, Destination, 8, |a| a.call(qword_ptr(rdi))),
    row("push from", Read, Destination, 8, |a| a.push(qword_ptr(rdi))),
    row("ret", Read, Top, 8, |a| a.ret()),
    row("ret that releases", Read, Top, 8, |a| a.ret_1(0x10)),
    row("pop", Read, Top, 8, |a| a.pop(rbx)),
    row("pop, to a register at home", Read, Top, 8, |a| a.pop(r15)),
    row("pop to memory", Read, Top, 8, |a| a.pop(qword_ptr(rsi))),
    row("leave", Read, Frame, 8, |a| a.leave()),
    row("mov off the frame", Read, Frame, 8, |a| {
        a.mov(rbx, qword_ptr(rbp))
    }),
    row("mov off the stack", Read, Top, 8, |a| a.mov(rbx, qword_ptr(rsp))),
    row("lods", Read, Source, 8, |a| a.lodsq()),
    row("movs from", Read, Source, 8, |a| a.movsq()),
    row("cmps", Read, Source, 4, |a| a.db(&[0xa7])),
    row("scas", Read, Destination, 8, |a| a.scasq()),
    row("rep movs from", Read, Source, 1, |a| a.rep().movsb()),
    row("fld", Read, Destination, 8, |a| {
        a.fld(qword_ptr(rdi))?;
        a.fninit()
    }),
    row("mov to", Write, Destination, 8, |a| a.mov(qword_ptr(rdi), rax)),
    row("mov from a register at home", Write, Destination, 4, |a| {
        a.mov(dword_ptr(rdi), r15d)
    }),
    row("mov a constant", Write, Destination, 8, |a| {
        a.mov(qword_ptr(rdi), -2)
    }),
    row("mov a byte to", Write, Destination, 1, |a| {
        a.mov(byte_ptr(rdi), ah)
    }),
    row("movbe to", Write, Destination, 8, |a| {
        a.movbe(qword_ptr(rdi), rbx)
    }),
    row("movnti", Write, Destination, 8, |a| a.movnti(qword_ptr(rdi), rbx)),
    row("setcc", Write, Destination, 1, |a| a.seto(byte_ptr(rdi))),
    row("movups to", Write, Destination, 16, |a| {
        a.movups(xmmword_ptr(rdi), xmm0)
    }),
    row("movlps", Write, Destination, 8, |a| {
        a.movlps(qword_ptr(rdi), xmm0)
    }),
    row("pextrd", Write, Destination, 4, |a| {
        a.pextrd(dword_ptr(rdi), xmm0, 1)
    }),
    row("push", Write, Below, 8, |a| a.push(rbx)),
    row("push a constant", Write, Below, 8, |a| a.push(-5)),
    row("push RSP", Write, Below, 8, |a| a.push(rsp)),
    row("pushf", Write, Below, 8, |a| a.pushfq()),
    row("enter", Write, Below, 8, |a| a.enter(0, 0)),
    row("call that pushes", Write, Below, 8, |a| {
        let mut next = a.create_label();
        a.call(next)?;
        a.set_label(&mut next)?;
        a.nop()
    }),
    row("stos", Write, Destination, 8, |a| a.stosq()),
    row("movs to", Write, Destination, 8, |a| a.movsq()),
    row("rep stos", Write, Destination, 1, |a| a.rep().stosb()),
    row("fnstcw", Write, Destination, 2, |a| a.fnstcw(word_ptr(rdi))),
    row("sgdt", Write, Destination, 10, |a| a.sgdt(ptr(rdi))),
    row("add to", Both, Destination, 8, |a| a.add(qword_ptr(rdi), rbx)),
    row("adc to", Both, Destination, 4, |a| a.adc(dword_ptr(rdi), ebx)),
    row("sub a constant", Both, Destination, 2, |a| {
        a.sub(word_ptr(rdi), 300)
    }),
    row("lock or", Both, Destination, 8, |a| {
        a.lock().or(qword_ptr(rdi), rbx)
    }),
    row("inc", Both, Destination, 8, |a| a.inc(qword_ptr(rdi))),
    row("dec a byte", Both, Destination, 1, |a| a.dec(byte_ptr(rdi))),
    row("neg", Both, Destination, 8, |a| a.neg(qword_ptr(rdi))),
    row("not", Both, Destination, 8, |a| a.not(qword_ptr(rdi))),
    row("shl", Both, Destination, 8, |a| a.shl(qword_ptr(rdi), 3)),
    row("sar by CL", Both, Destination, 8, |a| a.sar(qword_ptr(rdi), cl)),
    row("rcl", Both, Destination, 4, |a| a.rcl(dword_ptr(rdi), 1)),
    row("shld", Both, Destination, 8, |a| a.shld(qword_ptr(rdi), rbx, 9)),
    row("xchg", Both, Destination, 8, |a| a.xchg(qword_ptr(rdi), rbx)),
    row("xadd", Both, Destination, 8, |a| a.xadd(qword_ptr(rdi), rbx)),
    row("lock xadd", Both, Destination, 4, |a| {
        a.lock().xadd(dword_ptr(rdi), ebx)
    }),
    row("cmpxchg", Both, Destination, 8, |a| {
        a.cmpxchg(qword_ptr(rdi), rbx)
    }),
    row("lock cmpxchg", Both, Destination, 8, |a| {
        a.lock().cmpxchg(qword_ptr(rdi), rbx)
    }),
    row("cmpxchg8b", Both, Destination, 8, |a| a.cmpxchg8b(qword_ptr(rdi))),
    aligned(row("cmpxchg16b", Both, Destination, 16, |a| {
        a.cmpxchg16b(xmmword_ptr(rdi))
    })),
    row("bts", Both, Destination, 8, |a| a.bts(qword_ptr(rdi), rdx)),
    row("lock btr", Both, Destination, 8, |a| {
        a.lock().btr(qword_ptr(rdi), 3)
    }),
    row("pop to memory, the destination", Write, Destination, 8, |a| {
        a.pop(qword_ptr(rdi))
    }),
];
