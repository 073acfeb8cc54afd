//! Delivery of exceptions and interrupts.
//!
//! `deliver` goes through the interrupt table of the mode, `handler` finds the code and the stack that a gate
//! leads to, `task` switches tasks. A fault met on the way becomes an event of its own here: nested exceptions,
//! the double fault, shutdown.

mod deliver;
mod handler;
mod task;

pub(crate) use task::TaskCause;

use crate::state::DR7_GD;
use crate::{Core, Fault, Step, Stop, Vector, World};
use ring3_host::addr::GuestPhys;

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

/// A delivery that cannot be made, since it would read or write what is no memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Undeliverable {
    /// The event in the form of a VMCS's IDT-vectoring information.
    pub information: u32,
    pub gpa: GuestPhys,
}

impl Event {
    fn of(fault: Fault) -> Event {
        Event::Exception {
            vector: fault.vector as u8,
            error: fault.has_error.then_some(fault.error),
        }
    }

    pub(crate) fn vector(self) -> u8 {
        match self {
            Event::Exception { vector, .. }
            | Event::Software { vector, .. }
            | Event::PrivilegedSoftware { vector, .. }
            | Event::External { vector } => vector,
            Event::Nmi => Vector::NMI as u8,
        }
    }

    /// The event in the form of a VMCS's IDT-vectoring information: vector, type, whether there is an error code.
    fn information(self) -> u32 {
        let (kind, has_error) = match self {
            Event::External { .. } => (0, false),
            Event::Nmi => (2, false),
            Event::Exception { vector: 3 | 4, .. } => (6, false),
            Event::Exception { error, .. } => (3, error.is_some()),
            Event::Software { vector: 3 | 4, .. } => (6, false),
            Event::Software { .. } => (4, false),
            Event::PrivilegedSoftware { .. } => (5, false),
        };
        1 << 31 | u32::from(has_error) << 11 | kind << 8 | u32::from(self.vector())
    }

    /// Whether a fault during the delivery is one that the program could not have caused: the EXT bit.
    fn external(self) -> u32 {
        u32::from(!matches!(self, Event::Software { .. }))
    }

    fn severity(self) -> Severity {
        match self {
            Event::Exception { vector, .. } => match vector {
                0 | 10..=13 => Severity::Contributory,
                14 => Severity::PageFault,
                8 => Severity::DoubleFault,
                _ => Severity::Benign,
            },
            _ => Severity::Benign,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// What follows when `second` is raised while `first` is being delivered; `None` is shutdown.
fn combine(first: Event, second: Event) -> Option<Event> {
    let double = Event::Exception {
        vector: Vector::DF as u8,
        error: Some(0),
    };
    match (first.severity(), second.severity()) {
        (Severity::DoubleFault, Severity::Contributory | Severity::PageFault) => None,
        (Severity::Contributory, Severity::Contributory) => Some(double),
        (Severity::PageFault, Severity::Contributory | Severity::PageFault) => Some(double),
        _ => Some(second),
    }
}

impl Core {
    /// Raises a fault of the instruction at RIP: delivers it, turning a fault during delivery into #DF and a
    /// fault during that into shutdown ([`crate::Stop::TripleFault`]).
    pub fn raise(&mut self, fault: Fault, world: &mut dyn World) -> Step {
        self.note_fault(fault);
        self.deliver(Event::of(fault), world)
    }

    /// Delivers an event at the current RIP. CR2 and DR6 are left as they are for it.
    pub fn deliver(&mut self, event: Event, world: &mut dyn World) -> Step {
        let mut current = event;
        // Each turn either is the last or moves towards shutdown, except for benign faults met while delivering
        // one another, which an interrupt table can be built to do for ever.
        for _ in 0..8 {
            match self.deliver_once(current, world) {
                Err(Stop::Fault(fault)) => {
                    self.note_fault(fault);
                    current = combine(current, Event::of(fault)).ok_or(Stop::TripleFault)?;
                }
                other => return other,
            }
        }
        Err(Stop::Endless)
    }

    /// A delivery stops where it would need a device.
    pub(crate) fn check_delivery(&mut self, gpa: GuestPhys) -> Step {
        let Some(event) = self.delivering else {
            return Ok(());
        };
        self.undeliverable = Undeliverable {
            information: event.information(),
            gpa,
        };
        Err(Stop::Undeliverable)
    }

    /// Leaves in CR2 or DR6 what the handler of a fault looks for there.
    fn note_fault(&mut self, fault: Fault) {
        match fault.vector {
            Vector::PF => self.state.cr2 = self.fault_address,
            Vector::DB => {
                // The conditions of breakpoints are those of this exception; the others pile up.
                self.state.dr6 = self.state.dr6 & !0xf | self.debug_status;
                self.state.dr7 &= !DR7_GD;
                self.debug_status = 0;
            }
            _ => {}
        }
    }
}
