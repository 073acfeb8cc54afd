//! What a local APIC shows without its lock: to its own vCPU, which looks at every entry into the guest, and to whoever
//! routes a message.
//!
//! Published whenever the lock is released ([`super::target::Locked`]), so it is behind the APIC by no more than the time
//! its holder works. A change from another thread is followed by a kick, after which the vCPU sees it.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::lapic::{ApicMode, Lapic, LapicView};

const PENDING: u64 = 1 << 8;
const EXTINT: u64 = 1 << 9;
const MAY_END_UNSEEN: u64 = 1 << 10;
const CR8_SHIFT: u32 = 12;

const SOFTWARE_ENABLED: u64 = 1 << 44;
const MODE_SHIFT: u32 = 45;

/// No address is in a window that is not there.
const NO_WINDOW: u64 = u64::MAX;
const WINDOW: u64 = 0x1000;

#[derive(Debug)]
pub struct Shown {
    /// The pending vector and whether there is one, whether the 8259's line gets through, whether the interrupt in service
    /// may end unseen, CR8.
    events: AtomicU64,
    /// IA32_APIC_BASE.
    base: AtomicU64,
    /// Where the MMIO window is.
    window: AtomicU64,
    /// All of [`LapicView`] but the x2APIC ID, which never changes.
    view: AtomicU64,
    id: u32,
}

impl Shown {
    pub fn new(lapic: &Lapic) -> Shown {
        let shown = Shown {
            events: AtomicU64::new(0),
            base: AtomicU64::new(0),
            window: AtomicU64::new(NO_WINDOW),
            view: AtomicU64::new(0),
            id: lapic.view().x2apic_id,
        };
        shown.publish(lapic);
        shown
    }

    /// Follows the APIC. By the holder of its lock.
    pub fn publish(&self, lapic: &Lapic) {
        let pending = lapic
            .highest_pending()
            .map_or(0, |vector| PENDING | u64::from(vector));
        let extint = if lapic.accepts_extint() { EXTINT } else { 0 };
        let unseen = if lapic.may_end_unseen() { MAY_END_UNSEEN } else { 0 };
        store(&self.events, pending | extint | unseen | lapic.cr8() << CR8_SHIFT);
        store(&self.base, lapic.base().bits());
        store(&self.window, lapic.window().unwrap_or(NO_WINDOW));
        store(&self.view, pack(&lapic.view()));
    }

    /// The vector that would be delivered now.
    pub fn pending(&self) -> Option<u8> {
        let events = self.events.load(Acquire);
        (events & PENDING != 0).then_some(events as u8)
    }

    /// Whether the 8259's line reaches this vCPU.
    pub fn accepts_extint(&self) -> bool {
        self.events.load(Acquire) & EXTINT != 0
    }

    /// Whether the interrupt in service may end unseen.
    pub fn may_end_unseen(&self) -> bool {
        self.events.load(Acquire) & MAY_END_UNSEEN != 0
    }

    pub fn cr8(&self) -> u64 {
        self.events.load(Acquire) >> CR8_SHIFT
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base.load(Acquire)
    }

    /// Whether an access to guest-physical `address` is the APIC's to answer.
    pub fn claims(&self, address: u64) -> bool {
        let window = self.window.load(Acquire);
        window != NO_WINDOW && address.wrapping_sub(window) < WINDOW
    }

    pub fn view(&self) -> LapicView {
        unpack(self.view.load(Acquire), self.id)
    }
}

/// Most releases of the lock change nothing; readers keep their cache line then.
fn store(word: &AtomicU64, value: u64) {
    if word.load(Relaxed) != value {
        word.store(value, Release);
    }
}

fn pack(view: &LapicView) -> u64 {
    // The destination format has four bits; the others are ones.
    let mode = match view.mode {
        ApicMode::Disabled => 0u64,
        ApicMode::Xapic => 1,
        ApicMode::X2apic => 2,
    };
    let enabled = if view.software_enabled {
        SOFTWARE_ENABLED
    } else {
        0
    };
    u64::from(view.logical)
        | u64::from(view.xapic_id) << 32
        | u64::from(view.format >> 28) << 40
        | enabled
        | mode << MODE_SHIFT
}

fn unpack(packed: u64, id: u32) -> LapicView {
    LapicView {
        mode: match packed >> MODE_SHIFT {
            0 => ApicMode::Disabled,
            1 => ApicMode::Xapic,
            _ => ApicMode::X2apic,
        },
        software_enabled: packed & SOFTWARE_ENABLED != 0,
        x2apic_id: id,
        xapic_id: (packed >> 32) as u8,
        logical: packed as u32,
        format: ((packed >> 40 & 0xf) << 28) as u32 | 0x0fff_ffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lapic::{Features, Role};

    #[test]
    fn views_survive_packing() {
        for mode in [ApicMode::Disabled, ApicMode::Xapic, ApicMode::X2apic] {
            for (software_enabled, format) in [(false, 0x0fff_ffff), (true, u32::MAX)] {
                let view = LapicView {
                    mode,
                    software_enabled,
                    x2apic_id: 0x1234,
                    xapic_id: 0xa5,
                    logical: 0x8765_4321,
                    format,
                };
                assert_eq!(unpack(pack(&view), 0x1234), view);
            }
        }
    }

    #[test]
    fn a_new_apic_is_shown() {
        let lapic = Lapic::new(3, Role::Boot, Features::empty());
        let shown = Shown::new(&lapic);
        assert_eq!(shown.view(), lapic.view());
        assert_eq!(shown.base(), lapic.base().bits());
        assert_eq!(shown.accepts_extint(), lapic.accepts_extint());
        assert!(shown.claims(0xfee0_0020) && !shown.claims(0xfee0_1000) && !shown.claims(0));
    }
}
