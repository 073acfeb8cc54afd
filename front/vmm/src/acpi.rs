//! The machine in ACPI's tables: processors, the I/O APIC, a serial port, and how to power off.

use crate::layout::{ACPI, IOAPIC, LOCAL_APIC, SCI_IRQ, SERIAL_IRQ, port};
use crate::memory::GuestMemory;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink, aml};
use anyhow::{Result, ensure};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::{Immutable, IntoBytes};

const OEM: [u8; 6] = *b"RING3 ";
const TABLE: [u8; 8] = *b"RING3VMM";
const REVISION: u32 = 1;
/// SLP_TYP of S5, as the `_S5` object says.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// What the reset register takes.
pub const RESET_VALUE: u8 = 6;

/// An interrupt of ISA's that is not edge-triggered.
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C, packed)]
struct InterruptOverride {
    type_: u8,
    length: u8,
    bus: u8,
    source: u8,
    gsi: [u8; 4],
    flags: [u8; 2],
}

impl Aml for InterruptOverride {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(self.as_bytes());
    }
}

/// Level-triggered, active high.
const LEVEL_HIGH: u16 = 0b1101;

impl InterruptOverride {
    fn level(source: u8) -> Self {
        InterruptOverride {
            type_: 2,
            length: 10,
            bus: 0,
            source,
            gsi: u32::from(source).to_le_bytes(),
            flags: LEVEL_HIGH.to_le_bytes(),
        }
    }
}

/// Writes the tables, the RSDP first.
pub fn write(memory: &GuestMemory, cpus: u32) -> Result<()> {
    // The RSDP's length is known, so the others can follow it.
    let mut writer = Writer {
        memory,
        at: ACPI.start + Rsdp::len().next_multiple_of(16) as u64,
    };
    let dsdt = writer.put(&dsdt())?;
    let fadt = writer.put(&fadt(dsdt))?;
    let madt = writer.put(&madt(cpus))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = writer.put(&xsdt)?;
    writer.at = ACPI.start;
    writer.put(&Rsdp::new(OEM, xsdt))?;
    Ok(())
}

struct Writer<'a> {
    memory: &'a GuestMemory,
    at: u64,
}

impl Writer<'_> {
    fn put(&mut self, table: &dyn Aml) -> Result<u64> {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        let at = self.at;
        ensure!(
            at + bytes.len() as u64 <= ACPI.end,
            "too many processors for the tables"
        );
        self.memory.write_slice(&bytes, GuestAddress(at))?;
        self.at = (at + bytes.len() as u64).next_multiple_of(16);
        Ok(at)
    }
}

fn port_register(at: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, at.into())
}

fn fadt(dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = u16::from(SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(port::PM1_EVENT.start).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(port::PM1_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_evt_blk = port_register(port::PM1_EVENT.start, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port_register(port::PM1_CONTROL, 16, AccessSize::WordAccess);
    fadt.reset_reg = port_register(port::RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    // No VGA, no CMOS clock; and no keyboard controller to probe.
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    fadt.iapc_boot_arch = (NO_VGA | NO_CMOS_CLOCK).into();
    fadt.finalize()
}

fn madt(cpus: u32) -> impl Aml {
    let mut madt = MADT::new(
        OEM,
        TABLE,
        REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for id in 0..cpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    madt.add_structure(InterruptOverride::level(SCI_IRQ));
    madt
}

fn dsdt() -> impl Aml {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    let mut body = Vec::new();
    let serial = port::SERIAL;
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::IO::new(serial.start, serial.start, 1, serial.len() as u8),
                    &aml::Interrupt::new(true, true, false, false, SERIAL_IRQ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(&mut body);
    aml::Name::new(
        "_S5_".into(),
        &aml::Package::new(vec![&SLEEP_TYPE_OFF, &aml::ZERO, &aml::ZERO, &aml::ZERO]),
    )
    .to_aml_bytes(&mut body);
    dsdt.append_slice(&body);
    dsdt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::create;

    fn read(memory: &GuestMemory, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        memory
            .read_slice(&mut bytes, GuestAddress(at))
            .expect("in memory");
        bytes
    }

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    fn table(memory: &GuestMemory, at: u64) -> Vec<u8> {
        let len = number(&read(memory, at + 4, 4)) as usize;
        let table = read(memory, at, len);
        assert_eq!(table.iter().fold(0u8, |sum, b| sum.wrapping_add(*b)), 0);
        table
    }

    #[test]
    fn every_table_is_found_and_sums_to_zero() {
        let memory = create(16).expect("16 MiB");
        write(&memory, 2).expect("room");
        let rsdp = read(&memory, ACPI.start, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        let xsdt = table(&memory, number(&rsdp[24..32]));
        let fadt = table(&memory, number(&xsdt[36..44]));
        let madt = table(&memory, number(&xsdt[44..52]));
        assert_eq!((&fadt[..4], &madt[..4]), (&b"FACP"[..], &b"APIC"[..]));
        let dsdt = table(&memory, number(&fadt[140..148]));
        assert_eq!(&dsdt[..4], b"DSDT");
        // Two processors of 8 bytes, an I/O APIC of 12, an override of 10.
        assert_eq!(madt.len(), 44 + 2 * 8 + 12 + 10);
    }

    #[test]
    fn as_many_processors_as_ids() {
        write(&create(16).expect("16 MiB"), 254).expect("room");
    }
}
