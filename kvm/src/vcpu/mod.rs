//! vCPUs: their descriptor, their requests and kicks, and the shell around KVM_RUN.
//!
//! [`seat`] is what other threads use (requests, kicks, waiting for a vCPU to be out of guest mode), [`run`] the system
//! call, [`halt`] waiting for interrupts. What a vCPU *is* belongs to the architecture.

pub(crate) mod dirty_ring;
mod file;
pub(crate) mod halt;
mod kick;
mod mode;
mod run;
mod seat;

pub(crate) use file::REQUESTS;
pub use halt::{DEFAULT_MOST_NS as DEFAULT_HALT_POLL_NS, Polling};
pub use kick::{Kick, KickBits};
pub(crate) use run::EXITS;
pub use seat::{GuestMode, PageNotice, PageNotices, Request, Requests, Seat, Seats};

pub(crate) use file::VcpuFile;

use crate::arch::Arch;
use crate::errno::Errno;
use crate::memory::SlotPage;
use crate::ranks;
use crate::stats::VcpuStats;
use crate::vm::Vm;
use dirty_ring::DirtyRing;
use ring3_host::addr::PAGE_SIZE;
use ring3_host::lock::{RankedGuard, RankedMutex};
use ring3_host::shared::SharedPages;
use ring3_host::signal::SigSet;
use ring3_uapi::run as page;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

/// What only the holder of the vCPU's mutex touches.
struct Owned<A: Arch> {
    arch: A::Vcpu,
    /// KVM_SET_SIGNAL_MASK.
    signal_mask: Option<SigSet>,
}

/// A vCPU.
pub struct Vcpu<A: Arch> {
    seat: Arc<Seat>,
    vm: Arc<Vm<A>>,
    pages: Arc<SharedPages>,
    owned: RankedMutex<Owned<A>>,
    shared: A::Shared,
    stats: Arc<VcpuStats>,
    halt_poll: halt::HaltPoll,
    dirty_ring: Option<DirtyRing>,
    /// What `immediate_exit` was when the current KVM_RUN began.
    immediate_exit: std::sync::atomic::AtomicBool,
}

impl<A: Arch> Vcpu<A> {
    /// A vCPU and the descriptor that the client maps its pages from.
    pub(crate) fn create(vm: &Arc<Vm<A>>, id: u32, index: u32) -> Result<(Arc<Vcpu<A>>, OwnedFd), Errno> {
        let seat = Arc::new(Seat::new(id, index));
        let ring = vm.memory().dirty_ring_size();
        let (run, after) = (A::LIMITS.vcpu_mmap_pages, A::LIMITS.dirty_ring_page.unwrap_or(0));
        let all = if ring == 0 {
            run
        } else {
            after + ring as usize / PAGE_SIZE as usize
        };
        let (pages, fd) = SharedPages::create(&format!("kvm-vcpu:{id}"), all)?;
        let pages = Arc::new(pages);
        let at = after * PAGE_SIZE as usize;
        let dirty_ring = (ring != 0).then(|| DirtyRing::new(Arc::clone(&pages), at, ring));
        let (arch, shared) = A::create_vcpu(vm, &seat)?;
        let vcpu = Vcpu {
            seat,
            vm: Arc::clone(vm),
            pages,
            owned: RankedMutex::new(
                ranks::VCPU,
                Owned {
                    arch,
                    signal_mask: None,
                },
            ),
            shared,
            stats: vm.stats().add::<A>(id),
            halt_poll: halt::HaltPoll::default(),
            dirty_ring,
            immediate_exit: std::sync::atomic::AtomicBool::new(false),
        };
        Ok((Arc::new(vcpu), fd))
    }

    pub fn id(&self) -> u32 {
        self.seat.id()
    }

    pub fn index(&self) -> u32 {
        self.seat.index()
    }

    /// Its face to other threads.
    pub fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }

    pub fn vm(&self) -> &Arc<Vm<A>> {
        &self.vm
    }

    /// The architecture's state that other threads reach.
    pub fn shared(&self) -> &A::Shared {
        &self.shared
    }

    /// The pages that the client maps: `kvm_run` first.
    pub fn pages(&self) -> &Arc<SharedPages> {
        &self.pages
    }

    pub fn stats(&self) -> &VcpuStats {
        &self.stats
    }

    /// Whether this KVM_RUN is only to complete the last exit, and then return EINTR.
    pub fn immediate_exit(&self) -> bool {
        self.immediate_exit.load(Relaxed)
    }

    /// Sets `exit_reason` in the run page.
    pub fn set_exit_reason(&self, reason: u32) {
        self.pages.store(page::EXIT_REASON, &reason);
    }

    /// Enters a page in the dirty log, if there is one: before the write, or before it becomes writable in a TLB. By the vCPU's
    /// thread.
    #[inline]
    pub fn mark_dirty(&self, page: &SlotPage<'_>) {
        if page.mark_dirty()
            && let Some(ring) = &self.dirty_ring
            && ring.push(page.dirty())
        {
            self.seat.kick().post(KickBits::REQUEST);
        }
    }

    /// Whether the vCPU has to wait for the client to empty its dirty ring (KVM_EXIT_DIRTY_RING_FULL). By its thread, before it
    /// runs the guest.
    #[inline]
    pub fn dirty_ring_full(&self) -> bool {
        let Some(ring) = &self.dirty_ring else {
            return false;
        };
        for page in self.vm.memory().take_unclaimed() {
            ring.push(page);
        }
        ring.is_full()
    }

    pub(crate) fn dirty_ring(&self) -> Option<&DirtyRing> {
        self.dirty_ring.as_ref()
    }

    fn sample_immediate_exit(&self) {
        let now = self.pages.atomic_u8(page::IMMEDIATE_EXIT).load(Acquire) != 0;
        self.immediate_exit.store(now, Relaxed);
    }

    /// Waits for the vCPU's mutex, as every ioctl of it does, and lends its state. Not from a thread that runs the vCPU.
    pub fn with_state<R>(&self, f: impl FnOnce(&mut A::Vcpu) -> R) -> R {
        f(&mut self.owned().arch)
    }

    fn owned(&self) -> RankedGuard<'_, Owned<A>> {
        self.owned.lock()
    }
}

impl<A: Arch> std::fmt::Debug for Vcpu<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vcpu")
            .field("seat", &self.seat)
            .finish_non_exhaustive()
    }
}
