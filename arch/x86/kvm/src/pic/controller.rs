//! One 8259A: request, service and mask registers, priorities, command words.

use super::Chip;
use crate::ports::{Level, LineStatus};
use ring3_uapi::x86::KvmPicState;

/// Whether an acknowledged interrupt stays in service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    Started,
    /// Automatic end of interrupt.
    Ended,
}

/// What a command or data byte did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Command {
    None,
    /// The requests may have another order, or others may be let through.
    Reordered,
    /// These inputs left service.
    Ended(u8),
    /// ICW1; these inputs had an edge pending.
    Reset {
        edges: u8,
    },
    /// The mask register was this before.
    Masks(u8),
}

/// The state is kept in the ABI's structure: the client may set any of it to anything.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    regs: KvmPicState,
}

/// The state of the initialisation sequence: ready, or the command word that comes next.
mod init_state {
    pub const READY: u8 = 0;
    pub const ICW2: u8 = 1;
    pub const ICW3: u8 = 2;
    pub const ICW4: u8 = 3;
}

impl Controller {
    pub fn new(elcr_mask: u8) -> Self {
        Controller {
            regs: KvmPicState {
                elcr_mask,
                ..KvmPicState::default()
            },
        }
    }

    pub fn state(&self) -> KvmPicState {
        self.regs
    }

    pub fn set_state(&mut self, state: &KvmPicState) {
        self.regs = *state;
    }

    pub fn vector(&self, input: u8) -> u8 {
        self.regs.irq_base.wrapping_add(input)
    }

    pub fn set_input(&mut self, input: u8, level: Level) -> LineStatus {
        let regs = &mut self.regs;
        let bit = 1 << input;
        let was_requested = regs.irr & bit != 0;
        let mut status = LineStatus::Delivered(1);
        let level_triggered = regs.elcr & bit != 0;
        match level {
            Level::High => {
                if level_triggered || regs.last_irr & bit == 0 {
                    regs.irr |= bit;
                    if was_requested {
                        status = LineStatus::Coalesced;
                    }
                }
                regs.last_irr |= bit;
            }
            Level::Low => {
                if level_triggered {
                    regs.irr &= !bit;
                }
                regs.last_irr &= !bit;
            }
        }
        if regs.imr & bit != 0 {
            LineStatus::Ignored
        } else {
            status
        }
    }

    /// How far down the current order the first of `inputs` is; 8 when there is none.
    fn priority(&self, inputs: u8) -> u8 {
        inputs
            .rotate_right(u32::from(self.regs.priority_add & 7))
            .trailing_zeros() as u8
    }

    fn input_at(&self, priority: u8) -> u8 {
        priority.wrapping_add(self.regs.priority_add) & 7
    }

    /// The input whose request is to be served: unmasked and of higher priority than all in service.
    pub fn next(&self, chip: Chip) -> Option<u8> {
        let request = self.priority(self.regs.irr & !self.regs.imr);
        let mut in_service = self.regs.isr;
        if self.regs.special_fully_nested_mode != 0 && chip == Chip::Master {
            in_service &= !(1 << super::CASCADE);
        }
        (request < self.priority(in_service)).then(|| self.input_at(request))
    }

    /// Move a request into service. A level-triggered request stays until its line falls.
    pub fn acknowledge(&mut self, input: u8) -> Service {
        let bit = 1 << input;
        let regs = &mut self.regs;
        regs.isr |= bit;
        if regs.elcr & bit == 0 {
            regs.irr &= !bit;
        }
        if regs.auto_eoi == 0 {
            return Service::Started;
        }
        if regs.rotate_on_auto_eoi != 0 {
            regs.priority_add = (input + 1) & 7;
        }
        regs.isr &= !bit;
        Service::Ended
    }

    pub fn write_command(&mut self, value: u8) -> Command {
        if value & 0x10 != 0 {
            return self.initialise(value);
        }
        if value & 0x08 != 0 {
            self.operation_word_3(value);
            return Command::None;
        }
        self.operation_word_2(value)
    }

