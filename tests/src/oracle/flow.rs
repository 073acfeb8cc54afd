//! Random programs of 32-bit code with everything that changes the flow in them: loops, functions, jumps of all kinds, the stack.
//!
//! Everything that decides where a program goes lies where its other instructions do not write, so that it comes to an end.

use super::forms::{Family, Form, family};
use super::layout::{self, CODE, CODE_PAGES, DATA, PAGE, STACK};
use super::program::{self, resized};
use super::{Machine, Mode, values};
use fastrand::Rng;
use iced_x86::code_asm::*;
use iced_x86::{BlockEncoderOptions, Encoder, IcedError, Instruction, Mnemonic, OpKind, Register};

type Built = Result<(), IcedError>;

const FUNCTIONS: usize = 3;
/// Words that nothing else is written to: counters of loops, and what is jumped to.
const COUNTERS: u64 = STACK;
const TARGETS: u64 = STACK + 0x200;
const MOST_LOOPS: u64 = 60;

struct Generator<'a> {
    rng: &'a mut Rng,
    forms: &'a [Form],
    /// Functions, and then what else is named.
    labels: Vec<CodeLabel>,
    /// How many slots each function takes off the stack.
    arguments: [u32; FUNCTIONS],
    /// Functions call only later ones.
    first_function: usize,
    loops: u64,
    depth: u32,
    /// Labels whose addresses are constants in the code, and what these were found to be.
    named: Vec<usize>,
    addresses: Vec<u64>,
}

/// A program of at most `most` statements besides its functions, and the state it starts from; `None` if it became too long.
pub fn program(rng: &mut Rng, forms: &[Form], most: usize) -> Option<Machine> {
    let mut memory = values::memory(rng);
    memory[..CODE_PAGES * PAGE as usize].fill(0xcc);
    let start = CODE + rng.u64(0..PAGE / 2);
    // Twice: only then are the addresses known.
    let mut again = rng.clone();
    let addresses = assemble(&mut again, forms, most, start, Vec::new())?.1;
    let (code, _) = assemble(rng, forms, most, start, addresses)?;
    if start + code.len() as u64 > CODE + CODE_PAGES as u64 * PAGE {
        return None;
    }
    let at = layout::offset(start)?;
    memory[at..at + code.len()].copy_from_slice(&code);
    let mut machine = program::machine(rng, memory, start, Mode::Compatible);
    if rng.u8(..) < 220 {
        // Far from where nothing can be written.
        machine.registers.gpr[Register::RDI.number()] = DATA + PAGE + 8 * rng.u64(40..PAGE / 8);
    }
    Some(machine)
}

/// The code of a program, and the addresses that it names.
fn assemble(
    rng: &mut Rng,
    forms: &[Form],
    most: usize,
    start: u64,
    addresses: Vec<u64>,
) -> Option<(Vec<u8>, Vec<u64>)> {
    let mut generator = Generator {
        rng,
        forms,
        labels: Vec::new(),
        arguments: [0; FUNCTIONS],
        first_function: 0,
        loops: 0,
        depth: 0,
        named: Vec::new(),
        addresses,
    };
    let mut a = CodeAssembler::new(32).ok()?;
    generator.all(&mut a, most).ok()?;
    let options = BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS;
    let made = a.assemble_options(start, options).ok()?;
    let addresses = generator
        .named
        .iter()
        .map(|label| made.label_ip(&generator.labels[*label]).ok());
    Some((made.inner.code_buffer.clone(), addresses.collect::<Option<_>>()?))
}

/// A place that the pointers reach, too.
fn data(rng: &mut Rng) -> u32 {
    (DATA + 8 * rng.u64(..PAGE / 4)) as u32
}

/// Whether an instruction's access to memory is one for all processors, told so or not.
fn locks_memory(instr: &Instruction) -> bool {
    let exchanges = instr.mnemonic() == Mnemonic::Xchg;
    instr.has_lock_prefix() || exchanges && (0..2).any(|n| instr.op_kind(n) == OpKind::Memory)
}

