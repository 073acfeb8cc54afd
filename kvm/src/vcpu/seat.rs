//! A vCPU as other threads see it: they post requests and kicks, and wait for it to be out of guest mode. Nothing here
//! depends on the architecture.
//!
//! A thread that waits ([`Seats::request_all_and_wait`]) must hold no lock that a vCPU in guest mode takes. A vCPU that waits
//! itself counts as out of guest mode meanwhile, so two that wait for each other both go on; after the wait it must look at
//! its kick word before it executes guest code again, as it may have been asked to drop what it was about to use.

use super::kick::{Kick, KickBits};
use super::mode::Mode;
use crate::ranks;
use ring3_host::lock::RankedMutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, PoisonError, RwLock};

/// Something a vCPU is asked to do before it runs guest code again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(u8);

impl Request {
    /// Drop every cached translation from guest addresses to memory.
    pub const TLB_FLUSH: Request = Request(0);
    /// As TLB_FLUSH; and memslots are other ones than before.
    pub const SLOTS_CHANGED: Request = Request(1);
    /// There are page notices.
    pub const PAGES: Request = Request(2);
    /// The VM is being destroyed, or has died.
    pub const DEAD: Request = Request(3);
    /// Architectures' own start here; there are 48.
    const ARCH: u8 = 16;

    /// The architecture's request number `n`, below 48.
    pub const fn arch(n: u8) -> Request {
        assert!(n < 64 - Self::ARCH);
        Request(Self::ARCH + n)
    }

    const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// A set of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests(u64);

impl Requests {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn contains(self, request: Request) -> bool {
        self.0 & request.bit() != 0
    }
}

/// What changed about single pages, by guest page number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageNotices {
    /// Translations of code on these pages are stale.
    pub code_dropped: Vec<u64>,
    /// Writes to these pages may not be direct any more.
    pub write_revoked: Vec<u64>,
    /// There were too many to list: both are true of every page.
    pub everything: bool,
}

impl PageNotices {
    const MOST: usize = 256;

    fn add(&mut self, notice: PageNotice) {
        if self.everything {
            return;
        }
        let (list, gfn) = match notice {
            PageNotice::CodeDropped(gfn) => (&mut self.code_dropped, gfn),
            PageNotice::WriteRevoked(gfn) => (&mut self.write_revoked, gfn),
        };
        if list.len() == Self::MOST {
            *self = PageNotices {
                everything: true,
                ..PageNotices::default()
            };
        } else if !list.contains(&gfn) {
            list.push(gfn);
        }
    }
}

/// One notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageNotice {
    CodeDropped(u64),
    WriteRevoked(u64),
}

/// A vCPU, as other threads see it.
#[derive(Debug)]
pub struct Seat {
    id: u32,
    index: u32,
    kick: Kick,
    mode: Mode,
    requests: AtomicU64,
    notices: RankedMutex<PageNotices>,
}

impl Seat {
    pub fn new(id: u32, index: u32) -> Seat {
        Seat {
            id,
            index,
            kick: Kick::default(),
            mode: Mode::default(),
            requests: AtomicU64::new(0),
            notices: RankedMutex::new(ranks::NOTICES, PageNotices::default()),
        }
    }

    /// The id that the client chose (on x86 the APIC id).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The place among the VM's vCPUs, in the order of their creation.
    pub fn index(&self) -> u32 {
        self.index
    }

    pub fn kick(&self) -> &Kick {
        &self.kick
    }

    /// Posts a request and kicks.
    pub fn request(&self, request: Request) {
        self.requests.fetch_or(request.bit(), SeqCst);
        self.kick.post(KickBits::REQUEST);
    }

    /// Says that an event may be pending; the event itself was posted before.
    pub fn event(&self) {
        self.kick.post(KickBits::EVENT);
    }

    /// Posts a notice about a page and kicks.
    pub fn notice(&self, notice: PageNotice) {
        self.notices.lock().add(notice);
        self.request(Request::PAGES);
    }

    /// The requests posted so far, clearing them, but for DEAD, which stays. By the vCPU's thread.
    pub fn take_requests(&self) -> Requests {
        Requests(self.requests.fetch_and(Request::DEAD.bit(), SeqCst))
    }

    /// The notices posted so far. By the vCPU's thread, when it finds [`Request::PAGES`].
    pub fn take_notices(&self) -> PageNotices {
        std::mem::take(&mut *self.notices.lock())
    }

    /// Whether requests are posted, without taking them.
    pub fn has_requests(&self) -> bool {
        self.requests.load(SeqCst) != 0
    }

