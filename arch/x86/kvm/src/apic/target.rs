//! One vCPU as a target of interrupts: its local APIC and timer, and what other threads post to it.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

use ring3_host::event::{EventLoop, Timer};
use ring3_host::lock::{RankedGuard, RankedMutex};
use ring3_host::time::monotonic_now;
use ring3_kvm::Errno;
use ring3_kvm::vcpu::Seat;

use super::shown::Shown;
use crate::clock::tsc::GuestTsc;
use crate::lapic::{Acceptance, ApicMessage, Lapic};
use crate::locks;
use crate::ports::{Monotonic, TimerPort, TscTimerPort};

/// Events that need no APIC.
#[derive(Debug, Default)]
pub struct Posted {
    nmis: AtomicU32,
    smi: AtomicBool,
    init: AtomicBool,
    sipi: AtomicBool,
    sipi_vector: AtomicU32,
    unhalted: AtomicBool,
}

impl Posted {
    pub fn nmi(&self) {
        self.nmis.fetch_add(1, SeqCst);
    }

    pub fn take_nmis(&self) -> u32 {
        if self.nmis.load(SeqCst) == 0 {
            0
        } else {
            self.nmis.swap(0, SeqCst)
        }
    }

    pub fn has_nmi(&self) -> bool {
        self.nmis.load(SeqCst) != 0
    }

    pub fn smi(&self) {
        self.smi.store(true, SeqCst);
    }

    pub fn take_smi(&self) -> bool {
        self.smi.load(SeqCst) && self.smi.swap(false, SeqCst)
    }

    pub fn unhalted(&self) -> bool {
        self.unhalted.load(SeqCst)
    }

    pub fn take_unhalted(&self) -> bool {
        self.unhalted.swap(false, SeqCst)
    }

    pub fn init_pending(&self) -> bool {
        self.init.load(SeqCst)
    }

    pub fn set_init(&self, on: bool) {
        self.init.store(on, SeqCst);
    }

    pub fn take_init(&self) -> bool {
        self.init.swap(false, SeqCst)
    }

    pub fn take_sipi(&self) -> Option<u8> {
        self.sipi
            .swap(false, SeqCst)
            .then(|| self.sipi_vector.load(SeqCst) as u8)
    }

    /// INIT or STARTUP to look at.
    pub fn has_start(&self) -> bool {
        self.init.load(SeqCst) || self.sipi.load(SeqCst)
    }

    pub fn set_sipi_vector(&self, vector: u8) {
        self.sipi_vector.store(vector.into(), SeqCst);
    }

    pub fn repeat_sipi(&self) {
        self.sipi.store(true, SeqCst);
    }
}

/// The host timer of one APIC and the guest's TSC, as the model sees them.
pub struct Port {
    timer: Timer,
    pub tsc: GuestTsc,
}

impl TimerPort for Port {
    fn now(&self) -> Monotonic {
        Monotonic(monotonic_now().0)
    }

    fn arm(&mut self, deadline: Monotonic) {
        self.timer.arm(ring3_host::time::Monotonic(deadline.0));
    }

    fn disarm(&mut self) {
        self.timer.disarm();
    }
}

impl TscTimerPort for Port {
    fn ns_until_tsc(&self, deadline: u64) -> Option<u64> {
        Some(self.tsc.ns_until(deadline))
    }
}

pub struct Inner {
    pub lapic: Lapic,
    pub port: Port,
}

/// The APIC, locked. What it shows follows when this goes.
pub struct Locked<'a> {
    inner: RankedGuard<'a, Inner>,
    shown: &'a Shown,
}

impl Deref for Locked<'_> {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.shown.publish(&self.inner.lapic);
    }
}

/// A vCPU's local APIC.
pub struct Target {
    inner: RankedMutex<Inner>,
    pub shown: Shown,
    pub seat: Arc<Seat>,
    pub posted: Arc<Posted>,
}

impl Target {
    pub fn new(
        lapic: Lapic,
        tsc: GuestTsc,
        seat: &Arc<Seat>,
        posted: &Arc<Posted>,
        events: &EventLoop,
    ) -> Result<Arc<Target>, Errno> {
        // The timer is part of what it calls.
        let slot: Arc<OnceLock<Weak<Target>>> = Arc::default();
        let callee = Arc::clone(&slot);
        let timer = events.timer(Arc::new(move || {
            if let Some(target) = callee.get().and_then(Weak::upgrade) {
                target.timer_fired();
            }
        }))?;
        let shown = Shown::new(&lapic);
        let inner = Inner {
            lapic,
            port: Port { timer, tsc },
        };
        let target = Arc::new(Target {
            inner: RankedMutex::new(locks::LAPIC, inner),
            shown,
            seat: Arc::clone(seat),
            posted: Arc::clone(posted),
        });
        // Nobody else sets it.
        let _ = slot.set(Arc::downgrade(&target));
        Ok(target)
    }

    pub fn lock(&self) -> Locked<'_> {
        Locked {
            inner: self.inner.lock(),
            shown: &self.shown,
        }
    }

    fn timer_fired(&self) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let acceptance = inner.lapic.timer_fired(&mut inner.port);
        drop(guard);
        self.act_on(acceptance);
    }

    /// Takes a message; false if it was discarded.
    pub fn accept(&self, message: &ApicMessage) -> bool {
        let acceptance = self.lock().lapic.accept(message);
        self.act_on(acceptance)
    }

    /// A local source fires.
    pub fn deliver_local(&self, source: crate::lapic::LocalSource) -> bool {
        let acceptance = self.lock().lapic.deliver_local(source);
        self.act_on(acceptance)
    }

    pub fn post_unhalt(&self) {
        self.posted.unhalted.store(true, SeqCst);
        self.seat.event();
    }

    fn act_on(&self, acceptance: Acceptance) -> bool {
        match acceptance {
            Acceptance::Discarded => return false,
            Acceptance::Requested => {}
            Acceptance::Nmi => self.posted.nmi(),
            Acceptance::Smi => self.posted.smi(),
            Acceptance::Init => {
                self.posted.sipi.store(false, SeqCst);
                self.posted.init.store(true, SeqCst);
            }
            Acceptance::Startup(vector) => {
                self.posted.set_sipi_vector(vector);
                self.posted.sipi.store(true, SeqCst);
            }
            Acceptance::Unhalt => self.posted.unhalted.store(true, SeqCst),
        }
        self.seat.event();
        true
    }
}
