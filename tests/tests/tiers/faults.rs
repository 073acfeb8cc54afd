//! Faults of memory operands, in every position: RIP, registers, all six arithmetic flags, CR2 and the error code are
//! exactly those of the instruction, though others of its block come before and behind it.

mod rows;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Machine, Trap, assemble, on_every_tier};
use ring3_x86_cpu::state::*;
use rows::{ROWS, Row, Touch, Where};

/// Three pages: a writable one, an absent one, a read-only one; and a writable one before another that is read-only.
const WINDOW: u64 = 0x80_0000_0000;
const ABSENT: u64 = WINDOW + PAGE;
const READ_ONLY: u64 = WINDOW + 2 * PAGE;
const BEFORE: u64 = WINDOW + 8 * PAGE;
const FRAMES: u64 = 0x20_0000;
/// A place that is neither canonical nor near to any that is.
const NOWHERE: u64 = 0x1234_0000_0000_0000;
/// Eight bytes apart, where the pointers of a loop lie.
const POINTERS: u64 = 0x9000;
const GOOD_STACK: u64 = 0xf000;
const ROUNDS: u64 = 18;
/// Room for each program.
const ROOM: u64 = 0x180;
const STATUS: u64 = 0x8d5;

/// What registers hold before the instruction, but for RDI, which is the pointer, and those that the row asks for.
const VALUES: [(usize, u64); 11] = [
    (RAX, 0x7f),
    (RCX, 1),
    (RDX, 5),
    (RBX, 0x1122_3344_5566_7788),
    (RSI, 0x9800),
    (RBP, 0x9900),
    (8, 0x8888),
    (9, 0x9999_9999_9999),
    (10, !0),
    (13, 0xdddd),
    (15, 0xffff),
];

/// An addition to AL, which is 7FH: its operand and what flags come of it.
const ADDED: [(i32, u64); 3] = [
    // OF, SF, AF
    (1, 0x890),
    // CF, ZF, PF, AF
    (0x81, 0x55),
    // PF, SF
    (0x80, 0x84),
];

/// Where the memory operand lies, and what comes of it.
#[derive(Clone, Copy, Debug)]
struct Scene {
    pointer: u64,
    vector: u64,
    error: u64,
    cr2: u64,
}

/// The places where the row's instruction must fault.
fn scenes(row: &Row) -> Vec<Scene> {
    let write = u64::from(row.touch != Touch::Read) * 2;
    let page_fault = |pointer, address, present| Scene {
        pointer,
        vector: 14,
        error: write | present,
        cr2: address,
    };
    let mut scenes = vec![page_fault(ABSENT + 0x100, ABSENT + 0x100, 0)];
    if row.touch != Touch::Read {
        scenes.push(page_fault(READ_ONLY + 0x100, READ_ONLY + 0x100, 1));
    }
    let half = row.size / 2;
    if half > 0 && !row.aligned {
        scenes.push(page_fault(ABSENT - half, ABSENT, 0));
        if row.touch != Touch::Read {
            scenes.push(page_fault(BEFORE + PAGE - half, BEFORE + PAGE, 1));
        }
    }
    let stack = matches!(row.place, Where::Top | Where::Below | Where::Frame);
    scenes.push(Scene {
        pointer: NOWHERE,
        vector: if stack { 12 } else { 13 },
        error: 0,
        cr2: 0,
    });
    scenes
}

/// What the row's registers hold, with the operand at `pointer`.
fn registers(row: &Row, pointer: u64, sum: u64) -> [u64; 16] {
    let mut gpr = [0; 16];
    for (register, value) in VALUES {
        gpr[register] = value;
    }
    gpr[RAX] = sum;
    gpr[RSP] = GOOD_STACK;
    gpr[RDI] = pointer;
    match row.place {
        Where::Destination => {}
        Where::Source => (gpr[RSI], gpr[RDI]) = (pointer, 0x9800),
        Where::Frame => gpr[RBP] = pointer,
        Where::Top => gpr[RSP] = pointer,
        Where::Below => gpr[RSP] = pointer.wrapping_add(row.size),
    }
    gpr
}

