//! The ABI structures described: fields with places and kinds, what the numbers in them mean, which member of a union is
//! in force, and how many entries follow a header.
//!
//! Descriptions are made where a structure is declared, from the declaration itself; they are found here by the name that an
//! ioctl's row has for its argument. [`meanings`] says what cannot be told from the types.
//!
//! Not here: structures of architectures other than x86, and unions within unions.

pub mod meanings;

use crate::exit::*;
use crate::run::*;
use crate::x86::*;
use crate::*;

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An unsigned number of so many bytes.
    Unsigned(usize),
    /// A signed number of so many bytes.
    Signed(usize),
    Array(&'static Kind, usize),
    Structure(&'static Layout),
}

impl Kind {
    /// Bytes.
    pub const fn size(&self) -> usize {
        match self {
            Kind::Unsigned(size) | Kind::Signed(size) => *size,
            Kind::Array(kind, count) => kind.size() * *count,
            Kind::Structure(layout) => layout.size,
        }
    }
}

/// A structure.
#[derive(Debug)]
pub struct Layout {
    /// The name of its type in this crate.
    pub name: &'static str,
    pub size: usize,
    pub fields: &'static [Field],
}

/// A field of a structure.
#[derive(Debug)]
pub struct Field {
    pub(crate) name: &'static str,
    pub offset: usize,
    pub kind: Kind,
}

impl Field {
    /// Its name, as in C.
    pub fn name(&self) -> &'static str {
        self.name.strip_suffix('_').unwrap_or(self.name)
    }

    /// Whether it only fills a gap.
    pub fn is_filler(&self) -> bool {
        self.name.contains("pad") || self.name.starts_with("reserved")
    }
}

impl Layout {
    /// The structure's name, as in C.
    pub fn c_name(&self) -> String {
        let mut name = String::new();
        for letter in self.name.chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// The field of a name, be it as in C or as in this crate.
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields
            .iter()
            .find(|field| field.name == name || field.name() == name)
    }
}

/// A type that can be described.
pub trait Described {
    const KIND: Kind;
}

macro_rules! numbers {
    ($($kind:ident: $($ty:ty),*;)*) => {$($(
        impl Described for $ty {
            const KIND: Kind = Kind::$kind(size_of::<$ty>());
        }
    )*)*};
}

numbers! {
    Unsigned: u8, u16, u32, u64;
    Signed: i8, i16, i32, i64;
}

impl<T: Described, const N: usize> Described for [T; N] {
    const KIND: Kind = Kind::Array(&T::KIND, N);
}

macro_rules! arguments {
    ($($ty:ident),* $(,)?) => {
        /// The structures that ioctls take, headers and entries of lists included.
        pub const ARGUMENTS: &[&Layout] = &[$(match <$ty as Described>::KIND {
            Kind::Structure(layout) => layout,
            _ => panic!("not a structure"),
        }),*];
    };
}

arguments! {
    KvmClearDirtyLog, KvmClockData, KvmCoalescedMmioZone, KvmCpuid, KvmCpuid2, KvmCpuidEntry, KvmCpuidEntry2,
    KvmCreateDevice, KvmCreateGuestMemfd, KvmDebugregs, KvmDeviceAttr, KvmDirtyLog, KvmEnableCap, KvmEncRegion, KvmFpu,
    KvmGuestDebug, KvmHypervEventfd, KvmInterrupt, KvmIoeventfd, KvmIrqLevel, KvmIrqRouting, KvmIrqRoutingEntry,
    KvmIrqRoutingXenEvtchn, KvmIrqchip, KvmIrqfd, KvmLapicState, KvmMemoryAttributes, KvmMpState, KvmMsi, KvmMsrEntry,
    KvmMsrFilter, KvmMsrList, KvmMsrs, KvmNestedState, KvmOneReg, KvmPitConfig, KvmPitState, KvmPitState2,
    KvmPmuEventFilter, KvmPreFaultMemory, KvmRegList, KvmRegs, KvmReinjectControl, KvmSignalMask, KvmSregs, KvmSregs2,
    KvmTprAccessCtl, KvmTranslation, KvmUserspaceMemoryRegion, KvmUserspaceMemoryRegion2, KvmVapicAddr, KvmVcpuEvents,
    KvmX86Mce, KvmXcrs, KvmXenHvmAttr, KvmXenHvmConfig, KvmXenVcpuAttr, KvmXsave,
}

/// What an ioctl's row calls `name`: a structure, or a plain number.
pub fn by_c_name(name: &str) -> Option<Kind> {
    Some(match name {
        "u8" => u8::KIND,
        "u32" => u32::KIND,
        "i32" => i32::KIND,
        "u64" => u64::KIND,
        _ => Kind::Structure(ARGUMENTS.iter().find(|layout| layout.c_name() == name)?),
    })
}

/// How a header tells what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// So many entries.
    Entries(u64),
    /// So many bytes, the header included.
    WholeBytes(u64),
}

/// What follows a header, by the field of it that counts.
pub fn follows(layout: &Layout, header: &[u8]) -> Option<Follows> {
    let (_, name, whole) = meanings::COUNTS.iter().find(|row| row.0 == layout.name)?;
    let count = number(header, layout.field(name)?)?;
    Some(if *whole {
        Follows::WholeBytes(count)
    } else {
        Follows::Entries(count)
    })
}

/// What an exit's payload holds; `None` where it has none that says anything.
pub fn payload(reason: u32, payload: &[u8]) -> Option<&'static Layout> {
    let first = payload.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    meanings::PAYLOADS
        .iter()
        .find(|row| row.0 == reason && (row.1.is_none() || row.1 == first))
        .map(|row| row.2)
}

/// The unsigned number in a field.
pub fn number(structure: &[u8], field: &Field) -> Option<u64> {
    let Kind::Unsigned(size) = field.kind else {
        return None;
    };
    let bytes = structure.get(field.offset..field.offset + size)?;
    let mut word = [0; 8];
    word.get_mut(..size)?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(word))
}

#[cfg(test)]
mod tests;
