//! Inputs in files: lines of hexadecimal bytes, with comments behind `#`; `state` and a number is the state to begin in.

use anyhow::{Context, Result};
use iced_x86::{Decoder, DecoderOptions};
use std::path::{Path, PathBuf};

pub struct Input {
    pub name: String,
    pub code: Vec<u8>,
    pub state: u64,
}

fn directory() -> PathBuf {
    ring3_guest::places::workspace().join("fuzz/corpus")
}

/// Every input of the corpus.
pub fn all() -> Result<Vec<Input>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory())
        .context("fuzz/corpus")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

pub fn read(path: &Path) -> Result<Input> {
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (code, state) = parse(&text).with_context(|| name.clone())?;
    Ok(Input { name, code, state })
}

fn parse(text: &str) -> Result<(Vec<u8>, u64)> {
    let (mut code, mut state) = (Vec::new(), 1);
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(number) = line.strip_prefix("state ") {
            state = u64::from_str_radix(number.trim_start_matches("0x"), 16)?;
            continue;
        }
        for byte in line.split_whitespace() {
            code.push(u8::from_str_radix(byte, 16).with_context(|| format!("{byte} is no byte"))?);
        }
    }
    Ok((code, state))
}

/// Writes an input that ended in a difference, outside of the corpus.
pub fn keep(code: &[u8], state: u64, how: &anyhow::Error) -> Result<PathBuf> {
    write(&format!("{state:016x}"), code, state, &format!("{how:#}"))
}

/// Writes the input that is about to be run, in case that it never ends.
pub fn note(code: &[u8], state: u64) -> Result<()> {
    write("running", code, state, "").map(drop)
}

fn write(name: &str, code: &[u8], state: u64, comment: &str) -> Result<PathBuf> {
    let directory = ring3_guest::places::target().join("fuzz");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(name).with_extension("hex");
    let mut text: String = comment.lines().map(|line| format!("# {line}\n")).collect();
    text += &format!("state {state:#x}\n");
    for line in code.chunks(16) {
        let bytes: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text += &bytes.join(" ");
        text.push('\n');
    }
    std::fs::write(&path, text)?;
    Ok(path)
}

pub fn listing(code: &[u8]) -> String {
    Decoder::with_ip(64, code, 0, DecoderOptions::NONE)
        .into_iter()
        .map(|instr| format!("    {:3x}: {instr}\n", instr.ip()))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn files_are_read() {
        let (code, state) = super::parse("# nothing\nstate 0x2a\n90 0f 0b # two\nc3\n").expect("well-formed");
        assert_eq!((code, state), (vec![0x90, 0x0f, 0x0b, 0xc3], 0x2a));
        assert!(super::parse("9x").is_err());
    }
}
