//! CPUID: what is offered, what the client chose, and what the guest sees.
//!
//! `features` has the bits as rows, `supported` makes the lists for the client from them, this file holds the
//! vCPU's table and executes the instruction, `ioctls` is the client's side.
//!
//! Not supported: Hyper-V leaves, SGX, VMX and SVM.

pub mod features;
pub mod ioctls;
pub mod supported;

use features::{Feature, Reg};
use supported::{KVM_FEATURES_LEAF, KVM_SIGNATURE};

/// KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry answers only for its own ECX.
pub const SIGNIFICANT_INDEX: u32 = 1;

/// One row of a vCPU's CPUID table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub function: u32,
    pub index: u32,
    pub flags: u32,
    pub regs: [u32; 4],
}

/// The two layouts of an XSAVE area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Standard,
    Compacted,
}

/// The size of an XSAVE area holding the components `xcr0`.
pub fn xsave_size(xcr0: u64, layout: Layout) -> u32 {
    // Legacy region and header.
    let mut size = 512 + 64;
    for i in (2..63u32).filter(|i| xcr0 & (1 << i) != 0) {
        let r = std::arch::x86_64::__cpuid_count(0xd, i);
        match layout {
            Layout::Standard => size = size.max(r.ebx + r.eax),
            Layout::Compacted => {
                let start = if r.ecx & 2 != 0 { (size + 63) & !63 } else { size };
                size = start + r.eax;
            }
        }
    }
    size
}

/// The parts of the vCPU that show in CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    pub osxsave: bool,
    pub ospke: bool,
    pub apic_enabled: bool,
    pub xcr0: u64,
}

/// The CPUID table of a vCPU.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    /// Whether the client ever gave a table.
    set: bool,
}

impl Table {
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub fn replace(&mut self, entries: Vec<Entry>) {
        self.entries = entries;
        self.set = true;
    }

    pub fn is_set(&self) -> bool {
        self.set
    }

    /// The entry for a leaf; an entry whose index is not significant answers for any.
    pub fn find(&self, function: u32, index: u32) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|e| e.function == function && (e.flags & SIGNIFICANT_INDEX == 0 || e.index == index))
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.find(feature.function, feature.index)
            .is_some_and(|e| e.regs[feature.reg.index()] >> feature.bit & 1 != 0)
    }

    /// Physical address width of the guest.
    pub fn physical_bits(&self) -> u32 {
        let has_leaf = self
            .find(0x8000_0000, 0)
            .is_some_and(|e| e.regs[0] >= 0x8000_0008);
        match self.find(0x8000_0008, 0) {
            Some(e) if has_leaf => e.regs[0] & 0xff,
            _ => 36,
        }
    }

    /// XCR0 bits the guest may set.
    pub fn supported_xcr0(&self) -> u64 {
        self.find(0xd, 0).map_or(0, |e| {
            (u64::from(e.regs[0]) | u64::from(e.regs[3]) << 32) & supported::supported_xcr0()
        })
    }

    /// The dynamic components that the client gives to the guest, permitted or not.
    pub fn dynamic_components(&self) -> u64 {
        self.find(0xd, 0).map_or(0, |e| {
            (u64::from(e.regs[0]) | u64::from(e.regs[3]) << 32) & supported::DYNAMIC
        })
    }

    /// Whether the guest sees AMD's (or Hygon's) processor.
    pub fn is_amd(&self) -> bool {
        self.find(0, 0).is_some_and(|e| is_amd(e.regs))
    }

    /// The leaf of the paravirtual features, if the guest sees the KVM signature.
    fn pv_leaf(&self) -> Option<u32> {
        let has_signature = |base: &u32| self.find(*base, 0).is_some_and(|e| e.regs[1..] == KVM_SIGNATURE);
        let base = (0..0x100u32)
            .map(|i| 0x4000_0000 + i * 0x100)
            .find(has_signature)?;
        Some(base | (KVM_FEATURES_LEAF & 0xff))
    }

    /// The paravirtual features the client enabled, if the guest sees the KVM signature.
    pub fn pv_features(&self) -> Option<u32> {
        let leaf = self.pv_leaf()?;
        Some(self.find(leaf, 0).map_or(0, |e| e.regs[0]))
    }

    /// Takes a paravirtual feature away that the VM's settings exclude.
    pub fn hide_pv(&mut self, bit: u32) {
        let Some(leaf) = self.pv_leaf() else { return };
        for entry in self.entries.iter_mut().filter(|e| e.function == leaf) {
            entry.regs[0] &= !(1 << bit);
        }
    }

    /// Executes CPUID.
    pub fn lookup(&self, function: u32, index: u32, now: Runtime) -> [u32; 4] {
        if let Some(entry) = self.find(function, index) {
            return dynamic(entry, now);
        }
        let mut function = function;
        if let Some(basic) = self.redirect(function) {
            function = basic;
            if let Some(entry) = self.find(function, index) {
                return dynamic(entry, now);
            }
        }
        // CL passes through and EDX is the x2APIC id for subleaves past the end of the topology leaves.
        if matches!(function, 0xb | 0x1f)
            && let Some(entry) = self.find(function, 1)
        {
            return [0, 0, index & 0xff, entry.regs[3]];
        }
        [0; 4]
    }

    /// Intel processors answer an out-of-range leaf as the highest basic one; AMD's answer zeros.
    fn redirect(&self, function: u32) -> Option<u32> {
        let basic = self.find(0, 0)?;
        if self.is_amd() {
            return None;
        }
        let base = match function {
            0x4000_0000..=0x4fff_ffff => function & 0xffff_ff00,
            0xc000_0000.. => 0xc000_0000,
            _ => function & 0x8000_0000,
        };
        match self.find(base, 0) {
            Some(class) if function <= class.regs[0] => None,
            _ => Some(basic.regs[0]),
        }
    }

    /// The table with the bits that depend on the vCPU filled in, as KVM_GET_CPUID2 returns it.
    pub fn current(&self, now: Runtime) -> Vec<Entry> {
        self.entries
            .iter()
            .map(|e| Entry {
                regs: dynamic(e, now),
                ..*e
            })
            .collect()
    }
}

