//! AMX: when its instructions exist, what faults leave behind, and how its state is saved. What products compute is compared
//! with the host where they are computed.

mod machine;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::Features;
use ring3_x86_cpu::state::*;

const XTILECFG: u64 = 1 << 17;
const XTILEDATA: u64 = 1 << 18;

/// Where the configuration, what is stored of one, and memory for tiles are; memory ends at `END`.
const CONFIG: u64 = 0x6000;
const STORED: u64 = 0x6040;
const FROM: u64 = 0x1_0000;
const TO: u64 = 0x1_1000;
const END: u64 = 0x20_0000;

/// 64-bit mode with tiles switched on, and exceptions that come to a HLT at 0x5001 + 16 * vector.
fn long() -> Machine {
    let mut m = Machine::long();
    for vector in [6, 7, 13, 14] {
        m.vector64(vector, 0x5000 + 16 * vector, 0x8e, 0);
        m.code(64, 0x5000 + 16 * vector, |a| a.hlt());
    }
    m.state().cr4 |= CR4_OSXSAVE;
    m.state().xcr0 = 3 | XTILECFG | XTILEDATA;
    m.bytes(CONFIG, &config(&[(16, 64); 8]));
    for n in 0..4096 {
        m.bytes(FROM + n, &[n as u8 ^ (n >> 8) as u8 | 1]);
    }
    m
}

/// A configuration with these tiles: rows, and bytes of a row.
fn config(tiles: &[(u8, u8)]) -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (n, (rows, columns)) in tiles.iter().enumerate() {
        (bytes[48 + n], bytes[16 + 2 * n]) = (*rows, *columns);
    }
    bytes
}

