//! What there is, read off the very rows that a client's requests go through.

use crate::arch::Arch;
use crate::{system, vcpu, vfio, vm};
use ring3_uapi::arch::Level;
use ring3_uapi::device::Owner;

/// The numbers of the rows: an architecture's own, or all of them.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub system: Vec<u32>,
    pub vm: Vec<u32>,
    pub vcpu: Vec<u32>,
    pub device: Vec<u32>,
    /// Those that KVM_CHECK_EXTENSION has an answer for.
    pub capabilities: Vec<u32>,
    /// Those that KVM_ENABLE_CAP switches.
    pub enabled_on_vm: Vec<u32>,
    pub enabled_on_vcpu: Vec<u32>,
    /// Exit reasons that KVM_RUN can return with.
    pub exits: Vec<u32>,
    pub device_types: Vec<u32>,
    /// Groups of attributes.
    pub attributes: Vec<(Owner, u32)>,
}

impl Tables {
    /// All of an architecture's.
    pub fn of<A: Arch>() -> Tables {
        let mut tables = A::tables();
        tables.system.extend(system::REQUESTS);
        tables.vm.extend(vm::REQUESTS);
        tables.vcpu.extend(vcpu::REQUESTS);
        tables.device.extend(vm::DEVICE_REQUESTS);
        tables.capabilities.extend(vm::capabilities::<A>());
        tables.enabled_on_vm.extend(vm::enabled::<A>());
        tables.exits.extend(vcpu::EXITS);
        if vfio::exists::<A>() {
            tables.device_types.push(vfio::TYPE);
            tables
                .attributes
                .extend(vfio::GROUPS.map(|group| (Owner::Device(vfio::TYPE), group)));
        }
        tables
    }

    /// The requests that a kind of descriptor takes.
    pub fn requests(&self, level: Level) -> &[u32] {
        match level {
            Level::System => &self.system,
            Level::Vm => &self.vm,
            Level::Vcpu => &self.vcpu,
            Level::Device => &self.device,
        }
    }
}
