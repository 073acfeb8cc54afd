//! What translated code finds through GS: registers' homes, scratch, and where everything else is.

use crate::emit::Reg;
use ring3_x86_cpu::{Core, Ended, World};
use std::mem::offset_of;

/// Entries of a jump cache.
pub const JUMPS: usize = 1 << 12;
/// The bits of an address that choose its entry.
pub const JUMP_MASK: u64 = JUMPS as u64 - 1;

/// Where the translation of an address is. The address is kept negated, so that an addition compares it and no flag
/// changes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct JumpEntry {
    pub negated: u64,
    pub code: u64,
}

/// An entry that nothing matches: what it would match belongs to another.
fn no_jump(index: usize) -> JumpEntry {
    JumpEntry {
        negated: (index as u64 ^ 1).wrapping_neg(),
        code: 0,
    }
}

/// One vCPU's, at GS while its translated code runs.
#[repr(C, align(64))]
pub struct Context {
    /// The general registers whenever they are not in the host's. R13, R14 and R15 always are here.
    pub gpr: [u64; 16],
    /// RFLAGS on the way out; only the arithmetic ones mean anything.
    pub flags: u64,
    /// Flags on the way in: SF, ZF, AF, PF and CF in bits 8..16 as LAHF has them, OF in bit 0.
    pub lahf: u64,
    /// Scratch.
    pub saved_rax: u64,
    pub saved_rcx: u64,
    pub saved_flags: u64,
    pub target: u64,
    /// The software TLB's table of ordinary accesses.
    pub table: u64,
    /// Address of the kick word.
    pub kick: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub jump_mask: u64,
    /// The jump cache of the privilege the guest has.
    pub jumps: u64,
    /// Guest instructions executed.
    pub count: u64,
    /// Where translated code is entered.
    pub entry: u64,
    /// On the way out: RIP, or the number of a link.
    pub exit: u64,
    pub exit_kind: u64,
    pub host_rsp: u64,
    pub host_gs: u64,
    pub core: *mut Core,
    pub world: Option<*mut dyn World>,
    pub sites: *const crate::Site,
    /// How an operation that was called ended the stay, if one did.
    pub ended: Option<Ended>,
    /// One for supervisor code and one for user code.
    pub caches: [[JumpEntry; JUMPS]; 2],
    /// The entries of both caches that may be filled.
    filled: Vec<(bool, u16)>,
}

/// Values of [`Context::exit_kind`].
pub const EXIT_LOOKUP: u64 = 0;
pub const EXIT_LINK: u64 = 1;
pub const EXIT_ENDED: u64 = 2;

macro_rules! offsets {
    ($($name:ident = $field:ident),* $(,)?) => {
        $(pub const $name: usize = offset_of!(Context, $field);)*
    };
}

offsets! {
    GPR = gpr, FLAGS = flags, LAHF = lahf, SAVED_RAX = saved_rax, SAVED_RCX = saved_rcx, SAVED_FLAGS = saved_flags,
    TARGET = target, TABLE = table, KICK = kick, FS_BASE = fs_base, GS_BASE = gs_base, JUMP_MASK_AT = jump_mask,
    JUMPS_AT = jumps, COUNT = count, ENTRY = entry, EXIT = exit, EXIT_KIND = exit_kind, HOST_RSP = host_rsp,
    HOST_GS = host_gs, CACHES = caches,
}

/// The home of a general register.
pub fn home(reg: Reg) -> usize {
    GPR + 8 * usize::from(reg.0)
}

/// The jump cache entry of an address, for code of that privilege.
pub fn jump_entry(user: bool, linear: u64) -> usize {
    let index = (linear & JUMP_MASK) as usize;
    CACHES + (usize::from(user) * JUMPS + index) * size_of::<JumpEntry>()
}

impl Context {
    pub fn new() -> Box<Context> {
        Box::new(Context {
            gpr: [0; 16],
            flags: 0,
            lahf: 0,
            saved_rax: 0,
            saved_rcx: 0,
            saved_flags: 0,
            target: 0,
            table: 0,
            kick: 0,
            fs_base: 0,
            gs_base: 0,
            jump_mask: JUMP_MASK,
            jumps: 0,
            count: 0,
            entry: 0,
            exit: 0,
            exit_kind: 0,
            host_rsp: 0,
            host_gs: 0,
            core: std::ptr::null_mut(),
            world: None,
            sites: std::ptr::null(),
            ended: None,
            caches: [std::array::from_fn(no_jump); 2],
            filled: Vec::new(),
        })
    }

    /// Enters where the translation of an address is, for code of that privilege.
    pub fn remember_jump(&mut self, user: bool, linear: u64, code: u64) {
        let index = (linear & JUMP_MASK) as usize;
        let entry = JumpEntry {
            negated: linear.wrapping_neg(),
            code,
        };
        let slot = &mut self.caches[usize::from(user)][index];
        if slot.code == 0 {
            self.filled.push((user, index as u16));
        }
        *slot = entry;
    }

    pub fn forget_jumps(&mut self) {
        for (user, index) in self.filled.drain(..) {
            let index = usize::from(index) & (JUMPS - 1);
            self.caches[usize::from(user)][index] = no_jump(index);
        }
    }
}

/// Arithmetic flags as [`Context::lahf`] holds them.
pub fn to_lahf(flags: u64) -> u64 {
    (flags & 0xd5) << 8 | flags >> 11 & 1
}
