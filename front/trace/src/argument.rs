//! The argument of an ioctl, as it is in the client's memory.
//!
//! Pointers inside of structures (a dirty log's bitmap, an attribute's value) are not followed.

use crate::decode;
use crate::value::Value;
use ring3_host::user::UserPtr;
use ring3_uapi::ioctl::{Arg, IoctlRow};
use ring3_uapi::layout::meanings::{self, Meaning};
use ring3_uapi::layout::{Follows, Kind, by_c_name, follows};

/// Bytes of a list that are looked at, at most: KVM takes no longer one.
const LONGEST: usize = 1 << 18;

/// What a request reads, as it was before, and writes, as it is afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// The argument's bytes.
pub struct Memory {
    kind: Kind,
    header: Vec<u8>,
    /// What the entries are, and their bytes.
    list: Option<(Kind, Vec<u8>)>,
}

/// How the argument is described, and whether it is of interest then.
fn described(arg: Arg, when: When) -> Option<(&'static str, Option<&'static str>)> {
    Some(match (arg, when) {
        (Arg::In(name), When::Before) | (Arg::Out(name), When::After) | (Arg::InOut(name), _) => (name, None),
        (Arg::InList(name, entry), When::Before) | (Arg::InOutList(name, entry), _) => (name, Some(entry)),
        _ => return None,
    })
}

/// Reads it; `None` if there is nothing to read then, or the client has no such memory.
pub fn read(row: &IoctlRow, arg: u64, when: When) -> Option<Memory> {
    let (name, entry) = described(row.arg, when)?;
    let kind = by_c_name(name)?;
    let at = UserPtr::new(arg);
    let mut header = vec![0; kind.size()];
    at.read_bytes(&mut header).ok()?;
    let list = entry.and_then(by_c_name).and_then(|entry| {
        let Kind::Structure(layout) = kind else {
            return None;
        };
        let bytes = match follows(layout, &header)? {
            Follows::Entries(count) => count.saturating_mul(entry.size() as u64),
            Follows::WholeBytes(bytes) => bytes.saturating_sub(header.len() as u64),
        };
        let mut entries = vec![0; usize::try_from(bytes).unwrap_or(LONGEST).min(LONGEST)];
        at.offset(header.len() as u64).read_bytes(&mut entries).ok()?;
        Some((entry, entries))
    });
    Some(Memory { kind, header, list })
}

impl Memory {
    /// The number in a field of the structure.
    pub fn number(&self, field: &str) -> Option<u64> {
        let Kind::Structure(layout) = self.kind else {
            return None;
        };
        ring3_uapi::layout::number(&self.header, layout.field(field)?)
    }

    /// The number in a field of an entry of the list.
    pub fn entry_number(&self, index: usize, field: &str) -> Option<u64> {
        let (kind, bytes) = self.list.as_ref()?;
        let Kind::Structure(layout) = kind else {
            return None;
        };
        let entry = bytes.chunks_exact(layout.size).nth(index)?;
        ring3_uapi::layout::number(entry, layout.field(field)?)
    }

    /// The header's and the entries' bytes.
    pub fn bytes(&self) -> (&[u8], Option<&[u8]>) {
        (
            &self.header,
            self.list.as_ref().map(|(_, bytes)| bytes.as_slice()),
        )
    }

    /// The header alone.
    pub fn without_entries(self) -> Memory {
        Memory { list: None, ..self }
    }

    pub fn value(&self) -> Value {
        let value = decode::value(&self.kind, &self.header);
        match (value, &self.list) {
            (Value::Structure(mut fields), Some((kind, bytes))) => {
                fields.push(("entries", decode::entries(kind, bytes)));
                Value::Structure(fields)
            }
            (value, _) => value,
        }
    }
}

/// An argument that is no pointer.
pub fn number(row: &IoctlRow, arg: u64) -> Option<Value> {
    match row.arg {
        Arg::Value => {
            let meaning = meanings::of_argument(row.name);
            Some(meaning.map_or(Value::Unsigned(arg), |meaning: &Meaning| {
                decode::meant(arg, meaning)
            }))
        }
        Arg::Zero if arg != 0 => Some(Value::Unsigned(arg)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::ioctl::by_name;
    use ring3_uapi::x86::{KvmMsrEntry, KvmMsrs};
    use zerocopy::IntoBytes;

    fn row(name: &str) -> &'static IoctlRow {
        by_name(name).expect("a row")
    }

    #[test]
    fn lists_are_read_as_long_as_their_header_says() {
        let mut bytes = KvmMsrs { nmsrs: 2, pad: 0 }.as_bytes().to_vec();
        for index in [0x10, 0xc000_0080u32, 0xdead] {
            let entry = KvmMsrEntry {
                index,
                ..KvmMsrEntry::default()
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        let memory = read(row("KVM_GET_MSRS"), bytes.as_ptr() as u64, When::Before).expect("mapped");
        assert_eq!(memory.number("nmsrs"), Some(2));
        assert_eq!(memory.entry_number(1, "index"), Some(0xc000_0080));
        assert_eq!(memory.entry_number(2, "index"), None);
        assert_eq!(
            memory.value().to_string(),
            "{nmsrs=2, entries=[{index=0x10, data=0}, {index=0xc0000080, data=0}]}"
        );
    }

    #[test]
    fn memory_that_is_not_there_is_not_read() {
        assert!(read(row("KVM_SET_REGS"), 8, When::Before).is_none());
        assert!(read(row("KVM_SET_REGS"), u64::MAX - 7, When::Before).is_none());
        // A count without the entries it promises.
        let header = KvmMsrs {
            nmsrs: u32::MAX,
            pad: 0,
        };
        let boxed = Box::new(header);
        let memory = read(
            row("KVM_SET_MSRS"),
            std::ptr::from_ref(&*boxed) as u64,
            When::Before,
        );
        assert_eq!(
            memory.and_then(|memory| memory.number("nmsrs")),
            Some(u64::from(u32::MAX))
        );
    }

    #[test]
    fn what_is_read_when_is_what_the_row_says() {
        let regs = ring3_uapi::x86::KvmRegs::default();
        let at = regs.as_bytes().as_ptr() as u64;
        assert!(read(row("KVM_GET_REGS"), at, When::Before).is_none());
        assert!(read(row("KVM_GET_REGS"), at, When::After).is_some());
        assert!(read(row("KVM_SET_REGS"), at, When::After).is_none());
        assert!(read(row("KVM_RUN"), 0, When::Before).is_none());
        let asked = number(row("KVM_CHECK_EXTENSION"), 1).expect("a number");
        assert_eq!(asked.to_string(), "KVM_CAP_HLT");
        assert_eq!(number(row("KVM_RUN"), 0), None);
    }
}
