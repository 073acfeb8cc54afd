//! The memory that code finds: a page or more each of code, data and stack, with nothing in between.
//!
//! All of it lies below 2 GiB, so that 32-bit addressing and absolute displacements reach it, and in 64 KiB, so that
//! 16-bit code reaches it in segments that begin where the code does.

use ring3_host::testing::{Rights, Segment, SegmentKind, Window};

pub const PAGE: u64 = 4096;

/// Two pages of code, so that an instruction may lie across their border.
pub const CODE: u64 = 0x2000_0000;
pub const CODE_PAGES: usize = 2;
/// Three writable pages and, right behind them, a read-only one.
pub const DATA: u64 = 0x2000_4000;
pub const DATA_PAGES: usize = 3;
pub const READ_ONLY: u64 = DATA + DATA_PAGES as u64 * PAGE;
pub const STACK: u64 = 0x2000_a000;

/// Pages in all.
pub const PAGES: usize = CODE_PAGES + DATA_PAGES + 2;

pub const WINDOWS: [Window; 4] = [
    Window {
        address: CODE,
        page: 0,
        pages: CODE_PAGES,
        rights: Rights::Execute,
    },
    Window {
        address: DATA,
        page: CODE_PAGES,
        pages: DATA_PAGES,
        rights: Rights::Write,
    },
    Window {
        address: READ_ONLY,
        page: CODE_PAGES + DATA_PAGES,
        pages: 1,
        rights: Rights::Read,
    },
    Window {
        address: STACK,
        page: CODE_PAGES + DATA_PAGES + 1,
        pages: 1,
        rights: Rights::Write,
    },
];

/// The segments of 16-bit code: its own, the data's, which ends with the writable pages, so that what runs beyond the end
/// has nothing else wrong with it, and the stack's.
pub const SEGMENTS: [Segment; 3] = [
    Segment {
        base: CODE as u32,
        limit: 0x1fff,
        kind: SegmentKind::Code,
    },
    Segment {
        base: CODE as u32,
        limit: (READ_ONLY - CODE) as u32 - 1,
        kind: SegmentKind::Data,
    },
    Segment {
        base: CODE as u32,
        limit: 0xffff,
        kind: SegmentKind::Data,
    },
];

/// Where in [`Machine::memory`](super::Machine::memory) an address is, if anywhere.
pub fn offset(address: u64) -> Option<usize> {
    WINDOWS.iter().find_map(|window| {
        let inside = address.checked_sub(window.address)?;
        (inside < window.pages as u64 * PAGE).then_some(window.page * PAGE as usize + inside as usize)
    })
}

/// The address of a place in [`Machine::memory`](super::Machine::memory).
pub fn address(offset: usize) -> u64 {
    WINDOWS
        .iter()
        .find_map(|window| {
            let inside = offset.checked_sub(window.page * PAGE as usize)?;
            (inside < window.pages * PAGE as usize).then_some(window.address + inside as u64)
        })
        .unwrap_or(0)
}
