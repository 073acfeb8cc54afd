//! Arguments that are a header and then entries.

use crate::Errno;
use crate::handle::Fd;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The most entries that are asked for before giving up: more than any list of KVM's has.
const MOST: usize = 1 << 14;

/// A header and its entries in one aligned piece of memory.
pub(crate) struct List {
    words: Vec<u64>,
    header: usize,
}

impl List {
    pub(crate) fn new<H, E>(header: &H, entries: &[E]) -> List
    where
        H: IntoBytes + Immutable,
        E: IntoBytes + Immutable,
    {
        let (head, tail) = (header.as_bytes(), entries.as_bytes());
        let mut list = List {
            words: vec![0; (head.len() + tail.len()).div_ceil(8)],
            header: head.len(),
        };
        let bytes = list.words.as_mut_bytes();
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..head.len() + tail.len()].copy_from_slice(tail);
        list
    }

    pub(crate) fn call(&mut self, fd: &Fd, request: u32) -> Result<i64, Errno> {
        fd.value(request, self.words.as_mut_bytes().as_mut_ptr() as u64)
    }

    pub(crate) fn header<H: FromBytes + Default>(&self) -> H {
        H::read_from_prefix(self.words.as_bytes())
            .map(|(header, _)| header)
            .unwrap_or_default()
    }

    /// The first `count` entries.
    pub(crate) fn entries<E: FromBytes>(&self, count: usize) -> Vec<E> {
        let bytes = &self.words.as_bytes()[self.header..];
        bytes
            .chunks_exact(size_of::<E>())
            .take(count)
            .filter_map(|entry| E::read_from_bytes(entry).ok())
            .collect()
    }
}

/// Asks for a list of unknown length: KVM answers E2BIG as long as there is too little room.
pub(crate) fn fetch<H, E>(
    fd: &Fd,
    request: u32,
    first_guess: usize,
    header_for: impl Fn(u32) -> H,
    count: impl Fn(&H) -> u32,
) -> Result<Vec<E>, Errno>
where
    H: FromBytes + IntoBytes + Immutable + Default,
    E: FromBytes + IntoBytes + Immutable + Clone,
{
    let mut room = first_guess;
    loop {
        let empty = vec![E::new_zeroed(); room];
        let mut list = List::new(&header_for(room as u32), &empty);
        match list.call(fd, request) {
            Ok(_) => return Ok(list.entries(count(&list.header()) as usize)),
            Err(Errno::E2BIG) if room < MOST => room *= 2,
            Err(e) => return Err(e),
        }
    }
}
