//! _exit: a trace has a summary at the end of the process, also where `exit` is not called.

use std::ffi::c_int;

macro_rules! exits {
    ($($name:ident)*) => {$(
        /// As the C library's.
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(status: c_int) -> ! {
            ring3_interpose::trace::finish();
            loop {
                // SAFETY: the client's own wish; it does not return.
                unsafe { libc::syscall(libc::SYS_exit_group, status) };
            }
        }
    )*};
}

exits!(_exit _Exit);
