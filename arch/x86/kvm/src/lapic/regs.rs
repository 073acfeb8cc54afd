//! The register page of a local APIC, in the layout of KVM_GET_LAPIC: one 32-bit register every 16
//! bytes, at the offsets that the guest sees in the xAPIC's 4 KiB window.

/// The offset of a register. In x2APIC mode the register's MSR is 0x800 + offset / 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Reg(u16);

impl Reg {
    pub const ID: Reg = Reg(0x20);
    pub const VERSION: Reg = Reg(0x30);
    pub const TPR: Reg = Reg(0x80);
    pub const APR: Reg = Reg(0x90);
    pub const PPR: Reg = Reg(0xa0);
    pub const EOI: Reg = Reg(0xb0);
    pub const LDR: Reg = Reg(0xd0);
    pub const DFR: Reg = Reg(0xe0);
    pub const SVR: Reg = Reg(0xf0);
    pub const ISR: Reg = Reg(0x100);
    pub const TMR: Reg = Reg(0x180);
    pub const IRR: Reg = Reg(0x200);
    pub const ESR: Reg = Reg(0x280);
    pub const LVT_CMCI: Reg = Reg(0x2f0);
    pub const ICR: Reg = Reg(0x300);
    pub const ICR_HIGH: Reg = Reg(0x310);
    pub const LVT_TIMER: Reg = Reg(0x320);
    pub const LVT_THERMAL: Reg = Reg(0x330);
    pub const LVT_PERFORMANCE: Reg = Reg(0x340);
    pub const LVT_LINT0: Reg = Reg(0x350);
    pub const LVT_LINT1: Reg = Reg(0x360);
    pub const LVT_ERROR: Reg = Reg(0x370);
    pub const INITIAL_COUNT: Reg = Reg(0x380);
    pub const CURRENT_COUNT: Reg = Reg(0x390);
    pub const DIVIDE_CONFIG: Reg = Reg(0x3e0);
    pub const SELF_IPI: Reg = Reg(0x3f0);

    /// The register at an offset into the page; the low four bits are dropped.
    pub fn at(offset: u16) -> Reg {
        Reg(offset & 0xff0)
    }

    fn word(self) -> usize {
        usize::from(self.0 >> 2) & (WORDS - 1)
    }
}

/// Bits of the spurious interrupt vector register.
pub mod svr {
    pub const ENABLED: u32 = 1 << 8;
    pub const SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
}

/// Bits of a local vector table entry.
pub mod lvt {
    pub const VECTOR: u32 = 0xff;
    pub const DELIVERY_MODE: u32 = 0x700;
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    pub const POLARITY: u32 = 1 << 13;
    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const LEVEL_TRIGGERED: u32 = 1 << 15;
    pub const MASKED: u32 = 1 << 16;
}

/// Bits of the interrupt command register.
pub mod icr {
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// What #GP follows in x2APIC mode: bits 31:20, 17:16 and 13.
    pub const X2APIC_RESERVED: u64 = 0xfff0_0000 | 0x3_0000 | 1 << 13;
}

const WORDS: usize = 256;
/// The size of `struct kvm_lapic_state`.
pub const STATE_SIZE: usize = WORDS * 4;

/// One of the three 256-bit vector registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bank {
    InService,
    TriggerMode,
    Request,
}

impl Bank {
    /// Where bits 32n..32n+31 of the bank are kept.
    fn word(self, n: usize) -> usize {
        let first = match self {
            Bank::InService => Reg::ISR,
            Bank::TriggerMode => Reg::TMR,
            Bank::Request => Reg::IRR,
        };
        first.word() + 4 * n
    }
}

/// The registers as words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterPage {
    words: [u32; WORDS],
}

impl Default for RegisterPage {
    fn default() -> Self {
        RegisterPage { words: [0; WORDS] }
    }
}

impl RegisterPage {
    pub fn from_bytes(bytes: &[u8; STATE_SIZE]) -> Self {
        let mut page = RegisterPage::default();
        for (word, chunk) in page.words.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*chunk);
        }
        page
    }

    pub fn to_bytes(&self) -> [u8; STATE_SIZE] {
        let mut bytes = [0; STATE_SIZE];
        for (word, chunk) in self.words.iter().zip(bytes.as_chunks_mut::<4>().0) {
            *chunk = word.to_le_bytes();
        }
        bytes
    }

    pub fn get(&self, reg: Reg) -> u32 {
        self.words[reg.word()]
    }

    pub fn set(&mut self, reg: Reg, value: u32) {
        self.words[reg.word()] = value;
    }

    pub fn test(&self, bank: Bank, vector: u8) -> bool {
        self.words[bank.word(usize::from(vector >> 5))] & 1 << (vector & 31) != 0
    }

    pub fn assign(&mut self, bank: Bank, vector: u8, on: bool) {
        let word = &mut self.words[bank.word(usize::from(vector >> 5))];
        *word = *word & !(1 << (vector & 31)) | u32::from(on) << (vector & 31);
    }

    /// The highest vector set in a bank.
    pub fn highest(&self, bank: Bank) -> Option<u8> {
        (0..8).rev().find_map(|n| {
            let word = self.words[bank.word(n)];
            (word != 0).then(|| (32 * n as u32 + word.ilog2()) as u8)
        })
    }

    pub fn clear(&mut self, bank: Bank) {
        for n in 0..8 {
            self.words[bank.word(n)] = 0;
        }
    }
}

/// A set of interrupt vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    pub fn insert(&mut self, vector: u8) {
        self.0[usize::from(vector >> 6)] |= 1 << (vector & 63);
    }

    pub fn contains(&self, vector: u8) -> bool {
        self.0[usize::from(vector >> 6)] & 1 << (vector & 63) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_follow_the_layout_of_the_page() {
        let mut page = RegisterPage::default();
        page.assign(Bank::Request, 0x31, true);
        page.assign(Bank::Request, 0xfe, true);
        let bytes = page.to_bytes();
        assert_eq!(bytes[0x212], 0x02);
        assert_eq!(bytes[0x273], 0x40);
        assert_eq!(page.highest(Bank::Request), Some(0xfe));
        page.assign(Bank::Request, 0xfe, false);
        assert_eq!(page.highest(Bank::Request), Some(0x31));
        assert_eq!(page.highest(Bank::InService), None);
        assert_eq!(RegisterPage::from_bytes(&page.to_bytes()), page);
    }

    #[test]
    fn vector_sets() {
        let mut set = VectorSet::default();
        set.insert(0);
        set.insert(255);
        assert!(set.contains(0) && set.contains(255) && !set.contains(64));
    }
}