    /// ICW1. The requests of level-triggered inputs survive.
    fn initialise(&mut self, value: u8) -> Command {
        let regs = &mut self.regs;
        let edges = regs.irr & !regs.elcr;
        regs.init4 = value & 1;
        regs.last_irr = 0;
        regs.irr &= regs.elcr;
        regs.imr = 0;
        regs.priority_add = 0;
        regs.special_mask = 0;
        regs.read_reg_select = 0;
        if regs.init4 == 0 {
            regs.special_fully_nested_mode = 0;
            regs.auto_eoi = 0;
        }
        regs.init_state = init_state::ICW2;
        Command::Reset { edges }
    }

    /// OCW3: poll, register select, special mask mode.
    fn operation_word_3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.regs.poll = 1;
        }
        if value & 0x02 != 0 {
            self.regs.read_reg_select = value & 1;
        }
        if value & 0x40 != 0 {
            self.regs.special_mask = value >> 5 & 1;
        }
    }

    /// OCW2: end of interrupt and rotation.
    fn operation_word_2(&mut self, value: u8) -> Command {
        let named = value & 7;
        match value >> 5 {
            // Rotate in automatic EOI mode, clear and set.
            command @ (0 | 4) => {
                self.regs.rotate_on_auto_eoi = command >> 2;
                Command::None
            }
            // Non-specific EOI, plain and rotating.
            command @ (1 | 5) => {
                let priority = self.priority(self.regs.isr);
                if priority == 8 {
                    return Command::None;
                }
                let input = self.input_at(priority);
                if command == 5 {
                    self.regs.priority_add = (input + 1) & 7;
                }
                self.end(input)
            }
            // Specific EOI, plain and rotating.
            3 => self.end(named),
            7 => {
                self.regs.priority_add = (named + 1) & 7;
                self.end(named)
            }
            // Set priority.
            6 => {
                self.regs.priority_add = (named + 1) & 7;
                Command::Reordered
            }
            _ => Command::None,
        }
    }

    fn end(&mut self, input: u8) -> Command {
        self.regs.isr &= !(1 << input);
        Command::Ended(1 << input)
    }

    /// The data port: the mask, or the next of the initialisation words.
    pub fn write_data(&mut self, value: u8) -> Command {
        let regs = &mut self.regs;
        match regs.init_state {
            init_state::READY => {
                let old = std::mem::replace(&mut regs.imr, value);
                return Command::Masks(old);
            }
            init_state::ICW2 => {
                regs.irq_base = value & 0xf8;
                regs.init_state = init_state::ICW3;
            }
            init_state::ICW3 => {
                regs.init_state = if regs.init4 != 0 {
                    init_state::ICW4
                } else {
                    init_state::READY
                };
            }
            init_state::ICW4 => {
                regs.special_fully_nested_mode = value >> 4 & 1;
                regs.auto_eoi = value >> 1 & 1;
                regs.init_state = init_state::READY;
            }
            _ => {}
        }
        Command::None
    }

    pub fn mask(&self) -> u8 {
        self.regs.imr
    }

    /// A poll command was given: the next read is an acknowledge.
    pub fn take_poll(&mut self) -> bool {
        std::mem::take(&mut self.regs.poll) != 0
    }

    /// The request is gone and, as polling replaces the acknowledge cycle, at once out of service.
    pub fn drop_request(&mut self, input: u8) {
        self.regs.irr &= !(1 << input);
        self.regs.isr &= !(1 << input);
    }

    /// A reset ended what was in service at these inputs.
    pub fn drop_service(&mut self, inputs: u8) {
        self.regs.isr &= !inputs;
    }

    pub fn read_command(&self) -> u8 {
        if self.regs.read_reg_select != 0 {
            self.regs.isr
        } else {
            self.regs.irr
        }
    }

    pub fn elcr(&self) -> u8 {
        self.regs.elcr
    }

    pub fn set_elcr(&mut self, value: u8) {
        self.regs.elcr = value & self.regs.elcr_mask;
    }
}
