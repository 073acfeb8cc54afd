//! Rust source without its comments and literals, so that a search finds code only.

/// Replaces the inside of comments, strings and character literals by spaces; newlines stay.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => line_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !follows_identifier(bytes, at) => raw_string_end(bytes, at).unwrap_or(at + 1),
            b'\'' => character_end(bytes, at).unwrap_or(at + 1),
            _ => at + 1,
        };
        if end > at + 1 {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The 1-based lines on which `word` stands as a whole identifier.
pub fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.lines()
        .enumerate()
        .filter(|(_, line)| line.split(|c| !is_word(c)).any(|token| token == word))
        .map(|(index, _)| index + 1)
        .collect()
}

fn follows_identifier(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') && bytes[at - 1] != b'b'
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

fn block_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let rest = &bytes[open + 1..];
    let length = rest.windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + length + close.len())
}

/// The end of a character literal; none for a lifetime.
fn character_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at + 1..];
    if rest.first() == Some(&b'\\') {
        let length = rest.iter().skip(2).position(|byte| *byte == b'\'')?;
        return Some(at + 1 + 2 + length + 1);
    }
    // One character of up to four bytes, then the closing quote.
    let width = std::str::from_utf8(&rest[..rest.len().min(4)]).map_or_else(
        |error| {
            std::str::from_utf8(&rest[..error.valid_up_to()])
                .ok()?
                .chars()
                .next()
                .map(char::len_utf8)
        },
        |text| text.chars().next().map(char::len_utf8),
    )?;
    (rest.get(width) == Some(&b'\'')).then_some(at + 1 + width + 1)
}

#[cfg(test)]
mod tests {
    use super::{code_only, lines_with_word};

    #[test]
    fn only_code_is_left() {
        let source = r##"
            // unsafe here
            /* unsafe /* nested unsafe */ unsafe */
            let a = "unsafe \" unsafe";
            let b = r#"unsafe " unsafe"#;
            let c = ['"', '\'', 'ä'];
            fn f<'a>(x: &'a str) { unsafe { g(x) } }
            let unsafe_code = br"unsafe";
        "##;
        assert_eq!(lines_with_word(&code_only(source), "unsafe"), [7]);
        assert_eq!(code_only(source).lines().count(), source.lines().count());
    }

    #[test]
    fn unfinished_source_does_not_hang_or_panic() {
        for source in ["\"", "r#\"", "/*", "'", "'\\", "r", "/"] {
            let _ = code_only(source);
        }
    }
}