    /// Enters guest mode, unless a kick is pending.
    #[inline]
    pub fn enter_guest(&self) -> Option<GuestMode<'_>> {
        self.mode.enter();
        let guest = GuestMode(self);
        if self.kick.pending() { None } else { Some(guest) }
    }

    /// As [`Seat::enter_guest`], but a signal alone does not keep out: for the one instruction whose answer the client
    /// has just given, which must be complete before KVM_RUN returns.
    pub fn enter_guest_to_complete(&self) -> Option<GuestMode<'_>> {
        self.mode.enter();
        let guest = GuestMode(self);
        let others = !KickBits::SIGNAL.bits();
        if self.kick.word().load(SeqCst) & others != 0 {
            None
        } else {
            Some(guest)
        }
    }

    /// Whether the vCPU is in guest mode.
    pub fn in_guest(&self) -> bool {
        self.mode.in_guest()
    }

    /// Returns when the vCPU is out of guest mode, or has been since the request that the caller posted.
    fn wait_left(&self) {
        self.mode.wait_left(|| self.kick.contains(KickBits::REQUEST));
    }

    /// Runs `wait` with this vCPU, whose thread is calling, counting as out of guest mode.
    fn outside<R>(&self, wait: impl FnOnce() -> R) -> R {
        if !self.mode.in_guest() {
            return wait();
        }
        self.mode.leave();
        let result = wait();
        self.mode.enter();
        result
    }
}

/// Guest mode; left when dropped.
#[derive(Debug)]
pub struct GuestMode<'a>(&'a Seat);

impl Drop for GuestMode<'_> {
    fn drop(&mut self) {
        self.0.mode.leave();
    }
}

/// Every vCPU of a VM.
#[derive(Debug, Default)]
pub struct Seats {
    list: RwLock<Arc<[Arc<Seat>]>>,
}

impl Seats {
    /// All of them, by index.
    pub fn all(&self) -> Arc<[Arc<Seat>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, seat: Arc<Seat>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        *list = list.iter().cloned().chain([seat]).collect();
    }

    /// Posts `request` to every vCPU.
    pub fn request_all(&self, request: Request) {
        self.all().iter().for_each(|seat| seat.request(request));
    }

    /// Posts `notice` to every vCPU but `me`.
    pub fn notice_others(&self, me: Option<&Seat>, notice: PageNotice) {
        self.others(&self.all(), me).for_each(|seat| seat.notice(notice));
    }

    /// Posts `request` to every vCPU but `me`, and returns when each of them is out of guest mode or has come back through
    /// its requests. `me` is the calling thread's vCPU, if it is one's. Whether one was in guest mode.
    pub fn request_all_and_wait(&self, me: Option<&Seat>, request: Request) -> bool {
        let all = self.all();
        self.others(&all, me).for_each(|seat| seat.request(request));
        let interrupted = self.others(&all, me).any(|seat| seat.in_guest());
        self.wait_others(&all, me);
        interrupted
    }

    /// As [`Seats::request_all_and_wait`], with a notice about a page.
    pub fn notice_others_and_wait(&self, me: Option<&Seat>, notice: PageNotice) {
        let all = self.all();
        self.others(&all, me).for_each(|seat| seat.notice(notice));
        self.wait_others(&all, me);
    }

    fn others<'a>(&self, all: &'a [Arc<Seat>], me: Option<&Seat>) -> impl Iterator<Item = &'a Arc<Seat>> {
        let me = me.map(std::ptr::from_ref);
        all.iter().filter(move |seat| Some(Arc::as_ptr(seat)) != me)
    }

    fn wait_others(&self, all: &[Arc<Seat>], me: Option<&Seat>) {
        let wait = || self.others(all, me).for_each(|seat| seat.wait_left());
        match me {
            Some(me) if self.others(all, Some(me)).any(|seat| seat.in_guest()) => me.outside(wait),
            _ => wait(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_vcpu_that_has_served_its_requests_is_not_waited_for() {
        let seat = Arc::new(Seat::new(0, 0));
        seat.request(Request::TLB_FLUSH);
        // The vCPU finds the request before the other thread gets to wait, and enters.
        seat.kick().take();
        seat.take_requests();
        let guest = seat.enter_guest();
        assert!(guest.is_some());
        let (done, waits) = mpsc::channel();
        let waited_for = Arc::clone(&seat);
        std::thread::spawn(move || {
            waited_for.wait_left();
            done.send(())
        });
        assert_eq!(waits.recv_timeout(Duration::from_secs(20)), Ok(()));
    }
}
