//! The 8259 pair and the I/O APIC behind their locks.

use super::timer::PitTimer;
use super::wiring::{Bus, ChipPin, Gsis, LocalApics};
use crate::ioapic::{self, Ended, Ioapic, MaskChange, PendingEoi, Report};
use crate::lapic::{EndOfInterrupt, matches_destination};
use crate::locks;
use crate::pic::{self, Pic};
use crate::pit;
use crate::ports::{IrqSource, Level, LineStatus};
use ring3_host::event::{EventLoop, Timer};
use ring3_host::lock::{RankedGuard, RankedMutex};
use ring3_host::time::monotonic_now;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock, Weak};

/// How long an interrupt storm of the I/O APIC is held back.
const STORM_DELAY_NS: u64 = 10_000_000;

/// The chips with pins of one VM.
pub struct Chips {
    pub(super) pic: RankedMutex<Pic>,
    pub(super) ioapic: RankedMutex<Ioapic>,
    /// The output of the 8259 pair, to look at without its lock.
    output: AtomicBool,
    pub(super) apics: Arc<dyn LocalApics>,
    pub(super) gsis: Arc<dyn Gsis>,
    pit: OnceLock<Weak<PitTimer>>,
    storm: Timer,
}

impl Chips {
    pub fn new(
        apics: Arc<dyn LocalApics>,
        gsis: Arc<dyn Gsis>,
        events: &EventLoop,
    ) -> io::Result<Arc<Chips>> {
        let slot: Arc<OnceLock<Weak<Chips>>> = Arc::default();
        let callee = Arc::clone(&slot);
        let storm = events.timer(Arc::new(move || {
            if let Some(chips) = callee.get().and_then(Weak::upgrade) {
                chips.ioapic.lock().inject_delayed(&mut Bus(&*chips.apics));
            }
        }))?;
        let chips = Arc::new(Chips {
            pic: RankedMutex::new(locks::IRQCHIP, Pic::default()),
            ioapic: RankedMutex::new(locks::IRQCHIP, Ioapic::default()),
            output: AtomicBool::new(false),
            apics,
            gsis,
            pit: OnceLock::new(),
            storm,
        });
        // Nobody else sets it.
        let _ = slot.set(Arc::downgrade(&chips));
        Ok(chips)
    }

    /// A PIT was made: it wants to know when its interrupt is unmasked.
    pub(super) fn attach(&self, pit: &Arc<PitTimer>) {
        // There is one PIT in a VM; the caller sees to that.
        let _ = self.pit.set(Arc::downgrade(pit));
    }

    /// One source moves a pin.
    pub fn set_pin(&self, pin: ChipPin, source: IrqSource, level: Level) -> LineStatus {
        match pin {
            ChipPin::Pic(pin) => {
                let mut pic = self.pic.lock();
                let status = pic.set_line(pin, source, level);
                self.publish(pic);
                status
            }
            ChipPin::Ioapic(pin) => {
                let report = if source == IrqSource::Client {
                    Report::Client
                } else {
                    Report::Nobody
                };
                self.ioapic
                    .lock()
                    .set_line(pin, source, level, report, &mut Bus(&*self.apics))
            }
        }
    }

    /// Whether the 8259 pair wants a processor's attention.
    pub fn output(&self) -> bool {
        self.output.load(SeqCst)
    }

    /// The processor's interrupt acknowledge cycle towards the 8259 pair.
    pub fn acknowledge(&self) -> u8 {
        let mut pic = self.pic.lock();
        let (vector, events) = pic.acknowledge();
        self.finish(pic, events);
        vector
    }

