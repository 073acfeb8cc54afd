//! The guest's face: ports 20h, 21h, A0h, A1h and the edge/level control registers 4D0h, 4D1h.

use super::controller::Command;
use super::{CASCADE, Chip, Events, Pic, PinSet, SPURIOUS};

/// A port of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    Command(Chip),
    Data(Chip),
    Elcr(Chip),
}

impl Port {
    pub fn decode(port: u16) -> Option<Port> {
        Some(match port {
            0x20 => Port::Command(Chip::Master),
            0x21 => Port::Data(Chip::Master),
            0xa0 => Port::Command(Chip::Slave),
            0xa1 => Port::Data(Chip::Slave),
            0x4d0 => Port::Elcr(Chip::Master),
            0x4d1 => Port::Elcr(Chip::Slave),
            _ => return None,
        })
    }
}

impl Pic {
    /// A byte written to a port. `accepts_extint` tells whether any processor listens to the output.
    pub fn write(&mut self, port: Port, value: u8, accepts_extint: impl FnOnce() -> bool) -> Events {
        let (chip, command) = match port {
            Port::Command(chip) => (chip, self.chip(chip).write_command(value)),
            Port::Data(chip) => (chip, self.chip(chip).write_data(value)),
            Port::Elcr(chip) => {
                self.chip(chip).set_elcr(value);
                return Events::default();
            }
        };
        let mut events = Events::default();
        match command {
            Command::None => return events,
            Command::Reordered => {}
            Command::Ended(inputs) => events.acknowledged = PinSet::of(chip, inputs),
            Command::Reset { edges } => {
                if accepts_extint() {
                    self.chip(chip).drop_service(edges);
                    events.acknowledged = PinSet::of(chip, edges);
                }
                return events;
            }
            Command::Masks(old) => {
                let new = self.chip(chip).mask();
                events.masked = PinSet::of(chip, new & !old);
                events.unmasked = PinSet::of(chip, old & !new);
            }
        }
        self.unsettled = true;
        events
    }

    /// A byte read from a port. After a poll command it is an acknowledge.
    pub fn read(&mut self, port: Port) -> (u8, Events) {
        match port {
            Port::Elcr(chip) => (self.chip(chip).elcr(), Events::default()),
            Port::Command(chip) | Port::Data(chip) if self.chip(chip).take_poll() => self.poll(chip),
            Port::Command(chip) => (self.chip(chip).read_command(), Events::default()),
            Port::Data(chip) => (self.chip(chip).mask(), Events::default()),
        }
    }

    fn poll(&mut self, chip: Chip) -> (u8, Events) {
        let Some(input) = self.chip(chip).next(chip) else {
            self.unsettled = true;
            return (SPURIOUS, Events::default());
        };
        if chip == Chip::Slave {
            self.chip(Chip::Master).drop_request(CASCADE);
        }
        self.chip(chip).drop_request(input);
        self.unsettled |= chip == Chip::Slave || input != CASCADE;
        (
            input,
            Events {
                acknowledged: PinSet::of(chip, 1 << input),
                ..Events::default()
            },
        )
    }
}
