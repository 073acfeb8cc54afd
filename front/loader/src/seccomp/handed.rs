//! Filters, handed on to a program that is executed: in a file in memory, whose descriptor the environment names.
//!
//! The file has 64-bit words: for each filter, the oldest first, how many instructions it has, and those. Strict mode needs no form, since
//! it lets no program be executed.

use super::bpf::{Instruction, Program};
use super::{Filters, chain, inherited, with};
use crate::thread::Thread;
use ring3_host::fd::{CloseOnExec, adopt_raw, constant_memfd, set_cloexec};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

/// The file for what `thread` executes; `None` if it has no filters.
pub fn file(thread: &Thread) -> Option<io::Result<OwnedFd>> {
    let Filters::Programs(newest) = inherited(thread) else {
        return None;
    };
    let mut all: Vec<&Program> = chain(Some(&newest)).map(|link| &link.program).collect();
    all.reverse();
    let words = all.into_iter().flat_map(|program| {
        let instructions = program.instructions();
        [instructions.len() as u64]
            .into_iter()
            .chain(instructions.iter().map(|one| one.to_word()))
    });
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    Some(constant_memfd("seccomp-filters", &bytes).and_then(|fd| {
        set_cloexec(&fd, CloseOnExec::No)?;
        Ok(fd)
    }))
}

/// What is in the file behind the descriptor with this number, which is closed.
pub fn take(number: &str) -> Result<Filters, String> {
    let fd = number
        .parse()
        .ok()
        .and_then(adopt_raw)
        .ok_or("it names no descriptor")?;
    let mut file = File::from(fd);
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut file)
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    let mut words = bytes
        .chunks_exact(8)
        .map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let mut filters = Filters::None;
    while let Some(len) = words.next() {
        let program = words
            .by_ref()
            .take(len as usize)
            .map(Instruction::from_word)
            .collect();
        let program = Program::new(program).map_err(|_| "it has an invalid filter")?;
        let before = match filters {
            Filters::Programs(newest) => Some(newest),
            _ => None,
        };
        filters = with(program, before);
    }
    Ok(filters)
}
