//! Registers of system calls, segment bases and paging: they live in the processor's state.

use crate::regs::sregs::valid_efer;
use ring3_x86_cpu::state::{EFER_FFXSR, EFER_LMA, EFER_LME, EFER_NXE, EFER_SCE, FS, GS};

use super::index::*;
use super::{Access, Denied, allow};
use crate::cpuid::features;

fn canonical(value: u64) -> bool {
    ((value as i64) << 16) >> 16 == value as i64
}

pub fn read_system(a: &mut Access) -> Result<u64, Denied> {
    let msr = &a.state.msr;
    Ok(match a.index {
        STAR => msr.star,
        LSTAR => msr.lstar,
        CSTAR => msr.cstar,
        FMASK => msr.fmask,
        FS_BASE => a.state.seg[FS].base,
        GS_BASE => a.state.seg[GS].base,
        KERNEL_GS_BASE => msr.kernel_gs_base,
        IA32_SYSENTER_CS => msr.sysenter_cs,
        IA32_SYSENTER_ESP => msr.sysenter_esp,
        IA32_SYSENTER_EIP => msr.sysenter_eip,
        _ => return Err(Denied::Unknown),
    })
}

pub fn write_system(a: &mut Access, value: u64) -> Result<(), Denied> {
    let holds_address = matches!(
        a.index,
        LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE | IA32_SYSENTER_ESP | IA32_SYSENTER_EIP
    );
    let sysenter = matches!(a.index, IA32_SYSENTER_ESP | IA32_SYSENTER_EIP);
    // AMD keeps 32 bits of the SYSENTER addresses.
    let value = if sysenter && a.unit.cpuid.is_amd() {
        value & 0xffff_ffff
    } else {
        value
    };
    if holds_address && !canonical(value) {
        if !sysenter {
            return Err(Denied::Invalid);
        }
        // Linux makes these canonical instead.
        return write_field(a, (((value as i64) << 16) >> 16) as u64);
    }
    write_field(a, value)
}

fn write_field(a: &mut Access, value: u64) -> Result<(), Denied> {
    let msr = &mut a.state.msr;
    match a.index {
        STAR => msr.star = value,
        LSTAR => msr.lstar = value,
        CSTAR => msr.cstar = value,
        FMASK => msr.fmask = value,
        FS_BASE => a.state.seg[FS].base = value,
        GS_BASE => a.state.seg[GS].base = value,
        KERNEL_GS_BASE => msr.kernel_gs_base = value,
        IA32_SYSENTER_CS => msr.sysenter_cs = value,
        IA32_SYSENTER_ESP => msr.sysenter_esp = value,
        IA32_SYSENTER_EIP => msr.sysenter_eip = value,
        _ => return Err(Denied::Unknown),
    }
    Ok(())
}

pub fn read_efer(a: &mut Access) -> Result<u64, Denied> {
    Ok(a.state.efer)
}

/// Bits of EFER that any guest of ours can be given.
const EFER_KNOWN: u64 = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_FFXSR;

pub fn write_efer(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(value & !EFER_KNOWN == 0)?;
    if !a.by_client() {
        let cpuid = &a.unit.cpuid;
        allow(value & EFER_SCE == 0 || cpuid.has(features::SYSCALL))?;
        allow(valid_efer(a.unit, value))?;
        allow(!a.state.paging() || (a.state.efer ^ value) & EFER_LME == 0)?;
    }
    a.state.efer = value & !EFER_LMA | a.state.efer & EFER_LMA;
    Ok(())
}

/// The client's alone.
pub fn read_smbase(a: &mut Access) -> Result<u64, Denied> {
    a.client_only()?;
    Ok(a.state.smm.base)
}

pub fn write_smbase(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_only()?;
    a.state.smm.base = value;
    Ok(())
}

pub fn read_tsc_aux(a: &mut Access) -> Result<u64, Denied> {
    allow(a.by_client() || a.unit.cpuid.has(features::RDTSCP) || a.unit.cpuid.has(features::RDPID))?;
    Ok(a.state.msr.tsc_aux)
}

pub fn write_tsc_aux(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(a.by_client() || a.unit.cpuid.has(features::RDTSCP) || a.unit.cpuid.has(features::RDPID))?;
    // Intel reserves the upper half, AMD drops it.
    allow(a.unit.cpuid.is_amd() || value >> 32 == 0)?;
    a.state.msr.tsc_aux = value & 0xffff_ffff;
    Ok(())
}

pub fn read_xss(a: &mut Access) -> Result<u64, Denied> {
    a.client_or(features::XSAVES)?;
    Ok(a.state.msr.xss)
}

/// No supervisor state component is supported.
pub fn write_xss(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_or(features::XSAVES)?;
    allow(value == 0)
}
