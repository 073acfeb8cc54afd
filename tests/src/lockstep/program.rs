//! Random programs for the little kernel: loops, calls, indirect jumps, several pages and stacks, both levels, privileged
//! instructions, edits of page tables and of the code itself, and faults of all kinds.
//!
//! A program is a row of statements, each with a place to land at if something goes wrong in it ([`kernel`]). What is at the
//! mercy of the processor (which translations it keeps) is settled within a statement: edits end in an invalidation.

mod privileged;

use super::kernel::{self, *};
use crate::bare::places::*;
use crate::bare::world::BareWorld;
use crate::oracle::forms::Form;
use crate::oracle::program::instruction;
use fastrand::Rng;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Encoder, IcedError, OpKind, Register};

pub(super) type Built = Result<(), IcedError>;

const FUNCTIONS: usize = 5;
const USER_PROGRAMS: usize = 3;

pub struct Program {
    kernel: Vec<u8>,
    user: Vec<u8>,
}

pub(super) struct Generator<'a> {
    rng: &'a mut Rng,
    forms: &'a [Form],
    entries: &'a Entries,
    /// Those that may be called: functions call only later ones.
    functions: Vec<CodeLabel>,
    first_function: usize,
    /// Where programs of level 3 begin.
    user: Vec<u64>,
    counters: u64,
    /// How many loops are around.
    depth: u32,
}

impl Program {
    /// A program of about so many statements.
    pub fn random(rng: &mut Rng, forms: &[Form], entries: &Entries, most: usize) -> Option<Program> {
        let mut generator = Generator {
            rng,
            forms,
            entries,
            functions: Vec::new(),
            first_function: 0,
            user: Vec::new(),
            counters: 0,
            depth: 0,
        };
        let user = generator.user_programs().ok()?;
        let mut a = CodeAssembler::new(64).ok()?;
        generator.kernel_program(&mut a, most).ok()?;
        let kernel = a.assemble(CODE).ok()?;
        let fits = kernel.len() as u64 <= CODE_PAGES * PAGE && user.len() as u64 <= USER_CODE_PAGES * PAGE;
        fits.then_some(Program { kernel, user })
    }

    /// Puts it in memory, with its instructions' lengths, and random data.
    pub fn write(&self, world: &mut BareWorld, rng: &mut Rng) {
        let parts = [(CODE, CODE, &self.kernel), (USER_FRAMES, USER_CODE, &self.user)];
        for (frame, linear, code) in parts {
            world.poke(frame, code);
            for instr in Decoder::with_ip(64, code, linear, DecoderOptions::NONE) {
                let at = LENGTHS + (frame - CODE) + (instr.ip() - linear);
                world.poke(at, &[instr.len() as u8]);
            }
        }
        for at in (DATA_FRAMES..DATA_FRAMES + DATA_PAGES * PAGE).step_by(8) {
            world.put(at, crate::oracle::values::integer(rng));
        }
    }

    /// The instructions, for a failure's account.
    pub fn listing(&self) -> Vec<String> {
        [(CODE, &self.kernel), (USER_CODE, &self.user)]
            .into_iter()
            .flat_map(|(at, code)| Decoder::with_ip(64, code, at, DecoderOptions::NONE))
            .map(|instr| format!("{:x}: {instr}", instr.ip()))
            .collect()
    }
}

