//! The client's face: the state of KVM_GET_LAPIC and KVM_SET_LAPIC.

use super::base::x2apic_logical_id;
use super::regs::{Bank, Reg, RegisterPage, STATE_SIZE};
use super::timer::StartFrom;
use super::{Features, Lapic};
use crate::ports::TscTimerPort;

/// EINVAL: the state's APIC ID is not the vCPU's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidState;

impl Lapic {
    /// The register page, with the timer's current count and the processor priority brought up to date.
    pub fn state(&self, port: &dyn TscTimerPort) -> [u8; STATE_SIZE] {
        let mut regs = self.regs.clone();
        regs.set(Reg::CURRENT_COUNT, self.current_count(port));
        regs.set(Reg::PPR, self.processor_priority());
        if self.x2apic() && !self.features.contains(Features::WIDE_IDS) {
            regs.set(Reg::ID, regs.get(Reg::ID) << 24);
        }
        regs.to_bytes()
    }

    /// Replace the registers and go on counting from the restored current count. The APIC base is not
    /// part of the state: it must be set before.
    pub fn set_state(
        &mut self,
        state: &[u8; STATE_SIZE],
        port: &mut dyn TscTimerPort,
    ) -> Result<(), InvalidState> {
        let mut regs = RegisterPage::from_bytes(state);
        if self.x2apic() {
            if !self.features.contains(Features::WIDE_IDS) {
                // The ID is read-only; eight bits of it tell nothing more.
                regs.set(Reg::ID, self.id);
            } else if regs.get(Reg::ID) != self.id {
                return Err(InvalidState);
            }
            regs.set(Reg::LDR, x2apic_logical_id(regs.get(Reg::ID)));
        }
        self.regs = regs;
        self.view_changed = true;
        self.requests = self.regs.highest(Bank::Request).is_some();
        self.update_version();
        self.timer.cancel(port);
        self.update_timer_mode(port);
        self.update_divisor();
        self.start_timer(StartFrom::CurrentCount, port);
        self.regs.set(Reg::CURRENT_COUNT, 0);
        Ok(())
    }
}
