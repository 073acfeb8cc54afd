//! Steal time: the record in which a guest finds how long its vCPU wanted to run and did not, whether it is away now, and
//! through which other vCPUs ask it to flush its TLB when it comes back.
//!
//! Neighbours: `run` says when a vCPU goes to sleep and when it is back; [`msrs`] is the guest's face.
//!
//! Time that the host took away is what its scheduler says that the thread waited for a processor; where it says nothing,
//! the time in guest mode less the thread's processor time. That a thread was taken off
//! its processor is not seen at the moment it happens: a vCPU is said to be away only while it is halted, which is what
//! saves other vCPUs most of their interrupts.

pub mod msrs;

use ring3_host::addr::GuestPhys;
use ring3_host::mem::{HostFault, HostPage};
use ring3_host::time::{host_tsc, thread_cpu_ns, thread_delay_ns, tsc_khz};
use ring3_kvm::stats::rows;
use ring3_kvm::vcpu::Polling;
use ring3_uapi::x86::pv::{KVM_MSR_ENABLED, KVM_STEAL_RESERVED_MASK, KVM_VCPU_FLUSH_TLB, KVM_VCPU_PREEMPTED};

use crate::msr::index::KVM_POLL_CONTROL;
use crate::vcpu::{Unit, X86Vcpu};

/// Where things are in the record (`KvmStealTime`).
const STEAL: usize = 0;
const VERSION: usize = 8;
const PREEMPTED: usize = 16;
const SIZE: usize = 64;

/// Time after which it is counted anew: asking for it is several system calls.
const WINDOW_US: u64 = 10_000;

/// Time outside of KVM_RUN after which it is counted anew.
const ABSENCE_US: u64 = 100;

/// A vCPU's steal time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steal {
    /// MSR_KVM_STEAL_TIME.
    register: u64,
    /// The register was written: the new record is to be filled, and the old one may hold a wish.
    fresh: bool,
    /// The record says that the vCPU is away.
    away: bool,
    /// The client had the thread for so long that it may have waited for a processor.
    was_absent: bool,
    /// When KVM_RUN returned, in ticks of the host.
    returned: u64,
    counted: Counted,
}

/// Up to where time was counted, in nanoseconds but for `at`.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// In ticks of the host, which are read faster than its clocks.
    at: u64,
    /// What the thread waited for a processor, if that is known.
    delay: Option<u64>,
    guest: u64,
    processor: u64,
}

/// Whether it is so many microseconds since the host's counter stood there.
fn is_past(ticks: u64, us: u64) -> bool {
    host_tsc().wrapping_sub(ticks) >= us * u64::from(tsc_khz()) / 1000
}

/// Whether another vCPU asked for a flush of the TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlbFlush {
    Asked,
    NotAsked,
}

impl Counted {
    /// What was stolen since, and the new mark. A thread whose time is less than before is another one than before.
    fn stolen(self, now: Counted) -> u64 {
        if let (Some(before), Some(after)) = (self.delay, now.delay) {
            return after.saturating_sub(before);
        }
        let ran = now.processor.checked_sub(self.processor);
        ran.map_or(0, |ran| now.guest.saturating_sub(self.guest).saturating_sub(ran))
    }
}

impl Steal {
    fn set_register(&mut self, value: u64) {
        self.register = value;
        self.fresh = true;
    }

    fn is_enabled(&self) -> bool {
        self.register & KVM_MSR_ENABLED != 0
    }

    fn address(&self) -> GuestPhys {
        GuestPhys(self.register & !(KVM_STEAL_RESERVED_MASK | KVM_MSR_ENABLED))
    }

    /// Whether the record is to be looked at before the guest runs on.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.fresh || self.is_enabled() && (self.away || self.was_absent || self.window_is_over())
    }

    /// KVM_RUN begins.
    pub fn entered(&mut self) {
        if self.is_enabled() {
            self.was_absent = is_past(self.returned, ABSENCE_US);
        }
    }

    /// KVM_RUN ends.
    pub fn left(&mut self) {
        if self.is_enabled() {
            self.returned = host_tsc();
        }
    }

    fn window_is_over(&self) -> bool {
        is_past(self.counted.at, WINDOW_US)
    }
}

/// Whether the vCPU may poll while it is halted (MSR_KVM_POLL_CONTROL).
pub fn polling(unit: &Unit) -> Polling {
    if unit.msrs.get(KVM_POLL_CONTROL) & 1 != 0 {
        Polling::Allowed
    } else {
        Polling::Forbidden
    }
}

