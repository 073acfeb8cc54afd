//! Performance counters, in software: architectural performance monitoring version 2 for guests that see a processor of Intel's,
//! K7's, the core extension's and version 2's counters for those that see one of AMD's.
//!
//! The processor's meter counts retired instructions and branches while any counter counts; what else there is to be counted
//! follows from these two by the model in [`events`], so that the same program always counts the same. [`shape`] is what CPUID
//! makes of the counters, [`msrs`] are their registers, [`filter`] is KVM_SET_PMU_EVENT_FILTER.
//!
//! A counter that overflows is noticed at the end of the block that it overflows in.
//!
//! Not supported: PEBS, LBR, freezing on an interrupt (IA32_DEBUGCTL), and counters of versions above 2. Edge detection is not
//! modelled: such a counter counts as any other.

pub mod events;
pub mod filter;
pub mod msrs;
pub mod shape;
pub mod vmware;

use std::sync::Arc;

use ring3_x86_cpu::state::Meter;

use crate::lapic::LocalSource;
use crate::vcpu::{VcpuState, X86Vcpu};
use events::Rate;
use filter::Filter;
pub use shape::Shape;

/// Where fixed counters begin in the bits of the global registers.
const FIXED_BASE: usize = 32;
const MOST: usize = FIXED_BASE + shape::MOST_FIXED as usize;

const SELECT_USER: u64 = 1 << 16;
const SELECT_KERNEL: u64 = 1 << 17;
const SELECT_INTERRUPT: u64 = 1 << 20;
const SELECT_ENABLE: u64 = 1 << 22;

/// A field of IA32_FIXED_CTR_CTRL.
const FIXED_KERNEL: u64 = 1;
const FIXED_USER: u64 = 2;
const FIXED_INTERRUPT: u64 = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    value: u64,
    /// The event selector of a general-purpose one.
    select: u64,
}

/// A counter that counts.
#[derive(Clone, Copy, Debug)]
struct Active {
    index: usize,
    rate: Rate,
    kernel: bool,
    user: bool,
    interrupt: bool,
}

/// Whether a counter that overflowed wants the processor to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Overflow {
    None,
    Interrupt,
}

/// The counters of one vCPU.
#[derive(Clone, Debug)]
pub struct Pmu {
    pub shape: Shape,
    counters: [Counter; MOST],
    fixed_control: u64,
    global_control: u64,
    global_status: u64,
    filter: Option<Arc<Filter>>,
    active: Vec<Active>,
    /// What the meter said when the counters were last brought up to date.
    seen: Meter,
}

impl Default for Pmu {
    fn default() -> Pmu {
        Pmu {
            shape: Shape::default(),
            counters: [Counter::default(); MOST],
            fixed_control: 0,
            global_control: 0,
            global_status: 0,
            filter: None,
            active: Vec::new(),
            seen: Meter::default(),
        }
    }
}

impl Pmu {
    /// Starts over with counters of this shape.
    pub fn reset(&mut self, shape: Shape, meter: &mut Meter) {
        *self = Pmu {
            filter: self.filter.take(),
            ..Pmu::default()
        };
        if shape.has_global_control() {
            self.global_control = shape.general_bits();
        }
        self.shape = shape;
        self.reprogram(meter);
    }

    /// Brings the counters up to date.
    pub fn settle(&mut self, meter: &Meter) -> Overflow {
        let mut overflow = Overflow::None;
        for active in &self.active {
            let mut new = 0;
            if active.kernel {
                new += active.rate.between(self.seen.kernel, meter.kernel);
            }
            if active.user {
                new += active.rate.between(self.seen.user, meter.user);
            }
            let mask = self.shape.mask(active.index >= FIXED_BASE);
            let counter = &mut self.counters[active.index];
            let sum = (counter.value & mask) + new;
            counter.value = sum & mask;
            if sum > mask {
                self.global_status |= 1 << active.index;
                if active.interrupt {
                    overflow = Overflow::Interrupt;
                }
            }
        }
        self.seen = *meter;
        overflow
    }

