//! KVM_IOEVENTFD: a guest write signals an eventfd of the client's and goes no further.

use super::{Bus, IoBuses, Owner, Range};
use crate::errno::Errno;
use crate::eventfd::EventFd;
use ring3_uapi::{
    KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IOEVENTFD_FLAG_PIO,
    KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, KVM_IOEVENTFD_VALID_FLAG_MASK, KvmIoeventfd,
};
use std::sync::Arc;

/// An eventfd on a bus.
#[derive(Debug)]
pub struct IoEventFd {
    bus: Bus,
    addr: u64,
    /// Zero: any length.
    len: u32,
    /// The value it wants, or any.
    value: Option<u64>,
    event: EventFd,
}

impl IoEventFd {
    /// A write at its address; false if it wants another value or length.
    pub(super) fn write(&self, data: &[u8]) -> bool {
        let wanted = self.len == 0 || (data.len() == self.len as usize && self.wants(data));
        if wanted {
            self.event.signal();
        }
        wanted
    }

    fn wants(&self, data: &[u8]) -> bool {
        let mut bytes = [0; 8];
        let Some(low) = bytes.get_mut(..data.len()) else {
            return false;
        };
        low.copy_from_slice(data);
        self.value.is_none_or(|value| value == u64::from_le_bytes(bytes))
    }

    fn collides(&self, other: &IoEventFd) -> bool {
        let same_value = self.value.is_none() || other.value.is_none() || self.value == other.value;
        self.bus == other.bus
            && self.addr == other.addr
            && (self.len == 0 || other.len == 0 || (self.len == other.len && same_value))
    }
}

/// KVM_IOEVENTFD.
pub(crate) fn ioctl(buses: &IoBuses, args: &KvmIoeventfd) -> Result<(), Errno> {
    let deassign = args.flags & KVM_IOEVENTFD_FLAG_DEASSIGN != 0;
    if !deassign {
        check(args)?;
    }
    let wanted = IoEventFd {
        bus: bus_of(args.flags),
        addr: args.addr,
        len: args.len,
        value: (args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH != 0).then_some(args.datamatch),
        event: EventFd::of_client(args.fd)?,
    };
    if deassign {
        remove(buses, &wanted)
    } else {
        add(buses, wanted)
    }
}

fn bus_of(flags: u32) -> Bus {
    if flags & KVM_IOEVENTFD_FLAG_PIO != 0 {
        Bus::Pio
    } else if flags & KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY != 0 {
        Bus::VirtioCcw
    } else {
        Bus::Mmio
    }
}

fn check(args: &KvmIoeventfd) -> Result<(), Errno> {
    let fine = matches!(args.len, 0 | 1 | 2 | 4 | 8)
        && args.addr.checked_add(u64::from(args.len)).is_some()
        && args.flags & !KVM_IOEVENTFD_VALID_FLAG_MASK == 0
        && (args.len != 0 || args.flags & KVM_IOEVENTFD_FLAG_DATAMATCH == 0);
    if fine { Ok(()) } else { Err(Errno::EINVAL) }
}

fn add(buses: &IoBuses, event: IoEventFd) -> Result<(), Errno> {
    let (bus, addr, len) = (event.bus, event.addr, u64::from(event.len));
    let event = Arc::new(event);
    let owner = Owner::Event(Arc::clone(&event));
    buses.change(bus, |ranges| {
        if ranges.events().any(|other| other.collides(&event)) {
            return Err(Errno::EEXIST);
        }
        ranges.add(Range { addr, len, owner })
    })
}

fn remove(buses: &IoBuses, wanted: &IoEventFd) -> Result<(), Errno> {
    let same = |range: &mut Range| match &range.owner {
        Owner::Event(e) => {
            e.addr == wanted.addr
                && e.len == wanted.len
                && e.value == wanted.value
                && e.event.is(&wanted.event)
        }
        _ => false,
    };
    let gone = buses.change(wanted.bus, |ranges| ranges.take(same));
    if gone.is_empty() {
        Err(Errno::ENOENT)
    } else {
        Ok(())
    }
}
