//! Registers with small rules of their own, and the ones that only exist because kernels probe them.

use std::sync::atomic::Ordering::Relaxed;

use super::index::*;
use super::{Access, Denied, allow};
use crate::cpuid::features;
use crate::pmu;

pub const PLATFORM_INFO_CPUID_FAULT: u64 = 1 << 31;
const MISC_FEATURES_CPUID_FAULT: u64 = 1;

/// IA32_ARCH_CAPABILITIES: none of the speculation leaks reaches across our software guest, so a guest need not
/// mitigate. RDCL_NO, SKIP_L1DFL, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO,
/// PBRSB_NO, GDS_NO, RFDS_NO, BHI_NO.
pub const ARCH_CAPABILITIES: u64 = 1
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 13
    | 1 << 14
    | 1 << 15
    | 1 << 20
    | 1 << 24
    | 1 << 26
    | 1 << 27;

pub fn zero(_: &mut Access) -> Result<u64, Denied> {
    Ok(0)
}

pub fn ignore(_: &mut Access, _: u64) -> Result<(), Denied> {
    Ok(())
}

pub fn refuse_read(_: &mut Access) -> Result<u64, Denied> {
    Err(Denied::Unknown)
}

pub fn refuse(_: &mut Access, _: u64) -> Result<(), Denied> {
    Err(Denied::Unknown)
}

/// For registers the client is told to save although they hold nothing: it may write back the zero it read.
pub fn client_zero(a: &mut Access, value: u64) -> Result<(), Denied> {
    if a.by_client() && value == 0 {
        Ok(())
    } else {
        Err(Denied::Unknown)
    }
}

pub fn plain(a: &mut Access) -> Result<u64, Denied> {
    Ok(a.unit.msrs.get(a.index))
}

pub fn store(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.unit.msrs.set(a.index, value);
    Ok(())
}

pub fn client_plain(a: &mut Access) -> Result<u64, Denied> {
    a.client_only()?;
    plain(a)
}

pub fn client_store(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_only()?;
    store(a, value)
}

/// The guest's writes are dropped.
pub fn client_store_else_ignore(a: &mut Access, value: u64) -> Result<(), Denied> {
    if a.by_client() { store(a, value) } else { Ok(()) }
}

pub fn read_arch_capabilities(a: &mut Access) -> Result<u64, Denied> {
    a.client_or(features::ARCH_CAPABILITIES)?;
    plain(a)
}

pub fn read_perf_capabilities(a: &mut Access) -> Result<u64, Denied> {
    a.client_or(features::PDCM)?;
    if a.unit.cpuid.has(features::PDCM) || !a.unit.cpuid.is_set() {
        plain(a)
    } else {
        Ok(0)
    }
}

/// The client's, until the guest has run.
pub fn write_perf_capabilities(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_only()?;
    if !a.unit.cpuid.has(features::PDCM) && a.unit.cpuid.is_set() {
        return allow(value == 0);
    }
    allow(value & !pmu::shape::supported_capabilities() == 0)?;
    if plain(a)? == value {
        return Ok(());
    }
    allow(!a.unit.ran)?;
    store(a, value)?;
    let shape = pmu::Shape::new(a.vcpu, a.unit);
    a.unit.pmu.reset(shape, &mut a.state.meter);
    Ok(())
}

/// Bits that tell of absent performance monitoring are read-only; EMON is dropped.
pub fn write_misc_enable(a: &mut Access, value: u64) -> Result<(), Denied> {
    const EMON: u64 = 1 << 7;
    const READ_ONLY: u64 = 1 << 11 | 1 << 12;
    let old = plain(a)?;
    if a.by_client() {
        return store(a, value);
    }
    allow((old ^ value) & READ_ONLY == 0)?;
    store(a, value & !EMON | old & EMON)
}

