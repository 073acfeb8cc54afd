//! Which descriptors are ours, and for how long.

mod support;

use ring3_uapi::ioctl::{KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_GET_API_VERSION};
use std::ffi::CStr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
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
fn a_child_has_its_own() {
    client("a_child_has_its_own", || {
        let kvm = open_kvm();
        let vm = ioctl(kvm, KVM_CREATE_VM, 0).expect("a VM");
        let said = in_child(|| {
            if ioctl(vm, KVM_CREATE_VCPU, 0) != Err(libc::EIO)
                || ioctl(kvm, KVM_GET_API_VERSION, 0) != Err(libc::EIO)
            {
                return 1;
            }
            close(vm);
            let own = open_kvm();
            if ioctl(own, KVM_GET_API_VERSION, 0) != Ok(12) || ioctl(own, KVM_CREATE_VM, 0).is_err() {
                return 2;
            }
            0
        });
        assert_eq!(said, 0);
        assert!(ioctl(vm, KVM_CREATE_VCPU, 0).is_ok());
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
