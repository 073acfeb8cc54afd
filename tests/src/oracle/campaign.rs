//! All forms of a family, many cases each, on the host and on ours.
//!
//! RING3_SEED repeats a run, RING3_CASES says how many cases a form gets, RING3_FORMS tries only forms whose name
//! contains it.

use super::forms::{Family, Form, of_family};
use super::operands::Encoded;
use super::{Executor, Machine, Mode, Trap, case, compare, values};
use fastrand::Rng;
use iced_x86::Instruction;
use std::collections::BTreeMap;

/// What a run found.
#[derive(Default)]
pub struct Report {
    /// Forms of which at least one case did not end in #UD.
    pub forms: usize,
    pub cases: usize,
    pub failures: Vec<String>,
    pub failed_cases: usize,
    /// Forms that never did anything but #UD, or could not be encoded.
    pub idle: Vec<String>,
    /// How cases ended, by vector.
    pub ends: BTreeMap<u64, usize>,
}

/// Failures that are told in full, one a form.
const TOLD: usize = 60;
const UNDEFINED: u64 = 6;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub fn seed() -> u64 {
    variable("RING3_SEED").map_or_else(
        || fastrand::u64(..),
        |text| {
            let digits = text.trim_start_matches("0x");
            u64::from_str_radix(digits, 16).expect("RING3_SEED is a hexadecimal number")
        },
    )
}

pub fn cases(usual: usize) -> usize {
    variable("RING3_CASES").map_or(usual, |text| text.parse().expect("RING3_CASES is a number"))
}

/// Tries every form of `family`, `cases` times each, on the host and on each of ours. Those are compared with one another
/// too, since the host may be of another maker.
pub fn run(
    family: Family,
    mode: Mode,
    seed: u64,
    cases: usize,
    host: &mut dyn Executor,
    ours: &mut [&mut dyn Executor],
) -> Report {
    let only = variable("RING3_FORMS");
    let mut report = Report::default();
    for form in of_family(family, mode) {
        let name = form.to_string();
        if only.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            continue;
        }
        // Each form has its own sequence, so that it can be tried alone.
        let mut rng = Rng::with_seed(seed ^ hash(&name));
        one_form(&mut rng, &form, cases, host, ours, &mut report);
    }
    report
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// States tried with each encoding.
const STATES: usize = 4;

fn one_form(
    rng: &mut Rng,
    form: &Form,
    cases: usize,
    host: &mut dyn Executor,
    ours: &mut [&mut dyn Executor],
    report: &mut Report,
) {
    let mut memory = values::memory(rng);
    let mut did_something = false;
    let mut failed = false;
    let mut encoded = None;
    for number in 0..cases {
        if number % STATES == 0 {
            encoded = case::instruction(rng, form);
        }
        let Some(encoded) = &encoded else { continue };
        let start = case::machine(rng, encoded, memory);
        let mut theirs = start.clone();
        let truth = host.run(&mut theirs).expect("the host CPU executes the case");
        report.cases += 1;
        *report.ends.entry(truth.vector).or_default() += 1;
        did_something |= truth.vector != UNDEFINED;
        let found = all_differences(&encoded.instr, &start, (&theirs, truth), ours);
        if !found.is_empty() {
            report.failed_cases += 1;
            if !failed && report.failures.len() < TOLD {
                let text = describe(form, number, encoded, &start, truth, &found);
                report.failures.push(text);
            }
            failed = true;
        }
        memory = start.memory;
    }
    if did_something {
        report.forms += 1;
    } else {
        report.idle.push(form.to_string());
    }
}

/// How the ends of all of ours differ from the host's, and from the end of the first of ours.
pub fn all_differences(
    instr: &Instruction,
    start: &Machine,
    host: (&Machine, Trap),
    ours: &mut [&mut dyn Executor],
) -> Vec<String> {
    let mut first: Option<(Machine, Trap)> = None;
    let mut all = Vec::new();
    for tier in ours {
        let mut mine = start.clone();
        let trap = match tier.run(&mut mine) {
            Ok(trap) => trap,
            Err(lost) => {
                all.push(format!("{}: {lost}", tier.name()));
                continue;
            }
        };
        let mut found = compare::differences(instr, start, host, (&mine, trap));
        if let (true, Some((machine, other))) = (found.is_empty(), &first) {
            found = compare::strict(instr, start, (machine, *other), (&mine, trap));
        }
        all.extend(found.iter().map(|found| format!("{}: {found}", tier.name())));
        first.get_or_insert((mine, trap));
    }
    all
}

fn describe(
    form: &Form,
    number: usize,
    encoded: &Encoded,
    start: &Machine,
    truth: Trap,
    found: &[String],
) -> String {
    let registers = &start.registers;
    let Encoded {
        instr,
        bytes,
        prelude,
        ..
    } = encoded;
    format!(
        "{form}, case {number}: {instr} ({bytes:02x?} after {prelude:02x?}) at {:#x}\n  host ended with {truth:x?}\n  from gpr {:x?} fs {:#x} gs {:#x} rflags {:#x} mxcsr {:#x} fcw {:#x} fsw {:#x} ftw {:#x}\n  {}\n",
        registers.rip,
        registers.gpr,
        registers.fs_base,
        registers.gs_base,
        registers.rflags,
        start.vector.mxcsr(),
        start.vector.x87.fcw(),
        start.vector.x87.fsw(),
        start.vector.x87.abridged_tags(),
        found.join("\n  ")
    )
}

impl Report {
    /// Prints the figures, and panics if anything differed or fewer forms than `floor` were covered.
    pub fn conclude(&self, name: &str, seed: u64, floor: usize) {
        println!(
            "{name}: {} forms, {} cases, seed {seed:#x}; ends by vector {:?}; {} forms idle",
            self.forms,
            self.cases,
            self.ends,
            self.idle.len()
        );
        if variable("RING3_IDLE").is_some() {
            println!("idle: {}", self.idle.join(" "));
        }
        assert!(
            self.failures.is_empty(),
            "{} of {} cases differ from the host; RING3_SEED={seed:#x} repeats them\n{}",
            self.failed_cases,
            self.cases,
            self.failures.join("\n")
        );
        let partial = variable("RING3_FORMS").is_some();
        assert!(
            partial || self.forms >= floor,
            "only {} forms were covered, not {floor}",
            self.forms
        );
    }
}
