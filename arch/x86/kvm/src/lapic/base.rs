//! The APIC base MSR (IA32_APIC_BASE) and the mode it selects.

use super::regs::Reg;
use super::{Features, Lapic, Role};

const BOOT_PROCESSOR: u64 = 1 << 8;
const X2APIC: u64 = 1 << 10;
const ENABLED: u64 = 1 << 11;
const ADDRESS: u64 = 0xffff_f000;
/// Bits that are reserved whatever the guest's CPUID: 7:0 and 9.
const ALWAYS_RESERVED: u64 = 0x2ff;
const DEFAULT_ADDRESS: u64 = 0xfee0_0000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    Disabled,
    Xapic,
    X2apic,
}

/// A valid value of the MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicBase(u64);

/// Who writes: the guest is held to the architecture's transitions, the client is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    Guest,
    Client,
}

/// Reserved bits, or a transition that the architecture forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidBase;

impl ApicBase {
    pub(super) fn power_up(role: Role) -> Self {
        let boot = if role == Role::Boot { BOOT_PROCESSOR } else { 0 };
        ApicBase(DEFAULT_ADDRESS | ENABLED | boot)
    }

    pub fn mode(self) -> ApicMode {
        match (self.0 & ENABLED != 0, self.0 & X2APIC != 0) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::Xapic,
            (true, true) => ApicMode::X2apic,
        }
    }

    /// Where the 4 KiB window lies.
    pub fn address(self) -> u64 {
        self.0 & ADDRESS
    }

    pub fn bits(self) -> u64 {
        self.0
    }
}

/// The logical x2APIC ID: cluster in the upper half, one bit of sixteen in the lower.
pub(super) fn x2apic_logical_id(id: u32) -> u32 {
    id >> 4 << 16 | 1 << (id & 15)
}

impl Lapic {
    pub fn base(&self) -> ApicBase {
        self.base
    }

    /// Write IA32_APIC_BASE. `reserved_address_bits` are those above the guest's MAXPHYADDR. The caller
    /// must refresh CPUID's APIC bit when the mode changed.
    pub fn set_base(
        &mut self,
        value: u64,
        reserved_address_bits: u64,
        writer: Writer,
    ) -> Result<(), InvalidBase> {
        let mut reserved = reserved_address_bits | ALWAYS_RESERVED;
        if !self.features.contains(Features::X2APIC) {
            reserved |= X2APIC;
        }
        if value & reserved != 0 || value & (ENABLED | X2APIC) == X2APIC {
            return Err(InvalidBase);
        }
        let (old, new) = (self.base.mode(), ApicBase(value).mode());
        let forbidden = [
            (ApicMode::X2apic, ApicMode::Xapic),
            (ApicMode::Disabled, ApicMode::X2apic),
        ]
        .contains(&(old, new));
        if writer == Writer::Guest && forbidden {
            return Err(InvalidBase);
        }
        self.apply_base(ApicBase(value));
        Ok(())
    }

    pub(super) fn apply_base(&mut self, new: ApicBase) {
        let old = self.base;
        self.base = new;
        if old.mode() == ApicMode::Disabled && new.mode() != ApicMode::Disabled {
            self.set_xapic_id(self.id as u8);
        }
        if old.0 & X2APIC == 0 && new.0 & X2APIC != 0 {
            self.regs.set(Reg::ID, self.id);
            self.regs.set(Reg::LDR, x2apic_logical_id(self.id));
        }
        // Only the client can do that.
        if old.0 & X2APIC != 0 && new.mode() == ApicMode::Xapic {
            self.set_xapic_id(self.id as u8);
        }
        if old.mode() != new.mode() {
            self.view_changed = true;
        }
    }

    pub(super) fn set_xapic_id(&mut self, id: u8) {
        self.regs.set(Reg::ID, u32::from(id) << 24);
        self.view_changed = true;
    }
}
