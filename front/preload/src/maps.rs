//! mmap: a vCPU's mapping shows a page that is the VM's.

use ring3_host::shared::show_page;
use std::ffi::{c_int, c_void};

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
            // SAFETY: the client's own call, passed on as it is.
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
