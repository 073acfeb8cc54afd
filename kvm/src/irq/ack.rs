//! Who wants to know that the guest ended an interrupt.

use std::sync::{Arc, PoisonError, RwLock};

/// What is called at the end of interrupt of a GSI, on the thread that ended it.
pub type OnAck = Arc<dyn Fn() + Send + Sync>;

#[derive(Clone)]
struct Entry {
    gsi: u32,
    id: u64,
    call: OnAck,
}

/// The notifiers of a VM.
#[derive(Default)]
pub struct Acks {
    list: RwLock<(Vec<Entry>, u64)>,
}

impl Acks {
    /// Calls `call` at each end of interrupt of `gsi`, until [`Acks::remove`] of the number returned.
    pub fn add(&self, gsi: u32, call: OnAck) -> u64 {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.1 += 1;
        let id = list.1;
        list.0.push(Entry { gsi, id, call });
        id
    }

    pub fn remove(&self, id: u64) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Entry> = list.0.extract_if(.., |entry| entry.id == id).collect();
        drop(list);
        drop(gone);
    }

    /// Whether anybody wants to know of this GSI.
    pub fn wanted(&self, gsi: u32) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.0.iter().any(|entry| entry.gsi == gsi)
    }

    /// Calls those of this GSI.
    pub fn notify(&self, gsi: u32) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let calls: Vec<OnAck> = list
            .0
            .iter()
            .filter(|entry| entry.gsi == gsi)
            .map(|entry| Arc::clone(&entry.call))
            .collect();
        drop(list);
        calls.iter().for_each(|call| call());
    }

    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut self.list.write().unwrap_or_else(PoisonError::into_inner).0);
        drop(gone);
    }
}
