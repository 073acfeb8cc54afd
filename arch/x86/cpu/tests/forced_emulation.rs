//! The prefix for forced emulation: UD2 and "kvm" before an instruction, where it is known.

mod machine;

use machine::*;
use ring3_x86_cpu::core::Prefix;
use ring3_x86_cpu::state::*;

const PREFIX: [u8; 5] = *b"\x0f\x0bkvm";

/// Code at `at`, #UD and #PF that halt at 5000 and 5100, #DB at 5200.
fn machine(at: u64, prefix: Prefix, code: &[&[u8]]) -> Machine {
    let mut m = Machine::long();
    m.cpu.core.forced_emulation = prefix;
    for (vector, place) in [(6, 0x5000), (14, 0x5100), (1, 0x5200)] {
        m.vector64(vector, place, 0x8e, 0);
        m.code(64, place, |a| a.hlt());
    }
    m.bytes(at, &code.concat());
    m.state().rip = at;
    m
}

/// MOV RAX, [address]; its RIP-relative form finds `address` from wherever it is.
fn load(at: u64, address: u64) -> Vec<u8> {
    let mut bytes = vec![0x48, 0x8b, 0x05];
    let next = at + PREFIX.len() as u64 + 7;
    bytes.extend((address.wrapping_sub(next) as u32).to_le_bytes());
    bytes
}

#[test]
fn it_is_an_undefined_instruction_unless_it_is_known() {
    let mut m = machine(0x1000, Prefix::Undefined, &[&PREFIX, &[0x90, 0xf4]]);
    m.halt();
    assert_eq!(m.state().rip, 0x5001);
    let rsp = m.state().gpr[RSP];
    assert_eq!(m.words(rsp, 8, 1), [0x1000]);
}

#[test]
fn what_is_behind_it_is_executed_also_across_pages() {
    for at in (0x1ff0..0x2000).chain([0x1000]) {
        let at = at + 0x10_000;
        let mut m = machine(at, Prefix::Skipped, &[&PREFIX, &load(at, 0x6000), &[0xf4]]);
        m.world.poke64(0x6000, 0x1234);
        m.halt();
        assert_eq!(m.state().gpr[RAX], 0x1234, "{at:#x}");
        assert_eq!(m.state().rip, at + 5 + 7 + 1);
    }
}

#[test]
fn a_jump_behind_it_is_relative_to_its_own_end() {
    let mut m = machine(0x1000, Prefix::Skipped, &[&PREFIX, &[0xeb, 1], &[0xcc, 0xf4]]);
    m.halt();
    assert_eq!(m.state().rip, 0x1009);
}

#[test]
fn plain_ud2_stays_what_it_is() {
    for tail in [&b"kv"[..], b"kvn", b""] {
        let mut m = machine(0x1000, Prefix::Skipped, &[&[0x0f, 0x0b], tail]);
        m.halt();
        assert_eq!(m.state().rip, 0x5001);
    }
}

#[test]
fn a_fault_is_the_instructions_own() {
    let mut m = machine(0x1000, Prefix::Skipped, &[&PREFIX, &load(0x1000, 0x4000_0000)]);
    m.halt();
    assert_eq!(m.state().rip, 0x5101);
    let rsp = m.state().gpr[RSP];
    assert_eq!(m.words(rsp, 8, 2)[1], 0x1005, "behind the error code");
}

#[test]
fn a_single_step_is_over_both() {
    let mut m = machine(0x1000, Prefix::Skipped, &[&PREFIX, &[0x90], &[0xf4]]);
    m.state().set_rflags(flags::TF);
    m.halt();
    let rsp = m.state().gpr[RSP];
    assert_eq!(m.words(rsp, 8, 1), [0x1006]);
}
