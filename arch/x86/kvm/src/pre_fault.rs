//! KVM_PRE_FAULT_MEMORY: has the host make the memory behind guest pages present, so that the guest need not wait for that.
//!
//! Pages are read once. What the guest's processor keeps of them it looks up when it comes by, as ever.

use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::KvmPreFaultMemory;

use crate::exit;
use crate::vcpu::{Unit, VcpuState, X86Vcpu};
use crate::world::memory_fault;

/// Bytes of one call: the client goes on with what is left, and signals are served in between.
const AT_ONCE: u64 = 1 << 30;

pub fn pre_fault(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let mut range: KvmPreFaultMemory = arg.read()?;
    let whole = range.size;
    let result = advance(vcpu, &mut s.unit, &mut range);
    // What is left is told whatever came of it.
    arg.write(&range)?;
    // Some is enough to call it a success.
    if range.size < whole { Ok(0) } else { result }
}

fn advance(vcpu: &X86Vcpu, unit: &mut Unit, range: &mut KvmPreFaultMemory) -> Result<i64, Errno> {
    let aligned = range.gpa.is_multiple_of(PAGE_SIZE) && range.size.is_multiple_of(PAGE_SIZE);
    let end = range.gpa.checked_add(range.size);
    if range.flags != 0 || !aligned || end.is_none_or(|end| end <= range.gpa) {
        return Err(Errno::EINVAL);
    }
    let mut left = range.size.min(AT_ONCE);
    while left != 0 {
        touch(vcpu, unit, GuestPhys(range.gpa))?;
        range.gpa += PAGE_SIZE;
        range.size -= PAGE_SIZE;
        left -= PAGE_SIZE;
    }
    Ok(0)
}

fn touch(vcpu: &X86Vcpu, unit: &mut Unit, at: GuestPhys) -> Result<(), Errno> {
    let memory = vcpu.vm().memory();
    let Some(page) = unit.slots.lookup(memory, at.page()) else {
        let fault = memory_fault(vcpu, unit, at).ok_or(Errno::ENOENT)?;
        exit::memory_fault(vcpu.pages(), &fault);
        return Err(Errno::EFAULT);
    };
    page.host().load::<u8>(0).map_err(|_| Errno::EFAULT)?;
    Ok(())
}
