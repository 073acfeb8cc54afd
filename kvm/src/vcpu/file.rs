//! A vCPU's descriptor.

use super::{Owned, Vcpu};
use crate::arch::{Arch, Vcpus};
use crate::errno::Errno;
use crate::file::{File, FileKind};
use crate::vm::Life;
use ring3_host::user::UserPtr;
use ring3_uapi::KvmSignalMask;
use ring3_uapi::ioctl::{self, KVM_RUN, KVM_SET_SIGNAL_MASK};
use std::sync::Arc;

/// What stands behind a vCPU's descriptor.
pub(crate) struct VcpuFile<A: Arch> {
    pub vcpu: Arc<Vcpu<A>>,
    /// Dropped after the above: the last one takes the VM apart.
    pub life: Arc<Life<A>>,
}

/// Bytes of a signal set, as the system calls count them.
const SIGSET: u32 = 8;

impl<A: Arch> File for VcpuFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::Vcpu
    }

    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        if !ioctl::is_kvm(request) {
            return Err(Errno::EINVAL);
        }
        self.life.check()?;
        let vcpu = &self.vcpu;
        if request != KVM_RUN
            && let Some(result) = <A as Vcpus>::vcpu_ioctl_async(vcpu, request, arg)
        {
            return result;
        }
        let mut owned = vcpu.owned();
        match request {
            KVM_RUN if arg != 0 => Err(Errno::EINVAL),
            KVM_RUN => vcpu.run(&mut owned),
            KVM_SET_SIGNAL_MASK => set_signal_mask(&mut owned, arg),
            _ => <A as Vcpus>::vcpu_ioctl(vcpu, &mut owned.arch, request, arg),
        }
    }
}

fn set_signal_mask<A: Arch>(owned: &mut Owned<A>, arg: u64) -> Result<i64, Errno> {
    owned.signal_mask = if arg == 0 {
        None
    } else {
        let at = UserPtr::new(arg);
        let header: KvmSignalMask = at.read()?;
        if header.len != SIGSET {
            return Err(Errno::EINVAL);
        }
        Some(at.offset(size_of::<KvmSignalMask>() as u64).read::<u64>()?)
    };
    Ok(0)
}
