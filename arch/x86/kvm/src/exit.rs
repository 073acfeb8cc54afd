//! Exits to the client: what the run page says, and what the client answers.
//!
//! An exit is queued by whoever finds that the client is needed, and shown by the run loop, one per KVM_RUN. Writes
//! of one instruction may queue several. Answers to reads are kept here until the instruction that wanted
//! them, executed again, has retired.

use std::collections::VecDeque;

use ring3_host::addr::GuestPhys;
use ring3_host::process::current_cpu;
use ring3_host::shared::SharedPages;
use ring3_uapi::exit::*;
use ring3_uapi::run::{self, *};
use ring3_x86_cpu::Undeliverable;

/// Why a processor with VMX leaves the guest when it comes upon what Linux maps as MMIO.
const EXIT_REASON_EPT_MISCONFIG: u64 = 49;

/// Something for the client to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    PortRead {
        port: u16,
        size: u8,
    },
    PortWrite {
        port: u16,
        size: u8,
        data: [u8; 4],
    },
    /// Several at once, by REP INS.
    StringRead {
        port: u16,
        size: u8,
        count: u32,
    },
    MmioRead {
        gpa: GuestPhys,
        len: u8,
    },
    MmioWrite {
        gpa: GuestPhys,
        len: u8,
        data: [u8; 8],
    },
    ReadMsr {
        index: u32,
        reason: u32,
    },
    WriteMsr {
        index: u32,
        reason: u32,
        data: u64,
    },
    Hypercall {
        number: u64,
        args: [u64; 3],
        flags: u64,
    },
    Halt,
    Shutdown,
    InterruptWindow,
    /// The guest lowered its task priority, and the local APIC is the client's.
    TaskPriority,
    /// The guest read or wrote its task priority, and the client asked to be told.
    TprAccess {
        rip: u64,
        is_write: bool,
    },
    /// The client's I/O APIC wants to hear of this EOI.
    IoapicEoi {
        vector: u8,
    },
    Debug {
        exception: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    },
    EmulationFailure {
        bytes: [u8; 15],
        len: u8,
    },
    /// The client has to empty the vCPU's dirty ring.
    DirtyRingFull,
    /// Events were delivered without end.
    Notify,
    /// The guest locked the bus.
    BusLock,
    /// An event could not be delivered: its tables or stack are no memory.
    DeliveryFailure(Undeliverable),
}

/// The client's answer to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Port {
        port: u16,
        size: u8,
        data: [u8; 4],
    },
    Mmio {
        gpa: GuestPhys,
        len: u8,
        data: [u8; 8],
    },
    /// `None`: the access shall fault.
    Msr {
        index: u32,
        data: Option<u64>,
    },
    WroteMsr {
        index: u32,
        fault: bool,
    },
    Hypercall {
        number: u64,
        value: u64,
    },
}

/// Exits to show and answers to use.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    queue: VecDeque<Exit>,
    /// What the client is working on.
    shown: Option<Exit>,
    answers: Vec<Answer>,
    /// How many answers the instruction has used so far.
    used: usize,
    string: PortString,
}

/// The client's answer to a repeated port instruction, as far as it is not used yet. It is used up by whole iterations, so
/// unlike other answers it is not given twice.
#[derive(Clone, Debug, Default)]
struct PortString {
    port: u16,
    size: u8,
    data: Vec<u8>,
}

impl Pending {
    pub fn queue(&mut self, exit: Exit) {
        self.queue.push_back(exit);
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether the client's answer waits to be used by an instruction.
    pub fn answered(&self) -> bool {
        self.used < self.answers.len() || !self.string.data.is_empty()
    }

    /// Whether an instruction has answers to use, or something to show already.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.answers.is_empty() || !self.string.data.is_empty()
    }

    /// Starts an attempt at an instruction: its answers are used from the first on.
    pub fn rewind(&mut self) {
        self.used = 0;
    }

    /// The instruction is done with its answers.
    pub fn retire(&mut self) {
        self.answers.clear();
        self.used = 0;
    }

    /// Shows the next exit in the run page. False if there is none.
    pub fn show(&mut self, page: &SharedPages) -> bool {
        let Some(exit) = self.queue.pop_front() else {
            return false;
        };
        fill(page, &exit);
        self.shown = Some(exit);
        true
    }

