//! What the host's processor and kernel offer programs; asking changes nothing.

use std::io;

/// Whether programs may use the instructions for the bases of FS and GS.
pub fn fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: usize = 2;
    rustix::param::linux_hwcap().1 & HWCAP2_FSGSBASE != 0
}

/// Whether a program may have CPUID fault (`arch_prctl(ARCH_SET_CPUID)`).
pub fn cpuid_faulting() -> bool {
    const ARCH_SET_CPUID: usize = 0x1012;
    const ALLOWED: usize = 1;
    // SAFETY: CPUID is allowed already; the call only says whether it could be otherwise.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, ALLOWED) == 0 }
}

/// Whether there is Syscall User Dispatch.
pub fn syscall_user_dispatch() -> bool {
    const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
    const OFF: libc::c_ulong = 0;
    // SAFETY: a thread that has not switched it on switches it off, which changes nothing. Those who ask have not.
    unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, OFF, 0, 0, 0) == 0 }
}

/// Whether this user may have a userfaultfd for faults of programs.
pub fn userfaultfd() -> io::Result<()> {
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: makes a descriptor, which is closed right here.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | UFFD_USER_MODE_ONLY) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    drop(crate::fd::adopt_raw(fd as i32));
    Ok(())
}
