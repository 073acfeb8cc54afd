//! Arguments, by the ABI's own descriptions: mostly such as KVM takes, some damaged.

use crate::ioctls::places::Places;
use fastrand::Rng;
use ring3_uapi::ioctl::{Arg, IoctlRow};
use ring3_uapi::layout::meanings::{Meaning, of, of_argument, union_of};
use ring3_uapi::layout::{Field, Kind, Layout, by_c_name, number};
use ring3_uapi::{cap, device};
use std::collections::HashMap;

/// Structures that KVM wrote, by name: the best thing to give it back.
pub type Known = HashMap<&'static str, Vec<u8>>;

/// Everything that arguments are made of.
pub struct Maker<'a> {
    pub rng: &'a mut Rng,
    pub places: &'a Places,
    /// Numbers of descriptors that are of some use.
    pub fds: &'a [i32],
    pub known: &'a Known,
}

/// A number that something may depend on.
pub fn number_like(rng: &mut Rng) -> u64 {
    const EDGES: [u64; 12] = [
        0,
        1,
        0x7f,
        0xff,
        0xfff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        1 << 32,
        1 << 47,
        1 << 63,
        u64::MAX,
    ];
    match rng.u8(..8) {
        0 => EDGES[rng.usize(..EDGES.len())],
        1 => EDGES[rng.usize(..EDGES.len())]
            .wrapping_add(rng.u64(..3))
            .wrapping_sub(1),
        2 => 1 << rng.u32(..64),
        3 => rng.u64(..),
        4 => u64::from(rng.u16(..)),
        _ => rng.u64(..20),
    }
}

impl Maker<'_> {
    /// An argument that is no pointer.
    pub fn value(&mut self, row: &IoctlRow) -> u64 {
        match row.arg {
            Arg::Value => match of_argument(row.name) {
                Some(Meaning::Capability) => u64::from(self.capability()),
                Some(Meaning::Values(rows)) if self.rng.bool() => rows[0].1,
                _ => number_like(self.rng),
            },
            _ if self.rng.u8(..32) == 0 => number_like(self.rng),
            _ => 0,
        }
    }

    /// The bytes of a structure, and of a list that follows it.
    pub fn argument(&mut self, row: &IoctlRow) -> Option<Vec<u8>> {
        let (name, entry) = match row.arg {
            Arg::None | Arg::Zero | Arg::Value => return None,
            Arg::In(name) | Arg::Out(name) | Arg::InOut(name) => (name, None),
            Arg::InList(name, entry) | Arg::InOutList(name, entry) => (name, Some(entry)),
        };
        let entry = entry.and_then(by_c_name);
        let mut bytes = match self.known.get(name) {
            Some(known) if self.rng.u8(..4) != 0 => known.clone(),
            _ => match by_c_name(name) {
                Some(kind) => self.make(&kind),
                // Another architecture's.
                None => self.noise(64),
            },
        };
        if let (Some(entry), Some(Kind::Structure(header))) = (entry, by_c_name(name))
            && bytes.len() == header.size
        {
            let mut count = self.rng.usize(..9);
            for _ in 0..count {
                let made = self.make(&entry);
                bytes.extend(made);
            }
            // Room for what KVM has to say.
            if self.rng.u8(..4) == 0 {
                count = 128;
                bytes.resize(header.size + count * entry.size(), 0);
            }
            let count = match self.rng.u8(..16) {
                0 => number_like(self.rng),
                1.. if name == "kvm_signal_mask" => 8,
                1.. if name == "kvm_nested_state" => bytes.len() as u64,
                _ => count as u64,
            };
            self.put_count(header, &mut bytes, count);
        }
        self.damage(&mut bytes);
        Some(bytes)
    }

    fn put_count(&mut self, header: &Layout, bytes: &mut [u8], count: u64) {
        // The first field that is no flag counts, in every list that there is.
        let field = header
            .fields
            .iter()
            .find(|field| ["nent", "nmsrs", "nr", "n", "len", "nevents", "size"].contains(&field.name()));
        if let Some(field) = field {
            let size = field.kind.size();
            if let Some(place) = bytes.get_mut(field.offset..field.offset + size) {
                place.copy_from_slice(&count.to_le_bytes()[..size]);
            }
        }
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.rng.u8(..)).collect()
    }

    fn damage(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() || self.rng.u8(..4) != 0 {
            return;
        }
        for _ in 0..self.rng.usize(1..4) {
            let at = self.rng.usize(..bytes.len());
            match self.rng.u8(..3) {
                0 => bytes[at] ^= 1 << self.rng.u8(..8),
                1 => bytes[at] = self.rng.u8(..),
                _ => {
                    let word = number_like(self.rng).to_le_bytes();
                    let at = at & !7;
                    bytes
                        .iter_mut()
                        .skip(at)
                        .zip(word)
                        .for_each(|(byte, new)| *byte = new);
                }
            }
        }
    }

    fn make(&mut self, kind: &Kind) -> Vec<u8> {
        match kind {
            Kind::Unsigned(size) | Kind::Signed(size) => {
                number_like(self.rng).to_le_bytes()[..*size].to_vec()
            }
            Kind::Array(kind, count) => {
                let full = self.rng.u8(..4) == 0;
                (0..*count)
                    .flat_map(|_| match full {
                        true => self.make(kind),
                        false => vec![0; kind.size()],
                    })
                    .collect()
            }
            Kind::Structure(layout) => self.structure(layout),
        }
    }

    fn structure(&mut self, layout: &Layout) -> Vec<u8> {
        let mut bytes = vec![0; layout.size];
        for field in layout.fields {
            let made = self.field(layout, field, &bytes);
            bytes[field.offset..field.offset + made.len()].copy_from_slice(&made);
        }
        bytes
    }

    fn field(&mut self, layout: &Layout, field: &Field, before: &[u8]) -> Vec<u8> {
        let size = field.kind.size();
        if field.is_filler() && self.rng.u8(..32) != 0 {
            return vec![0; size];
        }
        if let Some(union) = union_of(layout.name, field.name()) {
            let selected = layout
                .field(union.selector)
                .and_then(|field| number(before, field));
            if let Some(member) = union.members.iter().find(|member| Some(member.0) == selected) {
                let mut made = self.structure(member.1);
                made.resize(size, 0);
                return made;
            }
        }
        let value = match of(layout.name, field.name()) {
            Some(Meaning::Flags(_)) if self.rng.bool() => 0,
            Some(Meaning::Values(rows)) => rows[self.rng.usize(..rows.len())].1,
            Some(Meaning::Flags(rows)) => rows
                .iter()
                .filter(|_| self.rng.u8(..4) == 0)
                .fold(0, |sum, row| sum | row.1),
            Some(Meaning::Capability) => u64::from(self.capability()),
            Some(Meaning::DeviceType) => {
                u64::from(device::DEVICE_TYPES[self.rng.usize(..device::DEVICE_TYPES.len())].number)
            }
            _ if !matches!(field.kind, Kind::Unsigned(_) | Kind::Signed(_)) => return self.make(&field.kind),
            _ => self.by_name(field.name()),
        };
        value.to_le_bytes()[..size].to_vec()
    }

    /// A number for a field that is called so.
    fn by_name(&mut self, name: &str) -> u64 {
        let any = number_like(self.rng);
        match name {
            "slot" => self.rng.u64(..4),
            "gsi" | "pin" | "irq" if self.rng.u8(..8) != 0 => self.rng.u64(..26),
            "irqchip" => self.rng.u64(..4),
            "datamatch" | "resamplefd" if self.rng.bool() => 0,
            "guest_phys_addr" | "gpa" | "phys_addr" => (any & 0xf) << 16,
            "memory_size" | "size" => self.rng.u64(..130) << 12,
            "userspace_addr" | "dirty_bitmap" | "bitmap" | "addr" | "address" => match self.rng.u8(..4) {
                0 => any << 12,
                _ => self.places.address(self.rng),
            },
            "flags" => match self.rng.u8(..4) {
                0 => any,
                _ => 0,
            },
            "fd" | "resamplefd" | "guest_memfd" => match self.rng.u8(..8) {
                0 => any,
                1 | 2 => self
                    .fds
                    .get(self.rng.usize(..self.fds.len().max(1)))
                    .map_or(u64::MAX, |fd| *fd as u64),
                // The first are eventfds.
                n => self.fds.get(usize::from(n % 2)).map_or(0, |fd| *fd as u64),
            },
            "index" if self.rng.bool() => MSRS[self.rng.usize(..MSRS.len())],
            "function" => {
                [0, 1, 7, 0xd, 0x4000_0000, 0x4000_0001, 0x8000_0001, 0x8000_0008][self.rng.usize(..8)]
            }
            "len" if self.rng.bool() => 1 << self.rng.u32(..4),
            _ => any,
        }
    }

    fn capability(&mut self) -> u32 {
        match self.rng.u8(..16) {
            0 => number_like(self.rng) as u32,
            _ => cap::CAPABILITIES[self.rng.usize(..cap::CAPABILITIES.len())].number,
        }
    }
}

