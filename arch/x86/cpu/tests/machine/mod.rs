//! A bare machine with a GDT, an IDT and a TSS at fixed places, for tests of privilege.
//!
//! Memory: IVT or IDT at 0, GDT at 0x2000, TSS at 0x3000, a second TSS at 0x3800, page tables from 0x10_0000.

#![allow(dead_code)]

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::testing::TestWorld;
use ring3_x86_cpu::{Cpu, Leave};
use std::sync::atomic::AtomicU32;

pub const GDT: u64 = 0x2000;
pub const TSS: u64 = 0x3000;
pub const TSS2: u64 = 0x3800;
/// Top of the stack of level 0 that the TSS names.
pub const INNER_STACK: u64 = 0x9000;

pub const CODE0: u16 = 0x08;
pub const DATA0: u16 = 0x10;
pub const CODE3: u16 = 0x1b;
pub const DATA3: u16 = 0x23;
pub const TASK: u16 = 0x28;
/// A second TSS; in IA-32e mode the upper half of the first.
pub const TASK2: u16 = 0x30;
pub const GATE: u16 = 0x38;

pub struct Machine {
    pub cpu: Cpu,
    pub world: TestWorld,
}

/// A flat descriptor: `access` is its byte 5, `flags` the high half of byte 6.
pub fn flat(access: u64, flags: u64) -> u64 {
    0x000f_0000_0000_ffff | access << 40 | flags << 52
}

pub fn system(base: u64, limit: u64, access: u64) -> u64 {
    limit & 0xffff | (base & 0xff_ffff) << 16 | access << 40 | (base >> 24 & 0xff) << 56
}

/// A gate: `access` is P, DPL and type, `extra` the low byte of the second dword (IST, or a parameter count).
pub fn gate(selector: u16, offset: u64, access: u64, extra: u64) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | extra << 32 | access << 40 | (offset >> 16 & 0xffff) << 48
}

fn segment(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: Attributes(attributes),
    }
}

impl Machine {
    pub fn real() -> Machine {
        let mut machine = Machine {
            cpu: Cpu::new(),
            world: TestWorld::new(512),
        };
        let state = &mut machine.cpu.core.state;
        for seg in 0..6 {
            state.seg[seg] = Segment::real(0, if seg == CS { 0x9b } else { 0x93 });
        }
        state.idtr = Table {
            base: 0,
            limit: 0x3ff,
        };
        state.rip = 0x1000;
        state.gpr[RSP] = 0x8000;
        machine.cpu.core.refresh();
        machine
    }

    /// 32-bit protected mode at level 0 without paging.
    pub fn protected() -> Machine {
        let mut machine = Machine::real();
        machine.tables(0xc);
        let world = &mut machine.world;
        world.poke64(TSS + 4, INNER_STACK | u64::from(DATA0) << 32);
        // No permission map: it would begin beyond the limit.
        world.poke(TSS + 0x66, &[0x68, 0]);
        world.poke64(GDT + u64::from(TASK), system(TSS, 0x67, 0x8b));
        let state = &mut machine.cpu.core.state;
        state.cr0 = CR0_PE | CR0_ET | CR0_NE;
        state.idtr.limit = 0x7ff;
        state.seg[CS] = segment(CODE0, 0xc09b);
        for seg in [ES, SS, DS, FS, GS] {
            state.seg[seg] = segment(DATA0, 0xc093);
        }
        state.tr = segment(TASK, 0x8b);
        state.tr.base = TSS;
        state.tr.limit = 0x67;
        machine.cpu.core.refresh();
        machine
    }

    /// 64-bit mode at level 0; everything is mapped one to one and open to level 3.
    pub fn long() -> Machine {
        let mut machine = Machine::protected();
        machine.tables(0xa);
        let world = &mut machine.world;
        world.poke64(0x10_0000, 0x10_1007);
        world.poke64(0x10_1000, 0x10_2007);
        world.poke64(0x10_2000, 0x87);
        world.poke64(TSS + 4, INNER_STACK);
        world.poke64(GDT + u64::from(TASK), system(TSS, 0x67, 0x8b));
        world.poke64(GDT + u64::from(TASK2), 0);
        let state = &mut machine.cpu.core.state;
        state.cr0 |= CR0_PG | CR0_WP;
        state.cr4 = CR4_PAE | CR4_OSFXSR;
        state.cr3 = 0x10_0000;
        state.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
        state.idtr.limit = 0xfff;
        state.seg[CS] = segment(CODE0, 0xa09b);
        machine.cpu.core.refresh();
        machine
    }

    fn tables(&mut self, code_flags: u64) {
        let rows = [
            0,
            flat(0x9b, code_flags),
            flat(0x93, 0xc),
            flat(0xfb, code_flags),
            flat(0xf3, 0xc),
        ];
        for (n, row) in rows.into_iter().enumerate() {
            self.world.poke64(GDT + 8 * n as u64, row);
        }
        self.cpu.core.state.gdtr = Table {
            base: GDT,
            limit: 0xff,
        };
    }

    /// Puts an 8-byte gate in the IDT.
    pub fn vector(&mut self, vector: u64, value: u64) {
        self.world.poke64(8 * vector, value);
    }

    /// Puts a 16-byte interrupt gate to CS0 in the IDT.
    pub fn vector64(&mut self, vector: u64, offset: u64, access: u64, ist: u64) {
        self.world.poke64(16 * vector, gate(CODE0, offset, access, ist));
        self.world.poke64(16 * vector + 8, offset >> 32);
    }

    pub fn code(
        &mut self,
        bits: u32,
        at: u64,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) {
        let mut asm = CodeAssembler::new(bits).unwrap();
        build(&mut asm).unwrap();
        self.world.poke(at, &asm.assemble(at).unwrap());
    }

    pub fn bytes(&mut self, at: u64, bytes: &[u8]) {
        self.world.poke(at, bytes);
    }

    /// Continues at level 3, with interrupts on.
    pub fn user(&mut self, rip: u64, rsp: u64) {
        let long = self.cpu.core.state.long_mode();
        let state = &mut self.cpu.core.state;
        state.seg[CS] = segment(CODE3, if long { 0xa0fb } else { 0xc0fb });
        for seg in [ES, SS, DS, FS, GS] {
            state.seg[seg] = segment(DATA3, 0xc0f3);
        }
        state.rip = rip;
        state.gpr[RSP] = rsp;
        state.set_rflags(flags::IF);
        self.cpu.core.refresh();
    }

    pub fn run(&mut self) -> Leave {
        self.cpu.run(&mut self.world, &AtomicU32::new(0))
    }

    /// Runs to HLT.
    #[track_caller]
    pub fn halt(&mut self) {
        let left = self.run();
        assert_eq!(left, Leave::Halted, "at {:#x}", self.cpu.core.state.rip);
    }

    /// `count` words of `size` bytes from `at` on.
    pub fn words(&self, at: u64, size: usize, count: usize) -> Vec<u64> {
        (0..count)
            .map(|n| {
                let mut bytes = [0; 8];
                self.world.peek(at + (n * size) as u64, &mut bytes[..size]);
                u64::from_le_bytes(bytes)
            })
            .collect()
    }

    pub fn state(&mut self) -> &mut State {
        &mut self.cpu.core.state
    }
}

use ring3_x86_cpu::State;
