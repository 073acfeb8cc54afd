//! KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.

use super::Chips;
use super::wiring::Bus;
use crate::pic::Chip;
use ring3_uapi::x86::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KvmIrqchip};

/// EINVAL: there is no chip of that number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownChip;

impl Chips {
    /// Fill in the state of the chip that `state` names.
    pub fn get_state(&self, state: &mut KvmIrqchip) -> Result<(), UnknownChip> {
        match state.chip_id {
            KVM_IRQCHIP_PIC_MASTER => state.set_pic(self.pic.lock().state(Chip::Master)),
            KVM_IRQCHIP_PIC_SLAVE => state.set_pic(self.pic.lock().state(Chip::Slave)),
            KVM_IRQCHIP_IOAPIC => state.set_ioapic(self.ioapic.lock().state()),
            _ => return Err(UnknownChip),
        }
        Ok(())
    }

    /// Replace the state of the chip that `state` names.
    pub fn set_state(&self, state: &KvmIrqchip) -> Result<(), UnknownChip> {
        let chip = match state.chip_id {
            KVM_IRQCHIP_PIC_MASTER => Chip::Master,
            KVM_IRQCHIP_PIC_SLAVE => Chip::Slave,
            KVM_IRQCHIP_IOAPIC => {
                self.ioapic
                    .lock()
                    .set_state(&state.ioapic(), &mut Bus(&*self.apics));
                self.restored();
                return Ok(());
            }
            _ => return Err(UnknownChip),
        };
        let mut pic = self.pic.lock();
        pic.set_state(chip, &state.pic());
        self.publish(pic);
        Ok(())
    }
}
