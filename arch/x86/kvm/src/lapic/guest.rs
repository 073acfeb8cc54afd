//! The guest's face: the xAPIC's MMIO window and the x2APIC's MSRs.

use super::regs::{Reg, icr, lvt, svr};
use super::{ApicMessage, EndOfInterrupt, Features, Lapic};
use crate::ports::TscTimerPort;

/// What a write asks of the rest of the VM. Beside that, any write may have made an interrupt
/// deliverable: look at [`Lapic::highest_pending`] afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    None,
    /// Send this interprocessor interrupt.
    Send(ApicMessage),
    /// Tell the I/O APIC.
    EndOfInterrupt(EndOfInterrupt),
}

/// #GP(0): the MSR does not exist in this mode, or the value sets reserved bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

const WINDOW: u64 = 0x1000;
const LAST_REGISTER: u16 = 0x3f0;
const FIRST_MSR: u32 = 0x800;
/// The vector and the SVR's enable and focus bits.
const SVR_WRITABLE: u32 = 0x3ff;

/// The bits of an LVT entry that hold what is written; the timer's mode bits come on top.
fn lvt_writable(entry: Reg) -> u32 {
    let plain = lvt::VECTOR | lvt::DELIVERY_STATUS | lvt::MASKED;
    match entry {
        Reg::LVT_TIMER | Reg::LVT_ERROR => plain,
        Reg::LVT_LINT0 | Reg::LVT_LINT1 => {
            plain | lvt::DELIVERY_MODE | lvt::POLARITY | lvt::REMOTE_IRR | lvt::LEVEL_TRIGGERED
        }
        _ => plain | lvt::DELIVERY_MODE,
    }
}

impl Lapic {
    /// Where the window is whose accesses are this APIC's to answer.
    pub fn window(&self) -> Option<u64> {
        let answers = self.xapic() || self.features.contains(Features::MMIO_HOLE);
        answers.then(|| self.base.address())
    }

    /// Whether an access to guest-physical `address` is this APIC's to answer.
    pub fn claims(&self, address: u64) -> bool {
        self.window()
            .is_some_and(|window| address.wrapping_sub(window) < WINDOW)
    }

    fn xapic(&self) -> bool {
        self.hardware_enabled() && !self.x2apic()
    }

    /// A read from a claimed address. What is no register reads as zero.
    pub fn mmio_read(&self, address: u64, data: &mut [u8], port: &dyn TscTimerPort) {
        if !self.xapic() {
            data.fill(0xff);
            return;
        }
        data.fill(0);
        let offset = (address & (WINDOW - 1)) as u16;
        let start = usize::from(offset & 0xf);
        if start + data.len() > 4 || !matches!(data.len(), 1 | 2 | 4) {
            return;
        }
        if let Some(value) = self.read_register(offset, port) {
            data.copy_from_slice(&value.to_le_bytes()[start..start + data.len()]);
        }
    }

