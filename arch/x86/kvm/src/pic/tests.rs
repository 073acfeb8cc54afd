//! Tests of the 8259 pair.

use super::*;

fn out(pic: &mut Pic, port: u16, value: u8) -> Events {
    let events = pic.write(Port::decode(port).expect("a port"), value, || true);
    pic.settle();
    events
}

fn send(pic: &mut Pic, bytes: &[(u16, u8)]) {
    for &(port, value) in bytes {
        let _ = out(pic, port, value);
    }
}

fn inb(pic: &mut Pic, port: u16) -> u8 {
    let (value, _) = pic.read(Port::decode(port).expect("a port"));
    pic.settle();
    value
}

fn set(pic: &mut Pic, pin: u32, level: Level) -> i32 {
    pic.set_line(Pin::new(pin).expect("a pin"), IrqSource::Client, level)
        .code()
}

fn pulse(pic: &mut Pic, pin: u32) {
    set(pic, pin, Level::High);
    set(pic, pin, Level::Low);
}

fn ack(pic: &mut Pic) -> u8 {
    let (vector, _) = pic.acknowledge();
    pic.settle();
    vector
}

fn pins(set: PinSet) -> Vec<usize> {
    set.iter().map(Pin::index).collect()
}

/// Both chips as a PC operating system sets them up: vectors 30h and 38h, everything unmasked.
fn ready(icw4: u8) -> Pic {
    let mut pic = Pic::default();
    send(
        &mut pic,
        &[(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, icw4), (0x21, 0)],
    );
    send(
        &mut pic,
        &[(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, icw4), (0xa1, 0)],
    );
    pic
}

#[test]
fn firmware_initialises_and_masks() {
    let mut pic = Pic::default();
    send(
        &mut pic,
        &[
            (0x20, 0x11),
            (0xa0, 0x11),
            (0x21, 0x08),
            (0xa1, 0x70),
            (0x21, 0x04),
            (0xa1, 0x02),
        ],
    );
    send(
        &mut pic,
        &[(0x21, 0x01), (0xa1, 0x01), (0x21, 0xfb), (0xa1, 0xff)],
    );
    assert_eq!((inb(&mut pic, 0x21), inb(&mut pic, 0xa1)), (0xfb, 0xff));
    assert_eq!(set(&mut pic, 0, Level::High), -1, "masked");
    assert_eq!(pic.output(), Level::Low);
    let events = out(&mut pic, 0x21, 0xfa);
    assert_eq!((pins(events.unmasked), events.masked.is_empty()), (vec![0], true));
    assert_eq!(pic.output(), Level::High);
    assert_eq!(ack(&mut pic), 0x08);
}

#[test]
fn nested_interrupts_and_both_eois() {
    let mut pic = ready(1);
    assert_eq!(set(&mut pic, 3, Level::High), 1);
    assert!(pic.take_rise() && !pic.take_rise());
    assert_eq!(ack(&mut pic), 0x33);
    pulse(&mut pic, 4);
    assert_eq!(pic.output(), Level::Low, "lower priority waits");
    pulse(&mut pic, 1);
    assert_eq!(ack(&mut pic), 0x31);
    send(&mut pic, &[(0x20, 0x0b)]);
    assert_eq!(inb(&mut pic, 0x20), 0b1010);
    assert_eq!(pins(out(&mut pic, 0x20, 0x20).acknowledged), [1]);
    assert_eq!(pins(out(&mut pic, 0x20, 0x63).acknowledged), [3]);
    assert_eq!(ack(&mut pic), 0x34);
    assert_eq!(pins(out(&mut pic, 0x20, 0x20).acknowledged), [4]);
    assert_eq!(
        pins(out(&mut pic, 0x20, 0x20).acknowledged),
        [],
        "nothing in service"
    );
}

#[test]
fn the_slave_comes_through_the_cascade() {
    let mut pic = ready(1);
    pulse(&mut pic, 14);
    assert_eq!(ack(&mut pic), 0x3e);
    send(&mut pic, &[(0x20, 0x0b), (0xa0, 0x0b)]);
    assert_eq!((inb(&mut pic, 0x20), inb(&mut pic, 0xa0)), (0x04, 0x40));
    pulse(&mut pic, 12);
    assert_eq!(pic.output(), Level::Low, "the cascade is in service");
    assert_eq!(pins(out(&mut pic, 0xa0, 0x20).acknowledged), [14]);
    assert_eq!(pins(out(&mut pic, 0x20, 0x20).acknowledged), [2]);
    assert_eq!(ack(&mut pic), 0x3c);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    let mut pic = ready(0x11);
    pulse(&mut pic, 14);
    assert_eq!(ack(&mut pic), 0x3e);
    pulse(&mut pic, 12);
    assert_eq!(ack(&mut pic), 0x3c);
}

#[test]
fn edges_and_coalescing() {
    let mut pic = ready(1);
    assert_eq!(set(&mut pic, 5, Level::High), 1);
    assert_eq!(set(&mut pic, 5, Level::High), 1, "no new edge, nothing lost");
    assert_eq!(set(&mut pic, 5, Level::Low), 1);
    assert_eq!(set(&mut pic, 5, Level::High), 0, "the first edge still waits");
    assert_eq!(ack(&mut pic), 0x35);
    send(&mut pic, &[(0x20, 0x20)]);
    assert_eq!(pic.output(), Level::Low, "a held edge interrupts once");
}