    /// Takes the client's answer to the exit shown last, if it was one that has an answer.
    pub fn complete(&mut self, page: &SharedPages) {
        let answer = match self.shown.take() {
            Some(Exit::PortRead { port, size }) => {
                let data: [u8; 4] = page.load(X86_PIO_DATA);
                Answer::Port { port, size, data }
            }
            Some(Exit::StringRead { port, size, count }) => {
                let mut data = vec![0; usize::from(size) * count as usize];
                page.read(X86_PIO_DATA, &mut data);
                self.string = PortString { port, size, data };
                return;
            }
            Some(Exit::MmioRead { gpa, len }) => Answer::Mmio {
                gpa,
                len,
                data: page.load(MMIO_DATA),
            },
            Some(Exit::ReadMsr { index, .. }) => {
                let error: u8 = page.load(MSR_ERROR);
                Answer::Msr {
                    index,
                    data: (error == 0).then(|| page.load(MSR_DATA)),
                }
            }
            Some(Exit::WriteMsr { index, .. }) => {
                let error: u8 = page.load(MSR_ERROR);
                Answer::WroteMsr {
                    index,
                    fault: error != 0,
                }
            }
            Some(Exit::Hypercall { number, .. }) => Answer::Hypercall {
                number,
                value: page.load(HYPERCALL_RET),
            },
            _ => return,
        };
        self.answers.push(answer);
    }

    /// The next answer, if it is to this question; otherwise the instruction is another one and the answers are void.
    fn take(&mut self, matches: impl Fn(&Answer) -> bool) -> Option<Answer> {
        let answer = *self.answers.get(self.used)?;
        if matches(&answer) {
            self.used += 1;
            Some(answer)
        } else {
            self.retire();
            None
        }
    }

    pub fn take_port(&mut self, port: u16, data: &mut [u8]) -> bool {
        let len = data.len();
        let found = self.take(
            |a| matches!(a, Answer::Port { port: p, size, .. } if *p == port && usize::from(*size) == len),
        );
        let Some(Answer::Port { data: from, .. }) = found else {
            return false;
        };
        copy(data, &from);
        true
    }

    /// A repeated read of a port is over: the client may have changed how much was wanted.
    pub fn end_port_string(&mut self) {
        self.string.data.clear();
    }

    /// What the client gave for a repeated read of a port: as much as there is room for and there is.
    pub fn take_port_string(&mut self, port: u16, size: usize, data: &mut [u8]) -> Option<usize> {
        let string = &mut self.string;
        if string.port != port || usize::from(string.size) != size {
            string.data.clear();
        }
        if string.data.is_empty() {
            return None;
        }
        let len = data.len().min(string.data.len());
        copy(data, &string.data[..len]);
        string.data.drain(..len);
        Some(len)
    }

    pub fn take_mmio(&mut self, gpa: GuestPhys, data: &mut [u8]) -> bool {
        let want = data.len();
        let found = self.take(
            |a| matches!(a, Answer::Mmio { gpa: g, len, .. } if *g == gpa && usize::from(*len) == want),
        );
        let Some(Answer::Mmio { data: from, .. }) = found else {
            return false;
        };
        copy(data, &from);
        true
    }

    /// The outer `None`: not answered yet; the inner: the access shall fault.
    pub fn take_msr(&mut self, index: u32) -> Option<Option<u64>> {
        match self.take(|a| matches!(a, Answer::Msr { index: i, .. } if *i == index))? {
            Answer::Msr { data, .. } => Some(data),
            _ => None,
        }
    }

    pub fn take_wrote_msr(&mut self, index: u32) -> Option<Result<(), ()>> {
        match self.take(|a| matches!(a, Answer::WroteMsr { index: i, .. } if *i == index))? {
            Answer::WroteMsr { fault, .. } => Some(if fault { Err(()) } else { Ok(()) }),
            _ => None,
        }
    }

    /// What the client has a hypercall return.
    pub fn take_hypercall(&mut self, call: u64) -> Option<u64> {
        match self.take(|a| matches!(a, Answer::Hypercall { number, .. } if *number == call))? {
            Answer::Hypercall { value, .. } => Some(value),
            _ => None,
        }
    }
}

fn copy(to: &mut [u8], from: &[u8]) {
    for (t, f) in to.iter_mut().zip(from) {
        *t = *f;
    }
}

