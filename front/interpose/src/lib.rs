//! The process model: which descriptors are ours, and what the client's calls on them mean.
//!
//! `front/preload` puts C symbols onto this. Every function returns `None` (or does nothing) for what is not ours, so
//! that the caller passes the call on to the kernel.
//!
//! Not supported: descriptors received over a socket before their first ioctl fails, and requests in a forked child,
//! which get EIO as on Linux.
#![forbid(unsafe_code)]

pub use ring3_kvm::Errno;
use ring3_kvm::{Files, open_system};
use ring3_x86_kvm::X86;
use std::os::fd::RawFd;

/// The path that clients open.
pub const DEVICE: &[u8] = b"/dev/kvm";

/// Opens `/dev/kvm`; from now on handlers of signals are watched, because they must interrupt KVM_RUN.
pub fn open_device() -> Result<RawFd, Errno> {
    ring3_host::signal::activate();
    open_system::<X86>()
}

/// An ioctl; `None` if the descriptor is not ours.
pub fn ioctl(fd: RawFd, request: u32, arg: u64) -> Option<Result<i64, Errno>> {
    let files = Files::process();
    let file = files.get(fd)?;
    Some(files.ioctl(&file, request, arg))
}

/// A descriptor is about to be closed.
pub fn closing(fd: RawFd) {
    Files::process().closed(fd);
}

/// Descriptors from `first` to `last` are about to be closed.
pub fn closing_range(first: RawFd, last: RawFd) {
    Files::process().closed_range(first, last);
}

/// `new` was made a duplicate of `old`.
pub fn duped(old: RawFd, new: RawFd) {
    Files::process().duped(old, new);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::ioctl::{KVM_CREATE_VM, KVM_GET_API_VERSION};

    #[test]
    fn a_device_answers_until_it_is_closed() {
        let fd = open_device().expect("a memfd can be made");
        assert_eq!(ioctl(fd, KVM_GET_API_VERSION, 0), Some(Ok(12)));
        let vm = ioctl(fd, KVM_CREATE_VM, 0).expect("ours").expect("a VM") as RawFd;
        closing(fd);
        assert_eq!(ioctl(fd, KVM_GET_API_VERSION, 0), None);
        assert!(ioctl(vm, KVM_GET_API_VERSION, 0).is_some());
        closing(vm);
    }
}
