//! Code of a guest that wants out.

use super::prison::{GPA, HOST, PAGES, TABLE_ENTRIES, WINDOW};
use crate::corpus::Input;
use crate::mutate;
use fastrand::Rng;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::{G, MORE_TABLES, NX, P, PAGE, PS, START, TABLES, U, W};

/// Bytes of an input at most.
const LONGEST: usize = 300;

/// MSRs that hold addresses: segment bases, entry points, the local APIC's page, KVM's structures.
const ADDRESSES: [u32; 13] = [
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc000_0082,
    0x176,
    0x1b,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d02,
    0x4b56_4d03,
    0x4b56_4d04,
    0x11,
    0x12,
];

/// A few tricks in a row, or what any fuzzed code is.
pub fn code(rng: &mut Rng, corpus: &[Input]) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..rng.usize(1..6) {
        if rng.u8(..3) == 0 {
            code.extend(mutate::code(rng, corpus));
        } else {
            code.extend(trick(rng).expect("operands that can be encoded"));
        }
    }
    code.truncate(LONGEST);
    code
}

fn trick(rng: &mut Rng) -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    match rng.u8(..9) {
        0 => pointer(&mut a, rng)?,
        1 | 2 => page_table(&mut a, rng)?,
        3 => msr(&mut a, rng)?,
        4 => string(&mut a, rng)?,
        5 => segment(&mut a, rng)?,
        6 => code_of_its_own(&mut a, rng)?,
        7 => control(&mut a, rng)?,
        _ => wide(&mut a, rng)?,
    }
    a.assemble(0)
}

/// An address, linear or physical, at an end of something, or the host's own.
pub fn address(rng: &mut Rng) -> u64 {
    let near = match rng.u8(..4) {
        0 => rng.u64(..PAGE),
        1 => 0u64.wrapping_sub(rng.u64(..80)),
        _ => rng.u64(..16) * 8,
    };
    let page = rng.u64(..PAGES + 2) * PAGE;
    let base = match rng.u8(..8) {
        0..4 => WINDOW - PAGE + page,
        4 => GPA - PAGE + page,
        5 => HOST + page,
        6 => HOST - WINDOW + page,
        _ => [0, 1 << 47, 0xffff_8000_0000_0000, 1 << 32, 1 << 46, START][rng.usize(..6)],
    };
    base.wrapping_add(near)
}

fn pointer(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let to = [rbx, rsi, rdi, r13, rsp, rbp, rax, rdx][rng.usize(..8)];
    a.mov(to, address(rng))
}

/// Puts an entry into some table, and perhaps says so to the processor.
fn page_table(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let frame = match rng.u8(..6) {
        0 => HOST + rng.u64(..PAGES) * PAGE,
        1 => rng.u64(..),
        2 => TABLES + rng.u64(..8) * PAGE,
        _ => GPA - PAGE + rng.u64(..PAGES + 2) * PAGE,
    };
    let mut entry = frame & 0x000f_ffff_ffff_f000 | P | W;
    for bit in [U, G, PS, NX, W, P, 1 << 51] {
        if rng.u8(..8) == 0 {
            entry ^= bit;
        }
    }
    let at = match rng.u8(..4) {
        0 => TABLES + rng.u64(..2) * PAGE + rng.u64(..2) * 8,
        1 => MORE_TABLES + rng.u64(..3) * PAGE + rng.u64(..4) * 8,
        _ => TABLE_ENTRIES + rng.u64(..PAGES + 2) * 8,
    };
    a.mov(rax, entry)?;
    match rng.u8(..3) {
        0 => a.xchg(qword_ptr(at), rax)?,
        1 => a.lock().xor(qword_ptr(at), 0x1000)?,
        _ => a.mov(qword_ptr(at), rax)?,
    }
    match rng.u8(..4) {
        0 => Ok(()),
        1 => {
            a.mov(rax, cr3)?;
            a.mov(cr3, rax)
        }
        2 => a.invlpg(byte_ptr([rbx, rsi, rdi, r13][rng.usize(..4)])),
        _ => {
            a.mov(rax, cr4)?;
            a.xor(rax, 0x80)?;
            a.mov(cr4, rax)
        }
    }
}

fn msr(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let value = match rng.u8(..3) {
        0 => GPA + rng.u64(..PAGES) * PAGE + 0xfc0 + rng.u64(..64),
        _ => address(rng),
    };
    a.mov(ecx, ADDRESSES[rng.usize(..ADDRESSES.len())])?;
    a.mov(eax, value as u32 | u32::from(rng.bool()))?;
    a.mov(edx, (value >> 32) as u32)?;
    a.wrmsr()
}

fn string(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    a.mov(ecx, [1, 3, 9, 64, 600, 5000][rng.usize(..6)])?;
    if rng.u8(..4) == 0 {
        a.std()?;
    }
    match rng.u8(..8) {
        0 => a.rep().stosb()?,
        1 => a.rep().stosq()?,
        2 => a.rep().movsb()?,
        3 => a.rep().movsq()?,
        4 => a.repe().cmpsb()?,
        5 => a.repne().scasd()?,
        6 => a.rep().lodsw()?,
        _ => a.rep().movsd()?,
    }
    a.cld()
}

