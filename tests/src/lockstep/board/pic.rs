//! The pair of 8259s, as far as Linux uses them: initialization, masks, specific and non-specific end of interrupt.

#[derive(Clone, Default, PartialEq, Eq)]
struct Chip {
    base: u8,
    mask: u8,
    requested: u8,
    served: u8,
    /// Which initialization word is next.
    word: u8,
    reads_served: bool,
}

impl Chip {
    fn write(&mut self, data_port: bool, value: u8) {
        if data_port {
            match self.word {
                2 => (self.base, self.word) = (value & 0xf8, 3),
                3 => self.word = 4,
                4 => self.word = 0,
                _ => self.mask = value,
            }
        } else if value & 0x10 != 0 {
            *self = Chip {
                word: 2,
                ..Chip::default()
            };
        } else if value & 8 != 0 {
            if value & 2 != 0 {
                self.reads_served = value & 1 != 0;
            }
        } else if value & 0x60 == 0x60 {
            self.served &= !(1 << (value & 7));
        } else if value & 0x20 != 0 {
            self.served &= self.served.wrapping_sub(1);
        }
    }

    fn read(&self, data_port: bool) -> u8 {
        match (data_port, self.reads_served) {
            (true, _) => self.mask,
            (_, true) => self.served,
            _ => self.requested,
        }
    }

    /// The line to be served next, if one is more urgent than those that are.
    fn next(&self) -> Option<u32> {
        let line = (self.requested & !self.mask).trailing_zeros();
        (line < 8 && line < self.served.trailing_zeros()).then_some(line)
    }
}

/// Both chips; the second is on line 2 of the first.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pics([Chip; 2]);

impl Pics {
    pub fn write(&mut self, port: u16, value: u8) {
        self.0[usize::from(port >= 0xa0)].write(port & 1 != 0, value);
    }

    pub fn read(&self, port: u16) -> u8 {
        self.0[usize::from(port >= 0xa0)].read(port & 1 != 0)
    }

    /// An edge on one of the first chip's lines.
    pub fn raise(&mut self, line: u32) {
        self.0[0].requested |= 1 << line;
    }

    pub fn is_pending(&self) -> bool {
        self.0[0].next().is_some()
    }

    /// The vector of what is pending, which is served from now on.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let chip = &mut self.0[0];
        let line = chip.next()?;
        chip.requested &= !(1 << line);
        chip.served |= 1 << line;
        Some(chip.base | line as u8)
    }
}
