//! What goes on, on stderr, if `RING3_LOG` says what of it is wanted (`warn`, `ring3_interpose=trace`, ...).

use ring3_kvm::Errno;
use std::os::fd::RawFd;
use std::sync::Once;

/// Starts logging, once, if it is wanted.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(wanted) = std::env::var("RING3_LOG") else {
            return;
        };
        let filter = tracing_subscriber::EnvFilter::new(wanted);
        // Fails only if somebody else listens already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    });
}

/// One call of the client's.
#[inline]
pub(crate) fn ioctl(fd: RawFd, request: u32, arg: u64, result: &Result<i64, Errno>) {
    if tracing::enabled!(tracing::Level::TRACE) {
        log_ioctl(fd, request, arg, result);
    }
}

#[cold]
fn log_ioctl(fd: RawFd, request: u32, arg: u64, result: &Result<i64, Errno>) {
    let name = ring3_uapi::ioctl::lookup_any(request).map_or("unknown", |row| row.name);
    tracing::trace!("ioctl({fd}, {name} {request:#x}, {arg:#x}) = {result:?}");
}
