//! Coalesced I/O: writes to registered zones are gathered in a ring that the client reads at its next exit.
//!
//! There is one ring for each VM, visible in every vCPU's mapping. A vCPU's mapping is a file of its own, so the ring lies in
//! the pages of the VM's first vCPU, and whoever maps another vCPU gets that page in the place of its own ([`Overlay`]).

use super::{Bus, IoBuses, Owner, Range};
use crate::errno::Errno;
use crate::file::Overlay;
use crate::ranks;
use ring3_host::lock::RankedMutex;
use ring3_host::shared::SharedPages;
use ring3_uapi::{KVM_COALESCED_MMIO_MAX, KvmCoalescedMmio, KvmCoalescedMmioRing, KvmCoalescedMmioZone};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

/// A registered zone.
#[derive(Debug)]
pub struct Zone {
    addr: u64,
    size: u32,
    bus: Bus,
}

impl Zone {
    fn holds(&self, addr: u64, len: u64) -> bool {
        let end = self.addr.wrapping_add(u64::from(self.size));
        addr.checked_add(len)
            .is_some_and(|after| addr >= self.addr && after <= end)
    }
}

/// The ring.
#[derive(Debug)]
pub struct Ring {
    page: RankedMutex<Option<(Arc<SharedPages>, usize)>>,
}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            page: RankedMutex::new(ranks::RING, None),
        }
    }
}

const ENTRY: usize = size_of::<KvmCoalescedMmio>();
const LAST: usize = 4;

impl Ring {
    /// Puts the ring at `offset` of `pages`, if it has no place yet.
    pub(crate) fn place(&self, pages: &Arc<SharedPages>, offset: usize) {
        self.page
            .lock()
            .get_or_insert_with(|| (Arc::clone(pages), offset));
    }

    /// What to put over the ring's page in a mapping of `pages`, if the ring lies elsewhere.
    pub(crate) fn overlay(&self, pages: &Arc<SharedPages>) -> Option<Overlay> {
        let place = self.page.lock();
        let (own, offset) = place.as_ref()?;
        (!Arc::ptr_eq(own, pages)).then(|| Overlay {
            offset: *offset,
            pages: Arc::clone(own),
            from: *offset,
        })
    }

    /// Adds a write; false if there is no room, and the client must take it as an exit.
    pub(super) fn push(&self, zone: &Zone, addr: u64, data: &[u8]) -> bool {
        let mut entry = KvmCoalescedMmio {
            phys_addr: addr,
            len: data.len() as u32,
            pio: u32::from(zone.bus == Bus::Pio),
            data: [0; 8],
        };
        let Some(bytes) = entry.data.get_mut(..data.len()) else {
            return false;
        };
        if !zone.holds(addr, data.len() as u64) {
            return false;
        }
        bytes.copy_from_slice(data);
        let page = self.page.lock();
        let Some((pages, at)) = page.as_ref() else {
            return false;
        };
        let (first, last) = (pages.atomic_u32(*at), pages.atomic_u32(at + LAST));
        let insert = last.load(Acquire);
        // The client writes both numbers as it likes.
        let most = KVM_COALESCED_MMIO_MAX as u32;
        if insert >= most || (insert + 1) % most == first.load(Acquire) {
            return false;
        }
        pages.store(
            at + size_of::<KvmCoalescedMmioRing>() + insert as usize * ENTRY,
            &entry,
        );
        last.store((insert + 1) % most, Release);
        true
    }
}

fn zone_of(args: &KvmCoalescedMmioZone) -> Result<Zone, Errno> {
    let bus = match args.pio {
        0 => Bus::Mmio,
        1 => Bus::Pio,
        _ => return Err(Errno::EINVAL),
    };
    Ok(Zone {
        addr: args.addr,
        size: args.size,
        bus,
    })
}

/// KVM_REGISTER_COALESCED_MMIO.
pub(crate) fn register(buses: &IoBuses, args: &KvmCoalescedMmioZone) -> Result<(), Errno> {
    let zone = zone_of(args)?;
    let (bus, addr, len) = (zone.bus, zone.addr, u64::from(zone.size));
    buses.add(
        bus,
        Range {
            addr,
            len,
            owner: Owner::Zone(Arc::new(zone)),
        },
    )
}

/// KVM_UNREGISTER_COALESCED_MMIO: every zone that holds the one given goes.
pub(crate) fn unregister(buses: &IoBuses, args: &KvmCoalescedMmioZone) -> Result<(), Errno> {
    let wanted = zone_of(args)?;
    let holds = |range: &mut Range| match &range.owner {
        Owner::Zone(zone) => zone.holds(wanted.addr, u64::from(wanted.size)),
        _ => false,
    };
    drop(buses.change(wanted.bus, |ranges| ranges.take(holds)));
    Ok(())
}
