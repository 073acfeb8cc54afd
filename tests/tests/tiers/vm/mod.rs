//! The same questions asked of a whole VM, through the client's interface: memory that the client changes, other
//! processors, signals, debuggers.
//!
//! The engine is the one that clients get; [`the_interpreter_alone`] runs all of them again without the translator.

mod away;
mod debugger;
mod elsewhere;
mod escape;
mod overwritten;
mod signals;
mod slots;
mod told;
mod two_processors;

use iced_x86::code_asm::*;
use ring3_client::{Vcpu, VcpuExit};
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;
use std::process::Command;

#[test]
fn the_interpreter_alone() {
    let me = std::env::current_exe().expect("a program knows its name");
    let output = Command::new(me)
        .env("RING3_ENGINE", "interpreter")
        .args(["vm::", "--skip", "the_interpreter_alone"])
        .output()
        .expect("the tests can be started again");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Calls between two exits of [`caller`]: hot enough for any translator.
const CALLS: u64 = 40;

/// A guest that calls the function at `at` over and over, and writes the sums to a port.
fn caller(at: u64) -> Guest {
    let mut guest = Guest::new(1);
    guest.code(START, |a| {
        let (mut forever, mut top) = (a.create_label(), a.create_label());
        a.mov(r15, at)?;
        a.set_label(&mut forever)?;
        a.xor(ebx, ebx)?;
        a.mov(ecx, CALLS as u32)?;
        a.set_label(&mut top)?;
        a.call(r15)?;
        a.add(ebx, eax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.mov(eax, ebx)?;
        a.out(0x10, eax)?;
        a.jmp(forever)
    });
    guest
}

/// Runs until the guest writes to a port, and returns what it wrote.
#[track_caller]
fn port(vcpu: &Vcpu) -> u64 {
    let left = vcpu.run();
    let Ok(VcpuExit::IoOut(io)) = left else {
        let rip = vcpu.get_regs().expect("KVM_GET_REGS").rip;
        panic!("{left:?} at {rip:#x}")
    };
    let mut bytes = [0; 8];
    let data = vcpu.port_data(&io);
    bytes[..data.len()].copy_from_slice(&data);
    u64::from_le_bytes(bytes)
}