/// The guest's only as long as the client lets it (KVM_CAP_MSR_PLATFORM_INFO).
pub fn read_platform_info(a: &mut Access) -> Result<u64, Denied> {
    let settings = &a.vcpu.vm().arch().settings;
    allow(a.by_client() || settings.guest_reads_platform_info.load(Relaxed))?;
    plain(a)
}

pub fn write_platform_info(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_only()?;
    let faulting = a.unit.msrs.get(MISC_FEATURES_ENABLES) & MISC_FEATURES_CPUID_FAULT != 0;
    allow(value & PLATFORM_INFO_CPUID_FAULT != 0 || !faulting)?;
    store(a, value)
}

pub fn write_misc_features(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(value & !MISC_FEATURES_CPUID_FAULT == 0)?;
    let can_fault = a.unit.msrs.get(PLATFORM_INFO) & PLATFORM_INFO_CPUID_FAULT != 0;
    allow(value == 0 || can_fault)?;
    store(a, value)
}

/// Flush filter, IGNNE emulation and TLB cache disables mean nothing here; McStatusWrEn is honoured, and TscFreqSel kept.
pub fn write_hwcr(a: &mut Access, value: u64) -> Result<(), Denied> {
    let value = value & !(0x40 | 0x100 | 0x8);
    allow(value & !(1 << 18 | 1 << 24) == 0)?;
    store(a, value)
}

pub fn only_zero(_: &mut Access, value: u64) -> Result<(), Denied> {
    allow(value == 0)
}

pub fn read_osvw(a: &mut Access) -> Result<u64, Denied> {
    allow(a.unit.cpuid.has(features::OSVW))?;
    plain(a)
}

pub fn write_osvw(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(a.unit.cpuid.has(features::OSVW))?;
    store(a, value)
}

fn has_spec_ctrl(a: &Access) -> bool {
    let any = [
        features::SPEC_CTRL,
        features::AMD_IBRS,
        features::AMD_STIBP,
        features::AMD_SSBD,
        features::INTEL_STIBP,
        features::SPEC_CTRL_SSBD,
    ];
    any.into_iter().any(|f| a.unit.cpuid.has(f))
}

pub fn read_spec_ctrl(a: &mut Access) -> Result<u64, Denied> {
    allow(a.by_client() || has_spec_ctrl(a))?;
    plain(a)
}

/// IBRS, STIBP and SSBD are kept and mean nothing.
pub fn write_spec_ctrl(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(a.by_client() || has_spec_ctrl(a))?;
    allow(value & !7 == 0)?;
    store(a, value)
}

pub fn write_pred_cmd(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(a.by_client() || a.unit.cpuid.has(features::SPEC_CTRL) || a.unit.cpuid.has(features::AMD_IBPB))?;
    allow(value & !1 == 0)
}

pub fn read_virt_spec_ctrl(a: &mut Access) -> Result<u64, Denied> {
    a.client_or(features::VIRT_SSBD)?;
    plain(a)
}

pub fn write_virt_spec_ctrl(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_or(features::VIRT_SSBD)?;
    allow(value & !4 == 0)?;
    store(a, value)
}

/// DE_CFG bit 1: LFENCE serializes; it is fixed for the guest.
pub const DE_CFG_LFENCE: u64 = 2;

pub fn write_de_cfg(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(value & !DE_CFG_LFENCE == 0)?;
    allow(a.by_client() || value == DE_CFG_LFENCE)?;
    store(a, value)
}

/// Without nested virtualization the ratio stays at one.
pub fn write_tsc_ratio(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_only()?;
    allow(value == 0 || value == 1 << 32)
}

/// The value of a fixed register.
pub fn fixed(a: &mut Access) -> Result<u64, Denied> {
    Ok(match a.index {
        FSB_FREQ => 3,
        EBC_FREQUENCY_ID => 1 << 24,
        IA32_PERF_STATUS => 1000 | 4 << 40,
        K7_CLK_CTL => 0x2000_0000,
        BBL_CR_CTL3 => 0xbe70_2111,
        _ => 0,
    })
}
