//! Faults of translated code: memory that the client took away, and divisions that fail.
//!
//! The instruction that faulted has a slow way, where the interpreter does it from its beginning and finds out what is
//! wrong. A table per vCPU says where that is; the handler finds the table by the address of the code.

use ring3_host::signal::{Fault, Handled, add_fault_hook};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU64};

/// vCPUs of one process that can have translations at a time.
const MOST: usize = 1024;

/// A piece of code memory and its table; in use if `start` is not zero.
struct Place {
    start: AtomicU64,
    len: AtomicU64,
    entries: AtomicPtr<Vec<(u32, u32)>>,
}

static PLACES: [Place; MOST] = [const {
    Place {
        start: AtomicU64::new(0),
        len: AtomicU64::new(0),
        entries: AtomicPtr::new(std::ptr::null_mut()),
    }
}; MOST];

/// One vCPU's table: pairs of an instruction and its slow way, both counted from the memory's start, in order.
pub struct Table {
    place: &'static Place,
}

impl Table {
    /// `None` if there are too many.
    pub fn register(start: u64, len: usize) -> Option<Table> {
        add_fault_hook(hook).ok()?;
        let place = PLACES
            .iter()
            .find(|place| place.start.compare_exchange(0, 1, Acquire, Relaxed).is_ok())?;
        place.entries.store(Box::into_raw(Box::default()), Relaxed);
        place.len.store(len as u64, Relaxed);
        place.start.store(start, Release);
        Some(Table { place })
    }

    fn entries(&mut self) -> &mut Vec<(u32, u32)> {
        // SAFETY: made in `register` and freed in `drop`. The handler reads it only on the thread that executes this
        // memory's code, which is not here then.
        unsafe { &mut *self.place.entries.load(Relaxed) }
    }

    /// Adds an instruction; later ones lie behind it.
    pub fn add(&mut self, from: u32, to: u32) {
        self.entries().push((from, to));
    }

    pub fn clear(&mut self) {
        self.entries().clear();
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.place.len.store(0, Relaxed);
        let entries = self.place.entries.swap(std::ptr::null_mut(), Relaxed);
        self.place.start.store(0, Release);
        // SAFETY: made in `register`; its memory's code runs no more.
        drop(unsafe { Box::from_raw(entries) });
    }
}

fn hook(fault: &mut Fault<'_>) -> Handled {
    let rip = fault.rip();
    for place in &PLACES {
        let start = place.start.load(Acquire);
        if rip.wrapping_sub(start) >= place.len.load(Relaxed) || start < 2 {
            continue;
        }
        // SAFETY: this thread executes the memory's code, so its table is there, and nobody changes it.
        let entries = unsafe { &*place.entries.load(Relaxed) };
        let offset = (rip - start) as u32;
        let Ok(n) = entries.binary_search_by_key(&offset, |(from, _)| *from) else {
            return Handled::No;
        };
        fault.set_rip(start + u64::from(entries[n].1));
        return Handled::Yes;
    }
    Handled::No
}