/// A loop whose pointers are good until the last. Returns where the row's instruction lies.
fn put(m: &mut Machine, at: u64, row: &Row, added: i32) -> u64 {
    let build = |a: &mut CodeAssembler| -> Result<u64, IcedError> {
        let mut top = a.create_label();
        a.mov(r14d, ROUNDS as u32)?;
        a.set_label(&mut top)?;
        a.mov(rdi, qword_ptr(r14 * 8 + POINTERS))?;
        let names = [rax, rcx, rdx, rbx, rsi, rbp, r8, r9, r10, r13, r15];
        for (name, (_, value)) in names.into_iter().zip(VALUES) {
            a.mov(name, value)?;
        }
        a.mov(esp, GOOD_STACK as u32)?;
        match row.place {
            Where::Destination => {}
            Where::Source => {
                a.mov(rsi, rdi)?;
                a.mov(edi, 0x9800)?;
            }
            Where::Frame => a.mov(rbp, rdi)?,
            Where::Top => a.mov(rsp, rdi)?,
            Where::Below => a.lea(rsp, ptr(rdi + row.size as i32))?,
        }
        a.movd(xmm0, edx)?;
        a.add(al, added)?;
        let before = a.instructions().len() as u64;
        (row.build)(a)?;
        // What comes behind changes flags and registers.
        a.xor(eax, eax)?;
        a.mov(rdx, rax)?;
        a.dec(r14)?;
        a.jne(top)?;
        a.sub(rbx, rbx)?;
        a.hlt()?;
        Ok(before)
    };
    let mut before = 0;
    let code = assemble(at, |a| {
        before = build(a)?;
        Ok(())
    });
    m.world.poke(at, &code);
    offset(&code, at, before)
}

/// The address of instruction number `n`.
fn offset(code: &[u8], at: u64, n: u64) -> u64 {
    let mut decoder = iced_x86::Decoder::with_ip(64, code, at, iced_x86::DecoderOptions::NONE);
    for _ in 0..n {
        let _ = decoder.decode();
    }
    decoder.ip()
}

fn one(m: &mut Machine, at: u64, row: &Row, scene: &Scene, added: (i32, u64)) {
    let good = WINDOW + 0x400;
    for n in 2..=ROUNDS {
        m.world.put(POINTERS + 8 * n, good);
    }
    m.world.put(POINTERS + 8, scene.pointer);
    let rip = put(m, at, row, added.0);
    // What branches find leads to the instruction behind.
    let length = iced_x86::Decoder::with_ip(64, &bytes(m, rip), rip, 0)
        .decode()
        .len() as u64;
    for place in [good, 0x9800] {
        m.world.put(FRAMES + (place & 0xfff), rip + length);
    }
    m.world.put(0x9800, rip + length);
    *m.state().vector = Default::default();
    m.supervisor(at);
    println!("{}: {scene:x?}", row.name);
    let trap = m.trap();
    let expected = Trap {
        vector: scene.vector,
        error: scene.error,
        cr2: scene.cr2,
        rip,
        rflags: added.1,
        rsp: registers(row, scene.pointer, 0)[RSP],
        cs: CODE0.into(),
    };
    let found = Trap {
        rflags: trap.rflags & STATUS,
        ..trap
    };
    assert_eq!(found, expected, "{}: {scene:x?}", row.name);
    let sum = 0x7fu8.wrapping_add(added.0 as u8).into();
    let mut gpr = registers(row, scene.pointer, sum);
    // The exception has switched stacks.
    (gpr[14], gpr[RSP]) = (1, m.gpr(RSP));
    assert_eq!(m.state().gpr[..16], gpr, "{}: {scene:x?}", row.name);
}

fn bytes(m: &Machine, at: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    m.world.peek(at, &mut bytes);
    bytes
}

fn map(m: &mut Machine) {
    m.map(WINDOW, FRAMES, P | W, Size::Small);
    m.map(READ_ONLY, FRAMES + PAGE, P, Size::Small);
    m.map(BEFORE, FRAMES + 2 * PAGE, P | W, Size::Small);
    m.map(BEFORE + PAGE, FRAMES + 3 * PAGE, P, Size::Small);
}

/// All rows whose instruction touches memory so.
fn all(touch: Touch) {
    on_every_tier(|m| {
        map(m);
        let mut at = START;
        for row in ROWS.iter().filter(|row| row.touch == touch) {
            for (n, scene) in scenes(row).iter().enumerate() {
                one(m, at, row, scene, ADDED[n % ADDED.len()]);
                at += ROOM;
            }
        }
        assert!(at < TABLES, "the programs do not fit");
    });
}

#[test]
fn of_reads() {
    all(Touch::Read);
}

#[test]
fn of_writes() {
    all(Touch::Write);
}

#[test]
fn of_what_is_read_and_written() {
    all(Touch::Both);
}

#[test]
fn every_flag_survives() {
    // The flags behind each addition, at a load, a store and a change in place.
    let names = ["mov from", "mov to", "add to", "push", "ret"];
    on_every_tier(|m| {
        map(m);
        let mut at = START;
        for row in ROWS.iter().filter(|row| names.contains(&row.name)) {
            for added in ADDED {
                for scene in scenes(row) {
                    one(m, at, row, &scene, added);
                    at += ROOM;
                }
            }
        }
    });
}
