//! The process's board: one memfd, `ring3-stat`, where the numbers of its VMs and vCPUs are for `ring3 stat` to see, which finds it
//! among the process's descriptors. Nobody serves it, and only this process writes it.
//!
//! It begins with a [`Head`], behind which [`SLOTS`] [`Entry`]s say what each slot has in it; a slot that is taken begins as a file
//! of KVM_GET_STATS_FD does. The board is there as long as the process has a VM. A client that closes descriptors that it does not
//! know closes this one, too: then nothing is seen of it, and nothing else happens. A forked child has the parent's board
//! among its descriptors, which [`Head::pid`] gives away, and gets one of its own with its first VM.

use ring3_host::process;
use ring3_host::shown::PostedPages;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, Weak};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The memfd's name.
pub const NAME: &str = "ring3-stat";
/// What a board begins with.
pub const MAGIC: [u8; 8] = *b"ring3-st";
/// Of what is described here.
pub const VERSION: u32 = 1;
/// VMs and vCPUs that have room. Those beyond count without being seen.
pub const SLOTS: usize = 512;
/// Bytes of a slot.
pub const SLOT_SIZE: usize = 8192;

/// Where the entries begin.
const ENTRIES: usize = 4096;
/// Where the first slot is.
const FIRST_SLOT: usize = ENTRIES + (SLOTS * size_of::<Entry>()).next_multiple_of(4096);
const SIZE: usize = FIRST_SLOT + SLOTS * SLOT_SIZE;

/// The beginning of a board. A reader takes offsets and sizes from here.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Head {
    pub magic: [u8; 8],
    pub version: u32,
    /// The process that it is of, by its own count (`NSpid` has that, too).
    pub pid: u32,
    pub entries_offset: u32,
    pub slots: u32,
    pub slots_offset: u32,
    pub slot_size: u32,
}

/// What is in a slot. It is written last, and cleared first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Entry {
    /// [`FREE`], [`VM`] or [`VCPU`].
    pub kind: u32,
    /// The VM's number, in the order they were made.
    pub vm: u32,
    /// The vCPU's `id`.
    pub vcpu: u32,
    pub reserved: u32,
}

pub const FREE: u32 = 0;
pub const VM: u32 = 1;
pub const VCPU: u32 = 2;

/// Whose numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Vm { vm: u32 },
    Vcpu { vm: u32, id: u32 },
}

impl From<Whose> for Entry {
    fn from(whose: Whose) -> Entry {
        let (kind, vm, vcpu) = match whose {
            Whose::Vm { vm } => (VM, vm, 0),
            Whose::Vcpu { vm, id } => (VCPU, vm, id),
        };
        Entry {
            kind,
            vm,
            vcpu,
            reserved: 0,
        }
    }
}

#[derive(Debug)]
struct Board {
    pages: PostedPages,
    taken: Mutex<Vec<bool>>,
}

/// The board that is in force. It lives as long as something is posted on it.
static BOARD: Mutex<Weak<Board>> = Mutex::new(Weak::new());

/// A slot of the board, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Post {
    board: Arc<Board>,
    slot: usize,
    /// Where its numbers are in the board.
    numbers: usize,
}

impl Board {
    fn new() -> std::io::Result<Board> {
        let pages = PostedPages::new(NAME, SIZE / 4096)?;
        let head = Head {
            magic: MAGIC,
            version: VERSION,
            pid: process::id(),
            entries_offset: ENTRIES as u32,
            slots: SLOTS as u32,
            slots_offset: FIRST_SLOT as u32,
            slot_size: SLOT_SIZE as u32,
        };
        pages.pages().store(0, &head);
        Ok(Board {
            pages,
            taken: Mutex::new(vec![false; SLOTS]),
        })
    }

    fn write_entry(&self, slot: usize, entry: Entry) {
        let at = ENTRIES + slot * size_of::<Entry>();
        self.pages.pages().store(at, &entry);
    }
}

/// Puts numbers, all zero, on the board, behind what describes them; `None` if there is no room.
pub(super) fn post(whose: Whose, head: &[u8], count: usize) -> Option<Post> {
    if !head.len().is_multiple_of(8) || head.len() + count * 8 > SLOT_SIZE {
        return None;
    }
    let board = {
        let mut current = BOARD.lock().ok()?;
        match current.upgrade() {
            Some(board) => board,
            None => {
                let board = Arc::new(Board::new().ok()?);
                *current = Arc::downgrade(&board);
                board
            }
        }
    };
    let slot = {
        let mut taken = board.taken.lock().ok()?;
        let slot = taken.iter().position(|taken| !taken)?;
        taken[slot] = true;
        slot
    };
    let at = FIRST_SLOT + slot * SLOT_SIZE;
    let pages = board.pages.pages();
    pages.write(at, head);
    pages.write(at + head.len(), &vec![0; count * 8]);
    board.write_entry(slot, whose.into());
    Some(Post {
        numbers: at + head.len(),
        board,
        slot,
    })
}

impl Post {
    /// A number.
    #[inline(always)]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        self.board.pages.pages().atomic_u64(self.numbers + index * 8)
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        let free = Entry {
            kind: FREE,
            vm: 0,
            vcpu: 0,
            reserved: 0,
        };
        self.board.write_entry(self.slot, free);
        if let Ok(mut taken) = self.board.taken.lock() {
            taken[self.slot] = false;
        }
    }
}

/// In a forked child: the board is the parent's.
pub(super) fn forget() {
    // A thread of the parent's may have held it, which will never let go here: then the child's VMs are not seen.
    if let Ok(mut board) = BOARD.try_lock() {
        *board = Weak::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn slots_are_given_back() {
        let whose = Whose::Vcpu { vm: 1, id: 7 };
        let first = post(whose, &[1; 16], 3).expect("there is room");
        first.word(2).store(5, Relaxed);
        let entry = |slot: usize| -> Entry {
            let at = ENTRIES + slot * size_of::<Entry>();
            first.board.pages.pages().load(at)
        };
        assert_eq!(entry(first.slot), Entry::from(whose));
        let second = post(whose, &[2; 16], 3).expect("there is room");
        assert_ne!(first.slot, second.slot);
        second.word(0).store(9, Relaxed);
        let slot = second.slot;
        drop(second);
        // Other tests may have taken it since.
        let again = post(whose, &[3; 16], 3).expect("there is room");
        assert!(again.word(0).load(Relaxed) == 0 && (again.slot <= slot || entry(slot).kind != FREE));
        assert_eq!(first.word(2).load(Relaxed), 5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(post(Whose::Vm { vm: 0 }, &[0; 16], SLOT_SIZE / 8).is_none());
    }
}
