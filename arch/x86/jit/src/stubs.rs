//! The code around all translations: the way in, the ways out, and the call of an operation's handler.
//!
//! Inside, the guest's registers are in the host's, but for RSP, which is in R13, and R13, R14 and R15, which stay in
//! their homes; R14 and R15 are scratch, and RSP is the host's own, a multiple of 16.

use crate::context::*;
use crate::emit::*;

/// Where each piece is.
#[derive(Clone, Copy, Debug)]
pub struct Stubs {
    /// A function of the C ABI that takes the context.
    pub enter: u64,
    /// Jumped to with the guest's RIP in R14.
    pub lookup: u64,
    /// Jumped to with a link's number in R14.
    pub link: u64,
    /// Called with a site's number in R14.
    pub callout: u64,
}

/// The registers that the host's hold, in the order they are saved.
const HELD: [Reg; 13] = [
    RCX,
    RDX,
    RBX,
    RSP,
    RBP,
    RSI,
    RDI,
    Reg(8),
    Reg(9),
    Reg(10),
    Reg(11),
    R12,
    RAX,
];

const CALLEE_SAVED: [u8; 6] = [3, 5, 12, 13, 14, 15];

fn host(guest: Reg) -> Reg {
    if guest == RSP { R13 } else { guest }
}

/// Writes the pieces at `base`; `handler` is what a callout calls, with the context and the site's number.
pub fn write(base: u64, handler: u64) -> (Stubs, Vec<u8>) {
    let mut e = Emitter::new(base);
    let enter = e.here();
    write_enter(&mut e);
    let leave = e.here();
    write_leave(&mut e);
    let save_and_leave = e.here();
    save(&mut e);
    e.jump_to(leave);
    let mut exit = |kind| {
        let at = e.here();
        e.store(EXIT, R14);
        e.constant(R14, kind);
        e.store(EXIT_KIND, R14);
        e.jump_to(save_and_leave);
        at
    };
    let (lookup, link) = (exit(EXIT_LOOKUP), exit(EXIT_LINK));
    let callout = e.here();
    write_callout(&mut e, handler, leave);
    let stubs = Stubs {
        enter: e.address(enter),
        lookup: e.address(lookup),
        link: e.address(link),
        callout: e.address(callout),
    };
    (stubs, e.bytes)
}

fn write_enter(e: &mut Emitter) {
    for reg in CALLEE_SAVED {
        push(e, reg);
    }
    e.lea(RSP, RSP, -8);
    // rdgsbase rax; wrgsbase rdi
    e.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xc8, 0xf3, 0x48, 0x0f, 0xae, 0xdf]);
    e.store(HOST_GS, RAX);
    e.store(HOST_RSP, RSP);
    load(e);
    e.jump_through(ENTRY);
}

fn write_leave(e: &mut Emitter) {
    e.load(RSP, HOST_RSP);
    e.load(RAX, HOST_GS);
    // wrgsbase rax
    e.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xd8]);
    e.lea(RSP, RSP, 8);
    for reg in CALLEE_SAVED.iter().rev() {
        pop(e, *reg);
    }
    e.raw(&[0xc3]);
}

fn write_callout(e: &mut Emitter, handler: u64, leave: At) {
    save(e);
    e.lea(RSP, RSP, -8);
    // rdgsbase rdi
    e.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xcf]);
    e.mov32(RSI, R14);
    e.constant(RAX, handler);
    // call rax; test eax, eax
    e.raw(&[0xff, 0xd0, 0x85, 0xc0]);
    e.lea(RSP, RSP, 8);
    let out = e.jump_if(NE);
    load(e);
    e.raw(&[0xc3]);
    e.bind(out);
    e.jump_to(leave);
}

fn push(e: &mut Emitter, reg: u8) {
    if reg >= 8 {
        e.raw(&[0x41]);
    }
    e.raw(&[0x50 | reg & 7]);
}

fn pop(e: &mut Emitter, reg: u8) {
    if reg >= 8 {
        e.raw(&[0x41]);
    }
    e.raw(&[0x58 | reg & 7]);
}

/// The guest's registers and flags to their homes.
fn save(e: &mut Emitter) {
    for reg in HELD {
        e.store(home(reg), host(reg));
    }
    // pushfq; pop rax
    e.raw(&[0x9c, 0x58]);
    e.store(FLAGS, RAX);
}

/// And back.
fn load(e: &mut Emitter) {
    e.load(RAX, LAHF);
    // OF from AL's lowest bit: 1 + 7FH overflows; then the others from AH.
    e.raw(&[0x04, 0x7f, 0x9e]);
    for reg in HELD {
        e.load(host(reg), home(reg));
    }
}

/// The guest's flags aside, and back: for where the code between changes them. Both leave R14 and R15 alone.
pub fn save_flags(e: &mut Emitter) {
    e.store(SAVED_RAX, RAX);
    // lahf; seto al
    e.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    e.store(SAVED_FLAGS, RAX);
    e.load(RAX, SAVED_RAX);
}

pub fn restore_flags(e: &mut Emitter) {
    e.store(SAVED_RAX, RAX);
    e.load(RAX, SAVED_FLAGS);
    // add al, 7fh; sahf
    e.raw(&[0x04, 0x7f, 0x9e]);
    e.load(RAX, SAVED_RAX);
}
