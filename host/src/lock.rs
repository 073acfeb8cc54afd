//! Mutexes with a rank: a thread takes them in rising order only, and debug builds check it.
//!
//! A lock whose holder panicked is taken all the same:
//! a panic is a bug that must not turn into a second one in a client's other threads.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The place of a lock in the order. Greater ones are taken later, while lesser ones are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(pub u16);

/// A mutex that knows its [`Rank`].
#[derive(Debug)]
pub struct RankedMutex<T> {
    rank: Rank,
    inner: Mutex<T>,
}

impl<T> RankedMutex<T> {
    /// Wraps `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        RankedMutex {
            rank,
            inner: Mutex::new(value),
        }
    }

    /// Locks it. Debug builds panic if this thread holds a lock of the same or a greater rank.
    #[track_caller]
    pub fn lock(&self) -> RankedGuard<'_, T> {
        held::push(self.rank);
        RankedGuard {
            rank: self.rank,
            inner: self.inner.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Locks it if nobody has it. Trying cannot deadlock, so any order is allowed; what is locked then counts.
    pub fn try_lock(&self) -> Option<RankedGuard<'_, T>> {
        let inner = match self.inner.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(e)) => e.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        held::note(self.rank);
        Some(RankedGuard {
            rank: self.rank,
            inner,
        })
    }

    /// The value, for its only owner.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the value back.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lock, held.
#[derive(Debug)]
pub struct RankedGuard<'a, T> {
    rank: Rank,
    inner: MutexGuard<'a, T>,
}

impl<T> Deref for RankedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for RankedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for RankedGuard<'_, T> {
    fn drop(&mut self) {
        held::pop(self.rank);
    }
}

#[cfg(debug_assertions)]
mod held {
    use super::Rank;
    use std::cell::Cell;

    /// More are never held at once; what is beyond goes unchecked.
    const MOST: usize = 16;

    thread_local! {
        static HELD: Cell<([u16; MOST], usize)> = const { Cell::new(([0; MOST], 0)) };
    }

    #[track_caller]
    pub fn push(rank: Rank) {
        let (ranks, count) = HELD.get();
        if let Some(held) = ranks[..count].iter().max().filter(|held| **held >= rank.0) {
            panic!("lock of rank {} taken while one of rank {held} is held", rank.0);
        }
        note(rank);
    }

    pub fn note(rank: Rank) {
        let (mut ranks, count) = HELD.get();
        if count < MOST {
            ranks[count] = rank.0;
            HELD.set((ranks, count + 1));
        }
    }

    pub fn pop(rank: Rank) {
        let (mut ranks, count) = HELD.get();
        if let Some(at) = ranks[..count].iter().rposition(|held| *held == rank.0) {
            ranks.copy_within(at + 1..count, at);
            HELD.set((ranks, count - 1));
        }
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;

    #[inline(always)]
    pub fn push(_: Rank) {}
    #[inline(always)]
    pub fn note(_: Rank) {}
    #[inline(always)]
    pub fn pop(_: Rank) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_order_is_fine() {
        let (a, b) = (RankedMutex::new(Rank(1), 1), RankedMutex::new(Rank(2), 2));
        {
            let a = a.lock();
            let b = b.lock();
            drop(a);
            assert_eq!(*b, 2);
        }
        *a.lock() += 1;
        assert_eq!(a.into_inner(), 2);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "rank 1 taken while one of rank 2")]
    fn falling_order_is_not() {
        let (a, b) = (RankedMutex::new(Rank(1), ()), RankedMutex::new(Rank(2), ()));
        let _b = b.lock();
        let _a = a.lock();
    }

    #[test]
    fn trying_is_free() {
        let (a, b) = (RankedMutex::new(Rank(1), ()), RankedMutex::new(Rank(2), ()));
        let held = b.lock();
        assert!(b.try_lock().is_none());
        assert!(a.try_lock().is_some());
        drop(held);
        let _a = a.lock();
    }

    #[test]
    fn a_panic_does_not_spread() {
        let a = RankedMutex::new(Rank(1), 5);
        std::thread::scope(|s| {
            let died = s.spawn(|| {
                let _held = a.lock();
                panic!("on purpose");
            });
            assert!(died.join().is_err());
        });
        assert_eq!(*a.lock(), 5);
    }
}
