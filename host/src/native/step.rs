//! A compiled step: its metadata and how it is run.

use std::ptr::NonNull;
use std::sync::Arc;

use super::access::MemoryOperand;
use super::allow::StateClass;
use super::arena::Chunk;
use super::x87_control::Control;
use super::{NativeFrame, VectorState};

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Registers, flags and state are updated; a written memory operand is to be stored.
    Done,
    /// As `Done`, but the memory operand must not be stored: an x87 store raised an unmasked exception.
    DoneWithoutStore,
    /// An unmasked SIMD floating-point exception (#XM, or #UD unless CR4.OSXMMEXCPT): its flags are in MXCSR, nothing
    /// else has changed and nothing may be stored.
    SimdException,
    /// #GP(0): reserved bits for MXCSR. Nothing has changed.
    GeneralProtection,
    /// #MF: `checks_pending_x87` was not minded. Nothing has changed.
    X87Exception,
}

/// What kind of floating-point bookkeeping surrounds a thunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    None,
    /// Uses MXCSR.
    Simd,
    X87,
}

pub(super) type Entry = unsafe extern "sysv64" fn(*mut NativeFrame, *mut VectorState, *mut [u64; 16]);

/// Host code for one instruction form, alive as long as its chunk.
pub(super) struct Thunk {
    pub(super) entry: NonNull<u8>,
    pub(super) arithmetic: Arithmetic,
    pub(super) _chunk: Arc<Chunk>,
}

// SAFETY: `entry` points to immutable code in the chunk held alongside; executing it depends on no thread.
unsafe impl Send for Thunk {}
// SAFETY: as above.
unsafe impl Sync for Thunk {}

pub(super) enum Body {
    Thunk(Thunk),
    Control(Control),
}

/// The static facts of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInfo {
    /// Decides #UD and #NM.
    pub class: StateClass,
    /// VEX, EVEX or XOP encoding: #UD in real-address and virtual-8086 mode.
    pub vex: bool,
    pub memory: Option<MemoryOperand>,
    /// #MF comes first if [`X87::exception_pending`](super::X87::exception_pending).
    pub checks_pending_x87: bool,
    /// The x87 pointers become what [`NativeFrame::x87_pointers`] says.
    pub sets_x87_pointers: bool,
    /// May end as [`Outcome::SimdException`].
    pub simd_exceptions: bool,
    /// General registers read and written, a bit each by number. (Partial writes count as reads too.)
    pub gpr_read: u16,
    pub gpr_written: u16,
    /// RFLAGS bits.
    pub flags_read: u32,
    /// RFLAGS bits that change; those the manual leaves undefined are among them and get the host's value.
    pub flags_written: u32,
    /// Of `flags_written`, those the manual leaves undefined.
    pub flags_undefined: u32,
}

pub(super) struct Step {
    pub(super) info: StepInfo,
    pub(super) body: Body,
}

/// An instruction ready to be executed natively. Cheap to clone.
#[derive(Clone)]
pub struct NativeStep(pub(super) Arc<Step>);

impl std::fmt::Debug for NativeStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NativeStep").field(&self.0.info).finish()
    }
}

impl NativeStep {
    /// What the interpreter must know to run it.
    #[inline]
    pub fn info(&self) -> &StepInfo {
        &self.0.info
    }

    /// RFLAGS bits read.
    #[inline]
    pub fn flags_read(&self) -> u32 {
        self.0.info.flags_read
    }

    /// RFLAGS bits written.
    #[inline]
    pub fn flags_written(&self) -> u32 {
        self.0.info.flags_written
    }

    /// One bit for each byte of the memory operand that the instruction accesses with this state. Only masked operands
    /// ([`MemoryOperand::is_masked`]) ever leave one out: those bytes must be neither read, stored nor faulted on.
    pub fn touched(&self, vector: &VectorState) -> u64 {
        self.0
            .info
            .memory
            .map_or(0, |m| m.lanes.bytes(m.size.into(), vector))
    }

    /// Executes the instruction on this state. The caller has made the checks that [`StepInfo`] asks for.
    #[inline]
    pub fn run(&self, frame: &mut NativeFrame, vector: &mut VectorState, gpr: &mut [u64; 16]) -> Outcome {
        if self.0.info.checks_pending_x87 && vector.x87.exception_pending() {
            return Outcome::X87Exception;
        }
        let thunk = match &self.0.body {
            Body::Thunk(thunk) => thunk,
            Body::Control(control) => return control.run(frame, vector, gpr),
        };
        let outcome = match thunk.arithmetic {
            Arithmetic::None => {
                thunk.call(frame, vector, gpr);
                Outcome::Done
            }
            Arithmetic::Simd => self.run_simd(thunk, frame, vector, gpr),
            Arithmetic::X87 => self.run_x87(thunk, frame, vector, gpr),
        };
        let written = u64::from(self.0.info.flags_written);
        if written != 0 && outcome != Outcome::SimdException {
            frame.rflags = frame.rflags & !written | frame.out_rflags & written;
        }
        outcome
    }

    fn run_simd(
        &self,
        thunk: &Thunk,
        frame: &mut NativeFrame,
        vector: &mut VectorState,
        gpr: &mut [u64; 16],
    ) -> Outcome {
        // Exceptions that the guest has unmasked are real ones here: the fault's handler makes the thunk leave early.
        frame.run_mxcsr = vector.mxcsr;
        frame.trapped = 0;
        thunk.call(frame, vector, gpr);
        vector.mxcsr = frame.out_mxcsr;
        if frame.trapped == 0 {
            Outcome::Done
        } else {
            Outcome::SimdException
        }
    }

    fn run_x87(
        &self,
        thunk: &Thunk,
        frame: &mut NativeFrame,
        vector: &mut VectorState,
        gpr: &mut [u64; 16],
    ) -> Outcome {
        // The instruction runs with the guest's own control word: the host's x87 unit takes unmasked exceptions only at
        // the next waiting instruction, and the thunk reads the state back with one that does not wait.
        thunk.call(frame, vector, gpr);
        let pointers = &mut vector.x87.pointers;
        pointers.fop = frame.x87_pointers.fop;
        pointers.fip = frame.x87_pointers.fip;
        pointers.fcs = frame.x87_pointers.fcs;
        let Some(memory) = self.0.info.memory else {
            return Outcome::Done;
        };
        pointers.fdp = frame.x87_pointers.fdp;
        pointers.fds = frame.x87_pointers.fds;
        // Stores are suppressed by unmasked invalid, overflow and underflow; an inexact result is stored.
        let unmasked = vector.x87.fsw() & !vector.x87.fcw();
        if memory.direction.writes() && unmasked & STORE_SUPPRESSING != 0 {
            return Outcome::DoneWithoutStore;
        }
        Outcome::Done
    }
}

/// IE, OE and UE.
const STORE_SUPPRESSING: u16 = 0b01_1001;

impl Thunk {
    #[inline]
    fn call(&self, frame: &mut NativeFrame, vector: &mut VectorState, gpr: &mut [u64; 16]) {
        // SAFETY: `entry` is the start of a thunk that `compile` wrote with the signature `Entry`; `_chunk` keeps it
        // mapped. It accesses memory only inside the three objects, which we hold exclusively, and keeps the ABI: it
        // preserves callee-saved registers, the direction flag and the control bits of MXCSR and the x87 unit.
        unsafe {
            let entry: Entry = std::mem::transmute(self.entry.as_ptr());
            entry(frame, vector, gpr);
        }
    }
}
