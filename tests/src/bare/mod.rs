//! A bare 64-bit machine for programs that every tier must execute alike: a processor, memory, descriptors and page
//! tables, and nothing else.
//!
//! [`on_every_tier`] runs a test on the interpreter and on the translator and compares the machines that are left;
//! [`places`] says what lies where. An exception that the program has no handler for ends it in a HLT, and
//! [`Machine::trap`] tells what it was.

pub mod guest;
pub mod places;
pub mod snapshot;
pub mod tiers;
pub mod world;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, ebx};
use places::*;
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::{Cpu, Leave, State};
use std::sync::atomic::AtomicU32;
use tiers::AnyTier;
use world::BareWorld;

pub struct Machine {
    pub cpu: Cpu,
    pub world: BareWorld,
    pub tier: AnyTier,
    next_table: u64,
}

/// A piece of a program.
pub type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// An exception as its frame tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub vector: u64,
    pub error: u64,
    pub cr2: u64,
    pub rip: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub cs: u64,
}

/// Runs the test on every tier, each with a machine of its own, and compares what is left of the machines.
pub fn on_every_tier(test: impl Fn(&mut Machine)) {
    let mut first = None;
    for tier in AnyTier::all() {
        let name = tier.name();
        println!("on the {name}:");
        let mut machine = Machine::new(tier);
        test(&mut machine);
        let found = snapshot::Snapshot::of(&machine);
        match &first {
            None => first = Some(found),
            Some(expected) => {
                let differences = found.differences(expected);
                assert!(
                    differences.is_empty(),
                    "the {name} left another machine than the interpreter: {}",
                    differences.join("; ")
                );
            }
        }
    }
}

fn segment(selector: u16, attributes: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        attributes: Attributes(attributes),
    }
}

/// The registers that a program of level 0 starts with.
pub fn initial(state: &mut State) {
    state.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP | CR0_MP;
    state.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    state.cr3 = TABLES;
    state.efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    state.xcr0 = crate::oracle::save::features();
    (state.gdtr.base, state.gdtr.limit) = (GDT, 0x37);
    (state.idtr.base, state.idtr.limit) = (IDT, 0xfff);
    state.tr = segment(TASK, 0x8b);
    (state.tr.base, state.tr.limit) = (TSS, 0x67);
    state.seg[CS] = segment(CODE0, 0xa09b);
    for seg in [ES, SS, DS, FS, GS] {
        state.seg[seg] = segment(DATA0, 0xc093);
    }
    state.msr.star = u64::from(CODE0) << 32 | u64::from(DATA0 | 3) << 48;
    state.gpr = [0; 32];
    state.rip = START;
    state.gpr[RSP] = STACK;
}

impl Machine {
    /// At level 0, about to execute what is put at [`START`].
    pub fn new(tier: AnyTier) -> Machine {
        let mut machine = Machine {
            cpu: Cpu::new(),
            world: BareWorld::new(),
            tier,
            next_table: MORE_TABLES,
        };
        places::write(&mut machine.world);
        initial(&mut machine.cpu.core.state);
        machine.cpu.core.refresh();
        machine
    }

    pub fn state(&mut self) -> &mut State {
        &mut self.cpu.core.state
    }

    pub fn gpr(&self, number: usize) -> u64 {
        self.cpu.core.state.gpr[number]
    }

    /// Assembles code for `at`, which is both its linear and its physical address.
    pub fn code(&mut self, at: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
        self.code_at(at, at, build)
    }

