//! Writing host code: the few fixed instructions that surround the guest's own.
//!
//! Nothing here knows the guest. Registers are numbered as the processor does; `GS:[offset]` is the context of
//! [`crate::context`].

use iced_x86::{Encoder, IcedError, Instruction};

/// A host register, by the processor's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

pub const RAX: Reg = Reg(0);
pub const RCX: Reg = Reg(1);
pub const RDX: Reg = Reg(2);
pub const RBX: Reg = Reg(3);
pub const RSP: Reg = Reg(4);
pub const RBP: Reg = Reg(5);
pub const RSI: Reg = Reg(6);
pub const RDI: Reg = Reg(7);
pub const R12: Reg = Reg(12);
/// The guest's RSP.
pub const R13: Reg = Reg(13);
/// Scratch.
pub const R14: Reg = Reg(14);
/// Scratch.
pub const R15: Reg = Reg(15);

impl Reg {
    fn low(self) -> u8 {
        self.0 & 7
    }

    fn high(self) -> u8 {
        self.0 >> 3
    }
}

/// How wide the guest's addresses are, and with them the slots of its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    Four,
    Eight,
}

impl Width {
    pub fn bytes(self) -> i32 {
        match self {
            Width::Four => 4,
            Width::Eight => 8,
        }
    }

    /// The REX prefix of an operation so wide.
    fn rex(self) -> u8 {
        match self {
            Width::Four => 0x40,
            Width::Eight => 0x48,
        }
    }
}

/// A place in the code being written, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(pub u32);

/// A forward reference: four bytes of a jump's distance, yet to be filled in.
#[derive(Debug)]
#[must_use]
pub struct Forward(At);

/// The same of a short jump: one byte.
#[derive(Debug)]
#[must_use]
pub struct ShortForward(At);

/// Conditions, by their number in the opcode.
pub const E: u8 = 4;
pub const NE: u8 = 5;
pub const BE: u8 = 6;
pub const A: u8 = 7;

/// Code being written, to be executed at `base`.
pub struct Emitter {
    pub bytes: Vec<u8>,
    base: u64,
    encoder: Encoder,
}

impl Emitter {
    pub fn new(base: u64) -> Emitter {
        Emitter {
            bytes: Vec::with_capacity(1024),
            base,
            encoder: Encoder::new(64),
        }
    }

    pub fn here(&self) -> At {
        At(self.bytes.len() as u32)
    }

