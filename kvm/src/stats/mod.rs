//! What VMs and vCPUs have done: for KVM_GET_STATS_FD, for `ring3 stat`, and for the process's own account.
//!
//! [`rows`] says what is counted, [`table`] is where: on the process's [`board`], a file that anybody who may look at the process
//! can read, and in the very file that the client reads, so that reading needs nobody's help. [`account`] has sums.

mod account;
pub mod board;
mod file;
pub mod rows;
mod table;

pub use account::{Counter, Totals, process_totals};
pub use rows::{Place, StatKind, StatRow, stat};
pub use table::{Count, Table};

pub(crate) use file::StatsFile;

use crate::arch::Arch;
use crate::errno::Errno;
use account::Account;
use board::Whose;
use ring3_host::process::thread_id;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// In a forked child: forgets the parent's VMs.
pub fn forget() {
    account::forget();
    board::forget();
}

/// What a vCPU has done, counted by its thread.
#[derive(Debug)]
pub struct VcpuStats {
    /// Times the engine was left.
    pub exits: Counter,
    shown: Table,
}

impl VcpuStats {
    fn new<A: Arch>(vm: u32, id: u32) -> VcpuStats {
        let name = format!("kvm-{}/vcpu-{id}", thread_id());
        VcpuStats {
            exits: Counter::default(),
            shown: Table::new(Whose::Vcpu { vm, id }, &name, rows::VCPU, A::VCPU_STATS),
        }
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
    /// Its number among the VMs that the process had.
    number: u32,
    shown: Mutex<Table>,
    vcpus: Account,
}

impl VmStats {
    pub(crate) fn new<A: Arch>() -> VmStats {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("kvm-{}", thread_id());
        let number = NUMBER.fetch_add(1, Relaxed);
        let whose = Whose::Vm { vm: number };
        VmStats {
            number,
            shown: Mutex::new(Table::new(whose, &name, rows::VM, A::VM_STATS)),
            vcpus: Account::registered(),
        }
    }

    pub(crate) fn add<A: Arch>(&self, id: u32) -> Arc<VcpuStats> {
        let stats = Arc::new(VcpuStats::new::<A>(self.number, id));
        self.vcpus.add(&stats);
        stats
    }

    /// The table that is shown, for as long as one thread counts.
    pub fn shown(&self) -> MutexGuard<'_, Table> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        self.shown().open("kvm-vm-stats")
    }
}
