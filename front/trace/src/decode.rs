//! Bytes into values, by the descriptions of `ring3_uapi::layout`.

use crate::value::Value;
use ring3_uapi::layout::meanings::{self, Meaning};
use ring3_uapi::layout::{Kind, Layout, number};
use ring3_uapi::{cap, device};

/// The value of `kind` that begins `bytes`; what is missing of them reads as zero.
pub fn value(kind: &Kind, bytes: &[u8]) -> Value {
    match kind {
        Kind::Unsigned(size) => Value::Unsigned(word(bytes, *size)),
        Kind::Signed(size) => {
            let unused = 64 - 8 * (*size).min(8) as u32;
            Value::Signed((word(bytes, *size) << unused) as i64 >> unused)
        }
        Kind::Structure(layout) => structure(layout, bytes),
        Kind::Array(kind, count) => array(kind, bytes, *count),
    }
}

/// As many values as `bytes` has room for.
pub fn entries(kind: &Kind, bytes: &[u8]) -> Value {
    array(kind, bytes, bytes.len())
}

fn array(kind: &Kind, bytes: &[u8], most: usize) -> Value {
    if kind.size() == 1 {
        return Value::Bytes(bytes.iter().take(most).copied().collect());
    }
    let each = bytes.chunks_exact(kind.size().max(1)).take(most);
    Value::List(each.map(|entry| value(kind, entry)).collect())
}

/// A structure with its unions resolved, without what only fills gaps and is zero.
pub fn structure(layout: &Layout, bytes: &[u8]) -> Value {
    let mut fields = Vec::with_capacity(layout.fields.len());
    for field in layout.fields {
        let rest = bytes.get(field.offset..).unwrap_or_default();
        let size = field.kind.size();
        if field.is_filler() && rest.iter().take(size).all(|byte| *byte == 0) {
            continue;
        }
        let member = meanings::union_of(layout.name, field.name()).and_then(|union| {
            let selected = number(bytes, layout.field(union.selector)?)?;
            let member = union.members.iter().find(|member| member.0 == selected)?;
            Some(structure(member.1, rest.get(..size).unwrap_or(rest)))
        });
        let decoded = member.unwrap_or_else(|| match meanings::of(layout.name, field.name()) {
            Some(meaning) => meant(word(rest, size), meaning),
            None => value(&field.kind, rest),
        });
        fields.push((field.name(), decoded));
    }
    Value::Structure(fields)
}

/// A little-endian number of `size` bytes.
fn word(bytes: &[u8], size: usize) -> u64 {
    bytes
        .iter()
        .take(size.min(8))
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// A number with what it means.
pub fn meant(number: u64, meaning: &Meaning) -> Value {
    let name = match meaning {
        Meaning::Decimal => return Value::Decimal(number),
        Meaning::Values(rows) => rows
            .iter()
            .find(|row| row.1 == number)
            .map(|row| row.0.to_string()),
        Meaning::Flags(rows) => flags(number, rows),
        Meaning::Capability => u32::try_from(number)
            .ok()
            .and_then(cap::lookup)
            .map(|row| row.name.to_string()),
        Meaning::DeviceType => device::DEVICE_TYPES
            .iter()
            .find(|row| u64::from(row.number) == number)
            .map(|row| row.name.to_string()),
    };
    name.map_or(Value::Unsigned(number), |name| Value::Named(number, name))
}

fn flags(number: u64, rows: &[(&'static str, u64)]) -> Option<String> {
    let mut rest = number;
    let mut names = Vec::new();
    for (name, flag) in rows {
        if *flag != 0 && number & flag == *flag {
            names.push((*name).to_string());
            rest &= !flag;
        }
    }
    if names.is_empty() {
        return None;
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    Some(names.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::layout::{Described, by_c_name};
    use ring3_uapi::x86::*;
    use ring3_uapi::*;
    use zerocopy::IntoBytes;

    fn shown<T: Described + IntoBytes + zerocopy::Immutable>(structure: &T) -> String {
        value(&T::KIND, structure.as_bytes()).to_string()
    }

    #[test]
    fn structures_are_decoded_with_names() {
        let region = KvmUserspaceMemoryRegion {
            slot: 1,
            flags: KVM_MEM_READONLY | 0x10,
            guest_phys_addr: 0xf_0000,
            memory_size: 0x1_0000,
            userspace_addr: 0x7f00_0000_0000,
        };
        assert_eq!(
            shown(&region),
            "{slot=1, flags=KVM_MEM_READONLY|0x10, guest_phys_addr=0xf0000, memory_size=0x10000, \
             userspace_addr=0x7f0000000000}"
        );
        let cap = KvmEnableCap {
            cap: cap::KVM_CAP_SPLIT_IRQCHIP,
            args: [24, 0, 0, 0],
            ..KvmEnableCap::default()
        };
        assert_eq!(
            shown(&cap),
            "{cap=KVM_CAP_SPLIT_IRQCHIP, flags=0, args=[0x18, 0, 0, 0]}"
        );
        let event = KvmIoeventfd {
            fd: -1,
            ..KvmIoeventfd::default()
        };
        assert!(shown(&event).contains("fd=-1"), "{}", shown(&event));
    }

    #[test]
    fn unions_are_resolved_by_their_selector() {
        let pin = KvmIrqRoutingEntry::to_irqchip(9, KVM_IRQCHIP_IOAPIC, 5);
        assert_eq!(
            shown(&pin),
            "{gsi=9, type=KVM_IRQ_ROUTING_IRQCHIP, flags=0, u={irqchip=KVM_IRQCHIP_IOAPIC, pin=5}}"
        );
        let msi = KvmIrqRoutingEntry::to_msi(40, 0xfee0_1000, 0x31);
        assert!(shown(&msi).contains("u={address_lo=0xfee01000, address_hi=0, data=0x31, devid=0}"));
        let strange = KvmIrqRoutingEntry {
            type_: 77,
            u: [1, 2, 3, 4],
            ..KvmIrqRoutingEntry::default()
        };
        assert!(shown(&strange).contains("type=0x4d, flags=0, u=[1, 2, 3, 4]"));
    }

    #[test]
    fn short_memory_reads_as_zero() {
        let kind = by_c_name("kvm_regs").expect("a structure");
        assert_eq!(value(&kind, &[0x12, 0]).to_string(), "{rax=0x12, …=0}");
        assert_eq!(
            value(&Kind::Signed(4), &[0xff, 0xff, 0xff, 0xff]),
            Value::Signed(-1)
        );
        assert_eq!(
            entries(&Kind::Unsigned(4), &[1, 0, 0, 0, 2, 0, 0, 0]).to_string(),
            "[1, 2]"
        );
    }
}
