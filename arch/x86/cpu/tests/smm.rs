//! System management mode: what an SMI saves and RSM loads, in each mode of operation.

mod machine;

use machine::{CODE3, Machine};
use ring3_x86_cpu::state::*;
use ring3_x86_cpu::{Leave, NoSaveArea, State, Vector};
use std::sync::atomic::AtomicU32;

const BASE: u64 = 0x4_0000;
const PROGRAM: u64 = 0x1000;

/// A machine whose SMRAM is at [`BASE`], with this handler there.
fn with_handler(mut machine: Machine, handler: &[u8]) -> Machine {
    machine.state().smm.base = BASE;
    machine.bytes(BASE + 0x8000, handler);
    machine
}

fn with_long_mode(mut machine: Machine) -> Machine {
    machine.world.cpuid.insert(0x8000_0000, [0x8000_0008, 0, 0, 0]);
    let features = 1 << 29 | 1 << 20 | 1 << 11;
    machine.world.cpuid.insert(0x8000_0001, [0, 0, 0, features]);
    machine
}

fn smi(machine: &mut Machine) {
    machine.cpu.enter_smm(&mut machine.world).unwrap();
}

fn field(machine: &Machine, at: u64, size: usize) -> u64 {
    machine.words(BASE + at, size, 1)[0]
}

/// What must come back unchanged.
fn summary(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    let registers = [
        state.rip,
        state.rflags(),
        state.cr0,
        state.cr3,
        state.cr4,
        state.efer,
        state.dr6,
        state.dr7,
        state.smm.base,
    ];
    let mut gpr = [0; 16];
    gpr.copy_from_slice(&state.gpr[..16]);
    let tables = (state.ldtr, state.tr, state.gdtr, state.idtr);
    (registers, gpr, state.seg, tables, state.interruptibility)
}

/// Fills the registers that no mode fixes.
fn fill(state: &mut State) {
    for n in 0..8 {
        state.gpr[n] = 0x1111_1111 * (n as u64 + 1);
    }
    state.rip = PROGRAM;
    state.gpr[RSP] = 0x8000;
    state.dr6 = DR6_FIXED | 3;
    state.set_rflags(flags::IF | flags::CF | flags::DF);
}

const RSM: [u8; 2] = [0x0f, 0xaa];

fn comes_back(mut machine: Machine, more: impl FnOnce(&mut State)) {
    fill(machine.state());
    more(machine.state());
    machine.cpu.core.refresh();
    let before = summary(machine.state());
    smi(&mut machine);
    let state = machine.state();
    assert!(state.smm.active && state.interruptibility.nmi_blocked);
    assert_eq!((state.rip, state.rflags()), (0x8000, 2));
    assert_eq!(
        (state.seg[CS].base, state.seg[CS].selector),
        (BASE, (BASE >> 4) as u16)
    );
    assert_eq!((state.seg[DS].base, state.seg[DS].limit), (0, u32::MAX));
    assert_eq!(state.cr0 & (CR0_PE | CR0_PG), 0);
    assert_eq!((state.idtr.limit, state.cr4, state.dr7), (0, 0, DR7_FIXED));
    assert_eq!(machine.run(), Leave::Resumed);
    assert!(!machine.state().smm.active);
    assert_eq!(summary(machine.state()), before);
}

/// The handler changes what a handler may, all of which must be gone.
const SPOILER: [u8; 14] = [
    0x66, 0x31, 0xc0, // xor eax, eax
    0x66, 0x31, 0xe4, // xor esp, esp
    0x8e, 0xd8, // mov ds, ax
    0x0f, 0x22, 0xd8, // mov cr3, eax
    0xfc, // cld
    RSM[0], RSM[1],
];

#[test]
fn real_mode_comes_back() {
    comes_back(with_handler(Machine::real(), &SPOILER), |_| {});
    comes_back(with_long_mode(with_handler(Machine::real(), &SPOILER)), |_| {});
}

#[test]
fn protected_mode_comes_back() {
    comes_back(with_handler(Machine::protected(), &SPOILER), |_| {});
    comes_back(
        with_long_mode(with_handler(Machine::protected(), &SPOILER)),
        |_| {},
    );
}

#[test]
fn virtual_8086_mode_comes_back() {
    let v8086 = |state: &mut State| {
        for seg in 0..6 {
            state.seg[seg] = Segment::real(0x100, 0xf3);
        }
        state.set_rflags(flags::VM | flags::IF);
    };
    comes_back(with_handler(Machine::protected(), &SPOILER), v8086);
}

