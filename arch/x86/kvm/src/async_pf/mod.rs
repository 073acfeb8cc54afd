//! Asynchronous page faults: while the host fetches a page of the guest's from a file or from swap, the vCPU does something else.
//!
//! An access to such a page is put off before it has done anything. A guest that asked for it ([`msrs`]) gets #PF with a token in
//! the place of the address, and schedules another of its tasks; when the page is there, an interrupt, and the token again. The
//! vCPU of a guest that did not ask, or cannot take the exception now, is as if halted, so that interrupts find
//! it. Where neither is possible the access waits.
//!
//! The page is asked for by advice to the host, which does not wait, and then looked at every now and then; so no thread is
//! needed. Not supported: pages under a userfaultfd, and page tables of the guest's: those accesses wait.

pub mod msrs;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ring3_host::addr::GuestPhys;
use ring3_host::event::Timer;
use ring3_host::residence::{self, Mappings};
use ring3_host::time::{Monotonic, monotonic_now};
use ring3_uapi::KVM_MP_STATE_RUNNABLE;
use ring3_uapi::x86::KVM_X86_DISABLE_EXITS_HLT;
use ring3_uapi::x86::pv::{KVM_ASYNC_PF_DELIVERY_AS_INT, KVM_ASYNC_PF_ENABLED, KVM_ASYNC_PF_SEND_ALWAYS};
use ring3_x86_cpu::Vector;
use ring3_x86_cpu::state::Exception;

use crate::lapic::ApicMessage;
use crate::vcpu::{Unit, VcpuState, X86Vcpu};

/// So many pages are fetched at once for a vCPU.
const MOST: usize = 64;
/// How often it is looked whether they are there.
const PERIOD_NS: u64 = 200_000;
/// A page that is not there by then is waited for.
const PATIENCE_NS: u64 = 50_000_000;

/// Where things are in the guest's structure (`kvm_vcpu_pv_apf_data`).
const FLAGS: u64 = 0;
const TOKEN: u64 = 4;
/// The exception is not of the guest's making.
const PAGE_NOT_PRESENT: u32 = 1;

/// Wakes all tasks that wait for a page.
const EVERYBODY: u32 = !0;

/// A vCPU's.
#[derive(Default)]
pub struct AsyncPf {
    /// MSR_KVM_ASYNC_PF_EN and MSR_KVM_ASYNC_PF_INT.
    enable: u64,
    interrupt: u64,
    mappings: Mappings,
    /// What the access wants that was put off.
    wanted: Option<Wanted>,
    /// The page that the next access to is to wait for.
    awaited: Option<u64>,
    fetched: Vec<Fetch>,
    /// What is there, and the guest is to hear of.
    ready: VecDeque<Ready>,
    /// The vCPU waits for a page or an interrupt.
    pub halted: bool,
    tokens: u32,
    timer: Option<Timer>,
}

/// A page of the guest's and where it is in the client's memory.
#[derive(Clone, Copy)]
pub struct Wanted {
    gfn: u64,
    at: u64,
}

struct Fetch {
    page: Wanted,
    ready: Ready,
    until: Monotonic,
}

#[derive(Clone, Copy)]
struct Ready {
    token: u32,
    /// The guest knows that it is not there.
    told: bool,
}

impl AsyncPf {
    /// Whether the guest takes exceptions.
    fn is_enabled(&self) -> bool {
        is_enabled(self.enable)
    }

    fn structure(&self) -> u64 {
        self.enable & !0x3f
    }

    /// What the access wants that was put off last, once.
    #[inline]
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        let wanted = self.wanted.take();
        if wanted.is_none() {
            self.awaited = None;
        }
        wanted
    }

    /// There is something to be looked at.
    #[inline]
    pub fn is_due(&self) -> bool {
        !(self.fetched.is_empty() && self.ready.is_empty())
    }

    /// The guest wants no more of it.
    fn forget(&mut self) {
        self.fetched.clear();
        self.ready.clear();
    }

    /// INIT.
    pub fn reset(&mut self) {
        self.enable = 0;
        self.interrupt = 0;
        self.halted = false;
        self.forget();
    }

    /// Has all tasks look again: they may wait for pages that were asked for elsewhere.
    fn wake_everybody(&mut self) {
        if self.ready.is_empty() {
            self.ready.push_back(Ready {
                token: EVERYBODY,
                told: true,
            });
        }
    }

    /// Not zero, by which guests know that there is none.
    fn token(&mut self, id: u32) -> u32 {
        if self.tokens << 12 == 0 {
            self.tokens = 1;
        }
        let token = self.tokens << 12 | id;
        self.tokens = self.tokens.wrapping_add(1);
        token
    }
}

fn is_enabled(register: u64) -> bool {
    const BOTH: u64 = KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT;
    register & BOTH == BOTH
}

