//! What whoever changes slots knows of them: by their ids, and whether two of them show the same memory.

use super::Slot;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Above so many regions, that none is shown twice any more is not found out.
const FEW: usize = 1024;

/// The book of all address spaces.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// By address space and id.
    slots: HashMap<(u16, u16), Arc<Slot>>,
    /// Regions of this process's memory: the first page, whose it is, and the page behind the last.
    regions: BTreeMap<(u64, u16, u16), u64>,
    aliased: bool,
}

impl Book {
    pub fn slot(&self, space: u16, id: u16) -> Option<&Arc<Slot>> {
        self.slots.get(&(space, id))
    }

    /// Whether some memory may be shown by two slots, or twice by one.
    pub fn is_aliased(&self) -> bool {
        self.aliased
    }

    pub fn add(&mut self, slot: &Arc<Slot>) {
        for region in slot.regions() {
            let first = region.address().page();
            let end = first + region.pages();
            // As long as none overlap, the neighbours are all there is to be looked at.
            let before = self.regions.range(..(end, 0, 0)).next_back();
            self.aliased |= before.is_some_and(|(_, &other_end)| other_end > first);
            self.regions.insert((first, slot.space, slot.id), end);
        }
        self.slots.insert((slot.space, slot.id), Arc::clone(slot));
    }

    pub fn remove(&mut self, slot: &Slot) {
        self.slots.remove(&(slot.space, slot.id));
        for region in slot.regions() {
            self.regions
                .remove(&(region.address().page(), slot.space, slot.id));
        }
        if self.aliased && self.regions.len() <= FEW {
            let mut top = 0;
            self.aliased = self.regions.iter().any(|(&(first, ..), &end)| {
                let overlaps = first < top;
                top = top.max(end);
                overlaps
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::Slot;
    use crate::memory::code::CodeMaps;
    use ring3_host::mem::HostRegion;
    use std::sync::Arc;

    #[test]
    fn memory_that_is_shown_twice_is_known() {
        let code = CodeMaps::default();
        let slot = |space, id, first: u64, pages: u64| {
            let region = HostRegion::from_client(first * 4096, pages * 4096).unwrap();
            Arc::new(Slot {
                space,
                id,
                base: 0,
                flags: 0,
                region,
                dirty: None,
                code: code.of(&region).unwrap(),
                guest: None,
            })
        };
        let mut book = super::Book::default();
        let slots = [slot(0, 0, 100, 10), slot(0, 1, 110, 10), slot(0, 2, 90, 10)];
        slots.iter().for_each(|slot| book.add(slot));
        assert!(!book.is_aliased());
        for twice in [
            slot(1, 0, 100, 10),
            slot(0, 3, 95, 1),
            slot(0, 3, 119, 5),
            slot(0, 3, 80, 100),
        ] {
            book.add(&twice);
            assert!(book.is_aliased(), "{:?}", twice.region());
            book.remove(&twice);
            assert!(!book.is_aliased());
        }
        assert!(book.slot(0, 1).is_some() && book.slot(1, 1).is_none());
    }
}
