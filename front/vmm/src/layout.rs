//! Where everything is in guest-physical memory.

use std::ops::Range;

/// The boot GDT, read by nobody: Linux loads its own first.
pub const GDT: u64 = 0x500;
/// Linux's `boot_params`.
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables that map the first four GiB one to one: PML4, PDPT and four page directories.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// As long as Linux takes one, the final zero included.
pub const CMDLINE_MAX: usize = 2048;
/// Conventional memory ends where an extended BIOS data area would begin.
pub const LOW_END: u64 = 0x9_fc00;
/// The firmware's own: the RSDP is looked for here, and the other tables follow it.
pub const ACPI: Range<u64> = 0xe_0000..0x10_0000;
/// Extended memory, where kernels go.
pub const HIGH: u64 = 0x10_0000;
/// Devices live from here to 4 GiB; memory that does not fit below goes above.
pub const HOLE: Range<u64> = 0xc000_0000..0x1_0000_0000;
/// Three pages that KVM on Intel wants to itself.
pub const TSS: u64 = 0xfffb_d000;
/// A page of the same kind.
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
pub const IOAPIC: u32 = 0xfec0_0000;
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// Ports.
pub mod port {
    use std::ops::Range;

    pub const SERIAL: Range<u16> = 0x3f8..0x400;
    /// The keyboard controller's command port: Linux pulses the reset line through it.
    pub const I8042_COMMAND: u16 = 0x64;
    /// ACPI's PM1a event block: status and enable.
    pub const PM1_EVENT: Range<u16> = 0x600..0x604;
    /// ACPI's PM1a control register.
    pub const PM1_CONTROL: u16 = 0x604;
    /// ACPI's reset register.
    pub const RESET: u16 = 0xcf9;
}

/// ISA interrupt of the first serial port.
pub const SERIAL_IRQ: u32 = 4;
/// ACPI's interrupt.
pub const SCI_IRQ: u8 = 9;
