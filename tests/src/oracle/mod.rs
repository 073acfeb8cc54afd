//! The host CPU as the oracle: the same code, from the same state, on the host itself and on each tier of ours, must
//! leave the same registers, flags, memory and exception.
//!
//! * [`Executor`] is the seam: whoever can run code until its first exception can be compared with whoever else can.
//!   [`native`] is the host CPU, [`interpreter`] ours.
//! * [`layout`]: the little world that the code finds itself in, the same for all executors.
//! * [`forms`] enumerates the instruction forms there are, [`left_out`] says which are not tried and why, [`operands`]
//!   makes instructions of a form, [`place`] chooses where their memory operands lie, [`values`] fills registers and
//!   memory, [`prepare`], [`x87`] and [`save`] see to what single
//!   instructions want, [`prelude`] has another instruction go before it,
//!   [`case`] puts these together; [`program`] puts instructions in a row, [`flow`] those of 32-bit code into loops and functions.
//! * [`compare`] tells two ends apart, but for what the architecture leaves undefined, [`makers`] knows where processors
//!   differ; [`campaign`] is the loop.
//!
//! Covered are 64-bit mode and compatibility mode, 32-bit and 16-bit, at privilege level 3: the host lets an ordinary process
//! use them all.

pub mod campaign;
pub mod case;
pub mod compare;
pub mod flow;
pub mod forms;
pub mod interpreter;
pub mod layout;
pub mod left_out;
pub mod makers;
pub mod native;
pub mod operands;
pub mod place;
pub mod prelude;
pub mod prepare;
pub mod program;
pub mod save;
pub mod values;
pub mod x87;

pub use ring3_host::native::VectorState;
pub use ring3_host::testing::{CODE32, CODE64, DATA, Lost, Registers, Segment, Trap};

/// The kind of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Long,
    /// 32-bit code in compatibility mode.
    Compatible,
    /// 16-bit code in compatibility mode.
    Short,
}

impl Mode {
    pub fn bits(self) -> u32 {
        match self {
            Mode::Long => 64,
            Mode::Compatible => 32,
            Mode::Short => 16,
        }
    }

    /// Where the segments begin.
    pub fn base(self) -> u64 {
        match self {
            Mode::Short => layout::CODE,
            _ => 0,
        }
    }

    /// What a general register holds.
    pub fn mask(self) -> u64 {
        match self {
            Mode::Long => u64::MAX,
            _ => 0xffff_ffff,
        }
    }

    /// The selectors of code, data and stack.
    pub fn selectors(self) -> (u64, u64, u64) {
        match self {
            Mode::Long => (CODE64, 0, DATA),
            Mode::Compatible => (CODE32, DATA, DATA),
            Mode::Short => (Segment::selector(0), Segment::selector(1), Segment::selector(2)),
        }
    }
}

/// All of what unprivileged code sees: the state that it starts from, and the one that it ends in.
#[derive(Clone)]
pub struct Machine {
    pub registers: Registers,
    pub vector: VectorState,
    /// The pages of [`layout`], one after another.
    pub memory: Vec<u8>,
}

/// Something that executes machine code.
pub trait Executor {
    fn name(&self) -> &'static str;

    /// Executes the code at RIP until its first exception, whose kind it returns. Code is surrounded by INT3, so an
    /// instruction that raises nothing ends in vector 3, with RIP one byte behind where it led.
    fn run(&mut self, machine: &mut Machine) -> Result<Trap, Lost>;
}
