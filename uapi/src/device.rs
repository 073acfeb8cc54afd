//! In-kernel devices and attribute groups: the types KVM_CREATE_DEVICE takes and what the attribute ioctls address.

mod rows;

pub use rows::*;

use crate::arch::Archs;

macro_rules! types {
    ($($name:ident = $number:literal, $($arch:ident)|+;)*) => {
        $(pub const $name: u32 = $number;)*

        /// Every device type.
        pub const DEVICE_TYPES: &[DeviceTypeRow] = &[$(DeviceTypeRow {
            name: stringify!($name),
            number: $name,
            archs: Archs::empty()$(.union(Archs::$arch))+,
        }),*];
    };
}

types! {
    KVM_DEV_TYPE_FSL_MPIC_20 = 1, PPC;
    KVM_DEV_TYPE_FSL_MPIC_42 = 2, PPC;
    KVM_DEV_TYPE_XICS = 3, PPC;
    KVM_DEV_TYPE_VFIO = 4, X86|ARM64|S390|PPC;
    KVM_DEV_TYPE_ARM_VGIC_V2 = 5, ARM64;
    KVM_DEV_TYPE_FLIC = 6, S390;
    KVM_DEV_TYPE_ARM_VGIC_V3 = 7, ARM64;
    KVM_DEV_TYPE_ARM_VGIC_ITS = 8, ARM64;
    KVM_DEV_TYPE_XIVE = 9, PPC;
    KVM_DEV_TYPE_ARM_PV_TIME = 10, ARM64;
    KVM_DEV_TYPE_RISCV_AIA = 11, RISCV;
    KVM_DEV_TYPE_LOONGARCH_IPI = 12, LOONGARCH;
    KVM_DEV_TYPE_LOONGARCH_EIOINTC = 13, LOONGARCH;
    KVM_DEV_TYPE_LOONGARCH_PCHPIC = 14, LOONGARCH;
    KVM_DEV_TYPE_LOONGARCH_DMSINTC = 15, LOONGARCH;
    KVM_DEV_TYPE_ARM_VGIC_V5 = 16, ARM64;
}

/// A type of in-kernel device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTypeRow {
    pub name: &'static str,
    pub number: u32,
    pub archs: Archs,
}

/// What an attribute group belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    System,
    Vm,
    Vcpu,
    /// A device of this type.
    Device(u32),
}

/// A group of attributes.
#[derive(Clone, Copy, Debug)]
pub struct AttrGroupRow {
    pub owner: Owner,
    pub archs: Archs,
    pub name: &'static str,
    pub number: u32,
    /// Its attributes in words, for the coverage table.
    pub attributes: &'static str,
}

pub const KVM_DEV_VFIO_FILE: u32 = 1;
pub const KVM_DEV_VFIO_FILE_ADD: u64 = 1;
pub const KVM_DEV_VFIO_FILE_DEL: u64 = 2;

/// Flag of [`KvmCreateDevice`]: only ask whether the type exists.
pub const KVM_CREATE_DEVICE_TEST: u32 = 1;

abi! {
    /// For KVM_CREATE_DEVICE.
    struct KvmCreateDevice {
        type_: u32,
        /// Written by KVM: the new fd.
        fd: u32,
        flags: u32,
    }

    /// For KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR and KVM_HAS_DEVICE_ATTR.
    struct KvmDeviceAttr {
        flags: u32,
        group: u32,
        attr: u64,
        /// Where the attribute's data is, in the client.
        addr: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_belong_to_types_that_exist() {
        for row in ATTR_GROUPS {
            if let Owner::Device(number) = row.owner {
                let ty = DEVICE_TYPES
                    .iter()
                    .find(|ty| ty.number == number)
                    .expect(row.name);
                assert!(ty.archs.contains(row.archs), "{}", row.name);
            }
        }
    }
}
