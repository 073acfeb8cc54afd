//! The ioctls of x86 as rows: /dev/kvm's, the VM's and the vCPU's. Those not here (and not neutral) do not exist.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use ring3_host::user::UserPtr;
use ring3_kvm::{Errno, FileKind, Tables};
use ring3_uapi::KvmDeviceAttr;
use ring3_uapi::arch::Level;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::{KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP};

use crate::X86;
use crate::apic::client as lapic;
use crate::controllers::client as chips;
use crate::cpuid::supported::supported_xcr0;
use crate::vcpu::{VcpuState, X86Vcpu};
use crate::vm::X86Vm;
use crate::{caps, clock, cpuid, events, guest_debug, mp_state, msr, pmu, pre_fault, regs, vapic};

type OnSystem = fn(UserPtr) -> Result<i64, Errno>;
type OnVm = fn(&Arc<X86Vm>, UserPtr) -> Result<i64, Errno>;
type OnVcpu = fn(&X86Vcpu, &mut VcpuState, UserPtr) -> Result<i64, Errno>;

pub const SYSTEM: &[(u32, OnSystem)] = &[
    (KVM_GET_SUPPORTED_CPUID, cpuid::ioctls::get_supported),
    (KVM_GET_EMULATED_CPUID, cpuid::ioctls::get_emulated),
    (KVM_GET_MSR_INDEX_LIST, msr::ioctls::index_list),
    (KVM_GET_MSR_FEATURE_INDEX_LIST, msr::ioctls::feature_list),
    (KVM_GET_MSRS, msr::ioctls::get_features),
    (KVM_X86_GET_MCE_CAP_SUPPORTED, msr::ioctls::mce_supported),
    (KVM_HAS_DEVICE_ATTR, has_system_attr),
    (KVM_GET_DEVICE_ATTR, get_system_attr),
];

pub const VM: &[(u32, OnVm)] = &[
    (KVM_SET_TSS_ADDR, |vm, arg| set_tss_addr(vm, arg.address())),
    (KVM_SET_IDENTITY_MAP_ADDR, set_identity_map_addr),
    (KVM_SET_NR_MMU_PAGES, |_, arg| set_mmu_pages(arg.address())),
    (KVM_CREATE_IRQCHIP, |vm, _| chips::create_irqchip(vm)),
    (KVM_GET_IRQCHIP, |vm, arg| chips::get_irqchip(vm, arg)),
    (KVM_SET_IRQCHIP, |vm, arg| chips::set_irqchip(vm, arg)),
    (KVM_CREATE_PIT, |vm, _| {
        chips::create_pit(vm, ring3_uapi::x86::KVM_PIT_SPEAKER_DUMMY)
    }),
    (KVM_CREATE_PIT2, chips::create_pit2),
    (KVM_GET_PIT, |vm, arg| chips::get_pit(vm, arg)),
    (KVM_SET_PIT, |vm, arg| chips::set_pit(vm, arg)),
    (KVM_GET_PIT2, |vm, arg| chips::get_pit2(vm, arg)),
    (KVM_SET_PIT2, |vm, arg| chips::set_pit2(vm, arg)),
    (KVM_REINJECT_CONTROL, |vm, arg| chips::reinject(vm, arg)),
    (KVM_SET_BOOT_CPU_ID, |vm, arg| set_boot_cpu(vm, arg.address())),
    (KVM_GET_CLOCK, |vm, arg| clock::ioctls::get_clock(vm, arg)),
    (KVM_SET_CLOCK, |vm, arg| clock::ioctls::set_clock(vm, arg)),
    (KVM_SET_TSC_KHZ, |vm, arg| {
        clock::ioctls::set_vm_khz(vm, arg.address())
    }),
    (KVM_GET_TSC_KHZ, |vm, _| clock::ioctls::get_vm_khz(vm)),
    (KVM_SET_PMU_EVENT_FILTER, |vm, arg| pmu::filter::set(vm, arg)),
    (KVM_X86_SET_MSR_FILTER, |vm, arg| vm.arch().msr_filter.set(arg)),
];

