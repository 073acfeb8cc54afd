//! mmap: a vCPU's mapping shows a page that is the VM's, and its dirty ring is mapped as it should be.

use ring3_host::shared::show_page;
use ring3_interpose::FileKind;
use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;

const PAGE: usize = 4096;

/// The file pages from `offset` on, `len` bytes, are mapped at `at`.
struct Mapped {
    at: *mut u8,
    len: usize,
    offset: i64,
    rights: c_int,
}

#[cold]
fn put_overlay(fd: c_int, mapped: &Mapped) {
    let Some(over) = ring3_interpose::overlay(fd) else {
        return;
    };
    let Some(within) = (over.offset as i64).checked_sub(mapped.offset) else {
        return;
    };
    let Some(within) = usize::try_from(within).ok().filter(|within| *within < mapped.len) else {
        return;
    };
    // SAFETY: the page is in the mapping that the client has just asked for, and does not know yet.
    let shown = unsafe {
        let page = mapped.at.add(within);
        show_page(&over.pages, over.from, page).is_ok()
            && (mapped.rights == libc::PROT_READ | libc::PROT_WRITE
                || libc::mprotect(page.cast(), PAGE, mapped.rights) == 0)
    };
    debug_assert!(shown);
}

/// Whether the mapping has a part that may only be mapped shared and not to be executed, and is something else.
fn refused(fd: c_int, offset: i64, len: usize, flags: c_int, rights: c_int) -> bool {
    let fine = flags & libc::MAP_TYPE != libc::MAP_PRIVATE && rights & libc::PROT_EXEC == 0;
    !fine
        && ring3_interpose::kind(fd) == Some(FileKind::Vcpu)
        && ring3_interpose::shared_only(fd).is_some_and(|part| {
            let first = usize::try_from(offset).unwrap_or(usize::MAX);
            first < part.end && part.start < first.saturating_add(len)
        })
}

macro_rules! mmaps {
    ($($name:ident)*) => {$(
        /// As the C library's.
        ///
        /// # Safety
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            at: *mut c_void,
            len: usize,
            rights: c_int,
            flags: c_int,
            fd: c_int,
            offset: i64,
        ) -> *mut c_void {
            if refused(fd, offset, len, flags, rights) {
                super::fail(libc::EINVAL);
                return libc::MAP_FAILED;
            }
            let mut fd = fd;
            let nothing = match super::guest_memfd::mapped(fd, flags) {
                Ok(nothing) => nothing,
                Err(errno) => {
                    super::fail(errno.0);
                    return libc::MAP_FAILED;
                }
            };
            if let Some(nothing) = &nothing {
                fd = nothing.as_raw_fd();
            }
            // SAFETY: the client's own call, passed on, maybe with another file.
            let result = unsafe { libc::syscall(libc::SYS_mmap, at, len, rights, flags, fd, offset) };
            let at = result as *mut c_void;
            let shared = matches!(flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
            if at != libc::MAP_FAILED && shared && ring3_interpose::kind(fd).is_some() {
                super::keeping_errno(|| {
                    put_overlay(fd, &Mapped { at: at.cast(), len, offset, rights });
                    ring3_interpose::mapped(fd, at as u64, len, offset);
                });
            }
            at
        }
    )*};
}

mmaps!(mmap mmap64);
