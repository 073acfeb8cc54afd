//! The order of locks as the document tells it is the one that the code has: every rank, with its number, and no other.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use ring3_guest::places;

use super::Finding;

const DOCUMENT: &str = "docs/locking.md";

/// Names of ranks, with where and what they are.
type Ranks = BTreeMap<String, (String, u16)>;

pub fn check(files: &[String]) -> Result<Vec<Finding>> {
    let root = places::workspace();
    let mut code = Ranks::new();
    for file in files.iter().filter(|file| file.ends_with(".rs")) {
        code.extend(in_code(file, &std::fs::read_to_string(root.join(file))?));
    }
    let document = std::fs::read_to_string(root.join(DOCUMENT)).context(DOCUMENT)?;
    Ok(judge(&code, &in_document(&document)))
}

/// `const NAME: Rank = Rank(number);`
fn in_code(file: &str, text: &str) -> Ranks {
    let constant = |(index, line): (usize, &str)| {
        let (_, rest) = line.split_once("const ")?;
        let (name, rest) = rest.split_once(": Rank = Rank(")?;
        let number = rest.strip_suffix(");")?.parse().ok()?;
        Some((name.to_string(), (format!("{file}:{}", index + 1), number)))
    };
    text.lines().enumerate().filter_map(constant).collect()
}

/// Rows of the table: `| number | ``NAME`` | ...`.
fn in_document(text: &str) -> Ranks {
    let row = |(index, line): (usize, &str)| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let number = cells.next()?.parse().ok()?;
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_string(), (format!("{DOCUMENT}:{}", index + 1), number)))
    };
    text.lines().enumerate().filter_map(row).collect()
}

fn judge(code: &Ranks, document: &Ranks) -> Vec<Finding> {
    let told = code
        .iter()
        .filter_map(|(name, (place, number))| match document.get(name) {
            Some((_, told)) if told == number => None,
            Some((there, told)) => Some(format!("{place} {name} has rank {number}, but {told} by {there}")),
            None => Some(format!("{place} {name} is missing from {DOCUMENT}")),
        });
    let gone = document.iter().filter(|(name, _)| !code.contains_key(*name));
    let gone = gone.map(|(name, (place, _))| format!("{place} {name} is no rank in the code"));
    told.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str =
        "/// A.\npub const A: Rank = Rank(100);\n    const B: Rank = Rank(200);\nconst N: u16 = 3;\n";

    #[test]
    fn a_table_that_tells_all_is_fine() {
        let document = "| rank | name |\n| --- | --- |\n| 100 | `A` | x |\n| 200 | `B` | y |\n";
        let code = in_code("a.rs", CODE);
        assert_eq!(code["B"], ("a.rs:3".to_string(), 200));
        assert_eq!(judge(&code, &in_document(document)), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_or_different_is_found() {
        let code = in_code("a.rs", CODE);
        assert_eq!(
            judge(&code, &in_document("| 101 | `A` |\n| 7 | `C` |\n")),
            [
                "a.rs:2 A has rank 100, but 101 by docs/locking.md:1",
                "a.rs:3 B is missing from docs/locking.md",
                "docs/locking.md:2 C is no rank in the code",
            ]
        );
    }
}