pub const VCPU: &[(u32, OnVcpu)] = &[
    (KVM_GET_REGS, regs::get),
    (KVM_SET_REGS, regs::set),
    (KVM_GET_SREGS, regs::sregs::get),
    (KVM_SET_SREGS, regs::sregs::set),
    (KVM_GET_SREGS2, regs::sregs::get2),
    (KVM_SET_SREGS2, regs::sregs::set2),
    (KVM_GET_FPU, regs::fpu::get),
    (KVM_SET_FPU, regs::fpu::set),
    (KVM_GET_XSAVE, regs::xsave::get),
    (KVM_SET_XSAVE, regs::xsave::set),
    (KVM_GET_XSAVE2, regs::xsave::get2),
    (KVM_GET_XCRS, regs::xsave::get_xcrs),
    (KVM_SET_XCRS, regs::xsave::set_xcrs),
    (KVM_GET_DEBUGREGS, regs::debugregs::get),
    (KVM_SET_DEBUGREGS, regs::debugregs::set),
    (KVM_TRANSLATE, regs::translate::translate),
    (KVM_GET_MSRS, msr::ioctls::get),
    (KVM_SET_MSRS, msr::ioctls::set),
    (KVM_GET_ONE_REG, msr::one_reg::get),
    (KVM_SET_ONE_REG, msr::one_reg::set),
    (KVM_GET_REG_LIST, msr::one_reg::list),
    (KVM_X86_SETUP_MCE, msr::ioctls::setup_mce),
    (KVM_X86_SET_MCE, msr::ioctls::inject_mce),
    (KVM_SET_CPUID, cpuid::ioctls::set),
    (KVM_SET_CPUID2, cpuid::ioctls::set2),
    (KVM_GET_CPUID2, cpuid::ioctls::get2),
    (KVM_GET_LAPIC, lapic::get),
    (KVM_SET_LAPIC, lapic::set),
    (KVM_INTERRUPT, lapic::interrupt),
    (KVM_NMI, lapic::nmi),
    (KVM_SMI, lapic::smi),
    (KVM_TPR_ACCESS_REPORTING, vapic::report_accesses),
    (KVM_SET_VAPIC_ADDR, vapic::set_address),
    (KVM_GET_VCPU_EVENTS, events::get),
    (KVM_SET_VCPU_EVENTS, events::set),
    (KVM_GET_MP_STATE, mp_state::get),
    (KVM_SET_MP_STATE, mp_state::set),
    (KVM_SET_GUEST_DEBUG, guest_debug::set),
    (KVM_SET_TSC_KHZ, |vcpu, s, arg| {
        clock::ioctls::set_khz(vcpu, s, arg.address())
    }),
    (KVM_GET_TSC_KHZ, |_, s, _| clock::ioctls::get_khz(s)),
    (KVM_KVMCLOCK_CTRL, |vcpu, s, _| clock::ioctls::stopped(vcpu, s)),
    (KVM_ENABLE_CAP, |vcpu, s, arg| {
        caps::enable::on_vcpu(vcpu, s, &arg.read()?)
    }),
    (KVM_PRE_FAULT_MEMORY, pre_fault::pre_fault),
    (KVM_HAS_DEVICE_ATTR, clock::ioctls::has_attr),
    (KVM_GET_DEVICE_ATTR, clock::ioctls::get_attr),
    (KVM_SET_DEVICE_ATTR, clock::ioctls::set_attr),
];

/// /dev/kvm's attributes: group and number.
pub const SYSTEM_ATTRIBUTES: &[(u32, u64)] = &[(KVM_X86_GRP_SYSTEM, KVM_X86_XCOMP_GUEST_SUPP)];

/// Whether there is such a request at all on descriptors of a kind: one that does not exist and one that is refused may get the
/// same answer.
pub fn serves(kind: FileKind, request: u32) -> bool {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    let level = match kind {
        FileKind::System => Level::System,
        FileKind::Vm => Level::Vm,
        FileKind::Vcpu => Level::Vcpu,
        FileKind::Device => Level::Device,
        FileKind::Stats | FileKind::GuestMemfd => return false,
    };
    let tables = TABLES.get_or_init(Tables::of::<X86>);
    tables.requests(level).contains(&request)
}

