//! Every unprivileged instruction form of 64-bit mode that the host has, on the host CPU and on the interpreter, from
//! random states: registers, flags, memory and exceptions must be the same. See [`ring3_tests::oracle`].

use ring3_tests::oracle::campaign::{cases, run, seed};
use ring3_tests::oracle::forms::Family;
use ring3_tests::oracle::interpreter::Interpreter;
use ring3_tests::oracle::native::Native;
use std::arch::is_x86_feature_detected as host_has;

/// `floor`: how many forms must have been covered, on a host that has them.
fn compare(name: &str, family: Family, usual_cases: usize, floor: usize) {
    let seed = seed();
    println!("{name}: RING3_SEED={seed:#x}");
    let mut host = Native::new().expect("a child process to execute code in");
    let mut ours = Interpreter::new();
    let report = run(family, seed, cases(usual_cases), &mut host, &mut ours);
    report.conclude(name, seed, floor);
}

#[test]
fn integer_forms() {
    compare("integer", Family::Integer, 200, 1200);
}

#[test]
fn x87_forms() {
    compare("x87", Family::X87, 400, 145);
}

#[test]
fn sse_forms() {
    let floor = if host_has!("sse4.2") { 700 } else { 400 };
    compare("sse", Family::Sse, 150, floor);
}

#[test]
fn vex_forms() {
    if !host_has!("avx2") {
        println!("skipped: the host has no AVX2");
        return;
    }
    compare("vex", Family::Vex, 80, 1200);
}

#[test]
fn evex_forms() {
    if !host_has!("avx512vl") {
        println!("skipped: the host has no AVX-512");
        return;
    }
    compare("evex", Family::Evex, 60, 2000);
}
