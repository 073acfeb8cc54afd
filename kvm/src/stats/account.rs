//! The process's own account: sums over all vCPUs that it ever had.

use super::{VcpuStats, rows};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// By the vCPU's thread only: it is not a locked addition.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A VM's part of the account: its vCPUs, those that are gone included.
#[derive(Debug)]
pub(super) struct Account(Arc<Vcpus>);

#[derive(Debug, Default)]
struct Vcpus(Mutex<Vec<Arc<VcpuStats>>>);

/// Sums over a VM, or over the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub guest_instructions: u64,
    pub guest_ns: u64,
    pub exits: u64,
}

impl Totals {
    fn plus(self, other: Totals) -> Totals {
        Totals {
            guest_instructions: self.guest_instructions + other.guest_instructions,
            guest_ns: self.guest_ns + other.guest_ns,
            exits: self.exits + other.exits,
        }
    }
}

#[derive(Default)]
struct Registry {
    live: Vec<Weak<Vcpus>>,
    gone: Totals,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    live: Vec::new(),
    gone: Totals {
        guest_instructions: 0,
        guest_ns: 0,
        exits: 0,
    },
});

impl Account {
    /// One that [`process_totals`] includes.
    pub fn registered() -> Account {
        let vcpus = Arc::new(Vcpus::default());
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.live.retain(|vm| vm.strong_count() > 0);
        registry.live.push(Arc::downgrade(&vcpus));
        Account(vcpus)
    }

    pub fn add(&self, vcpu: &Arc<VcpuStats>) {
        let mut vcpus = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        vcpus.push(Arc::clone(vcpu));
    }
}

impl Vcpus {
    fn totals(&self) -> Totals {
        let vcpus = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |vcpu: &Arc<VcpuStats>| Totals {
            guest_instructions: vcpu.at(rows::GUEST_INSTRUCTIONS).get(),
            guest_ns: vcpu.at(rows::GUEST_NS).get(),
            exits: vcpu.exits.get(),
        };
        vcpus.iter().map(of).fold(Totals::default(), Totals::plus)
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        let totals = self.totals();
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.gone = registry.gone.plus(totals);
    }
}

/// In a forked child: forgets the parent's VMs.
pub fn forget() {
    // A thread of the parent's may have held it, which will never let go here.
    if let Ok(mut registry) = REGISTRY.try_lock() {
        *registry = Registry::default();
    }
}

/// Sums over all VMs that the process ever had.
pub fn process_totals() -> Totals {
    let (live, gone) = {
        let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        (
            registry.live.iter().filter_map(Weak::upgrade).collect::<Vec<_>>(),
            registry.gone,
        )
    };
    // Not under the lock: one of them may be dropped right here.
    live.iter().map(|vm| vm.totals()).fold(gone, Totals::plus)
}
