//! What voids translations and remembered lookups of code, and what does not.

mod machine;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::state::*;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const G: u64 = 0x100;

/// The directory and the table that map from 4 MiB on, in the first address space.
const DIRECTORY: u64 = 0x10_2000;
const TABLE: u64 = 0x10_3000;
/// The page under test, its entry, and the frames it may be mapped to.
const PAGE: u64 = 0x40_0000;
const FRAMES: [u64; 2] = [0x6000, 0x7000];
/// Another page, of data.
const DATA: u64 = PAGE + 0x3000;
/// The roots of the two address spaces, with their PCIDs.
const FIRST: u64 = 0x10_0001;
const SECOND: u64 = 0x10_4002;
/// Bit 63 of a value for CR3.
const KEEP: u64 = 1 << 63;
/// Where a descriptor of INVPCID lies.
const DESCRIPTOR: u64 = 0x7f00;

/// A machine, and where the next piece of code goes: what was executed once is not overwritten behind the processor's back.
struct Spaces {
    machine: Machine,
    next: u64,
}

impl std::ops::Deref for Spaces {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl std::ops::DerefMut for Spaces {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

/// Two address spaces under PCIDs, the first one current. [`PAGE`] is mapped to the first frame in both by `entry`, a
/// function that returns the number of the frame; so is [`DATA`], as it is.
fn machine(entry: u64) -> Spaces {
    let mut m = Machine::long();
    for (root, base) in [(0x10_0000, 0x10_0000), (0x10_4000, 0x10_4000)] {
        m.world.poke64(root, base + 0x1007);
        m.world.poke64(base + 0x1000, base + 0x2007);
        m.world.poke64(base + 0x2000, 0x87);
        m.world.poke64(base + 0x2010, base + 0x3007);
        m.world.poke64(base + 0x3000, FRAMES[0] | entry);
        m.world.poke64(base + 0x3018, 0x8003);
    }
    for (n, frame) in FRAMES.into_iter().enumerate() {
        m.code(64, frame, |a| {
            a.mov(eax, n as u32)?;
            a.ret()
        });
    }
    m.world.cpuid.insert(0, [7, 0, 0, 0]);
    m.world.cpuid.insert(1, [0, 0, 1 << 17, 0]);
    let state = m.state();
    state.cr4 |= CR4_PCIDE | CR4_PGE;
    state.cr3 = FIRST;
    m.cpu.core.refresh();
    m.cpu.core.flush_tlb();
    Spaces {
        machine: m,
        next: 0x1_0000,
    }
}

/// Runs a piece of code.
fn run(m: &mut Spaces, build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    let at = m.next;
    m.next += 0x80;
    m.code(64, at, |a| {
        build(a)?;
        a.hlt()
    });
    m.state().rip = at;
    m.halt();
}

/// What the function at [`PAGE`] returns.
fn call(m: &mut Spaces) -> u64 {
    run(m, |a| {
        a.mov(rbx, PAGE)?;
        a.call(rbx)
    });
    m.state().gpr[RAX]
}

/// The byte at a linear address. The second byte of each frame of [`FRAMES`] is the frame's number.
fn read(m: &mut Spaces, linear: u64) -> u64 {
    run(m, |a| {
        a.mov(rbx, linear)?;
        a.movzx(eax, byte_ptr(rbx))
    });
    m.state().gpr[RAX]
}

fn load_cr3(m: &mut Spaces, value: u64) {
    run(m, |a| {
        a.mov(rsi, value)?;
        a.mov(cr3, rsi)
    });
}

fn invlpg(m: &mut Spaces, linear: u64) {
    run(m, |a| {
        a.mov(rbx, linear)?;
        a.invlpg(ptr(rbx))
    });
}

fn invpcid(m: &mut Spaces, kind: u64, pcid: u64, linear: u64) {
    m.world.poke64(DESCRIPTOR, pcid);
    m.world.poke64(DESCRIPTOR + 8, linear);
    run(m, |a| {
        a.mov(r8, kind)?;
        a.invpcid(r8, xmmword_ptr(DESCRIPTOR))
    });
}

/// Turns CR4.PGE over and back.
fn toggle_pge(m: &mut Spaces) {
    run(m, |a| {
        a.mov(rax, cr4)?;
        a.btc(rax, 7)?;
        a.mov(cr4, rax)?;
        a.btc(rax, 7)?;
        a.mov(cr4, rax)
    });
}

fn epochs(m: &Spaces) -> (u64, u64) {
    (m.cpu.core.epoch, m.cpu.core.global_epoch)
}

/// Maps [`PAGE`] to the second frame, in both address spaces, without telling the processor.
fn remap(m: &mut Spaces, entry: u64) {
    m.world.poke64(TABLE, FRAMES[1] | entry);
    m.world.poke64(TABLE + 0x4000, FRAMES[1] | entry);
}

#[test]
fn new_code_is_found_after_whatever_voids_its_page() {
    type Void = fn(&mut Spaces);
    let local: [(&str, Void); 8] = [
        ("INVLPG", |m| invlpg(m, PAGE + 0x123)),
        ("MOV to CR3", |m| load_cr3(m, FIRST)),
        ("INVPCID of the address", |m| invpcid(m, 0, 1, PAGE)),
        ("INVPCID of the PCID", |m| invpcid(m, 1, 1, 0)),
        ("INVPCID of all", |m| invpcid(m, 2, 0, 0)),
        ("INVPCID of all but global ones", |m| invpcid(m, 3, 0, 0)),
        ("CR4.PGE", toggle_pge),
        ("the client", |m| m.cpu.core.flush_tlb()),
    ];
    for (name, void) in local {
        let mut m = machine(P);
        assert_eq!(call(&mut m), 0);
        remap(&mut m, P);
        void(&mut m);
        assert_eq!(call(&mut m), 1, "{name}");
    }
    let global: [(&str, Void); 4] = [
        ("INVLPG", |m| invlpg(m, PAGE)),
        ("INVPCID of all", |m| invpcid(m, 2, 0, 0)),
        ("CR4.PGE", toggle_pge),
        ("the client", |m| m.cpu.core.flush_tlb()),
    ];
    for (name, void) in global {
        // Found in both address spaces, and voided in the second.
        let mut m = machine(P | G);
        assert_eq!(call(&mut m), 0);
        load_cr3(&mut m, SECOND);
        assert_eq!(call(&mut m), 0);
        remap(&mut m, P | G);
        void(&mut m);
        assert_eq!(call(&mut m), 1, "{name}");
        load_cr3(&mut m, FIRST | KEEP);
        assert_eq!(call(&mut m), 1, "{name}, the other address space");
    }
}

#[test]
fn an_address_space_kept_has_its_epoch_again() {
    let mut m = machine(P);
    call(&mut m);
    let (first, global) = epochs(&m);
    load_cr3(&mut m, SECOND);
    call(&mut m);
    let (second, _) = epochs(&m);
    assert_ne!(first, second);
    load_cr3(&mut m, FIRST | KEEP);
    assert_eq!(epochs(&m), (first, global));
    load_cr3(&mut m, SECOND | KEEP);
    assert_eq!(epochs(&m), (second, global));
    load_cr3(&mut m, FIRST);
    let (flushed, after) = epochs(&m);
    assert!(flushed != first && flushed != second);
    assert_eq!(after, global, "what is global outlasts changes of CR3");
}

#[test]
fn an_epoch_ends_with_a_page_that_code_was_fetched_from_and_no_other() {
    let mut m = machine(P);
    call(&mut m);
    read(&mut m, DATA);
    let before = epochs(&m);
    invlpg(&mut m, DATA);
    invpcid(&mut m, 0, 1, DATA);
    assert_eq!(epochs(&m), before);
    invlpg(&mut m, PAGE);
    let after = epochs(&m);
    assert!(after.0 != before.0 && after.1 == before.1);
    // It was not looked up again.
    invlpg(&mut m, PAGE);
    assert_eq!(epochs(&m), after);

    let mut m = machine(P | G);
    call(&mut m);
    let before = epochs(&m);
    invlpg(&mut m, PAGE);
    let after = epochs(&m);
    assert!(after.0 != before.0 && after.1 != before.1);
}

#[test]
fn epochs_of_other_address_spaces_end_when_they_are_named() {
    for (kind, linear, ends) in [(0, PAGE, true), (0, PAGE + 0x5000, false), (1, 0, true)] {
        let mut m = machine(P);
        call(&mut m);
        let (first, _) = epochs(&m);
        load_cr3(&mut m, SECOND);
        let second = epochs(&m);
        invpcid(&mut m, kind, 1, linear);
        assert_eq!(epochs(&m), second);
        load_cr3(&mut m, FIRST | KEEP);
        assert_eq!(epochs(&m).0 != first, ends, "type {kind}, {linear:#x}");
    }
}

#[test]
fn global_code_is_told_from_other_code() {
    for (entry, pge, expected) in [
        (P, true, false),
        (P | G, true, true),
        (P | U | G, true, true),
        (P | G, false, false),
    ] {
        let mut m = machine(entry | W);
        if !pge {
            m.state().cr4 &= !CR4_PGE;
        }
        assert!(!m.cpu.core.is_global_code(PAGE), "not fetched yet");
        call(&mut m);
        assert_eq!(m.cpu.core.is_global_code(PAGE + 5), expected, "{entry:#x}, {pge}");
        m.cpu.core.flush_tlb();
        assert!(!m.cpu.core.is_global_code(PAGE));
    }
}

#[test]
fn a_pcid_that_the_client_sets_has_no_other_ones_translations() {
    let mut m = machine(P);
    remap(&mut m, P);
    m.world.poke64(TABLE, FRAMES[0] | P);
    // The second address space comes by the client, and is entered under the first one's slot.
    m.state().cr3 = SECOND;
    m.cpu.core.refresh();
    m.cpu.core.flush_tlb();
    assert_eq!(call(&mut m), 1);
    load_cr3(&mut m, FIRST | KEEP);
    assert_eq!(call(&mut m), 0);
}

#[test]
fn a_directory_entry_that_changed_is_seen_after_invlpg() {
    let mut m = machine(P);
    assert_eq!(call(&mut m), 0);
    m.world.poke64(0x10_8000, FRAMES[1] | P);
    m.world.poke64(DIRECTORY + 0x10, 0x10_8007);
    invlpg(&mut m, PAGE);
    assert_eq!(call(&mut m), 1);
}

#[test]
fn an_entry_for_data_is_kept_or_voided_as_the_manual_says() {
    type Void = fn(&mut Spaces);
    // Whether a translation outlasts it: one of the address space, and a global one.
    let rows: [(&str, Void, [bool; 2]); 11] = [
        ("nothing", |_| (), [true, true]),
        ("MOV to CR3", |m| load_cr3(m, FIRST), [false, true]),
        ("MOV to CR3, kept", |m| load_cr3(m, FIRST | KEEP), [true, true]),
        ("INVLPG", |m| invlpg(m, PAGE), [false, false]),
        ("INVLPG of another page", |m| invlpg(m, DATA), [true, true]),
        ("INVPCID 0", |m| invpcid(m, 0, 1, PAGE), [false, true]),
        (
            "INVPCID 0 of another PCID",
            |m| invpcid(m, 0, 2, PAGE),
            [true, true],
        ),
        ("INVPCID 1", |m| invpcid(m, 1, 1, 0), [false, true]),
        ("INVPCID 2", |m| invpcid(m, 2, 0, 0), [false, false]),
        ("INVPCID 3", |m| invpcid(m, 3, 0, 0), [false, true]),
        ("CR4.PGE", toggle_pge, [false, false]),
    ];
    for (name, void, kept) in rows {
        for (bits, kept) in [P, P | G].into_iter().zip(kept) {
            let mut m = machine(bits);
            assert_eq!(read(&mut m, PAGE + 1), 0);
            remap(&mut m, bits);
            void(&mut m);
            assert_eq!(read(&mut m, PAGE + 1), u64::from(!kept), "{name}, {bits:#x}");
        }
    }
}

#[test]
fn global_translations_serve_every_address_space() {
    let mut m = machine(P | G);
    assert_eq!(read(&mut m, PAGE + 1), 0);
    m.world.poke64(TABLE + 0x4000, 0);
    load_cr3(&mut m, SECOND);
    assert_eq!(read(&mut m, PAGE + 1), 0);
    load_cr3(&mut m, FIRST | KEEP);
    remap(&mut m, P | G);
    invlpg(&mut m, PAGE);
    load_cr3(&mut m, SECOND | KEEP);
    assert_eq!(
        read(&mut m, PAGE + 1),
        1,
        "INVLPG reaches them from any address space"
    );
}

#[test]
fn invpcid_reaches_other_address_spaces() {
    for (kind, linear, expected) in [(0, PAGE, 1), (0, DATA, 0), (1, 0, 1), (3, 0, 1)] {
        let mut m = machine(P);
        assert_eq!(read(&mut m, PAGE + 1), 0);
        remap(&mut m, P);
        load_cr3(&mut m, SECOND);
        invpcid(&mut m, kind, 1, linear);
        load_cr3(&mut m, FIRST | KEEP);
        assert_eq!(read(&mut m, PAGE + 1), expected, "type {kind}, {linear:#x}");
    }
}

/// Where large pages are mapped: by entries of the directory, and by one of the table above it.
const LARGE: [u64; 2] = [0x80_0000, 0xc0_0000];
const HUGE: u64 = 0x4000_0000;
const PS: u64 = 0x80;

#[test]
fn invlpg_of_a_piece_voids_the_large_page_and_no_other() {
    for bits in [P | PS, P | PS | G] {
        let mut m = machine(P);
        let huge = 0x10_1008;
        // What takes their place: tables that map everything to the second frame.
        for page in 0..512 {
            m.world.poke64(0x10_9000 + 8 * page, FRAMES[1] | P);
        }
        m.world.poke64(0x10_a000, 0x10_9003);
        m.world.poke64(huge, bits);
        for at in LARGE {
            m.world.poke64(DIRECTORY + (at >> 21) * 8, bits);
        }
        for at in [LARGE[0], LARGE[1], HUGE] {
            for frame in FRAMES {
                read(&mut m, at + frame);
            }
        }
        m.world.poke64(huge, 0x10_a003);
        for at in LARGE {
            m.world.poke64(DIRECTORY + (at >> 21) * 8, 0x10_9003);
        }
        let numbers = |m: &mut Spaces, at: u64| FRAMES.map(|frame| read(m, at + frame + 1));
        invlpg(&mut m, LARGE[0]);
        assert_eq!(numbers(&mut m, LARGE[0]), [1, 1]);
        assert_eq!(numbers(&mut m, LARGE[1]), [0, 1]);
        assert_eq!(numbers(&mut m, HUGE), [0, 1]);
        invlpg(&mut m, HUGE + FRAMES[1]);
        assert_eq!(numbers(&mut m, LARGE[1]), [0, 1]);
        assert_eq!(numbers(&mut m, HUGE), [1, 1]);
    }
}

#[test]
fn code_in_a_large_page_is_found_anew_after_invlpg_of_another_piece() {
    let mut m = machine(P);
    let entry = DIRECTORY + (LARGE[0] >> 21) * 8;
    m.world.poke64(entry, P | PS);
    let call = |m: &mut Spaces| {
        run(m, |a| {
            a.mov(rbx, LARGE[0] + FRAMES[0])?;
            a.call(rbx)
        });
        m.state().gpr[RAX]
    };
    assert_eq!(call(&mut m), 0);
    let before = epochs(&m);
    for page in 0..512 {
        m.world.poke64(0x10_9000 + 8 * page, FRAMES[1] | P);
    }
    m.world.poke64(entry, 0x10_9003);
    invlpg(&mut m, LARGE[0] + 0x1f_0000);
    assert_ne!(epochs(&m), before);
    assert_eq!(call(&mut m), 1);
}

#[test]
fn pages_that_share_a_place_in_the_table_keep_their_translations() {
    let mut m = machine(P);
    // A page 4 MiB further on, in a table of its own.
    let other = PAGE + 0x40_0000;
    m.world.poke64(DIRECTORY + (other >> 21) * 8, 0x10_9003);
    m.world.poke64(0x10_9000, FRAMES[1] | P);
    assert_eq!(read(&mut m, PAGE + 1), 0);
    assert_eq!(read(&mut m, other + 1), 1);
    remap(&mut m, P);
    assert_eq!(read(&mut m, PAGE + 1), 0);
    read(&mut m, other);
    invlpg(&mut m, PAGE);
    assert_eq!(
        read(&mut m, PAGE + 1),
        1,
        "nor does the second level keep it then"
    );
}

#[test]
fn a_page_fault_voids_what_is_cached_for_its_address() {
    for bits in [P, P | G] {
        let mut m = machine(bits);
        m.vector64(14, 0x5000, 0x8e, 0);
        // The handler maps the page to the second frame, for writing, without INVLPG.
        m.code(64, 0x5000, |a| {
            a.mov(rax, FRAMES[1] | bits | W)?;
            a.mov(qword_ptr(TABLE), rax)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        assert_eq!(call(&mut m), 0);
        assert_eq!(read(&mut m, PAGE + 1), 0);
        run(&mut m, |a| {
            a.mov(rbx, PAGE + 0x800)?;
            a.mov(byte_ptr(rbx), 7)
        });
        assert_eq!(m.words(FRAMES[1] + 0x800, 1, 1), [7]);
        assert_eq!(read(&mut m, PAGE + 1), 1);
        assert_eq!(call(&mut m), 1);
    }
}

#[test]
fn a_page_that_was_read_becomes_dirty_with_the_first_write() {
    const D: u64 = 0x40;
    let mut m = machine(P | W);
    read(&mut m, PAGE);
    assert_eq!(m.words(TABLE, 8, 1)[0] & D, 0);
    run(&mut m, |a| {
        a.mov(rbx, PAGE + 0x800)?;
        a.mov(byte_ptr(rbx), 7)
    });
    assert_eq!(m.words(TABLE, 8, 1)[0] & D, D);
}

#[test]
fn any_invlpg_voids_what_is_cached_of_upper_levels() {
    let mut m = machine(P);
    read(&mut m, PAGE);
    // Another table takes the place of the one that maps the page and the one after it.
    m.world.poke64(0x10_9008, FRAMES[1] | P);
    m.world.poke64(DIRECTORY + (PAGE >> 21) * 8, 0x10_9003);
    invlpg(&mut m, 0x7000_0000);
    assert_eq!(read(&mut m, PAGE + 0x1001), 1);
}

#[test]
fn a_fault_is_never_that_of_a_cached_upper_level() {
    let mut m = machine(P);
    read(&mut m, PAGE);
    // The table that is cached has no page there, the one in memory has.
    m.world.poke64(0x10_9008, FRAMES[1] | P);
    m.world.poke64(DIRECTORY + (PAGE >> 21) * 8, 0x10_9003);
    assert_eq!(read(&mut m, PAGE + 0x1001), 1);
}