/// One of the exit reasons that there are.
#[derive(Clone, Copy)]
struct Reason(u32);

macro_rules! reasons {
    ($($reason:ident = $number:ident;)*) => {
        $(const $reason: Reason = Reason($number);)*

        /// The exit reasons that there are.
        pub const REASONS: &[u32] = &[$($number),*];
    };
}

reasons! {
    IO = KVM_EXIT_IO;
    HYPERCALL = KVM_EXIT_HYPERCALL;
    DEBUG = KVM_EXIT_DEBUG;
    HLT = KVM_EXIT_HLT;
    MMIO = KVM_EXIT_MMIO;
    IRQ_WINDOW_OPEN = KVM_EXIT_IRQ_WINDOW_OPEN;
    SHUTDOWN = KVM_EXIT_SHUTDOWN;
    SET_TPR = KVM_EXIT_SET_TPR;
    TPR_ACCESS = KVM_EXIT_TPR_ACCESS;
    INTERNAL_ERROR = KVM_EXIT_INTERNAL_ERROR;
    IOAPIC_EOI = KVM_EXIT_IOAPIC_EOI;
    RDMSR = KVM_EXIT_X86_RDMSR;
    WRMSR = KVM_EXIT_X86_WRMSR;
    BUS_LOCK = KVM_EXIT_X86_BUS_LOCK;
    NOTIFY = KVM_EXIT_NOTIFY;
    DIRTY_RING_FULL = KVM_EXIT_DIRTY_RING_FULL;
    MEMORY_FAULT = KVM_EXIT_MEMORY_FAULT;
}

/// Sets the run page's exit reason.
fn reason(page: &SharedPages, reason: Reason) {
    page.store(run::EXIT_REASON, &reason.0);
}

fn fill_io(page: &SharedPages, direction: u8, size: u8, port: u16, count: u32) {
    reason(page, IO);
    page.store(
        PAYLOAD,
        &RunIo {
            direction,
            size,
            port,
            count,
            data_offset: X86_PIO_DATA as u64,
        },
    );
}

fn fill_mmio(page: &SharedPages, gpa: GuestPhys, len: u8, data: [u8; 8], is_write: bool) {
    reason(page, MMIO);
    let payload = RunMmio {
        phys_addr: gpa.0,
        data,
        len: len.into(),
        is_write: is_write.into(),
        ..RunMmio::default()
    };
    page.store(PAYLOAD, &payload);
}

/// Shows a memory fault, with which KVM_RUN returns EFAULT.
pub fn memory_fault(page: &SharedPages, fault: &RunMemoryFault) {
    reason(page, MEMORY_FAULT);
    page.store(PAYLOAD, fault);
}

fn fill_internal(page: &SharedPages, internal: &RunInternal) {
    reason(page, INTERNAL_ERROR);
    page.store(PAYLOAD, internal);
}

