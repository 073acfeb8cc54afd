//! KVM_IRQ_LINE, KVM_SIGNAL_MSI and KVM_SET_GSI_ROUTING, and the ways to drive a GSI from inside.

use super::routing::Table;
use super::{IrqSource, Level, LineStatus, Pin, Route};
use crate::arch::Arch;
use crate::errno::Errno;
use crate::vm::Vm;
use ring3_uapi::{KVM_MSI_VALID_DEVID, KvmIrqLevel, KvmIrqRoutingEntry, KvmMsi};

/// KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS.
pub fn irq_line<A: Arch>(vm: &Vm<A>, line: &KvmIrqLevel) -> Result<LineStatus, Errno> {
    if !A::irqchip_in_kernel(vm) {
        return Err(Errno::ENXIO);
    }
    Ok(vm.set_irq(line.irq, IrqSource::Client, Level::from(line.level != 0)))
}

/// KVM_SIGNAL_MSI: how many vCPUs took it. Where nobody could, Linux returns -1, which is EPERM.
pub fn signal_msi<A: Arch>(vm: &Vm<A>, msi: &KvmMsi) -> Result<i64, Errno> {
    if !A::irqchip_in_kernel(vm) || msi.flags & !KVM_MSI_VALID_DEVID != 0 {
        return Err(Errno::EINVAL);
    }
    let route = Route::Msi((*msi).into());
    A::check_route(vm, &route)?;
    match A::set_irq(vm, &route, IrqSource::Client, Level::High) {
        LineStatus::Ignored => Err(Errno::EPERM),
        status => Ok(status.code().into()),
    }
}

/// KVM_SET_GSI_ROUTING, and what an architecture connects by default.
pub fn set_gsi_routing<A: Arch>(vm: &Vm<A>, entries: &[KvmIrqRoutingEntry]) -> Result<(), Errno> {
    let table = Table::new(entries, A::LIMITS.irq_routes, |route| A::check_route(vm, route))?;
    let changes = vm.irqs().changes.lock();
    vm.irqs().routing.replace(table);
    drop(changes);
    A::routing_changed(vm);
    Ok(())
}

impl<A: Arch> Vm<A> {
    /// Drives a GSI: all it is connected to. Call it without locks of interrupt controllers.
    pub fn set_irq(&self, gsi: u32, source: IrqSource, level: Level) -> LineStatus {
        let table = self.irqs().routing.table();
        let each = table
            .routes(gsi)
            .iter()
            .map(|route| A::set_irq(self, route, source, level));
        each.fold(LineStatus::Ignored, LineStatus::merge)
    }

    /// The guest ended the interrupt of a pin. Call it without locks of interrupt controllers: what is notified
    /// may drive the pin again.
    pub fn irq_acked(&self, pin: Pin) {
        if let Some(gsi) = self.irqs().routing.table().gsi_of(pin) {
            self.irqs().acks.notify(gsi);
        }
    }

    /// Whether anybody wants to know of a pin's end of interrupt.
    pub fn ack_wanted(&self, pin: Pin) -> bool {
        self.irqs()
            .routing
            .table()
            .gsi_of(pin)
            .is_some_and(|gsi| self.irqs().acks.wanted(gsi))
    }
}
