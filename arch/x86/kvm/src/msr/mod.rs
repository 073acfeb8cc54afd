//! Model-specific registers: one row each, one place to read and to write.
//!
//! `rows` is the table; `system`, `mtrr`, `mce`, `misc`, `crate::clock` and `crate::pmu` hold what the rows do; `ioctls` is the
//! client's side (KVM_GET_MSRS, KVM_SET_MSRS and the three lists).
//!
//! Not supported: asynchronous page faults, VMX and SVM capability registers.

pub mod filter;
pub mod index;
pub mod ioctls;
pub mod mce;
pub mod misc;
pub mod mtrr;
pub mod one_reg;
pub mod rows;
pub mod storage;
pub mod system;
pub mod xfd;

use ring3_uapi::x86::{KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE};
use ring3_x86_cpu::State;

use crate::vcpu::{Unit, X86Vcpu};
pub use storage::Storage;

/// Who accesses the register: several are the client's alone, or held to fewer rules by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Guest,
    Client,
}

/// Why an access failed: #GP for the guest, the end of the list for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The register exists, the value or the access is not allowed.
    Invalid,
    /// No such register.
    Unknown,
    /// The client's filter denies it.
    Filtered,
}

/// One access to one register.
pub struct Access<'a> {
    pub vcpu: &'a X86Vcpu,
    pub unit: &'a mut Unit,
    pub state: &'a mut State,
    pub index: u32,
    pub by: By,
}

impl Access<'_> {
    pub fn by_client(&self) -> bool {
        self.by == By::Client
    }

    /// Fails unless the client accesses the register.
    pub fn client_only(&self) -> Result<(), Denied> {
        allow(self.by_client())
    }

    /// Fails where the guest's CPUID lacks the paravirtual feature and the client wants that enforced.
    pub fn pv_feature(&self, bit: u32) -> Result<(), Denied> {
        let has = self.unit.cpuid.pv_features().is_some_and(|f| f >> bit & 1 != 0);
        if has || !self.unit.enforce_pv_cpuid {
            Ok(())
        } else {
            Err(Denied::Unknown)
        }
    }

    /// Fails for the guest where its CPUID lacks the feature.
    pub fn client_or(&self, feature: crate::cpuid::features::Feature) -> Result<(), Denied> {
        allow(self.by_client() || self.unit.cpuid.has(feature))
    }
}

/// Turns a condition into an answer.
pub fn allow(condition: bool) -> Result<(), Denied> {
    if condition { Ok(()) } else { Err(Denied::Invalid) }
}

pub type Read = fn(&mut Access) -> Result<u64, Denied>;
pub type Write = fn(&mut Access, u64) -> Result<(), Denied>;

bitflags::bitflags! {
    /// The lists of the client that name a register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Lists: u8 {
        /// KVM_GET_MSR_INDEX_LIST.
        const INDEX = 1;
        /// KVM_GET_MSR_FEATURE_INDEX_LIST.
        const FEATURE = 2;
    }
}

/// A register, or a run of registers with one meaning.
pub struct Row {
    pub name: &'static str,
    pub first: u32,
    pub last: u32,
    pub lists: Lists,
    pub read: Read,
    pub write: Write,
}

fn row(index: u32) -> Option<&'static Row> {
    rows::ROWS
        .iter()
        .find(|row| (row.first..=row.last).contains(&index))
}

pub fn read(access: &mut Access) -> Result<u64, Denied> {
    let row = row(access.index).ok_or(Denied::Unknown)?;
    (row.read)(access)
}

pub fn write(access: &mut Access, value: u64) -> Result<(), Denied> {
    let row = row(access.index).ok_or(Denied::Unknown)?;
    (row.write)(access, value)
}

/// A read by the guest, subject to the client's filter.
pub fn read_filtered(access: &mut Access) -> Result<u64, Denied> {
    if !access
        .vcpu
        .vm()
        .arch()
        .msr_filter
        .allows(access.index, KVM_MSR_FILTER_READ)
    {
        return Err(Denied::Filtered);
    }
    read(access)
}

/// A write by the guest, subject to the client's filter.
pub fn write_filtered(access: &mut Access, value: u64) -> Result<(), Denied> {
    if !access
        .vcpu
        .vm()
        .arch()
        .msr_filter
        .allows(access.index, KVM_MSR_FILTER_WRITE)
    {
        return Err(Denied::Filtered);
    }
    write(access, value)
}