/// MSRs that do something.
const MSRS: [u64; 24] = [
    0x10,
    0x1b,
    0x3a,
    0x3b,
    0x8b,
    0x174,
    0x179,
    0x17a,
    0x1a0,
    0x1d9,
    0x200,
    0x277,
    0x2ff,
    0x345,
    0x400,
    0x6e0,
    0x808,
    0x830,
    0xc000_0080,
    0xc000_0081,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d03,
    0x4b56_4d02,
];

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_uapi::arch::Archs;
    use ring3_uapi::ioctl::{IOCTLS, arg_size};
    use std::sync::LazyLock;

    /// There can be one only.
    static PLACES: LazyLock<Places> = LazyLock::new(|| Places::new().expect("nobody else is there"));

    #[test]
    fn every_structure_of_x86_is_made_as_long_as_its_request_says() {
        let (mut rng, known) = (Rng::with_seed(1), Known::new());
        for row in IOCTLS
            .iter()
            .filter(|row| row.on.iter().any(|on| on.archs == Archs::X86))
        {
            for _ in 0..50 {
                let mut maker = Maker {
                    rng: &mut rng,
                    places: &PLACES,
                    fds: &[3],
                    known: &known,
                };
                let pointer = !matches!(row.arg, Arg::None | Arg::Zero | Arg::Value);
                let made = maker.argument(row);
                assert_eq!(made.is_some(), pointer, "{}", row.name);
                let len = made.map_or(usize::MAX, |bytes| bytes.len());
                assert!(len >= arg_size(row.request), "{}: {len}", row.name);
            }
        }
    }

    #[test]
    fn slots_never_reach_memory_of_the_harness() {
        let places = &*PLACES;
        let (ram, size) = places.ram();
        assert_eq!(places.confine(ram, size), (ram, size));
        let (address, len) = places.confine(ram, 1 << 46);
        assert!(address == ram && address + len <= 0x1001_0000_0000);
        for address in [0, 0x5555_0000_0000, 0x7f00_0000_0000] {
            assert_eq!(places.confine(address, 4096), (ram, 4096));
        }
        assert_eq!(places.confine(u64::MAX - 4095, 8192), (u64::MAX - 4095, 8192));
    }
}