    /// A write to a claimed address. Only aligned 32-bit writes reach a register.
    pub fn mmio_write(&mut self, address: u64, data: &[u8], port: &mut dyn TscTimerPort) -> Effect {
        let offset = (address & (WINDOW - 1)) as u16;
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) if self.xapic() && offset & 0xf == 0 && offset <= LAST_REGISTER => self
                .write_register(Reg::at(offset), u32::from_le_bytes(bytes), port)
                .unwrap_or(Effect::None),
            _ => Effect::None,
        }
    }

    /// RDMSR of 800h..8FFh.
    pub fn msr_read(&self, index: u32, port: &dyn TscTimerPort) -> Result<u64, GeneralProtection> {
        let offset = self.msr_offset(index)?;
        match Reg::at(offset) {
            Reg::DFR => Err(GeneralProtection),
            Reg::ICR => Ok(self.icr()),
            _ => self
                .read_register(offset, port)
                .map(u64::from)
                .ok_or(GeneralProtection),
        }
    }

    /// WRMSR to 800h..8FFh.
    pub fn msr_write(
        &mut self,
        index: u32,
        value: u64,
        port: &mut dyn TscTimerPort,
    ) -> Result<Effect, GeneralProtection> {
        match Reg::at(self.msr_offset(index)?) {
            Reg::ICR => self.write_wide_icr(value),
            reg => {
                let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
                self.write_register(reg, value, port)
            }
        }
    }

    fn msr_offset(&self, index: u32) -> Result<u16, GeneralProtection> {
        let offset = index
            .checked_sub(FIRST_MSR)
            .map(|n| n << 4)
            .ok_or(GeneralProtection)?;
        if !self.x2apic() || offset > u32::from(LAST_REGISTER) {
            return Err(GeneralProtection);
        }
        Ok(offset as u16)
    }

    /// A register's value, or `None` where there is none to read.
    fn read_register(&self, offset: u16, port: &dyn TscTimerPort) -> Option<u32> {
        if offset & !0xf > LAST_REGISTER {
            return None;
        }
        let reg = Reg::at(offset);
        let readable = match reg {
            Reg::ID | Reg::VERSION | Reg::TPR | Reg::PPR | Reg::LDR | Reg::DFR | Reg::SVR | Reg::ESR => true,
            Reg::APR | Reg::ICR_HIGH => !self.x2apic(),
            Reg::ICR | Reg::INITIAL_COUNT | Reg::CURRENT_COUNT | Reg::DIVIDE_CONFIG => true,
            r if r >= Reg::ISR && r < Reg::ESR => true,
            r => self.lvt_entries().contains(&r),
        };
        readable.then(|| match reg {
            Reg::APR => 0,
            Reg::PPR => self.processor_priority(),
            Reg::CURRENT_COUNT => self.current_count(port),
            _ => self.regs.get(reg),
        })
    }

    fn write_register(
        &mut self,
        reg: Reg,
        value: u32,
        port: &mut dyn TscTimerPort,
    ) -> Result<Effect, GeneralProtection> {
        match reg {
            Reg::ID | Reg::LDR | Reg::DFR | Reg::ICR_HIGH => self.write_xapic_only(reg, value)?,
            Reg::TPR => self.regs.set(Reg::TPR, value & 0xff),
            Reg::EOI => {
                return Ok(self
                    .end_of_interrupt()
                    .map_or(Effect::None, Effect::EndOfInterrupt));
            }
            Reg::SVR => self.write_svr(value, port),
            Reg::ICR => return Ok(self.write_icr(value)),
            Reg::INITIAL_COUNT => self.write_initial_count(value, port),
            Reg::DIVIDE_CONFIG => self.write_divide_config(value, port),
            // The ESR never holds anything, so arming it changes nothing.
            Reg::ESR if self.x2apic() && value != 0 => return Err(GeneralProtection),
            Reg::ESR => {}
            Reg::SELF_IPI if self.x2apic() && value <= 0xff => {
                return Ok(Effect::Send(ApicMessage::from_icr(1 << 18 | value, 0)));
            }
            _ => self.write_lvt(reg, value, port)?,
        }
        Ok(Effect::None)
    }

    /// The registers that are read-only, or gone, in x2APIC mode.
    fn write_xapic_only(&mut self, reg: Reg, value: u32) -> Result<(), GeneralProtection> {
        if self.x2apic() {
            return Err(GeneralProtection);
        }
        let value = match reg {
            Reg::DFR => value | 0x0fff_ffff,
            _ => value & 0xff00_0000,
        };
        self.regs.set(reg, value);
        self.view_changed |= reg != Reg::ICR_HIGH;
        Ok(())
    }

    pub(super) fn write_svr(&mut self, value: u32, port: &mut dyn TscTimerPort) {
        let mut writable = SVR_WRITABLE;
        if self.may_suppress_eoi_broadcast() {
            writable |= svr::SUPPRESS_EOI_BROADCAST;
        }
        self.store_svr(value & writable);
        if value & svr::ENABLED == 0 {
            for &entry in self.lvt_entries() {
                self.regs.set(entry, self.regs.get(entry) | lvt::MASKED);
            }
            self.update_timer_mode(port);
        }
    }

    pub(super) fn store_svr(&mut self, value: u32) {
        self.view_changed |= (value ^ self.regs.get(Reg::SVR)) & svr::ENABLED != 0;
        self.regs.set(Reg::SVR, value);
    }

    fn write_lvt(
        &mut self,
        reg: Reg,
        value: u32,
        port: &mut dyn TscTimerPort,
    ) -> Result<(), GeneralProtection> {
        if !self.lvt_entries().contains(&reg) {
            return Err(GeneralProtection);
        }
        let mut writable = lvt_writable(reg);
        if reg == Reg::LVT_TIMER {
            writable |= self.timer_mode_bits();
        }
        let forced = if self.software_enabled() { 0 } else { lvt::MASKED };
        self.regs.set(reg, (value | forced) & writable);
        if reg == Reg::LVT_TIMER {
            self.update_timer_mode(port);
        }
        Ok(())
    }

    fn write_icr(&mut self, value: u32) -> Effect {
        let value = value & !icr::DELIVERY_STATUS;
        self.regs.set(Reg::ICR, value);
        Effect::Send(ApicMessage::from_icr(value, self.regs.get(Reg::ICR_HIGH) >> 24))
    }

    /// The ICR of the x2APIC: one register of 64 bits, with a 32-bit destination.
    fn write_wide_icr(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        if value & icr::X2APIC_RESERVED != 0 {
            return Err(GeneralProtection);
        }
        let low = value as u32 & !icr::DELIVERY_STATUS;
        let high = (value >> 32) as u32;
        self.regs.set(Reg::ICR, low);
        self.regs.set(Reg::ICR_HIGH, high);
        Ok(Effect::Send(ApicMessage::from_icr(low, high)))
    }

    fn icr(&self) -> u64 {
        u64::from(self.regs.get(Reg::ICR_HIGH)) << 32 | u64::from(self.regs.get(Reg::ICR))
    }
}
