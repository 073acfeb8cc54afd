//! What is known of a page that code was decoded from.

use ring3_host::mem::{HostFault, HostPage};

/// Bytes of a line.
const LINE: usize = 64;

pub struct CodePage {
    blocks: Vec<u32>,
    /// Which 64-byte lines blocks were made from.
    lines: u64,
    /// The page's bytes then; only the lines in `lines` mean anything.
    bytes: Box<[u8; 4096]>,
    /// [`crate::Core::turn`] when they were last compared with memory.
    pub turn: u64,
}

impl CodePage {
    pub fn new() -> CodePage {
        CodePage {
            blocks: Vec::new(),
            lines: 0,
            bytes: Box::new([0; 4096]),
            turn: 0,
        }
    }

    /// Notes a block that was made from these lines.
    pub fn add(&mut self, block: u32, page: HostPage, lines: u64) -> Result<(), HostFault> {
        self.blocks.push(block);
        for line in each(lines & !self.lines) {
            page.read(line, &mut self.bytes[line..line + LINE])?;
        }
        self.lines |= lines;
        Ok(())
    }

    pub fn into_blocks(self) -> Vec<u32> {
        self.blocks
    }

    /// What blocks were made from there.
    pub fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.bytes.get(offset..offset + len)
    }

    /// Whether the page has the bytes that blocks were made from.
    pub fn is_still_in(&self, page: HostPage) -> Result<bool, HostFault> {
        for line in each(self.lines) {
            let (words, _) = self.bytes[line..line + LINE].as_chunks::<16>();
            for (n, word) in words.iter().enumerate() {
                if page.load::<u128>(line + 16 * n)? != u128::from_le_bytes(*word) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// The offsets of lines.
fn each(mut lines: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let line = (lines != 0).then(|| lines.trailing_zeros() as usize * LINE)?;
        lines &= lines - 1;
        Some(line)
    })
}

/// The lines that `len` bytes at `offset` lie in.
pub fn line_mask(offset: usize, len: usize) -> u64 {
    let first = offset / LINE;
    let last = (offset + len.max(1) - 1).min(4095) / LINE;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_bytes_touch() {
        assert_eq!(line_mask(0, 0), 1);
        assert_eq!(line_mask(63, 2), 3);
        assert_eq!(line_mask(4095, 15), 1 << 63);
        assert_eq!(line_mask(0, 4096), u64::MAX);
        assert_eq!(each(1 << 63 | 2).collect::<Vec<_>>(), [64, 63 * 64]);
        assert_eq!(each(0).count(), 0);
    }
}
