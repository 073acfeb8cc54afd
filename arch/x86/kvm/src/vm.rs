//! The x86 part of a VM.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use ring3_host::addr::GuestPhys;
use ring3_kvm::{Errno, Vm};
use ring3_uapi::x86::{KVM_X86_DEFAULT_VM, KVM_X86_SW_PROTECTED_VM};

use crate::X86;
use crate::apic::Apics;
use crate::clock::pvclock::VmClock;
use crate::clock::tsc::VmTsc;
use crate::controllers::Controllers;
use crate::msr::filter::FilterSlot;
use crate::pmu;
use crate::settings::Settings;
use crate::vcpu::CLOCK_UPDATE;

pub type X86Vm = Vm<X86>;

/// The address space of devices and paravirtual structures: the one outside of system management mode.
const SPACE: u16 = 0;

/// The types of VMs that there are, a bit each.
pub const TYPES: u64 = 1 << KVM_X86_DEFAULT_VM | 1 << KVM_X86_SW_PROTECTED_VM;

#[derive(Default)]
pub struct VmArch {
    /// KVM_X86_SW_PROTECTED_VM.
    pub private_memory: bool,
    pub tsc: VmTsc,
    /// The counters' offsets by vCPU index, to tell whether they agree.
    tsc_offsets: Mutex<BTreeMap<u32, u64>>,
    pub clock: VmClock,
    /// MSR_KVM_WALL_CLOCK.
    pub wall_clock: AtomicU64,
    pub settings: Arc<Settings>,
    pub msr_filter: FilterSlot,
    pub pmu_filter: pmu::filter::FilterSlot,
    pub apics: Arc<Apics>,
    pub controllers: Controllers,
}

/// Copies from guest memory; the caller is not in guest mode with respect to what it reads.
pub fn read_guest(vm: &X86Vm, at: GuestPhys, bytes: &mut [u8]) -> Result<(), Errno> {
    vm.memory().read(SPACE, at, bytes)?;
    Ok(())
}

/// Copies to guest memory, entering it in the dirty log.
pub fn write_guest(vm: &X86Vm, at: GuestPhys, bytes: &[u8]) -> Result<(), Errno> {
    vm.memory().write(SPACE, at, bytes)?;
    Ok(())
}

/// Notes a vCPU's TSC offset; when that changes whether all agree, every guest clock must tell.
pub fn review_tsc(vm: &X86Vm, index: u32, offset: u64) {
    let arch = vm.arch();
    let mut offsets = arch.tsc_offsets.lock().unwrap_or_else(PoisonError::into_inner);
    offsets.insert(index, offset);
    let before = arch.tsc.together();
    arch.tsc.review(offsets.values().copied());
    let changed = before != arch.tsc.together();
    drop(offsets);
    if changed {
        publish_clocks(vm);
    }
}

/// Has every vCPU write its paravirtual clock anew.
pub fn publish_clocks(vm: &X86Vm) {
    vm.seats().request_all(CLOCK_UPDATE);
}
