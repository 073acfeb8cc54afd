//! What stops an operation: a fault of the guest, or a wait for the world outside.

use crate::world::{Pause, Refusal};

/// Exception vectors, by the SDM's mnemonics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Vector {
    DE = 0,
    DB = 1,
    NMI = 2,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    MC = 18,
    XM = 19,
}

/// A fault or trap raised by the instruction being executed. For #PF the linear address is in
/// [`crate::Core::fault_address`] and reaches CR2 when the fault is delivered; for #DB the DR6 bits are in
/// [`crate::Core::debug_status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub vector: Vector,
    pub has_error: bool,
    pub error: u32,
}

impl Fault {
    /// A fault that pushes no error code.
    pub const fn plain(vector: Vector) -> Fault {
        Fault {
            vector,
            has_error: false,
            error: 0,
        }
    }

    /// A fault that pushes an error code (dropped in real mode by the delivery).
    pub const fn with(vector: Vector, error: u32) -> Fault {
        Fault {
            vector,
            has_error: true,
            error,
        }
    }

    pub const UD: Fault = Fault::plain(Vector::UD);
    pub const NM: Fault = Fault::plain(Vector::NM);
    pub const DE: Fault = Fault::plain(Vector::DE);
    pub const MF: Fault = Fault::plain(Vector::MF);
    pub const XM: Fault = Fault::plain(Vector::XM);
    pub const GP0: Fault = Fault::with(Vector::GP, 0);
    pub const SS0: Fault = Fault::with(Vector::SS, 0);
    pub const AC0: Fault = Fault::with(Vector::AC, 0);

    pub const fn gp(error: u32) -> Fault {
        Fault::with(Vector::GP, error)
    }
    pub const fn ts(error: u32) -> Fault {
        Fault::with(Vector::TS, error)
    }
    pub const fn np(error: u32) -> Fault {
        Fault::with(Vector::NP, error)
    }
    pub const fn ss(error: u32) -> Fault {
        Fault::with(Vector::SS, error)
    }
}

/// Why an operation did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest's fault: nothing was committed, RIP is the instruction's own.
    Fault(Fault),
    /// Nothing was committed; the world needs its client before the instruction can be executed again.
    Pause,
    /// Part of a repeated instruction was committed; RIP stays at the instruction, which is to be resumed.
    Again,
    /// Nothing was committed: guest memory could not be reached by the host; see [`crate::Core::lost_memory`].
    LostMemory,
    /// Nothing was committed: an event's delivery came upon memory that is none.
    Undeliverable,
    /// Nothing was committed: the instruction is beyond this processor's abilities.
    Unsupported,
    /// Nothing was committed: the client's debugger wants this exception, see [`crate::core::DebugControl`].
    Intercepted(u8),
    /// Nothing was committed: the delivery of an event raises others without end.
    Endless,
    /// The processor shut down while delivering an event.
    TripleFault,
}

/// The result of an operation.
pub type Step<T = ()> = Result<T, Stop>;

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

impl From<Pause> for Stop {
    fn from(_: Pause) -> Stop {
        Stop::Pause
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        match refusal {
            Refusal::Fault(fault) => Stop::Fault(fault),
            Refusal::Pause => Stop::Pause,
        }
    }
}
