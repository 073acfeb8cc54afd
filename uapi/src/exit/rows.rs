//! Exit rows, by number. Each row also becomes the constant of its name.

use super::ExitRow;
use crate::arch::Archs;

macro_rules! exits {
    ($($(#[doc = $purpose:literal])* $name:ident = $number:literal, $($arch:ident)|+;)*) => {
        $($(#[doc = $purpose])* pub const $name: u32 = $number;)*

        /// Every exit reason of the API.
        pub const EXITS: &[ExitRow] = &[$(ExitRow {
            name: stringify!($name),
            number: $name,
            archs: Archs::empty()$(.union(Archs::$arch))+,
            purpose: concat!($($purpose),*).trim_ascii(),
        }),*];
    };
}

exits! {
    /// Hardware exit KVM does not understand; raw reason attached.
    KVM_EXIT_UNKNOWN = 0, ALL;
    /// Guest exception; kept in the ABI but effectively unused.
    KVM_EXIT_EXCEPTION = 1, X86;
    /// Guest port read or write for userspace to perform.
    KVM_EXIT_IO = 2, X86;
    /// Guest hypercall handed to userspace.
    KVM_EXIT_HYPERCALL = 3, X86|ARM64|LOONGARCH;
    /// Breakpoint, watchpoint or single-step hit under host debugging.
    KVM_EXIT_DEBUG = 4, X86|ARM64|S390|PPC|RISCV|LOONGARCH;
    /// Guest halted while userspace owns the interrupt controller.
    KVM_EXIT_HLT = 5, X86;
    /// Guest touched an address with no memory slot.
    KVM_EXIT_MMIO = 6, X86|ARM64|PPC|RISCV|LOONGARCH|MIPS;
    /// Guest can now accept the interrupt userspace wants to inject.
    KVM_EXIT_IRQ_WINDOW_OPEN = 7, X86|MIPS;
    /// Triple fault or equivalent fatal guest state.
    KVM_EXIT_SHUTDOWN = 8, X86;
    /// Hardware refused to enter the guest.
    KVM_EXIT_FAIL_ENTRY = 9, X86|ARM64|PPC|RISCV;
    /// A signal or kick interrupted the run.
    KVM_EXIT_INTR = 10, ALL;
    /// Guest lowered task priority while APIC is in userspace.
    KVM_EXIT_SET_TPR = 11, X86;
    /// Guest accessed the task-priority register and reporting is on.
    KVM_EXIT_TPR_ACCESS = 12, X86;
    /// Instruction interception left for userspace to emulate.
    KVM_EXIT_S390_SIEIC = 13, S390;
    /// Guest asked for re-IPL or reset; flags say which.
    KVM_EXIT_S390_RESET = 14, S390;
    /// Deprecated PowerPC 440 device-control-register access.
    KVM_EXIT_DCR = 15, PPC;
    /// Guest machine check to be reported by userspace.
    KVM_EXIT_NMI = 16, PPC;
    /// KVM could not emulate or recover; suberror and data attached.
    KVM_EXIT_INTERNAL_ERROR = 17, X86|ARM64|PPC|LOONGARCH|MIPS;
    /// Mac-on-Linux hypercall with all GPRs exposed.
    KVM_EXIT_OSI = 18, PPC;
    /// PAPR hypercall not handled in the kernel.
    KVM_EXIT_PAPR_HCALL = 19, PPC;
    /// Unresolved fault in a user-controlled VM.
    KVM_EXIT_S390_UCONTROL = 20, S390;
    /// BookE watchdog reached final expiry.
    KVM_EXIT_WATCHDOG = 21, PPC;
    /// TEST SUBCHANNEL needs userspace completion.
    KVM_EXIT_S390_TSCH = 22, S390;
    /// Interrupt vector wanted for external-proxy delivery.
    KVM_EXIT_EPR = 23, PPC;
    /// Shutdown, reset, crash, suspend, wakeup or confidential-VM termination event.
    KVM_EXIT_SYSTEM_EVENT = 24, X86|ARM64|RISCV;
    /// Userspace may extend store-system-information output.
    KVM_EXIT_S390_STSI = 25, S390;
    /// End-of-interrupt for a userspace IOAPIC pin.
    KVM_EXIT_IOAPIC_EOI = 26, X86;
    /// Hyper-V SynIC change, hypercall or debugger request.
    KVM_EXIT_HYPERV = 27, X86;
    /// Data abort without decode information.
    KVM_EXIT_ARM_NISV = 28, ARM64;
    /// Userspace must supply an MSR read value.
    KVM_EXIT_X86_RDMSR = 29, X86;
    /// Userspace must accept or reject an MSR write.
    KVM_EXIT_X86_WRMSR = 30, X86;
    /// Dirty ring has no room; harvest and reset it.
    KVM_EXIT_DIRTY_RING_FULL = 31, X86|ARM64|RISCV|LOONGARCH;
    /// SEV-ES processor waits to be started again.
    KVM_EXIT_AP_RESET_HOLD = 32, X86;
    /// Guest acquired a bus lock.
    KVM_EXIT_X86_BUS_LOCK = 33, X86;
    /// Xen hypercall for userspace.
    KVM_EXIT_XEN = 34, X86;
    /// SBI firmware call for userspace.
    KVM_EXIT_RISCV_SBI = 35, RISCV;
    /// CSR access for userspace to emulate.
    KVM_EXIT_RISCV_CSR = 36, RISCV;
    /// No event window opened within the allowed time.
    KVM_EXIT_NOTIFY = 37, X86;
    /// I/O control register access for userspace.
    KVM_EXIT_LOONGARCH_IOCSR = 38, LOONGARCH;
    /// Unresolvable fault; arrives with error return, not success.
    KVM_EXIT_MEMORY_FAULT = 39, X86|ARM64;
    /// TDX guest call needing userspace, such as quote generation.
    KVM_EXIT_TDX = 40, X86;
    /// Synchronous external abort the host could not handle.
    KVM_EXIT_ARM_SEA = 41, ARM64;
    /// 64-byte atomic load or store outside memory slots.
    KVM_EXIT_ARM_LDST64B = 42, ARM64;
    /// SEV-SNP attestation wants certificate data from userspace.
    KVM_EXIT_SNP_REQ_CERTS = 43, X86;
}