#[test]
fn levels_interrupt_until_lowered() {
    let mut pic = ready(1);
    send(&mut pic, &[(0x4d0, 0xff), (0x4d1, 0xff)]);
    assert_eq!((inb(&mut pic, 0x4d0), inb(&mut pic, 0x4d1)), (0xf8, 0xde));
    set(&mut pic, 10, Level::High);
    assert_eq!(ack(&mut pic), 0x3a);
    send(&mut pic, &[(0xa0, 0x20), (0x20, 0x20)]);
    assert_eq!(ack(&mut pic), 0x3a);
    set(&mut pic, 10, Level::Low);
    send(&mut pic, &[(0xa0, 0x20), (0x20, 0x20)]);
    assert_eq!(pic.output(), Level::Low);
}

#[test]
fn spurious_vectors() {
    let mut pic = ready(1);
    assert_eq!(ack(&mut pic), 0x37);
    send(&mut pic, &[(0x4d1, 0x04)]);
    set(&mut pic, 10, Level::High);
    set(&mut pic, 10, Level::Low);
    assert_eq!(ack(&mut pic), 0x3f, "the slave's request has gone");
}

#[test]
fn automatic_end_of_interrupt() {
    let mut pic = ready(3);
    pulse(&mut pic, 5);
    let (vector, events) = pic.acknowledge();
    pic.settle();
    assert_eq!((vector, pins(events.acknowledged)), (0x35, vec![5]));
    send(&mut pic, &[(0x20, 0x80)]);
    pulse(&mut pic, 3);
    assert_eq!(ack(&mut pic), 0x33);
    set(&mut pic, 3, Level::High);
    set(&mut pic, 4, Level::High);
    assert_eq!(ack(&mut pic), 0x34, "rotated: 3 is now the lowest");
    send(&mut pic, &[(0x20, 0x00)]);
    assert_eq!(ack(&mut pic), 0x33);
}

#[test]
fn rotation() {
    let mut pic = ready(1);
    pulse(&mut pic, 0);
    assert_eq!(ack(&mut pic), 0x30);
    send(&mut pic, &[(0x20, 0xa0)]);
    pulse(&mut pic, 0);
    pulse(&mut pic, 7);
    assert_eq!(ack(&mut pic), 0x37, "0 is now the lowest");
    send(&mut pic, &[(0x20, 0xe7)]);
    assert_eq!(ack(&mut pic), 0x30);
    send(&mut pic, &[(0x20, 0x20), (0x20, 0xc3)]);
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    assert_eq!(ack(&mut pic), 0x34, "set priority: 3 is the lowest");
}

#[test]
fn polling() {
    let mut pic = ready(1);
    pulse(&mut pic, 12);
    assert_eq!(pic.output(), Level::High);
    send(&mut pic, &[(0xa0, 0x0c)]);
    let (value, events) = pic.read(Port::Command(Chip::Slave));
    pic.settle();
    assert_eq!((value, pins(events.acknowledged)), (4, vec![12]));
    assert_eq!(pic.output(), Level::Low);
    send(&mut pic, &[(0x20, 0x0c)]);
    assert_eq!(inb(&mut pic, 0x20), 7, "nothing to poll");
    assert_eq!(inb(&mut pic, 0x20), 0, "one poll only");
}

#[test]
fn a_listener_may_lower_the_line_before_it_is_looked_at_again() {
    let mut pic = ready(1);
    send(&mut pic, &[(0x4d1, 0x04)]);
    set(&mut pic, 10, Level::High);
    assert_eq!(ack(&mut pic), 0x3a);
    let _ = pic.write(Port::Command(Chip::Slave), 0x20, || true);
    set(&mut pic, 10, Level::Low);
    pic.settle();
    let _ = out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.output(), Level::Low);
}

#[test]
fn initialisation_drops_edges_and_tells_listeners() {
    let mut pic = ready(1);
    send(&mut pic, &[(0x4d0, 0x08), (0x21, 0xff)]);
    set(&mut pic, 0, Level::High);
    set(&mut pic, 3, Level::High);
    assert_eq!(pins(out(&mut pic, 0x20, 0x11).acknowledged), [0]);
    assert_eq!(inb(&mut pic, 0x20), 0x08, "the level request stays");
    assert_eq!(inb(&mut pic, 0x21), 0);
    let mut pic = ready(1);
    set(&mut pic, 0, Level::High);
    let events = pic.write(Port::Command(Chip::Master), 0x11, || false);
    assert!(events.acknowledged.is_empty(), "no one took its interrupts");
}

#[test]
fn three_word_initialisation() {
    let mut pic = ready(3);
    send(
        &mut pic,
        &[(0x20, 0x10), (0x21, 0x40), (0x21, 0x04), (0x21, 0xfe)],
    );
    assert_eq!(inb(&mut pic, 0x21), 0xfe, "no ICW4");
    pulse(&mut pic, 0);
    assert_eq!(ack(&mut pic), 0x40);
    send(&mut pic, &[(0x20, 0x0b)]);
    assert_eq!(inb(&mut pic, 0x20), 1, "automatic EOI is off again");
}

#[test]
fn state_round_trip() {
    let mut pic = ready(1);
    pulse(&mut pic, 12);
    pulse(&mut pic, 1);
    ack(&mut pic);
    let mut other = Pic::default();
    for chip in [Chip::Master, Chip::Slave] {
        other.set_state(chip, &pic.state(chip));
        assert_eq!(other.state(chip), pic.state(chip));
    }
    send(&mut other, &[(0x20, 0x20)]);
    assert_eq!(ack(&mut other), 0x3c);
    let odd = KvmPicState {
        priority_add: 0xff,
        init_state: 9,
        irq_base: 0xff,
        ..KvmPicState::default()
    };
    other.set_state(Chip::Master, &odd);
    send(&mut other, &[(0x21, 1), (0x20, 0x20)]);
    ack(&mut other);
}
