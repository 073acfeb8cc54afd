//! Reproducible bytes for disks and sockets: the content is arbitrary, the comparison is not.

/// `len` bytes that depend on `seed` alone (xorshift64*).
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn same_seed_same_bytes() {
        assert_eq!(bytes(7, 1000), bytes(7, 1000));
        assert_ne!(bytes(7, 64), bytes(9, 64));
        assert_eq!(bytes(7, 13).len(), 13);
    }
}
