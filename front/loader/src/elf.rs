//! The parts of an ELF file that tell how to map a program. A malformed file is refused with the reason.

use std::fmt;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// Where the headers and tables say what; all fields of `Elf64_Ehdr`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    ident: [u8; 16],
    kind: u16,
    machine: u16,
    version: u32,
    entry: u64,
    segments: u64,
    sections: u64,
    flags: u32,
    header_size: u16,
    segment_size: u16,
    segment_count: u16,
    section_size: u16,
    section_count: u16,
    names: u16,
}

/// `Elf64_Phdr`.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    pub address: u64,
    _physical: u64,
    pub in_file: u64,
    pub in_memory: u64,
    pub align: u64,
}

const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const PHDR: u32 = 6;
const GNU_STACK: u32 = 0x6474_e551;

/// `Segment::flags`.
pub const EXECUTE: u32 = 1;
pub const WRITE: u32 = 2;
pub const READ: u32 = 4;

pub const PAGE: u64 = 4096;

/// Where user memory ends.
const TOP: u64 = 1 << 47;

/// Why a file cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether a program says where it wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At its own addresses.
    Fixed,
    /// Anywhere.
    Anywhere,
}

/// How to map a program.
#[derive(Debug)]
pub struct Elf {
    pub place: Place,
    pub entry: u64,
    /// The addresses of its program headers, if it has them in memory, and how many there are.
    pub headers: Option<u64>,
    pub header_count: u64,
    pub loads: Vec<Segment>,
    pub executable_stack: bool,
}

impl Elf {
    /// Reads what `file` begins with.
    pub fn parse(file: &[u8]) -> Result<Elf, Malformed> {
        let (header, _) = Header::read_from_prefix(file).map_err(|_| Malformed("it is too short"))?;
        if header.ident[..6] != *b"\x7fELF\x02\x01" || header.machine != 62 {
            return Err(Malformed("it is no program for x86-64"));
        }
        let place = match header.kind {
            2 => Place::Fixed,
            3 => Place::Anywhere,
            _ => return Err(Malformed("it is no program")),
        };
        if header.segment_size as usize != size_of::<Segment>() {
            return Err(Malformed("its program headers are of another size"));
        }
        let segments = segments(file, &header)?;
        if segments.iter().any(|segment| segment.kind == INTERPRETER) {
            return Err(Malformed("it is linked dynamically"));
        }
        let loads: Vec<Segment> = segments.iter().copied().filter(|s| s.kind == LOAD).collect();
        check(&loads)?;
        let stack = segments.iter().find(|segment| segment.kind == GNU_STACK);
        Ok(Elf {
            place,
            entry: header.entry,
            headers: headers_in_memory(&header, &segments),
            header_count: header.segment_count.into(),
            executable_stack: stack.is_none_or(|stack| stack.flags & EXECUTE != 0),
            loads,
        })
    }

    /// The first address, and the one behind the last, of all that is loaded: whole pages.
    pub fn span(&self) -> (u64, u64) {
        let first = self
            .loads
            .first()
            .map_or(0, |segment| segment.address & !(PAGE - 1));
        let last = self
            .loads
            .last()
            .map_or(0, |segment| segment.address + segment.in_memory);
        (first, last.next_multiple_of(PAGE))
    }

    /// What the first address must be a multiple of, where the program may be anywhere.
    pub fn align(&self) -> u64 {
        let wanted = self
            .loads
            .iter()
            .map(|segment| segment.align)
            .filter(|align| align.is_power_of_two());
        wanted.max().unwrap_or(PAGE).clamp(PAGE, 1 << 30)
    }
}

fn segments(file: &[u8], header: &Header) -> Result<Vec<Segment>, Malformed> {
    let missing = Malformed("its program headers are not at its beginning");
    let start = usize::try_from(header.segments).map_err(|_| missing)?;
    let mut table = file.get(start..).ok_or(missing)?;
    let mut all = Vec::new();
    for _ in 0..header.segment_count {
        let (segment, rest) = Segment::read_from_prefix(table).map_err(|_| missing)?;
        all.push(segment);
        table = rest;
    }
    Ok(all)
}

