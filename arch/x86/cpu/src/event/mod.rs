//! Delivery of exceptions and interrupts.

use crate::{Core, Fault, Step, World};

/// What is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A fault or trap of the instruction stream.
    Exception {
        vector: u8,
        error: Option<u32>,
    },
    /// INT n, INT3, INTO: checks the gate's DPL; `next` is the RIP after the instruction.
    Software {
        vector: u8,
        next: u64,
    },
    /// INT1: like a software interrupt, without the DPL check.
    PrivilegedSoftware {
        vector: u8,
        next: u64,
    },
    External {
        vector: u8,
    },
    Nmi,
}

impl Core {
    /// Raises a fault of the instruction at RIP: delivers it, turning a fault during delivery into #DF and a
    /// fault during that into shutdown ([`crate::Stop::TripleFault`]).
    pub fn raise(&mut self, _fault: Fault, _world: &mut dyn World) -> Step {
        Err(crate::Stop::TripleFault)
    }

    /// Delivers an event at the current RIP.
    pub fn deliver(&mut self, _event: Event, _world: &mut dyn World) -> Step {
        Err(crate::Stop::TripleFault)
    }
}
