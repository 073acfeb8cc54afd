//! The code around all translations: the way in, the ways out, the call of an operation's handler, and the vector state's
//! way to the host's registers and back.
//!
//! Inside, the guest's registers are in the host's, but for RSP, which is in R13, and R13, R14 and R15, which stay in
//! their homes; R14 and R15 are scratch, and RSP is the shadow stack's. The vector state is in the host's registers only from
//! the first vector instruction on, and the x87 state likewise ([`crate::x87`]). Where a stub says so, it takes the guest's flags aside ([`ASIDE`]), else in the host's.

use crate::context::*;
use crate::emit::*;
use crate::translate::Touch;
use crate::x87;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};
use ring3_host::native::VectorState;
use std::mem::offset_of;

/// Where each piece is.
#[derive(Clone, Copy, Debug)]
pub struct Stubs {
    /// A function of the C ABI that takes the core. Flags are aside.
    pub enter: u64,
    /// Jumped to with the guest's RIP in R14 and flags aside: leaves.
    pub lookup: u64,
    /// Jumped to with a link's number in R14: leaves; the second with flags aside.
    pub link: u64,
    pub link_aside: u64,
    /// Jumped to with the guest's RIP in R14 and flags aside: looks it up.
    pub dispatch: u64,
    /// As `dispatch`, for a return that was popped from the guest's stack; its site's number is in R15.
    pub return_elsewhere: u64,
    /// As that, for one that the shadow stack has no call for: what lies at its bottom.
    pub return_below: u64,
    /// Called with a site's number in R14; the second with flags aside. They come back in both places.
    pub callout: u64,
    pub callout_aside: u64,
    /// What [`NEED_VECTOR`] holds while the vector state is in memory.
    pub load_vector: u64,
    /// As [`x87::write_load`] says.
    pub load_x87: u64,
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

/// Writes the pieces at `base`; `handler` is what a callout calls, with the core and the site's number.
pub fn write(base: u64, handler: u64) -> Result<(Stubs, Vec<u8>), IcedError> {
    let mut e = Emitter::new(base);
    let enter = e.here();
    write_enter(&mut e);
    let leave = e.here();
    write_leave(&mut e);
    let (load_vector, save_state) = write_vector(&mut e)?;
    let load_x87 = e.here();
    x87::write_load(&mut e);
    let save_and_leave = e.here();
    save(&mut e, save_state);
    e.jump_to(leave);
    let mut exit = |kind| {
        let at = e.here();
        e.store(EXIT, R14);
        e.constant(R14, kind);
        e.store(EXIT_KIND, R14);
        e.jump_to(save_and_leave);
        at
    };
    let (lookup, link_aside) = (exit(EXIT_LOOKUP), exit(EXIT_LINK));
    let returned = exit(EXIT_RETURN);
    let link = e.here();
    e.mov(R15, R14);
    save_flags(&mut e);
    e.mov(R14, R15);
    e.jump_to(link_aside);
    let dispatch = e.here();
    write_dispatch(&mut e, lookup);
    let return_below = e.here();
    e.load(RSP, SHADOW_TOP);
    let return_elsewhere = e.here();
    e.store(RETURN, R15);
    write_dispatch(&mut e, returned);
    let callout = e.here();
    e.mov(R15, R14);
    save_flags(&mut e);
    e.mov(R14, R15);
    let callout_aside = e.here();
    write_callout(&mut e, handler, save_state, leave);
    let stubs = Stubs {
        enter: e.address(enter),
        lookup: e.address(lookup),
        link: e.address(link),
        link_aside: e.address(link_aside),
        dispatch: e.address(dispatch),
        return_elsewhere: e.address(return_elsewhere),
        return_below: e.address(return_below),
        callout: e.address(callout),
        callout_aside: e.address(callout_aside),
        load_vector: e.address(load_vector),
        load_x87: e.address(load_x87),
    };
    Ok((stubs, e.bytes))
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
    e.load(RSP, SHADOW_TOP);
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
    e.ret();
}

/// To the translation of the address in R14, or to `miss`.
fn write_dispatch(e: &mut Emitter, miss: At) {
    let missed = find_jump(e);
    jump_to_found(e);
    e.bind(missed);
    e.jump_to(miss);
}

/// R15 = the jump cache's entry of the address in R14; changes flags.
pub fn find_jump(e: &mut Emitter) -> Forward {
    // imul r15d, r14d, factor; shr r15d, shift; shl r15d, 4
    e.raw(&[0x45, 0x69, 0xfe]);
    e.raw(&JUMP_FACTOR.to_le_bytes());
    e.raw(&[0x41, 0xc1, 0xef, JUMP_SHIFT, 0x41, 0xc1, 0xe7, 4]);
    e.add_from(R15, JUMPS_AT);
    // cmp r14, [r15]
    e.raw(&[0x4d, 0x3b, 0x37]);
    e.jump_if(NE)
}

/// To the code of the jump cache's entry at R15.
pub fn jump_to_found(e: &mut Emitter) {
    // jmp [r15 + 8]
    e.raw(&[0x41, 0xff, 0x67, 0x08]);
}

fn write_callout(e: &mut Emitter, handler: u64, save_state: At, leave: At) {
    save(e, save_state);
    e.store(SHADOW_RSP, RSP);
    e.load(RSP, HOST_RSP);
    // rdgsbase rdi
    e.raw(&[0xf3, 0x48, 0x0f, 0xae, 0xcf]);
    e.mov32(RSI, R14);
    e.constant(RAX, handler);
    // call rax; test eax, eax
    e.raw(&[0xff, 0xd0, 0x85, 0xc0]);
    let out = e.jump_if(NE);
    e.load(RSP, SHADOW_RSP);
    load(e);
    e.ret();
    e.bind(out);
    // cmp eax, imm8
    e.raw(&[0x83, 0xf8, crate::callout::GO_TO as u8]);
    let elsewhere = e.jump_if(NE);
    e.load(RSP, SHADOW_TOP);
    load(e);
    e.jump_through(ENTRY);
    e.bind(elsewhere);
    e.jump_to(leave);
}

/// R14 = the software TLB's entry of the address in R15, R15 = how far that is from the entry's tag; changes flags.
pub fn find_page(e: &mut Emitter, touch: Touch) {
    // rorx r14d, r15d, 7; and r14d, 1ffe0h
    e.raw(&[
        0xc4, 0x43, 0x7b, 0xf0, 0xf7, 0x07, 0x41, 0x81, 0xe6, 0xe0, 0xff, 1, 0,
    ]);
    e.add_from(R14, TABLE);
    // sub r15, [r14 + tag]
    e.raw(&[0x4d, 0x2b, 0x7e, touch.tag() as u8]);
}
// The lookup is made for entries and tables of these sizes.
const _: () = assert!(size_of::<ring3_x86_cpu::mmu::Entry>() == 32);
const _: () = assert!(ring3_x86_cpu::mmu::tlb::ENTRIES == 4096);

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

/// The guest's registers to their homes. R14 stays what it is.
fn save(e: &mut Emitter, save_state: At) {
    for reg in HELD {
        e.store(home(reg), host(reg));
    }
    e.load(RCX, STATE_LOADED);
    let in_memory = e.jump_if_rcx_zero();
    e.call_to(save_state);
    e.bind_short(in_memory);
}

/// And back, and the flags from aside.
fn load(e: &mut Emitter) {
    e.load(RAX, ASIDE);
    host_flags(e);
    for reg in HELD {
        e.load(host(reg), home(reg));
    }
}

/// Flags from RAX: OF from AL's lowest bit, as 1 + 7FH overflows; then the others from AH.
fn host_flags(e: &mut Emitter) {
    // add al, 7fh; sahf
    e.raw(&[0x04, 0x7f, 0x9e]);
}

/// LDMXCSR (2) or STMXCSR (3) with GS:[offset].
fn mxcsr(e: &mut Emitter, which: u8, offset: usize) {
    e.on_gs(&[0x0f, 0xae], which, offset, &[]);
}

/// Every vector and mask register the host has, as pairs of an instruction that loads it from the state at `base`
/// and one that stores it there.
fn vector_moves(base: Register) -> Result<Vec<(Instruction, Instruction)>, IcedError> {
    let (first, count, load, store) = if is_x86_feature_detected!("avx512f") {
        let moves = (
            Code::EVEX_Vmovdqa64_zmm_k1z_zmmm512,
            Code::EVEX_Vmovdqa64_zmmm512_k1z_zmm,
        );
        (Register::ZMM0, 32, moves.0, moves.1)
    } else if is_x86_feature_detected!("avx") {
        (
            Register::YMM0,
            16,
            Code::VEX_Vmovdqa_ymm_ymmm256,
            Code::VEX_Vmovdqa_ymmm256_ymm,
        )
    } else {
        (
            Register::XMM0,
            16,
            Code::Movdqa_xmm_xmmm128,
            Code::Movdqa_xmmm128_xmm,
        )
    };
    let at = |offset: usize| MemoryOperand::with_base_displ(base, offset as i64);
    let pair = |reg: Register, offset: usize, load: Code, store: Code| {
        Ok((
            Instruction::with2(load, reg, at(offset))?,
            Instruction::with2(store, at(offset), reg)?,
        ))
    };
    let mut moves = Vec::new();
    for n in 0..count {
        let offset = offset_of!(VectorState, zmm) + 64 * n as usize;
        moves.push(pair(first + n, offset, load, store)?);
    }
    if is_x86_feature_detected!("avx512bw") {
        for n in 0..8u32 {
            let offset = offset_of!(VectorState, k) + 8 * n as usize;
            let (load, store) = (Code::VEX_Kmovq_kr_km64, Code::VEX_Kmovq_m64_kr);
            moves.push(pair(Register::K0 + n, offset, load, store)?);
        }
    }
    Ok(moves)
}

/// The functions that load the vector state, and that save it and the x87 state. The first changes R14 and no flags; the
/// second RAX, RCX, RDX and flags.
fn write_vector(e: &mut Emitter) -> Result<(At, At), IcedError> {
    let nothing = e.here();
    e.raw(&[0xc3]);
    let load = e.here();
    mxcsr(e, 3, HOST_MXCSR);
    e.load(R14, VECTOR);
    for (load, _) in vector_moves(Register::R14)? {
        e.instruction(&load)?;
    }
    // ldmxcsr [r14 + offset]
    e.raw(&[0x41, 0x0f, 0xae, 0x96]);
    e.raw(&(VectorState::MXCSR_OFFSET as i32).to_le_bytes());
    e.constant(R14, e.address(nothing));
    e.store(NEED_VECTOR, R14);
    e.store(VECTOR_LOADED, R14);
    e.store(STATE_LOADED, R14);
    e.raw(&[0xc3]);
    let save = e.here();
    x87::write_save(e);
    e.load(RAX, VECTOR_LOADED);
    // test rax, rax
    e.raw(&[0x48, 0x85, 0xc0]);
    let in_memory = e.jump_if(E);
    e.load(RAX, VECTOR);
    for (_, store) in vector_moves(Register::RAX)? {
        e.instruction(&store)?;
    }
    // stmxcsr [rax + offset]
    e.raw(&[0x0f, 0xae, 0x98]);
    e.raw(&(VectorState::MXCSR_OFFSET as i32).to_le_bytes());
    mxcsr(e, 2, HOST_MXCSR);
    if is_x86_feature_detected!("avx") {
        // vzeroupper
        e.raw(&[0xc5, 0xf8, 0x77]);
    }
    e.constant(RCX, e.address(load));
    e.store(NEED_VECTOR, RCX);
    e.store_constant(VECTOR_LOADED, 0);
    e.bind(in_memory);
    e.store_constant(STATE_LOADED, 0);
    e.raw(&[0xc3]);
    Ok((load, save))
}

/// The guest's flags aside; R14 is free for it. They stay in the host's, too.
pub fn save_flags(e: &mut Emitter) {
    e.mov(R14, RAX);
    // lahf; seto al
    e.raw(&[0x9f, 0x0f, 0x90, 0xc0]);
    e.store(ASIDE, RAX);
    e.mov(RAX, R14);
}

/// And back; R14 is free for it.
pub fn restore_flags(e: &mut Emitter) {
    e.mov(R14, RAX);
    e.load(RAX, ASIDE);
    host_flags(e);
    e.mov(RAX, R14);
}

/// The same where R14 is not free.
pub fn restore_flags_around(e: &mut Emitter) {
    e.store(SAVED_RAX, RAX);
    e.load(RAX, ASIDE);
    host_flags(e);
    e.load(RAX, SAVED_RAX);
}
