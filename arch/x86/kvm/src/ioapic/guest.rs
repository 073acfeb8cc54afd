//! The guest's face: the register select and window at FEC00000h.

use super::{Entry, Ioapic, PINS, Pin, Report};
use crate::ports::InterruptBus;

const SELECT: u64 = 0x00;
const DATA: u64 = 0x10;

const REG_ID: u32 = 0x00;
const REG_VERSION: u32 = 0x01;
const REG_ARBITRATION: u32 = 0x02;
const REG_TABLE: u32 = 0x10;

const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;

/// A pin's mask bit was toggled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaskChange {
    Masked(Pin),
    Unmasked(Pin),
}

/// What a write changed for the rest of the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Written {
    /// The table changed: every APIC's set of EOI vectors is out of date.
    pub table: bool,
    pub mask: Option<MaskChange>,
}

impl Ioapic {
    /// Read at an offset into the window. What is no register reads as zero.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset & 0xff {
            SELECT => self.select,
            DATA => self.read_selected(),
            _ => 0,
        };
        data.fill(0);
        for (byte, source) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = source;
        }
    }

    /// Write at an offset into the window.
    pub fn mmio_write(&mut self, offset: u64, data: &[u8], bus: &mut dyn InterruptBus) -> Written {
        if !matches!(data.len(), 1 | 2 | 4 | 8) {
            return Written::default();
        }
        let mut bytes = [0; 4];
        for (byte, source) in bytes.iter_mut().zip(data) {
            *byte = *source;
        }
        let value = u32::from_le_bytes(bytes);
        match offset & 0xff {
            SELECT => {
                self.select = value & 0xff;
                Written::default()
            }
            DATA => self.write_selected(value, bus),
            _ => Written::default(),
        }
    }

    /// The table entry that the select register points at.
    fn selected_pin(&self) -> Option<Pin> {
        Pin::new(self.select.checked_sub(REG_TABLE)? >> 1)
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            REG_VERSION => VERSION,
            REG_ID | REG_ARBITRATION => (self.id & 0xf) << 24,
            _ => {
                let bits = self.selected_pin().map_or(u64::MAX, |pin| self.entry(pin).0);
                (bits >> (32 * (self.select & 1))) as u32
            }
        }
    }

    fn write_selected(&mut self, value: u32, bus: &mut dyn InterruptBus) -> Written {
        if self.select == REG_ID {
            self.id = value >> 24 & 0xf;
        }
        let Some(pin) = self.selected_pin() else {
            return Written::default();
        };
        let old = self.entry(pin);
        let bits = if self.select & 1 == 0 {
            old.0 & !0xffff_ffff | u64::from(value)
        } else {
            old.0 & 0xffff_ffff | u64::from(value) << 32
        };
        let new: Entry = old.written(bits);
        self.entries[pin.index()] = new;
        if new.is_level() && self.irr & pin.bit() != 0 {
            self.service(pin, Report::Nobody, bus);
        }
        let mask = match (old.is_masked(), new.is_masked()) {
            (false, true) => Some(MaskChange::Masked(pin)),
            (true, false) => Some(MaskChange::Unmasked(pin)),
            _ => None,
        };
        Written { table: true, mask }
    }
}
