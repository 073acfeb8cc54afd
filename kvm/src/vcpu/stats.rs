//! What a vCPU has done: for KVM_GET_STATS_FD, and for the process's own account.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one vCPU, written by its thread.
        #[derive(Debug, Default)]
        pub struct VcpuStats {
            $($(#[$doc])* pub $name: Counter),*
        }

        impl VcpuStats {
            /// All of them, by name.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get())),*].into_iter()
            }
        }
    };
}

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

    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }
}

counters! {
    /// Instructions that the guest retired.
    guest_instructions,
    /// Time in guest mode.
    guest_ns,
    /// KVM_RUN calls.
    runs,
    /// Times the engine was left.
    exits,
    mmio_exits,
    io_exits,
    halt_exits,
    signal_exits,
    request_irq_exits,
    irq_injections,
    nmi_injections,
    hypercalls,
    insn_emulation_fail,
    halt_successful_poll,
    halt_attempted_poll,
    halt_poll_invalid,
    halt_wakeup,
    halt_poll_success_ns,
    halt_poll_fail_ns,
    halt_wait_ns,
    /// One while it sleeps.
    blocking,
    /// One while the thread is in guest mode.
    guest_mode,
}

/// The counters of a VM's vCPUs, those that are gone included.
#[derive(Debug, Default)]
pub struct VmStats {
    vcpus: Mutex<Vec<Arc<VcpuStats>>>,
}

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
    live: Vec<Weak<VmStats>>,
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

impl VmStats {
    /// Counters that [`process_totals`] includes.
    pub(crate) fn registered() -> Arc<VmStats> {
        let stats = Arc::new(VmStats::default());
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.live.retain(|vm| vm.strong_count() > 0);
        registry.live.push(Arc::downgrade(&stats));
        stats
    }

    pub(crate) fn add(&self) -> Arc<VcpuStats> {
        let stats = Arc::new(VcpuStats::default());
        self.vcpus
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&stats));
        stats
    }

    pub fn totals(&self) -> Totals {
        let vcpus = self.vcpus.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |vcpu: &Arc<VcpuStats>| Totals {
            guest_instructions: vcpu.guest_instructions.get(),
            guest_ns: vcpu.guest_ns.get(),
            exits: vcpu.exits.get(),
        };
        vcpus.iter().map(of).fold(Totals::default(), Totals::plus)
    }
}

impl Drop for VmStats {
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
