//! Registers that only hold their value.

use std::collections::BTreeMap;

use super::index::*;
use crate::cpuid::supported;

/// Values of registers without a home in the processor's state; a register not yet written has its initial value.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    values: BTreeMap<u32, u64>,
}

impl Storage {
    pub fn get(&self, index: u32) -> u64 {
        self.values.get(&index).copied().unwrap_or_else(|| initial(index))
    }

    pub fn set(&mut self, index: u32, value: u64) {
        self.values.insert(index, value);
    }
}

/// Values after power-up, where they are not zero.
fn initial(index: u32) -> u64 {
    match index {
        // As Linux sets it: no branch trace storage and no PEBS. Fast strings are the client's to offer.
        IA32_MISC_ENABLE => 1 << 11 | 1 << 12,
        // As in Linux: revisions high enough for a guest not to look for updates.
        IA32_UCODE_REV if supported::host_is_amd() => 0x0100_0065,
        IA32_UCODE_REV => 1 << 32,
        IA32_PAT => 0x0007_0406_0007_0406,
        IA32_ARCH_CAPABILITIES => super::misc::ARCH_CAPABILITIES,
        IA32_PERF_CAPABILITIES => crate::pmu::shape::supported_capabilities(),
        AMD_TSC_RATIO => 1 << 32,
        OSVW_ID_LENGTH => 4,
        KVM_POLL_CONTROL => 1,
        _ => 0,
    }
}
