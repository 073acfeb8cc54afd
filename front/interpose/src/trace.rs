//! The process's tracer, if `ring3 trace` runs it. Without one, asking for it costs one load.

use ring3_host::process;
use ring3_host::signal::Shield;
use ring3_kvm::{Errno, File, Files};
use ring3_trace::{Event, On, Served, Tracer, options};
use std::os::fd::RawFd;
use std::sync::{Arc, OnceLock};

/// A tracer, and in a forked child the one in its place.
struct Slot {
    tracer: Tracer,
    next: OnceLock<Box<Slot>>,
}

static SLOT: OnceLock<Slot> = OnceLock::new();

impl Slot {
    fn new(tracer: Tracer) -> Slot {
        Slot {
            tracer,
            next: OnceLock::new(),
        }
    }

    #[cold]
    fn newest(&self) -> &Slot {
        let mut slot = self;
        while let Some(next) = slot.next.get() {
            slot = next;
        }
        slot
    }
}

/// Starts tracing, once, if it is wanted.
pub(crate) fn start() {
    if SLOT.get().is_none()
        && let Some(wanted) = options::wanted()
    {
        SLOT.get_or_init(|| Slot::new(Tracer::new(wanted)));
    }
}

/// The tracer in force.
#[inline]
pub(crate) fn tracer() -> Option<&'static Tracer> {
    SLOT.get().map(|slot| &slot.newest().tracer)
}

/// In a forked child: what the parent did is the parent's to tell.
pub(crate) fn forked() {
    if let Some(slot) = SLOT.get().map(Slot::newest) {
        // If there is one already, it is this child's.
        let _ = slot.next.set(Box::new(Slot::new(slot.tracer.forked())));
    }
}

fn on(fd: RawFd, file: &dyn File) -> On {
    On {
        fd,
        kind: file.kind(),
        vcpu: file.vcpu().map(|vcpu| vcpu.id),
    }
}

/// An ioctl, made and traced.
#[cold]
pub(crate) fn ioctl(
    tracer: &Tracer,
    (files, fd): (&Files, RawFd),
    file: &Arc<dyn File>,
    (request, arg): (u32, u64),
) -> Result<i64, Errno> {
    let begun = tracer.begin(on(fd, &**file), request, arg);
    let result = files.ioctl(file, request, arg);
    let served = if ring3_x86_kvm::ioctls::serves(file.kind(), request) {
        Served::Yes
    } else {
        Served::No
    };
    tracer.end(begun, (result, served), file.vcpu().map(|vcpu| &**vcpu.pages));
    result
}

/// Something else happens to a descriptor that is ours.
#[inline]
pub(crate) fn event(files: &Files, fd: RawFd, event: Event) {
    if let Some(tracer) = tracer()
        && let Some(file) = files.get(fd)
    {
        tracer.event(on(fd, &*file), event);
    }
}

/// Whether this process is traced.
pub fn is_traced() -> bool {
    SLOT.get().is_some()
}

/// The process ends: its summary is due. Does nothing in a child that has not made a request of its own.
pub fn finish() {
    if let Some(tracer) = tracer()
        && !process::is_forked_child()
        && !process::is_another()
    {
        let _work = Shield::enter();
        tracer.finish();
    }
}
