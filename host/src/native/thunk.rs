//! Builds the host code of a step.
//!
//! A thunk is `extern "sysv64" fn(frame, vector, gpr)`. It loads the state that the instruction uses, executes it with
//! its memory operand replaced by the start of the frame, and stores what it wrote. Register roles:
//!
//! * F, the frame: RDI unless the instruction uses that; survives the instruction (it is the operand's base).
//! * V and G, the vector state and the general registers: any others that the instruction does not use; survive too.
//! * A guest RSP operand is renamed to a free register, so the host's stack pointer is never touched.
//!
//! Vector registers are loaded and stored as wide as matters: legacy SSE only sees 128 bits (the rest of the guest's
//! register, in memory, stays untouched by itself), VEX and EVEX forms store the whole register with its zeroed top.

use std::mem::offset_of;

use iced_x86::code_asm::*;
use iced_x86::{
    BlockEncoderOptions, EncodingKind, Instruction, InstructionInfo, OpAccess, OpKind, Register,
    RoundingControl,
};

use super::allow::is_mask_move;
use super::state::{Image, X87};
use super::{NativeFrame, Unsupported, VectorState, traps};

/// What the thunk must do besides the instruction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) x87: bool,
    pub(super) mxcsr: bool,
    pub(super) load_flags: bool,
    pub(super) store_flags: bool,
}

/// Vector features of the host that decide how registers are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Width {
    Xmm = 16,
    Ymm = 32,
    Zmm = 64,
}

/// Use of one register by the instruction.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    load: bool,
    store: bool,
    size: usize,
}

/// General, vector and opmask registers used.
#[derive(Clone, Debug)]
pub(super) struct Uses {
    gpr: [Use; 16],
    zmm: [Use; 32],
    k: [Use; 8],
}

impl Uses {
    pub(super) fn of(instr: &Instruction, info: &InstructionInfo) -> Option<Self> {
        let mut uses = Self {
            gpr: Default::default(),
            zmm: Default::default(),
            k: Default::default(),
        };
        let mut address = [Register::None; 2];
        if (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory) {
            address = [
                instr.memory_base().full_register(),
                instr.memory_index().full_register(),
            ];
        }
        let legacy = matches!(instr.encoding(), EncodingKind::Legacy | EncodingKind::D3NOW);
        for used in info.used_registers() {
            let register = used.register();
            let full = register.full_register();
            let (read, write) = access(used.access());
            let whole = used.access() == OpAccess::Write;
            if register.is_gpr() {
                if register.full_register().is_gpr64()
                    && address.contains(&full)
                    && used.access() == OpAccess::Read
                {
                    // Counted below if it is an operand as well.
                    continue;
                }
                if is_mask_move(instr) && full == Register::RDI {
                    continue;
                }
                let load = read || !whole || register.size() < 4;
                merge(&mut uses.gpr[full.number()], load, write, 8);
            } else if register.is_vector_register() {
                let load = read || !whole || legacy;
                merge(
                    &mut uses.zmm[full.number()],
                    load,
                    write,
                    if load { register.size() } else { 0 },
                );
            } else if register.is_k() {
                merge(&mut uses.k[full.number()], read || !whole, write, 8);
            } else if !(register.is_st() || register.is_mm() || register.is_segment_register()) {
                return None;
            }
        }
        for i in 0..instr.op_count() {
            if instr.op_kind(i) == OpKind::Register && instr.op_register(i).is_gpr() {
                let (read, write) = access(info.op_access(i));
                merge(
                    &mut uses.gpr[instr.op_register(i).full_register().number()],
                    read || write,
                    write,
                    8,
                );
            }
        }
        Some(uses)
    }

    pub(super) fn gpr_read(&self) -> u16 {
        bits(&self.gpr, |u| u.load)
    }

    pub(super) fn gpr_written(&self) -> u16 {
        bits(&self.gpr, |u| u.store)
    }
}

