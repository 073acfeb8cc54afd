//! What answers the guest's ports: a 16550A, ACPI's power registers, and the reset line.

use crate::End;
use crate::acpi::{RESET_VALUE, SLEEP_TYPE_OFF};
use crate::layout::{SERIAL_IRQ, port};
use ring3_client::{Errno, Vm};
use std::io::{Stdout, stdout};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;
use vm_superio::serial::{Error as SerialError, SerialEvents};
use vm_superio::{Serial, Trigger};

/// Nothing is there: all lines are pulled up.
const FLOATING: u8 = 0xff;

/// ISA interrupt 4: an edge for each event, as its kind of device wants it.
struct SerialLine(Arc<Vm>);

impl Trigger for SerialLine {
    type E = Errno;

    fn trigger(&self) -> Result<(), Errno> {
        self.0.set_irq_line(SERIAL_IRQ, 1)?;
        self.0.set_irq_line(SERIAL_IRQ, 0)
    }
}

/// Wakes the console when the guest has taken what there was.
struct RoomForInput(Arc<OnceLock<Thread>>);

impl SerialEvents for RoomForInput {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        if let Some(console) = self.0.get() {
            console.unpark();
        }
    }
}

/// ACPI's fixed hardware.
#[derive(Default)]
struct Power {
    enable: [u8; 2],
    control: [u8; 2],
}

/// All devices of the machine's, shared by its processors and its console.
pub struct Devices {
    serial: Mutex<Serial<SerialLine, RoomForInput, Stdout>>,
    power: Mutex<Power>,
    console: Arc<OnceLock<Thread>>,
    end: Sender<anyhow::Result<End>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Devices {
    /// `end` is told when the guest powers off or resets itself.
    pub fn new(vm: Arc<Vm>, end: Sender<anyhow::Result<End>>) -> Devices {
        let console = Arc::new(OnceLock::new());
        let events = RoomForInput(Arc::clone(&console));
        Devices {
            serial: Mutex::new(Serial::with_events(SerialLine(vm), events, stdout())),
            power: Mutex::default(),
            console,
            end,
        }
    }

    /// Ends the guest. Whoever listened may have heard of another end already.
    pub fn finish(&self, end: anyhow::Result<End>) {
        let _ = self.end.send(end);
    }

    /// The guest reads `data.len()` bytes at a port.
    pub fn read(&self, at: u16, data: &mut [u8]) {
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = self.read_byte(at.wrapping_add(n as u16));
        }
    }

    fn read_byte(&self, at: u16) -> u8 {
        match at {
            _ if port::SERIAL.contains(&at) => lock(&self.serial).read((at - port::SERIAL.start) as u8),
            // Nothing is in the controller's buffers.
            port::I8042_COMMAND => 0,
            _ if port::PM1_EVENT.contains(&at) => match usize::from(at - port::PM1_EVENT.start) {
                // No event ever happened.
                0 | 1 => 0,
                n => lock(&self.power).enable[n - 2],
            },
            // SCI_EN: the machine is in ACPI mode from the start.
            port::PM1_CONTROL => lock(&self.power).control[0] | 1,
            PM1_CONTROL_HIGH => lock(&self.power).control[1],
            _ => FLOATING,
        }
    }

    /// The guest writes `data` to a port.
    pub fn write(&self, at: u16, data: &[u8]) {
        // Wider accesses that cover this port are PCI's, which is not here.
        if let (port::RESET, [byte]) = (at, data)
            && byte & RESET_VALUE == RESET_VALUE
        {
            return self.finish(Ok(End::Reset));
        }
        for (n, byte) in data.iter().enumerate() {
            self.write_byte(at.wrapping_add(n as u16), *byte);
        }
    }

