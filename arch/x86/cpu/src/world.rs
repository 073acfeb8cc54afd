//! The world as the processor sees it: one trait, in three parts.
//!
//! A read that only the client can answer returns [`Pause`]: the instruction commits nothing, the client
//! answers, the instruction is executed again and now finds the answer (answers are consumed in order and kept
//! until the instruction retires, see [`Memory::retired`]). Writes are posted: the instruction retires and the
//! processor leaves right after it.

use crate::{Fault, State};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostPage;

/// The kind of access a page is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// What stands behind a guest-physical page, for one kind of access.
#[derive(Clone, Copy, Debug)]
pub enum Backing {
    /// Memory. `direct` says whether further accesses of the same kind may go to it without asking again: false
    /// for writes to a page that holds translated code, which must be told by [`Memory::code_written`].
    Ram { page: HostPage, direct: bool },
    /// No memory (or read-only memory, for a write): each access goes to `mmio_read` or `mmio_write`.
    Mmio,
}

/// The access needs the client first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause;

/// What became of a posted write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Posted {
    Done,
    /// The client must see it: leave after this instruction.
    Pause,
}

/// Why a register access or a hypercall was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Fault(Fault),
    Pause,
}

/// The two makers' instructions for a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hypercall {
    /// Intel's.
    Vmcall,
    /// AMD's.
    Vmmcall,
}

impl Hypercall {
    /// The instruction, both of which are equally long.
    pub const fn bytes(self) -> &'static [u8; 3] {
        match self {
            Hypercall::Vmcall => &[0x0f, 0x01, 0xc1],
            Hypercall::Vmmcall => &[0x0f, 0x01, 0xd9],
        }
    }
}

/// What becomes of a hypercall instruction that need not be the processor's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It is the processor's own, or as good.
    Served,
    /// It is unknown.
    Undefined,
    /// The processor's own is written in its place.
    Replaced(Hypercall),
}

/// Guest-physical memory.
pub trait Memory {
    /// What stands behind the page of `gpa`. A write also enters the page in the dirty log.
    fn page(&mut self, gpa: GuestPhys, access: Access) -> Backing;
    /// Whether an access to this memory, which has done nothing yet, is to be put off: the processor leaves then. Asked only
    /// where interrupts could be delivered.
    fn puts_off(&mut self, _: GuestPhys, _: HostPage) -> bool {
        false
    }
    /// Reads at most 8 bytes that do not cross a page.
    fn mmio_read(&mut self, gpa: GuestPhys, data: &mut [u8]) -> Result<(), Pause>;
    /// Writes at most 8 bytes that do not cross a page.
    fn mmio_write(&mut self, gpa: GuestPhys, data: &[u8]) -> Posted;
    /// Notes that the 64-byte lines in `lines` of this page are about to be translated. On return no vCPU writes
    /// to the page directly any more.
    fn mark_code(&mut self, gpa: GuestPhys, lines: u64);
    /// Tells of a write to a page whose writes are not direct, after the fact. True when translated lines were
    /// hit: every other vCPU has been told to drop the page's translations, and the caller must drop its own.
    fn code_written(&mut self, gpa: GuestPhys, len: usize) -> bool;
    /// The instruction at RIP `at`, which consumed answers of the client or posted a write, has retired.
    fn retired(&mut self, at: u64) -> Posted;
    /// System management mode was entered or left: from now on guest-physical addresses mean what they mean there.
    fn space_changed(&mut self, _: &State) {}
}

/// I/O ports; `data` is 1, 2 or 4 bytes.
pub trait Ports {
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), Pause>;
    fn port_write(&mut self, port: u16, data: &[u8]) -> Posted;

    /// Whether programs may use a port whatever IOPL and the TSS say.
    fn port_is_open(&self, _port: u16) -> bool {
        false
    }

    /// Reads a port as often as `data` has room for `size` bytes, at least once; returns how many bytes came.
    fn port_read_string(&mut self, port: u16, size: usize, data: &mut [u8]) -> Result<usize, Pause> {
        let (one, _) = data.split_at_mut(size);
        self.port_read(port, one)?;
        Ok(size)
    }
}

/// What identifies the processor, and registers that live outside it.
pub trait Platform {
    fn read_msr(&mut self, state: &mut State, index: u32) -> Result<u64, Refusal>;
    fn write_msr(&mut self, state: &mut State, index: u32, value: u64) -> Result<(), Refusal>;
    fn cpuid(&mut self, state: &State, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Asked before each hypercall.
    fn foreign_hypercall(&mut self, _state: &State, _instruction: Hypercall) -> Foreign {
        Foreign::Served
    }
    /// VMCALL or VMMCALL; on `Ok` the instruction retires.
    fn hypercall(&mut self, state: &mut State) -> Result<(), Refusal>;
    /// The local APIC's task priority class, as CR8 shows it.
    fn task_priority(&mut self, state: &State) -> u8;
    fn set_task_priority(&mut self, state: &mut State, class: u8) -> Posted;
    /// Whether programs may read a performance counter whatever CR4.PCE says.
    fn counter_is_open(&self, _index: u32) -> bool {
        false
    }
    /// The performance counter that RDPMC calls by this index, if there is one.
    fn performance_counter(&mut self, _: &mut State, _: u32) -> Option<u64> {
        None
    }
    /// The guest's time-stamp counter now.
    fn tsc(&mut self, state: &State) -> u64;
}

pub trait World: Memory + Ports + Platform {}

impl<T: Memory + Ports + Platform> World for T {}
