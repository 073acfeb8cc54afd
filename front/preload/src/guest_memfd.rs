//! What is refused of a guest_memfd, with Linux's error numbers: reading it, mapping it otherwise than it may be, freeing parts of pages, and
//! having its pages made into a large one. What nobody stands before (`write`, `ftruncate`) the kernel refuses by itself.

use super::signals::Next;
use super::{fail, keeping_errno, passed};
use ring3_host::fd::memfd_create;
use ring3_interpose::{Errno, guest_memfd};
use std::ffi::{c_int, c_void};
use std::os::fd::OwnedFd;

const PAGE: i64 = 4096;

/// The client maps a descriptor. If it is a guest_memfd whose pages are private, all that it may see of them is that they fault, as
/// they do behind the end of an empty file.
pub(super) fn mapped(fd: c_int, flags: c_int) -> Result<Option<OwnedFd>, Errno> {
    let Some(memfd) = guest_memfd(fd) else {
        return Ok(None);
    };
    if !memfd.may_be_mapped() {
        return Err(Errno::ENODEV);
    }
    if !matches!(
        flags & libc::MAP_TYPE,
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE
    ) {
        return Err(Errno::EINVAL);
    }
    if memfd.is_shared() {
        return Ok(None);
    }
    let nothing = keeping_errno(|| memfd_create("kvm-gmem-private", 0));
    Ok(Some(nothing?))
}

macro_rules! reads {
    ($($name:ident $next:ident $string:literal ($($arg:ident: $type:ty),*);)*) => {$(
        static $next: Next = Next::new($string);

        /// As the C library's.
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(fd: c_int, $($arg: $type),*) -> isize {
            if guest_memfd(fd).is_some() {
                return fail(libc::EINVAL) as isize;
            }
            type Function = unsafe extern "C" fn(c_int, $($type),*) -> isize;
            let next = $next.get();
            if next.is_null() {
                return fail(libc::ENOSYS) as isize;
            }
            // The C library's own, because a thread may be cancelled in it.
            // SAFETY: the symbol is the C library's function of this type; the arguments are the client's.
            unsafe { std::mem::transmute::<*mut c_void, Function>(next)(fd, $($arg),*) }
        }
    )*};
}

reads! {
    read NEXT_READ c"read" (to: *mut c_void, len: usize);
    pread NEXT_PREAD c"pread" (to: *mut c_void, len: usize, at: i64);
    pread64 NEXT_PREAD64 c"pread64" (to: *mut c_void, len: usize, at: i64);
    readv NEXT_READV c"readv" (to: *const libc::iovec, count: c_int);
    preadv NEXT_PREADV c"preadv" (to: *const libc::iovec, count: c_int, at: i64);
    preadv64 NEXT_PREADV64 c"preadv64" (to: *const libc::iovec, count: c_int, at: i64);
}

/// What the kernel would do with parts of pages and beyond the end, and Linux does not with a guest_memfd.
fn refused(size: u64, mode: c_int, at: i64, len: i64) -> Option<c_int> {
    let known = libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;
    if at < 0 || len <= 0 {
        return None;
    }
    if mode & libc::FALLOC_FL_KEEP_SIZE == 0 || mode & !known != 0 {
        return Some(libc::EOPNOTSUPP);
    }
    let beyond = at.checked_add(len).is_none_or(|end| end as u64 > size);
    let makes = mode & libc::FALLOC_FL_PUNCH_HOLE == 0;
    (at % PAGE != 0 || len % PAGE != 0 || makes && beyond).then_some(libc::EINVAL)
}

macro_rules! fallocates {
    ($($name:ident)*) => {$(
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(fd: c_int, mode: c_int, at: i64, len: i64) -> c_int {
            let refused = guest_memfd(fd).and_then(|memfd| refused(memfd.size(), mode, at, len));
            match refused {
                Some(errno) => fail(errno),
                // SAFETY: the client's own call, passed on as it is.
                None => passed(unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, at, len) }),
            }
        }
    )*};
}

fallocates!(fallocate fallocate64);

/// Whether the client has a guest_memfd mapped between two addresses.
fn is_mapped(from: u64, to: u64) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter(|line| line.contains("/memfd:kvm-gmem"))
        .filter_map(|line| line.split(' ').next()?.split_once('-'))
        .filter_map(|(a, b)| Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?)))
        .any(|(start, end)| start < to && from < end)
}

/// As the C library's.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn madvise(at: *mut c_void, len: usize, advice: c_int) -> c_int {
    let from = at as u64;
    if advice == libc::MADV_COLLAPSE
        && ring3_interpose::is_open()
        && keeping_errno(|| is_mapped(from, from.saturating_add(len as u64)))
    {
        return fail(libc::EINVAL);
    }
    // SAFETY: the client's own call, passed on as it is.
    passed(unsafe { libc::syscall(libc::SYS_madvise, at, len, advice) })
}