    /// The address that a place will have.
    pub fn address(&self, at: At) -> u64 {
        self.base + u64::from(at.0)
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn imm32(&mut self, value: i32) {
        self.raw(&value.to_le_bytes());
    }

    /// Forgets everything from `at` on.
    pub fn rewind(&mut self, at: At) {
        self.bytes.truncate(at.0 as usize);
    }

    /// An instruction made by the encoder; nothing is written if it cannot be encoded.
    pub fn instruction(&mut self, instr: &Instruction) -> Result<(), IcedError> {
        let at = self.address(self.here());
        self.encoder.encode(instr, at)?;
        let code = self.encoder.take_buffer();
        self.raw(&code);
        self.encoder.set_buffer(code_buffer(code));
        Ok(())
    }

    /// An instruction whose operand is GS:[offset]: what comes before its ModRM byte, the field in that byte, and what follows the
    /// address.
    pub fn on_gs(&mut self, opcode: &[u8], field: u8, offset: usize, immediate: &[u8]) {
        self.raw(&[0x65]);
        self.raw(opcode);
        self.raw(&[field << 3 | 4, 0x25]);
        self.imm32(offset as i32);
        self.raw(immediate);
    }

    /// An instruction with `reg` and GS:[offset] as its operands, 64 bits wide.
    fn gs(&mut self, opcode: u8, reg: Reg, offset: usize) {
        self.on_gs(&[0x48 | reg.high() << 2, opcode], reg.low(), offset, &[]);
    }

    /// reg = GS:[offset]
    pub fn load(&mut self, reg: Reg, offset: usize) {
        self.gs(0x8b, reg, offset);
    }

    /// GS:[offset] = reg
    pub fn store(&mut self, offset: usize, reg: Reg) {
        self.gs(0x89, reg, offset);
    }

    /// reg += GS:[offset]; changes flags.
    pub fn add_from(&mut self, reg: Reg, offset: usize) {
        self.gs(0x03, reg, offset);
    }

    /// reg -= GS:[offset]; changes flags.
    pub fn subtract_from(&mut self, reg: Reg, offset: usize) {
        self.gs(0x2b, reg, offset);
    }

    /// Compares reg with GS:[offset].
    pub fn compare_with(&mut self, reg: Reg, offset: usize) {
        self.gs(0x3b, reg, offset);
    }

    /// GS:[offset] = value, sign-extended to 64 bits.
    pub fn store_constant(&mut self, offset: usize, value: i32) {
        self.on_gs(&[0x48, 0xc7], 0, offset, &value.to_le_bytes());
    }

    /// Compares reg, 64 bits, with a value that is sign-extended.
    pub fn compare_constant(&mut self, reg: Reg, value: i32) {
        self.raw(&[0x48 | reg.high(), 0x81, 0xf8 | reg.low()]);
        self.imm32(value);
    }

    /// Compares reg, 64 bits, with a word near the code, to be bound later.
    pub fn compare_with_near(&mut self, reg: Reg) -> Forward {
        self.raw(&[0x48 | reg.high() << 2, 0x3b, 0x05 | reg.low() << 3, 0, 0, 0, 0]);
        Forward(At(self.here().0 - 4))
    }

    /// Jumps or calls through a word of memory near the code.
    pub fn jump_through_near(&mut self, word: u64) {
        self.raw(&[0xff, 0x25]);
        self.relative(word);
    }

    pub fn call_through_near(&mut self, word: u64) {
        self.raw(&[0xff, 0x15]);
        self.relative(word);
    }

    pub fn ret(&mut self) {
        self.raw(&[0xc3]);
    }

    /// A call to be bound later.
    pub fn call(&mut self) -> Forward {
        self.raw(&[0xe8, 0, 0, 0, 0]);
        Forward(At(self.here().0 - 4))
    }

    /// Jumps to an absolute address within reach if the condition holds.
    pub fn jump_if_address(&mut self, condition: u8, address: u64) {
        self.raw(&[0x0f, 0x80 | condition]);
        self.relative(address);
    }

    /// JMP GS:[offset]
    pub fn jump_through(&mut self, offset: usize) {
        self.on_gs(&[0xff], 4, offset, &[]);
    }

    /// An instruction with `reg` and [base + displacement] as its operands. `base` is neither RSP nor R12.
    fn at(&mut self, width: Width, opcode: u8, reg: u8, base: Reg, displacement: i32) {
        let rex = width.rex() | reg >> 3 << 2 | base.high();
        let fields = (reg & 7) << 3 | base.low();
        match i8::try_from(displacement) {
            Ok(short) => self.raw(&[rex, opcode, 0x40 | fields, short as u8]),
            Err(_) => {
                self.raw(&[rex, opcode, 0x80 | fields]);
                self.imm32(displacement);
            }
        }
    }

    /// reg = [base + displacement]
    pub fn load_at(&mut self, reg: Reg, base: Reg, displacement: i32) {
        self.load_as(Width::Eight, reg, base, displacement);
    }

    /// The same so wide; the rest of `reg` becomes zero.
    pub fn load_as(&mut self, width: Width, reg: Reg, base: Reg, displacement: i32) {
        self.at(width, 0x8b, reg.0, base, displacement);
    }

    /// [base + displacement] = reg, so wide.
    pub fn store_as(&mut self, width: Width, base: Reg, displacement: i32, reg: Reg) {
        self.at(width, 0x89, reg.0, base, displacement);
    }

    /// [base + displacement] = value, sign-extended to that width.
    pub fn store_constant_as(&mut self, width: Width, base: Reg, displacement: i32, value: i32) {
        self.at(width, 0xc7, 0, base, displacement);
        self.imm32(value);
    }

    /// reg = base + scale * scaled, 64 bits.
    pub fn lea_scaled(&mut self, reg: Reg, base: Reg, scaled: Reg, scale: u8) {
        self.lea_scaled_as(Width::Eight, reg, base, scaled, scale);
    }

    /// The same so wide; the rest of `reg` becomes zero.
    pub fn lea_scaled_as(&mut self, width: Width, reg: Reg, base: Reg, scaled: Reg, scale: u8) {
        let rex = width.rex() | reg.high() << 2 | scaled.high() << 1 | base.high();
        let sib = (scale.trailing_zeros() as u8) << 6 | scaled.low() << 3 | base.low();
        if base.low() == 5 {
            self.raw(&[rex, 0x8d, 0x44 | reg.low() << 3, sib, 0]);
        } else {
            self.raw(&[rex, 0x8d, 0x04 | reg.low() << 3, sib]);
        }
    }

    /// reg = base + displacement; leaves flags.
    pub fn lea(&mut self, reg: Reg, base: Reg, displacement: i32) {
        self.lea_as(Width::Eight, reg, base, displacement);
    }

    /// The same so wide; the rest of `reg` becomes zero.
    pub fn lea_as(&mut self, width: Width, reg: Reg, base: Reg, displacement: i32) {
        if displacement == 0 {
            // Which takes the processor no time.
            return self.mov_as(width, reg, base);
        }
        let rex = width.rex() | reg.high() << 2 | base.high();
        let needs_sib = base.low() == 4;
        let short = i8::try_from(displacement).is_ok();
        let mode = if short { 0x40 } else { 0x80 };
        self.raw(&[rex, 0x8d, mode | reg.low() << 3 | base.low()]);
        if needs_sib {
            self.raw(&[0x24]);
        }
        if short {
            self.raw(&[displacement as u8]);
        } else {
            self.imm32(displacement);
        }
    }

    /// to = from, 64 bits.
    pub fn mov(&mut self, to: Reg, from: Reg) {
        if to == from {
            return;
        }
        self.raw(&[
            0x48 | from.high() << 2 | to.high(),
            0x89,
            0xc0 | from.low() << 3 | to.low(),
        ]);
    }

    /// to = from, so wide; the rest of `to` becomes zero.
    pub fn mov_as(&mut self, width: Width, to: Reg, from: Reg) {
        match width {
            Width::Four => self.mov32(to, from),
            Width::Eight => self.mov(to, from),
        }
    }

    /// The lower half of `to` = that of `from`; the upper becomes zero.
    pub fn mov32(&mut self, to: Reg, from: Reg) {
        self.raw(&[
            0x40 | from.high() << 2 | to.high(),
            0x89,
            0xc0 | from.low() << 3 | to.low(),
        ]);
    }

    /// reg = value, as short as it can be said; leaves flags.
    pub fn constant(&mut self, reg: Reg, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            if reg.high() != 0 {
                self.raw(&[0x41]);
            }
            self.raw(&[0xb8 | reg.low()]);
            self.raw(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.raw(&[0x48 | reg.high(), 0xc7, 0xc0 | reg.low()]);
            self.imm32(value);
        } else {
            self.raw(&[0x48 | reg.high(), 0xb8 | reg.low()]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// Jumps if the condition holds.
    pub fn jump_if(&mut self, condition: u8) -> Forward {
        self.raw(&[0x0f, 0x80 | condition, 0, 0, 0, 0]);
        Forward(At(self.here().0 - 4))
    }

    pub fn jump(&mut self) -> Forward {
        self.raw(&[0xe9, 0, 0, 0, 0]);
        Forward(At(self.here().0 - 4))
    }

    /// Jumps if RCX is zero; leaves flags.
    pub fn jump_if_rcx_zero(&mut self) -> ShortForward {
        self.raw(&[0xe3, 0]);
        ShortForward(At(self.here().0 - 1))
    }

    /// Jumps back.
    pub fn jump_to(&mut self, to: At) {
        let forward = self.jump();
        self.bind_at(forward, to);
    }

    /// Calls what was written before.
    pub fn call_to(&mut self, to: At) {
        self.call_address(self.address(to));
    }

    /// CALL GS:[offset]
    pub fn call_through(&mut self, offset: usize) {
        self.on_gs(&[0xff], 2, offset, &[]);
    }

    /// Calls or jumps to an absolute address within reach.
    pub fn call_address(&mut self, address: u64) {
        self.raw(&[0xe8]);
        self.relative(address);
    }

    pub fn jump_address(&mut self, address: u64) {
        self.raw(&[0xe9]);
        self.relative(address);
    }

    fn relative(&mut self, address: u64) {
        let next = self.address(self.here()) + 4;
        self.imm32(address.wrapping_sub(next) as i32);
    }

    /// Makes a forward jump come here.
    pub fn bind(&mut self, forward: Forward) {
        let here = self.here();
        self.bind_at(forward, here);
    }

    /// Makes a forward jump lead to an absolute address within reach.
    pub fn bind_to(&mut self, Forward(at): Forward, address: u64) {
        let distance = address.wrapping_sub(self.address(at) + 4) as u32;
        let at = at.0 as usize;
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }

    fn bind_at(&mut self, Forward(at): Forward, to: At) {
        let distance = to.0.wrapping_sub(at.0 + 4);
        let at = at.0 as usize;
        self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    }

    pub fn bind_short(&mut self, ShortForward(at): ShortForward) {
        let distance = self.here().0 - (at.0 + 1);
        debug_assert!(distance < 128);
        self.bytes[at.0 as usize] = distance as u8;
    }

    /// Where a forward jump's distance is.
    pub fn site(&self, Forward(at): &Forward) -> At {
        *at
    }
}

/// Emptied, for the encoder to fill again.
fn code_buffer(mut used: Vec<u8>) -> Vec<u8> {
    used.clear();
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

    fn listing(write: impl FnOnce(&mut Emitter)) -> Vec<String> {
        let mut emitter = Emitter::new(0x1000);
        write(&mut emitter);
        let mut formatter = IntelFormatter::new();
        let mut decoder = Decoder::with_ip(64, &emitter.bytes, 0x1000, DecoderOptions::NONE);
        let mut lines = Vec::new();
        while decoder.can_decode() {
            let mut line = String::new();
            formatter.format(&decoder.decode(), &mut line);
            lines.push(line);
        }
        lines
    }

    #[test]
    fn each_primitive_is_the_instruction_it_says() {
        let lines = listing(|e| {
            e.load(R14, 0x80);
            e.store(0x88, RCX);
            e.add_from(R14, 0x90);
            e.jump_through(0xa0);
            e.subtract_from(R15, 0x98);
            e.compare_with(RSP, 0x98);
            e.store_constant(0x98, -3);
            e.compare_constant(R14, -5);
            let near = e.compare_with_near(R14);
            e.bind(near);
            e.load_at(R14, R14, 24);
            e.store_as(Width::Eight, R15, 8, R14);
            e.load_at(RBP, R15, 0x200);
            e.store_constant_as(Width::Eight, R15, 0, -2);
            e.lea_scaled(R15, RCX, R15, 8);
            e.load_as(Width::Four, R14, R15, 4);
            e.store_as(Width::Four, R15, -4, RBX);
            e.store_constant_as(Width::Four, R15, 0, -2);
            e.lea_scaled_as(Width::Four, R15, RCX, R15, 4);
            e.lea_as(Width::Four, R13, R13, -4);
            e.lea_as(Width::Four, R15, RBP, 0);
            e.lea(R13, R13, -8);
            e.lea(R13, RSP, 0x100);
            e.mov(R13, RBP);
            e.mov32(R14, R15);
            e.constant(R14, 5);
            e.constant(RCX, u64::MAX);
            e.constant(R15, 0x1234_5678_9abc_def0);
            e.call_address(0x2000);
        });
        let expected = [
            "mov r14,gs:[80h]",
            "mov gs:[88h],rcx",
            "add r14,gs:[90h]",
            "jmp qword ptr gs:[0A0h]",
            "sub r15,gs:[98h]",
            "cmp rsp,gs:[98h]",
            "mov qword ptr gs:[98h],0FFFFFFFFFFFFFFFDh",
            "cmp r14,0FFFFFFFFFFFFFFFBh",
            "cmp r14,[1050h]",
            "mov r14,[r14+18h]",
            "mov [r15+8],r14",
            "mov rbp,[r15+200h]",
            "mov qword ptr [r15],0FFFFFFFFFFFFFFFEh",
            "lea r15,[rcx+r15*8]",
            "mov r14d,[r15+4]",
            "mov [r15-4],ebx",
            "mov dword ptr [r15],0FFFFFFFEh",
            "lea r15d,[rcx+r15*4]",
            "lea r13d,[r13-4]",
            "mov r15d,ebp",
            "lea r13,[r13-8]",
            "lea r13,[rsp+100h]",
            "mov r13,rbp",
            "mov r14d,r15d",
            "mov r14d,5",
            "mov rcx,0FFFFFFFFFFFFFFFFh",
            "mov r15,123456789ABCDEF0h",
            "call 0000000000002000h",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn jumps_reach_their_labels() {
        let lines = listing(|e| {
            let start = e.here();
            let out = e.jump_if(NE);
            let near = e.jump_if_rcx_zero();
            e.jump_to(start);
            e.bind_short(near);
            e.bind(out);
            e.raw(&[0x90]);
        });
        assert_eq!(
            lines,
            [
                "jne 000000000000100Dh",
                "jrcxz 000000000000100Dh",
                "jmp 0000000000001000h",
                "nop"
            ]
        );
    }
}
