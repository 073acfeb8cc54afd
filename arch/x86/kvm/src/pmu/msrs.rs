//! The registers of performance counters.

use super::shape::{self, Shape, Vendor};
use super::{FIXED_BASE, update};
use crate::cpuid::supported;
use crate::msr::index::*;
use crate::msr::{Access, Denied, allow};

/// What a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    /// A counter. Intel's older registers take 32 bits of it from the guest.
    Counter(usize, Written),
    Select(usize),
    FixedControl,
    GlobalControl,
    GlobalStatus,
    StatusClear,
    StatusSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// 32 bits, sign-extended.
    Low,
    /// All bits, none beyond its width.
    Full,
    /// All bits, those beyond its width dropped.
    Cut,
}

/// Bits of Intel's selectors that must be zero, and of AMD's that are dropped.
const INTEL_RESERVED: u64 = 0xffff_ffff_0020_0000;
const AMD_RESERVED: u64 = 0xffff_fff0_0028_0000;
/// Intel: the status of buffers that overflowed, and of conditions that changed.
const STATUS_OTHERS: u64 = 3 << 62;

fn within(index: u32, first: u32, count: usize) -> Option<usize> {
    let n = index.checked_sub(first)? as usize;
    (n < count).then_some(n)
}

fn intel(shape: &Shape, index: u32) -> Option<Register> {
    use Register::*;
    if let Some(n) = within(index, P6_PERFCTR0, shape.general) {
        return Some(Counter(n, Written::Low));
    }
    if let Some(n) = within(index, P6_EVNTSEL0, shape.general) {
        return Some(Select(n));
    }
    if let Some(n) = within(index, IA32_PMC0, shape.general) {
        return shape.full_width.then_some(Counter(n, Written::Full));
    }
    if let Some(n) = within(index, FIXED_CTR0, shape.fixed) {
        return Some(Counter(FIXED_BASE + n, Written::Cut));
    }
    let global = match index {
        FIXED_CTR_CTRL => FixedControl,
        PERF_GLOBAL_STATUS => GlobalStatus,
        PERF_GLOBAL_CTRL => GlobalControl,
        PERF_GLOBAL_OVF_CTRL => StatusClear,
        _ => return None,
    };
    shape.has_global_control().then_some(global)
}

fn amd(shape: &Shape, index: u32) -> Option<Register> {
    use Register::*;
    if let Some(n) = within(index, K7_EVNTSEL0, shape.general.min(4)) {
        return Some(Select(n));
    }
    if let Some(n) = within(index, K7_PERFCTR0, shape.general.min(4)) {
        return Some(Counter(n, Written::Cut));
    }
    if let Some(n) = within(index, F15H_PERF_CTL0, 2 * shape.general) {
        let register = match n % 2 {
            0 => Select(n / 2),
            _ => Counter(n / 2, Written::Cut),
        };
        return shape.core_extension.then_some(register);
    }
    let global = match index {
        AMD_PERF_STATUS => GlobalStatus,
        AMD_PERF_CTL => GlobalControl,
        AMD_PERF_STATUS_CLR => StatusClear,
        AMD_PERF_STATUS_SET => StatusSet,
        _ => return None,
    };
    shape.has_global_control().then_some(global)
}

fn register(shape: &Shape, index: u32) -> Option<Register> {
    match shape.vendor {
        _ if shape.version == 0 => None,
        Vendor::Intel => intel(shape, index),
        Vendor::Amd => amd(shape, index),
    }
}

/// The registers that every kernel probes: where they do not exist, they are zero and take anything.
fn is_probed(index: u32) -> bool {
    matches!(
        index,
        P6_PERFCTR0 | P6_PERFCTR1 | P6_EVNTSEL0 | P6_EVNTSEL1 | K7_EVNTSEL0..=K7_PERFCTR3
    )
}

/// The registers that the client is told to save: those of the host's vendor.
pub fn listed() -> Vec<u32> {
    if supported::host_is_amd() {
        let k7 = K7_EVNTSEL0..=K7_PERFCTR3;
        let core = F15H_PERF_CTL0..=F15H_PERF_CTR5;
        return k7
            .chain(core)
            .chain(AMD_PERF_STATUS..=AMD_PERF_STATUS_SET)
            .collect();
    }
    let counters = P6_PERFCTR0..P6_PERFCTR0 + shape::MOST_INTEL;
    let selects = P6_EVNTSEL0..P6_EVNTSEL0 + shape::MOST_INTEL;
    let fixed = FIXED_CTR0..FIXED_CTR0 + shape::MOST_FIXED;
    let global = FIXED_CTR_CTRL..=PERF_GLOBAL_OVF_CTRL;
    counters.chain(selects).chain(fixed).chain(global).collect()
}