fn bits(uses: &[Use; 16], test: impl Fn(&Use) -> bool) -> u16 {
    uses.iter()
        .enumerate()
        .filter(|(_, u)| test(u))
        .fold(0, |bits, (i, _)| bits | 1 << i)
}

fn access(access: OpAccess) -> (bool, bool) {
    match access {
        OpAccess::None | OpAccess::NoMemAccess => (false, false),
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write => (false, true),
        OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
    }
}

fn merge(into: &mut Use, load: bool, store: bool, size: usize) {
    into.load |= load;
    into.store |= store;
    into.size = into.size.max(size);
}

/// Register choice for one thunk.
struct Roles {
    frame: AsmRegister64,
    vector: AsmRegister64,
    gprs: AsmRegister64,
    /// Stands for the guest's RSP.
    stack: Option<AsmRegister64>,
    saved: Vec<AsmRegister64>,
    /// High-byte operands exclude every encoding with a REX prefix.
    used: u16,
}

/// By number.
const GPRS: [AsmRegister64; 16] = [
    rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15,
];
const RSP: usize = 4;

fn number(r: AsmRegister64) -> usize {
    Register::from(r).number()
}

impl Roles {
    fn choose(uses: &Uses, high_byte: bool) -> Option<Self> {
        let mut used = uses.gpr_read() | uses.gpr_written();
        let stack_used = used & 1 << RSP != 0;
        used |= 1 << RSP;
        let mut taken = used;
        let mut pick = |order: &[AsmRegister64]| {
            let found = order.iter().copied().find(|&r| taken & 1 << number(r) == 0)?;
            taken |= 1 << number(found);
            Some(found)
        };
        let low = [rdi, rsi, rdx, rcx, rbx, rbp];
        let frame = if high_byte {
            pick(&low)?
        } else {
            pick(&[rdi, rsi, r8, r9, r10, r11])?
        };
        let vector = pick(&[rsi, r8, r9, r10, r11, rdi])?;
        let gprs = pick(&[rdx, r8, r9, r10, r11, rsi])?;
        let stack = if !stack_used {
            None
        } else if high_byte {
            Some(pick(&low)?)
        } else {
            Some(pick(&[r8, r9, r10, r11, rcx])?)
        };
        let saved = [rbx, rbp, r12, r13, r14, r15]
            .into_iter()
            .filter(|&r| taken & 1 << number(r) != 0)
            .collect();
        Some(Self {
            frame,
            vector,
            gprs,
            stack,
            saved,
            used: used & !(1 << RSP) | (stack_used as u16) << RSP,
        })
    }

    fn host(&self, guest: usize) -> AsmRegister64 {
        if guest == RSP {
            self.stack.unwrap_or(GPRS[RSP])
        } else {
            GPRS[guest & 15]
        }
    }
}

