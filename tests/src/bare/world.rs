//! The world of a bare machine: memory in two places, and what [`TestWorld`] has besides.

use super::places::{HIGH, HIGH_PAGES, LOW_PAGES, Words};
use ring3_host::addr::GuestPhys;
use ring3_x86_cpu::mmu::access::is_canonical;
use ring3_x86_cpu::state::{FS, GS};
use ring3_x86_cpu::testing::TestWorld;
use ring3_x86_cpu::{Access, Backing, Fault, Memory, Pause, Platform, Ports, Posted, Refusal, State};

/// Memory from zero and from [`HIGH`] on, so that two pages of one GiB differ.
pub struct BareWorld {
    pub low: TestWorld,
    pub high: TestWorld,
    /// What reads outside of memory find, in order, until the instruction that makes them is done; and how many of these
    /// answers it has found on this attempt.
    answers: Vec<u64>,
    found: usize,
    /// RIP of each instruction that is done with such a read, or with a write.
    pub retired_at: Vec<u64>,
}

impl BareWorld {
    pub fn new() -> BareWorld {
        BareWorld::sized(LOW_PAGES, HIGH_PAGES)
    }

    /// With so many pages in each of the two places.
    pub fn sized(low: usize, high: usize) -> BareWorld {
        let mut low = TestWorld::new(low);
        // A processor with PCID, XSAVE and everything that CR4 can have.
        low.cpuid.insert(0, [7, 0, 0, 0]);
        low.cpuid.insert(1, [0, 0, 1 << 17 | 1 << 26, 0]);
        low.cpuid.insert(7, [0, 1 | 1 << 7 | 1 << 20, 1 << 2, 0]);
        BareWorld {
            low,
            high: TestWorld::new(high),
            answers: Vec::new(),
            found: 0,
            retired_at: Vec::new(),
        }
    }

    /// The client's answer to the read that paused the processor.
    pub fn answer(&mut self, value: u64) {
        self.answers.push(value);
    }

    /// The processor tries its instruction anew.
    pub fn rewind(&mut self) {
        self.found = 0;
    }

    /// The memory that an address is in, and the address there.
    fn at(&mut self, gpa: u64) -> (&mut TestWorld, GuestPhys) {
        if (HIGH..HIGH + self.high.len() * 4096).contains(&gpa) {
            (&mut self.high, GuestPhys(gpa - HIGH))
        } else {
            (&mut self.low, GuestPhys(gpa))
        }
    }

    /// Writes memory behind the processor's back, as a device would.
    pub fn poke(&mut self, gpa: u64, bytes: &[u8]) {
        let (memory, at) = self.at(gpa);
        memory.poke(at.0, bytes);
    }

    pub fn peek(&self, gpa: u64, bytes: &mut [u8]) {
        if gpa >= HIGH {
            self.high.peek(gpa - HIGH, bytes);
        } else {
            self.low.peek(gpa, bytes);
        }
    }

    /// All memory, one part after the other.
    pub fn contents(&self) -> Vec<u8> {
        let size = |memory: &TestWorld| memory.len() as usize * 4096;
        let mut all = vec![0; size(&self.low) + size(&self.high)];
        let (low, high) = all.split_at_mut(size(&self.low));
        self.low.peek(0, low);
        self.high.peek(0, high);
        all
    }
}

/// The registers that instructions use implicitly.
fn msr(state: &mut State, index: u32) -> Option<&mut u64> {
    Some(match index {
        0xc000_0081 => &mut state.msr.star,
        0xc000_0082 => &mut state.msr.lstar,
        0xc000_0084 => &mut state.msr.fmask,
        0xc000_0100 => &mut state.seg[FS].base,
        0xc000_0101 => &mut state.seg[GS].base,
        0xc000_0102 => &mut state.msr.kernel_gs_base,
        _ => return None,
    })
}

/// WRMSR to such a register.
pub fn set_msr(register: &mut u64, index: u32, value: u64) -> Result<(), Refusal> {
    // STAR is no address.
    if index != 0xc000_0081 && !is_canonical(value) {
        return Err(Refusal::Fault(Fault::GP0));
    }
    *register = value;
    Ok(())
}

impl Default for BareWorld {
    fn default() -> BareWorld {
        BareWorld::new()
    }
}

impl Words for BareWorld {
    fn put(&mut self, gpa: u64, value: u64) {
        self.poke(gpa, &value.to_le_bytes());
    }

    fn get(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        self.peek(gpa, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl Memory for BareWorld {
    fn page(&mut self, gpa: GuestPhys, access: Access) -> Backing {
        let (memory, at) = self.at(gpa.0);
        memory.page(at, access)
    }

    fn mmio_read(&mut self, _: GuestPhys, data: &mut [u8]) -> Result<(), Pause> {
        let value = self.answers.get(self.found).ok_or(Pause)?;
        self.found += 1;
        let len = data.len();
        data.copy_from_slice(&value.to_le_bytes()[..len]);
        Ok(())
    }

    fn mmio_write(&mut self, gpa: GuestPhys, data: &[u8]) -> Posted {
        self.low.mmio_write(gpa, data)
    }

    fn mark_code(&mut self, gpa: GuestPhys, lines: u64) {
        let (memory, at) = self.at(gpa.0);
        memory.mark_code(at, lines);
    }

    fn code_written(&mut self, gpa: GuestPhys, len: usize) -> bool {
        let (memory, at) = self.at(gpa.0);
        memory.code_written(at, len)
    }

    fn retired(&mut self, at: u64) -> Posted {
        self.retired_at.push(at);
        self.answers.clear();
        self.found = 0;
        Posted::Done
    }
}

impl Ports for BareWorld {
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), Pause> {
        self.low.port_read(port, data)
    }

    fn port_write(&mut self, port: u16, data: &[u8]) -> Posted {
        self.low.port_write(port, data)
    }
}

impl Platform for BareWorld {
    fn read_msr(&mut self, state: &mut State, index: u32) -> Result<u64, Refusal> {
        match msr(state, index) {
            Some(register) => Ok(*register),
            None => self.low.read_msr(state, index),
        }
    }

    fn write_msr(&mut self, state: &mut State, index: u32, value: u64) -> Result<(), Refusal> {
        match msr(state, index) {
            Some(register) => set_msr(register, index, value),
            None => self.low.write_msr(state, index, value),
        }
    }

    fn cpuid(&mut self, state: &State, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.low.cpuid(state, leaf, subleaf)
    }

    fn hypercall(&mut self, state: &mut State) -> Result<(), Refusal> {
        self.low.hypercall(state)
    }

    fn task_priority(&mut self, state: &State) -> u8 {
        self.low.task_priority(state)
    }

    fn set_task_priority(&mut self, state: &mut State, class: u8) -> Posted {
        self.low.set_task_priority(state, class)
    }

    fn tsc(&mut self, state: &State) -> u64 {
        self.low.tsc(state)
    }
}
