//! As much of ELF as tells what a program needs to be started.

const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const EXECUTABLE: u64 = 2;
const SHARED: u64 = 3;
const X86_64: u64 = 62;
const PT_INTERP: u64 = 3;

/// Whether a file that begins with `head` is an ELF program for this machine that names no interpreter. Of a program whose headers
/// are elsewhere than at the beginning this says no; linkers put them there.
pub fn is_static(head: &[u8]) -> bool {
    let word = |at: usize, len: usize| {
        let bytes = head.get(at..at.checked_add(len)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0u64, |value, byte| value << 8 | u64::from(*byte)),
        )
    };
    let fields = [(16, 2), (18, 2), (32, 8), (54, 2), (56, 2)].map(|(at, len)| word(at, len));
    let [Some(kind), Some(X86_64), Some(table), Some(size), Some(count)] = fields else {
        return false;
    };
    if !head.starts_with(MAGIC) || !matches!(kind, EXECUTABLE | SHARED) || count == 0 {
        return false;
    }
    let kinds = (0..count).map(|n| word(table.saturating_add(n * size) as usize, 4));
    let mut kinds = kinds.peekable();
    kinds.peek() != Some(&None) && !kinds.any(|kind| kind == Some(PT_INTERP))
}
