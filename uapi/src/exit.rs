//! Exit reasons, and the codes inside their payloads. The payloads themselves are in [`crate::run`].

mod rows;

pub use rows::*;

use crate::arch::Archs;

/// An exit reason.
#[derive(Clone, Copy, Debug)]
pub struct ExitRow {
    pub name: &'static str,
    pub number: u32,
    pub archs: Archs,
    pub purpose: &'static str,
}

/// The row of a number.
pub fn lookup(number: u32) -> Option<&'static ExitRow> {
    EXITS.iter().find(|row| row.number == number)
}

// KVM_EXIT_IO: direction.
pub const KVM_EXIT_IO_IN: u8 = 0;
pub const KVM_EXIT_IO_OUT: u8 = 1;

// KVM_EXIT_INTERNAL_ERROR: suberror.
pub const KVM_INTERNAL_ERROR_EMULATION: u32 = 1;
pub const KVM_INTERNAL_ERROR_SIMUL_EX: u32 = 2;
pub const KVM_INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
pub const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;
/// The failing instruction's bytes are in the payload.
pub const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES: u64 = 1 << 0;

// KVM_EXIT_SYSTEM_EVENT: type.
pub const KVM_SYSTEM_EVENT_SHUTDOWN: u32 = 1;
pub const KVM_SYSTEM_EVENT_RESET: u32 = 2;
pub const KVM_SYSTEM_EVENT_CRASH: u32 = 3;
pub const KVM_SYSTEM_EVENT_WAKEUP: u32 = 4;
pub const KVM_SYSTEM_EVENT_SUSPEND: u32 = 5;
pub const KVM_SYSTEM_EVENT_SEV_TERM: u32 = 6;
pub const KVM_SYSTEM_EVENT_TDX_FATAL: u32 = 7;

// KVM_EXIT_HYPERV: type.
pub const KVM_EXIT_HYPERV_SYNIC: u32 = 1;
pub const KVM_EXIT_HYPERV_HCALL: u32 = 2;
pub const KVM_EXIT_HYPERV_SYNDBG: u32 = 3;

// KVM_EXIT_XEN: type.
pub const KVM_EXIT_XEN_HCALL: u32 = 1;

// KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR: reason.
pub const KVM_MSR_EXIT_REASON_INVAL: u32 = 1 << 0;
pub const KVM_MSR_EXIT_REASON_UNKNOWN: u32 = 1 << 1;
pub const KVM_MSR_EXIT_REASON_FILTER: u32 = 1 << 2;
pub const KVM_MSR_EXIT_REASON_VALID_MASK: u32 = 7;

// KVM_EXIT_MEMORY_FAULT: flags.
pub const KVM_MEMORY_EXIT_FLAG_PRIVATE: u64 = 1 << 3;

// KVM_EXIT_NOTIFY: flags.
pub const KVM_NOTIFY_CONTEXT_INVALID: u32 = 1 << 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_their_position() {
        for (i, row) in EXITS.iter().enumerate() {
            assert_eq!(row.number as usize, i, "{}", row.name);
        }
    }
}