    /// A read of a port of the 8259 pair; false if it is no such port. Only bytes reach a register.
    pub fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        let Some(port) = pic::Port::decode(port) else {
            return false;
        };
        data.fill(0);
        if let [byte] = data {
            let mut pic = self.pic.lock();
            let (value, events) = pic.read(port);
            *byte = value;
            self.finish(pic, events);
        }
        true
    }

    /// A write to a port of the 8259 pair; false if it is no such port.
    pub fn port_write(&self, port: u16, data: &[u8]) -> bool {
        let Some(port) = pic::Port::decode(port) else {
            return false;
        };
        if let [byte] = data {
            let mut pic = self.pic.lock();
            let events = pic.write(port, *byte, || self.extint_target().is_some());
            self.finish(pic, events);
        }
        true
    }

    /// Tell the listeners what happened, then find the new output.
    fn finish<'a>(&'a self, mut pic: RankedGuard<'a, Pic>, events: pic::Events) {
        if events != pic::Events::default() {
            drop(pic);
            for pin in events.acknowledged.iter() {
                self.acknowledged(ChipPin::Pic(pin));
            }
            for pin in events.unmasked.iter() {
                self.unmasked(ChipPin::Pic(pin));
            }
            pic = self.pic.lock();
        }
        pic.settle();
        self.publish(pic);
    }

    pub(super) fn publish(&self, mut pic: RankedGuard<'_, Pic>) {
        self.output.store(pic.output().is_high(), SeqCst);
        let risen = pic.take_rise();
        drop(pic);
        if risen && let Some(vcpu) = self.extint_target() {
            self.apics.wake(vcpu);
        }
    }

    /// The first vCPU that the output of the 8259 pair reaches.
    fn extint_target(&self) -> Option<usize> {
        let mut target = None;
        self.apics.each(&mut |vcpu, lapic| {
            if target.is_none() && lapic.accepts_extint() {
                target = Some(vcpu);
            }
        });
        target
    }

    fn acknowledged(&self, pin: ChipPin) {
        if let Some(gsi) = self.gsis.gsi_of(pin) {
            self.gsis.acknowledged(gsi);
        }
    }

    fn unmasked(&self, pin: ChipPin) {
        if self.gsis.gsi_of(pin) == Some(pit::GSI)
            && let Some(pit) = self.pit.get().and_then(Weak::upgrade)
        {
            pit.unmasked();
        }
    }

    /// A read at an offset into the I/O APIC's window.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        self.ioapic.lock().mmio_read(offset, data);
    }

    /// A write at an offset into the I/O APIC's window.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) {
        let written = self
            .ioapic
            .lock()
            .mmio_write(offset, data, &mut Bus(&*self.apics));
        if written.table {
            self.refresh_eoi_vectors();
        }
        if let Some(MaskChange::Unmasked(pin)) = written.mask {
            self.unmasked(ChipPin::Ioapic(pin));
        }
    }

    /// A vCPU's EOI left its local APIC.
    pub fn end_of_interrupt(&self, vcpu: usize, eoi: &EndOfInterrupt) {
        let pins = self.ioapic.lock().eoi_pins(vcpu, eoi.vector);
        for pin in pins {
            self.acknowledged(ChipPin::Ioapic(pin));
            let ended = self
                .ioapic
                .lock()
                .end_of_interrupt(pin, eoi, &mut Bus(&*self.apics));
            if ended == Ended::Delay {
                self.storm.arm(monotonic_now().after_ns(STORM_DELAY_NS));
            }
        }
    }

    /// Tell every local APIC which EOIs are wanted: after a change of the redirection table, of the APICs' IDs,
    /// modes or states, of the routing table, of listeners, or of the number of vCPUs.
    pub fn refresh_eoi_vectors(&self) {
        let rule = self.apics.broadcast_rule();
        let ioapic = self.ioapic.lock();
        let listened = |pin: u32| {
            let pin = ioapic::Pin::new(pin)?;
            let gsi = self.gsis.gsi_of(ChipPin::Ioapic(pin))?;
            self.gsis.is_listened_to(gsi).then_some(())
        };
        let watched = (0..ioapic::PINS as u32).filter(|&pin| listened(pin).is_some());
        let watched = watched.fold(0, |pins, pin| pins | 1 << pin);
        self.apics.each(&mut |vcpu, lapic| {
            let owes_eoi = |vector| lapic.owes_eoi(vector);
            let vectors = ioapic.eoi_vectors(vcpu, &lapic.view(), rule, watched, owes_eoi);
            lapic.set_eoi_vectors(vectors);
        });
    }

    /// Follow a state that was set, here or in a local APIC: wanted EOIs, and who owes the real-time clock one.
    pub fn restored(&self) {
        let rule = self.apics.broadcast_rule();
        let mut ioapic = self.ioapic.lock();
        let entry = ioapic.rtc_entry();
        self.apics.each(&mut |vcpu, lapic| {
            let here =
                matches_destination(&lapic.view(), entry.destination(), entry.destination_mode(), rule);
            if here {
                let owes = lapic.owes_eoi(entry.vector());
                ioapic.track_rtc(vcpu, if owes { PendingEoi::Yes } else { PendingEoi::No });
            }
        });
        drop(ioapic);
        self.refresh_eoi_vectors();
    }
}
