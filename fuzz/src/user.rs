//! Code at level 3, on the host CPU, the interpreter and the translator.

use crate::Verdict;
use anyhow::Result;
use fastrand::Rng;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction};
use ring3_tests::oracle::interpreter::Interpreter;
use ring3_tests::oracle::layout::{self, CODE, DATA, READ_ONLY};
use ring3_tests::oracle::native::Native;
use ring3_tests::oracle::{Executor, Mode, compare, left_out, program, values};
use ring3_x86_jit::Jit;

pub struct User {
    host: Native,
    interpreter: Interpreter,
    translator: Interpreter<Jit>,
}

impl User {
    pub fn new() -> Result<User> {
        let jit = Jit::eager().ok_or_else(|| anyhow::anyhow!("no translator"))?;
        Ok(User {
            host: Native::new()?,
            interpreter: Interpreter::new(),
            translator: Interpreter::with(jit),
        })
    }

    pub fn run(&mut self, code: &[u8], state: u64) -> Result<Verdict> {
        if !can_be_compared(code) {
            return Ok(Verdict::Open);
        }
        let mut rng = Rng::with_seed(state);
        let mut memory = values::memory(&mut rng);
        let at = CODE + 0x800;
        let place = layout::offset(at).unwrap_or(0);
        memory[place..place + code.len()].copy_from_slice(code);
        let mut start = values::machine(&mut rng, memory, Mode::Long);
        start.registers.rip = at;
        let gpr = &mut start.registers.gpr;
        (gpr[3], gpr[6]) = (DATA + rng.u64(..8192), DATA + rng.u64(..8192));
        (gpr[7], gpr[13]) = (READ_ONLY - rng.u64(..256), DATA + 0x1000 - rng.u64(..64));
        let mut theirs = start.clone();
        let Ok(truth) = self.host.run(&mut theirs) else {
            self.host = Native::new()?;
            return Ok(Verdict::Open);
        };
        let neutral = Instruction::with(Code::Nopd);
        let tiers: [(&str, &mut dyn Executor); 2] = [
            ("interpreter", &mut self.interpreter),
            ("translator", &mut self.translator),
        ];
        for (name, tier) in tiers {
            let mut mine = start.clone();
            let found = match tier.run(&mut mine) {
                Ok(trap) => compare::differences(&neutral, &start, (&theirs, truth), (&mine, trap)),
                Err(lost) => vec![lost.to_string()],
            };
            if !found.is_empty() {
                return Ok(Verdict::Different(format!("{name}: {}", found.join("; "))));
            }
        }
        Ok(Verdict::Alike)
    }
}

/// Whether the code goes forward only, and consists of what has one meaning: so it ends, and everyone agrees how.
fn can_be_compared(code: &[u8]) -> bool {
    let end = CODE + 0x800 + code.len() as u64;
    let mut starts = vec![end];
    let mut targets = Vec::new();
    for instr in Decoder::with_ip(64, code, CODE + 0x800, DecoderOptions::NONE) {
        starts.push(instr.ip());
        let forward = match instr.flow_control() {
            FlowControl::Next | FlowControl::Exception => true,
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch | FlowControl::Call => {
                let target = instr.near_branch_target();
                targets.push(target);
                target > instr.ip()
            }
            _ => false,
        };
        let meant = left_out::reason(instr.code(), Mode::Long).is_none() && !program::leaves_open(&instr);
        if instr.is_invalid() || !forward || !meant || !has_steady_meaning(&instr) {
            return false;
        }
    }
    targets
        .iter()
        .all(|target| starts.contains(target) || *target > end)
}

/// Prefixes without a meaning may have one, and x87 leaves pointers that processors disagree on.
fn has_steady_meaning(instr: &Instruction) -> bool {
    let features = instr.cpuid_features();
    let known = features.iter().all(|f| {
        use iced_x86::CpuidFeature as F;
        matches!(
            f,
            F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 | F::CMOV | F::CX8
        ) || matches!(
            f,
            F::SSE | F::SSE2 | F::SSE3 | F::SSSE3 | F::SSE4_1 | F::SSE4_2 | F::POPCNT
        )
    });
    known
        && !instr.has_repne_prefix()
        && !instr.is_string_instruction()
        && !matches!(
            instr.mnemonic(),
            iced_x86::Mnemonic::Popf | iced_x86::Mnemonic::Popfq | iced_x86::Mnemonic::Ldmxcsr
        )
}