impl Generator<'_> {
    fn all(&mut self, a: &mut CodeAssembler, most: usize) -> Built {
        self.arguments = std::array::from_fn(|_| self.rng.u32(..3));
        self.labels = (0..FUNCTIONS).map(|_| a.create_label()).collect();
        for _ in 0..self.rng.usize(1..=most) {
            self.statement(a)?;
        }
        a.int3()?;
        for n in 0..FUNCTIONS {
            a.set_label(&mut self.labels[n])?;
            self.first_function = n + 1;
            self.function(a, self.arguments[n])?;
        }
        a.int3()
    }

    fn function(&mut self, a: &mut CodeAssembler, arguments: u32) -> Built {
        let framed = self.rng.bool();
        if framed {
            // EBP is one of the pointers.
            a.push(ebp)?;
            a.push(edi)?;
        }
        for _ in 0..self.rng.usize(1..3) {
            self.statement(a)?;
        }
        if framed {
            a.pop(edi)?;
            a.pop(ebp)?;
        }
        if self.rng.u8(..5) == 0 {
            a.pop(ecx)?;
            a.lea(esp, dword_ptr(esp + 4 * arguments))?;
            return a.jmp(ecx);
        }
        match arguments {
            0 => a.ret(),
            _ => a.ret_1(4 * arguments),
        }
    }

    fn statement(&mut self, a: &mut CodeAssembler) -> Built {
        match self.rng.u8(..24) {
            0..6 => self.instructions(a),
            6..10 => self.looped(a),
            10..14 => self.call(a),
            14..17 => self.jump(a),
            17..19 => self.stack(a),
            19 => self.strings(a),
            20 => self.frame(a),
            21 => self.segments(a),
            22 => self.addresses(a),
            _ => self.short_forms(a),
        }
    }

    /// A few instructions, none of which changes the flow but by faulting.
    fn instructions(&mut self, a: &mut CodeAssembler) -> Built {
        for _ in 0..self.rng.usize(1..6) {
            let form = &self.forms[self.rng.usize(..self.forms.len())];
            // Most of these want their operands aligned.
            if family(form.code) == Family::Sse && self.rng.u8(..) < 220 {
                continue;
            }
            let Some(mut instr) = program::instruction(self.rng, form) else {
                continue;
            };
            // What locks across two cache lines, again and again in a loop, has some hosts stop the process for seconds.
            if instr.is_stack_instruction() || locks_memory(&instr) {
                continue;
            }
            for n in 0..instr.op_count() {
                let register = instr.op_register(n);
                if instr.op_kind(n) == OpKind::Register && register.full_register() == Register::RSP {
                    instr.set_op_register(n, resized(Register::RDX, register));
                }
            }
            instr.set_ip(0);
            if Encoder::new(32).encode(&instr, 0).is_ok() {
                a.add_instruction(instr)?;
            }
        }
        a.nop()
    }

    fn looped(&mut self, a: &mut CodeAssembler) -> Built {
        if self.depth == 2 || self.loops == MOST_LOOPS {
            return self.instructions(a);
        }
        self.depth += 1;
        let counter = (COUNTERS + 4 * self.loops) as u32;
        self.loops += 1;
        let mut top = a.create_label();
        a.mov(dword_ptr(counter), self.rng.u32(2..12))?;
        a.set_label(&mut top)?;
        a.nop()?;
        for _ in 0..self.rng.usize(1..3) {
            self.statement(a)?;
        }
        a.dec(dword_ptr(counter))?;
        a.jne(top)?;
        self.depth -= 1;
        Ok(())
    }

    /// ECX = a label's address.
    fn load_address(&mut self, a: &mut CodeAssembler, label: usize) -> Built {
        let address = self.addresses.get(self.named.len());
        a.mov(ecx, address.copied().unwrap_or(CODE) as u32)?;
        self.named.push(label);
        Ok(())
    }

    fn call(&mut self, a: &mut CodeAssembler) -> Built {
        if self.first_function >= FUNCTIONS {
            return self.instructions(a);
        }
        let to = self.rng.usize(self.first_function..FUNCTIONS);
        for _ in 0..self.arguments[to] {
            a.push(eax)?;
        }
        match self.rng.u8(..4) {
            0 => {
                self.load_address(a, to)?;
                a.call(ecx)
            }
            1 => {
                self.load_address(a, to)?;
                a.mov(dword_ptr(TARGETS as u32), ecx)?;
                a.call(dword_ptr(TARGETS as u32))
            }
            _ => a.call(self.labels[to]),
        }
    }

    /// Conditional and indirect jumps over an instruction or two.
    fn jump(&mut self, a: &mut CodeAssembler) -> Built {
        let over = self.labels.len();
        self.labels.push(a.create_label());
        let label = self.labels[over];
        match self.rng.u8(..7) {
            0 => a.jbe(label)?,
            1 => a.jo(label)?,
            2 => a.jecxz(label)?,
            3 => {
                self.load_address(a, over)?;
                a.jmp(ecx)?;
            }
            4 => {
                self.load_address(a, over)?;
                a.push(ecx)?;
                a.ret()?;
            }
            5 => {
                self.load_address(a, over)?;
                a.mov(dword_ptr((TARGETS + 4) as u32), ecx)?;
                a.jmp(dword_ptr((TARGETS + 4) as u32))?;
            }
            _ => a.jmp(label)?,
        }
        // JECXZ reaches no further than this.
        a.xor(eax, dword_ptr(data(self.rng)))?;
        a.sbb(edx, ecx)?;
        a.set_label(&mut self.labels[over])?;
        self.instructions(a)
    }

    fn stack(&mut self, a: &mut CodeAssembler) -> Built {
        a.push(eax)?;
        a.push(dword_ptr(data(self.rng)))?;
        a.push(self.rng.i32(..))?;
        a.push(i32::from(self.rng.i8(..)))?;
        a.pushfd()?;
        self.instructions(a)?;
        match self.rng.u8(..4) {
            0 => a.popfd()?,
            1 => {
                a.and(dword_ptr(esp), 2)?;
                a.or(dword_ptr(esp), self.rng.i32(..) & 0x8d5)?;
                a.popfd()?;
            }
            2 => {
                a.push(edx)?;
                a.pop(dword_ptr(esp))?;
                a.pop(ecx)?;
            }
            _ => a.pop(ecx)?,
        }
        a.add(eax, dword_ptr(esp + 4))?;
        a.pop(edx)?;
        a.push(ax)?;
        a.pop(cx)?;
        a.pop(dword_ptr(data(self.rng)))?;
        a.lea(esp, dword_ptr(esp + 12))?;
        a.sub(esp, 4)
    }

    /// Frames as compilers make them, and as nobody does.
    fn frame(&mut self, a: &mut CodeAssembler) -> Built {
        let size = 4 * self.rng.u32(1..6);
        match self.rng.u8(..4) {
            0 => a.enter(size, self.rng.u32(..3))?,
            1 => {
                a.pushad()?;
                self.instructions(a)?;
                return a.popad();
            }
            _ => {
                a.push(ebp)?;
                a.mov(ebp, esp)?;
                a.sub(esp, size as i32)?;
            }
        }
        a.mov(dword_ptr(ebp - 4), eax)?;
        a.adc(dword_ptr(esp), ecx)?;
        a.mov(edx, 4)?;
        a.mov(edx, dword_ptr(esp + edx * 1 - 4))?;
        a.leave()
    }

    fn strings(&mut self, a: &mut CodeAssembler) -> Built {
        if self.rng.u8(..) < 200 {
            a.cld()?;
        }
        a.mov(ecx, self.rng.u32(..40))?;
        match self.rng.u8(..7) {
            0 => a.rep().movsb(),
            1 => a.rep().stosd(),
            2 => a.repe().cmpsb(),
            3 => a.repne().scasb(),
            4 => a.movsw(),
            5 => a.stosb(),
            _ => a.lodsd(),
        }
    }

    /// Accesses by other segments, whose base is zero.
    fn segments(&mut self, a: &mut CodeAssembler) -> Built {
        let at = data(self.rng);
        a.mov(eax, dword_ptr(at).fs())?;
        a.add(dword_ptr(ebx).gs(), ecx)?;
        a.mov(edx, at)?;
        a.xor(eax, dword_ptr(edx + 4).ss())?;
        a.add(ecx, dword_ptr(edx + 8).cs())?;
        a.mov(dword_ptr(edx + 8).es(), eax)?;
        a.mov(ax, fs)
    }

    /// Addresses whose sum wraps, and those of 16 bits.
    fn addresses(&mut self, a: &mut CodeAssembler) -> Built {
        let at = data(self.rng);
        let part = self.rng.u32(..);
        a.mov(ecx, part)?;
        a.mov(edx, at.wrapping_sub(part.wrapping_mul(4)))?;
        a.add(eax, dword_ptr(edx + ecx * 4))?;
        a.lea(eax, dword_ptr(edx + ecx * 8 - 5))?;
        a.mov(edx, at.wrapping_sub(part))?;
        a.inc(dword_ptr(edx + part as i32))?;
        // LEA EAX, [BX + SI - 3]
        a.db(&[0x67, 0x8d, 0x40, 0xfd])?;
        a.lea(dx, dword_ptr(ecx + 1))
    }

    /// Encodings that are something else in 64-bit code.
    fn short_forms(&mut self, a: &mut CodeAssembler) -> Built {
        for _ in 0..self.rng.usize(1..5) {
            let at = data(self.rng).to_le_bytes();
            let register = [0, 1, 2][self.rng.usize(..3)];
            match self.rng.u8(..8) {
                0 => a.db(&[0x40 | register])?,
                1 => a.db(&[0x48 | register])?,
                2 => a.db(&[0x66, 0x40 | register])?,
                3 => a.db(&[0xa1, at[0], at[1], at[2], at[3]])?,
                4 => a.db(&[0xa2, at[0], at[1], at[2], at[3]])?,
                5 => a.db(&[0x66, 0xa3, at[0], at[1], at[2], at[3]])?,
                6 => a.db(&[0x82, 0xc0 | register | 0x10, self.rng.u8(..)])?,
                _ => a.db(&[0x44, 0x4c])?,
            }
        }
        a.nop()
    }
}