/// Does something with the page of the record, and has the write known. In guest mode, so that the page stays.
fn on_record<R>(
    vcpu: &X86Vcpu,
    unit: &mut Unit,
    act: impl FnOnce(HostPage, usize) -> Result<R, HostFault>,
) -> Option<R> {
    let at = unit.steal.address();
    unit.change_guest(vcpu, at, SIZE, act)
}

/// The vCPU is about to sleep: others need not interrupt it to have its TLB flushed.
pub fn going(vcpu: &X86Vcpu, unit: &mut Unit) {
    if !unit.steal.is_enabled() || unit.steal.away {
        return;
    }
    // If something is pending already, it does not sleep.
    let Some(_guest) = vcpu.seat().enter_guest() else {
        return;
    };
    let told = on_record(vcpu, unit, |page, at| {
        page.store(at + PREEMPTED, KVM_VCPU_PREEMPTED)
    });
    unit.steal.away = told.is_some();
    if unit.steal.away {
        vcpu.stats().at(crate::stats::PREEMPTION_REPORTED).add(1);
    }
}

/// The vCPU is about to run, in guest mode: the record says so from now on, and what was stolen.
pub fn back(vcpu: &X86Vcpu, unit: &mut Unit) -> TlbFlush {
    let now = Counted {
        at: host_tsc(),
        delay: thread_delay_ns(),
        guest: vcpu.stats().at(rows::GUEST_NS).get(),
        processor: thread_cpu_ns(),
    };
    let steal = unit.steal;
    unit.steal = Steal {
        fresh: false,
        away: false,
        was_absent: false,
        counted: now,
        ..steal
    };
    if !steal.is_enabled() {
        return TlbFlush::Asked;
    }
    let stolen = if steal.fresh { 0 } else { steal.counted.stolen(now) };
    let seen = on_record(vcpu, unit, |page, at| {
        let seen = present(page, at)?;
        add(page, at, stolen)?;
        Ok(seen)
    });
    // A record that is gone may have held a wish too.
    let asked = seen.map_or(steal.away, |seen| seen & KVM_VCPU_FLUSH_TLB != 0);
    if asked || steal.fresh {
        TlbFlush::Asked
    } else {
        TlbFlush::NotAsked
    }
}

/// Clears `preempted` in one step, as others set bits of it meanwhile; what it was.
fn present(page: HostPage, at: usize) -> Result<u8, HostFault> {
    let mut seen = page.load(at + PREEMPTED)?;
    loop {
        match page.compare_exchange(at + PREEMPTED, seen, 0)? {
            Ok(_) => return Ok(seen),
            Err(now) => seen = now,
        }
    }
}

/// Adds to `steal`, with an odd version meanwhile.
fn add(page: HostPage, at: usize, stolen: u64) -> Result<(), HostFault> {
    let old: u32 = page.load(at + VERSION)?;
    // What a guest has never filled may be odd already.
    let begun = (old | 1).wrapping_add(if old & 1 == 0 { 0 } else { 2 });
    page.store(at + VERSION, begun)?;
    let total: u64 = page.load(at + STEAL)?;
    page.store(at + STEAL, total.wrapping_add(stolen))?;
    page.store(at + VERSION, begun.wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_ran_without_a_processor_is_stolen() {
        let at = |guest, processor| Counted {
            guest,
            processor,
            ..Counted::default()
        };
        assert_eq!(at(100, 1000).stolen(at(150, 1020)), 30);
        // Time outside of guest mode is processor time too.
        assert_eq!(at(100, 1000).stolen(at(150, 1070)), 0);
        // Another thread.
        assert_eq!(at(100, 1000).stolen(at(150, 10)), 0);
        let told = |delay, counted| Counted {
            delay: Some(delay),
            ..counted
        };
        assert_eq!(told(7, at(100, 1000)).stolen(told(9, at(150, 1020))), 2);
        assert_eq!(told(9, at(100, 1000)).stolen(told(7, at(150, 1020))), 0);
    }

    #[test]
    fn the_register_is_an_address_and_a_bit() {
        let mut steal = Steal::default();
        assert!(!steal.is_enabled());
        steal.set_register(0x1_2340 | 1);
        assert!(steal.is_enabled() && steal.fresh);
        assert_eq!(steal.address(), GuestPhys(0x1_2340));
        steal.set_register(0x1_2340);
        assert!(!steal.is_enabled());
    }
}