pub fn find<H: Copy>(rows: &[(u32, H)], request: u32) -> Option<H> {
    rows.iter().find(|row| row.0 == request).map(|row| row.1)
}

/// KVM_SET_TSS_ADDR: kept, as nothing needs to be placed there.
fn set_tss_addr(vm: &X86Vm, addr: u64) -> Result<i64, Errno> {
    // Three pages below 4 GiB.
    if addr > (1 << 32) - 3 * 4096 {
        return Err(Errno::EINVAL);
    }
    vm.arch().settings.tss_addr.store(addr, Relaxed);
    Ok(0)
}

/// KVM_SET_IDENTITY_MAP_ADDR: kept likewise.
fn set_identity_map_addr(vm: &Arc<X86Vm>, arg: UserPtr) -> Result<i64, Errno> {
    let _changes = vm.changes().lock();
    if !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    let addr: u64 = arg.read()?;
    // Zero asks for the default.
    let addr = if addr == 0 { 0xfffb_c000 } else { addr };
    vm.arch().settings.identity_map_addr.store(addr, Relaxed);
    Ok(0)
}

/// KVM_SET_NR_MMU_PAGES: there are no shadow page tables to be limited.
fn set_mmu_pages(pages: u64) -> Result<i64, Errno> {
    if pages < 64 {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

fn set_boot_cpu(vm: &X86Vm, id: u64) -> Result<i64, Errno> {
    let _changes = vm.changes().lock();
    if !vm.vcpus().is_empty() {
        return Err(Errno::EBUSY);
    }
    let settings = &vm.arch().settings;
    // As in Linux, the first id that there cannot be is let through.
    if id > u64::from(settings.vcpu_ids()) {
        return Err(Errno::EINVAL);
    }
    settings.boot_cpu_id.store(id as u32, Relaxed);
    Ok(0)
}

fn system_attr(arg: UserPtr) -> Result<KvmDeviceAttr, Errno> {
    let attr: KvmDeviceAttr = arg.read()?;
    if SYSTEM_ATTRIBUTES.contains(&(attr.group, attr.attr)) {
        Ok(attr)
    } else {
        Err(Errno::ENXIO)
    }
}

fn has_system_attr(arg: UserPtr) -> Result<i64, Errno> {
    system_attr(arg)?;
    Ok(0)
}

fn get_system_attr(arg: UserPtr) -> Result<i64, Errno> {
    let attr = system_attr(arg)?;
    UserPtr::new(attr.addr).write(&supported_xcr0())?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_known_on_each_kind_of_descriptor() {
        for (kind, request) in [
            (FileKind::System, KVM_CREATE_VM),
            (FileKind::System, KVM_GET_SUPPORTED_CPUID),
            (FileKind::Vm, KVM_CREATE_VCPU),
            (FileKind::Vm, KVM_CREATE_IRQCHIP),
            (FileKind::Vcpu, KVM_RUN),
            (FileKind::Vcpu, KVM_NMI),
            (FileKind::Device, KVM_SET_DEVICE_ATTR),
        ] {
            assert!(serves(kind, request), "{request:#x}");
            assert!(!serves(FileKind::Stats, request));
        }
        assert!(!serves(FileKind::Vcpu, KVM_CREATE_VM));
        assert!(!serves(FileKind::Vcpu, KVM_PPC_GET_RMMU_INFO));
    }

    #[test]
    fn every_row_is_a_request_of_its_fd() {
        let all = [
            (Level::System, SYSTEM.iter().map(|row| row.0).collect::<Vec<_>>()),
            (Level::Vm, VM.iter().map(|row| row.0).collect()),
            (Level::Vcpu, VCPU.iter().map(|row| row.0).collect()),
        ];
        for (level, requests) in all {
            for (i, request) in requests.iter().enumerate() {
                assert!(
                    ring3_uapi::ioctl::lookup(level, *request).is_some(),
                    "{request:#x}"
                );
                assert!(!requests[i + 1..].contains(request), "{request:#x} twice");
            }
        }
    }
}