/// What Linux checks, and what mapping relies on: segments in order, apart, in the user's half, and no smaller in memory than in the file.
fn check(loads: &[Segment]) -> Result<(), Malformed> {
    let mut end = 0;
    for segment in loads {
        if segment.in_file > segment.in_memory {
            return Err(Malformed("a segment is larger in the file than in memory"));
        }
        let after = segment.address.checked_add(segment.in_memory);
        let after = after
            .filter(|after| *after <= TOP)
            .ok_or(Malformed("a segment is out of range"))?;
        segment
            .offset
            .checked_add(segment.in_file)
            .ok_or(Malformed("a segment is out of range"))?;
        if segment.address % PAGE != segment.offset % PAGE {
            return Err(Malformed(
                "a segment's address and its place in the file do not match",
            ));
        }
        if segment.address < end {
            return Err(Malformed("its segments overlap or are not in order"));
        }
        end = after;
    }
    if loads.is_empty() {
        return Err(Malformed("it has nothing to load"));
    }
    Ok(())
}

/// Where the program headers are once the program is loaded, before it is moved.
fn headers_in_memory(header: &Header, segments: &[Segment]) -> Option<u64> {
    if let Some(own) = segments.iter().find(|segment| segment.kind == PHDR) {
        return Some(own.address);
    }
    let holds = |s: &&Segment| {
        s.kind == LOAD && s.offset <= header.segments && header.segments - s.offset < s.in_file
    };
    let segment = segments.iter().find(holds)?;
    segment.address.checked_add(header.segments - segment.offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of one page with a segment that is filled by `change`.
    fn program(change: impl FnOnce(&mut [u64; 7])) -> Vec<u8> {
        let mut file = vec![0; 4096];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (file[16], file[18]) = (2, 62);
        (file[32], file[54], file[56]) = (64, 56, 1);
        // The kind and flags, and then as `Segment` has them.
        let mut words = [
            u64::from(LOAD) | u64::from(READ) << 32,
            0,
            0x40_0000,
            0,
            4096,
            8192,
            4096,
        ];
        change(&mut words);
        words.iter().enumerate().for_each(|(n, word)| {
            file[64 + n * 8..72 + n * 8].copy_from_slice(&word.to_le_bytes());
        });
        file
    }

    fn refusal(change: impl FnOnce(&mut [u64; 7])) -> &'static str {
        Elf::parse(&program(change)).unwrap_err().0
    }

    #[test]
    fn a_program_is_read() {
        let elf = Elf::parse(&program(|_| {})).unwrap();
        assert_eq!(
            (elf.place, elf.span(), elf.align()),
            (Place::Fixed, (0x40_0000, 0x40_2000), 4096)
        );
        assert_eq!((elf.headers, elf.header_count), (Some(0x40_0040), 1));
        assert!(elf.executable_stack);
    }

    #[test]
    fn malformed_files_are_refused() {
        assert_eq!(Elf::parse(b"").unwrap_err().0, "it is too short");
        assert_eq!(Elf::parse(&[0; 64]).unwrap_err().0, "it is no program for x86-64");
        assert_eq!(
            refusal(|words| words[4] = 1 << 20),
            "a segment is larger in the file than in memory"
        );
        assert_eq!(
            refusal(|words| words[2] = u64::MAX - 4095),
            "a segment is out of range"
        );
        assert_eq!(refusal(|words| words[2] = 1 << 47), "a segment is out of range");
        assert_eq!(
            refusal(|words| words[1] = 1),
            "a segment's address and its place in the file do not match"
        );
        assert_eq!(refusal(|words| words[0] = 1 << 32), "it has nothing to load");
        assert_eq!(refusal(|words| words[0] = 3), "it is linked dynamically");
        let mut cut = program(|_| {});
        cut.truncate(100);
        assert_eq!(
            Elf::parse(&cut).unwrap_err().0,
            "its program headers are not at its beginning"
        );
    }

    #[test]
    fn no_head_of_a_file_makes_it_panic() {
        let file = program(|_| {});
        for len in 0..160 {
            let _ = Elf::parse(&file[..len]);
            for value in [0, 1, 0x7f, 0xff] {
                let mut odd = file.clone();
                odd[len] = value;
                let _ = Elf::parse(&odd).map(|elf| (elf.span(), elf.align()));
            }
        }
    }
}