fn fill(page: &SharedPages, exit: &Exit) {
    match *exit {
        Exit::PortRead { port, size } => fill_io(page, KVM_EXIT_IO_IN, size, port, 1),
        Exit::PortWrite { port, size, data } => {
            page.store(X86_PIO_DATA, &data);
            fill_io(page, KVM_EXIT_IO_OUT, size, port, 1);
        }
        Exit::StringRead { port, size, count } => fill_io(page, KVM_EXIT_IO_IN, size, port, count),
        Exit::MmioRead { gpa, len } => fill_mmio(page, gpa, len, [0; 8], false),
        Exit::MmioWrite { gpa, len, data } => fill_mmio(page, gpa, len, data, true),
        Exit::ReadMsr { index, reason: why } => {
            reason(page, RDMSR);
            page.store(
                PAYLOAD,
                &RunMsr {
                    reason: why,
                    index,
                    ..RunMsr::default()
                },
            );
        }
        Exit::WriteMsr {
            index,
            reason: why,
            data,
        } => {
            reason(page, WRMSR);
            page.store(
                PAYLOAD,
                &RunMsr {
                    reason: why,
                    index,
                    data,
                    ..RunMsr::default()
                },
            );
        }
        Exit::Hypercall { number, args, flags } => {
            let mut call = RunHypercall {
                nr: number,
                flags,
                ..RunHypercall::default()
            };
            call.args[..3].copy_from_slice(&args);
            reason(page, HYPERCALL);
            page.store(PAYLOAD, &call);
        }
        Exit::Halt => reason(page, HLT),
        Exit::DirtyRingFull => reason(page, DIRTY_RING_FULL),
        Exit::Notify => {
            reason(page, NOTIFY);
            page.store(PAYLOAD, &RunNotify::default());
        }
        Exit::BusLock => reason(page, BUS_LOCK),
        Exit::Shutdown => reason(page, SHUTDOWN),
        Exit::InterruptWindow => reason(page, IRQ_WINDOW_OPEN),
        Exit::TaskPriority => reason(page, SET_TPR),
        Exit::TprAccess { rip, is_write } => {
            reason(page, TPR_ACCESS);
            let access = RunTprAccess {
                rip,
                is_write: is_write.into(),
                ..RunTprAccess::default()
            };
            page.store(PAYLOAD, &access);
        }
        Exit::IoapicEoi { vector } => {
            reason(page, IOAPIC_EOI);
            page.store(PAYLOAD, &RunEoi { vector });
        }
        Exit::Debug {
            exception,
            pc,
            dr6,
            dr7,
        } => {
            reason(page, DEBUG);
            let arch = ring3_uapi::x86::KvmDebugExitArch {
                exception,
                pc,
                dr6,
                dr7,
                ..Default::default()
            };
            page.store(PAYLOAD, &arch);
        }
        Exit::EmulationFailure { bytes, len } => {
            let failure = RunEmulationFailure {
                suberror: KVM_INTERNAL_ERROR_EMULATION,
                ndata: if len == 0 { 0 } else { 3 },
                flags: if len == 0 {
                    0
                } else {
                    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
                },
                insn_size: len,
                insn_bytes: bytes,
            };
            reason(page, INTERNAL_ERROR);
            page.store(PAYLOAD, &failure);
        }
        Exit::DeliveryFailure(Undeliverable { information, gpa }) => {
            let mut internal = RunInternal {
                suberror: KVM_INTERNAL_ERROR_DELIVERY_EV,
                ndata: 5,
                ..RunInternal::default()
            };
            // Without a qualification.
            let cpu = current_cpu() as u64;
            let data = [information.into(), EXIT_REASON_EPT_MISCONFIG, 0, gpa.0, cpu];
            internal.data[..data.len()].copy_from_slice(&data);
            fill_internal(page, &internal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> SharedPages {
        SharedPages::create("run", 3).unwrap().0
    }

    #[test]
    fn a_port_read_is_answered_and_used_until_it_retires() {
        let page = page();
        let mut io = Pending::default();
        io.queue(Exit::PortRead { port: 0x60, size: 1 });
        assert!(io.show(&page));
        assert_eq!(page.load::<u32>(run::EXIT_REASON), KVM_EXIT_IO);
        page.store(X86_PIO_DATA, &0x5au8);
        io.complete(&page);
        for _ in 0..2 {
            io.rewind();
            let mut byte = [0];
            assert!(io.take_port(0x60, &mut byte));
            assert_eq!(byte, [0x5a]);
        }
        io.retire();
        assert!(!io.take_port(0x60, &mut [0]));
    }

    #[test]
    fn answers_to_another_question_are_void() {
        let page = page();
        let mut io = Pending::default();
        io.queue(Exit::MmioRead {
            gpa: GuestPhys(0x1000),
            len: 4,
        });
        io.show(&page);
        io.complete(&page);
        assert!(!io.take_mmio(GuestPhys(0x2000), &mut [0; 4]));
        assert!(!io.take_mmio(GuestPhys(0x1000), &mut [0; 4]));
    }

    #[test]
    fn writes_are_shown_one_by_one() {
        let page = page();
        let mut io = Pending::default();
        io.queue(Exit::MmioWrite {
            gpa: GuestPhys(8),
            len: 8,
            data: [1; 8],
        });
        io.queue(Exit::MmioWrite {
            gpa: GuestPhys(16),
            len: 8,
            data: [2; 8],
        });
        assert!(io.show(&page));
        io.complete(&page);
        assert!(io.show(&page));
        let shown: RunMmio = page.load(PAYLOAD);
        assert_eq!((shown.phys_addr, shown.is_write), (16, 1));
        assert!(!io.show(&page));
    }
}
