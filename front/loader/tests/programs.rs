//! Static programs, of each kind that can be made here, do under ring3 what they do without it.
//!
//! Each file of `tests/programs` prints what it sees of its own system calls, signals and threads. The kernel is the oracle.

mod support;

use std::path::Path;
use std::process::Output;
use support::{CAUGHT, Kind, compile, natively, preloaded, under_ring3};

fn words(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    format!("{}\n{out}{err}", output.status)
}

/// Runs a program in all ways, with these arguments.
fn compare(name: &str, arguments: &[&str]) {
    for kind in Kind::all() {
        let Some(program) = compile(name, kind) else {
            println!("skipped: no C compiler makes {kind:?} programs here");
            continue;
        };
        let expected = words(&natively(&program, arguments));
        for caught in CAUGHT {
            let got = words(&under_ring3(&program, arguments, &[caught]));
            assert_eq!(got, expected, "{name}, {kind:?}, {caught:?}");
        }
    }
}

#[test]
fn a_program_begins_and_makes_others_as_natively() {
    compare("process", &["one", "two words", ""]);
}

#[test]
fn signals_arrive_as_natively() {
    compare("signals", &[]);
}

#[test]
fn threads_live_and_end_as_natively() {
    compare("threads", &[]);
}

#[test]
fn seccomp_filters_judge_as_natively() {
    compare("filters", &[]);
}

#[test]
fn whatever_executes_a_static_program_is_followed() {
    let executes = compile("executes", Kind::Dynamic).expect("there is a C compiler");
    for kind in Kind::all() {
        let Some(program) = compile("count", kind) else {
            continue;
        };
        let path = program.to_str().expect("a plain path");
        // Natively it is served by the machine, if that has the device.
        let expected = words(&natively(&executes, &[path])).replace(": 8\n", ": 7\n");
        assert_eq!(words(&preloaded(&executes, &[path])), expected, "{kind:?}");
        // And from a static program.
        let executes = compile("executes", kind).expect("as above");
        assert_eq!(words(&under_ring3(&executes, &[path], &[])), expected, "{kind:?}");
    }
}

#[test]
fn calls_that_are_made_often_are_answered_as_natively() {
    compare("hot", &[]);
}

/// It names no interpreter, being one, and counts on zeroes behind its data.
#[test]
fn the_dynamic_linker_is_a_static_program() {
    let linker = Path::new("/lib64/ld-linux-x86-64.so.2");
    let arguments = ["/bin/echo", "one", "two words"];
    let expected = words(&natively(linker, &arguments));
    for caught in CAUGHT {
        let got = words(&under_ring3(linker, &arguments, &[caught]));
        assert_eq!(got, expected, "{caught:?}");
    }
}

#[test]
fn a_file_that_is_no_whole_program_is_refused() {
    let program = compile("count", Kind::Static).expect("there is a C compiler");
    let whole = std::fs::read(&program).expect("it was just made");
    let cut = program.with_extension("cut");
    for (len, why) in [
        (100, "its program headers are not at its beginning"),
        (5000, "it is shorter than its program headers say"),
    ] {
        std::fs::write(&cut, &whole[..len]).expect("there is room");
        let expected = format!("exit status: 126\nring3: {}: {why}\n", cut.display());
        assert_eq!(words(&under_ring3(&cut, &[], &[])), expected);
    }
}

#[test]
fn a_guest_runs() {
    for kind in Kind::all() {
        let Some(program) = compile("guest", kind) else {
            continue;
        };
        for caught in CAUGHT {
            let output = under_ring3(&program, &[], &[caught]);
            assert_eq!(
                words(&output),
                "exit status: 0\nHi from a guest\n",
                "{kind:?}, {caught:?}"
            );
        }
    }
}
