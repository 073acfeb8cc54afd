//! How many counters there are and how wide, by the guest's CPUID and the client's choices; and what is offered to begin with.

use std::sync::atomic::Ordering::Relaxed;

use crate::cpuid::{features, supported};
use crate::msr::index::IA32_PERF_CAPABILITIES;
use crate::vcpu::{Unit, X86Vcpu};

/// What is offered, and the most that a guest gets.
pub const VERSION: u32 = 2;
pub const MOST_INTEL: u32 = 8;
pub const MOST_AMD: u32 = 6;
/// AMD's without the core extension.
const K7: usize = 4;
pub const MOST_FIXED: u32 = 3;
pub const WIDTH: u32 = 48;
/// Intel's architectural events that are offered.
const EVENTS: u32 = 7;

/// IA32_PERF_CAPABILITIES: writes of all of a counter's bits.
const FULL_WIDTH_WRITES: u64 = 1 << 13;

/// IA32_PERF_CAPABILITIES as it is offered.
pub fn supported_capabilities() -> u64 {
    if supported::host_is_amd() {
        0
    } else {
        FULL_WIDTH_WRITES
    }
}

/// CPUID.0AH as it is offered.
pub fn architectural_leaf() -> [u32; 4] {
    if supported::host_is_amd() {
        return [0; 4];
    }
    const NO_ANY_THREAD: u32 = 1 << 15;
    let eax = VERSION | MOST_INTEL << 8 | WIDTH << 16 | EVENTS << 24;
    [eax, 0, 0, MOST_FIXED | WIDTH << 5 | NO_ANY_THREAD]
}

/// Whose counters they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Vendor {
    #[default]
    Intel,
    Amd,
}

/// What a guest sees of counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub vendor: Vendor,
    /// Zero: there are none.
    pub version: u32,
    pub general: usize,
    pub fixed: usize,
    general_mask: u64,
    fixed_mask: u64,
    /// Intel: counters can be written whole.
    pub full_width: bool,
    /// AMD: the registers of the core extension exist.
    pub core_extension: bool,
}

fn ones(bits: u32) -> u64 {
    (1u64 << bits.min(WIDTH)) - 1
}

impl Shape {
    pub fn new(vcpu: &X86Vcpu, unit: &Unit) -> Shape {
        if !vcpu.vm().arch().settings.performance_counters.load(Relaxed) {
            return Shape::default();
        }
        if unit.cpuid.is_amd() {
            Shape::amd(unit)
        } else {
            Shape::intel(unit)
        }
    }

    fn intel(unit: &Unit) -> Shape {
        let [eax, _, _, edx] = unit.cpuid.find(0xa, 0).map_or([0; 4], |entry| entry.regs);
        let version = eax & 0xff;
        if version == 0 {
            return Shape::default();
        }
        let capable = unit.cpuid.has(features::PDCM);
        let fixed = if version > 1 {
            (edx & 0x1f).min(MOST_FIXED)
        } else {
            0
        };
        Shape {
            vendor: Vendor::Intel,
            version,
            general: (eax >> 8 & 0xff).min(MOST_INTEL) as usize,
            fixed: fixed as usize,
            general_mask: ones(eax >> 16 & 0xff),
            fixed_mask: ones(edx >> 5 & 0xff),
            full_width: capable && unit.msrs.get(IA32_PERF_CAPABILITIES) & FULL_WIDTH_WRITES != 0,
            core_extension: false,
        }
    }

    fn amd(unit: &Unit) -> Shape {
        let core_extension = unit.cpuid.has(features::PERFCTR_CORE);
        let second = unit.cpuid.has(features::PERFMON_V2);
        let told = unit.cpuid.find(0x8000_0022, 0).map_or(0, |e| e.regs[1] & 0xf);
        Shape {
            vendor: Vendor::Amd,
            version: if second { 2 } else { 1 },
            general: match (second, core_extension) {
                (true, _) => told.min(MOST_AMD) as usize,
                (false, true) => MOST_AMD as usize,
                (false, false) => K7,
            },
            general_mask: ones(WIDTH),
            core_extension,
            ..Shape::default()
        }
    }

    pub fn has_global_control(&self) -> bool {
        self.version > 1
    }

    /// The counters' bits in the global registers.
    pub fn general_bits(&self) -> u64 {
        (1 << self.general) - 1
    }

    pub fn fixed_bits(&self) -> u64 {
        ((1 << self.fixed) - 1) << super::FIXED_BASE
    }

    /// The bits of a counter.
    pub fn mask(&self, fixed: bool) -> u64 {
        if fixed { self.fixed_mask } else { self.general_mask }
    }

    /// The counter that RDPMC calls by an index.
    pub fn rdpmc(&self, index: u32) -> Option<usize> {
        const INTEL_FIXED: u32 = 0x4000;
        let n = index as usize;
        match self.vendor {
            _ if self.version == 0 => None,
            Vendor::Amd => (n < self.general).then_some(n),
            Vendor::Intel => {
                let n = (index & 0xffff) as usize;
                match index >> 16 {
                    0 => (n < self.general).then_some(n),
                    INTEL_FIXED => (n < self.fixed).then_some(super::FIXED_BASE + n),
                    _ => None,
                }
            }
        }
    }
}
