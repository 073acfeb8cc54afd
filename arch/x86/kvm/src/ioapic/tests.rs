//! Tests of the I/O APIC.

use super::*;
use crate::lapic::{ApicMessage, ApicMode, DeliveryMode, Destination, DestinationMode};

/// Remembers messages; `vcpus` accept each.
struct Bus {
    sent: Vec<ApicMessage>,
    vcpus: Vec<usize>,
    reply: Option<Delivery>,
}

impl InterruptBus for Bus {
    fn deliver(&mut self, message: &ApicMessage, accepted: &mut dyn FnMut(usize)) -> Delivery {
        self.sent.push(*message);
        self.vcpus.iter().for_each(|&vcpu| accepted(vcpu));
        self.reply.unwrap_or(Delivery::Accepted(self.vcpus.len() as u32))
    }
}

impl Bus {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.sent)
            .iter()
            .map(|message| message.vector)
            .collect()
    }
}

fn bus() -> Bus {
    Bus {
        sent: Vec::new(),
        vcpus: vec![0],
        reply: None,
    }
}

fn pin(n: u32) -> Pin {
    Pin::new(n).expect("a pin")
}

fn select(chip: &mut Ioapic, register: u8) {
    let mut none = bus();
    assert_eq!(chip.mmio_write(0, &[register], &mut none), Written::default());
}

fn read(chip: &mut Ioapic, register: u8) -> u32 {
    select(chip, register);
    let mut data = [0; 4];
    chip.mmio_read(0x10, &mut data);
    u32::from_le_bytes(data)
}

fn write(chip: &mut Ioapic, register: u8, value: u32, bus: &mut Bus) -> Written {
    select(chip, register);
    chip.mmio_write(0x10, &value.to_le_bytes(), bus)
}

/// Program a pin as an operating system does: the upper half first.
fn program(chip: &mut Ioapic, n: u8, low: u32, bus: &mut Bus) {
    let _ = write(chip, 0x11 + 2 * n, 0, bus);
    let _ = write(chip, 0x10 + 2 * n, low, bus);
}

fn set(chip: &mut Ioapic, n: u32, level: Level, bus: &mut Bus) -> i32 {
    chip.set_line(pin(n), IrqSource::Client, level, Report::Client, bus)
        .code()
}

fn eoi(trigger: TriggerMode, vector: u8) -> EndOfInterrupt {
    EndOfInterrupt {
        vector,
        trigger,
        broadcast: EoiBroadcast::Sent,
    }
}

fn end(chip: &mut Ioapic, vector: u8, trigger: TriggerMode, bus: &mut Bus) -> Ended {
    let mut last = Ended::Done;
    for pin in chip.eoi_pins(0, vector) {
        last = chip.end_of_interrupt(pin, &eoi(trigger, vector), bus);
    }
    last
}

#[test]
fn registers() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    assert_eq!(read(&mut chip, 1), 0x17_0011);
    assert_eq!(write(&mut chip, 0, 0xff00_0000, &mut bus), Written::default());
    assert_eq!(read(&mut chip, 0), 0x0f00_0000);
    assert_eq!(read(&mut chip, 2), 0x0f00_0000);
    assert_eq!(read(&mut chip, 5), u32::MAX);
    assert_eq!(read(&mut chip, 0x40), u32::MAX);
    assert_eq!(read(&mut chip, 0x10), 0x1_0000);
    let written = write(&mut chip, 0x12, 0x31, &mut bus);
    assert_eq!(
        written,
        Written {
            table: true,
            mask: Some(MaskChange::Unmasked(pin(1)))
        }
    );
    let _ = write(&mut chip, 0x13, 0x0300_0000, &mut bus);
    assert_eq!(chip.entry(pin(1)), Entry(0x0300_0000_0000_0031));
    let written = write(&mut chip, 0x12, 0x1_0031, &mut bus);
    assert_eq!(written.mask, Some(MaskChange::Masked(pin(1))));
    let mut wide = [0xff; 8];
    chip.mmio_read(0, &mut wide);
    assert_eq!(wide, [0x12, 0, 0, 0, 0, 0, 0, 0]);
    chip.mmio_read(0x20, &mut wide);
    assert_eq!(wide, [0; 8]);
}

