//! A vCPU's descriptor.

use super::{KickBits, Owned, Vcpu};
use crate::arch::{Arch, Vcpus};
use crate::errno::Errno;
use crate::file::{File, FileKind, Overlay, VcpuFace};
use crate::stats::StatsFile;
use crate::vm::Life;
use ring3_host::addr::PAGE_SIZE;
use ring3_host::signal::{SigSet, UNBLOCKABLE};
use ring3_host::user::UserPtr;
use ring3_uapi::KvmSignalMask;
use ring3_uapi::ioctl::{self, KVM_GET_STATS_FD, KVM_RUN, KVM_SET_SIGNAL_MASK};
use std::ops::Range;
use std::sync::Arc;

/// What stands behind a vCPU's descriptor.
pub(crate) struct VcpuFile<A: Arch> {
    pub vcpu: Arc<Vcpu<A>>,
    /// Dropped after the above: the last one takes the VM apart.
    pub life: Arc<Life<A>>,
}

type Handler<A> = fn(&VcpuFile<A>, &mut Owned<A>, u64) -> Result<i64, Errno>;

macro_rules! rows {
    ($($request:ident => $handler:expr;)*) => {
        /// The requests handled here; all others are the architecture's.
        pub(crate) const REQUESTS: &[u32] = &[$($request),*];

        #[inline]
        fn handler<A: Arch>(request: u32) -> Option<Handler<A>> {
            Some(match request {
                $($request => $handler,)*
                _ => return None,
            })
        }
    };
}

rows! {
    KVM_RUN => |file, owned, arg| if arg == 0 { file.vcpu.run(owned) } else { Err(Errno::EINVAL) };
    // With the mutex held, nobody counts.
    KVM_GET_STATS_FD => |file, _, _| StatsFile::install(&file.life, file.vcpu.stats().open(file.vcpu.id())?);
    KVM_SET_SIGNAL_MASK => |_, owned, arg| set_signal_mask(owned, arg);
}

/// Bytes of a signal set, as the system calls count them.
const SIGSET: u32 = 8;

impl<A: Arch> File for VcpuFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::Vcpu
    }

    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.life.check()?;
        if !ioctl::is_kvm(request) {
            return Err(Errno::EINVAL);
        }
        let vcpu = &self.vcpu;
        if request != KVM_RUN
            && let Some(result) = <A as Vcpus>::vcpu_ioctl_async(vcpu, request, arg)
        {
            return result;
        }
        let mut owned = vcpu.owned();
        match handler::<A>(request) {
            Some(handle) => handle(self, &mut owned, arg),
            None => <A as Vcpus>::vcpu_ioctl(vcpu, &mut owned.arch, request, arg),
        }
    }

    fn interrupt(&self) {
        self.vcpu.seat().kick().post(KickBits::SIGNAL);
    }

    fn broken(&self) {
        self.life.broken();
    }

    fn shared_only(&self) -> Option<Range<usize>> {
        self.vcpu.dirty_ring()?;
        let first = A::LIMITS.dirty_ring_page? * PAGE_SIZE as usize;
        Some(first..self.vcpu.pages().len())
    }

    fn overlay(&self) -> Option<Overlay> {
        self.vcpu.vm().io().ring().overlay(self.vcpu.pages())
    }

    fn vcpu(&self) -> Option<VcpuFace<'_>> {
        Some(VcpuFace {
            id: self.vcpu.id(),
            pages: self.vcpu.pages(),
        })
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
        let mask = SigSet(at.offset(size_of::<KvmSignalMask>() as u64).read()?);
        Some(mask.without(UNBLOCKABLE))
    };
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Machine;

    #[test]
    fn some_signals_no_mask_holds() {
        let machine = Machine::new();
        let vcpu = machine.vcpu(0);
        let set = |len: u32, bits: u64| {
            // The mask follows the length at once.
            let args: Vec<u8> = [&len.to_ne_bytes()[..], &bits.to_ne_bytes()[..]].concat();
            vcpu.fd.ioctl(KVM_SET_SIGNAL_MASK, args.as_ptr() as u64)
        };
        let kept = || vcpu.vcpu.owned().signal_mask;
        assert_eq!(set(8, u64::MAX), Ok(0));
        let all = kept().expect("just set");
        assert!(!all.has(9) && !all.has(19) && all.has(10));
        assert_eq!(all.with(UNBLOCKABLE), SigSet(u64::MAX));
        assert_eq!(set(4, 0), Err(Errno::EINVAL));
        assert_eq!(set(16, 0), Err(Errno::EINVAL));
        assert_eq!(vcpu.fd.ioctl(KVM_SET_SIGNAL_MASK, 8), Err(Errno::EFAULT));
        assert_eq!(kept(), Some(all));
        assert_eq!(vcpu.fd.ioctl(KVM_SET_SIGNAL_MASK, 0), Ok(0));
        assert_eq!(kept(), None);
    }
}
