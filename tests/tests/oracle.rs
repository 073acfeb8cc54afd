//! Every unprivileged instruction form of 64-bit mode that the host has, on the host CPU and on the interpreter, from
//! random states: registers, flags, memory and exceptions must be the same. See [`ring3_tests::oracle`].

use ring3_tests::oracle::campaign::{cases, run, seed};
use ring3_tests::oracle::forms::Family;
use ring3_tests::oracle::interpreter::Interpreter;
use ring3_tests::oracle::native::Native;

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
    compare("integer", Family::Integer, 100, 1);
}

#[test]
fn x87_forms() {
    compare("x87", Family::X87, 100, 1);
}

#[test]
fn sse_forms() {
    compare("sse", Family::Sse, 40, 1);
}

#[test]
fn vex_forms() {
    compare("vex", Family::Vex, 20, 1);
}

#[test]
fn evex_forms() {
    compare("evex", Family::Evex, 16, 1);
}