/// Assembles the thunk for `instr`, whose memory operand (if any) is already normalised.
pub(super) fn assemble(
    instr: &Instruction,
    uses: &Uses,
    plan: Plan,
    host: Width,
) -> Result<Vec<u8>, Unsupported> {
    let high_byte = (0..instr.op_count()).any(|i| {
        instr.op_kind(i) == OpKind::Register
            && matches!(
                instr.op_register(i),
                Register::AH | Register::BH | Register::CH | Register::DH
            )
    });
    let roles = Roles::choose(uses, high_byte).ok_or(Unsupported)?;
    if is_mask_move(instr) && roles.frame != rdi {
        return Err(Unsupported);
    }
    let mut a = CodeAssembler::new(64)?;
    for &r in &roles.saved {
        a.push(r)?;
    }
    place_arguments(&mut a, &roles)?;
    if plan.x87 {
        // FXRSTOR loads MXCSR too: let that be the one already there.
        let image = roles.vector + (offset_of!(VectorState, x87) + offset_of!(X87, image));
        a.fnstcw(word_ptr(roles.frame + offset_of!(NativeFrame, host_fcw)))?;
        a.stmxcsr(dword_ptr(image + offset_of!(Image, mxcsr)))?;
        a.fxrstor64(ptr(image))?;
    }
    let vex = move_vectors(&mut a, instr, uses, &roles, host, Way::Load)?;
    move_opmasks(&mut a, uses, &roles, Way::Load)?;
    if plan.mxcsr {
        enter_mxcsr(&mut a, &roles)?;
    }
    if plan.load_flags {
        a.push(qword_ptr(roles.frame + offset_of!(NativeFrame, rflags)))?;
        a.popfq()?;
    }
    for guest in (0..16).filter(|&g| uses.gpr[g].load) {
        a.mov(roles.host(guest), qword_ptr(roles.gprs + guest * 8))?;
    }
    let (mut step, mut trapped) = (a.create_label(), a.create_label());
    if plan.mxcsr {
        a.db(&traps::MARK)?;
    }
    a.set_label(&mut step)?;
    a.add_instruction(adapted(instr, &roles)?)?;

    if plan.store_flags {
        a.pushfq()?;
        a.pop(qword_ptr(roles.frame + offset_of!(NativeFrame, out_rflags)))?;
    }
    let mut done = a.create_label();
    if plan.mxcsr {
        // Nothing the instruction wrote may be lost before it is stored, RAX included.
        let scratch = roles.scratch().ok_or(Unsupported)?;
        leave_mxcsr(&mut a, &roles, scratch)?;
    }
    for guest in (0..16).filter(|&g| uses.gpr[g].store) {
        a.mov(qword_ptr(roles.gprs + guest * 8), roles.host(guest))?;
    }
    move_vectors(&mut a, instr, uses, &roles, host, Way::Store)?;
    move_opmasks(&mut a, uses, &roles, Way::Store)?;
    if plan.mxcsr {
        a.set_label(&mut done)?;
        a.nop()?;
    }
    if plan.x87 {
        leave_x87(&mut a, &roles)?;
    }
    if vex {
        a.vzeroupper()?;
    }
    for &r in roles.saved.iter().rev() {
        a.pop(r)?;
    }
    a.ret()?;
    if !plan.mxcsr {
        return Ok(a.assemble(0)?);
    }
    // Where a trap of the instruction continues: it has written nothing.
    a.set_label(&mut trapped)?;
    a.stmxcsr(dword_ptr(roles.frame + offset_of!(NativeFrame, out_mxcsr)))?;
    a.ldmxcsr(dword_ptr(roles.frame + offset_of!(NativeFrame, host_mxcsr)))?;
    a.mov(dword_ptr(roles.frame + offset_of!(NativeFrame, trapped)), 1)?;
    a.jmp(done)?;
    let made = a.assemble_options(0, BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS)?;
    let (step, trapped) = (made.label_ip(&step)?, made.label_ip(&trapped)?);
    let mut code = made.inner.code_buffer;
    traps::set_target(&mut code, step as usize, trapped as usize)?;
    Ok(code)
}

impl Roles {
    /// A caller-saved register that neither the instruction nor a role uses.
    fn scratch(&self) -> Option<AsmRegister32> {
        [
            (eax, rax),
            (ecx, rcx),
            (r8d, r8),
            (r9d, r9),
            (r10d, r10),
            (r11d, r11),
        ]
        .into_iter()
        .find_map(|(small, r)| {
            let role = [Some(self.frame), Some(self.vector), Some(self.gprs), self.stack].contains(&Some(r));
            (!role && self.used & 1 << number(r) == 0).then_some(small)
        })
    }
}