    /// Assembles code that runs at `linear`, and puts it at `gpa`. Returns its length.
    pub fn code_at(
        &mut self,
        gpa: u64,
        linear: u64,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> u64 {
        let bytes = assemble(linear, build);
        self.world.poke(gpa, &bytes);
        bytes.len() as u64
    }

    /// Maps a page and returns where its entry lies, for programs to change.
    pub fn map(&mut self, linear: u64, gpa: u64, bits: u64, size: Size) -> u64 {
        self.map_in(TABLES, linear, gpa, bits, size)
    }

    /// As [`Machine::map`], in the tables of another space, whose root is at `root`.
    pub fn map_in(&mut self, root: u64, linear: u64, gpa: u64, bits: u64, size: Size) -> u64 {
        let at = places::entry(&mut self.world, root, &mut self.next_table, linear, size);
        let large = if size == Size::Small { 0 } else { PS };
        self.world.put(at, gpa | bits | large);
        at
    }

    /// Another address space, in which nothing is mapped yet but what is one to one here.
    pub fn another_space(&mut self) -> u64 {
        let root = self.next_table;
        self.next_table += 2 * PAGE;
        let first = self.world.get(TABLES + PAGE);
        self.world.put(root, (root + PAGE) | P | W | U);
        self.world.put(root + PAGE, first);
        root
    }

    /// Puts an interrupt gate for level 3 and below in the IDT; `ist` zero for none.
    pub fn vector(&mut self, vector: u64, target: u64, ist: u64) {
        gate(&mut self.world, vector, target, 0xee, ist);
    }

    /// Continues at level 3, with interrupts on.
    pub fn user(&mut self, rip: u64, rsp: u64) {
        let state = self.state();
        state.seg[CS] = segment(CODE3, 0xa0fb);
        for seg in [ES, SS, DS, FS, GS] {
            state.seg[seg] = segment(DATA3, 0xc0f3);
        }
        (state.rip, state.gpr[RSP]) = (rip, rsp);
        state.set_rflags(flags::IF);
        self.cpu.core.refresh();
    }

    /// Continues at level 0.
    pub fn supervisor(&mut self, rip: u64) {
        let state = self.state();
        state.seg[CS] = segment(CODE0, 0xa09b);
        for seg in [ES, SS, DS, FS, GS] {
            state.seg[seg] = segment(DATA0, 0xc093);
        }
        (state.rip, state.gpr[RSP]) = (rip, STACK);
        state.set_rflags(0);
        self.cpu.core.refresh();
    }

    pub fn run(&mut self) -> Leave {
        self.run_kicked(&AtomicU32::new(0))
    }

    /// As [`Machine::run`], with a kick word of the caller's.
    pub fn run_kicked(&mut self, kick: &AtomicU32) -> Leave {
        self.world.rewind();
        self.cpu.run_with(&mut self.tier, &mut self.world, kick)
    }

    /// Runs to a HLT that is no exception's.
    #[track_caller]
    pub fn halt(&mut self) {
        let left = self.run();
        let rip = self.cpu.core.state.rip;
        if left == Leave::Halted && (TRAPS + 1..=TRAPS + 256).contains(&rip) {
            panic!("{:x?}", self.frame());
        }
        assert_eq!(left, Leave::Halted, "at {rip:#x}");
    }

    /// Runs to an exception.
    #[track_caller]
    pub fn trap(&mut self) -> Trap {
        let left = self.run();
        let rip = self.cpu.core.state.rip;
        assert_eq!(left, Leave::Halted, "at {rip:#x}");
        assert!(
            (TRAPS + 1..=TRAPS + 256).contains(&rip),
            "no exception: halted at {rip:#x}"
        );
        self.frame()
    }

    /// What the exception's frame says.
    fn frame(&self) -> Trap {
        let state = &self.cpu.core.state;
        let vector = state.rip - TRAPS - 1;
        let mut at = state.gpr[RSP];
        let mut pop = || {
            at += 8;
            self.world.get(at - 8)
        };
        let error = if matches!(vector, 8 | 10..=14 | 17) {
            pop()
        } else {
            0
        };
        let (rip, cs, rflags, rsp) = (pop(), pop(), pop(), pop());
        Trap {
            vector,
            error,
            cr2: if vector == 14 { state.cr2 } else { 0 },
            rip,
            rflags,
            rsp,
            cs,
        }
    }

    /// Continues where the exception came.
    pub fn resume(&mut self, trap: &Trap) {
        if trap.cs & 3 == 3 {
            self.user(trap.rip, trap.rsp);
        } else {
            self.supervisor(trap.rip);
        }
        let state = self.state();
        state.gpr[RSP] = trap.rsp;
        state.set_rflags(trap.rflags);
        self.cpu.core.refresh();
    }

    pub fn word(&self, gpa: u64) -> u64 {
        self.world.get(gpa)
    }
}

/// A loop that counts down in EBX, and then halts.
pub fn repeat(
    a: &mut CodeAssembler,
    rounds: u32,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ebx, rounds)?;
    a.set_label(&mut top)?;
    body(a)?;
    a.dec(ebx)?;
    a.jne(top)?;
    a.hlt()
}

/// Code that runs at `linear`.
pub fn assemble(linear: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    assemble_as(64, linear, build)
}

/// The same with instructions of so many bits.
pub fn assemble_as(
    bits: u32,
    linear: u64,
    build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Vec<u8> {
    let mut asm = CodeAssembler::new(bits).expect("code of so many bits exists");
    build(&mut asm)
        .and_then(|()| asm.assemble(linear))
        .expect("code that can be encoded")
}
