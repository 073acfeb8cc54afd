//! The client's memory, at an address of its own: what KVM is told to write never meets memory of the harness.

use fastrand::Rng;
use ring3_host::testing::ClientMemory;
use std::io;

const PAGE: usize = 4096;
/// Far away from everything that the system places, also with one bit of it changed.
const BASE: u64 = 0x1000_0000_0000;

/// Arguments of ioctls, and what they point to.
const ARGUMENTS: usize = 32;
/// Words between those of two threads.
const LANE: usize = 8 * PAGE / 8;
/// Behind them one page may only be read, and some are not there at all.
const READ_ONLY: usize = ARGUMENTS;
const GONE: usize = READ_ONLY + 1;
/// The guests' memory, again with read-only pages behind it.
const RAM: usize = GONE + 7;
const RAM_PAGES: usize = 128;
const ROM: usize = RAM + RAM_PAGES;
const ROM_PAGES: usize = 4;
/// Nothing is there, but nobody else will be.
const REST: usize = ROM + ROM_PAGES;
const PAGES: usize = 1 << 20;

pub struct Places {
    memory: ClientMemory,
}

impl Places {
    pub fn new() -> io::Result<Places> {
        let memory = ClientMemory::at(BASE, PAGES)?;
        memory.protect(READ_ONLY * PAGE, PAGE)?;
        memory.unmap(GONE * PAGE, (RAM - GONE) * PAGE)?;
        memory.protect(ROM * PAGE, ROM_PAGES * PAGE)?;
        memory.unmap(REST * PAGE, (PAGES - REST) * PAGE)?;
        Ok(Places { memory })
    }

    /// Where guest memory is.
    pub fn ram(&self) -> (u64, u64) {
        (BASE + (RAM * PAGE) as u64, (RAM_PAGES * PAGE) as u64)
    }

    /// Writes to the guest's memory.
    pub fn load(&self, at: usize, code: &[u8]) {
        self.memory.write(RAM * PAGE + at, code);
    }

    /// Puts an argument somewhere: mostly where it can be read and written, whole. Each thread has its own lane.
    pub fn put(&self, bytes: &[u8], rng: &mut Rng, lane: usize) -> u64 {
        let room = ARGUMENTS * PAGE;
        let offset = match rng.u8(..64) {
            // The last byte is in the way of nobody, or over the edge.
            0 | 1 => room - bytes.len().min(room),
            2 => room - rng.usize(..bytes.len().clamp(1, room)),
            3 => return BASE + (READ_ONLY * PAGE) as u64,
            4 => return nowhere(rng),
            _ => (lane * LANE + rng.usize(..8)) * 8,
        };
        let fits = bytes.len().min(room - offset);
        self.memory.write(offset, bytes.get(..fits).unwrap_or_default());
        BASE + offset as u64
    }

    /// What an argument holds now, if it was put where that can be read.
    pub fn get(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let offset = usize::try_from(at.checked_sub(BASE)?).ok()?;
        if offset.checked_add(len)? > ARGUMENTS * PAGE {
            return None;
        }
        let mut bytes = vec![0; len];
        self.memory.read(offset, &mut bytes);
        Some(bytes)
    }

    /// An address for a field that holds one.
    pub fn address(&self, rng: &mut Rng) -> u64 {
        let page = match rng.u8(..16) {
            0 => READ_ONLY,
            1 => GONE,
            2 => ROM,
            3 => REST + rng.usize(..1000),
            4 => return nowhere(rng),
            5..9 => rng.usize(..ARGUMENTS),
            _ => RAM + rng.usize(..RAM_PAGES),
        };
        let within = if rng.u8(..4) == 0 { rng.usize(..PAGE) } else { 0 };
        BASE + (page * PAGE + within) as u64
    }

    /// A slot's memory that is nobody else's: what is left of `size` bytes at `address`.
    pub fn confine(&self, address: u64, size: u64) -> (u64, u64) {
        let end = BASE + (PAGES * PAGE) as u64;
        match address.checked_add(size) {
            Some(last) if (BASE..end).contains(&address) => {
                (address, if last > end { end - address } else { size })
            }
            // Not of the user's half, or over the top: no memory at all.
            _ if address >= 1 << 47 => (address, size),
            _ => (self.ram().0, size.min(self.ram().1)),
        }
    }
}

fn nowhere(rng: &mut Rng) -> u64 {
    const ADDRESSES: [u64; 6] = [
        0,
        8,
        0x7fff_ffff_f000,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        u64::MAX - 7,
    ];
    ADDRESSES[rng.usize(..ADDRESSES.len())]
}
