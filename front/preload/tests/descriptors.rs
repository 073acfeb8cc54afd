//! Which descriptors are ours, and for how long.

mod support;

use ring3_uapi::ioctl::{KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_RUN};
use std::ffi::{CStr, c_int};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use support::{client, close, in_child, ioctl, open, open_kvm, preloaded};

#[test]
fn the_device_answers() {
    client("the_device_answers", || {
        let kvm = open_kvm();
        assert_eq!(ioctl(kvm, KVM_GET_API_VERSION, 0), Ok(12));
        assert_eq!(ioctl(kvm, KVM_GET_API_VERSION, 1), Err(libc::EINVAL));
        assert_eq!(ioctl(kvm, KVM_CREATE_VCPU, 0), Err(libc::EINVAL));
        assert!(ioctl(kvm, KVM_CHECK_EXTENSION, 3) > Ok(0));
        close(kvm);
        assert_eq!(ioctl(kvm, KVM_GET_API_VERSION, 0), Err(libc::EBADF));
    });
}

#[test]
fn open_keeps_its_flags() {
    client("open_keeps_its_flags", || {
        for (flag, kept) in [(0, 0), (libc::O_CLOEXEC, libc::FD_CLOEXEC)] {
            let kvm = open("/dev/kvm", libc::O_RDWR | flag).expect("it opens");
            // SAFETY: a plain question.
            assert_eq!(unsafe { libc::fcntl(kvm, libc::F_GETFD) }, kept);
            close(kvm);
        }
        assert_eq!(open("/dev/kvm", libc::O_DIRECTORY), Err(libc::ENOTDIR));
        assert_eq!(open("/dev/kvm", libc::O_CREAT | libc::O_EXCL), Err(libc::EEXIST));
        assert_eq!(open("/dev/kvm-not", libc::O_RDWR), Err(libc::ENOENT));
        let dev = open("/dev", libc::O_DIRECTORY).expect("there is a /dev");
        // SAFETY: the path is a string.
        let kvm = unsafe { libc::openat(dev, c"kvm".as_ptr(), libc::O_RDWR) };
        assert_eq!(ioctl(kvm, KVM_GET_API_VERSION, 0), Ok(12));
    });
}

#[test]
fn the_modules_parameters_can_be_read() {
    client("the_modules_parameters_can_be_read", || {
        let read = |name: &str| std::fs::read_to_string(format!("/sys/module/kvm/parameters/{name}"));
        assert_eq!(read("tdp_mmu").expect("an answer"), "N\n");
        assert_eq!(read("halt_poll_ns").expect("an answer"), "200000\n");
        assert!(read("none_such").is_err());
    });
}

#[test]
fn the_device_looks_like_one() {
    client("the_device_looks_like_one", || {
        let path: &CStr = c"/dev/kvm";
        // SAFETY: the path is a string.
        let access = |mode| unsafe { libc::access(path.as_ptr(), mode) };
        assert_eq!(
            (
                access(libc::F_OK),
                access(libc::R_OK | libc::W_OK),
                access(libc::X_OK)
            ),
            (0, 0, -1)
        );
        let by_path = std::fs::metadata("/dev/kvm").expect("it is there");
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .expect("it opens");
        for metadata in [by_path, file.metadata().expect("it is open")] {
            assert!(metadata.file_type().is_char_device());
            assert_eq!(metadata.rdev(), libc::makedev(10, 232));
        }
        // SAFETY: zero is a value of a stat, which the call fills.
        let stat = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            assert_eq!(libc::stat(path.as_ptr(), &mut stat), 0);
            stat
        };
        assert_eq!(
            (stat.st_mode & libc::S_IFMT, stat.st_rdev),
            (libc::S_IFCHR, libc::makedev(10, 232))
        );
    });
}