#[test]
fn messages_carry_the_entry() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    let _ = write(&mut chip, 0x15, 0x0700_0000, &mut bus);
    let _ = write(&mut chip, 0x14, 0x0940 | 0x8000, &mut bus);
    set(&mut chip, 2, Level::High, &mut bus);
    let message = bus.sent[0];
    assert_eq!(message.destination, Destination::Id(7));
    assert_eq!(message.destination_mode, DestinationMode::Logical);
    assert_eq!(message.delivery_mode, DeliveryMode::LowestPriority);
    assert_eq!((message.vector, message.trigger), (0x40, TriggerMode::Level));
}

#[test]
fn edges() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 4, 0x34, &mut bus);
    assert_eq!(set(&mut chip, 4, Level::High, &mut bus), 1);
    assert_eq!(set(&mut chip, 4, Level::High, &mut bus), 0, "no new edge");
    assert_eq!(set(&mut chip, 4, Level::Low, &mut bus), 1);
    assert_eq!(set(&mut chip, 4, Level::High, &mut bus), 1);
    assert_eq!(bus.take(), [0x34, 0x34]);
    assert!(!chip.entry(pin(4)).remote_irr());
    let _ = write(&mut chip, 0x18, 0x1_0034, &mut bus);
    set(&mut chip, 4, Level::Low, &mut bus);
    assert_eq!(set(&mut chip, 4, Level::High, &mut bus), -1, "masked");
    let _ = write(&mut chip, 0x18, 0x34, &mut bus);
    assert_eq!(bus.take(), [], "an edge while masked is lost");
}

#[test]
fn levels_interrupt_again_until_lowered() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 10, 0x805a, &mut bus);
    assert_eq!(set(&mut chip, 10, Level::High, &mut bus), 1);
    assert!(chip.entry(pin(10)).remote_irr());
    assert_eq!(read(&mut chip, 0x24), 0xc05a);
    assert_eq!(
        set(&mut chip, 10, Level::High, &mut bus),
        -1,
        "waiting for the EOI"
    );
    assert_eq!(bus.take(), [0x5a]);
    end(&mut chip, 0x5a, TriggerMode::Level, &mut bus);
    assert_eq!(bus.take(), [0x5a], "still asserted");
    set(&mut chip, 10, Level::Low, &mut bus);
    end(&mut chip, 0x5a, TriggerMode::Level, &mut bus);
    assert_eq!(bus.take(), []);
    assert!(!chip.entry(pin(10)).remote_irr());
}

#[test]
fn unmasking_an_asserted_level_pin_interrupts() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 10, 0x1_805a, &mut bus);
    assert_eq!(set(&mut chip, 10, Level::High, &mut bus), -1);
    let _ = write(&mut chip, 0x24, 0x805a, &mut bus);
    assert_eq!(bus.take(), [0x5a]);
    let _ = write(&mut chip, 0x24, 0x1_005a, &mut bus);
    assert!(
        !chip.entry(pin(10)).remote_irr(),
        "a switch to edge ends it by hand"
    );
    let _ = write(&mut chip, 0x24, 0x805a, &mut bus);
    assert_eq!(bus.take(), [0x5a]);
}

#[test]
fn remote_irr_is_read_only() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 3, 0xd033, &mut bus);
    assert_eq!(read(&mut chip, 0x16), 0x8033);
}

#[test]
fn suppressed_and_edge_eois_leave_level_pins_waiting() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 10, 0x805a, &mut bus);
    set(&mut chip, 10, Level::High, &mut bus);
    let suppressed = EndOfInterrupt {
        broadcast: EoiBroadcast::Suppressed,
        ..eoi(TriggerMode::Level, 0x5a)
    };
    chip.end_of_interrupt(pin(10), &suppressed, &mut bus);
    end(&mut chip, 0x5a, TriggerMode::Edge, &mut bus);
    assert!(chip.entry(pin(10)).remote_irr());
}

#[test]
fn sources_share_a_pin() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 0, 0x30, &mut bus);
    let mut pit = |level, bus: &mut Bus| chip.set_line(pin(0), IrqSource::Timer, level, Report::Nobody, bus);
    pit(Level::High, &mut bus);
    set(&mut chip, 0, Level::High, &mut bus);
    set(&mut chip, 0, Level::Low, &mut bus);
    assert_eq!(set(&mut chip, 0, Level::High, &mut bus), 0);
    assert_eq!(bus.take(), [0x30], "the PIT still holds the line");
}

