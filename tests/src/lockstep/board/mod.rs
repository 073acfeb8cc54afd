//! A board that boots Linux and leaves nothing to chance: memory, a pair of 8259s, an 8254, a serial port that swallows
//! everything, and a clock that counts what the processor asked and executed.
//!
//! Two boards that are asked the same are the same.

pub mod linux;
mod pic;
mod pit;

use super::Twin;
use super::follow::are_images;
use crate::bare::world::set_msr;
use pic::Pics;
use pit::Pit;
use ring3_host::addr::GuestPhys;
use ring3_x86_cpu::state::{FS, GS};
use ring3_x86_cpu::testing::TestWorld;
use ring3_x86_cpu::{Access, Backing, Memory, Pause, Platform, Ports, Posted, Refusal, State};

/// What a look at the clock takes.
const LOOK: u64 = 64;

pub struct Board {
    pub memory: TestWorld,
    pics: Pics,
    pit: Pit,
    /// What was written to the serial port.
    pub console: Vec<u8>,
    /// The clock as it was set last, and how often it was looked at since.
    time: u64,
    looks: u64,
    /// Everything that was asked of the board.
    requests: u64,
    cmos: u8,
    /// Port 61h, but for what it tells.
    speaker: u8,
    /// Pages that may have been written since writes were told last.
    written: Vec<u64>,
}

/// So many pages are compared at each look.
const MOST_WRITTEN: usize = 12;

impl Board {
    pub fn new(mebibytes: usize) -> Board {
        let mut memory = TestWorld::new(mebibytes << 8);
        identify(&mut memory);
        Board {
            memory,
            pics: Pics::default(),
            pit: Pit::default(),
            console: Vec::new(),
            time: 0,
            looks: 0,
            requests: 0,
            cmos: 0,
            speaker: 0,
            written: Vec::new(),
        }
    }

    /// The clock goes on by so much.
    pub fn pass(&mut self, ticks: u64) {
        self.time += ticks + LOOK * std::mem::take(&mut self.looks);
        if self.pit.take(self.time) {
            self.pics.raise(0);
        }
    }

    /// The clock goes on to the next interrupt, if there will be one.
    pub fn pass_to_interrupt(&mut self) -> bool {
        let Some(due) = self.pit.due() else {
            return false;
        };
        self.pass(due.saturating_sub(self.time));
        self.pics.is_pending()
    }

    pub fn has_interrupt(&self) -> bool {
        self.pics.is_pending()
    }

    pub fn acknowledge(&mut self) -> Option<u8> {
        self.pics.acknowledge()
    }

    /// Where the page is not the other board's: the place, the other's word and this one's. Saved flags may differ, and
    /// whether a present page was accessed: the next instruction's page may have been looked up already.
    fn differences_in_page(&self, other: &Board, page: u64) -> Vec<(u64, u64, u64)> {
        let (mut mine, mut theirs) = ([0; 4096], [0; 4096]);
        self.memory.peek(page, &mut mine);
        other.memory.peek(page, &mut theirs);
        const PRESENT: u64 = 1;
        const ACCESSED: u64 = 1 << 5;
        if mine == theirs {
            return Vec::new();
        }
        let words = |bytes: [u8; 4096]| {
            bytes
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(u64::from_le_bytes)
                .collect()
        };
        let (mine, theirs): (Vec<u64>, Vec<u64>) = (words(mine), words(theirs));
        let words = (page..).step_by(8).zip(theirs).zip(mine);
        words
            .map(|((at, theirs), mine)| (at, theirs, mine))
            .filter(|(_, theirs, mine)| {
                theirs != mine
                    && !are_images(*mine, *theirs)
                    && !(mine ^ theirs == ACCESSED && mine & PRESENT != 0)
            })
            .collect()
    }

    fn now(&self) -> u64 {
        self.time + LOOK * self.looks
    }

    fn read_port(&mut self, port: u16) -> u8 {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.pics.read(port),
            0x40..0x44 => self.pit.read(port, self.now()),
            0x61 => {
                let refresh = (self.now() >> 14 & 1) as u8;
                self.speaker & 0xf | refresh << 4 | u8::from(self.pit.output_2(self.now())) << 5
            }
            // The time is midnight, and the clock is not just changing it.
            0x71 => u8::from(matches!(self.cmos, 7 | 8)),
            // Interrupts: none. Line: empty.
            0x3fa => 1,
            0x3fd => 0x60,
            0x3f8..0x400 => 0,
            _ => 0xff,
        }
    }

    fn write_port(&mut self, port: u16, value: u8) {
        let now = self.now();
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 => self.pics.write(port, value),
            0x40..0x44 => self.pit.write(port, value, now),
            0x61 => self.speaker = value,
            0x70 => self.cmos = value & 0x7f,
            0x3f8 => self.console.push(value),
            _ => {}
        }
    }
}

