//! What this KVM offers: the answers of KVM_GET_SUPPORTED_CPUID and KVM_GET_EMULATED_CPUID.
//!
//! Family, model, cache and brand leaves are the host's; feature words come from the rows in `features`; topology
//! is left empty for the client to fill in, as Linux does.

use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use ring3_host::native::xsave::{XFEATURE_PKRU, XFEATURE_XTILECFG, XFEATURE_XTILEDATA, XFEATURES};
use ring3_host::xcomp;

use super::features::{self, Reg, Source};
use super::{Entry, SIGNIFICANT_INDEX, xsave_size};
use crate::pmu;

/// The state components the engine can hold.
const KNOWN_XCR0: u64 = XFEATURES | XFEATURE_PKRU | XTILE;
const XTILE: u64 = XFEATURE_XTILECFG | XFEATURE_XTILEDATA;
/// Components that a client must have asked Linux for, because they are large.
pub const DYNAMIC: u64 = XFEATURE_XTILEDATA;

const MAX_BASIC: u32 = 0x1f;
const MAX_EXTENDED_INTEL: u32 = 0x8000_0021;
const MAX_EXTENDED_AMD: u32 = 0x8000_0022;
const KVM_SIGNATURE_LEAF: u32 = 0x4000_0000;
pub const KVM_FEATURES_LEAF: u32 = 0x4000_0001;

/// "KVMKVMKVM\0\0\0" as CPUID returns it in EBX, ECX and EDX.
pub const KVM_SIGNATURE: [u32; 3] = [
    u32::from_le_bytes(*b"KVMK"),
    u32::from_le_bytes(*b"VMKV"),
    u32::from_le_bytes([b'M', 0, 0, 0]),
];