#[test]
fn duplicates_keep_the_object() {
    client("duplicates_keep_the_object", || {
        let kvm = open_kvm();
        // SAFETY: plain calls on descriptors of our own.
        let (second, third, fourth) = unsafe {
            (
                libc::dup(kvm),
                libc::fcntl(kvm, libc::F_DUPFD_CLOEXEC, 100),
                libc::dup2(kvm, 200),
            )
        };
        assert!(third >= 100 && fourth == 200);
        close(kvm);
        for fd in [second, third, fourth] {
            assert_eq!(ioctl(fd, KVM_GET_API_VERSION, 0), Ok(12));
        }
        // A VM is held by its vCPU, as long as that is open.
        let vm = ioctl(second, KVM_CREATE_VM, 0).expect("a VM");
        let vcpu = ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
        // Something else takes its number.
        let other = open("/dev/null", libc::O_RDWR).expect("there is a /dev/null");
        // SAFETY: as above.
        assert_eq!(unsafe { libc::dup2(other, vm) }, vm);
        assert_eq!(ioctl(vm, KVM_CREATE_VCPU, 1), Err(libc::ENOTTY));
        let mut regs = [0u64; 18];
        let get_regs = ring3_uapi::ioctl::KVM_GET_REGS;
        assert_eq!(ioctl(vcpu, get_regs, regs.as_mut_ptr() as u64), Ok(0));
        assert_eq!(regs[16], 0xfff0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::close_range(100, 300, 0) }, 0);
        assert_eq!(ioctl(third, KVM_GET_API_VERSION, 0), Err(libc::EBADF));
        assert_eq!(ioctl(second, KVM_GET_API_VERSION, 0), Ok(12));
    });
}

#[test]
fn a_child_has_the_device_and_no_vm() {
    client("a_child_has_the_device_and_no_vm", || {
        let kvm = open_kvm();
        let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
        let vcpu = ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
        let said = in_child(|| {
            if ioctl(vm, KVM_CREATE_VCPU, 1) != Err(libc::EIO) || ioctl(vcpu, KVM_RUN, 0) != Err(libc::EIO) {
                return 1;
            }
            if ioctl(kvm, KVM_GET_API_VERSION, 0) != Ok(12) || ioctl(kvm, KVM_CHECK_EXTENSION, 3) <= Ok(0) {
                return 2;
            }
            let Ok(own) = ioctl(kvm, KVM_CREATE_VM, 0) else {
                return 3;
            };
            if ioctl(own, KVM_CREATE_VCPU, 0).is_err() || ioctl(open_kvm(), KVM_CREATE_VM, 0).is_err() {
                return 4;
            }
            // What was the parent's stays so, and the child's is not its child's.
            if ioctl(vm, KVM_CREATE_VCPU, 1) != Err(libc::EIO) {
                return 5;
            }
            in_child(|| {
                let fine = ioctl(own, KVM_CREATE_VCPU, 1) == Err(libc::EIO)
                    && ioctl(vm, KVM_CREATE_VCPU, 1) == Err(libc::EIO)
                    && ioctl(kvm, KVM_CREATE_VM, 0).is_ok();
                if fine { 0 } else { 6 }
            })
        });
        assert_eq!(said, 0);
        assert!(ioctl(vm, KVM_CREATE_VCPU, 1).is_ok());
    });
}

#[test]
fn a_child_closes_for_itself() {
    client("a_child_closes_for_itself", || {
        let kvm = open_kvm();
        let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
        let said = in_child(|| {
            close(vm);
            if ioctl(vm, KVM_CREATE_VCPU, 0) != Err(libc::EBADF) {
                return 1;
            }
            // The number is another file's now.
            if open("/dev/null", libc::O_RDWR) != Ok(vm) || ioctl(vm, KVM_CREATE_VCPU, 0) != Err(libc::ENOTTY)
            {
                return 2;
            }
            close(kvm);
            if open_kvm() != kvm || ioctl(kvm, KVM_CREATE_VM, 0).is_err() {
                return 3;
            }
            0
        });
        assert_eq!(said, 0);
        assert_eq!(ioctl(kvm, KVM_GET_API_VERSION, 0), Ok(12));
        assert!(ioctl(vm, KVM_CREATE_VCPU, 0).is_ok());
    });
}

/// A fork may come while any thread is in the middle of anything.
#[test]
fn children_of_busy_processes_do_not_hang() {
    client("children_of_busy_processes_do_not_hang", || {
        let kvm = open_kvm();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let busy = || {
                while !done.load(Relaxed) {
                    let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
                    // SAFETY: a plain call on a descriptor of our own.
                    close(unsafe { libc::dup(vm) });
                    close(vm);
                }
            };
            scope.spawn(busy);
            scope.spawn(busy);
            for _ in 0..100 {
                let said = in_child(|| i32::from(ioctl(kvm, KVM_GET_API_VERSION, 0) != Ok(12)));
                assert_eq!(said, 0);
            }
            done.store(true, Relaxed);
        });
    });
}

