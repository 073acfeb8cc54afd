//! The instructions that move control state rather than compute: FLDCW, FNSTENV, FNSAVE, LDMXCSR, VZEROUPPER and their
//! kin, done on [`VectorState`] in plain Rust, their memory operand in the frame like any other step's.

use iced_x86::{CodeSize, Instruction, Mnemonic};

use super::state::EXCEPTIONS;
use super::{EnvLayout, NativeFrame, Outcome, VectorState, X87, X87Pointers};

/// A step that is not a thunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Fninit,
    Fnclex,
    Nothing,
    /// FNOP, which waits.
    Wait,
    Fldcw,
    Fnstcw,
    FnstswMemory,
    FnstswAx,
    Fnstenv(Width),
    Fldenv(Width),
    Fnsave(Width),
    Frstor(Width),
    Ldmxcsr,
    Stmxcsr,
    /// Of so many registers: 32-bit code has only eight.
    Vzeroupper(usize),
    Vzeroall(usize),
}

/// Operand size of an environment image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Word,
    Dword,
}

impl Width {
    fn bytes(self) -> usize {
        match self {
            Self::Word => 14,
            Self::Dword => 28,
        }
    }
}

impl Control {
    pub(super) fn of(instr: &Instruction) -> Option<Self> {
        use Mnemonic::*;
        let width = match instr.memory_size().size() {
            14 | 94 => Width::Word,
            _ => Width::Dword,
        };
        Some(match instr.mnemonic() {
            Fninit => Self::Fninit,
            Fnclex => Self::Fnclex,
            Fneni | Fndisi | Fnsetpm => Self::Nothing,
            Fnop => Self::Wait,
            Fldcw => Self::Fldcw,
            Fnstcw => Self::Fnstcw,
            Fnstsw if instr.memory_size().size() == 2 => Self::FnstswMemory,
            Fnstsw => Self::FnstswAx,
            Fnstenv => Self::Fnstenv(width),
            Fldenv => Self::Fldenv(width),
            Fnsave => Self::Fnsave(width),
            Frstor => Self::Frstor(width),
            Ldmxcsr | Vldmxcsr => Self::Ldmxcsr,
            Stmxcsr | Vstmxcsr => Self::Stmxcsr,
            Vzeroupper => Self::Vzeroupper(registers(instr)),
            Vzeroall => Self::Vzeroall(registers(instr)),
            _ => return None,
        })
    }

    /// Do FWAIT-like checks for a pending exception precede it?
    pub(super) fn waits(self) -> bool {
        matches!(self, Self::Fldcw | Self::Fldenv(_) | Self::Frstor(_) | Self::Wait)
    }

    pub(super) fn run(
        self,
        frame: &mut NativeFrame,
        vector: &mut VectorState,
        gpr: &mut [u64; 16],
    ) -> Outcome {
        let x87 = &mut vector.x87;
        let mem = &mut frame.mem;
        match self {
            Self::Nothing | Self::Wait => {}
            Self::Fninit => x87.init(),
            Self::Fnclex => x87.set_fsw(x87.fsw() & 0x7f00),
            Self::Fldcw => x87.set_fcw(word(mem, 0)),
            Self::Fnstcw => put(mem, 0, &x87.fcw().to_le_bytes()),
            Self::FnstswMemory => put(mem, 0, &x87.fsw().to_le_bytes()),
            Self::FnstswAx => gpr[0] = gpr[0] & !0xffff | u64::from(x87.fsw()),
            Self::Fnstenv(width) => x87.store_env(mem, width, frame.env_layout),
            Self::Fldenv(width) => x87.load_env(mem, width, frame.env_layout),
            Self::Fnsave(width) => {
                x87.store_env_only(mem, width, frame.env_layout);
                for i in 0..8 {
                    put(mem, width.bytes() + i * 10, &x87.st(i));
                }
                x87.init();
            }
            Self::Frstor(width) => {
                x87.load_env(mem, width, frame.env_layout);
                for i in 0..8 {
                    let at = width.bytes() + i * 10;
                    x87.set_st(i, std::array::from_fn(|n| mem[at + n]));
                }
            }
            Self::Ldmxcsr => {
                let value = u32::from(word(mem, 0)) | u32::from(word(mem, 2)) << 16;
                if vector.set_mxcsr(value).is_err() {
                    return Outcome::GeneralProtection;
                }
            }
            Self::Stmxcsr => put(mem, 0, &vector.mxcsr().to_le_bytes()),
            Self::Vzeroupper(count) => vector.zero_upper(0..count),
            Self::Vzeroall(count) => vector.zmm[..count.min(32)].fill(Default::default()),
        }
        Outcome::Done
    }
}

/// The vector registers that VZEROALL knows.
fn registers(instr: &Instruction) -> usize {
    match instr.code_size() {
        CodeSize::Code16 | CodeSize::Code32 => 8,
        _ => 16,
    }
}

fn word(mem: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([mem[at], mem[at + 1]])
}

fn put(mem: &mut [u8], at: usize, bytes: &[u8]) {
    mem[at..at + bytes.len()].copy_from_slice(bytes);
}