fn host(function: u32, index: u32) -> [u32; 4] {
    let r = __cpuid_count(function, index);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The host's answer, or zeros for an extended leaf the host does not have (reading past the end gives another
/// leaf's answer on Intel).
fn host_or_zero(function: u32, index: u32) -> [u32; 4] {
    let class = function & 0xc000_0000;
    if class == 0x4000_0000 || function > host(class, 0)[0] {
        [0; 4]
    } else {
        host(function, index)
    }
}

/// Whether the host has a processor of AMD's (or Hygon's).
pub fn host_is_amd() -> bool {
    super::is_amd(host(0, 0))
}

/// XCR0 bits a guest can be given on this host.
pub fn supported_xcr0() -> u64 {
    static VALUE: OnceLock<u64> = OnceLock::new();
    *VALUE.get_or_init(|| {
        let [_, _, ecx, _] = host(1, 0);
        if ecx & (1 << features::XSAVE.bit) == 0 {
            return 0;
        }
        let leaf = host_or_zero(0xd, 0);
        (u64::from(leaf[0]) | u64::from(leaf[3]) << 32) & KNOWN_XCR0
    })
}

/// The like, without those that the client may not use.
pub fn permitted_xcr0() -> u64 {
    let supported = supported_xcr0();
    if supported & DYNAMIC == 0 || xcomp::permitted(DYNAMIC) == DYNAMIC {
        supported
    } else {
        // One is of no use without the other.
        supported & !XTILE
    }
}

/// The features of one register that are offered on this host.
pub fn offered(function: u32, index: u32, reg: Reg) -> u32 {
    let software = features::mask(function, index, reg, Source::Software);
    let native = features::mask(function, index, reg, Source::Host);
    let vendor = if host_is_amd() { Source::Amd } else { Source::Intel };
    let software = software | features::mask(function, index, reg, vendor);
    software | (native & host_or_zero(function, index)[reg.index()])
}

/// Whether CPUID answers of `function` depend on ECX.
pub fn is_indexed(function: u32) -> bool {
    matches!(
        function,
        4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1d | 0x1e | 0x1f | 0x8000_001d
    )
}

fn entry(function: u32, index: u32, regs: [u32; 4]) -> Entry {
    Entry {
        function,
        index,
        flags: if is_indexed(function) {
            SIGNIFICANT_INDEX
        } else {
            0
        },
        regs,
    }
}

/// Replaces the registers of a leaf that hold feature bits.
fn with_features(function: u32, index: u32, mut regs: [u32; 4], words: &[Reg]) -> Entry {
    for &reg in words {
        regs[reg.index()] = offered(function, index, reg);
    }
    entry(function, index, regs)
}

fn cache_leaves(function: u32, out: &mut Vec<Entry>) {
    for index in 0..16 {
        let regs = host_or_zero(function, index);
        out.push(entry(function, index, regs));
        if regs[0] & 0x1f == 0 {
            break;
        }
    }
}

fn leaf_7(out: &mut Vec<Entry>) {
    let mut regs = host_or_zero(7, 0);
    regs[0] = regs[0].min(1);
    let subleaves = regs[0];
    out.push(with_features(7, 0, regs, &[Reg::Ebx, Reg::Ecx, Reg::Edx]));
    if subleaves >= 1 {
        out.push(entry(7, 1, [offered(7, 1, Reg::Eax), 0, 0, 0]));
    }
}

/// Tiles, of which one palette is known.
fn tile_leaves(function: u32, out: &mut Vec<Entry>) {
    let has_tiles = offered(7, 0, features::AMX_TILE.reg) >> features::AMX_TILE.bit & 1 != 0;
    let mut regs = host_or_zero(function, 0);
    if !has_tiles {
        return out.push(entry(function, 0, [0; 4]));
    }
    regs[0] = regs[0].min(1);
    out.push(entry(function, 0, regs));
    if regs[0] == 1 {
        let more = match function {
            0x1d => host(function, 1),
            _ => [offered(function, 1, Reg::Eax), 0, 0, 0],
        };
        out.push(entry(function, 1, more));
    }
}

fn leaf_d(xcr0: u64, out: &mut Vec<Entry>) {
    let size = xsave_size(xcr0, super::Layout::Standard);
    out.push(entry(0xd, 0, [xcr0 as u32, size, size, (xcr0 >> 32) as u32]));
    if xcr0 == 0 {
        return;
    }
    let features = offered(0xd, 1, Reg::Eax);
    let compact = if features & (1 << features::XSAVEC.bit) != 0 {
        xsave_size(xcr0, super::Layout::Compacted)
    } else {
        0
    };
    out.push(entry(0xd, 1, [features, compact, 0, 0]));
    for index in (2..63).filter(|i| xcr0 & (1 << i) != 0) {
        let [eax, ebx, ecx, _] = host(0xd, index);
        // Bit 1 tells the alignment in the compacted format, bit 2 that the component can be disabled.
        out.push(entry(0xd, index, [eax, ebx, ecx & 0b111, 0]));
    }
}

fn basic_leaf(function: u32, xcr0: u64, out: &mut Vec<Entry>) {
    let host_regs = host_or_zero(function, 0);
    match function {
        0 => out.push(entry(
            0,
            0,
            [
                host_regs[0].clamp(0xd, MAX_BASIC),
                host_regs[1],
                host_regs[2],
                host_regs[3],
            ],
        )),
        1 => {
            let mut regs = host_regs;
            // The initial APIC id and the number of logical processors are the client's to choose.
            regs[1] &= 0x0000_ffff;
            out.push(with_features(1, 0, regs, &[Reg::Ecx, Reg::Edx]));
        }
        2 => out.push(entry(2, 0, host_regs)),
        4 => cache_leaves(4, out),
        6 => out.push(entry(6, 0, [offered(6, 0, Reg::Eax), 0, 0, 0])),
        7 => leaf_7(out),
        0xa => out.push(entry(0xa, 0, pmu::shape::architectural_leaf())),
        0xb | 0x1f => out.push(entry(function, 0, [0; 4])),
        0xd => leaf_d(xcr0, out),
        0x1d | 0x1e => tile_leaves(function, out),
        _ => out.push(entry(function, 0, [0; 4])),
    }
}

fn extended_leaf(function: u32, out: &mut Vec<Entry>) {
    let h = host_or_zero(function, 0);
    match function {
        0x8000_0000 => {
            // A client that sees 0x8000001d or later reads the host's own cache leaf (QEMU does), which a host
            // without it answers with another leaf.
            let max = if h[0] >= 0x8000_001d && host_is_amd() {
                MAX_EXTENDED_AMD
            } else if h[0] >= 0x8000_001d {
                MAX_EXTENDED_INTEL
            } else {
                h[0].clamp(0x8000_0008, 0x8000_001c)
            };
            out.push(entry(function, 0, [max, h[1], h[2], h[3]]));
        }
        0x8000_0001 => {
            let regs = [h[0], h[1] & !0x0fff_0000, h[2], h[3]];
            out.push(with_features(function, 0, regs, &[Reg::Ecx, Reg::Edx]));
        }
        0x8000_0002..=0x8000_0005 => out.push(entry(function, 0, h)),
        0x8000_0006 => out.push(entry(function, 0, [h[0], h[1], h[2], h[3] & !0x3_0000])),
        0x8000_0007 => out.push(entry(
            function,
            0,
            [0, 0, 0, h[3] & (1 << features::CONSTANT_TSC.bit)],
        )),
        0x8000_0008 => {
            let physical = if h[0] & 0xff == 0 { 40 } else { h[0] & 0xff };
            // 48 bits of virtual address: five-level paging is not offered.
            let eax = physical | 48 << 8;
            out.push(entry(
                function,
                0,
                [eax, offered(function, 0, Reg::Ebx), h[2] & 0xf0ff, 0],
            ));
        }
        0x8000_0019 => out.push(entry(function, 0, [h[0], h[1], 0, 0])),
        0x8000_001a => out.push(entry(function, 0, [h[0] & 7, 0, 0, 0])),
        0x8000_001d => cache_leaves(function, out),
        0x8000_0021 => out.push(entry(function, 0, [offered(function, 0, Reg::Eax), 0, 0, 0])),
        0x8000_0022 => out.push(entry(
            function,
            0,
            [offered(function, 0, Reg::Eax), pmu::shape::MOST_AMD, 0, 0],
        )),
        _ => out.push(entry(function, 0, [0; 4])),
    }
}

/// The answer of KVM_GET_SUPPORTED_CPUID.
pub fn supported() -> &'static [Entry] {
    // Without and with the components that take a permission, which may come meanwhile.
    static TABLES: [OnceLock<Vec<Entry>>; 2] = [const { OnceLock::new() }; 2];
    let xcr0 = permitted_xcr0();
    TABLES[usize::from(xcr0 & DYNAMIC != 0)].get_or_init(|| {
        let mut out = Vec::new();
        basic_leaf(0, xcr0, &mut out);
        for function in 1..=out[0].regs[0] {
            basic_leaf(function, xcr0, &mut out);
        }
        let first = out.len();
        extended_leaf(0x8000_0000, &mut out);
        for function in 0x8000_0001..=out[first].regs[0] {
            extended_leaf(function, &mut out);
        }
        let [b, c, d] = KVM_SIGNATURE;
        out.push(entry(KVM_SIGNATURE_LEAF, 0, [KVM_FEATURES_LEAF, b, c, d]));
        out.push(entry(KVM_FEATURES_LEAF, 0, [features::pv::OFFERED, 0, 0, 0]));
        out
    })
}