type Build = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// The vector that the code ends with, 0 if it came to its own HLT.
#[track_caller]
fn ends(m: &mut Machine, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> u64 {
    m.code(64, 0x1000, |a| {
        build(a)?;
        a.hlt()
    });
    m.cpu.drop_all_code();
    m.state().rip = 0x1000;
    m.state().gpr[RSP] = 0x8000;
    m.halt();
    m.state().rip.checked_sub(0x5000).map_or(0, |at| at / 16)
}

fn bytes(m: &Machine, at: u64, count: usize) -> Vec<u8> {
    m.words(at, 1, count).iter().map(|word| *word as u8).collect()
}

const INSTRUCTIONS: [(&str, Build); 8] = [
    ("ldtilecfg", |a| a.ldtilecfg(ptr(CONFIG))),
    ("sttilecfg", |a| a.sttilecfg(ptr(STORED))),
    ("tilezero", |a| a.tilezero(tmm1)),
    ("tileloadd", |a| a.tileloadd(tmm1, ptr(rbx + rcx))),
    ("tilestored", |a| a.tilestored(ptr(rbx + rcx), tmm1)),
    ("tdpbssd", |a| a.tdpbssd(tmm0, tmm1, tmm2)),
    ("tdpbf16ps", |a| a.tdpbf16ps(tmm0, tmm1, tmm2)),
    ("tilerelease", |a| a.tilerelease()),
];

#[test]
fn tiles_must_be_switched_on() {
    for (name, build) in INSTRUCTIONS {
        let mut m = long();
        m.state().gpr[RBX] = FROM;
        m.state().gpr[RCX] = 64;
        m.state().cr0 |= CR0_TS;
        assert_eq!(ends(&mut m, |a| a.ldtilecfg(ptr(CONFIG))), 0);
        assert_eq!(ends(&mut m, build), 0, "{name}, with CR0.TS");
        m.state().xcr0 = 3;
        assert_eq!(ends(&mut m, build), 6, "{name} without XCR0");
        m.state().xcr0 = 3 | XTILECFG | XTILEDATA;
        m.state().cr4 &= !CR4_OSXSAVE;
        assert_eq!(ends(&mut m, build), 6, "{name} without CR4.OSXSAVE");
        m.state().cr4 |= CR4_OSXSAVE;
        m.cpu.set_features(Features::empty());
        assert_eq!(ends(&mut m, build), 6, "{name} without CPUID's bit");
    }
}

#[test]
fn disabled_data_faults_and_says_so() {
    let uses_data = ["tilezero", "tileloadd", "tilestored", "tdpbssd", "tdpbf16ps"];
    for (name, build) in INSTRUCTIONS {
        let mut m = long();
        m.state().gpr[RBX] = FROM;
        m.state().msr.xfd = XTILEDATA;
        assert_eq!(ends(&mut m, |a| a.ldtilecfg(ptr(CONFIG))), 0);
        let (vector, error) = if uses_data.contains(&name) {
            (7, XTILEDATA)
        } else {
            (0, 0)
        };
        assert_eq!(ends(&mut m, build), vector, "{name}");
        assert_eq!(m.state().msr.xfd_err, error, "{name}");
    }
}

#[test]
fn invalid_configurations_change_nothing() {
    let mut m = long();
    assert_eq!(ends(&mut m, |a| a.ldtilecfg(ptr(CONFIG))), 0);
    for (at, byte) in [(0, 2), (2, 1), (32, 4), (48, 17), (48, 0), (16, 65), (63, 1)] {
        let mut wrong = config(&[(16, 64); 8]);
        wrong[at] = byte;
        m.bytes(CONFIG, &wrong);
        assert_eq!(ends(&mut m, |a| a.ldtilecfg(ptr(CONFIG))), 13, "byte {at}");
    }
    assert_eq!(ends(&mut m, |a| a.sttilecfg(ptr(STORED))), 0);
    assert_eq!(bytes(&m, STORED, 64), config(&[(16, 64); 8]));
    // With palette 0 nothing else is looked at, and there are no tiles.
    m.bytes(CONFIG, &[0, 9]);
    assert_eq!(ends(&mut m, |a| a.ldtilecfg(ptr(CONFIG))), 0);
    assert_eq!(ends(&mut m, |a| a.sttilecfg(ptr(STORED))), 0);
    assert_eq!(bytes(&m, STORED, 64), [0; 64]);
    assert_eq!(ends(&mut m, |a| a.tilezero(tmm0)), 6);
}

#[test]
fn transfers_move_the_shape_only() {
    let mut m = long();
    m.bytes(CONFIG, &config(&[(3, 20)]));
    let vector = ends(&mut m, |a| {
        a.ldtilecfg(ptr(CONFIG))?;
        a.mov(rbx, FROM)?;
        a.mov(rcx, 0x80u64)?;
        a.tileloadd(tmm0, ptr(rbx + rcx * 2 + 4))?;
        a.mov(rbx, TO)?;
        a.tilestored(ptr(rbx + rcx), tmm0)
    });
    assert_eq!(vector, 0);
    for row in 0..4u64 {
        let stored = bytes(&m, TO + row * 0x80, 24);
        let mut loaded = bytes(&m, FROM + 4 + row * 0x100, 24);
        loaded[20..].fill(0);
        if row == 3 {
            loaded.fill(0);
        }
        assert_eq!(stored, loaded, "row {row}");
    }
    assert_eq!(m.state().tiles.row(0, 0)[20..], [0; 44]);
    assert_eq!(m.state().tiles.row(0, 3), [0; 64]);
}

#[test]
fn a_transfer_goes_on_at_the_row_that_faulted() {
    let mut m = long();
    let begin = END - 5 * 64 - 32;
    m.bytes(begin, &[7; 5 * 64 + 32]);
    let vector = ends(&mut m, |a| {
        a.ldtilecfg(ptr(CONFIG))?;
        a.mov(rcx, 64u64)?;
        a.mov(rbx, begin)?;
        a.tileloadd(tmm2, ptr(rbx + rcx))
    });
    assert_eq!(vector, 14);
    let tiles = &m.state().tiles;
    assert_eq!(tiles.config().start_row(), 5);
    assert_eq!((tiles.row(2, 4), tiles.row(2, 5)), ([7; 64], [0; 64]));
    // Now the rest is elsewhere.
    let vector = ends(&mut m, |a| {
        a.mov(rbx, FROM)?;
        a.tileloadd(tmm2, ptr(rbx + rcx))
    });
    assert_eq!(vector, 0);
    let expected = bytes(&m, FROM + 5 * 64, 64);
    let tiles = &m.state().tiles;
    assert_eq!(tiles.config().start_row(), 0);
    assert_eq!(tiles.row(2, 4), [7; 64]);
    assert_eq!(tiles.row(2, 5)[..], expected[..]);
    // A store leaves the row that faults alone.
    let vector = ends(&mut m, |a| {
        a.mov(rbx, begin)?;
        a.tilestored(ptr(rbx + rcx), tmm2)
    });
    assert_eq!(vector, 14);
    assert_eq!(m.state().tiles.config().start_row(), 5);
    assert_eq!(bytes(&m, END - 32, 32), [7; 32]);
}

#[test]
fn transfers_begin_inside_of_the_tile() {
    let mut m = long();
    m.state().gpr[RBX] = FROM;
    let mut started = config(&[(4, 64), (4, 62)]);
    started[1] = 4;
    m.bytes(CONFIG, &started);
    assert_eq!(ends(&mut m, |a| a.ldtilecfg(ptr(CONFIG))), 0);
    assert_eq!(ends(&mut m, |a| a.tileloadd(tmm0, ptr(rbx + rcx))), 6);
    assert_eq!(ends(&mut m, |a| a.tilestored(ptr(rbx + rcx), tmm0)), 6);
    assert_eq!(ends(&mut m, |a| a.tilezero(tmm0)), 0);
    assert_eq!(ends(&mut m, |a| a.tileloadd(tmm0, ptr(rbx + rcx))), 0);
    // Not a whole number of elements.
    assert_eq!(ends(&mut m, |a| a.tileloadd(tmm1, ptr(rbx + rcx))), 6);
    assert_eq!(ends(&mut m, |a| a.tilezero(tmm1)), 0);
    // An address that is not canonical.
    m.state().gpr[RBX] = 1 << 47;
    assert_eq!(ends(&mut m, |a| a.tileloadd(tmm0, ptr(rbx + rcx))), 13);
}

#[test]
fn factors_come_in_their_order_and_must_fit() {
    let mut m = long();
    m.bytes(CONFIG, &config(&[(1, 4), (1, 4), (1, 4), (2, 4), (1, 8), (1, 4)]));
    // A is -1 or 255 four times, B the same.
    m.bytes(FROM, &[0xff; 64]);
    let vector = ends(&mut m, |a| {
        a.ldtilecfg(ptr(CONFIG))?;
        a.mov(rbx, FROM)?;
        a.tileloadd(tmm1, ptr(rbx))?;
        a.tileloadd(tmm2, ptr(rbx))?;
        a.mov(rbx, TO)?;
        a.tdpbsud(tmm0, tmm1, tmm2)?;
        a.tilestored(ptr(rbx), tmm0)?;
        a.tilezero(tmm0)?;
        a.add(rbx, 4)?;
        a.tdpbuud(tmm0, tmm1, tmm2)?;
        a.tilestored(ptr(rbx), tmm0)?;
        // Twice 1 and twice 2.
        a.mov(dword_ptr(FROM), 0x0102_0102)?;
        a.mov(rcx, FROM)?;
        a.tileloadd(tmm2, ptr(rcx))?;
        a.tilezero(tmm0)?;
        a.add(rbx, 4)?;
        a.tdpbusd(tmm0, tmm2, tmm1)?;
        a.tilestored(ptr(rbx), tmm0)
    });
    assert_eq!(vector, 0);
    let sums: Vec<i32> = m.words(TO, 4, 3).iter().map(|word| *word as i32).collect();
    assert_eq!(sums, [-4 * 255, 4 * 255 * 255, -6]);
    let misfits: [Build; 4] = [
        |a| a.tdpbssd(tmm3, tmm1, tmm2),
        |a| a.tdpbssd(tmm0, tmm3, tmm2),
        |a| a.tdpbssd(tmm0, tmm1, tmm4),
        |a| a.tdpbssd(tmm0, tmm1, tmm6),
    ];
    for build in misfits {
        assert_eq!(ends(&mut m, build), 6);
    }
    assert_eq!(ends(&mut m, |a| a.tdpbssd(tmm0, tmm1, tmm5)), 0);
}

/// XSAVE areas.
const AREA: u64 = 0x4_0000;
const BV: u64 = AREA + 512;

#[test]
fn unused_and_disabled_data_is_not_saved() {
    let mut m = long();
    let save: Build = |a| {
        a.mov(eax, (XTILECFG | XTILEDATA) as u32)?;
        a.xor(edx, edx)?;
        a.xsavec(ptr(AREA))
    };
    m.state().gpr[RBX] = FROM;
    let format = 1 << 63 | XTILECFG | XTILEDATA;
    let mut check = |build: Build, xfd: u64, present: u64| {
        assert_eq!(ends(&mut m, build), 0);
        m.state().msr.xfd = xfd;
        assert_eq!(ends(&mut m, save), 0);
        assert_eq!(m.words(BV, 8, 2), [present, format]);
        m.state().msr.xfd = 0;
    };
    check(|a| a.tilerelease(), 0, 0);
    check(|a| a.ldtilecfg(ptr(CONFIG)), 0, XTILECFG);
    check(|a| a.tileloadd(tmm0, ptr(rbx + rcx)), 0, XTILECFG | XTILEDATA);
    check(|a| a.nop(), XTILEDATA, XTILECFG);
    check(|a| a.tilezero(tmm0), 0, XTILECFG | XTILEDATA);
    check(|a| a.tilerelease(), 0, 0);
}

#[test]
fn state_comes_back_in_both_formats() {
    for compact in [false, true] {
        let mut m = long();
        m.state().xcr0 |= 4;
        let vector = ends(&mut m, |a| {
            a.ldtilecfg(ptr(CONFIG))?;
            a.mov(rbx, FROM)?;
            a.mov(rcx, 64u64)?;
            a.tileloadd(tmm7, ptr(rbx + rcx))?;
            a.mov(eax, -1)?;
            a.mov(edx, eax)?;
            if compact {
                a.xsavec(ptr(AREA))?;
            } else {
                a.xsave(ptr(AREA))?;
            }
            a.tilerelease()?;
            a.xrstor(ptr(AREA))?;
            a.mov(rbx, TO)?;
            a.tilestored(ptr(rbx + rcx), tmm7)
        });
        assert_eq!(vector, 0);
        assert_eq!(bytes(&m, TO, 1024), bytes(&m, FROM, 1024));
        // Beside 256 bytes of AVX the components are lined up already.
        let data = if compact { 576 + 256 + 64 } else { 2816 };
        assert_eq!(bytes(&m, AREA + data + 7 * 1024, 64), bytes(&m, FROM, 64));
        // Loading what is disabled faults; clearing it does not.
        m.state().msr.xfd = XTILEDATA;
        assert_eq!(ends(&mut m, |a| a.xrstor(ptr(AREA))), 7);
        assert_eq!(m.state().msr.xfd_err, XTILEDATA);
        assert!(m.state().tiles.has_data());
        let present = m.words(BV, 8, 1)[0];
        m.world.poke64(BV, present & !XTILEDATA);
        assert_eq!(ends(&mut m, |a| a.xrstor(ptr(AREA))), 0);
        assert!(!m.state().tiles.has_data());
    }
}

#[test]
fn an_invalid_configuration_is_restored_as_none() {
    let mut m = long();
    m.bytes(AREA + 2752, &[9; 64]);
    m.world.poke64(BV, XTILECFG | XTILEDATA);
    let vector = ends(&mut m, |a| {
        a.mov(eax, -1)?;
        a.mov(edx, eax)?;
        a.xrstor(ptr(AREA))?;
        a.mov(ecx, 1)?;
        a.sttilecfg(ptr(STORED))
    });
    assert_eq!(vector, 0);
    assert_eq!(bytes(&m, STORED, 64), [0; 64]);
    assert!(m.state().tiles.has_data(), "whatever it is");
}