#[test]
fn refused_and_undeliverable_messages() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 5, 0x8035, &mut bus);
    bus.reply = Some(Delivery::Accepted(0));
    assert_eq!(set(&mut chip, 5, Level::High, &mut bus), 0);
    assert!(!chip.entry(pin(5)).remote_irr());
    bus.reply = Some(Delivery::NoTarget);
    assert_eq!(set(&mut chip, 5, Level::High, &mut bus), -1);
    assert!(chip.entry(pin(5)).remote_irr());
}

#[test]
fn the_clock_is_coalesced_until_every_eoi() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    bus.vcpus = vec![0, 1];
    program(&mut chip, 8, 0x38, &mut bus);
    assert_eq!(set(&mut chip, 8, Level::High, &mut bus), 2);
    set(&mut chip, 8, Level::Low, &mut bus);
    assert_eq!(set(&mut chip, 8, Level::High, &mut bus), 0);
    chip.eoi_pins(0, 0x38);
    chip.eoi_pins(1, 0x39);
    assert_eq!(set(&mut chip, 8, Level::High, &mut bus), 0);
    chip.eoi_pins(1, 0x38);
    assert_eq!(set(&mut chip, 8, Level::High, &mut bus), 2);
    assert_eq!(bus.take(), [0x38, 0x38]);
    let quiet = chip.set_line(pin(8), IrqSource::Client, Level::High, Report::Nobody, &mut bus);
    assert_eq!(quiet, LineStatus::Coalesced, "no new edge");
}

#[test]
fn a_storm_is_slowed_down() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 10, 0x805a, &mut bus);
    set(&mut chip, 10, Level::High, &mut bus);
    let repeats =
        (0..STORM).take_while(|_| end(&mut chip, 0x5a, TriggerMode::Level, &mut bus) == Ended::Done);
    assert_eq!(repeats.count() as u32, STORM - 1);
    bus.take();
    chip.inject_delayed(&mut bus);
    assert_eq!(bus.take(), [0x5a]);
}

#[test]
fn state_round_trip() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 10, 0x805a, &mut bus);
    program(&mut chip, 4, 0x34, &mut bus);
    program(&mut chip, 5, 0x1_0035, &mut bus);
    for n in [10, 4, 5] {
        set(&mut chip, n, Level::High, &mut bus);
    }
    let state = chip.state();
    assert_eq!(state.irr, 1 << 10 | 1 << 5, "the delivered edge is not pending");
    bus.take();
    let mut other = Ioapic::default();
    other.set_state(&state, &mut bus);
    assert_eq!(other.state(), state);
    assert_eq!(bus.take(), [], "pin 10 waits for its EOI, pin 5 is masked");
    end(&mut other, 0x5a, TriggerMode::Level, &mut bus);
    assert_eq!(bus.take(), [0x5a]);
}

#[test]
fn the_clocks_tracking_is_rebuilt() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 8, 0x38, &mut bus);
    chip.track_rtc(0, PendingEoi::Yes);
    assert_eq!(set(&mut chip, 8, Level::High, &mut bus), 0);
    chip.track_rtc(0, PendingEoi::No);
    assert_eq!(set(&mut chip, 8, Level::High, &mut bus), 1);
}

#[test]
fn eoi_vectors_per_processor() {
    let (mut chip, mut bus) = (Ioapic::default(), bus());
    program(&mut chip, 10, 0x805a, &mut bus);
    program(&mut chip, 4, 0x34, &mut bus);
    program(&mut chip, 2, 0x32, &mut bus);
    let view = |id| LapicView {
        mode: ApicMode::Xapic,
        software_enabled: true,
        x2apic_id: u32::from(id),
        xapic_id: id,
        logical: 0,
        format: u32::MAX,
    };
    let of = |vcpu: u8, owed: u8| {
        chip.eoi_vectors(
            usize::from(vcpu),
            &view(vcpu),
            BroadcastRule::Quirk,
            1 << 2,
            |v| v == owed,
        )
    };
    let here = of(0, 0);
    assert!(here.contains(0x5a) && here.contains(0x32) && !here.contains(0x34));
    let elsewhere = of(1, 0);
    assert!(!elsewhere.contains(0x5a) && !elsewhere.contains(0x32));
    assert!(of(1, 0x5a).contains(0x5a), "still owed from before");
}
