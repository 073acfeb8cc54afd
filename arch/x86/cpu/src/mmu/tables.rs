//! The tables of all slots and classes; most of them are never filled, and then they are all the same one.

use super::tlb::{CLASSES, SLOTS};
use super::{Class, Table};

/// The table that stays empty.
const EMPTY: u8 = 0;

pub struct Tables {
    tables: Vec<Box<Table>>,
    /// Which of them belongs to a slot and class.
    numbers: [u8; SLOTS * CLASSES],
}

/// Where the number of a slot's table for a class is.
pub fn place(slot: usize, class: Class) -> usize {
    (slot * CLASSES + class as usize) & (SLOTS * CLASSES - 1)
}

impl Tables {
    pub fn new() -> Tables {
        Tables {
            tables: vec![Table::empty()],
            numbers: [EMPTY; SLOTS * CLASSES],
        }
    }

    /// The table at a place, to be looked at.
    #[inline(always)]
    pub fn get(&self, place: usize) -> &Table {
        &self.tables[usize::from(self.numbers[place & (SLOTS * CLASSES - 1)])]
    }

    /// The table at a place, to be filled.
    pub fn own(&mut self, place: usize) -> &mut Table {
        let number = &mut self.numbers[place & (SLOTS * CLASSES - 1)];
        if *number == EMPTY {
            *number = self.tables.len() as u8;
            self.tables.push(Table::empty());
        }
        &mut self.tables[usize::from(*number)]
    }

    /// Every table that may hold something.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Table> {
        self.tables.iter_mut().skip(1).map(|table| &mut **table)
    }

    /// Those of a slot.
    pub fn of(&mut self, slot: usize) -> impl Iterator<Item = &mut Table> {
        let first = place(slot, Class::User);
        let numbers: [u8; CLASSES] = std::array::from_fn(|class| self.numbers[first + class]);
        self.tables
            .iter_mut()
            .enumerate()
            .filter(move |(number, _)| *number != 0 && numbers.contains(&(*number as u8)))
            .map(|(_, table)| &mut **table)
    }
}
