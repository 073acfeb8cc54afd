//! Whether a path that the client names is `/dev/kvm`, or a file that tells of KVM's module.
//!
//! On the way to the device `.`, `..` and repeated slashes are seen through, and so are paths relative to a directory. Not
//! supported: symbolic links to it.

use ring3_host::fd::with_raw;
use rustix::fs::CWD;
use std::os::fd::RawFd;

/// The path that clients open.
const DEVICE: &[u8] = b"/dev/kvm";
/// The name that every path to it ends with.
const NAME: &[u8] = b"kvm";

/// The number that means the working directory (`AT_FDCWD`).
pub const WORKING_DIRECTORY: RawFd = -100;

/// Whether `path`, relative to the directory `dir`, is the device. Nearly all paths are told by their last letters.
#[inline]
pub fn is_device(dir: RawFd, path: &[u8]) -> bool {
    path.ends_with(NAME) && (path == DEVICE || leads_to_device(dir, path))
}

#[cold]
fn leads_to_device(dir: RawFd, path: &[u8]) -> bool {
    if path.starts_with(b"/") {
        return normal(path) == DEVICE;
    }
    let link = if dir == WORKING_DIRECTORY {
        rustix::fs::readlinkat(CWD, "/proc/self/cwd", Vec::new())
    } else {
        let valid = with_raw(dir, |dir| rustix::io::fcntl_getfd(dir));
        match valid {
            Ok(Ok(_)) => rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{dir}"), Vec::new()),
            _ => return false,
        }
    };
    link.is_ok_and(|base| {
        let mut whole = base.into_bytes();
        whole.push(b'/');
        whole.extend_from_slice(path);
        normal(&whole) == DEVICE
    })
}

/// The module and the parameter whose value is in the file that `path` names, if it is one of those that Linux makes for its
/// modules, in the spelling that all clients use: `/sys/module/kvm/parameters/tdp_mmu`.
pub fn module_parameter(path: &[u8]) -> Option<(&str, &str)> {
    let path = str::from_utf8(path.strip_prefix(b"/sys/module/")?).ok()?;
    let (module, parameter) = path.split_once("/parameters/")?;
    module.starts_with("kvm").then_some((module, parameter))
}

/// An absolute path without `.`, `..` and empty names, as far as can be told without following links.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    names.iter().flat_map(|name| [b"/", *name].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn ways_to_the_device() {
        for path in ["/dev/kvm", "//dev/./kvm", "/proc/../dev/kvm", "/../dev//kvm"] {
            assert!(is_device(WORKING_DIRECTORY, path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "kvm",
            "/kvm",
            "/dev/kvm/",
            "/dev/xkvm",
            "/dev/kvm2",
            "dev/kvm",
            "/dev/kvm/kvm",
        ] {
            assert!(!is_device(WORKING_DIRECTORY, path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn ways_to_parameters() {
        let named = |path: &'static str| module_parameter(path.as_bytes());
        assert_eq!(
            named("/sys/module/kvm/parameters/nested"),
            Some(("kvm", "nested"))
        );
        assert_eq!(named("/sys/module/loop/parameters/max_loop"), None);
        assert_eq!(named("/sys/module/kvm/refcnt"), None);
        assert_eq!(named("/sys/module/"), None);
    }

    #[test]
    fn relative_to_a_directory() {
        let dev = std::fs::File::open("/dev").expect("there is a /dev");
        assert!(is_device(dev.as_raw_fd(), b"kvm"));
        assert!(is_device(dev.as_raw_fd(), b"../dev/kvm"));
        assert!(is_device(-1, b"/dev/kvm"));
        assert!(!is_device(-1, b"kvm"));
        let root = std::fs::File::open("/").expect("there is a root");
        assert!(!is_device(root.as_raw_fd(), b"kvm"));
        assert!(is_device(root.as_raw_fd(), b"dev/kvm"));
    }
}
