//! A decoded value, and its two forms: text, which leaves out what is zero or long, and JSON, which does not.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::fmt::{self, Display, Formatter, Write};

/// A value out of the client's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number best read in hexadecimal.
    Unsigned(u64),
    Signed(i64),
    Decimal(u64),
    /// A number with a name.
    Named(u64, String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Structure(Vec<(&'static str, Value)>),
}

/// In text: bytes, entries of a list and fields of a structure that are shown at most. Of a structure with more fields
/// those are shown that are not zero.
const BYTES: usize = 16;
const ENTRIES: usize = 4;
const FIELDS: usize = 8;

impl Value {
    fn is_zero(&self) -> bool {
        match self {
            Value::Unsigned(number) | Value::Decimal(number) => *number == 0,
            Value::Signed(number) => *number == 0,
            Value::Named(..) => false,
            Value::Bytes(bytes) => bytes.iter().all(|byte| *byte == 0),
            Value::List(entries) => entries.iter().all(Value::is_zero),
            Value::Structure(fields) => fields.iter().all(|(_, value)| value.is_zero()),
        }
    }

    /// The fields that are not what they were in `before`; everything, if these are no structures.
    pub fn changes(&self, before: &Value) -> Option<Value> {
        match (self, before) {
            _ if self == before => None,
            (Value::Structure(after), Value::Structure(before)) => Some(Value::Structure(
                after
                    .iter()
                    .filter(|field| !before.contains(field))
                    .cloned()
                    .collect(),
            )),
            _ => Some(self.clone()),
        }
    }

    fn text_bytes(bytes: &[u8], f: &mut Formatter<'_>) -> fmt::Result {
        for byte in bytes.iter().take(BYTES) {
            write!(f, "{byte:02x}")?;
        }
        if bytes.len() > BYTES {
            write!(f, "… ({} bytes)", bytes.len())?;
        }
        Ok(())
    }

    fn text_list(entries: &[Value], f: &mut Formatter<'_>) -> fmt::Result {
        if entries.len() > ENTRIES && entries.iter().all(Value::is_zero) {
            return write!(f, "[0; {}]", entries.len());
        }
        let told = entries
            .iter()
            .rposition(|entry| !entry.is_zero())
            .map_or(0, |last| last + 1);
        let shown = if entries.len() > ENTRIES {
            told.min(ENTRIES)
        } else {
            entries.len()
        };
        f.write_char('[')?;
        for (n, entry) in entries.iter().take(shown).enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{entry}")?;
        }
        match entries.len() - shown {
            0 => {}
            more if told <= shown => write!(f, ", … {more} of 0")?,
            more => write!(f, ", … {more} more")?,
        }
        f.write_char(']')
    }

    fn text_structure(fields: &[(&'static str, Value)], f: &mut Formatter<'_>) -> fmt::Result {
        f.write_char('{')?;
        let mut comma = "";
        for (name, value) in fields {
            if fields.len() <= FIELDS || !value.is_zero() {
                write!(f, "{comma}{name}={value}")?;
                comma = ", ";
            }
        }
        if fields.len() > FIELDS && fields.iter().any(|(_, value)| value.is_zero()) {
            write!(f, "{comma}…=0")?;
        }
        f.write_char('}')
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(number) if *number < 10 => write!(f, "{number}"),
            Value::Unsigned(number) => write!(f, "{number:#x}"),
            Value::Signed(number) => write!(f, "{number}"),
            Value::Decimal(number) => write!(f, "{number}"),
            Value::Named(_, name) => f.write_str(name),
            Value::Bytes(bytes) if bytes.len() > BYTES && self.is_zero() => {
                write!(f, "00… ({} bytes)", bytes.len())
            }
            Value::Bytes(bytes) => Value::text_bytes(bytes, f),
            Value::List(entries) => Value::text_list(entries, f),
            Value::Structure(fields) => Value::text_structure(fields, f),
        }
    }
}

/// Numbers stay numbers; the name of one is beside it, in a field of its own.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Unsigned(number) | Value::Decimal(number) | Value::Named(number, _) => {
                serializer.serialize_u64(*number)
            }
            Value::Signed(number) => serializer.serialize_i64(*number),
            Value::Bytes(bytes) => {
                let mut text = String::with_capacity(2 * bytes.len());
                for byte in bytes {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{byte:02x}");
                }
                serializer.serialize_str(&text)
            }
            Value::List(entries) => {
                let mut list = serializer.serialize_seq(Some(entries.len()))?;
                for entry in entries {
                    list.serialize_element(entry)?;
                }
                list.end()
            }
            Value::Structure(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                    if let Value::Named(_, text) = value {
                        map.serialize_entry(&format!("{name}_name"), text)?;
                    }
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Value::*;
    use super::*;

    #[test]
    fn text_is_short_and_json_complete() {
        let many: Vec<(&'static str, Value)> = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
            .into_iter()
            .map(|name| (name, Unsigned(u64::from(name == "c") * 16)))
            .collect();
        assert_eq!(Structure(many.clone()).to_string(), "{c=0x10, …=0}");
        let json = serde_json::to_string(&Structure(many)).expect("plain data");
        assert!(json.starts_with(r#"{"a":0,"b":0,"c":16,"d":0"#), "{json}");
        let list = List((1..8).map(Unsigned).collect());
        assert_eq!(list.to_string(), "[1, 2, 3, 4, … 3 more]");
        assert_eq!(
            serde_json::to_string(&list).expect("plain data"),
            "[1,2,3,4,5,6,7]"
        );
        assert_eq!(List(vec![Unsigned(0); 9]).to_string(), "[0; 9]");
        let mut sparse = vec![Unsigned(0); 9];
        sparse[1] = Unsigned(7);
        assert_eq!(List(sparse).to_string(), "[0, 7, … 7 of 0]");
        assert_eq!(
            Bytes(vec![0xab; 20]).to_string(),
            format!("{}… (20 bytes)", "ab".repeat(16))
        );
    }

    #[test]
    fn names_stand_beside_their_numbers() {
        let value = Structure(vec![
            ("cap", Named(7, "KVM_CAP_EXT_CPUID".into())),
            ("fd", Signed(-1)),
        ]);
        assert_eq!(value.to_string(), "{cap=KVM_CAP_EXT_CPUID, fd=-1}");
        assert_eq!(
            serde_json::to_string(&value).expect("plain data"),
            r#"{"cap":7,"cap_name":"KVM_CAP_EXT_CPUID","fd":-1}"#
        );
    }

    #[test]
    fn changes_are_by_field() {
        let before = Structure(vec![("type", Unsigned(4)), ("fd", Unsigned(0))]);
        let after = Structure(vec![("type", Unsigned(4)), ("fd", Unsigned(9))]);
        assert_eq!(after.changes(&before), Some(Structure(vec![("fd", Unsigned(9))])));
        assert_eq!(before.changes(&before), None);
    }
}
