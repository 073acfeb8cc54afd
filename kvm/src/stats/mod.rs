//! What VMs and vCPUs have done: for KVM_GET_STATS_FD, and for the process's own account.
//!
//! [`rows`] says what is counted, [`table`] is where: in the very file that the client reads, so that reading needs nobody's help.
//! [`account`] has what is not of the API.

mod account;
mod file;
pub mod rows;
mod table;

pub use account::{Counter, Totals, forget, process_totals};
pub use rows::{Place, StatKind, StatRow, stat};
pub use table::{Count, Table};

pub(crate) use file::StatsFile;

use crate::arch::Arch;
use crate::errno::Errno;
use account::Account;
use ring3_host::process::thread_id;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a vCPU has done, counted by its thread.
#[derive(Debug)]
pub struct VcpuStats {
    /// Instructions that the guest retired.
    pub guest_instructions: Counter,
    /// Time in guest mode.
    pub guest_ns: Counter,
    /// KVM_RUN calls.
    pub runs: Counter,
    /// Times the engine was left.
    pub exits: Counter,
    shown: Table,
}

impl VcpuStats {
    fn new<A: Arch>(id: u32) -> Result<VcpuStats, Errno> {
        let id = format!("kvm-{}/vcpu-{id}", thread_id());
        Ok(VcpuStats {
            guest_instructions: Counter::default(),
            guest_ns: Counter::default(),
            runs: Counter::default(),
            exits: Counter::default(),
            shown: Table::new(&id, rows::VCPU, A::VCPU_STATS)?,
        })
    }

    /// The number at a place of the table that is shown.
    #[inline(always)]
    pub fn at(&self, place: Place) -> Count<'_> {
        self.shown.at(place)
    }

    /// The table that is shown.
    pub(crate) fn shown(&self) -> &Table {
        &self.shown
    }

    /// A descriptor that reads the table, for the holder of the vCPU's mutex.
    pub(crate) fn open(&self, id: u32) -> Result<OwnedFd, Errno> {
        self.shown.open(&format!("kvm-vcpu-stats:{id}"))
    }
}

/// What a VM has done, and its vCPUs, those that are gone included.
#[derive(Debug)]
pub struct VmStats {
    shown: Mutex<Table>,
    vcpus: Account,
}

impl VmStats {
    pub(crate) fn new<A: Arch>() -> Result<VmStats, Errno> {
        let id = format!("kvm-{}", thread_id());
        Ok(VmStats {
            shown: Mutex::new(Table::new(&id, rows::VM, A::VM_STATS)?),
            vcpus: Account::registered(),
        })
    }

    pub(crate) fn add<A: Arch>(&self, id: u32) -> Result<Arc<VcpuStats>, Errno> {
        let stats = Arc::new(VcpuStats::new::<A>(id)?);
        self.vcpus.add(&stats);
        Ok(stats)
    }

    /// The table that is shown, for as long as one thread counts.
    pub fn shown(&self) -> MutexGuard<'_, Table> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        self.shown().open("kvm-vm-stats")
    }
}