/// Whether leaf 0 names AMD, or Hygon.
fn is_amd(leaf: [u32; 4]) -> bool {
    let vendor = [leaf[1], leaf[3], leaf[2]];
    [b"AuthenticAMD", b"HygonGenuine", b"AMDisbetter!"]
        .into_iter()
        .any(|name| vendor == words(name))
}

fn words(name: &[u8; 12]) -> [u32; 3] {
    let word = |i: usize| u32::from_le_bytes([name[i], name[i + 1], name[i + 2], name[i + 3]]);
    [word(0), word(4), word(8)]
}

fn put(regs: &mut [u32; 4], feature: Feature, value: bool) {
    let word = &mut regs[feature.reg.index()];
    *word = *word & !(1 << feature.bit) | u32::from(value) << feature.bit;
}

/// An entry's answer with the bits that follow the vCPU's state.
fn dynamic(entry: &Entry, now: Runtime) -> [u32; 4] {
    let mut regs = entry.regs;
    match (entry.function, entry.index) {
        (1, _) => {
            put(&mut regs, features::OSXSAVE, now.osxsave);
            put(&mut regs, features::APIC, now.apic_enabled);
        }
        (7, 0) => put(&mut regs, features::OSPKE, now.ospke),
        (0xd, 0) => regs[Reg::Ebx.index()] = xsave_size(now.xcr0, Layout::Standard),
        (0xd, 1) => {
            let compact = 1 << features::XSAVEC.bit | 1 << features::XSAVES.bit;
            if regs[0] & compact != 0 {
                regs[Reg::Ebx.index()] = xsave_size(now.xcr0, Layout::Compacted);
            }
        }
        _ => {}
    }
    regs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn e(function: u32, index: u32, flags: u32, regs: [u32; 4]) -> Entry {
        Entry {
            function,
            index,
            flags,
            regs,
        }
    }

    fn intel() -> Table {
        let mut table = Table::default();
        let [b, d, c] = words(b"GenuineIntel");
        table.replace(vec![
            e(0, 0, 0, [0xd, b, c, d]),
            e(1, 0, 0, [1, 2, 3, 4]),
            e(0xb, 0, SIGNIFICANT_INDEX, [0, 1, 0x100, 7]),
            e(0xb, 1, SIGNIFICANT_INDEX, [4, 1, 0x201, 7]),
            e(0xd, 0, SIGNIFICANT_INDEX, [7, 0, 0x340, 0]),
        ]);
        table
    }

    #[test]
    fn out_of_range_on_intel_is_the_highest_basic_leaf() {
        let now = Runtime {
            xcr0: 1,
            ..Runtime::default()
        };
        assert_eq!(intel().lookup(0x20, 0, now)[2], 0x340);
        assert_eq!(intel().lookup(0x8000_0001, 0, now)[2], 0x340);
        assert_eq!(intel().lookup(5, 0, now), [0; 4]);
    }

    #[test]
    fn out_of_range_on_amd_is_zero() {
        let mut table = intel();
        let [b, d, c] = words(b"AuthenticAMD");
        table.entries[0].regs = [0xd, b, c, d];
        assert!(table.is_amd());
        assert_eq!(table.lookup(0x20, 0, Runtime::default()), [0; 4]);
    }

    #[test]
    fn topology_leaf_past_the_end_keeps_the_apic_id() {
        assert_eq!(intel().lookup(0xb, 5, Runtime::default()), [0, 0, 5, 7]);
    }

    #[test]
    fn osxsave_follows_cr4() {
        let on = Runtime {
            osxsave: true,
            ..Runtime::default()
        };
        let bit = 1 << features::OSXSAVE.bit;
        assert_eq!(intel().lookup(1, 0, on)[2] & bit, bit);
        assert_eq!(intel().lookup(1, 0, Runtime::default())[2] & bit, 0);
    }

    #[test]
    fn xsave_area_of_x87_and_sse_is_legacy_and_header() {
        assert_eq!(xsave_size(3, Layout::Standard), 576);
    }
}
