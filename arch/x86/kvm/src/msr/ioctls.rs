//! The client's side of MSRs: lists, bulk reads and writes, machine-check setup.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{KvmMsrEntry, KvmMsrList, KvmMsrs, KvmX86Mce};

use super::index::{AMD_DE_CFG, IA32_ARCH_CAPABILITIES, IA32_PERF_CAPABILITIES, IA32_UCODE_REV};
use super::mce::{self, Injected};
use super::{Access, By, Denied, Lists, misc, rows, xfd};
use crate::lapic::LocalSource;
use crate::pmu;
use crate::vcpu::{VcpuState, X86Vcpu};

/// The most entries of one call.
const MAX_ENTRIES: u32 = 256;

fn list(arg: UserPtr, which: Lists) -> Result<i64, Errno> {
    let head: KvmMsrList = arg.read()?;
    let hosts_affair = if which == Lists::INDEX {
        pmu::msrs::listed().into_iter().chain(xfd::listed()).collect()
    } else {
        Vec::new()
    };
    let indices: Vec<u32> = rows::ROWS
        .iter()
        .filter(|row| row.lists.contains(which))
        .map(|row| row.first)
        .chain(hosts_affair)
        .collect();
    // The count is told even when the list does not fit.
    arg.write(&KvmMsrList {
        nmsrs: indices.len() as u32,
    })?;
    if (head.nmsrs as usize) < indices.len() {
        return Err(Errno::E2BIG);
    }
    arg.offset(size_of::<KvmMsrList>() as u64)
        .write(indices.as_slice())?;
    Ok(0)
}

/// KVM_GET_MSR_INDEX_LIST.
pub fn index_list(arg: UserPtr) -> Result<i64, Errno> {
    list(arg, Lists::INDEX)
}

/// KVM_GET_MSR_FEATURE_INDEX_LIST.
pub fn feature_list(arg: UserPtr) -> Result<i64, Errno> {
    list(arg, Lists::FEATURE)
}

fn feature(index: u32) -> Option<u64> {
    let row = super::row(index)?;
    if !row.lists.contains(Lists::FEATURE) {
        return None;
    }
    Some(match index {
        IA32_ARCH_CAPABILITIES => misc::ARCH_CAPABILITIES,
        IA32_UCODE_REV | IA32_PERF_CAPABILITIES => super::Storage::default().get(index),
        AMD_DE_CFG => misc::DE_CFG_LFENCE,
        _ => 0,
    })
}

/// Walks the entries of a KVM_GET_MSRS or KVM_SET_MSRS until one fails; answers how many did not.
fn walk(
    arg: UserPtr,
    write_back: WriteBack,
    mut each: impl FnMut(&mut KvmMsrEntry) -> Result<(), Denied>,
) -> Result<i64, Errno> {
    let head: KvmMsrs = arg.read()?;
    if head.nmsrs >= MAX_ENTRIES {
        return Err(Errno::E2BIG);
    }
    let entries_at = arg.offset(size_of::<KvmMsrs>() as u64);
    let mut entries: Vec<KvmMsrEntry> = entries_at.read_vec(head.nmsrs as usize)?;
    let failed = entries.iter_mut().position(|entry| each(entry).is_err());
    let done = failed.unwrap_or(entries.len());
    if write_back == WriteBack::Yes {
        entries_at.write(entries.as_slice())?;
    }
    Ok(done as i64)
}

#[derive(PartialEq, Eq)]
enum WriteBack {
    Yes,
    No,
}

/// KVM_GET_MSRS on /dev/kvm.
pub fn get_features(arg: UserPtr) -> Result<i64, Errno> {
    walk(arg, WriteBack::Yes, |entry| {
        entry.data = feature(entry.index).ok_or(Denied::Unknown)?;
        Ok(())
    })
}

/// KVM_GET_MSRS on a vCPU.
pub fn get(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    walk(arg, WriteBack::Yes, |entry| {
        entry.data = super::read(&mut access(vcpu, s, entry.index))?;
        Ok(())
    })
}

/// KVM_SET_MSRS.
pub fn set(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let result = walk(arg, WriteBack::No, |entry| {
        super::write(&mut access(vcpu, s, entry.index), entry.data)
    });
    s.state_changed();
    result
}

pub(super) fn access<'a>(vcpu: &'a X86Vcpu, s: &'a mut VcpuState, index: u32) -> Access<'a> {
    Access {
        vcpu,
        unit: &mut s.unit,
        state: &mut s.cpu.core.state,
        index,
        by: By::Client,
    }
}

/// KVM_X86_GET_MCE_CAP_SUPPORTED.
pub fn mce_supported(arg: UserPtr) -> Result<i64, Errno> {
    arg.write(&mce::SUPPORTED)?;
    Ok(0)
}

/// KVM_X86_SETUP_MCE.
pub fn setup_mce(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let cap: u64 = arg.read()?;
    s.unit.mce.setup(cap).map_err(|_| Errno::EINVAL)?;
    s.unit.review_apic(vcpu);
    Ok(0)
}

/// KVM_X86_SET_MCE.
pub fn inject_mce(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmX86Mce = arg.read()?;
    let event = mce::McEvent {
        status: wire.status,
        addr: wire.addr,
        misc: wire.misc,
        mcg_status: wire.mcg_status,
    };
    let ready = s.cpu.core.state.cr4 & ring3_x86_cpu::state::CR4_MCE != 0;
    match s
        .unit
        .mce
        .inject(wire.bank, event, ready)
        .map_err(|_| Errno::EINVAL)?
    {
        Injected::Logged => {}
        Injected::Interrupt => {
            if let Some(apic) = &vcpu.shared().apic {
                apic.deliver_local(LocalSource::Cmci);
            }
        }
        Injected::Exception => s.unit.events.queue_exception(18, None),
        Injected::TripleFault => s.unit.events.triple_fault = true,
    }
    vcpu.seat().event();
    Ok(0)
}
