//! Random programs on the host CPU, on the interpreter and on the translator: all three must end alike.
//!
//! RING3_SEED repeats a run, RING3_CASES says how many programs it has.

use fastrand::Rng;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use ring3_tests::oracle::campaign::{all_differences, cases, seed};
use ring3_tests::oracle::interpreter::Interpreter;
use ring3_tests::oracle::layout::{CODE, CODE_PAGES, PAGE};
use ring3_tests::oracle::native::Native;
use ring3_tests::oracle::{Executor, Machine, Mode, flow, program};
use ring3_x86_jit::Jit;
use std::collections::BTreeMap;
use std::fmt::Write;

const LONGEST: usize = 14;

/// Runs `count` programs that `next` makes, and compares how they end.
fn compare(mode: Mode, count: usize, mut next: impl FnMut(&mut Rng) -> Option<Machine>) {
    let seed = seed();
    println!("lockstep, {}-bit: RING3_SEED={seed:#x}", mode.bits());
    let mut host = Native::new().expect("a child process to execute code in");
    let mut interpreter = Interpreter::new();
    let mut translator = Jit::eager().map(Interpreter::with);
    if translator.is_none() {
        println!("skipped: the translator, which needs more of the host");
    }
    let mut rng = Rng::with_seed(seed);
    let (mut failures, mut told) = (0, String::new());
    let mut ends: BTreeMap<u64, usize> = BTreeMap::new();
    for case in 0..count {
        let Some(start) = next(&mut rng) else { continue };
        let mut theirs = start.clone();
        let truth = host.run(&mut theirs).expect("the host executes it");
        *ends.entry(truth.vector).or_default() += 1;
        // What is known of processors that differ is known of single instructions.
        let faulted = program::instruction_at(&start, theirs.registers.rip).filter(|_| truth.vector != 3);
        let instr = faulted.unwrap_or_else(|| Instruction::with(Code::Nopd));
        let mut tiers: Vec<&mut dyn Executor> = vec![&mut interpreter];
        if let Some(translator) = &mut translator {
            tiers.push(translator);
        }
        let found = all_differences(&instr, &start, (&theirs, truth), &mut tiers);
        if found.is_empty() {
            continue;
        }
        failures += 1;
        if failures <= 5 {
            let _ = writeln!(told, "program {case}: {}", found.join("; "));
            for instr in listing(&start, mode) {
                let _ = writeln!(told, "    {:x}: {instr}", instr.ip());
            }
            let _ = writeln!(
                told,
                "  host ended with {truth:x?} at {:#x}",
                theirs.registers.rip
            );
        }
    }
    println!("lockstep: {count} programs, seed {seed:#x}; ends by vector {ends:?}");
    assert_eq!(failures, 0, "RING3_SEED={seed:#x} repeats them\n{told}");
    let whole = ends.get(&3).copied().unwrap_or(0);
    assert!(whole * 4 > count, "too few programs came to their end");
}

/// A program's instructions.
fn listing(start: &Machine, mode: Mode) -> Vec<Instruction> {
    let from = start.registers.rip;
    let code = &start.memory[(from - CODE) as usize..CODE_PAGES * PAGE as usize];
    let end = code
        .iter()
        .rposition(|byte| *byte != 0xcc)
        .map_or(0, |last| last + 1);
    Decoder::with_ip(mode.bits(), &code[..end], from, DecoderOptions::NONE)
        .into_iter()
        .collect()
}

#[test]
fn programs_end_alike() {
    let forms = program::forms(Mode::Long);
    compare(Mode::Long, cases(20_000), |rng| {
        Some(program::program(rng, &forms, LONGEST))
    });
}

#[test]
fn flat_programs_end_alike() {
    let forms = program::forms(Mode::Compatible);
    compare(Mode::Compatible, cases(6_000), |rng| {
        flow::program(rng, &forms, 6)
    });
}