#[test]
fn long_mode_comes_back() {
    let wide = |state: &mut State| {
        for n in 8..16 {
            state.gpr[n] = 0x1234_5678_9abc_def0 + n as u64;
        }
        state.seg[GS].base = 0xffff_8880_0000_0000;
        state.seg[FS] = Segment::null(0);
    };
    comes_back(with_long_mode(with_handler(Machine::long(), &SPOILER)), wide);
}

#[test]
fn compatibility_mode_and_level_3_come_back() {
    let mut machine = with_long_mode(with_handler(Machine::long(), &SPOILER));
    machine.user(PROGRAM, 0x7000);
    assert_eq!(machine.state().seg[CS].selector, CODE3);
    machine.state().seg[CS].attributes = Attributes(0xc0fb);
    comes_back(machine, |_| {});
}

#[test]
fn pcids_and_page_directory_pointers_come_back() {
    let pcid = |state: &mut State| {
        state.cr4 |= CR4_PCIDE;
        state.cr3 |= 5;
    };
    let mut machine = with_long_mode(with_handler(Machine::long(), &SPOILER));
    machine.world.cpuid.insert(1, [0, 0, 1 << 17, 0]);
    comes_back(machine, pcid);

    let mut machine = with_handler(Machine::protected(), &SPOILER);
    // One gigabyte by pages of 2 MiB: the first is enough.
    machine.world.poke64(0x10_0000, 0x10_1001);
    machine.world.poke64(0x10_1000, 0x83);
    comes_back(machine, |state| {
        state.cr3 = 0x10_0000;
        state.cr4 = CR4_PAE;
        state.cr0 |= CR0_PG;
    });
}

/// The places are those of the manuals, and of every firmware.
#[test]
fn the_save_area_has_the_form_of_the_processor() {
    let mut machine = with_long_mode(with_handler(Machine::long(), &RSM));
    fill(machine.state());
    machine.state().gpr[15] = 0xf0f0;
    machine.state().interruptibility.sti_shadow = true;
    smi(&mut machine);
    let rows = [
        (0xfefc, 4, 0x2_0064),
        (0xff00, 4, BASE),
        (0xff78, 8, PROGRAM),
        (0xff70, 8, 0x603),
        (0xff80, 8, 0xf0f0),
        (0xfff8, 8, 0x1111_1111),
        (0xfff0, 8, 0x2222_2222),
        (0xff50, 8, 0x10_0000),
        (0xfed0, 8, EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE),
        (0xfe10, 2, 8),
        (0xfe12, 2, 0xa09b),
        (0xfe14, 4, 0xffff_ffff),
        (0xfe64, 4, 0xff),
        (0xfe68, 8, machine::GDT),
        (0xfecb, 1, 2),
        (0xfec8, 2, 0),
    ];
    for (at, size, value) in rows {
        assert_eq!(field(&machine, at, size), value, "{at:#x}");
    }

    let mut machine = with_handler(Machine::protected(), &RSM);
    fill(machine.state());
    smi(&mut machine);
    let rows = [
        (0xfefc, 4, 0x2_0000),
        (0xfef8, 4, BASE),
        (0xfff0, 4, PROGRAM),
        (0xfff4, 4, 0x603),
        (0xffd0, 4, 0x1111_1111),
        (0xffec, 4, 0x8888_8888),
        (0xfffc, 4, CR0_PE | CR0_ET | CR0_NE),
        (0xffac, 4, 8),
        (0xff90, 4, 0xc0_9b00),
        (0xff94, 4, 0xffff_ffff),
        (0xff70, 4, 0xff),
        (0xff74, 4, machine::GDT),
        (0xff02, 2, 0),
    ];
    for (at, size, value) in rows {
        assert_eq!(field(&machine, at, size), value, "{at:#x}");
    }
}

/// A handler may move SMRAM, and change what the program finds.
#[test]
fn rsm_takes_what_the_handler_wrote() {
    let mut machine = with_long_mode(with_handler(Machine::long(), &RSM));
    fill(machine.state());
    smi(&mut machine);
    machine.world.poke(BASE + 0xff00, &0x5_0000u32.to_le_bytes());
    machine.world.poke64(BASE + 0xff78, 0x1234);
    machine.world.poke(BASE + 0xfecb, &[1]);
    assert_eq!(machine.run(), Leave::Resumed);
    let state = machine.state();
    assert_eq!((state.smm.base, state.rip), (0x5_0000, 0x1234));
    assert!(state.interruptibility.mov_ss_shadow);
}