pub fn read(a: &mut Access) -> Result<u64, Denied> {
    update(a.vcpu, &mut a.unit.pmu, &mut a.state.meter);
    let pmu = &a.unit.pmu;
    let Some(register) = register(&pmu.shape, a.index) else {
        // The client may read all that it is told to save.
        let zero = is_probed(a.index) || a.by_client() && listed().contains(&a.index);
        return if zero { Ok(0) } else { Err(Denied::Unknown) };
    };
    Ok(match register {
        Register::Counter(n, _) => pmu.counters[n].value & pmu.shape.mask(n >= FIXED_BASE),
        Register::Select(n) => pmu.counters[n].select,
        Register::FixedControl => pmu.fixed_control,
        Register::GlobalControl => pmu.global_control,
        Register::GlobalStatus => pmu.global_status,
        Register::StatusClear | Register::StatusSet => 0,
    })
}

pub fn write(a: &mut Access, value: u64) -> Result<(), Denied> {
    let Some(register) = register(&a.unit.pmu.shape, a.index) else {
        let dropped = is_probed(a.index) || a.by_client() && value == 0 && listed().contains(&a.index);
        return if dropped { Ok(()) } else { Err(Denied::Unknown) };
    };
    update(a.vcpu, &mut a.unit.pmu, &mut a.state.meter);
    match register {
        Register::Counter(n, written) => write_counter(a, n, written, value)?,
        Register::Select(n) => write_select(a, n, value)?,
        Register::FixedControl => {
            let fields = (0..a.unit.pmu.shape.fixed).fold(0, |all, n| all | 0xb << (4 * n));
            allow(value & !fields == 0)?;
            a.unit.pmu.fixed_control = value;
        }
        Register::GlobalControl => write_global_control(a, value)?,
        Register::GlobalStatus | Register::StatusClear | Register::StatusSet => {
            write_status(a, register, value)?;
        }
    }
    a.unit.pmu.reprogram(&mut a.state.meter);
    Ok(())
}

fn write_counter(a: &mut Access, n: usize, written: Written, value: u64) -> Result<(), Denied> {
    let by_client = a.by_client();
    let pmu = &mut a.unit.pmu;
    let mask = pmu.shape.mask(n >= FIXED_BASE);
    let value = match written {
        Written::Low if !by_client => value as i32 as u64,
        Written::Low | Written::Cut => value,
        Written::Full => {
            allow(value & !mask == 0)?;
            value
        }
    };
    pmu.counters[n].value = value & mask;
    Ok(())
}

fn write_select(a: &mut Access, n: usize, value: u64) -> Result<(), Denied> {
    let value = match a.unit.pmu.shape.vendor {
        Vendor::Amd => value & !AMD_RESERVED,
        Vendor::Intel => {
            allow(value & INTEL_RESERVED == 0)?;
            value
        }
    };
    a.unit.pmu.counters[n].select = value;
    Ok(())
}

fn write_global_control(a: &mut Access, value: u64) -> Result<(), Denied> {
    let pmu = &mut a.unit.pmu;
    let known = pmu.shape.general_bits() | pmu.shape.fixed_bits();
    let value = match pmu.shape.vendor {
        Vendor::Amd => value & known,
        Vendor::Intel => {
            allow(value & !known == 0)?;
            value
        }
    };
    pmu.global_control = value;
    Ok(())
}

/// The status is the client's to write; the guest clears its bits, and on AMD's processors sets them.
fn write_status(a: &mut Access, register: Register, value: u64) -> Result<(), Denied> {
    let by_client = a.by_client();
    let pmu = &mut a.unit.pmu;
    let amd = pmu.shape.vendor == Vendor::Amd;
    let others = if amd { 0 } else { STATUS_OTHERS };
    let known = pmu.shape.general_bits() | pmu.shape.fixed_bits() | others;
    match register {
        Register::GlobalStatus if by_client => {
            allow(value & !known == 0)?;
            pmu.global_status = value;
        }
        Register::GlobalStatus => allow(amd)?,
        Register::StatusClear => {
            allow(amd || value & !known == 0)?;
            if !by_client {
                pmu.global_status &= !value;
            }
        }
        _ if !by_client => pmu.global_status |= value & known,
        _ => {}
    }
    Ok(())
}