impl X87 {
    /// FNINIT: register contents stay, all tagged empty.
    pub fn init(&mut self) {
        self.set_top(0);
        self.image.fcw = 0x37f;
        self.image.fsw = 0;
        self.image.ftw = 0;
        self.pointers = X87Pointers::default();
    }

    /// Is this the state that FNINIT and zeroed registers make?
    pub(super) fn is_initial(&self) -> bool {
        *self == Self::default()
    }

    /// MMX register `i`.
    pub(super) fn mmx(&self, i: usize) -> u64 {
        // MMn is physical register n; the image is relative to TOP.
        self.image.st[(i + 8 - self.top()) & 7][0]
    }

    /// The tag word in its full form, two bits a physical register: 0 valid, 1 zero, 2 special, 3 empty.
    pub fn full_tags(&self) -> u16 {
        (0..8).fold(0, |tags, i| {
            let [mantissa, top] = self.image.st[(i + 8 - self.top()) & 7];
            let exponent = top & 0x7fff;
            let tag = match (self.image.ftw >> i & 1, exponent, mantissa) {
                (0, _, _) => 3,
                (_, 0, 0) => 1,
                (_, 0 | 0x7fff, _) => 2,
                (_, _, m) if m >> 63 == 0 => 2,
                _ => 0,
            };
            tags | tag << (i * 2)
        })
    }

    /// Sets the tags from the full form; only empty and not empty are told apart.
    pub fn set_full_tags(&mut self, tags: u16) {
        self.image.ftw = (0..8)
            .filter(|i| tags >> (i * 2) & 3 != 3)
            .fold(0, |ftw, i| ftw | 1 << i);
    }

    /// FNSTENV: stores the environment, then masks all exceptions.
    fn store_env(&mut self, mem: &mut [u8], width: Width, layout: EnvLayout) {
        self.store_env_only(mem, width, layout);
        self.set_fcw(self.fcw() | EXCEPTIONS);
    }

    fn store_env_only(&self, mem: &mut [u8], width: Width, layout: EnvLayout) {
        let p = &self.pointers;
        let (fip, fdp) = match layout {
            EnvLayout::Protected => (p.fip as u32, p.fdp as u32),
            EnvLayout::Real => (linear(p.fcs, p.fip), linear(p.fds, p.fdp)),
        };
        let fop = u32::from(p.fop & 0x7ff);
        // FCW, FSW, FTW, then: offset, selector (or high part and opcode), twice. The reserved halves read as ones.
        let head = [self.fcw(), self.fsw(), self.full_tags()].map(u32::from);
        let tail = match (width, layout) {
            (Width::Dword, EnvLayout::Protected) => [
                fip,
                u32::from(p.fcs) | fop << 16,
                fdp,
                u32::from(p.fds) | 0xffff_0000,
            ],
            (Width::Dword, EnvLayout::Real) => [
                fip | 0xffff_0000,
                fip >> 16 << 12 | fop,
                fdp | 0xffff_0000,
                fdp >> 16 << 12,
            ],
            (Width::Word, EnvLayout::Protected) => [fip, p.fcs.into(), fdp, p.fds.into()],
            (Width::Word, EnvLayout::Real) => [fip, fip >> 16 << 12 | fop, fdp, fdp >> 16 << 12],
        };
        for (i, value) in head.map(|w| w | 0xffff_0000).into_iter().chain(tail).enumerate() {
            match width {
                Width::Word => put(mem, i * 2, &(value as u16).to_le_bytes()),
                Width::Dword => put(mem, i * 4, &value.to_le_bytes()),
            }
        }
    }

    fn load_env(&mut self, mem: &[u8], width: Width, layout: EnvLayout) {
        let field = |i: usize| match width {
            Width::Word => u32::from(word(mem, i * 2)),
            Width::Dword => u32::from(word(mem, i * 4)) | u32::from(word(mem, i * 4 + 2)) << 16,
        };
        let fsw = field(1) as u16;
        self.set_top(usize::from(fsw >> 11 & 7));
        self.image.fsw = fsw;
        self.set_fcw(field(0) as u16);
        self.set_full_tags(field(2) as u16);
        let p = &mut self.pointers;
        match layout {
            EnvLayout::Protected => {
                (p.fip, p.fcs) = (field(3).into(), field(4) as u16);
                (p.fdp, p.fds) = (field(5).into(), field(6) as u16);
                if width == Width::Dword {
                    p.fop = (field(4) >> 16) as u16 & 0x7ff;
                }
            }
            EnvLayout::Real => {
                let high = |f: u32| u64::from(f >> 12 & 0xffff) << 16;
                (p.fip, p.fcs) = (u64::from(field(3) & 0xffff) | high(field(4)), 0);
                (p.fdp, p.fds) = (u64::from(field(5) & 0xffff) | high(field(6)), 0);
                p.fop = field(4) as u16 & 0x7ff;
            }
        }
    }
}

fn linear(selector: u16, offset: u64) -> u32 {
    (u32::from(selector) << 4).wrapping_add(offset as u32)
}
