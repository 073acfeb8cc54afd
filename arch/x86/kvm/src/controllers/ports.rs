//! The places of the chips on the I/O buses.

use std::sync::Arc;

use ring3_kvm::Errno;
use ring3_kvm::io::{Bus, IoDevice};

use crate::ioapic;
use crate::irqchip::{Chips, PitTimer, Speaker};
use crate::vm::X86Vm;

struct PicPorts(Arc<Chips>);

impl IoDevice for PicPorts {
    fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.0.port_read(addr as u16, data)
    }
    fn write(&self, addr: u64, data: &[u8]) -> bool {
        self.0.port_write(addr as u16, data)
    }
}

struct IoapicWindow(Arc<Chips>);

impl IoDevice for IoapicWindow {
    fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.0.mmio_read(addr - ioapic::DEFAULT_ADDRESS, data);
        true
    }
    fn write(&self, addr: u64, data: &[u8]) -> bool {
        self.0.mmio_write(addr - ioapic::DEFAULT_ADDRESS, data);
        true
    }
}

struct PitPorts(Arc<PitTimer>);

impl IoDevice for PitPorts {
    fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        self.0.port_read(addr as u16, data)
    }
    fn write(&self, addr: u64, data: &[u8]) -> bool {
        self.0.port_write(addr as u16, data)
    }
}

/// Puts the 8259 pair (with its edge/level registers) and the I/O APIC on the buses.
pub fn add_chips(vm: &X86Vm, chips: &Arc<Chips>) -> Result<(), Errno> {
    let pic: Arc<dyn IoDevice> = Arc::new(PicPorts(Arc::clone(chips)));
    for port in [0x20, 0xa0, 0x4d0] {
        vm.io().add_device(Bus::Pio, port, 2, Arc::clone(&pic))?;
    }
    let window = Arc::new(IoapicWindow(Arc::clone(chips)));
    vm.io()
        .add_device(Bus::Mmio, ioapic::DEFAULT_ADDRESS, ioapic::WINDOW, window)
}

/// Puts the PIT on the bus.
pub fn add_pit(vm: &X86Vm, pit: &Arc<PitTimer>, speaker: Speaker) -> Result<(), Errno> {
    let device: Arc<dyn IoDevice> = Arc::new(PitPorts(Arc::clone(pit)));
    vm.io().add_device(Bus::Pio, 0x40, 4, Arc::clone(&device))?;
    if speaker == Speaker::Dummy {
        vm.io().add_device(Bus::Pio, 0x61, 1, device)?;
    }
    Ok(())
}
