//! Displaced registers that a trace uses take the places of registers that it does not.
//!
//! The guest's R13, R14 and R15 live in memory, which is slow where they are used much. While a trace runs, another guest
//! register that it never touches may lie in memory instead. At every way out both are where they belong.

use super::Translator;
use crate::context::home;
use crate::emit::{R13, Reg};
use crate::registers::number;
use crate::trace::{End, Trace};
use iced_x86::InstructionInfoFactory;

const RSP: usize = 4;
const DISPLACED: [usize; 3] = [13, 14, 15];

/// What a swap costs, in uses of the register, each time that a trace is entered and left.
const COST: usize = 4;

/// A displaced guest register, the one that is in memory for it, and the host's that both share.
#[derive(Clone, Copy, Debug)]
struct Swap {
    inside: Reg,
    outside: Reg,
    host: Reg,
}

#[derive(Debug, Default)]
pub(super) struct Swaps(Vec<Swap>);

/// How often a trace uses each guest register.
fn uses(trace: &Trace, info: &mut InstructionInfoFactory) -> [usize; 16] {
    let mut uses = [0; 16];
    for step in &trace.steps {
        let info = info.info(&step.instr);
        let memory = info
            .used_memory()
            .iter()
            .flat_map(|memory| [memory.base(), memory.index()]);
        let registers = info.used_registers().iter().map(|used| used.register());
        for register in registers.chain(memory).filter(|register| register.is_gpr()) {
            uses[number(register)] += 1;
        }
    }
    uses
}

impl Swaps {
    pub fn plan(trace: &Trace, info: &mut InstructionInfoFactory) -> Swaps {
        let uses = uses(trace, info);
        let loops = matches!(trace.end, End::Loop(_));
        // Each of these has registers swapped out and in again.
        let stops = trace.steps.iter().filter(|step| step.is_barrier()).count();
        let least = if loops { 1 } else { COST } + COST * stops;
        let mut wanted = DISPLACED.to_vec();
        wanted.retain(|guest| uses[*guest] > least);
        wanted.sort_by_key(|guest| std::cmp::Reverse(uses[*guest]));
        let free = (0..13).filter(|guest| uses[*guest] == 0);
        Swaps(
            wanted
                .into_iter()
                .zip(free)
                .map(|(inside, outside)| Swap {
                    inside: Reg(inside as u8),
                    outside: Reg(outside as u8),
                    host: if outside == RSP { R13 } else { Reg(outside as u8) },
                })
                .collect(),
        )
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The host register that a guest register is in, unless it is in memory.
    pub fn host_of(&self, guest: usize) -> Option<Reg> {
        for swap in &self.0 {
            if usize::from(swap.inside.0) == guest {
                return Some(swap.host);
            }
            if usize::from(swap.outside.0) == guest {
                return None;
            }
        }
        match guest {
            RSP => Some(R13),
            guest if DISPLACED.contains(&guest) => None,
            guest => Some(Reg(guest as u8)),
        }
    }
}

impl Translator<'_> {
    /// Puts registers where the trace has them. Flags stay.
    pub(super) fn swap_in(&mut self) {
        for swap in &self.swaps.0 {
            self.e.store(home(swap.outside), swap.host);
            self.e.load(swap.host, home(swap.inside));
        }
    }

    /// Puts registers where everybody else has them. Flags stay.
    pub(super) fn swap_out(&mut self) {
        for swap in &self.swaps.0 {
            self.e.store(home(swap.inside), swap.host);
            self.e.load(swap.host, home(swap.outside));
        }
    }

    /// The host register that a guest register is in, unless it is in memory.
    pub(super) fn host_of(&self, guest: usize) -> Option<Reg> {
        self.swaps.host_of(guest)
    }

    /// Whether a guest register is the same in the host.
    pub(super) fn is_kept(&self, register: iced_x86::Register) -> bool {
        register.is_gpr() && {
            let guest = number(register);
            self.host_of(guest) == Some(Reg(guest as u8))
        }
    }
}
