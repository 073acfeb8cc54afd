//! The process model: which descriptors are ours, and what the client's calls on them mean.
//!
//! `front/preload` puts C symbols onto this. What is not ours is said to be so, and the caller passes it on to the
//! kernel. As long as the process never opens the device ([`path`] says what that is), that answer costs one load.
//!
//! The last close of an object's descriptors in this process frees it. A descriptor that left the process (a forked
//! child's copy, one sent over a socket, one inherited by a program executed) is only a memfd: it does not keep the
//! object alive. In a forked child the device itself works, and requests of the parent's VMs get EIO, as on Linux.
//!
//! A number that came or went unseen (over a socket, by a system call made without the C library) is noticed at the first
//! request that gives it away. An object whose only descriptor is on its way in a socket is gone.
#![forbid(unsafe_code)]

mod log;
mod parameters;
pub mod path;
pub mod stats;
pub mod trace;

pub use ring3_kvm::{Errno, FileKind, Overlay};

use ring3_kvm::memory::GuestMemfd;

use ring3_host::fd::{CloseOnExec, constant_memfd, set_cloexec, with_raw};
use ring3_host::process;
use ring3_host::signal::{self, Shield};
use ring3_kvm::{Files, open_system};
use ring3_trace::Event;
use ring3_uapi::ioctl::is_kvm;
use ring3_x86_kvm::X86;
use std::ops::Range;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the process ever opened the device.
static OPENED: AtomicBool = AtomicBool::new(false);

/// The table, if anything was ever put in it.
#[inline]
fn files() -> Option<&'static Files> {
    OPENED.load(Ordering::Acquire).then(Files::process)
}

/// Whether the process ever opened the device.
pub fn is_open() -> bool {
    OPENED.load(Ordering::Acquire)
}

/// Opens `/dev/kvm`; from now on handlers of signals are watched, because they must interrupt KVM_RUN.
pub fn open_device(cloexec: CloseOnExec) -> Result<RawFd, Errno> {
    if process::is_forked_child() {
        settle();
    }
    process::remember()?;
    // Handlers installed unseen are looked for when a vCPU is made.
    if !signal::is_active() {
        signal::activate();
    }
    log::start();
    trace::start();
    parameters::start();
    let _work = Shield::enter();
    OPENED.store(true, Ordering::Release);
    let fd = open_system::<X86>()?;
    with_raw(fd, |fd| set_cloexec(fd, cloexec))??;
    trace::event(Files::process(), fd, Event::Open);
    Ok(fd)
}

/// Makes a forked child a process of its own. What was the parent's is not freed, because that would wait for threads that
/// only the parent has.
#[cold]
fn settle() {
    // A handler of the client's that comes here again would wait for itself.
    let _work = Shield::enter();
    process::settle(|| {
        ring3_kvm::forked::<X86>();
        stats::forked();
        trace::forked();
    });
}

/// Opens the file of a module's parameter, to be read; `None` if it is none that ring3 has an answer for.
pub fn open_parameter(path: &[u8], cloexec: CloseOnExec) -> Option<Result<RawFd, Errno>> {
    let (module, name) = path::module_parameter(path)?;
    parameters::start();
    let value = ring3_x86_kvm::module::parameter(module, name)?;
    let open = || {
        let fd = constant_memfd("kvm-parameter", format!("{value}\n").as_bytes())?;
        set_cloexec(&fd, cloexec)?;
        Ok(fd.into_raw_fd())
    };
    Some(open())
}

/// An ioctl; `None` if the descriptor is not ours.
#[inline]
pub fn ioctl(fd: RawFd, request: u32, arg: u64) -> Option<Result<i64, Errno>> {
    let mut files = files()?;
    let known = files.is_ours(fd);
    if !known && !is_kvm(request) {
        return None;
    }
    if process::is_forked_child() {
        settle();
        files = Files::process();
    }
    // A KVM request on a strange number, or a strange request on one of ours: it may have changed hands unseen.
    if known != is_kvm(request) {
        identify(files, fd)?;
    }
    // Handlers of the client's run once this is dropped, when no lock is held any more.
    let _work = Shield::enter();
    let file = files.get(fd)?;
    Some(match trace::tracer() {
        None => files.ioctl(&file, request, arg),
        Some(tracer) => trace::ioctl(tracer, (files, fd), &file, (request, arg)),
    })
}

/// Asks the kernel whether the number is ours: descriptors come by sockets too, and come and go by system calls that do not
/// pass here.
#[cold]
fn identify(files: &Files, fd: RawFd) -> Option<()> {
    let _work = Shield::enter();
    files.identify(fd).map(drop)
}

/// Has a KVM_RUN on `fd` return as for a signal.
pub fn interrupt(fd: RawFd) {
    if let Some(file) = files().and_then(|files| files.get(fd)) {
        file.interrupt();
    }
}

/// What `fd` stands for, if it is ours.
#[inline]
pub fn kind(fd: RawFd) -> Option<FileKind> {
    files()?.kind(fd)
}

