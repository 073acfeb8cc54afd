//! The machine-check banks: storage with rules, and the injection of KVM_X86_SET_MCE.
//!
//! Errors that the guest need not act on (UCNA) are logged, and told by the interrupt for corrected ones (CMCI).

use super::index::*;
use super::{Access, Denied, allow};

/// MCG_CTL is present.
const MCG_CTL_P: u64 = 1 << 8;
/// Software error recovery.
const MCG_SER_P: u64 = 1 << 24;
/// CTL2 registers, and the interrupt that they enable.
pub const MCG_CMCI_P: u64 = 1 << 10;
/// The answer of KVM_X86_GET_MCE_CAP_SUPPORTED.
pub const SUPPORTED: u64 = MCG_CTL_P | MCG_SER_P | MCG_CMCI_P;
pub const MAX_BANKS: u32 = 32;
const REGISTERS_PER_BANK: u32 = 4;
pub const BANKS_LAST: u32 = IA32_MC0_CTL + MAX_BANKS * REGISTERS_PER_BANK - 1;
pub const CTL2_LAST: u32 = IA32_MC0_CTL2 + MAX_BANKS - 1;
/// HWCR: the guest may write the status registers (AMD).
const HWCR_MC_STATUS_WR_EN: u64 = 1 << 18;

const STATUS_VALID: u64 = 1 << 63;
const STATUS_OVERFLOW: u64 = 1 << 62;
const STATUS_UNCORRECTED: u64 = 1 << 61;
/// The processor's context is corrupt; the error was signalled; the guest must act on it.
const STATUS_NEEDS_ACTION: u64 = 1 << 57 | 1 << 56 | 1 << 55;
const CTL2_INTERRUPT: u64 = 1 << 30;
const CTL2_THRESHOLD: u64 = 0x7fff;
const MCG_STATUS_MCIP: u64 = 1 << 2;

/// The machine-check registers of a vCPU.
#[derive(Clone, Debug)]
pub struct Mce {
    pub cap: u64,
    ctl: u64,
    status: u64,
    /// CTL, STATUS, ADDR, MISC of each bank.
    banks: [[u64; 4]; MAX_BANKS as usize],
    ctl2: [u64; MAX_BANKS as usize],
}

impl Default for Mce {
    fn default() -> Mce {
        // Linux starts every vCPU with the largest number of banks and no other capability.
        Mce {
            cap: u64::from(MAX_BANKS),
            ctl: 0,
            status: 0,
            banks: [[0; 4]; MAX_BANKS as usize],
            ctl2: [0; MAX_BANKS as usize],
        }
    }
}

/// What an injected machine check does to the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    Logged,
    /// The interrupt for corrected errors.
    Interrupt,
    /// #MC.
    Exception,
    /// The guest is not ready for it.
    TripleFault,
}

impl Mce {
    fn bank_count(&self) -> u32 {
        (self.cap & 0xff) as u32
    }

    /// KVM_X86_SETUP_MCE.
    pub fn setup(&mut self, cap: u64) -> Result<(), Denied> {
        let count = cap & 0xff;
        allow(count != 0 && count <= u64::from(MAX_BANKS))?;
        allow(cap & !(SUPPORTED | 0xff | 0xff_0000) == 0)?;
        self.cap = cap;
        if cap & MCG_CTL_P != 0 {
            self.ctl = u64::MAX;
        }
        let count = count as usize;
        self.banks[..count].iter_mut().for_each(|bank| bank[0] = u64::MAX);
        if cap & MCG_CMCI_P != 0 {
            self.ctl2[..count].fill(0);
        }
        Ok(())
    }

    /// KVM_X86_SET_MCE. `ready` says whether the guest can take a #MC (CR4.MCE).
    pub fn inject(&mut self, bank: u8, event: McEvent, ready: bool) -> Result<Injected, Denied> {
        allow(u32::from(bank) < self.bank_count() && event.status & STATUS_VALID != 0)?;
        let uncorrected = event.status & STATUS_UNCORRECTED != 0;
        let Some(regs) = self.banks.get_mut(usize::from(bank)) else {
            return Err(Denied::Invalid);
        };
        if event.needs_no_action() {
            *regs = [regs[0], event.status, event.addr, event.misc];
            self.status = event.mcg_status;
            let told = self.cap & MCG_CMCI_P != 0 && self.ctl2[usize::from(bank)] & CTL2_INTERRUPT != 0;
            return Ok(if told {
                Injected::Interrupt
            } else {
                Injected::Logged
            });
        }
        let disabled = (self.cap & MCG_CTL_P != 0 && self.ctl != u64::MAX) || regs[0] != u64::MAX;
        if uncorrected && disabled {
            return Ok(Injected::Logged);
        }
        let had = regs[1];
        let overflow = if had & STATUS_VALID != 0 {
            STATUS_OVERFLOW
        } else {
            0
        };
        if uncorrected {
            if self.status & MCG_STATUS_MCIP != 0 || !ready {
                return Ok(Injected::TripleFault);
            }
            *regs = [regs[0], event.status | overflow, event.addr, event.misc];
            self.status = event.mcg_status;
            return Ok(Injected::Exception);
        }
        if had & STATUS_VALID == 0 || had & STATUS_UNCORRECTED == 0 {
            *regs = [regs[0], event.status | overflow, event.addr, event.misc];
        } else {
            regs[1] |= STATUS_OVERFLOW;
        }
        Ok(Injected::Logged)
    }
}