    /// Finds out which counters count, once they are up to date, and has the meter count for them.
    fn reprogram(&mut self, meter: &mut Meter) {
        let general = 0..self.shape.general;
        let fixed = FIXED_BASE..FIXED_BASE + self.shape.fixed;
        self.active = general.chain(fixed).filter_map(|i| self.activity(i)).collect();
        self.arm(meter);
    }

    fn activity(&self, index: usize) -> Option<Active> {
        if self.shape.has_global_control() && self.global_control >> index & 1 == 0 {
            return None;
        }
        let filter = self.filter.as_deref();
        let (rate, enabled, [kernel, user, interrupt]) = if index >= FIXED_BASE {
            let n = index - FIXED_BASE;
            let control = self.fixed_control >> (4 * n);
            let bits = [FIXED_KERNEL, FIXED_USER, FIXED_INTERRUPT].map(|bit| control & bit != 0);
            let allowed = filter.is_none_or(|filter| filter.allows_fixed(n));
            (events::fixed(n), allowed, bits)
        } else {
            let select = self.counters[index].select;
            let bits = [SELECT_KERNEL, SELECT_USER, SELECT_INTERRUPT].map(|bit| select & bit != 0);
            let allowed = filter.is_none_or(|filter| filter.allows(select, self.shape.vendor));
            (
                events::general(select, self.shape.vendor),
                allowed && select & SELECT_ENABLE != 0,
                bits,
            )
        };
        (enabled && (kernel || user)).then_some(Active {
            index,
            rate: rate?,
            kernel,
            user,
            interrupt,
        })
    }

    /// Sets the alarm for the earliest overflow that there can be.
    pub fn arm(&mut self, meter: &mut Meter) {
        meter.on = !self.active.is_empty();
        let until = |active: &Active| {
            let mask = self.shape.mask(active.index >= FIXED_BASE);
            let left = mask - (self.counters[active.index].value & mask);
            active.rate.instructions_for(left)
        };
        let soonest = self.active.iter().map(until).min().unwrap_or(0);
        meter.alarm = meter.instructions().saturating_add(soonest.max(1));
        self.seen = *meter;
    }

    /// RDPMC; the counters are up to date.
    fn by_index(&self, index: u32) -> Option<u64> {
        let at = self.shape.rdpmc(index)?;
        Some(self.counters[at].value & self.shape.mask(at >= FIXED_BASE))
    }
}

/// RDPMC.
pub fn read(vcpu: &X86Vcpu, pmu: &mut Pmu, meter: &mut Meter, index: u32) -> Option<u64> {
    if pmu.shape.version != 0 && vmware::is_counter(index) {
        return vmware::read(vcpu.vm(), index);
    }
    update(vcpu, pmu, meter);
    pmu.by_index(index)
}

/// Brings the counters up to date, and tells the guest of overflows.
pub fn update(vcpu: &X86Vcpu, pmu: &mut Pmu, meter: &mut Meter) {
    if !meter.on {
        return;
    }
    let overflow = pmu.settle(meter);
    pmu.arm(meter);
    if overflow == Overflow::Interrupt
        && let Some(apic) = &vcpu.shared().apic
    {
        apic.deliver_local(LocalSource::Performance);
    }
}

/// The client set CPUID, or what the counters' capabilities are.
pub fn refresh(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let shape = Shape::new(vcpu, &s.unit);
    s.unit.pmu.reset(shape, &mut s.cpu.core.state.meter);
    refilter(vcpu, s);
}

/// The client set a filter.
pub fn refilter(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let (pmu, meter) = (&mut s.unit.pmu, &mut s.cpu.core.state.meter);
    update(vcpu, pmu, meter);
    pmu.filter = vcpu.vm().arch().pmu_filter.get();
    pmu.reprogram(meter);
}
