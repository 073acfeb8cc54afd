//! A small world for tests: flat memory from address zero, ports and MSRs that are recorded, no devices.

use crate::world::{Access, Backing, Memory, Pause, Platform, Ports, Posted, Refusal};
use crate::{Fault, State};
use ring3_host::addr::GuestPhys;
use ring3_host::mem::{HostPage, HostRegion};
use ring3_host::shared::SharedPages;
use std::collections::{HashMap, VecDeque};

pub struct TestWorld {
    pages: SharedPages,
    region: HostRegion,
    size: u64,
    /// Values that IN finds, in order; without one, IN pauses.
    pub inputs: VecDeque<u32>,
    /// What OUT wrote: port, size, value.
    pub outputs: Vec<(u16, usize, u32)>,
    /// What was written where there is no memory.
    pub mmio_writes: Vec<(u64, Vec<u8>)>,
    /// Values that reads outside of memory find, in order; without one, the read pauses.
    pub mmio_inputs: VecDeque<u64>,
    pub msrs: HashMap<u32, u64>,
    /// Leaf to registers.
    pub cpuid: HashMap<u32, [u32; 4]>,
    pub tsc: u64,
    pub hypercalls: u32,
    code_lines: HashMap<u64, u64>,
}

impl TestWorld {
    /// A world with `pages` pages of zeroed memory.
    pub fn new(pages: usize) -> TestWorld {
        let (memory, _) = SharedPages::create("ring3-test-memory", pages).expect("memory for the test");
        let size = pages as u64 * 4096;
        let region = HostRegion::from_client(memory.address().0, size).expect("a mapping is page-aligned");
        TestWorld {
            pages: memory,
            region,
            size,
            inputs: VecDeque::new(),
            outputs: Vec::new(),
            mmio_writes: Vec::new(),
            mmio_inputs: VecDeque::new(),
            msrs: HashMap::new(),
            cpuid: HashMap::new(),
            tsc: 0,
            hypercalls: 0,
            code_lines: HashMap::new(),
        }
    }

    fn host_page(&self, gpa: u64) -> Option<HostPage> {
        (gpa < self.size).then(|| self.region.page(gpa >> 12)).flatten()
    }

    /// Writes memory behind the processor's back, as a device would.
    pub fn poke(&mut self, gpa: u64, bytes: &[u8]) {
        let mut rest = bytes;
        let mut at = gpa;
        while !rest.is_empty() {
            let offset = (at & 0xfff) as usize;
            let (part, others) = rest.split_at(rest.len().min(4096 - offset));
            let page = self.host_page(at).expect("inside of memory");
            page.write(offset, part).expect("memory is there");
            at += part.len() as u64;
            rest = others;
        }
    }

    pub fn peek(&self, gpa: u64, bytes: &mut [u8]) {
        let mut rest = bytes;
        let mut at = gpa;
        while !rest.is_empty() {
            let offset = (at & 0xfff) as usize;
            let len = rest.len().min(4096 - offset);
            let (part, others) = rest.split_at_mut(len);
            let page = self.host_page(at).expect("inside of memory");
            page.read(offset, part).expect("memory is there");
            at += len as u64;
            rest = others;
        }
    }

    pub fn poke64(&mut self, gpa: u64, value: u64) {
        self.poke(gpa, &value.to_le_bytes());
    }

    pub fn peek64(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.peek(gpa, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Number of pages.
    pub fn len(&self) -> u64 {
        let _ = &self.pages;
        self.size >> 12
    }

    pub fn is_empty(&self) -> bool {
        self.size == 0
    }
}

impl Memory for TestWorld {
    fn page(&mut self, gpa: GuestPhys, access: Access) -> Backing {
        match self.host_page(gpa.0) {
            Some(page) => {
                let code = self
                    .code_lines
                    .get(&(gpa.0 >> 12))
                    .is_some_and(|lines| *lines != 0);
                Backing::Ram {
                    page,
                    direct: access != Access::Write || !code,
                }
            }
            None => Backing::Mmio,
        }
    }

    fn mmio_read(&mut self, _: GuestPhys, data: &mut [u8]) -> Result<(), Pause> {
        let value = self.mmio_inputs.pop_front().ok_or(Pause)?;
        let len = data.len();
        data.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }

    fn mmio_write(&mut self, gpa: GuestPhys, data: &[u8]) -> Posted {
        self.mmio_writes.push((gpa.0, data.to_vec()));
        Posted::Pause
    }

    fn mark_code(&mut self, gpa: GuestPhys, lines: u64) {
        *self.code_lines.entry(gpa.0 >> 12).or_default() |= lines;
    }

    fn code_written(&mut self, gpa: GuestPhys, len: usize) -> bool {
        let first = gpa.0 as usize % 4096 / 64;
        let last = (gpa.0 as usize % 4096 + len.max(1) - 1).min(4095) / 64;
        let mask = (first..=last).fold(0u64, |mask, line| mask | 1 << line);
        match self.code_lines.get_mut(&(gpa.0 >> 12)) {
            Some(lines) if *lines & mask != 0 => {
                *lines = 0;
                true
            }
            _ => false,
        }
    }

    fn retired(&mut self, _: u64) -> Posted {
        Posted::Done
    }
}

impl Ports for TestWorld {
    fn port_read(&mut self, _: u16, data: &mut [u8]) -> Result<(), Pause> {
        let value = self.inputs.pop_front().ok_or(Pause)?;
        let len = data.len();
        data.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }

    fn port_write(&mut self, port: u16, data: &[u8]) -> Posted {
        let mut bytes = [0; 4];
        bytes[..data.len()].copy_from_slice(data);
        self.outputs.push((port, data.len(), u32::from_le_bytes(bytes)));
        Posted::Done
    }
}

impl Platform for TestWorld {
    fn read_msr(&mut self, state: &mut State, index: u32) -> Result<u64, Refusal> {
        match index {
            0xc000_0080 => Ok(state.efer),
            _ => self.msrs.get(&index).copied().ok_or(Refusal::Fault(Fault::GP0)),
        }
    }

    fn write_msr(&mut self, state: &mut State, index: u32, value: u64) -> Result<(), Refusal> {
        if index == 0xc000_0080 {
            state.efer = value & !(1 << 10) | state.efer & 1 << 10;
        } else {
            self.msrs.insert(index, value);
        }
        Ok(())
    }

    fn cpuid(&mut self, _: &State, leaf: u32, _: u32) -> [u32; 4] {
        self.cpuid.get(&leaf).copied().unwrap_or_default()
    }

    fn hypercall(&mut self, _: &mut State) -> Result<(), Refusal> {
        self.hypercalls += 1;
        Ok(())
    }

    fn task_priority(&mut self, _: &State) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _: &mut State, _: u8) -> Posted {
        Posted::Done
    }

    fn tsc(&mut self, _: &State) -> u64 {
        self.tsc += 1;
        self.tsc
    }
}
