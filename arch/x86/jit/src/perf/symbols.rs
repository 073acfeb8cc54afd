//! Symbols of the guest's: of a System.map, of what `/proc/kallsyms` says in the guest, or of an ELF file.

use object::{Object, ObjectSymbol, SymbolKind};
use std::env;
use std::path::Path;

/// An address this far behind the last symbol before it belongs to none.
const FARTHEST: u64 = 1 << 20;

/// Symbols of code, by address.
#[derive(Debug, Default)]
pub struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Those of the file that `RING3_SYMBOLS` names.
    pub fn wanted() -> Symbols {
        let Some(path) = env::var_os("RING3_SYMBOLS").filter(|path| !path.is_empty()) else {
            return Symbols::default();
        };
        let path = Path::new(&path);
        let symbols = match std::fs::read(path) {
            Ok(bytes) if bytes.starts_with(b"\x7fELF") => Symbols::of_elf(&bytes),
            Ok(bytes) => Symbols::of_list(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                eprintln!("ring3: RING3_SYMBOLS: {}: {error}", path.display());
                return Symbols::default();
            }
        };
        if symbols.0.is_empty() {
            eprintln!("ring3: RING3_SYMBOLS: {}: no symbols of code", path.display());
        }
        symbols
    }

    /// Lines of an address, a letter and a name.
    fn of_list(text: &str) -> Symbols {
        let parse = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let code = matches!(words.next()?, "t" | "T" | "w" | "W");
            let name = words.next()?;
            // Without privileges all addresses are said to be zero.
            (code && address != 0).then(|| (address, name.to_string()))
        };
        Symbols::sorted(text.lines().filter_map(parse).collect())
    }

    fn of_elf(bytes: &[u8]) -> Symbols {
        let Ok(file) = object::File::parse(bytes) else {
            return Symbols::default();
        };
        let code =
            |symbol: &object::Symbol<'_, '_>| symbol.kind() == SymbolKind::Text && symbol.is_definition();
        let named = file.symbols().filter(code).filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?;
            Some((symbol.address(), name.to_string()))
        });
        Symbols::sorted(named.collect())
    }

    fn sorted(mut symbols: Vec<(u64, String)>) -> Symbols {
        symbols.sort();
        symbols.dedup_by_key(|(address, _)| *address);
        Symbols(symbols)
    }

    /// What code at an address is called.
    pub fn name(&self, linear: u64, user: bool) -> String {
        let behind = self.0.partition_point(|(address, _)| *address <= linear);
        let before = behind.checked_sub(1).map(|n| &self.0[n]);
        match before {
            Some((address, name)) if *address == linear => name.clone(),
            Some((address, name)) if linear - address < FARTHEST => format!("{name}+{:#x}", linear - address),
            _ if user => format!("guest-user@{linear:x}"),
            _ => format!("guest@{linear:x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_symbol_before_an_address_names_it() {
        let text = "ffffffff81000000 T _text\nffffffff81000040 t second\t[module]\n\
                    ffffffff81000050 D data\n0000000000000000 A nothing\nrubbish\n";
        let symbols = Symbols::of_list(text);
        let name = |linear| symbols.name(linear, false);
        assert_eq!(name(0xffff_ffff_8100_0000), "_text");
        assert_eq!(name(0xffff_ffff_8100_003f), "_text+0x3f");
        assert_eq!(name(0xffff_ffff_8100_0060), "second+0x20");
        assert_eq!(name(0xffff_ffff_9000_0000), "guest@ffffffff90000000");
        assert_eq!(symbols.name(0x40_1000, true), "guest-user@401000");
    }

    #[test]
    fn a_program_has_symbols() {
        let own = std::fs::read(std::env::current_exe().expect("a program")).expect("it can be read");
        let symbols = Symbols::of_elf(&own);
        assert!(
            symbols
                .0
                .iter()
                .any(|(_, name)| name.contains("a_program_has_symbols"))
        );
        assert!(Symbols::of_elf(b"\x7fELF").0.is_empty());
    }
}
