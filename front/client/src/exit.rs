//! Why a vCPU came back, read out of its run page.

use ring3_host::shared::SharedPages;
use ring3_uapi::exit::*;
use ring3_uapi::run::*;
use ring3_uapi::x86::KvmDebugExitArch;

/// Why KVM_RUN returned. What the guest waits for is given with [`crate::Vcpu`]'s `complete_` methods before the next run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum VcpuExit {
    /// The guest reads a port (`count` times for a string instruction).
    IoIn(RunIo),
    /// The guest wrote a port: [`crate::Vcpu::port_data`] has what.
    IoOut(RunIo),
    MmioRead {
        address: u64,
        len: usize,
    },
    MmioWrite {
        address: u64,
        len: usize,
        data: [u8; 8],
    },
    Hlt,
    Shutdown,
    IrqWindowOpen,
    SetTpr,
    TprAccess(RunTprAccess),
    Debug(KvmDebugExitArch),
    Hypercall(RunHypercall),
    Rdmsr(RunMsr),
    Wrmsr(RunMsr),
    IoapicEoi(u8),
    SystemEvent(RunSystemEvent),
    InternalError(RunInternal),
    FailEntry(RunFailEntry),
    DirtyRingFull,
    /// With EFAULT from the run.
    MemoryFault(RunMemoryFault),
    Unknown(RunHw),
    /// Any other, by number.
    Other(u32),
}

impl VcpuExit {
    pub(crate) fn read(run: &SharedPages) -> VcpuExit {
        match run.load::<u32>(EXIT_REASON) {
            KVM_EXIT_IO => {
                let io: RunIo = run.load(PAYLOAD);
                if io.direction == KVM_EXIT_IO_IN {
                    VcpuExit::IoIn(io)
                } else {
                    VcpuExit::IoOut(io)
                }
            }
            KVM_EXIT_MMIO => {
                let mmio: RunMmio = run.load(PAYLOAD);
                let (address, len) = (mmio.phys_addr, mmio.len.min(8) as usize);
                if mmio.is_write == 0 {
                    VcpuExit::MmioRead { address, len }
                } else {
                    VcpuExit::MmioWrite {
                        address,
                        len,
                        data: mmio.data,
                    }
                }
            }
            KVM_EXIT_HLT => VcpuExit::Hlt,
            KVM_EXIT_SHUTDOWN => VcpuExit::Shutdown,
            KVM_EXIT_IRQ_WINDOW_OPEN => VcpuExit::IrqWindowOpen,
            KVM_EXIT_SET_TPR => VcpuExit::SetTpr,
            KVM_EXIT_TPR_ACCESS => VcpuExit::TprAccess(run.load(PAYLOAD)),
            KVM_EXIT_DEBUG => VcpuExit::Debug(run.load(PAYLOAD)),
            KVM_EXIT_HYPERCALL => VcpuExit::Hypercall(run.load(PAYLOAD)),
            KVM_EXIT_X86_RDMSR => VcpuExit::Rdmsr(run.load(PAYLOAD)),
            KVM_EXIT_X86_WRMSR => VcpuExit::Wrmsr(run.load(PAYLOAD)),
            KVM_EXIT_IOAPIC_EOI => VcpuExit::IoapicEoi(run.load::<RunEoi>(PAYLOAD).vector),
            KVM_EXIT_SYSTEM_EVENT => VcpuExit::SystemEvent(run.load(PAYLOAD)),
            KVM_EXIT_INTERNAL_ERROR => VcpuExit::InternalError(run.load(PAYLOAD)),
            KVM_EXIT_FAIL_ENTRY => VcpuExit::FailEntry(run.load(PAYLOAD)),
            KVM_EXIT_DIRTY_RING_FULL => VcpuExit::DirtyRingFull,
            KVM_EXIT_MEMORY_FAULT => VcpuExit::MemoryFault(run.load(PAYLOAD)),
            KVM_EXIT_UNKNOWN => VcpuExit::Unknown(run.load(PAYLOAD)),
            other => VcpuExit::Other(other),
        }
    }
}
