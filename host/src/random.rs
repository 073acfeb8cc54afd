//! Random numbers, as RDRAND would give them.

/// A random word from the kernel; `None` if it has none to give now.
pub fn word() -> Option<u64> {
    let mut bytes = [0; 8];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK).ok()?;
    (got == bytes.len()).then(|| u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_differ() {
        assert_ne!(super::word(), super::word());
    }
}