/// Moves the arguments from RDI, RSI, RDX to the roles' registers without overwriting one not yet moved.
fn place_arguments(a: &mut CodeAssembler, roles: &Roles) -> Result<(), Unsupported> {
    let mut moves = vec![(roles.frame, rdi), (roles.vector, rsi), (roles.gprs, rdx)];
    moves.retain(|(to, from)| to != from);
    while !moves.is_empty() {
        let free = moves
            .iter()
            .position(|&(to, _)| !moves.iter().any(|&(_, from)| from == to));
        match free {
            Some(i) => {
                let (to, from) = moves.remove(i);
                a.mov(to, from)?;
            }
            None => {
                // A cycle: exchanging closes one link of it.
                let (to, from) = moves.remove(0);
                a.xchg(to, from)?;
                for m in &mut moves {
                    if m.1 == to {
                        m.1 = from;
                    }
                }
                moves.retain(|(to, from)| to != from);
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Load,
    Store,
}

/// Loads or stores the vector registers used; returns whether a VEX move was needed or the instruction is VEX itself.
fn move_vectors(
    a: &mut CodeAssembler,
    instr: &Instruction,
    uses: &Uses,
    roles: &Roles,
    host: Width,
    way: Way,
) -> Result<bool, Unsupported> {
    let legacy = matches!(instr.encoding(), EncodingKind::Legacy | EncodingKind::D3NOW);
    let mut vex = false;
    for (n, used) in uses.zmm.iter().enumerate() {
        let wanted = if way == Way::Load { used.load } else { used.store };
        if !wanted {
            continue;
        }
        vex |= !legacy;
        let at = roles.vector + n * 64;
        let width = match (legacy, way) {
            (true, _) => Width::Xmm,
            (false, Way::Store) => host,
            (false, Way::Load) => match used.size {
                0..=16 => Width::Xmm,
                17..=32 => Width::Ymm,
                _ => Width::Zmm,
            },
        };
        let (x, y, z) = vector_register(n);
        match (width, way) {
            (Width::Xmm, Way::Load) if legacy => a.movaps(x, xmmword_ptr(at))?,
            (Width::Xmm, Way::Store) if legacy => a.movaps(xmmword_ptr(at), x)?,
            (Width::Xmm, Way::Load) if n < 16 => a.vmovaps(x, xmmword_ptr(at))?,
            (Width::Xmm, Way::Store) if n < 16 => a.vmovaps(xmmword_ptr(at), x)?,
            (Width::Ymm, Way::Load) if n < 16 => a.vmovaps(y, ymmword_ptr(at))?,
            (Width::Ymm, Way::Store) if n < 16 => a.vmovaps(ymmword_ptr(at), y)?,
            (_, Way::Load) => a.vmovaps(z, zmmword_ptr(at))?,
            (_, Way::Store) => a.vmovaps(zmmword_ptr(at), z)?,
        }
    }
    Ok(vex)
}

fn vector_register(n: usize) -> (AsmRegisterXmm, AsmRegisterYmm, AsmRegisterZmm) {
    const X: [AsmRegisterXmm; 32] = [
        xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15,
        xmm16, xmm17, xmm18, xmm19, xmm20, xmm21, xmm22, xmm23, xmm24, xmm25, xmm26, xmm27, xmm28, xmm29,
        xmm30, xmm31,
    ];
    const Y: [AsmRegisterYmm; 32] = [
        ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15,
        ymm16, ymm17, ymm18, ymm19, ymm20, ymm21, ymm22, ymm23, ymm24, ymm25, ymm26, ymm27, ymm28, ymm29,
        ymm30, ymm31,
    ];
    const Z: [AsmRegisterZmm; 32] = [
        zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15,
        zmm16, zmm17, zmm18, zmm19, zmm20, zmm21, zmm22, zmm23, zmm24, zmm25, zmm26, zmm27, zmm28, zmm29,
        zmm30, zmm31,
    ];
    (X[n & 31], Y[n & 31], Z[n & 31])
}

fn move_opmasks(a: &mut CodeAssembler, uses: &Uses, roles: &Roles, way: Way) -> Result<(), Unsupported> {
    const K: [AsmRegisterK; 8] = [k0, k1, k2, k3, k4, k5, k6, k7];
    // Without AVX512BW there are 16 bits to a register, and no wider move.
    let wide = std::arch::is_x86_feature_detected!("avx512bw");
    for (n, used) in uses.k.iter().enumerate() {
        let at = roles.vector + offset_of!(VectorState, k) + n * 8;
        match way {
            Way::Load if used.load && wide => a.kmovq(K[n], qword_ptr(at))?,
            Way::Load if used.load => a.kmovw(K[n], word_ptr(at))?,
            Way::Store if used.store && wide => a.kmovq(qword_ptr(at), K[n])?,
            Way::Store if used.store => a.kmovw(word_ptr(at), K[n])?,
            _ => {}
        }
    }
    Ok(())
}

/// Loads the MXCSR to run with, unless it is there already (LDMXCSR is slow, and nearly always it is).
fn enter_mxcsr(a: &mut CodeAssembler, roles: &Roles) -> Result<(), Unsupported> {
    let scratch = eax;
    let mut same = a.create_label();
    a.stmxcsr(dword_ptr(roles.frame + offset_of!(NativeFrame, host_mxcsr)))?;
    a.mov(
        scratch,
        dword_ptr(roles.frame + offset_of!(NativeFrame, run_mxcsr)),
    )?;
    a.cmp(
        scratch,
        dword_ptr(roles.frame + offset_of!(NativeFrame, host_mxcsr)),
    )?;
    a.je(same)?;
    a.ldmxcsr(dword_ptr(roles.frame + offset_of!(NativeFrame, run_mxcsr)))?;
    a.set_label(&mut same)?;
    Ok(a.nop()?)
}

/// Reads MXCSR back and restores the host's control bits if they differ (its flags belong to nobody across a call).
fn leave_mxcsr(a: &mut CodeAssembler, roles: &Roles, scratch: AsmRegister32) -> Result<(), Unsupported> {
    let mut same = a.create_label();
    a.stmxcsr(dword_ptr(roles.frame + offset_of!(NativeFrame, out_mxcsr)))?;
    a.mov(
        scratch,
        dword_ptr(roles.frame + offset_of!(NativeFrame, out_mxcsr)),
    )?;
    a.xor(
        scratch,
        dword_ptr(roles.frame + offset_of!(NativeFrame, host_mxcsr)),
    )?;
    a.and(scratch, -64)?;
    a.je(same)?;
    a.ldmxcsr(dword_ptr(roles.frame + offset_of!(NativeFrame, host_mxcsr)))?;
    a.set_label(&mut same)?;
    Ok(a.nop()?)
}

/// Saves the x87 image and leaves the host an empty stack, no pending exception, and its control word.
fn leave_x87(a: &mut CodeAssembler, roles: &Roles) -> Result<(), Unsupported> {
    let image = roles.vector + (offset_of!(VectorState, x87) + offset_of!(X87, image));
    let mut clear = a.create_label();
    a.fxsave64(ptr(image))?;
    a.test(byte_ptr(image + offset_of!(Image, fsw)), 0xff)?;
    a.je(clear)?;
    a.fnclex()?;
    a.set_label(&mut clear)?;
    a.emms()?;
    Ok(a.fldcw(word_ptr(roles.frame + offset_of!(NativeFrame, host_fcw)))?)
}

/// The instruction with its memory operand at the frame and RSP renamed.
fn adapted(instr: &Instruction, roles: &Roles) -> Result<Instruction, Unsupported> {
    let mut out = *instr;
    for i in 0..out.op_count() {
        match out.op_kind(i) {
            OpKind::Memory => out.set_memory_base(roles.frame.into()),
            OpKind::Register => {
                let register = out.op_register(i);
                if register.is_gpr() && register.full_register() == Register::RSP {
                    let Some(to) = roles.stack else {
                        return Err(Unsupported);
                    };
                    out.try_set_op_register(i, resized(to.into(), register))?;
                }
            }
            _ => {}
        }
    }
    debug_assert!(
        out.rounding_control() == instr.rounding_control()
            || instr.rounding_control() == RoundingControl::None
    );
    Ok(out)
}

/// The part of `to` that has the size of `like` (never a high byte).
fn resized(to: Register, like: Register) -> Register {
    let base = match like.size() {
        1 => {
            // Low bytes of the registers that need REX for theirs follow DIL in the enum.
            let n = to.number() as u32;
            return if n < 4 {
                Register::AL + n
            } else {
                Register::SPL + (n - 4)
            };
        }
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    base + to.number() as u32
}
