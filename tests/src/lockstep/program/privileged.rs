//! Statements that only level 0 may execute, and those that nobody may.

use super::super::kernel::*;
use super::{Built, Generator};
use crate::bare::places::*;
use iced_x86::code_asm::*;
use ring3_x86_cpu::state::*;

impl Generator<'_> {
    /// Changes an entry of the page tables, and makes it known.
    pub(super) fn page_tables(&mut self, a: &mut CodeAssembler) -> Built {
        let (entry, linear) = self.entry_of_data();
        let (entry, linear, bits) = match self.rng.u8(..10) {
            0 => (self.entries.alias, ALIAS, [NX, P][self.rng.usize(..2)]),
            1 => {
                let n = self.rng.usize(..self.entries.user_code.len());
                let bits = [NX, P, PAGE, U][self.rng.usize(..4)];
                (self.entries.user_code[n], USER_CODE + n as u64 * PAGE, bits)
            }
            _ => {
                let bits = [P, W, U, A, D, A | D, PAGE, 2 * PAGE, NX, G][self.rng.usize(..10)];
                (entry, linear, bits)
            }
        };
        a.mov(r14, bits)?;
        a.xor(qword_ptr(entry), r14)?;
        a.mov(r14, linear)?;
        match self.rng.u8(..4) {
            0 => {
                // A global page may stay after a write to CR3.
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)?;
                a.invlpg(byte_ptr(r14))?;
            }
            1 => {
                a.mov(qword_ptr(SCRATCH + 16), 0)?;
                a.mov(qword_ptr(SCRATCH + 24), r14)?;
                a.mov(eax, [0, 2][self.rng.usize(..2)])?;
                a.invpcid(rax, xmmword_ptr(SCRATCH + 16))?;
            }
            _ => a.invlpg(byte_ptr(r14))?,
        }
        self.instructions(a)
    }

    pub(super) fn privileged(&mut self, a: &mut CodeAssembler) -> Built {
        match self.rng.u8(..20) {
            0 => {
                a.cli()?;
                self.instructions(a)?;
                a.sti()?;
                a.nop()
            }
            1 => self.control_registers(a),
            2 => self.debug_registers(a),
            3 => self.model_specific(a),
            4 => self.tables(a),
            5 => self.segments(a),
            6 => self.returns(a),
            7 => a.int(0x80),
            8 => a.int3(),
            9 => a.syscall(),
            10 => {
                a.swapgs()?;
                a.rdgsbase(r9)
            }
            11 => {
                a.stac()?;
                self.instructions(a)?;
                a.clac()
            }
            12 => a.cpuid(),
            13 => a.rdtsc(),
            14 => a.out(0x80, al),
            15 => {
                a.wrfsbase(r8)?;
                a.rdfsbase(r10)
            }
            16 => a.invlpg(byte_ptr(rbx)),
            17 => {
                a.std()?;
                a.lodsq()?;
                a.cld()
            }
            _ => {
                a.mov(rax, cr3)?;
                a.mov(cr3, rax)
            }
        }
    }

    fn control_registers(&mut self, a: &mut CodeAssembler) -> Built {
        match self.rng.u8(..6) {
            0 => {
                a.mov(rax, cr0)?;
                a.btc(rax, 16)?;
                a.mov(cr0, rax)?;
                self.instructions(a)
            }
            1 => {
                // Task switched: vector instructions fault until the handler has cleared it.
                a.mov(rax, cr0)?;
                a.or(rax, CR0_TS as i32)?;
                a.mov(cr0, rax)?;
                self.instructions(a)?;
                a.clts()
            }
            2 => {
                let bit = [7, 20, 21, 2][self.rng.usize(..4)];
                a.mov(rax, cr4)?;
                a.btc(rax, bit)?;
                a.mov(cr4, rax)?;
                self.instructions(a)
            }
            3 => {
                a.mov(cr2, r9)?;
                a.mov(r10, cr2)
            }
            4 => {
                a.mov(rax, cr4)?;
                a.xor(rax, CR4_OSXSAVE as i32)?;
                a.mov(cr4, rax)?;
                a.xgetbv()
            }
            _ => a.smsw(ax),
        }
    }

    /// Watches some data for a while, or an instruction.
    fn debug_registers(&mut self, a: &mut CodeAssembler) -> Built {
        let (_, linear) = self.entry_of_data();
        let n = self.rng.u32(..4);
        let kind = [0u64, 1, 3][self.rng.usize(..3)];
        let length = if kind == 0 { 0 } else { self.rng.u64(..4) };
        let mut watched = a.create_label();
        if kind == 0 {
            a.lea(rax, ptr(watched))?;
        } else {
            a.mov(rax, linear + self.rng.u64(..8) * 8)?;
        }
        let address = [dr0, dr1, dr2, dr3][n as usize];
        a.mov(address, rax)?;
        a.mov(
            eax,
            (0x400 | 2 << (2 * n) | (kind as u32) << (16 + 4 * n) | (length as u32) << (18 + 4 * n)) as i32,
        )?;
        a.mov(dr7, rax)?;
        self.instructions(a)?;
        a.set_label(&mut watched)?;
        a.nop()?;
        self.pointers(a)?;
        self.instructions(a)?;
        a.mov(eax, 0x400)?;
        a.mov(dr7, rax)?;
        a.mov(r9, dr6)
    }

    fn model_specific(&mut self, a: &mut CodeAssembler) -> Built {
        let index = [
            0xc000_0084u32,
            0xc000_0100,
            0xc000_0101,
            0xc000_0102,
            0x123,
            0x174,
        ];
        a.mov(ecx, index[self.rng.usize(..index.len())])?;
        if self.rng.bool() {
            return a.rdmsr();
        }
        a.mov(eax, self.rng.u32(..) & 0x0fff_0600)?;
        a.mov(edx, 0)?;
        a.wrmsr()
    }

    fn tables(&mut self, a: &mut CodeAssembler) -> Built {
        match self.rng.u8(..4) {
            0 => {
                a.sgdt(ptr(SCRATCH + 32))?;
                a.lgdt(ptr(SCRATCH + 32))
            }
            1 => {
                a.sidt(ptr(SCRATCH + 48))?;
                a.lidt(ptr(SCRATCH + 48))
            }
            2 => a.str(eax),
            _ => {
                a.mov(eax, i32::from(CODE3))?;
                a.lar(ecx, eax)?;
                a.lsl(edx, eax)?;
                a.verr(ax)
            }
        }
    }

    fn segments(&mut self, a: &mut CodeAssembler) -> Built {
        a.mov(
            eax,
            [0, i32::from(DATA0), i32::from(DATA3), i32::from(CODE0), 0x77][self.rng.usize(..5)],
        )?;
        match self.rng.u8(..5) {
            0 => a.mov(ds, eax),
            1 => a.mov(es, eax),
            2 => {
                a.mov(ss, eax)?;
                a.nop()
            }
            3 => {
                a.mov(fs, eax)?;
                a.mov(r9, fs)
            }
            _ => {
                a.push(gs)?;
                a.pop(gs)
            }
        }
    }

    /// Far returns and interrupt returns to the same level.
    fn returns(&mut self, a: &mut CodeAssembler) -> Built {
        let mut next = a.create_label();
        if self.rng.bool() {
            a.mov(r9, rsp)?;
            a.push(i32::from(DATA0))?;
            a.push(r9)?;
            a.pushfq()?;
            a.push(i32::from(CODE0))?;
            a.lea(r14, ptr(next))?;
            a.push(r14)?;
            a.iretq()?;
        } else {
            a.push(i32::from(CODE0))?;
            a.lea(r14, ptr(next))?;
            a.push(r14)?;
            // RETF with 64-bit operands.
            a.db(&[0x48, 0xcb])?;
        }
        a.ud2()?;
        a.set_label(&mut next)?;
        a.nop()
    }

    /// What faults, for certain or nearly so.
    pub(super) fn wrong(&mut self, a: &mut CodeAssembler) -> Built {
        match self.rng.u8(..9) {
            0 => a.ud2(),
            1 => {
                a.xor(edx, edx)?;
                a.xor(ecx, ecx)?;
                a.div(ecx)
            }
            2 => {
                a.mov(r14, 0x8000_0000_0000_0000u64)?;
                a.mov(rax, qword_ptr(r14))
            }
            3 => {
                a.mov(r14, DATA + 2 * PAGE)?;
                a.add(rax, qword_ptr(r14))?;
                a.add(qword_ptr(r14 + 8), rax)
            }
            4 => {
                a.mov(r14, DATA + self.rng.u64(..DATA_PAGES) * PAGE)?;
                a.jmp(r14)
            }
            5 => {
                a.mov(r14, 0x7fff_ffff_f000u64)?;
                a.call(r14)
            }
            6 => {
                a.mov(r14, 1u64 << 62)?;
                a.push(r14)?;
                a.ret()
            }
            7 => a.int(0x20),
            _ => {
                a.movaps(xmm0, xmmword_ptr(rbx + 1))?;
                a.mov(rax, qword_ptr(rdi + 0x1000))
            }
        }
    }
}
