//! All that a program can have changed, to be compared with what it changed elsewhere.

use super::Machine;
use ring3_host::native::{VectorState, X87};
use ring3_x86_cpu::State;
use ring3_x86_cpu::state::{ES, GS, Interruptibility};

/// Registers by name.
pub type Registers = Vec<(&'static str, u64)>;

pub struct Snapshot {
    registers: Registers,
    vector: VectorState,
    interruptibility: Interruptibility,
    memory: Vec<u8>,
    outputs: Vec<(u16, usize, u32)>,
    mmio: Vec<(u64, Vec<u8>)>,
}

const NAMES: [&str; 16] = [
    "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14",
    "R15",
];

/// Every register but the vectors'.
pub fn registers(state: &State) -> Registers {
    let mut all: Registers = NAMES.iter().copied().zip(state.gpr).collect();
    all.extend([
        ("RIP", state.rip),
        ("RFLAGS", state.rflags()),
        ("CR0", state.cr0),
        ("CR2", state.cr2),
        ("CR3", state.cr3),
        ("CR4", state.cr4),
        ("EFER", state.efer),
        ("XCR0", state.xcr0),
        ("DR0", state.dr[0]),
        ("DR1", state.dr[1]),
        ("DR2", state.dr[2]),
        ("DR3", state.dr[3]),
        ("DR6", state.dr6),
        ("DR7", state.dr7),
        ("STAR", state.msr.star),
        ("LSTAR", state.msr.lstar),
        ("FMASK", state.msr.fmask),
        ("KERNEL_GS_BASE", state.msr.kernel_gs_base),
        ("GDTR", state.gdtr.base),
        ("IDTR", state.idtr.base),
    ]);
    for segment in &state.seg[ES..=GS] {
        all.push(("a segment's selector", segment.selector.into()));
        all.push(("a segment's base", segment.base));
        all.push(("a segment's attributes", segment.attributes.0.into()));
    }
    all
}

/// What is not alike in two lists of registers.
pub fn register_differences(found: &Registers, expected: &Registers) -> Vec<String> {
    found
        .iter()
        .zip(expected)
        .filter(|(found, expected)| found != expected)
        .map(|((name, found), (_, expected))| format!("{name} is {found:#x}, not {expected:#x}"))
        .collect()
}

impl Snapshot {
    pub fn of(machine: &Machine) -> Snapshot {
        let state = &machine.cpu.core.state;
        Snapshot {
            registers: registers(state),
            vector: (*state.vector).clone(),
            interruptibility: state.interruptibility,
            memory: machine.world.contents(),
            outputs: machine.world.low.outputs.clone(),
            mmio: machine.world.low.mmio_writes.clone(),
        }
    }

    /// What is not as in `expected`.
    pub fn differences(&self, expected: &Snapshot) -> Vec<String> {
        let mut told = register_differences(&self.registers, &expected.registers);
        if self.interruptibility != expected.interruptibility {
            told.push(format!("interrupts: {:?}", self.interruptibility));
        }
        told.extend(vector_differences(&self.vector, &expected.vector));
        told.extend(memory_differences(&self.memory, &expected.memory));
        if self.outputs != expected.outputs {
            told.push(format!("ports: {:x?}, not {:x?}", self.outputs, expected.outputs));
        }
        if self.mmio != expected.mmio {
            told.push(format!("MMIO: {:x?}, not {:x?}", self.mmio, expected.mmio));
        }
        told
    }
}

/// What is not alike in the vector state.
pub fn vector_differences(found: &VectorState, expected: &VectorState) -> Vec<String> {
    let mut told = Vec::new();
    for (n, (found, expected)) in found.zmm.iter().zip(&expected.zmm).enumerate() {
        if found.0 != expected.0 {
            told.push(format!("ZMM{n} is {:x?}, not {:x?}", found.0, expected.0));
        }
    }
    if found.k != expected.k {
        told.push(format!("masks: {:x?}, not {:x?}", found.k, expected.k));
    }
    if found.mxcsr() != expected.mxcsr() {
        told.push(format!(
            "MXCSR is {:#x}, not {:#x}",
            found.mxcsr(),
            expected.mxcsr()
        ));
    }
    if found.x87 != expected.x87 {
        told.push(format!("x87: {}, not {}", x87(&found.x87), x87(&expected.x87)));
    }
    told
}

fn x87(state: &X87) -> String {
    let registers: Vec<_> = (0..8).map(|n| state.st(n)).collect();
    format!(
        "FCW {:x}, FSW {:x}, tags {:x}, {:x?}, {registers:x?}",
        state.fcw(),
        state.fsw(),
        state.abridged_tags(),
        state.pointers
    )
}

/// Where memory is not alike; the first few places.
pub fn memory_differences(found: &[u8], expected: &[u8]) -> Vec<String> {
    if found == expected {
        return Vec::new();
    }
    let places = found.iter().zip(expected).enumerate();
    places
        .filter(|(_, (found, expected))| found != expected)
        .take(8)
        .map(|(at, (found, expected))| format!("the byte at {at:#x} is {found:#04x}, not {expected:#04x}"))
        .collect()
}
