use super::*;
use std::fs;

fn os(text: &str) -> OsString {
    OsString::from(text)
}

/// The head of a program for x86-64 with one program header of this kind.
fn program(kind: u32) -> Vec<u8> {
    let mut file = vec![0; 120];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    (file[16], file[18]) = (2, 62);
    (file[32], file[54], file[56]) = (64, 56, 1);
    file[64..68].copy_from_slice(&kind.to_le_bytes());
    file
}

#[test]
fn programs_without_an_interpreter_are_static() {
    assert!(is_static(&program(1)));
    assert!(!is_static(&program(3)));
    assert!(!is_static(&program(1)[..60]));
    assert!(!is_static(b"#!/bin/sh\n"));
}

#[test]
fn a_script_is_what_its_interpreter_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("static"), program(1)).unwrap();
    fs::write(path("dynamic"), program(3)).unwrap();
    let script = |name: &str, interpreter: &str, rest: &str| {
        let text = format!("#! {} {rest}\necho\n", path(interpreter).display());
        fs::write(path(name), text).unwrap();
    };
    script("one", "static", "-e  -x");
    script("two", "one", "");
    script("other", "dynamic", "");
    script("endless", "endless", "");
    let words = |names: &[&str]| {
        names
            .iter()
            .map(|name| path(name).into_os_string())
            .collect::<Vec<_>>()
    };
    let found = |name: &str| look(&path(name));
    assert_eq!(found("static").unwrap().instead, Vec::<OsString>::new());
    let one = found("one").unwrap();
    assert_eq!(one.program, path("static"));
    assert_eq!(
        one.instead,
        [path("static").into(), os("-e  -x"), path("one").into()]
    );
    assert_eq!(
        found("two").unwrap().instead,
        [words(&["static"]), vec![os("-e  -x")], words(&["one", "two"])].concat()
    );
    for name in ["dynamic", "other", "endless", "missing"] {
        assert_eq!(found(name), None, "{name}");
    }
}

#[test]
fn the_library_comes_and_goes() {
    let library = Path::new("/l/libring3.so");
    let given = [os("A=1"), os("LD_PRELOAD=/x.so"), os("B=2")];
    let set = environment(&given, library, Some(Path::new("/p")));
    assert_eq!(
        set,
        ["A=1", "B=2", "LD_PRELOAD=/l/libring3.so:/x.so", "RING3_STATIC=/p"].map(os)
    );
    assert_eq!(
        clients_environment(&set, library),
        ["A=1", "B=2", "LD_PRELOAD=/x.so"].map(os)
    );
    let again = environment(&set, library, None);
    assert_eq!(again, ["A=1", "B=2", "LD_PRELOAD=/l/libring3.so:/x.so"].map(os));
    let alone = environment(&[], library, None);
    assert_eq!(clients_environment(&alone, library), Vec::<OsString>::new());
}