    fn write_byte(&self, at: u16, byte: u8) {
        match at {
            _ if port::SERIAL.contains(&at) => {
                if let Err(error) = lock(&self.serial).write((at - port::SERIAL.start) as u8, byte) {
                    tracing::warn!("serial port: {error:?}");
                }
            }
            port::I8042_COMMAND if byte == PULSE_RESET => self.finish(Ok(End::Reset)),
            _ if port::PM1_EVENT.contains(&at) => {
                let n = usize::from(at - port::PM1_EVENT.start);
                // Writing to the status clears events, of which there are none.
                if n >= 2 {
                    lock(&self.power).enable[n - 2] = byte;
                }
            }
            port::PM1_CONTROL => lock(&self.power).control[0] = byte,
            PM1_CONTROL_HIGH => self.sleep(byte),
            _ => {}
        }
    }

    /// The control register's upper half: which sleep, and whether now.
    fn sleep(&self, byte: u8) {
        const SLEEP_NOW: u8 = 1 << 5;
        lock(&self.power).control[1] = byte & !SLEEP_NOW;
        if byte & SLEEP_NOW != 0 && byte >> 2 & 7 == SLEEP_TYPE_OFF {
            self.finish(Ok(End::PowerOff));
        }
    }

    /// Makes the calling thread the one that is unparked when the guest has room for input.
    pub fn console_is_here(&self) {
        let _ = self.console.set(std::thread::current());
    }

    /// Gives the guest what was typed, waiting as long as it has no room.
    pub fn type_in(&self, mut input: &[u8]) {
        while !input.is_empty() {
            let taken = lock(&self.serial).enqueue_raw_bytes(input);
            match taken {
                // Full, or in loopback, which the guest leaves without a word.
                Ok(0) | Err(SerialError::FullFifo) => std::thread::park_timeout(NO_EVENT),
                Ok(taken) => input = input.get(taken..).unwrap_or_default(),
                Err(error) => return tracing::warn!("serial port: {error:?}"),
            }
        }
    }
}

/// How long input waits for the guest at most, before it looks again.
const NO_EVENT: Duration = Duration::from_millis(20);
const PM1_CONTROL_HIGH: u16 = port::PM1_CONTROL + 1;
/// The keyboard controller's command that pulses the processor's reset line.
const PULSE_RESET: u8 = 0xfe;

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_client::Kvm;
    use std::sync::mpsc::{Receiver, channel};

    fn devices() -> (Devices, Receiver<anyhow::Result<End>>) {
        let vm = Kvm::in_process().and_then(|kvm| kvm.create_vm(0)).expect("a VM");
        let (send, receive) = channel();
        (Devices::new(Arc::new(vm), send), receive)
    }

    #[test]
    fn powering_off() {
        let (devices, end) = devices();
        let mut control = [0; 2];
        devices.read(port::PM1_CONTROL, &mut control);
        assert_eq!(control, [1, 0]);
        devices.write(port::PM1_CONTROL, &[0, 5 << 2]);
        assert!(end.try_recv().is_err(), "a type alone is no command");
        devices.write(port::PM1_CONTROL, &[0, 5 << 2 | 1 << 5]);
        assert!(matches!(end.try_recv(), Ok(Ok(End::PowerOff))));
    }

    #[test]
    fn resetting() {
        for (at, byte) in [(0x64, 0xfe), (0xcf9, 6)] {
            let (devices, end) = devices();
            devices.write(at, &[byte]);
            assert!(matches!(end.try_recv(), Ok(Ok(End::Reset))), "{at:#x}");
        }
        let (devices, end) = devices();
        devices.write(0xcf8, &[0, 6, 0, 0x80]);
        assert!(end.try_recv().is_err(), "that is PCI's address register");
    }

    #[test]
    fn events_are_enabled_and_never_happen() {
        let (devices, _end) = devices();
        devices.write(port::PM1_EVENT.start, &[0xff, 0xff, 0x20, 0x01]);
        let mut event = [0; 4];
        devices.read(port::PM1_EVENT.start, &mut event);
        assert_eq!(event, [0, 0, 0x20, 0x01]);
    }

    #[test]
    fn nothing_is_there() {
        let (devices, _end) = devices();
        let mut data = [0; 4];
        devices.read(0xffff, &mut data);
        assert_eq!(data[0], 0xff);
        devices.write(0x80, &[1, 2, 3, 4]);
    }
}