/// Whether an access to a page, which is at `at` in the client's memory, is to be put off.
pub fn puts_off(vcpu: &X86Vcpu, unit: &mut Unit, gpa: GuestPhys, at: u64) -> bool {
    let gfn = gpa.page();
    let events = &unit.events;
    let busy = unit.io.is_busy()
        || events.exception_pending.is_some()
        || events.exception_injected.is_some()
        || events.interrupt.is_some()
        || events.nmi_injected;
    let apf = &mut unit.async_pf;
    if vcpu.shared().apic.is_none() || apf.awaited == Some(gfn) || busy || !apf.mappings.is_away(at) {
        return false;
    }
    apf.wanted = Some(Wanted { gfn, at });
    true
}

/// An access was put off: has its page fetched, and keeps the vCPU from trying again at once.
pub fn fetch(vcpu: &X86Vcpu, s: &mut VcpuState, page: Wanted) {
    if s.unit
        .async_pf
        .fetched
        .iter()
        .any(|fetch| fetch.page.gfn == page.gfn)
    {
        s.unit.async_pf.halted = true;
        return;
    }
    let takes = takes_exception(s);
    let own_halt = vcpu.vm().arch().settings.disabled_exits.load(Relaxed) & KVM_X86_DISABLE_EXITS_HLT != 0;
    if s.unit.async_pf.fetched.len() >= MOST || own_halt && !takes || !watch(vcpu, &mut s.unit.async_pf) {
        s.unit.async_pf.awaited = Some(page.gfn);
        return;
    }
    residence::fetch(page.at);
    let token = s.unit.async_pf.token(vcpu.id());
    let told = takes && write(vcpu, &s.unit, FLAGS, PAGE_NOT_PRESENT);
    if told {
        s.unit.events.exception_pending = Some(Exception {
            vector: Vector::PF as u8,
            error: Some(0),
            payload: Some(token.into()),
        });
    } else {
        s.unit.async_pf.halted = true;
    }
    s.unit.async_pf.fetched.push(Fetch {
        page,
        ready: Ready { token, told },
        until: monotonic_now().after_ns(PATIENCE_NS),
    });
}

/// Whether the guest takes an exception where it is now.
fn takes_exception(s: &VcpuState) -> bool {
    let state = &s.cpu.core.state;
    let always = s.unit.async_pf.enable & KVM_ASYNC_PF_SEND_ALWAYS != 0;
    s.unit.async_pf.is_enabled() && (always || state.cpl() != 0) && state.paging()
}

/// Has the vCPU look again soon; false if that cannot be.
fn watch(vcpu: &X86Vcpu, apf: &mut AsyncPf) -> bool {
    if apf.timer.is_none() {
        let seat = Arc::clone(vcpu.seat());
        apf.timer = vcpu.vm().events().timer(Arc::new(move || seat.event())).ok();
    }
    let timer = apf.timer.as_ref();
    timer
        .map(|timer| timer.arm(monotonic_now().after_ns(PERIOD_NS)))
        .is_some()
}

/// Tells the guest of pages that are there by now.
#[cold]
pub fn look(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let apf = &mut s.unit.async_pf;
    let now = monotonic_now();
    for fetch in std::mem::take(&mut apf.fetched) {
        let is_late = fetch.until <= now;
        if is_late {
            apf.mappings.forgo(fetch.page.at);
        }
        if is_late || residence::is_resident(fetch.page.at) {
            apf.ready.push_back(fetch.ready);
        } else {
            apf.fetched.push(fetch);
        }
    }
    if !apf.fetched.is_empty() {
        watch(vcpu, apf);
    }
    while s.unit.async_pf.is_due()
        && takes_token(vcpu, &s.unit)
        && let Some(ready) = s.unit.async_pf.ready.pop_front()
    {
        tell(vcpu, &mut s.unit, ready);
    }
}

/// Whether the guest has read the last token.
fn takes_token(vcpu: &X86Vcpu, unit: &Unit) -> bool {
    if !unit.async_pf.is_enabled() {
        return true;
    }
    let mut token = [0; 4];
    let at = GuestPhys(unit.async_pf.structure() + TOKEN);
    unit.apic_is_enabled(vcpu) && unit.read_guest(vcpu, at, &mut token).is_ok() && token == [0; 4]
}

fn tell(vcpu: &X86Vcpu, unit: &mut Unit, ready: Ready) {
    if ready.told && unit.async_pf.is_enabled() && write(vcpu, unit, TOKEN, ready.token) {
        let vector = unit.async_pf.interrupt as u32 & 0xff;
        if let Some(apic) = &vcpu.shared().apic {
            apic.accept(&ApicMessage::from_icr(vector, 0));
        }
    }
    unit.async_pf.halted = false;
    unit.mp_state = KVM_MP_STATE_RUNNABLE;
}

/// Writes a word of the guest's structure; false if it is no memory.
fn write(vcpu: &X86Vcpu, unit: &Unit, offset: u64, value: u32) -> bool {
    let at = GuestPhys(unit.async_pf.structure() + offset);
    let memory = vcpu.vm().memory();
    memory.write(unit.slots.space(), at, &value.to_le_bytes()).is_ok()
}