/// Segments with bases of the guest's choice, from a table that it writes, and tables beyond its memory.
fn segment(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    match rng.u8(..5) {
        0 => {
            a.mov(eax, rng.u32(..) & 0xffff)?;
            a.mov([fs, gs, ds, es][rng.usize(..4)], ax)
        }
        1 => {
            a.mov(rax, qword_ptr(rbx).fs())?;
            a.mov(qword_ptr(rsi).gs(), rax)
        }
        2 => {
            a.mov(rax, address(rng))?;
            a.mov(qword_ptr(0x2030), rax)?;
            a.mov(eax, 0x30)?;
            a.mov(fs, ax)?;
            a.mov(eax, dword_ptr(rdi).fs())
        }
        3 => {
            a.mov(rax, address(rng))?;
            a.mov(qword_ptr(0x9802), rax)?;
            a.mov(word_ptr(0x9800), rng.u32(..) as i32 & 0x7fff)?;
            if rng.bool() {
                a.lgdt(ptr(0x9800))?;
                a.mov(eax, 0x10)?;
                a.mov(ds, ax)
            } else {
                a.lidt(ptr(0x9800))?;
                a.int(rng.u32(0x20..0x100) as i32)
            }
        }
        _ => {
            a.mov(rax, address(rng))?;
            a.mov(rdx, rax)?;
            a.swapgs()?;
            a.add(qword_ptr(rdx).gs(), rax)
        }
    }
}

/// Code that the guest writes over its own, or at the end of its memory, and goes to.
fn code_of_its_own(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    match rng.u8(..3) {
        0 => {
            let at = START + rng.u64(..LONGEST as u64);
            a.mov(dword_ptr(at), rng.i32(..))
        }
        1 => {
            a.mov(rax, WINDOW - PAGE + rng.u64(1..PAGES + 2) * PAGE - rng.u64(1..12))?;
            // NOPs to the end and beyond.
            a.mov(dword_ptr(rax - 4), 0x9090_9090u32 as i32)?;
            a.mov(dword_ptr(rax), 0x9090_9090u32 as i32)?;
            if rng.bool() { a.jmp(rax) } else { a.call(rax) }
        }
        _ => {
            a.mov(rax, address(rng))?;
            a.mov(dword_ptr(rax), 0x00c3_9090 | rng.i32(..) & 0x7f00_0000)?;
            a.call(rax)
        }
    }
}

/// Control registers, paging modes and levels.
fn control(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let bit = [1, 4, 5, 7, 9, 11, 12, 16, 17, 18, 20, 21][rng.usize(..12)];
    match rng.u8(..4) {
        0 => {
            a.mov(rax, cr4)?;
            a.btc(rax, bit)?;
            a.mov(cr4, rax)
        }
        1 => {
            a.mov(rax, cr0)?;
            a.btc(rax, [0, 1, 2, 3, 16, 18, 29, 30, 31][rng.usize(..9)])?;
            a.mov(cr0, rax)
        }
        2 => {
            a.mov(rax, address(rng) & !0xfff)?;
            a.mov(cr3, rax)
        }
        _ => {
            a.mov(ecx, 0xc000_0080u32)?;
            a.rdmsr()?;
            a.btc(eax, [0, 8, 11, 14][rng.usize(..4)])?;
            a.wrmsr()
        }
    }
}

/// Operands of many bytes, or of addresses of their own.
fn wide(a: &mut CodeAssembler, rng: &mut Rng) -> Result<(), IcedError> {
    let base = [rbx, rsi, rdi, r13][rng.usize(..4)];
    let at = base + rng.i32(-64..64) * if rng.bool() { 1 } else { 64 };
    match rng.u8(..15) {
        0 => a.fxsave(ptr(at)),
        1 => a.fxrstor(ptr(at)),
        2 => {
            a.mov(eax, 7)?;
            a.xor(edx, edx)?;
            a.xsave(ptr(at))
        }
        3 => {
            a.mov(eax, 7)?;
            a.xor(edx, edx)?;
            a.xrstor(ptr(at))
        }
        4 => a.movups(xmmword_ptr(at), xmm1),
        5 => a.movups(xmm1, xmmword_ptr(at)),
        6 => a.vmovups(ymm2, ymmword_ptr(at)),
        7 => a.vmovups(ymmword_ptr(at), ymm2),
        8 => a.lock().cmpxchg16b(xmmword_ptr(at)),
        9 => a.fnsave(ptr(at)),
        10 => {
            a.mov(rsp, base)?;
            a.enter(rng.u32(..600) as i32, rng.u32(..32) as i32)
        }
        11 => {
            a.vpcmpeqd(xmm3, xmm3, xmm3)?;
            a.vpgatherdd_3(xmm4, dword_ptr(base + xmm2 * 4), xmm3)
        }
        12 => {
            a.vpcmpeqd(ymm3, ymm3, ymm3)?;
            a.vpmaskmovd(ymmword_ptr(at), ymm3, ymm2)
        }
        13 => {
            a.lea(rsp, ptr(at))?;
            a.pushfq()?;
            a.push(rax)?;
            a.popfq()
        }
        _ => {
            a.mov(rax, qword_ptr(at))?;
            a.lock().xadd(qword_ptr(at), rax)?;
            a.bts(qword_ptr(at), rax)
        }
    }
}
