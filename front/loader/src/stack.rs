//! What a program finds on its stack when it begins.

use crate::image::Image;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// What goes onto the stack.
#[derive(Debug)]
pub struct Start<'a> {
    pub arguments: &'a [OsString],
    pub environment: &'a [OsString],
    /// The program's path, as it was asked for.
    pub path: &'a OsString,
    pub random: [u8; 16],
    /// The auxiliary vector of the process, of which most is the program's too.
    pub auxiliary: &'a [(u64, u64)],
}

// The entries that are not the process's own.
const PHDR: u64 = 3;
const PHENT: u64 = 4;
const PHNUM: u64 = 5;
const BASE: u64 = 7;
const ENTRY: u64 = 9;
const PLATFORM: u64 = 15;
const BASE_PLATFORM: u64 = 24;
const RANDOM: u64 = 25;
const EXECFN: u64 = 31;

/// Bytes that end at an address, laid from the top down.
struct Below {
    top: u64,
    bytes: Vec<u8>,
}

impl Below {
    /// Puts these below what is there, and says where they are.
    fn put(&mut self, bytes: &[u8]) -> u64 {
        // Kept back to front until all of it is there.
        self.bytes.extend(bytes.iter().rev());
        self.top - self.bytes.len() as u64
    }

    fn string(&mut self, text: &OsString) -> u64 {
        self.put(b"\0");
        self.put(text.as_bytes())
    }

    fn align(&mut self, to: u64, ahead: u64) {
        while !(self.top - self.bytes.len() as u64 - ahead).is_multiple_of(to) {
            self.bytes.push(0);
        }
    }
}

/// The bytes that lie below `top`, in order. The program's stack pointer is where they begin.
pub fn contents(start: &Start<'_>, image: &Image, top: u64) -> Vec<u8> {
    let mut below = Below {
        top,
        bytes: Vec::new(),
    };
    below.put(&[0; 8]);
    let path = below.string(start.path);
    // As in Linux, so that the strings of the arguments are in order, and before those of the environment.
    let environment = strings(&mut below, start.environment);
    let arguments = strings(&mut below, start.arguments);
    let platform = below.string(&OsString::from("x86_64"));
    below.align(16, 0);
    let random = below.put(&start.random);
    let auxiliary = start.auxiliary.iter().map(|(kind, value)| {
        let value = match *kind {
            PHDR => image.headers,
            PHENT => 56,
            PHNUM => image.header_count,
            BASE => 0,
            ENTRY => image.entry,
            PLATFORM | BASE_PLATFORM => platform,
            RANDOM => random,
            EXECFN => path,
            _ => *value,
        };
        [*kind, value]
    });
    let mut words = vec![arguments.len() as u64];
    words.extend(arguments);
    words.push(0);
    words.extend(environment);
    words.push(0);
    words.extend(auxiliary.flatten());
    words.extend([0, 0]);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    below.align(16, bytes.len() as u64);
    below.put(&bytes);
    below.bytes.reverse();
    below.bytes
}

fn strings(below: &mut Below, all: &[OsString]) -> Vec<u64> {
    let mut at: Vec<u64> = all.iter().rev().map(|one| below.string(one)).collect();
    at.reverse();
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_reads_as_the_kernels() {
        let image = Image {
            entry: 0x1234,
            headers: 0x40,
            header_count: 3,
            span: 0..1,
            executable_stack: false,
        };
        let [a, b, path] = ["one", "two", "/p"].map(OsString::from);
        let start = Start {
            arguments: &[a.clone(), b.clone()],
            environment: &[b],
            path: &path,
            random: [7; 16],
            auxiliary: &[(ENTRY, 1), (RANDOM, 1), (EXECFN, 1), (6, 4096)],
        };
        let top = 0x7000;
        let bytes = contents(&start, &image, top);
        let bottom = top - bytes.len() as u64;
        assert_eq!(bottom % 16, 0);
        let word = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap());
        let text = |n: usize| {
            let rest = &bytes[(word(n) - bottom) as usize..];
            std::str::from_utf8(rest.split(|byte| *byte == 0).next().unwrap()).unwrap()
        };
        assert_eq!((word(0), text(1), text(2), word(3)), (2, "one", "two", 0));
        assert_eq!((text(4), word(5)), ("two", 0));
        assert_eq!((word(6), word(7)), (ENTRY, 0x1234));
        assert_eq!(
            (word(8), &bytes[(word(9) - bottom) as usize..][..16]),
            (RANDOM, &[7; 16][..])
        );
        assert_eq!((word(10), text(11)), (EXECFN, "/p"));
        assert_eq!((word(12), word(13), word(14)), (6, 4096, 0));
        assert!(word(1) < word(2) && word(2) < word(4));
    }
}