#[test]
fn states_that_there_are_not_shut_down() {
    // Where, how wide, and what is wrong.
    let rows: [(u64, u64, &str); 8] = [
        (0xff58, 1 << 31 | 0x10, "paging without protection"),
        (0xff58, 0x8000_0011 | 1 << 40, "CR0 above 32 bits"),
        (0xff58, 0x8000_0011 | CR0_NW, "NW without CD"),
        (0xff48, 0, "long mode without PAE"),
        (0xff48, CR4_PAE | CR4_SMEP, "a bit that CPUID has not"),
        (0xfed0, EFER_LME | EFER_SVME, "a bit of EFER that CPUID has not"),
        (0xff60, 1 << 32, "DR7 above 32 bits"),
        (0xff50, 1 << 60, "CR3 beyond physical memory"),
    ];
    for (at, value, what) in rows {
        let mut machine = with_long_mode(with_handler(Machine::long(), &RSM));
        fill(machine.state());
        smi(&mut machine);
        machine.world.poke64(BASE + at, value);
        assert_eq!(machine.run(), Leave::TripleFault, "{what}");
        assert!(!machine.state().smm.active, "{what}");
    }
}

#[test]
fn rsm_is_unknown_elsewhere() {
    let mut machine = with_handler(Machine::real(), &RSM);
    machine.bytes(PROGRAM, &RSM);
    machine.bytes(0x2000, &[0xf4]);
    machine.world.poke(4 * Vector::UD as u64, &[0x00, 0x20, 0, 0]);
    machine.halt();
    assert_eq!(machine.state().rip, 0x2001);
}

#[test]
fn nmis_that_were_blocked_stay_so() {
    for blocked in [false, true] {
        let mut machine = with_handler(Machine::real(), &RSM);
        machine.state().interruptibility.nmi_blocked = blocked;
        smi(&mut machine);
        assert_eq!(machine.state().smm.inside_nmi, blocked);
        assert!(!machine.cpu.core.accepts_nmi());
        assert_eq!(machine.run(), Leave::Resumed);
        assert_eq!(machine.state().interruptibility.nmi_blocked, blocked);
        assert!(!machine.state().smm.inside_nmi);
    }
}

/// Its segments reach 4 GiB, as no real mode's do after a reset.
#[test]
fn the_handler_reaches_all_of_memory() {
    // mov eax, [dword 100000h]; out 70h, eax; rsm
    let handler = [
        0x67, 0x66, 0x8b, 0x05, 0, 0, 0x10, 0, 0x66, 0xe7, 0x70, RSM[0], RSM[1],
    ];
    let mut machine = with_handler(Machine::real(), &handler);
    machine.world.poke64(0x10_0000, 0xdead_beef);
    smi(&mut machine);
    assert_eq!(machine.run(), Leave::Resumed);
    assert_eq!(machine.world.outputs, [(0x70, 4, 0xdead_beef)]);
}

/// And so does its code: a jump with an operand of 32 bits leads beyond the first 64 KiB of the segment.
#[test]
fn the_handler_goes_on_beyond_64_kib() {
    // mov eax, 20000h; jmp eax
    let handler = [0x66, 0xb8, 0, 0, 2, 0, 0x66, 0xff, 0xe0];
    let mut machine = with_handler(Machine::real(), &handler);
    // There: inc eax; jnz +0; jecxz +0 where ECX is not zero; out 70h, eax; rsm
    let code = [
        0x66, 0x40, 0x66, 0x0f, 0x85, 0, 0, 0, 0, 0x67, 0xe3, 0, 0x66, 0xe7, 0x70, RSM[0], RSM[1],
    ];
    machine.bytes(BASE + 0x2_0000, &code);
    machine.state().gpr[RCX] = 1;
    smi(&mut machine);
    assert_eq!(machine.run(), Leave::Resumed);
    assert_eq!(machine.world.outputs, [(0x70, 4, 0x2_0001)]);
}

#[test]
fn without_memory_for_the_state_there_is_no_way_in() {
    let mut machine = Machine::real();
    machine.state().smm.base = 0x4000_0000;
    let entered = machine.cpu.enter_smm(&mut machine.world);
    assert_eq!(entered, Err(NoSaveArea));
}

/// A step over RSM is over when the program's next instruction is up.
#[test]
fn a_debugger_steps_over_rsm() {
    let mut machine = with_handler(Machine::real(), &RSM);
    machine.cpu.core.debug.single_step = true;
    smi(&mut machine);
    let left = machine.cpu.run(&mut machine.world, &AtomicU32::new(0));
    assert!(
        matches!(left, Leave::Debug { vector: 1, dr6 } if dr6 & DR6_BS != 0),
        "{left:?}"
    );
    assert_eq!(machine.state().rip, PROGRAM);
}
