//! The VM: what its vCPUs share, its descriptor, and its end.
//!
//! [`file`] is the descriptor and its ioctls, [`caps`] the capabilities, [`vcpus`] creation of vCPUs, [`device`] of devices.
//!
//! A VM lives as long as any descriptor of it, its vCPUs or its devices ([`Life`]). vCPUs hold the VM and the VM holds them (a vCPU whose
//! descriptor is closed stays a part of the machine), so the last descriptor's end takes that apart.

mod caps;
mod device;
mod file;
mod life;
mod vcpus;

pub(crate) use caps::{capabilities, check_extension, enabled};
pub(crate) use device::REQUESTS as DEVICE_REQUESTS;
pub(crate) use file::{REQUESTS, VmFile};
pub(crate) use life::Life;

use crate::arch::{Arch, Vms};
use crate::errno::Errno;
use crate::io::IoBuses;
use crate::irq;
use crate::memory::Memory;
use crate::ranks;
use crate::stats::VmStats;
use crate::vcpu::halt::DEFAULT_MOST_NS;
use crate::vcpu::{Request, Seats, Vcpu};
use crate::vfio::Vacancy;
use ring3_host::event::EventLoop;
use ring3_host::lock::RankedMutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// A VM.
pub struct Vm<A: Arch> {
    seats: Arc<Seats>,
    memory: Memory,
    io: IoBuses,
    irqs: irq::Irqs,
    events: EventLoop,
    vcpus: RwLock<Arc<[Arc<Vcpu<A>>]>>,
    /// Held while a vCPU or device is made, or a capability enabled.
    changes: RankedMutex<()>,
    halt_poll_most: AtomicU32,
    stats: Arc<VmStats>,
    vfio: Vacancy,
    dead: AtomicBool,
    arch: A::Vm,
}

impl<A: Arch> Vm<A> {
    /// KVM_CREATE_VM.
    pub(crate) fn create(kind: u64) -> Result<Arc<Vm<A>>, Errno> {
        let arch = <A as Vms>::create_vm(kind)?;
        let private = A::LIMITS.memory.private && <A as Vms>::has_private_memory(&arch);
        let seats = Arc::new(Seats::default());
        let stats = Arc::new(VmStats::new::<A>());
        Ok(Arc::new(Vm {
            memory: Memory::new(A::LIMITS.memory, private, &seats, &stats),
            seats,
            io: IoBuses::default(),
            irqs: irq::Irqs::default(),
            events: EventLoop::new(),
            vcpus: RwLock::default(),
            changes: RankedMutex::new(ranks::VM, ()),
            halt_poll_most: AtomicU32::new(DEFAULT_MOST_NS),
            stats,
            vfio: Vacancy::default(),
            dead: AtomicBool::new(false),
            arch,
        }))
    }

    /// The vCPUs as threads post to them.
    pub fn seats(&self) -> &Seats {
        &self.seats
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The I/O buses.
    pub fn io(&self) -> &IoBuses {
        &self.io
    }

    pub fn irqs(&self) -> &irq::Irqs {
        &self.irqs
    }

    /// What waits for descriptors and times on the VM's behalf.
    pub fn events(&self) -> &EventLoop {
        &self.events
    }

    /// The architecture's state.
    pub fn arch(&self) -> &A::Vm {
        &self.arch
    }

    pub fn stats(&self) -> &VmStats {
        &self.stats
    }

    /// Gives the VM up, as its state is not to be trusted any more: its vCPUs leave KVM_RUN, and every request of its
    /// descriptors gets EIO.
    pub fn die(&self) {
        self.dead.store(true, Relaxed);
        self.seats.request_all(Request::DEAD);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Relaxed)
    }

    pub(crate) fn vfio(&self) -> &Vacancy {
        &self.vfio
    }

    /// The lock of what may not change while a vCPU is made: hold it to check that there are none yet.
    pub fn changes(&self) -> &RankedMutex<()> {
        &self.changes
    }

    /// All vCPUs, by index.
    pub fn vcpus(&self) -> Arc<[Arc<Vcpu<A>>]> {
        Arc::clone(&self.vcpus.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn vcpu_by_id(&self, id: u32) -> Option<Arc<Vcpu<A>>> {
        self.vcpus().iter().find(|vcpu| vcpu.id() == id).cloned()
    }

    /// The longest time a halted vCPU polls, in ns.
    pub(crate) fn halt_poll_most(&self) -> u32 {
        self.halt_poll_most.load(Relaxed)
    }
}

impl<A: Arch> std::fmt::Debug for Vm<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm")
            .field("seats", &self.seats)
            .finish_non_exhaustive()
    }
}