/// The answer of KVM_GET_EMULATED_CPUID: what costs more than on the host. Everything offered is in the supported
/// list already; the leaf ranges are told all the same, as Linux does.
pub fn emulated() -> Vec<Entry> {
    let movbe = 1 << features::MOVBE.bit;
    let rdpid = 1 << features::RDPID.bit;
    vec![
        entry(0, 0, [7, 0, 0, 0]),
        entry(1, 0, [0, 0, movbe, 0]),
        entry(7, 0, [0, 0, rdpid, 0]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(function: u32, index: u32) -> Entry {
        *supported()
            .iter()
            .find(|e| e.function == function && e.index == index)
            .unwrap()
    }

    #[test]
    fn software_features_are_offered_on_any_host() {
        let leaf1 = find(1, 0);
        assert_ne!(leaf1.regs[2] & (1 << features::X2APIC.bit), 0);
        assert_ne!(leaf1.regs[3] & (1 << features::PAE.bit), 0);
        assert_ne!(find(0x8000_0001, 0).regs[3] & (1 << features::LM.bit), 0);
    }

    #[test]
    fn host_features_never_exceed_the_host() {
        let native = features::mask(7, 0, Reg::Ebx, Source::Host);
        assert_eq!(find(7, 0).regs[1] & native & !host(7, 0)[1], 0);
    }

    #[test]
    fn hypervisor_leaves_have_the_signature() {
        let e = find(KVM_SIGNATURE_LEAF, 0);
        assert_eq!(e.regs[0], KVM_FEATURES_LEAF);
        assert_eq!(&e.regs[1].to_le_bytes(), b"KVMK");
    }

    #[test]
    fn every_leaf_up_to_the_maximum_has_an_entry() {
        let max = find(0, 0).regs[0];
        for function in 0..=max {
            assert!(
                supported().iter().any(|e| e.function == function),
                "{function:#x}"
            );
        }
    }
}
