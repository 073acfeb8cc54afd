//! The routing table: what a GSI is connected to.

use crate::errno::Errno;
use ring3_uapi::{
    KVM_IRQ_ROUTING_HV_SINT, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQ_ROUTING_S390_ADAPTER,
    KVM_IRQ_ROUTING_XEN_EVTCHN, KVM_MSI_VALID_DEVID, KvmIrqRoutingEntry, KvmIrqRoutingS390Adapter, KvmMsi,
};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// An input of an interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    pub chip: u32,
    pub pin: u32,
}

/// A message-signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
    pub device: Option<u32>,
}

impl From<KvmMsi> for Msi {
    fn from(msi: KvmMsi) -> Msi {
        Msi {
            address: u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo),
            data: msi.data,
            device: (msi.flags & KVM_MSI_VALID_DEVID != 0).then_some(msi.devid),
        }
    }
}

/// What a GSI is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Pin(Pin),
    Msi(Msi),
    /// A Hyper-V synthetic interrupt source.
    HvSint {
        vcpu: u32,
        sint: u32,
    },
    /// A Xen event channel.
    XenEvent {
        port: u32,
        vcpu: u32,
        priority: u32,
    },
    /// An s390 adapter.
    Adapter(KvmIrqRoutingS390Adapter),
}

impl Route {
    fn of(entry: &KvmIrqRoutingEntry) -> Result<Route, Errno> {
        let allowed = if entry.type_ == KVM_IRQ_ROUTING_MSI {
            KVM_MSI_VALID_DEVID
        } else {
            0
        };
        if entry.flags & !allowed != 0 {
            return Err(Errno::EINVAL);
        }
        Ok(match entry.type_ {
            KVM_IRQ_ROUTING_IRQCHIP => {
                let it = entry.irqchip();
                Route::Pin(Pin {
                    chip: it.irqchip,
                    pin: it.pin,
                })
            }
            KVM_IRQ_ROUTING_MSI => {
                let it = entry.msi();
                Route::Msi(Msi {
                    address: u64::from(it.address_hi) << 32 | u64::from(it.address_lo),
                    data: it.data,
                    device: (entry.flags & KVM_MSI_VALID_DEVID != 0).then_some(it.devid),
                })
            }
            KVM_IRQ_ROUTING_HV_SINT => {
                let it = entry.hv_sint();
                Route::HvSint {
                    vcpu: it.vcpu,
                    sint: it.sint,
                }
            }
            KVM_IRQ_ROUTING_XEN_EVTCHN => {
                let it = entry.xen_evtchn();
                Route::XenEvent {
                    port: it.port,
                    vcpu: it.vcpu,
                    priority: it.priority,
                }
            }
            KVM_IRQ_ROUTING_S390_ADAPTER => Route::Adapter(entry.adapter()),
            _ => return Err(Errno::EINVAL),
        })
    }

    /// A GSI may go to one pin of each controller, or to one thing that is not a pin.
    fn excludes(&self, other: &Route) -> bool {
        match (self, other) {
            (Route::Pin(a), Route::Pin(b)) => a.chip == b.chip,
            _ => true,
        }
    }
}

/// A routing table.
#[derive(Debug, Default)]
pub struct Table {
    by_gsi: Vec<Vec<Route>>,
    by_pin: HashMap<Pin, u32>,
}

impl Table {
    /// The table of these entries, whose GSIs are below `gsis`. `allowed` is the architecture's say.
    pub fn new(
        entries: &[KvmIrqRoutingEntry],
        gsis: u32,
        mut allowed: impl FnMut(&Route) -> Result<(), Errno>,
    ) -> Result<Table, Errno> {
        let most = entries.iter().map(|entry| entry.gsi).max().unwrap_or(0);
        if most >= gsis {
            return Err(Errno::EINVAL);
        }
        let mut table = Table {
            by_gsi: vec![Vec::new(); most as usize + 1],
            by_pin: HashMap::new(),
        };
        for entry in entries {
            let route = Route::of(entry)?;
            let routes = &mut table.by_gsi[entry.gsi as usize];
            if routes.iter().any(|other| other.excludes(&route)) {
                return Err(Errno::EINVAL);
            }
            allowed(&route)?;
            routes.push(route);
            if let Route::Pin(pin) = route {
                table.by_pin.insert(pin, entry.gsi);
            }
        }
        Ok(table)
    }

    /// What a GSI is connected to.
    pub fn routes(&self, gsi: u32) -> &[Route] {
        self.by_gsi.get(gsi as usize).map_or(&[], Vec::as_slice)
    }

    /// The GSI that is connected to a pin.
    pub fn gsi_of(&self, pin: Pin) -> Option<u32> {
        self.by_pin.get(&pin).copied()
    }
}

/// A VM's current table.
#[derive(Debug, Default)]
pub struct Routing(RwLock<Arc<Table>>);

impl Routing {
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn replace(&self, table: Table) {
        let table = Arc::new(table);
        let old = std::mem::replace(
            &mut *self.0.write().unwrap_or_else(PoisonError::into_inner),
            table,
        );
        drop(old);
    }
}