/// An Intel processor with what the translator has code for.
fn identify(memory: &mut TestWorld) {
    let name = |text: &[u8; 4]| u32::from_le_bytes(*text);
    let leaves = [
        (0, [7, name(b"Genu"), name(b"ntel"), name(b"ineI")]),
        // FPU, PSE, TSC, MSR, PAE, CX8, PGE, CMOV, CLFSH, MMX, FXSR, SSE, SSE2; SSE3, SSSE3, CX16, PCID, SSE4, MOVBE, POPCNT.
        (1, [0x0003_06a9, 0x0001_0800, 0x00da_2201, 0x0788_a179]),
        // FSGSBASE, BMI1, SMEP, BMI2, ERMS, INVPCID, ADX, SMAP.
        (7, [0, 0x0018_0789 & !(1 << 5), 0, 0]),
        (0x8000_0000, [0x8000_0008, 0, 0, 0]),
        // SYSCALL, NX, 1-GiB pages, long mode; LAHF, LZCNT.
        (0x8000_0001, [0, 0, 0x21, 0x2410_0800]),
        (0x8000_0008, [0x3028, 0, 0, 0]),
    ];
    memory.cpuid.extend(leaves);
    // Microcode, and what Linux asks an Intel processor without asking whether it knows.
    memory.msrs.extend([
        (0x8b, 0),
        (0x17, 0),
        (0x1a0, 1),
        (0x48, 0),
        (0x10a, 0),
        (0x140, 0),
        (0x3a, 1),
    ]);
}

impl Twin for Board {
    fn alike(&self, leaders: &Board) -> bool {
        let mut pages = self.written.iter().chain(&leaders.written);
        self.requests == leaders.requests
            && pages.all(|page| self.differences_in_page(leaders, *page).is_empty())
    }

    fn wants_writes_told(&mut self) -> bool {
        let many = self.written.len() > MOST_WRITTEN;
        if many {
            self.written.clear();
        }
        many
    }

    fn differences(&self, leaders: &Board) -> Vec<String> {
        let mut told = Vec::new();
        if self.requests != leaders.requests {
            told.push(format!("{} requests, not {}", leaders.requests, self.requests));
        }
        let words = self
            .written
            .iter()
            .chain(&leaders.written)
            .flat_map(|page| self.differences_in_page(leaders, *page));
        told.extend(words.map(|(at, theirs, mine)| format!("[{at:#x}] is {theirs:#x}, not {mine:#x}")));
        told
    }
}

/// The registers that instructions use implicitly.
fn msr(state: &mut State, index: u32) -> Option<&mut u64> {
    Some(match index {
        0xc000_0081 => &mut state.msr.star,
        0xc000_0082 => &mut state.msr.lstar,
        0xc000_0083 => &mut state.msr.cstar,
        0xc000_0084 => &mut state.msr.fmask,
        0xc000_0100 => &mut state.seg[FS].base,
        0xc000_0101 => &mut state.seg[GS].base,
        0xc000_0102 => &mut state.msr.kernel_gs_base,
        0x174 => &mut state.msr.sysenter_cs,
        0x175 => &mut state.msr.sysenter_esp,
        0x176 => &mut state.msr.sysenter_eip,
        _ => return None,
    })
}

impl Memory for Board {
    fn page(&mut self, gpa: GuestPhys, access: Access) -> Backing {
        let page = gpa.0 & !0xfff;
        let is_memory = page >> 12 < self.memory.len();
        if access == Access::Write && is_memory && !self.written.contains(&page) {
            self.written.push(page);
        }
        self.memory.page(gpa, access)
    }

    fn mmio_read(&mut self, _: GuestPhys, data: &mut [u8]) -> Result<(), Pause> {
        self.requests += 1;
        data.fill(0xff);
        Ok(())
    }

    fn mmio_write(&mut self, _: GuestPhys, _: &[u8]) -> Posted {
        self.requests += 1;
        Posted::Done
    }

    fn mark_code(&mut self, gpa: GuestPhys, lines: u64) {
        self.memory.mark_code(gpa, lines);
    }

    fn code_written(&mut self, gpa: GuestPhys, len: usize) -> bool {
        self.memory.code_written(gpa, len)
    }

    fn retired(&mut self, _: u64) -> Posted {
        Posted::Done
    }
}

impl Ports for Board {
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), Pause> {
        self.requests += 1;
        self.looks += 1;
        for (n, byte) in data.iter_mut().enumerate() {
            *byte = self.read_port(port.wrapping_add(n as u16));
        }
        Ok(())
    }

    fn port_write(&mut self, port: u16, data: &[u8]) -> Posted {
        self.requests += 1;
        for (n, byte) in data.iter().enumerate() {
            self.write_port(port.wrapping_add(n as u16), *byte);
        }
        Posted::Done
    }
}

impl Platform for Board {
    fn read_msr(&mut self, state: &mut State, index: u32) -> Result<u64, Refusal> {
        self.requests += 1;
        match msr(state, index) {
            Some(register) => Ok(*register),
            None if index == 0x10 => Ok(self.tsc(state)),
            None => self.memory.read_msr(state, index),
        }
    }

    fn write_msr(&mut self, state: &mut State, index: u32, value: u64) -> Result<(), Refusal> {
        self.requests += 1;
        match msr(state, index) {
            Some(register) => set_msr(register, index, value),
            None => self.memory.write_msr(state, index, value),
        }
    }

    fn cpuid(&mut self, state: &State, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.requests += 1;
        if leaf == 7 && subleaf > 0 {
            return [0; 4];
        }
        self.memory.cpuid(state, leaf, subleaf)
    }

    fn hypercall(&mut self, state: &mut State) -> Result<(), Refusal> {
        self.requests += 1;
        self.memory.hypercall(state)
    }

    fn task_priority(&mut self, _: &State) -> u8 {
        0
    }

    fn set_task_priority(&mut self, _: &mut State, _: u8) -> Posted {
        Posted::Done
    }

    fn tsc(&mut self, _: &State) -> u64 {
        self.requests += 1;
        self.looks += 1;
        self.now()
    }
}