/// The event of KVM_X86_SET_MCE.
#[derive(Clone, Copy, Debug)]
pub struct McEvent {
    pub status: u64,
    pub addr: u64,
    pub misc: u64,
    pub mcg_status: u64,
}

impl McEvent {
    /// An uncorrected error in what nobody has used yet.
    fn needs_no_action(&self) -> bool {
        self.mcg_status == 0
            && self.status & STATUS_UNCORRECTED != 0
            && self.status & STATUS_NEEDS_ACTION == 0
    }
}

pub fn read(a: &mut Access) -> Result<u64, Denied> {
    let mce = &a.unit.mce;
    match a.index {
        IA32_P5_MC_ADDR | IA32_P5_MC_TYPE => Ok(0),
        IA32_MCG_CAP => Ok(mce.cap),
        IA32_MCG_STATUS => Ok(mce.status),
        IA32_MCG_CTL => {
            allow(mce.cap & MCG_CTL_P != 0 || a.by_client())?;
            Ok(mce.ctl)
        }
        index @ IA32_MC0_CTL2..=CTL2_LAST => {
            let bank = index - IA32_MC0_CTL2;
            allow(bank < mce.bank_count())?;
            allow(mce.cap & MCG_CMCI_P != 0 || a.by_client())?;
            Ok(mce.ctl2[bank as usize])
        }
        index @ IA32_MC0_CTL..=BANKS_LAST => {
            let offset = index - IA32_MC0_CTL;
            let bank = offset / REGISTERS_PER_BANK;
            allow(bank < mce.bank_count())?;
            Ok(mce.banks[bank as usize][(offset % REGISTERS_PER_BANK) as usize])
        }
        _ => Err(Denied::Unknown),
    }
}

pub fn write(a: &mut Access, value: u64) -> Result<(), Denied> {
    let by_client = a.by_client();
    let may_set_status = a.unit.cpuid.is_amd() && a.unit.msrs.get(HWCR) & HWCR_MC_STATUS_WR_EN != 0;
    let mce = &mut a.unit.mce;
    match a.index {
        IA32_MCG_STATUS => mce.status = value,
        IA32_MCG_CTL => {
            allow(mce.cap & MCG_CTL_P != 0 || (by_client && value == 0))?;
            allow(value == 0 || value == u64::MAX)?;
            mce.ctl = value;
        }
        index @ IA32_MC0_CTL2..=CTL2_LAST => {
            let bank = index - IA32_MC0_CTL2;
            allow(bank < mce.bank_count())?;
            allow(mce.cap & MCG_CMCI_P != 0 || (by_client && value == 0))?;
            allow(value & !(CTL2_INTERRUPT | CTL2_THRESHOLD) == 0)?;
            mce.ctl2[bank as usize] = value;
        }
        index @ IA32_MC0_CTL..=BANKS_LAST => {
            let offset = index - IA32_MC0_CTL;
            let (bank, reg) = (offset / REGISTERS_PER_BANK, offset % REGISTERS_PER_BANK);
            allow(bank < mce.bank_count())?;
            // CTL takes all ones (some kernels clear bits 0 or 10) or zero; the guest may only clear STATUS.
            allow(reg != 0 || value == 0 || value | 1 << 10 | 1 == u64::MAX)?;
            allow(reg != 1 || by_client || value == 0 || may_set_status)?;
            mce.banks[bank as usize][reg as usize] = value;
        }
        _ => return Err(Denied::Invalid),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uncorrected(mcg_status: u64) -> McEvent {
        McEvent {
            status: STATUS_VALID | STATUS_UNCORRECTED,
            addr: 1,
            misc: 2,
            mcg_status,
        }
    }

    #[test]
    fn setup_checks_the_bank_count_and_capabilities() {
        let mut mce = Mce::default();
        assert!(mce.setup(0).is_err());
        assert!(mce.setup(33).is_err());
        assert!(mce.setup(10 | 1 << 9).is_err());
        mce.ctl2 = [CTL2_INTERRUPT; MAX_BANKS as usize];
        assert!(mce.setup(10 | SUPPORTED).is_ok());
        assert_eq!((mce.ctl, mce.banks[9][0]), (u64::MAX, u64::MAX));
        assert_eq!((mce.ctl2[9], mce.ctl2[10]), (0, CTL2_INTERRUPT));
    }

    #[test]
    fn an_error_that_needs_no_action_is_an_interrupt_if_enabled() {
        let mut mce = Mce::default();
        mce.setup(10 | SUPPORTED).unwrap();
        let event = uncorrected(0);
        assert_eq!(mce.inject(3, event, true), Ok(Injected::Logged));
        mce.ctl2[3] = CTL2_INTERRUPT;
        assert_eq!(mce.inject(3, event, true), Ok(Injected::Interrupt));
        assert_eq!(mce.banks[3][1..], [event.status, 1, 2]);
    }

    #[test]
    fn an_uncorrected_error_needs_a_ready_guest() {
        let mut mce = Mce::default();
        mce.setup(10 | SUPPORTED).unwrap();
        let event = uncorrected(MCG_STATUS_MCIP);
        assert_eq!(mce.inject(0, event, false), Ok(Injected::TripleFault));
        assert_eq!(mce.inject(0, event, true), Ok(Injected::Exception));
        assert_eq!(mce.inject(0, event, true), Ok(Injected::TripleFault));
        assert_eq!(mce.inject(10, event, true), Err(Denied::Invalid));
    }
}
