//! KVM_CREATE_VCPU.

use super::{Life, Vm};
use crate::arch::{Arch, Vcpus};
use crate::errno::Errno;
use crate::files::Files;
use crate::vcpu::{Vcpu, VcpuFile};
use ring3_host::addr::PAGE_SIZE;
use std::sync::{Arc, PoisonError};

/// KVM_CREATE_VCPU.
pub(super) fn create<A: Arch>(vm: &Arc<Vm<A>>, life: &Arc<Life<A>>, arg: u64) -> Result<i64, Errno> {
    let id = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
    if id >= A::LIMITS.vcpu_ids {
        return Err(Errno::EINVAL);
    }
    let _changes = vm.changes.lock();
    let before = vm.vcpus();
    if before.len() >= A::LIMITS.vcpus as usize {
        return Err(Errno::EINVAL);
    }
    if before.iter().any(|vcpu| vcpu.id() == id) {
        return Err(Errno::EEXIST);
    }
    let (vcpu, fd) = Vcpu::create(vm, id, before.len() as u32)?;
    if let Some(page) = A::LIMITS.coalesced_page {
        vm.io.ring().place(vcpu.pages(), page * PAGE_SIZE as usize);
    }
    let file = VcpuFile {
        vcpu: Arc::clone(&vcpu),
        life: Arc::clone(life),
    };
    let number = Files::process().install(Arc::new(file), fd)?;
    *vm.vcpus.write().unwrap_or_else(PoisonError::into_inner) =
        before.iter().cloned().chain([Arc::clone(&vcpu)]).collect();
    vm.seats.add(Arc::clone(vcpu.seat()));
    <A as Vcpus>::vcpu_created(&vcpu);
    Ok(i64::from(number))
}
