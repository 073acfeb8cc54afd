//! A program's file, mapped where it runs.

use crate::elf::{EXECUTE, Elf, PAGE, Place, READ, Segment, WRITE};
use ring3_host::random;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

/// A program in memory.
#[derive(Debug)]
pub struct Image {
    pub entry: u64,
    pub headers: u64,
    pub header_count: u64,
    /// All of it, whole pages.
    pub span: Range<u64>,
    pub executable_stack: bool,
}

/// Programs that may be anywhere are put here, which neither Linux nor a linker uses, so that their instructions are known by their addresses.
pub const ANYWHERE: Range<u64> = 0x1000_0000_0000..0x1100_0000_0000;
/// And those that may not, below this.
pub const FIXED: Range<u64> = 0..0x1_0000_0000;

/// As much of a file as has its headers.
const HEAD: u64 = 1 << 16;
/// How often a place is looked for.
const ATTEMPTS: usize = 64;

/// Maps the program at `path`.
pub fn load(path: &Path) -> Result<Image, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    (&file)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(|error| error.to_string())?;
    let elf = Elf::parse(&head).map_err(|error| error.to_string())?;
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    if elf
        .loads
        .iter()
        .any(|segment| segment.offset + segment.in_file > len)
    {
        return Err("it is shorter than its program headers say".to_string());
    }
    let base = reserve(&elf).map_err(|error| format!("there is no room for it in memory: {error}"))?;
    for segment in &elf.loads {
        map(&file, segment, base).map_err(|error| format!("mapping it: {error}"))?;
    }
    let (start, end) = elf.span();
    Ok(Image {
        entry: elf.entry.wrapping_add(base),
        headers: elf.headers.map_or(0, |headers| headers.wrapping_add(base)),
        header_count: elf.header_count,
        span: start + base..end + base,
        executable_stack: elf.executable_stack,
    })
}

/// Takes the addresses from the first segment to the last, and says by how much the program is moved.
fn reserve(elf: &Elf) -> Result<u64, Errno> {
    let (start, end) = elf.span();
    let len = end - start;
    if elf.place == Place::Fixed {
        return take(start, len).map(|()| 0);
    }
    let mut error = Errno::NOMEM;
    for _ in 0..ATTEMPTS {
        let room = (ANYWHERE.end - ANYWHERE.start)
            .checked_sub(len)
            .ok_or(Errno::NOMEM)?;
        let at = ANYWHERE.start + random::word().ok_or(Errno::AGAIN)? % room;
        let at = at & !(elf.align() - 1);
        match take(at, len) {
            // A base is what is added, which may be less than nothing.
            Ok(()) => return Ok(at.wrapping_sub(start)),
            Err(other) => error = other,
        }
    }
    Err(error)
}

fn take(at: u64, len: u64) -> Result<(), Errno> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
    // SAFETY: nothing is replaced.
    let got = unsafe { mmap_anonymous(at as *mut c_void, len as usize, ProtFlags::empty(), flags) }?;
    if got as u64 == at {
        return Ok(());
    }
    // Kernels before 4.17 take the address as a wish.
    // SAFETY: the mapping has just been made.
    unsafe { munmap(got, len as usize) }?;
    Err(Errno::EXIST)
}

fn rights(segment: &Segment) -> ProtFlags {
    let pairs = [
        (READ, ProtFlags::READ),
        (WRITE, ProtFlags::WRITE),
        (EXECUTE, ProtFlags::EXEC),
    ];
    let has = |(flag, right)| {
        if segment.flags & flag != 0 {
            right
        } else {
            ProtFlags::empty()
        }
    };
    pairs.into_iter().map(has).collect()
}

/// Maps what a segment has in the file, and nothing behind it.
fn map(file: &File, segment: &Segment, base: u64) -> Result<(), Errno> {
    let start = segment.address.wrapping_add(base);
    let (first, in_file) = (start & !(PAGE - 1), start + segment.in_file);
    let from_file = in_file.next_multiple_of(PAGE) - first;
    let rights = rights(segment);
    if segment.in_file > 0 {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let offset = segment.offset & !(PAGE - 1);
        // SAFETY: the addresses were taken for the program.
        unsafe {
            mmap(
                first as *mut c_void,
                from_file as usize,
                rights,
                flags,
                file.as_fd(),
                offset,
            )
        }?;
    }
    let end = start + segment.in_memory;
    if segment.in_memory == segment.in_file {
        return Ok(());
    }
    if segment.in_file > 0 && in_file % PAGE != 0 && segment.flags & WRITE != 0 {
        // All of it, as Linux does, also behind the segment's end: the dynamic linker takes its first memory from there.
        let rest = PAGE - in_file % PAGE;
        // SAFETY: the rest of the last page, which was mapped writable for the program alone.
        unsafe { std::ptr::write_bytes(in_file as *mut u8, 0, rest as usize) };
    }
    let zeroes = if segment.in_file > 0 {
        in_file.next_multiple_of(PAGE)
    } else {
        first
    };
    if end > zeroes {
        let len = end.next_multiple_of(PAGE) - zeroes;
        // SAFETY: the addresses were taken for the program, and hold nothing yet.
        unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::FIXED;
            mmap_anonymous(zeroes as *mut c_void, len as usize, rights, flags)?;
        }
    }
    Ok(())
}

/// Gives the pages of a stack that the program wants to execute that right too.
pub fn make_executable(range: Range<u64>) -> Result<(), Errno> {
    let rights =
        rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE | rustix::mm::MprotectFlags::EXEC;
    // SAFETY: only a right is added.
    unsafe {
        mprotect(
            range.start as *mut c_void,
            (range.end - range.start) as usize,
            rights,
        )
    }
}