/// The client mapped a descriptor: the page of the mapping that must be replaced, if there is one.
#[inline]
pub fn overlay(fd: RawFd) -> Option<Overlay> {
    let files = files().filter(|files| files.is_ours(fd))?;
    if process::is_forked_child() {
        return None;
    }
    let _work = Shield::enter();
    files.get(fd)?.overlay()
}

/// The part of a descriptor's file that may only be mapped shared, and not to be executed, if there is one.
pub fn shared_only(fd: RawFd) -> Option<Range<usize>> {
    let files = files().filter(|files| files.is_ours(fd))?;
    if process::is_forked_child() {
        return None;
    }
    let _work = Shield::enter();
    files.get(fd)?.shared_only()
}

/// The guest_memfd that a descriptor stands for. In a forked child it is none of ours any more.
#[inline]
pub fn guest_memfd(fd: RawFd) -> Option<Arc<GuestMemfd>> {
    let files = files().filter(|files| files.kind(fd) == Some(FileKind::GuestMemfd))?;
    if process::is_forked_child() {
        return None;
    }
    let _work = Shield::enter();
    files.get(fd)?.guest_memfd().cloned()
}

/// The client mapped `len` bytes of a descriptor, from `offset` on, at `at`.
#[inline]
pub fn mapped(fd: RawFd, at: u64, len: usize, offset: i64) {
    if let Some(files) = files().filter(|files| files.is_ours(fd))
        && trace::is_traced()
        && !process::is_forked_child()
    {
        let _work = Shield::enter();
        trace::event(files, fd, Event::Mmap { at, len, offset });
    }
}

/// The table, if this process may change it: a child of `vfork` may not, since it is the parent's too.
fn own_files() -> Option<&'static Files> {
    files()?;
    if process::is_forked_child() {
        settle();
    }
    (!process::is_another()).then(Files::process)
}

/// A descriptor is about to be closed.
#[inline]
pub fn closing(fd: RawFd) {
    if files().is_some_and(|files| files.is_ours(fd)) {
        close_ours(fd);
    }
}

#[cold]
fn close_ours(fd: RawFd) {
    if let Some(files) = own_files() {
        let _work = Shield::enter();
        trace::event(files, fd, Event::Close);
        files.closed(fd);
    }
}

/// A descriptor of which [`closing`] was told is closed now. A request that another thread made on it meanwhile may have brought
/// the number back.
#[inline]
pub fn closed(fd: RawFd) {
    if files().is_some_and(|files| files.is_ours(fd))
        && let Some(files) = own_files()
    {
        // The number may also be a new descriptor's by now: the kernel is asked.
        let _work = Shield::enter();
        files.identify(fd);
    }
}

/// Descriptors from `first` to `last` are about to be closed.
pub fn closing_range(first: RawFd, last: RawFd) {
    if let Some(files) = own_files() {
        let _work = Shield::enter();
        files.closed_range(first, last);
    }
}

/// `new` was made a duplicate of `old`.
#[inline]
pub fn duped(old: RawFd, new: RawFd) {
    if files().is_some_and(|files| files.is_ours(old) || files.is_ours(new)) {
        dup_ours(old, new);
    }
}

#[cold]
fn dup_ours(old: RawFd, new: RawFd) {
    if let Some(files) = own_files() {
        let _work = Shield::enter();
        files.duped(old, new);
        trace::event(files, old, Event::Dup { new });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::ioctl::{KVM_CREATE_VM, KVM_GET_API_VERSION};

    #[test]
    fn a_request_while_a_descriptor_is_closed_keeps_nothing() {
        let fd = open_device(CloseOnExec::Yes).expect("a memfd can be made");
        let other = ring3_host::fd::dup_raw(fd).expect("it is open");
        let number = std::os::fd::AsRawFd::as_raw_fd(&other);
        duped(fd, number);
        closing(number);
        // Another thread's, before the kernel closes it.
        assert_eq!(ioctl(number, KVM_GET_API_VERSION, 0), Some(Ok(12)));
        drop(other);
        closed(number);
        assert_eq!(kind(number), None);
        assert_eq!(kind(fd), Some(FileKind::System));
        closed(fd);
        assert_eq!(kind(fd), Some(FileKind::System), "it is open");
        closing(fd);
        drop(ring3_host::fd::adopt_raw(fd));
    }

    #[test]
    fn a_device_answers_until_it_is_closed() {
        let fd = open_device(CloseOnExec::Yes).expect("a memfd can be made");
        assert_eq!(kind(fd), Some(FileKind::System));
        assert_eq!(ioctl(fd, KVM_GET_API_VERSION, 0), Some(Ok(12)));
        let vm = ioctl(fd, KVM_CREATE_VM, 0).expect("ours").expect("a VM") as RawFd;
        closing(fd);
        assert_eq!(ioctl(fd, KVM_GET_API_VERSION, 0), None);
        assert!(ioctl(vm, KVM_GET_API_VERSION, 0).is_some());
        closing(vm);
    }
}
