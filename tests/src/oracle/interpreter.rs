//! Our interpreter, in a machine that looks to level 3 as the host's kernel does: the same selectors, the same rights.
//!
//! Every exception is delivered through an IDT to a HLT at level 0, whose place tells the vector; the interrupted state
//! is read off the stack.

use super::layout::{PAGE, PAGES, SEGMENTS, WINDOWS};
use super::{Executor, Lost, Machine, Registers, Trap, save};
use ring3_host::testing::Rights;
use ring3_x86_cpu::run::Interpreted;
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::testing::TestWorld;
use ring3_x86_cpu::{Cpu, Leave, State, Tier};
use std::sync::atomic::AtomicU32;

// Guest-physical places.
const IDT: u64 = 0x0000;
const GDT: u64 = 0x1000;
const TSS: u64 = 0x2000;
const HANDLERS: u64 = 0x3000;
const INNER_STACK: u64 = 0x5000;
const TABLES: u64 = 0x5000;
const MEMORY: u64 = 0x1_0000;
/// Where level 0 sees guest-physical memory.
const KERNEL: u64 = 0xffff_8000_0000_0000;

const CODE0: u16 = 0x10;
const DATA3: u16 = 0x2b;
const CODE3: u16 = 0x33;
const CODE32: u16 = 0x23;
const TASK: u16 = 0x40;

const VECTORS: u64 = 32;

pub struct Interpreter<T = Interpreted> {
    name: &'static str,
    cpu: Cpu,
    tier: T,
    world: TestWorld,
    /// The code pages as they were last run.
    code: Vec<u8>,
}

impl Interpreter {
    pub fn new() -> Interpreter {
        Interpreter {
            name: "interpreter",
            ..Interpreter::with(Interpreted)
        }
    }
}

impl<T: Tier> Interpreter<T> {
    /// With blocks offered to another tier first.
    pub fn with(tier: T) -> Interpreter<T> {
        let mut world = TestWorld::new((MEMORY / PAGE) as usize + PAGES);
        descriptors(&mut world);
        page_tables(&mut world);
        let mut cpu = Cpu::new();
        system_registers(&mut cpu.core.state);
        Interpreter {
            name: "translator",
            cpu,
            tier,
            world,
            code: Vec::new(),
        }
    }

    pub fn tier(&self) -> &T {
        &self.tier
    }

    fn enter(&mut self, machine: &Machine) {
        self.world.poke(MEMORY, &machine.memory);
        let code = &machine.memory[..super::layout::CODE_PAGES * PAGE as usize];
        if self.code != code {
            self.cpu.drop_all_code();
            self.code.clear();
            self.code.extend_from_slice(code);
        }
        let state = &mut self.cpu.core.state;
        let registers = &machine.registers;
        state.gpr[..16].copy_from_slice(&registers.gpr);
        state.rip = registers.rip;
        state.set_rflags(registers.rflags | flags::IF);
        (*state.vector).clone_from(&machine.vector);
        load_segments(state, registers);
        self.cpu.core.refresh();
    }

    fn leave(&mut self, machine: &mut Machine) -> Result<Trap, Lost> {
        let state = &self.cpu.core.state;
        let vector = state.rip.wrapping_sub(KERNEL + HANDLERS + 1);
        if vector >= VECTORS || state.cpl() != 0 {
            return Err(Lost);
        }
        let mut frame = state.gpr[RSP] - KERNEL;
        let has_error = matches!(vector, 8 | 10..=14 | 17);
        let mut pop = || {
            frame += 8;
            self.world.peek64(frame - 8)
        };
        let error = if has_error { pop() } else { 0 };
        let (rip, _, rflags, rsp) = (pop(), pop(), pop(), pop());
        let registers = &mut machine.registers;
        registers.gpr.copy_from_slice(&state.gpr[..16]);
        registers.gpr[RSP] = rsp;
        registers.rip = rip;
        registers.rflags = rflags;
        registers.fs_base = state.seg[FS].base;
        registers.gs_base = state.seg[GS].base;
        machine.vector.clone_from(&state.vector);
        self.world.peek(MEMORY, &mut machine.memory);
        Ok(Trap {
            vector,
            error,
            cr2: state.cr2,
        })
    }
}

impl Default for Interpreter {
    fn default() -> Interpreter {
        Interpreter::new()
    }
}

impl<T: Tier> Executor for Interpreter<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&mut self, machine: &mut Machine) -> Result<Trap, Lost> {
        self.enter(machine);
        match self
            .cpu
            .run_with(&mut self.tier, &mut self.world, &AtomicU32::new(0))
        {
            Leave::Halted => self.leave(machine),
            _ => Err(Lost),
        }
    }
}

