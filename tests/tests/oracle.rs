//! Every unprivileged instruction form that the host has, on the host CPU, on the interpreter and on the translator, from
//! random states: registers, flags, memory and exceptions must be the same. See [`ring3_tests::oracle`].

use ring3_tests::oracle::Mode;
use ring3_tests::oracle::campaign::{cases, run, seed};
use ring3_tests::oracle::forms::Family;
use ring3_tests::oracle::interpreter::Interpreter;
use ring3_tests::oracle::native::Native;
use ring3_x86_jit::Jit;
use std::arch::is_x86_feature_detected as host_has;

/// `floor`: how many forms must have been covered, on a host that has them.
fn compare(family: Family, mode: Mode, usual_cases: usize, floor: usize) {
    let name = format!("{family:?} forms, {}-bit", mode.bits());
    let seed = seed();
    println!("{name}: RING3_SEED={seed:#x}");
    let mut host = Native::new().expect("a child process to execute code in");
    let mut interpreter = Interpreter::new();
    let report = run(
        family,
        mode,
        seed,
        cases(usual_cases),
        &mut host,
        &mut [&mut interpreter],
    );
    report.conclude(&name, seed, floor);
    if mode == Mode::Short {
        return;
    }
    let Some(translator) = Jit::eager() else {
        return println!("{name}: skipped on the translator, which needs more of the host");
    };
    let mut translator = Interpreter::with(translator);
    let report = run(
        family,
        mode,
        seed,
        cases(usual_cases).div_ceil(2),
        &mut host,
        &mut [&mut interpreter, &mut translator],
    );
    report.conclude(&format!("{name}, translated"), seed, floor);
    let callouts = translator.tier().callouts();
    println!("{name}: {callouts} callouts in {} cases", report.cases);
    if family == Family::X87 {
        // INT3 and HLT end a case; a third is what unmasks exceptions or finds them unmasked, or faults.
        assert!(callouts < report.cases as u64 * 5 / 2, "x87 is not translated");
    }
}

#[test]
fn integer_forms() {
    compare(Family::Integer, Mode::Long, 120, 1200);
}

#[test]
fn integer_forms_in_32_bits() {
    compare(Family::Integer, Mode::Compatible, 120, 800);
}

#[test]
fn x87_forms() {
    compare(Family::X87, Mode::Long, 300, 145);
    compare(Family::X87, Mode::Compatible, 100, 145);
}

#[test]
fn sse_forms() {
    let floor = if host_has!("sse4.2") { 700 } else { 400 };
    compare(Family::Sse, Mode::Long, 120, floor);
    compare(Family::Sse, Mode::Compatible, 40, floor);
}

#[test]
fn vex_forms() {
    if !host_has!("avx2") {
        println!("skipped: the host has no AVX2");
        return;
    }
    compare(Family::Vex, Mode::Long, 60, 1200);
    compare(Family::Vex, Mode::Compatible, 20, 1000);
}

#[test]
fn evex_forms() {
    if !host_has!("avx512vl") {
        println!("skipped: the host has no AVX-512");
        return;
    }
    compare(Family::Evex, Mode::Long, 48, 2000);
    compare(Family::Evex, Mode::Compatible, 12, 2000);
}

#[test]
fn sixteen_bit_forms() {
    if !Native::new().expect("a child process").has_short_mode() {
        println!("skipped: the host's kernel has no 16-bit segments");
        return;
    }
    compare(Family::Integer, Mode::Short, 100, 800);
    compare(Family::X87, Mode::Short, 60, 145);
    compare(Family::Sse, Mode::Short, 20, 400);
    if host_has!("avx2") {
        compare(Family::Vex, Mode::Short, 10, 1000);
    }
    if host_has!("avx512vl") {
        compare(Family::Evex, Mode::Short, 8, 2000);
    }
}