#[test]
fn the_coalesced_ring_is_in_every_vcpus_mapping() {
    client("the_coalesced_ring_is_in_every_vcpus_mapping", || {
        const PAGE: usize = 4096;
        let kvm = open_kvm();
        let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
        let [first, second] = [0, 1].map(|id| ioctl(vm, KVM_CREATE_VCPU, id).expect("a vCPU"));
        let (both, read) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ);
        let map = |fd, rights, pages: usize, offset: usize| {
            let (len, flags) = (pages * PAGE, libc::MAP_SHARED);
            // SAFETY: a new mapping at an address of the kernel's choice disturbs no other.
            let at = unsafe { libc::mmap(null_mut(), len, rights, flags, fd, (offset * PAGE) as i64) };
            assert_ne!(at, libc::MAP_FAILED);
            at.cast::<u32>()
        };
        let (a, b) = (map(first, both, 3, 0), map(second, both, 3, 0));
        let (only_ring, no_ring) = (map(second, read, 1, 2), map(second, both, 2, 0));
        let word = |page: usize| page * PAGE / 4;
        // SAFETY: all of them are mapped, and by nobody else.
        unsafe {
            b.add(word(2)).write_volatile(7);
            b.add(word(1)).write_volatile(8);
            assert_eq!(a.add(word(2)).read_volatile(), 7);
            assert_eq!(only_ring.read_volatile(), 7);
            assert_eq!(no_ring.add(word(1)).read_volatile(), 8);
            // The run pages are each one's own.
            b.write_volatile(9);
            assert_eq!((a.read_volatile(), no_ring.read_volatile()), (0, 9));
        }
    });
}

#[test]
fn what_changes_hands_unseen_is_noticed() {
    client("what_changes_hands_unseen_is_noticed", || {
        let kvm = open_kvm();
        let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
        let vcpu = ioctl(vm, KVM_CREATE_VCPU, 0).expect("a vCPU");
        // SAFETY: plain calls on descriptors of our own.
        let copy = unsafe { libc::syscall(libc::SYS_dup, vm) } as c_int;
        assert!(ioctl(copy, KVM_CREATE_VCPU, 1).is_ok());
        // The vCPU's number becomes another file's, which knows its own requests and no others.
        let pipe = std::io::pipe().expect("a pipe");
        // SAFETY: as above.
        unsafe {
            assert_eq!(
                libc::syscall(libc::SYS_dup2, pipe.0.as_raw_fd(), vcpu),
                vcpu.into()
            );
        }
        let mut waiting: c_int = -1;
        let fionread = libc::FIONREAD as u32;
        assert_eq!(
            ioctl(vcpu, fionread, std::ptr::from_mut(&mut waiting) as u64),
            Ok(0)
        );
        assert_eq!(waiting, 0);
        assert_eq!(ioctl(vcpu, KVM_RUN, 0), Err(libc::ENOTTY));
        assert_eq!(ioctl(pipe.0.as_raw_fd(), KVM_RUN, 0), Err(libc::ENOTTY));
        close(vm);
        assert_eq!(ioctl(copy, KVM_CREATE_VCPU, 1), Err(libc::EEXIST));
    });
}

#[test]
fn a_program_executed_inherits_no_object() {
    client("a_program_executed_inherits_no_object", || {
        // The child is a shell, preloaded as well: its copies are memfds of no use, its own device works.
        let kvm = open("/dev/kvm", libc::O_RDWR).expect("it opens");
        let shell = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("test -e /proc/self/fd/{kvm}"))
            .status();
        assert!(shell.expect("there is a shell").success());
        assert_eq!(ioctl(kvm, KVM_GET_API_VERSION, 0), Ok(12));
    });
}

#[test]
fn who_never_opens_it_notices_nothing() {
    let script = "grep -E 'Threads|SigCgt|SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd | wc -l; \
                  test -r /etc/passwd && echo ok; exit 7";
    let plain = std::process::Command::new("sh")
        .args(["-c", script])
        .output()
        .expect("there is a shell");
    let ours = preloaded("sh")
        .args(["-c", script])
        .output()
        .expect("there is a shell");
    assert_eq!(
        (ours.status, &ours.stdout, &ours.stderr),
        (plain.status, &plain.stdout, &plain.stderr)
    );
    assert!(String::from_utf8_lossy(&ours.stdout).contains("Threads:\t1\n"));
}