impl Generator<'_> {
    fn kernel_program(&mut self, a: &mut CodeAssembler, most: usize) -> Built {
        self.functions = (0..FUNCTIONS).map(|_| a.create_label()).collect();
        let mut end = a.create_label();
        self.pointers(a)?;
        for _ in 0..self.rng.usize(1..=most) {
            let mut landing = a.create_label();
            a.lea(r14, ptr(landing))?;
            a.mov(qword_ptr(LANDING), r14)?;
            if self.rng.u8(..) < 40 {
                self.pointers(a)?;
            }
            self.statement(a)?;
            a.set_label(&mut landing)?;
            a.nop()?;
        }
        a.set_label(&mut end)?;
        a.hlt()?;
        for n in 0..FUNCTIONS {
            a.nops_with_size(self.rng.usize(1..400))?;
            let mut label = self.functions[n];
            a.set_label(&mut label)?;
            self.functions[n] = label;
            self.first_function = n + 1;
            self.function(a)?;
        }
        Ok(())
    }

    fn function(&mut self, a: &mut CodeAssembler) -> Built {
        self.instructions(a)?;
        if self.rng.bool() {
            self.call(a)?;
        }
        if self.rng.u8(..) < 60 {
            self.looped(a)?;
        }
        match self.rng.u8(..8) {
            0 => a.ret_1(8 * self.rng.u32(..3)),
            1 if self.first_function < FUNCTIONS => {
                // A tail call.
                let to = self.functions[self.rng.usize(self.first_function..FUNCTIONS)];
                a.jmp(to)
            }
            2 => {
                a.pop(r14)?;
                a.jmp(r14)
            }
            _ => a.ret(),
        }
    }

    /// A few instructions, none of which changes the flow but by faulting.
    pub(super) fn instructions(&mut self, a: &mut CodeAssembler) -> Built {
        for _ in 0..self.rng.usize(1..6) {
            let form = &self.forms[self.rng.usize(..self.forms.len())];
            let Some(mut instr) = instruction(self.rng, form) else {
                continue;
            };
            for n in 0..instr.op_count() {
                let stack = instr.op_kind(n) == OpKind::Register
                    && instr.op_register(n).full_register() == Register::RSP;
                if stack && self.rng.u8(..) < 250 {
                    let register = instr.op_register(n);
                    let like = match register.size() {
                        1 => Register::R14L,
                        2 => Register::R14W,
                        4 => Register::R14D,
                        _ => Register::R14,
                    };
                    instr.set_op_register(n, like);
                }
            }
            // Some forms cannot have what their operand was made.
            instr.set_ip(0);
            if Encoder::new(64).encode(&instr, 0).is_ok() {
                a.add_instruction(instr)?;
            }
        }
        a.nop()
    }

    /// The registers that memory operands are off.
    pub(super) fn pointers(&mut self, a: &mut CodeAssembler) -> Built {
        for register in [rbx, rsi, rdi, r13] {
            let page = DATA + self.rng.u64(..DATA_PAGES) * PAGE;
            let offset = match self.rng.u8(..4) {
                0 => PAGE - self.rng.u64(..40),
                _ => self.rng.u64(..PAGE / 8) * 8,
            };
            a.mov(register, page + offset)?;
        }
        Ok(())
    }

    fn statement(&mut self, a: &mut CodeAssembler) -> Built {
        match self.rng.u8(..32) {
            0..6 => self.instructions(a),
            6..9 => self.looped(a),
            9..12 => self.call(a),
            12 => self.jump(a),
            13 => self.stack(a),
            14 => self.other_stack(a),
            15 => self.own_code(a),
            16 => self.alias(a),
            17 => self.strings(a),
            18..20 => self.level_3(a),
            20..23 => self.page_tables(a),
            23 => self.wrong(a),
            _ => self.privileged(a),
        }
    }

    /// A loop around a statement or two, in which other loops may be.
    fn looped(&mut self, a: &mut CodeAssembler) -> Built {
        if self.depth == 2 || self.counters == 60 {
            return self.instructions(a);
        }
        self.depth += 1;
        let counter = COUNTERS + 8 * self.counters;
        self.counters += 1;
        let mut top = a.create_label();
        a.mov(qword_ptr(counter), self.rng.i32(2..24))?;
        a.set_label(&mut top)?;
        a.nop()?;
        for _ in 0..self.rng.usize(1..3) {
            match self.rng.u8(..6) {
                0 => self.call(a)?,
                1 => self.looped(a)?,
                2 => self.privileged(a)?,
                3 => self.stack(a)?,
                _ => self.instructions(a)?,
            }
        }
        a.dec(qword_ptr(counter))?;
        a.jne(top)?;
        self.depth -= 1;
        Ok(())
    }

    fn call(&mut self, a: &mut CodeAssembler) -> Built {
        if self.first_function >= FUNCTIONS {
            return self.instructions(a);
        }
        let to = self.functions[self.rng.usize(self.first_function..FUNCTIONS)];
        for _ in 0..self.rng.usize(..3) {
            a.push(r8)?;
        }
        match self.rng.u8(..4) {
            0 => {
                a.lea(r14, ptr(to))?;
                a.call(r14)
            }
            1 => {
                a.lea(r14, ptr(to))?;
                a.mov(qword_ptr(TARGETS), r14)?;
                a.call(qword_ptr(TARGETS))
            }
            _ => a.call(to),
        }
    }

    /// Conditional and indirect jumps over an instruction or two.
    fn jump(&mut self, a: &mut CodeAssembler) -> Built {
        let mut over = a.create_label();
        match self.rng.u8(..5) {
            0 => a.jbe(over)?,
            1 => a.jo(over)?,
            2 => {
                a.lea(r14, ptr(over))?;
                a.jmp(r14)?;
            }
            3 => {
                a.lea(r14, ptr(over))?;
                a.push(r14)?;
                a.ret()?;
            }
            _ => {
                a.lea(r14, ptr(over))?;
                a.mov(qword_ptr(TARGETS + 8), r14)?;
                a.jmp(qword_ptr(TARGETS + 8))?;
            }
        }
        self.instructions(a)?;
        a.set_label(&mut over)?;
        self.instructions(a)
    }

    fn stack(&mut self, a: &mut CodeAssembler) -> Built {
        a.push(rax)?;
        a.push(qword_ptr(SCRATCH))?;
        a.pushfq()?;
        self.instructions(a)?;
        match self.rng.u8(..4) {
            0 => a.popfq()?,
            1 => {
                // Any arithmetic flags, direction, alignment; now and then the trap flag.
                let mask = if self.rng.u8(..) < 40 { 0x4_0dd5 } else { 0x8d5 };
                a.and(qword_ptr(rsp), 2)?;
                a.or(qword_ptr(rsp), self.rng.i32(..) & mask)?;
                a.popfq()?;
                a.cld()?;
            }
            _ => a.pop(r9)?,
        }
        a.pop(qword_ptr(SCRATCH + 8))?;
        a.pop(rcx)
    }

    fn other_stack(&mut self, a: &mut CodeAssembler) -> Built {
        a.mov(qword_ptr(SAVED_RSP), rsp)?;
        // Sometimes in the data, across a page's end.
        let top = if self.rng.bool() {
            OTHER_STACK
        } else {
            DATA + PAGE + self.rng.u64(..4) * 4
        };
        a.mov(rsp, top)?;
        self.stack(a)?;
        self.call(a)?;
        a.mov(rsp, qword_ptr(SAVED_RSP))
    }

    /// Stores into an instruction that follows, in the same block or in another.
    fn own_code(&mut self, a: &mut CodeAssembler) -> Built {
        let mut patched = a.create_label();
        a.lea(r14, ptr(patched))?;
        a.mov(byte_ptr(r14), r8b)?;
        if self.rng.bool() {
            let mut next = a.create_label();
            a.jmp(next)?;
            a.set_label(&mut next)?;
        }
        self.instructions(a)?;
        // ADD R9, imm32
        a.db(&[0x49, 0x81, 0xc1])?;
        a.set_label(&mut patched)?;
        a.dd(&[self.rng.u32(..)])
    }

    /// Goes on at another linear address of the first page for a while.
    fn alias(&mut self, a: &mut CodeAssembler) -> Built {
        let (mut there, mut back) = (a.create_label(), a.create_label());
        a.lea(r14, ptr(back))?;
        a.push(r14)?;
        a.lea(r14, ptr(there))?;
        a.add(r14, (ALIAS - CODE) as i32)?;
        a.jmp(r14)?;
        a.set_label(&mut there)?;
        self.instructions(a)?;
        a.ret()?;
        a.set_label(&mut back)?;
        a.nop()
    }

    fn strings(&mut self, a: &mut CodeAssembler) -> Built {
        a.mov(ecx, self.rng.u32(..70))?;
        match self.rng.u8(..5) {
            0 => a.rep().movsb(),
            1 => a.rep().stosq(),
            2 => a.repe().cmpsb(),
            3 => a.repne().scasb(),
            _ => a.lodsd(),
        }
    }

    fn level_3(&mut self, a: &mut CodeAssembler) -> Built {
        let to = self.user[self.rng.usize(..self.user.len())];
        if self.rng.bool() {
            a.swapgs()?;
        }
        a.push(i32::from(DATA3))?;
        a.mov(r14, USER_STACK - 8 * self.rng.u64(..8))?;
        a.push(r14)?;
        a.push(0x202 | self.rng.i32(..) & 0x8d5)?;
        a.push(i32::from(CODE3))?;
        a.push(to as i32)?;
        if self.rng.bool() {
            return a.iretq();
        }
        // By SYSRET, with the same.
        a.mov(rcx, to)?;
        a.mov(r11d, 0x202 | self.rng.u32(..) & 0x8d5)?;
        a.mov(rsp, r14)?;
        a.sysretq()
    }

    /// Programs of level 3, one after the other; their addresses stay in `user`.
    fn user_programs(&mut self) -> Result<Vec<u8>, IcedError> {
        // Functions are level 0's.
        self.first_function = FUNCTIONS;
        let mut code = Vec::new();
        for _ in 0..USER_PROGRAMS {
            let at = USER_CODE + code.len() as u64;
            self.user.push(at);
            let mut a = CodeAssembler::new(64)?;
            self.pointers(&mut a)?;
            for _ in 0..self.rng.usize(1..7) {
                match self.rng.u8(..9) {
                    0 => self.user_loop(&mut a)?,
                    1 => a.syscall()?,
                    2 => a.int(0x80)?,
                    3 => self.jump(&mut a)?,
                    4 => self.strings(&mut a)?,
                    5 => self.own_code(&mut a)?,
                    6 => self.pointers(&mut a)?,
                    _ => self.instructions(&mut a)?,
                }
            }
            a.int(0x81)?;
            // Over the first page's end, sometimes.
            a.nops_with_size(self.rng.usize(1..1500))?;
            code.extend(a.assemble(at)?);
        }
        self.first_function = 0;
        Ok(code)
    }

    fn user_loop(&mut self, a: &mut CodeAssembler) -> Built {
        let mut top = a.create_label();
        a.mov(ebp, self.rng.u32(2..20))?;
        a.set_label(&mut top)?;
        a.add(rax, rbp)?;
        a.mov(rcx, qword_ptr(rsp - 8))?;
        a.push(rcx)?;
        if self.rng.bool() {
            a.syscall()?;
        }
        a.pop(rdx)?;
        a.dec(ebp)?;
        a.jne(top)
    }

    pub(super) fn entry_of_data(&mut self) -> (u64, u64) {
        let n = self.rng.usize(..self.entries.data.len());
        (self.entries.data[n], kernel::DATA + n as u64 * PAGE)
    }
}
