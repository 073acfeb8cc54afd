//! The I/O buses: what answers guest accesses to ports and to guest-physical addresses without the client.
//!
//! In-kernel devices ([`IoDevice`]), the client's eventfds ([`ioeventfd`]) and zones whose writes are gathered
//! ([`coalesced`]) are ranges on one of two buses. An access goes to the ranges that match it, in order of address, until one
//! takes it; if none does it is the client's.
//!
//! Accesses hold the bus for reading while the range's owner works, so after a range was removed its owner is not called
//! any more. Owners must therefore not add or remove ranges from within an access. A change looks and acts under one hold of the
//! bus, so that of two clients' threads that ask for the same only one gets it.

pub mod coalesced;
pub mod ioeventfd;

use crate::errno::Errno;
use coalesced::Zone;
use ioeventfd::IoEventFd;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

/// A device on a bus.
pub trait IoDevice: Send + Sync {
    /// Answers a read that overlaps the device's range; false leaves it to others, and in the end to the client.
    fn read(&self, addr: u64, data: &mut [u8]) -> bool;
    /// Takes a write that overlaps the device's range; false as for `read`.
    fn write(&self, addr: u64, data: &[u8]) -> bool;
}

/// Which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bus {
    /// Ports.
    Pio,
    /// Guest-physical addresses.
    Mmio,
    /// Where only KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY puts anything; what reaches it is for an architecture to say.
    VirtioCcw,
}

/// Linux's limit of ranges that are not ioeventfds.
const MOST_DEVICES: usize = 1000;

#[derive(Clone)]
enum Owner {
    Device(Arc<dyn IoDevice>),
    Event(Arc<IoEventFd>),
    Zone(Arc<Zone>),
}

impl Owner {
    fn is(&self, other: &Owner) -> bool {
        match (self, other) {
            (Owner::Device(a), Owner::Device(b)) => Arc::ptr_eq(a, b),
            (Owner::Event(a), Owner::Event(b)) => Arc::ptr_eq(a, b),
            (Owner::Zone(a), Owner::Zone(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

#[derive(Clone)]
struct Range {
    addr: u64,
    /// Zero: accesses of any length that start exactly at `addr`.
    len: u64,
    owner: Owner,
}

impl Range {
    fn matches(&self, addr: u64, len: u64) -> bool {
        if self.len == 0 {
            return addr == self.addr;
        }
        // Linux wants the access inside the range, not only overlapping it.
        addr >= self.addr && addr.saturating_add(len) <= self.addr.saturating_add(self.len)
    }
}

#[derive(Default)]
struct Ranges {
    /// By address.
    list: Vec<Range>,
    /// The longest range, to know how far back one that matches may start.
    longest: u64,
}

impl Ranges {
    fn matching(&self, addr: u64, len: u64) -> impl Iterator<Item = &Range> {
        let first = self
            .list
            .partition_point(|range| range.addr < addr.saturating_sub(self.longest));
        let here = self.list[first..]
            .iter()
            .take_while(move |range| range.addr <= addr);
        here.filter(move |range| range.matches(addr, len))
    }

    fn add(&mut self, range: Range) -> Result<(), Errno> {
        let is_device = |range: &&Range| !matches!(range.owner, Owner::Event(_));
        if self.list.iter().filter(is_device).count() >= MOST_DEVICES {
            return Err(Errno::ENOSPC);
        }
        self.list.push(range);
        self.changed();
        Ok(())
    }

    fn take(&mut self, which: impl FnMut(&mut Range) -> bool) -> Vec<Range> {
        let taken = self.list.extract_if(.., which).collect();
        self.changed();
        taken
    }

    fn events(&self) -> impl Iterator<Item = &IoEventFd> {
        self.list.iter().filter_map(|range| match &range.owner {
            Owner::Event(event) => Some(&**event),
            Owner::Device(_) | Owner::Zone(_) => None,
        })
    }

    fn changed(&mut self) {
        self.list.sort_by_key(|range| range.addr);
        self.longest = self.list.iter().map(|range| range.len).max().unwrap_or(0);
    }
}

/// A VM's buses.
#[derive(Default)]
pub struct IoBuses {
    pio: RwLock<Ranges>,
    mmio: RwLock<Ranges>,
    virtio_ccw: RwLock<Ranges>,
    ring: coalesced::Ring,
}

impl IoBuses {
    fn bus(&self, bus: Bus) -> &RwLock<Ranges> {
        match bus {
            Bus::Pio => &self.pio,
            Bus::Mmio => &self.mmio,
            Bus::VirtioCcw => &self.virtio_ccw,
        }
    }

    fn ranges(&self, bus: Bus) -> RwLockReadGuard<'_, Ranges> {
        self.bus(bus).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where coalesced writes go.
    pub fn ring(&self) -> &coalesced::Ring {
        &self.ring
    }

    /// A guest's read. False if the client must answer.
    pub fn read(&self, bus: Bus, addr: u64, data: &mut [u8]) -> bool {
        let ranges = self.ranges(bus);
        ranges
            .matching(addr, data.len() as u64)
            .any(|range| match &range.owner {
                Owner::Device(device) => device.read(addr, data),
                Owner::Event(_) | Owner::Zone(_) => false,
            })
    }

    /// A guest's write. False if the client must take it.
    pub fn write(&self, bus: Bus, addr: u64, data: &[u8]) -> bool {
        let ranges = self.ranges(bus);
        ranges
            .matching(addr, data.len() as u64)
            .any(|range| match &range.owner {
                Owner::Device(device) => device.write(addr, data),
                Owner::Event(event) => event.write(data),
                Owner::Zone(zone) => self.ring.push(zone, addr, data),
            })
    }

    /// Puts a device on a bus: from `addr`, `len` bytes or ports.
    pub fn add_device(&self, bus: Bus, addr: u64, len: u64, device: Arc<dyn IoDevice>) -> Result<(), Errno> {
        self.add(
            bus,
            Range {
                addr,
                len,
                owner: Owner::Device(device),
            },
        )
    }

    /// Takes all ranges of a device off a bus.
    pub fn remove_device(&self, bus: Bus, device: &Arc<dyn IoDevice>) {
        self.remove(bus, &Owner::Device(Arc::clone(device)));
    }

    fn add(&self, bus: Bus, range: Range) -> Result<(), Errno> {
        self.change(bus, |ranges| ranges.add(range))
    }

    fn remove(&self, bus: Bus, owner: &Owner) {
        drop(self.change(bus, |ranges| ranges.take(|range| range.owner.is(owner))));
    }

    /// Changes a bus in one step. Ranges taken out must be returned, not dropped: owners close descriptors as they go.
    fn change<R>(&self, bus: Bus, change: impl FnOnce(&mut Ranges) -> R) -> R {
        let mut ranges = self.bus(bus).write().unwrap_or_else(PoisonError::into_inner);
        change(&mut ranges)
    }

    /// Forgets everything: devices may hold what holds us.
    pub(crate) fn clear(&self) {
        for bus in [Bus::Pio, Bus::Mmio, Bus::VirtioCcw] {
            drop(self.change(bus, std::mem::take));
        }
    }
}
