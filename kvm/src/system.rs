//! `/dev/kvm`.

use crate::arch::{Arch, System};
use crate::errno::Errno;
use crate::file::{File, FileKind, Inherited};
use crate::files::Files;
use crate::vm::{Vm, VmFile, check_extension};
use ring3_host::addr::PAGE_SIZE;
use ring3_host::fd;
use ring3_uapi::KVM_API_VERSION;
use ring3_uapi::ioctl::{KVM_CHECK_EXTENSION, KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE};
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::sync::Arc;

type Handler = fn(u64) -> Result<i64, Errno>;

macro_rules! rows {
    ($($request:ident => $handler:expr;)*) => {
        /// The requests handled here; all others are the architecture's.
        pub(crate) const REQUESTS: &[u32] = &[$($request),*];

        fn handler<A: Arch>(request: u32) -> Option<Handler> {
            Some(match request {
                $($request => $handler,)*
                _ => return None,
            })
        }
    };
}

rows! {
    KVM_GET_API_VERSION => |arg| no_argument(arg).map(|()| i64::from(KVM_API_VERSION));
    KVM_GET_VCPU_MMAP_SIZE => |arg| no_argument(arg).map(|()| A::LIMITS.vcpu_mmap_pages as i64 * PAGE_SIZE as i64);
    KVM_CHECK_EXTENSION => |arg| Ok(check_extension::<A>(None, arg));
    KVM_CREATE_VM => create_vm::<A>;
}

fn no_argument(arg: u64) -> Result<(), Errno> {
    if arg == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

struct SystemFile<A>(PhantomData<fn() -> A>);

impl<A: Arch> File for SystemFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::System
    }

    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        match handler::<A>(request) {
            Some(handle) => handle(arg),
            None => <A as System>::system_ioctl(request, arg),
        }
    }
}

/// Opens `/dev/kvm`, so to speak: a descriptor of the process, close-on-exec.
pub fn open_system<A: Arch>() -> Result<RawFd, Errno> {
    let memfd = fd::memfd_create("kvm", 0)?;
    Files::process().install(Arc::new(SystemFile::<A>(PhantomData)), memfd)
}

/// In a forked child, before it uses anything of ours: `/dev/kvm` goes on working, while VMs and what belongs to them stay
/// the parent's.
pub fn forked<A: Arch>() {
    Files::process().forked(|kind| match kind {
        FileKind::System => Arc::new(SystemFile::<A>(PhantomData)),
        other => Arc::new(Inherited(other)),
    });
}

fn create_vm<A: Arch>(kind: u64) -> Result<i64, Errno> {
    let vm = Vm::<A>::create(kind)?;
    let memfd = fd::memfd_create("kvm-vm", 0)?;
    let number = Files::process().install(Arc::new(VmFile::new(vm)), memfd)?;
    Ok(i64::from(number))
}
