//! Interrupt messages: what travels between the I/O APIC, MSI writers, and the local APICs.

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// An APIC ID or a logical destination, by the message's [`DestinationMode`].
    Id(u32),
    /// The sender alone.
    Itself,
    /// Everyone.
    AllIncludingSelf,
    /// Everyone except the sender.
    AllExcludingSelf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DestinationMode {
    Physical,
    Logical,
}

impl DestinationMode {
    pub fn from_bit(logical: bool) -> Self {
        if logical {
            DestinationMode::Logical
        } else {
            DestinationMode::Physical
        }
    }
}

/// The delivery modes, with their encodings in the ICR, an LVT entry, a redirection entry or MSI data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DeliveryMode {
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    /// Remote read on old processors; KVM uses it to wake a vCPU that halted in a paravirtual lock.
    RemoteRead = 3,
    Nmi = 4,
    Init = 5,
    Startup = 6,
    ExtInt = 7,
}

impl DeliveryMode {
    /// The mode of a three-bit field.
    pub fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            3 => DeliveryMode::RemoteRead,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::Startup,
            _ => DeliveryMode::ExtInt,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TriggerMode {
    Edge,
    Level,
}

impl TriggerMode {
    pub fn from_bit(level: bool) -> Self {
        if level {
            TriggerMode::Level
        } else {
            TriggerMode::Edge
        }
    }
}

/// The ICR's level field: meaningful for INIT and for level-triggered messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Assertion {
    Assert,
    Deassert,
}

impl Assertion {
    pub fn from_bit(assert: bool) -> Self {
        if assert {
            Assertion::Assert
        } else {
            Assertion::Deassert
        }
    }
}

/// The redirection hint of an MSI address: with it set, one of the destinations is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirection {
    None,
    Hinted,
}

/// One interrupt on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicMessage {
    pub destination: Destination,
    pub destination_mode: DestinationMode,
    pub delivery_mode: DeliveryMode,
    pub vector: u8,
    pub assertion: Assertion,
    pub trigger: TriggerMode,
    pub redirection: Redirection,
}

/// How the client encodes destinations above 255 in MSI addresses (KVM_CAP_X2APIC_API).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DestinationFormat {
    /// Eight bits, in the low address.
    #[default]
    Xapic,
    /// Bits 31:8 of the destination in bits 63:40 of the address.
    X2apic,
}

/// An MSI that the API refuses (EINVAL): reserved bits in the upper half of the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidMsi;

impl ApicMessage {
    /// The message that an MSI write of `data` to `address` carries.
    pub fn from_msi(address: u64, data: u32, format: DestinationFormat) -> Result<Self, InvalidMsi> {
        let low = address as u32;
        let high = (address >> 32) as u32;
        let mut id = low >> 12 & 0xff;
        if format == DestinationFormat::X2apic {
            if high & 0xff != 0 {
                return Err(InvalidMsi);
            }
            id |= high & 0xffff_ff00;
        }
        Ok(ApicMessage {
            destination: Destination::Id(id),
            destination_mode: DestinationMode::from_bit(low & 1 << 2 != 0),
            delivery_mode: DeliveryMode::from_bits(data >> 8),
            vector: data as u8,
            assertion: Assertion::Assert,
            trigger: TriggerMode::from_bit(data & 1 << 15 != 0),
            redirection: if low & 1 << 3 != 0 {
                Redirection::Hinted
            } else {
                Redirection::None
            },
        })
    }

    /// The message that a value of the interrupt command register sends. `destination_id` is the
    /// destination field, already reduced to the mode's width.
    pub fn from_icr(low: u32, destination_id: u32) -> Self {
        ApicMessage {
            destination: match low >> 18 & 3 {
                0 => Destination::Id(destination_id),
                1 => Destination::Itself,
                2 => Destination::AllIncludingSelf,
                _ => Destination::AllExcludingSelf,
            },
            destination_mode: DestinationMode::from_bit(low & 1 << 11 != 0),
            delivery_mode: DeliveryMode::from_bits(low >> 8),
            vector: low as u8,
            assertion: Assertion::from_bit(low & 1 << 14 != 0),
            trigger: TriggerMode::from_bit(low & 1 << 15 != 0),
            redirection: Redirection::None,
        }
    }

    /// One of the matching processors is to be chosen, rather than all taken.
    pub fn wants_one_target(&self) -> bool {
        self.delivery_mode == DeliveryMode::LowestPriority || self.redirection == Redirection::Hinted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msi_fields() {
        let m = ApicMessage::from_msi(0xfee0_100c, 0x41b1, DestinationFormat::Xapic).unwrap();
        assert_eq!(m.destination, Destination::Id(1));
        assert_eq!(m.destination_mode, DestinationMode::Logical);
        assert_eq!(m.delivery_mode, DeliveryMode::LowestPriority);
        assert_eq!(m.vector, 0xb1);
        assert_eq!(m.trigger, TriggerMode::Edge);
        assert!(m.wants_one_target());
    }

    #[test]
    fn msi_destinations_above_255() {
        let address = 0x0000_0100_fee0_2000;
        let m = ApicMessage::from_msi(address, 0x30, DestinationFormat::X2apic).unwrap();
        assert_eq!(m.destination, Destination::Id(0x102));
        let m = ApicMessage::from_msi(address, 0x30, DestinationFormat::Xapic).unwrap();
        assert_eq!(m.destination, Destination::Id(2));
        let bad = ApicMessage::from_msi(address | 1 << 32, 0x30, DestinationFormat::X2apic);
        assert_eq!(bad, Err(InvalidMsi));
    }

    #[test]
    fn icr_fields() {
        let m = ApicMessage::from_icr(0x000c_4500, 0);
        assert_eq!(m.destination, Destination::AllExcludingSelf);
        assert_eq!(m.delivery_mode, DeliveryMode::Init);
        assert_eq!(m.assertion, Assertion::Assert);
        let m = ApicMessage::from_icr(0x0000_4608, 3);
        assert_eq!((m.delivery_mode, m.vector), (DeliveryMode::Startup, 8));
        assert_eq!(m.destination, Destination::Id(3));
    }
}
