//! The two 8259 interrupt controllers of a PC, cascaded at the master's input 2, as a state machine.
//!
//! * `controller`: one 8259; `guest`: its ports and the edge/level control registers.
//!
//! Operations that may end an interrupt return [`Events`]: tell whoever listens, then call
//! [`Pic::settle`], which finds the new output. In between, a listener may move a line. As in KVM, single mode,
//! the level-triggered bit of ICW1 and the special mask mode are accepted without effect.

mod controller;
mod guest;

#[cfg(test)]
mod tests;

pub use guest::Port;

use crate::ports::{IrqSource, Level, LineState, LineStatus};
use controller::Controller;
use ring3_uapi::x86::KvmPicState;

pub const PINS: usize = 16;

/// The master's input that the slave's output is wired to.
const CASCADE: u8 = 2;
/// The input that a controller names when it has nothing to tell.
const SPURIOUS: u8 = 7;

/// An input number below [`PINS`], the slave's from 8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin(u8);

impl Pin {
    pub fn new(pin: u32) -> Option<Pin> {
        (pin < PINS as u32).then_some(Pin(pin as u8))
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    fn chip(self) -> Chip {
        if self.0 < 8 { Chip::Master } else { Chip::Slave }
    }

    fn input(self) -> u8 {
        self.0 & 7
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chip {
    Master,
    Slave,
}

impl Chip {
    fn first_pin(self) -> u8 {
        8 * self as u8
    }
}

/// A set of pins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PinSet(u16);

impl PinSet {
    fn of(chip: Chip, inputs: u8) -> Self {
        PinSet(u16::from(inputs) << chip.first_pin())
    }

    pub fn iter(self) -> impl Iterator<Item = Pin> {
        (0..PINS as u8).filter(move |n| self.0 & 1 << n != 0).map(Pin)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What listeners want to know of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Events {
    /// Interrupts that the guest ended.
    pub acknowledged: PinSet,
    pub masked: PinSet,
    pub unmasked: PinSet,
}

#[derive(Clone, Debug)]
pub struct Pic {
    chips: [Controller; 2],
    lines: [LineState; PINS],
    output: Level,
    /// The output went high since `take_rise`.
    risen: bool,
    unsettled: bool,
}

impl Default for Pic {
    fn default() -> Self {
        Pic {
            // Timer, keyboard, cascade, clock and coprocessor inputs cannot be level-triggered.
            chips: [Controller::new(0xf8), Controller::new(0xde)],
            lines: [LineState::default(); PINS],
            output: Level::Low,
            risen: false,
            unsettled: false,
        }
    }
}

impl Pic {
    fn chip(&mut self, chip: Chip) -> &mut Controller {
        &mut self.chips[chip as usize]
    }

    /// One source moves an input.
    pub fn set_line(&mut self, pin: Pin, source: IrqSource, level: Level) -> LineStatus {
        let level = self.lines[pin.index()].drive(source, level);
        let status = self.chip(pin.chip()).set_input(pin.input(), level);
        self.update();
        status
    }

    /// The INTR output to the processors.
    pub fn output(&self) -> Level {
        self.output
    }

    /// Whether the output went high since the last call: then a processor that takes ExtINT must be woken.
    pub fn take_rise(&mut self) -> bool {
        std::mem::take(&mut self.risen)
    }

    /// Find the new output after an operation that returned [`Events`].
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            self.update();
        }
    }

    fn update(&mut self) {
        if self.chips[Chip::Slave as usize].next(Chip::Slave).is_some() {
            // A pulse, so that the edge-triggered cascade input notices each of the slave's requests.
            let master = self.chip(Chip::Master);
            master.set_input(CASCADE, Level::High);
            master.set_input(CASCADE, Level::Low);
        }
        let level = Level::from(self.chips[Chip::Master as usize].next(Chip::Master).is_some());
        self.risen |= level.is_high() && !self.output.is_high();
        self.output = level;
    }

    /// The processor's interrupt acknowledge cycle: the vector, spurious if the request has gone.
    pub fn acknowledge(&mut self) -> (u8, Events) {
        self.output = Level::Low;
        self.unsettled = true;
        let mut ended = PinSet::default();
        let mut take = |chip: &mut Controller, which: Chip| {
            let input = chip.next(which)?;
            if chip.acknowledge(input) == controller::Service::Ended {
                ended.0 |= PinSet::of(which, 1 << input).0;
            }
            Some(input)
        };
        let [master, slave] = &mut self.chips;
        let vector = match take(master, Chip::Master) {
            Some(CASCADE) => {
                let input = take(slave, Chip::Slave).unwrap_or(SPURIOUS);
                slave.vector(input)
            }
            Some(input) => master.vector(input),
            None => master.vector(SPURIOUS),
        };
        (
            vector,
            Events {
                acknowledged: ended,
                ..Events::default()
            },
        )
    }

    /// One controller's state, for KVM_GET_IRQCHIP.
    pub fn state(&self, chip: Chip) -> KvmPicState {
        self.chips[chip as usize].state()
    }

    /// Replace one controller's state. The sources' levels stay.
    pub fn set_state(&mut self, chip: Chip, state: &KvmPicState) {
        self.chip(chip).set_state(state);
        self.update();
    }
}