/// Segment registers for these selectors, as the host has them.
fn load_segments(state: &mut State, registers: &Registers) {
    let cs = registers.cs as u16;
    match cs {
        CODE3 => {
            state.seg[CS] = flat(CODE3, 0xa0fb);
            state.seg[SS] = flat(DATA3, 0xc0f3);
            for seg in [DS, ES, FS, GS] {
                state.seg[seg] = Segment::null(0);
            }
            state.seg[FS].base = registers.fs_base;
            state.seg[GS].base = registers.gs_base;
        }
        CODE32 => {
            state.seg[CS] = flat(CODE32, 0xc0fb);
            for seg in [SS, DS, ES, FS, GS] {
                state.seg[seg] = flat(DATA3, 0xc0f3);
            }
        }
        _ => {
            state.seg[CS] = local(cs, 0xfb);
            state.seg[SS] = local(registers.ss as u16, 0xf3);
            for seg in [DS, ES, FS, GS] {
                state.seg[seg] = local(registers.ds as u16, 0xf3);
            }
        }
    }
}

/// A 16-bit segment of the local descriptor table.
fn local(selector: u16, attributes: u32) -> Segment {
    let segment = &SEGMENTS[usize::from(selector >> 3) % SEGMENTS.len()];
    Segment {
        selector,
        base: segment.base.into(),
        limit: segment.limit,
        attributes: Attributes(attributes),
    }
}

fn flat(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: Attributes(attributes),
    }
}

fn descriptors(world: &mut TestWorld) {
    let segment = |access: u64, flags: u64| 0x000f_0000_0000_ffff | access << 40 | flags << 52;
    let put = |world: &mut TestWorld, selector: u16, value: u64| {
        world.poke64(GDT + u64::from(selector & !7), value);
    };
    put(world, CODE0, segment(0x9b, 0xa));
    put(world, CODE0 + 8, segment(0x93, 0xc));
    put(world, DATA3, segment(0xf3, 0xc));
    put(world, CODE3, segment(0xfb, 0xa));
    put(world, CODE32, segment(0xfb, 0xc));
    world.poke64(TSS + 4, KERNEL + INNER_STACK);
    // No permission map for ports: it would begin beyond the limit.
    world.poke(TSS + 0x66, &[0x68, 0]);
    for vector in 0..VECTORS {
        let target = KERNEL + HANDLERS + vector;
        // INT3 and INTO are for level 3 to use.
        let access = if matches!(vector, 3 | 4) { 0xee } else { 0x8e };
        let low = target & 0xffff | u64::from(CODE0) << 16 | access << 40 | (target >> 16 & 0xffff) << 48;
        world.poke64(IDT + 16 * vector, low);
        world.poke64(IDT + 16 * vector + 8, target >> 32);
        world.poke(HANDLERS + vector, &[0xf4]);
    }
}

fn page_tables(world: &mut TestWorld) {
    let table = |n: u64| TABLES + n * PAGE;
    let index = |address: u64, level: u32| (address >> (12 + 9 * level) & 0x1ff) * 8;
    // Level 0: two mebibytes.
    world.poke64(table(0) + index(KERNEL, 3), table(1) | 3);
    world.poke64(table(1), table(2) | 3);
    world.poke64(table(2), 0x83);
    // Level 3: all windows are in one page table.
    let first = WINDOWS[0].address;
    world.poke64(table(0) + index(first, 3), table(3) | 7);
    world.poke64(table(3) + index(first, 2), table(4) | 7);
    world.poke64(table(4) + index(first, 1), table(5) | 7);
    for window in &WINDOWS {
        let rights = match window.rights {
            Rights::Read => 1 << 63 | 5,
            Rights::Write => 1 << 63 | 7,
            Rights::Execute => 5,
        };
        for n in 0..window.pages as u64 {
            let page = MEMORY + (window.page as u64 + n) * PAGE;
            world.poke64(table(5) + index(window.address + n * PAGE, 0), page | rights);
        }
    }
}

fn system_registers(state: &mut State) {
    state.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP | CR0_MP | CR0_AM;
    state.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    state.cr3 = TABLES;
    state.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    state.xcr0 = save::features();
    state.gdtr = Table {
        base: KERNEL + GDT,
        limit: 0xff,
    };
    state.idtr = Table {
        base: KERNEL + IDT,
        limit: 16 * VECTORS as u16 - 1,
    };
    state.tr = Segment {
        selector: TASK,
        base: KERNEL + TSS,
        limit: 0x67,
        attributes: Attributes(0x8b),
    };
}
