//! What no guest may ever see.

/// Eight different bytes, again and again.
pub const SECRET: [u8; 8] = [0x9d, 0x31, 0xc7, 0xe2, 0x5b, 0x8f, 0x46, 0xa1];

/// Where some bytes hold `len` of the secret's in a row, from whichever of them on. `len` is at most 8.
pub fn found(bytes: &[u8], len: usize) -> Option<usize> {
    // Eight in a row hold each byte once; fewer are looked for where it is few bytes.
    bytes.windows(len).position(|window| {
        let first = SECRET.iter().position(|byte| *byte == window[0]);
        first.is_some_and(|first| {
            window
                .iter()
                .enumerate()
                .all(|(n, byte)| *byte == SECRET[(first + n) % 8])
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_wherever_it_begins() {
        let mut bytes = [0; 40];
        for (n, byte) in bytes[11..21].iter_mut().enumerate() {
            *byte = SECRET[(n + 5) % 8];
        }
        assert_eq!(found(&bytes, 8), Some(11));
        bytes[17] ^= 1;
        assert_eq!((found(&bytes, 8), found(&bytes, 6)), (None, Some(11)));
        assert_eq!(found(&bytes[..3], 8), None);
    }
}
