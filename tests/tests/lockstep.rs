//! Random programs on the host CPU, on the interpreter and on the translator: all three must end alike.
//!
//! RING3_SEED repeats a run, RING3_CASES says how many programs it has.

use iced_x86::{Code, Instruction};
use ring3_tests::oracle::campaign::{all_differences, cases, seed};
use ring3_tests::oracle::interpreter::Interpreter;
use ring3_tests::oracle::native::Native;
use ring3_tests::oracle::{Executor, program};
use ring3_x86_jit::Jit;
use std::fmt::Write;

const LONGEST: usize = 14;

#[test]
fn programs_end_alike() {
    let seed = seed();
    println!("lockstep: RING3_SEED={seed:#x}");
    let mut host = Native::new().expect("a child process to execute code in");
    let mut interpreter = Interpreter::new();
    let mut translator = Jit::eager().map(Interpreter::with);
    if translator.is_none() {
        println!("skipped: the translator, which needs more of the host");
    }
    let mut rng = fastrand::Rng::with_seed(seed);
    let forms = program::forms();
    let count = cases(20_000);
    let (mut failures, mut told) = (0, String::new());
    let mut whole = 0;
    for case in 0..count {
        let (listing, start) = program::program(&mut rng, &forms, LONGEST);
        let mut theirs = start.clone();
        let truth = host.run(&mut theirs).expect("the host executes it");
        whole += usize::from(truth.vector == 3);
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
            for instr in &listing {
                let _ = writeln!(told, "    {instr}");
            }
            let _ = writeln!(
                told,
                "  host ended with {truth:x?} at {:#x}",
                theirs.registers.rip
            );
        }
    }
    println!("lockstep: {count} programs, {whole} of them to their end, seed {seed:#x}");
    assert_eq!(failures, 0, "RING3_SEED={seed:#x} repeats them\n{told}");
    assert!(whole * 4 > count, "too few programs came to their end");
}
