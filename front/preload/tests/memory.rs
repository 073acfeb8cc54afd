//! What is refused of a guest_memfd and of a dirty ring, which the kernel itself would allow.

mod support;

use ring3_uapi::cap::KVM_CAP_DIRTY_LOG_RING;
use ring3_uapi::ioctl::{KVM_CREATE_GUEST_MEMFD, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_ENABLE_CAP};
use ring3_uapi::x86::KVM_DIRTY_LOG_PAGE_OFFSET;
use ring3_uapi::{GUEST_MEMFD_FLAG_INIT_SHARED, GUEST_MEMFD_FLAG_MMAP, KvmCreateGuestMemfd, KvmEnableCap};
use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::null_mut;
use support::{client, close, in_child, ioctl, open_kvm};

const PAGE: usize = 4096;
const SIZE: usize = 4 * PAGE;
const RW: c_int = libc::PROT_READ | libc::PROT_WRITE;

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn vm() -> c_int {
    ioctl(open_kvm(), KVM_CREATE_VM, 0).expect("a VM")
}

fn guest_memfd(vm: c_int, flags: u64) -> c_int {
    let args = KvmCreateGuestMemfd {
        size: SIZE as u64,
        flags,
        reserved: [0; 6],
    };
    ioctl(vm, KVM_CREATE_GUEST_MEMFD, std::ptr::from_ref(&args) as u64).expect("a guest_memfd")
}

fn map(fd: c_int, flags: c_int, rights: c_int, at: usize) -> Result<*mut u8, i32> {
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
    let mapped = unsafe { libc::mmap(null_mut(), PAGE, rights, flags, fd, at as i64) };
    if mapped == libc::MAP_FAILED {
        Err(errno())
    } else {
        Ok(mapped.cast())
    }
}

fn fallocate(fd: c_int, mode: c_int, at: usize, len: usize) -> Result<(), i32> {
    // SAFETY: the descriptor is the test's.
    match unsafe { libc::fallocate(fd, mode, at as i64, len as i64) } {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

#[test]
fn a_guest_memfd_is_not_read_nor_written() {
    client("a_guest_memfd_is_not_read_nor_written", || {
        let vm = vm();
        let mut bytes = [0u8; 8];
        let to: *mut c_void = bytes.as_mut_ptr().cast();
        for flags in [
            0,
            GUEST_MEMFD_FLAG_MMAP,
            GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
        ] {
            let fd = guest_memfd(vm, flags);
            let parts = libc::iovec {
                iov_base: to,
                iov_len: 8,
            };
            // SAFETY: the buffers are the test's.
            unsafe {
                assert_eq!((libc::read(fd, to, 8), errno()), (-1, libc::EINVAL));
                assert_eq!((libc::pread(fd, to, 8, 0), errno()), (-1, libc::EINVAL));
                assert_eq!((libc::readv(fd, &parts, 1), errno()), (-1, libc::EINVAL));
                assert_eq!((libc::preadv(fd, &parts, 1, 0), errno()), (-1, libc::EINVAL));
                assert_eq!(libc::write(fd, to, 8), -1);
                assert_eq!(libc::pwrite(fd, to, 8, 0), -1);
                assert_eq!(libc::ftruncate(fd, 0), -1);
            }
            close(fd);
            // The number is as good as any again.
            assert_eq!(std::fs::read("/dev/null").expect("it reads"), []);
        }
    });
}

#[test]
fn whole_pages_come_and_go() {
    client("whole_pages_come_and_go", || {
        let fd = guest_memfd(vm(), GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED);
        let (keep, hole) = (libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_PUNCH_HOLE);
        let page = map(fd, libc::MAP_SHARED, RW, PAGE).expect("it may be mapped");
        // SAFETY: the page is mapped, shared.
        let byte = |new| unsafe { page.replace(new) };
        byte(7);
        assert_eq!(fallocate(fd, keep | hole, PAGE + 1, PAGE), Err(libc::EINVAL));
        assert_eq!(fallocate(fd, keep | hole, PAGE, PAGE / 2), Err(libc::EINVAL));
        assert_eq!(fallocate(fd, keep, SIZE, PAGE), Err(libc::EINVAL));
        assert_eq!(fallocate(fd, 0, 0, PAGE), Err(libc::EOPNOTSUPP));
        assert_eq!(byte(8), 7);
        assert_eq!(fallocate(fd, keep, 0, SIZE), Ok(()));
        assert_eq!(
            fallocate(fd, keep | hole, SIZE, PAGE),
            Ok(()),
            "beyond its end nothing is freed"
        );
        assert_eq!(fallocate(fd, keep | hole, PAGE, PAGE), Ok(()));
        assert_eq!(byte(9), 0);
        let advise = |advice| {
            // SAFETY: the page is the test's.
            let result = unsafe { libc::madvise(page.cast(), PAGE, advice) };
            (result, errno())
        };
        assert_eq!(advise(libc::MADV_COLLAPSE), (-1, libc::EINVAL));
        assert_eq!(advise(libc::MADV_DONTNEED).0, 0);
        assert_eq!(byte(0), 9);
    });
}

#[test]
fn a_guest_memfd_is_mapped_as_its_flags_say() {
    client("a_guest_memfd_is_mapped_as_its_flags_say", || {
        let vm = vm();
        let fd = guest_memfd(vm, 0);
        assert_eq!(map(fd, libc::MAP_SHARED, RW, 0), Err(libc::ENODEV));
        let fd = guest_memfd(vm, GUEST_MEMFD_FLAG_MMAP);
        assert_eq!(map(fd, libc::MAP_PRIVATE, RW, 0), Err(libc::EINVAL));
        // Its pages are private: they can be mapped, not reached.
        let page = map(fd, libc::MAP_SHARED, RW, 0).expect("it may be mapped");
        let status = in_child(|| {
            extern "C" fn fault(_: c_int) {
                // SAFETY: it ends the process at once.
                unsafe { libc::_exit(9) }
            }
            // SAFETY: the handler only ends the process, which the access makes it run.
            unsafe {
                libc::signal(libc::SIGBUS, fault as *const () as libc::sighandler_t);
                i32::from(page.read_volatile())
            }
        });
        assert_eq!(status, 9);
    });
}

#[test]
fn a_dirty_ring_is_mapped_shared() {
    client("a_dirty_ring_is_mapped_shared", || {
        let vm = vm();
        let ring = KvmEnableCap {
            cap: KVM_CAP_DIRTY_LOG_RING,
            args: [PAGE as u64, 0, 0, 0],
            ..Default::default()
        };
        assert_eq!(ioctl(vm, KVM_ENABLE_CAP, std::ptr::from_ref(&ring) as u64), Ok(0));
        let vcpu = ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
        let at = KVM_DIRTY_LOG_PAGE_OFFSET * PAGE;
        assert_eq!(
            map(vcpu, libc::MAP_PRIVATE, libc::PROT_READ, at),
            Err(libc::EINVAL)
        );
        let executed = libc::PROT_READ | libc::PROT_EXEC;
        assert_eq!(map(vcpu, libc::MAP_SHARED, executed, at), Err(libc::EINVAL));
        assert!(map(vcpu, libc::MAP_SHARED, RW, at).is_ok());
        assert!(map(vcpu, libc::MAP_PRIVATE, libc::PROT_READ, 0).is_ok());
    });
}
