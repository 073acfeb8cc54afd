//! The little kernel around a random program: handlers for every exception, which log it and see that the program goes on,
//! a system call, and the way to level 3 and back.
//!
//! A fault's handler skips the instruction, whose length is in a table by its address; if there is none, it goes on where the
//! program last said.

use super::Twin;
use crate::bare::places::*;
use crate::bare::snapshot::memory_differences;
use crate::bare::world::BareWorld;
use crate::bare::{assemble, initial};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions};
use ring3_x86_cpu::Cpu;
use ring3_x86_cpu::state::RSP;

/// Four pages of code of level 0, where they are mapped one to one, and two of level 3.
pub const CODE: u64 = START;
pub const CODE_PAGES: u64 = 4;
pub const USER_FRAMES: u64 = CODE + CODE_PAGES * PAGE;
pub const USER_CODE: u64 = 0x4000_0000;
pub const USER_CODE_PAGES: u64 = 2;
/// Another address of the first page of code of level 0.
pub const ALIAS: u64 = 0x6000_0000;
/// Data: pages with rights of their own. The last is absent at first.
pub const DATA: u64 = 0x5000_0000;
pub const DATA_FRAMES: u64 = 0x20_0000;
pub const DATA_PAGES: u64 = 8;
/// The stack of level 3 is the sixth page of data.
pub const USER_STACK: u64 = DATA + 6 * PAGE;
/// Lengths of instructions, a byte for each byte of code, level 0's first.
pub const LENGTHS: u64 = 0x30_0000;
/// Words that handlers and programs keep.
pub const LOG: u64 = 0x9000;
pub const FAULTS: u64 = 0x9008;
pub const LANDING: u64 = 0x9010;
pub const SAVED_RSP: u64 = 0x9018;
pub const SCRATCH: u64 = 0x9100;
pub const COUNTERS: u64 = 0x9200;
pub const TARGETS: u64 = 0x9400;
/// A second stack of level 0, and the top of the first.
pub const OTHER_STACK: u64 = 0xd000;
pub const KERNEL_STACK: u64 = 0xf800;
pub const HANDLERS: u64 = 0x2_0000;
pub const SYSCALL: u64 = HANDLERS + 0x8000;
pub const RETURN: u64 = HANDLERS + 0x8200;
const ROOM: u64 = 0x100;
/// After so many exceptions the program has had enough.
const MOST_FAULTS: i32 = 60;

pub const LOW: usize = 0x340;
const HIGH_SIZE: usize = 4;

/// The counters and the log.
fn counted(world: &BareWorld) -> [u8; 0x500] {
    let mut bytes = [0; 0x500];
    world.peek(LOG, &mut bytes);
    bytes
}

impl Twin for BareWorld {
    fn alike(&self, leaders: &BareWorld) -> bool {
        counted(self) == counted(leaders)
    }

    fn differences(&self, leaders: &BareWorld) -> Vec<String> {
        memory_differences(&counted(leaders), &counted(self))
    }
}

/// Where the entries of the pages lie that programs change.
pub struct Entries {
    pub data: Vec<u64>,
    pub user_code: Vec<u64>,
    pub alias: u64,
}

/// Writes everything but the program.
pub fn world() -> (BareWorld, Entries) {
    let mut world = BareWorld::sized(LOW, HIGH_SIZE);
    write(&mut world);
    let mut next = MORE_TABLES;
    let mut map = |world: &mut BareWorld, linear, value| {
        let at = entry(world, TABLES, &mut next, linear, Size::Small);
        world.put(at, value);
        at
    };
    one_to_one(&mut world, &mut map);
    let rights = [
        P | W | U | NX,
        P | W | U | NX,
        P | U | NX,
        P | W | NX,
        P | W | U | G | NX,
        P | W | U | NX,
        P | W | NX,
        0,
    ];
    let mut entries = Entries {
        data: Vec::new(),
        user_code: Vec::new(),
        alias: 0,
    };
    for (n, rights) in rights.into_iter().enumerate() {
        let (linear, frame) = (DATA + n as u64 * PAGE, DATA_FRAMES + n as u64 * PAGE);
        entries.data.push(map(&mut world, linear, frame | rights));
    }
    for n in 0..USER_CODE_PAGES {
        let at = map(
            &mut world,
            USER_CODE + n * PAGE,
            (USER_FRAMES + n * PAGE) | P | W | U,
        );
        entries.user_code.push(at);
    }
    entries.alias = map(&mut world, ALIAS, CODE | P | W);
    for vector in 0..256 {
        let at = if vector < 32 {
            HANDLERS + vector * ROOM
        } else {
            HANDLERS + 32 * ROOM
        };
        let access = if matches!(vector, 3 | 4 | 0x80..) {
            0xee
        } else {
            0x8e
        };
        gate(&mut world, vector, at, access, 1);
        if vector <= 32 {
            let code = assemble(at, |a| handler(a, vector));
            assert!(code.len() as u64 <= ROOM);
            world.poke(at, &code);
        }
    }
    gate(&mut world, 0x81, RETURN, 0xee, 1);
    world.poke(SYSCALL, &assemble(SYSCALL, system_call));
    world.poke(RETURN, &assemble(RETURN, leave_level_3));
    (world, entries)
}

/// Puts code of level 0 where programs begin, with its instructions' lengths, and a HLT behind it.
pub fn plant(world: &mut BareWorld, code: &[u8]) {
    world.poke(CODE, code);
    world.poke(CODE + code.len() as u64, &[0xf4]);
    for instr in Decoder::with_ip(64, code, CODE, DecoderOptions::NONE) {
        world.poke(LENGTHS + instr.ip() - CODE, &[instr.len().max(1) as u8]);
    }
}

/// Only code may be executed: what random bytes do leaves flags undefined.
fn one_to_one(world: &mut BareWorld, map: &mut impl FnMut(&mut BareWorld, u64, u64) -> u64) {
    world.put(TABLES + 2 * PAGE, 0);
    for frame in (0..0x20_0000).step_by(PAGE as usize) {
        let code = CODE..CODE + CODE_PAGES * PAGE;
        let handlers = HANDLERS..HANDLERS + 16 * PAGE;
        let rights = if code.contains(&frame) || handlers.contains(&frame) {
            P | W
        } else {
            P | W | NX
        };
        map(world, frame, frame | rights);
    }
    for n in 1..LOW as u64 / 512 + 1 {
        world.put(TABLES + 2 * PAGE + 8 * n, n << 21 | PS | P | W | NX);
    }
}

/// A processor at the program's beginning.
pub fn cpu() -> Cpu {
    let mut cpu = Cpu::new();
    initial(&mut cpu.core.state);
    let state = &mut cpu.core.state;
    state.rip = CODE;
    state.gpr[RSP] = KERNEL_STACK;
    state.msr.lstar = SYSCALL;
    state.msr.fmask = 0x600;
    state.msr.kernel_gs_base = DATA;
    cpu.core.refresh();
    cpu
}

/// Whether the saved RIP is at the instruction, which is to be skipped.
fn is_fault(vector: u64) -> bool {
    !matches!(vector, 1 | 2 | 3 | 4 | 7) && vector < 32
}

fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

fn handler(a: &mut CodeAssembler, vector: u64) -> Result<(), IcedError> {
    let (mut known, mut lost, mut user, mut out, mut end) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    if !has_error(vector) {
        a.push(0)?;
    }
    a.push(rax)?;
    a.push(rcx)?;
    // RSP: RCX, RAX, error, RIP, CS, RFLAGS, RSP, SS.
    a.rol(qword_ptr(LOG), 7)?;
    a.mov(rax, qword_ptr(rsp + 0x10))?;
    a.lea(rax, ptr(rax * 8 + vector as i32))?;
    a.add(rax, qword_ptr(rsp + 0x18))?;
    a.xor(qword_ptr(LOG), rax)?;
    a.mov(rax, qword_ptr(rsp + 0x28))?;
    a.add(qword_ptr(LOG), rax)?;
    if vector == 14 {
        a.mov(rax, cr2)?;
        a.xor(qword_ptr(LOG), rax)?;
    }
    if vector == 1 {
        a.mov(rax, dr6)?;
        a.xor(qword_ptr(LOG), rax)?;
        // The next instruction is let by; single steps end.
        a.or(dword_ptr(rsp + 0x28), 0x1_0000)?;
        a.and(dword_ptr(rsp + 0x28), !0x100)?;
    }
    if vector == 7 {
        a.clts()?;
    }
    a.inc(qword_ptr(FAULTS))?;
    a.cmp(qword_ptr(FAULTS), MOST_FAULTS)?;
    a.jae(end)?;
    if !is_fault(vector) {
        a.jmp(out)?;
    }
    a.mov(rax, qword_ptr(rsp + 0x18))?;
    a.lea(rcx, ptr(rax - CODE as i32))?;
    a.cmp(rcx, (CODE_PAGES * PAGE) as i32)?;
    a.jb(known)?;
    a.set_label(&mut user)?;
    a.lea(rcx, ptr(rax - (USER_CODE - CODE_PAGES * PAGE) as i32))?;
    a.cmp(rcx, (CODE_PAGES * PAGE) as i32)?;
    a.jb(lost)?;
    a.cmp(rcx, ((CODE_PAGES + USER_CODE_PAGES) * PAGE) as i32)?;
    a.jae(lost)?;
    a.set_label(&mut known)?;
    a.movzx(ecx, byte_ptr(rcx + LENGTHS as i32))?;
    a.test(ecx, ecx)?;
    a.je(lost)?;
    if vector == 14 {
        // What cannot be fetched cannot be skipped either.
        a.test(dword_ptr(rsp + 0x10), 0x10)?;
        a.jne(lost)?;
    }
    a.add(qword_ptr(rsp + 0x18), rcx)?;
    a.set_label(&mut out)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    a.add(rsp, 8)?;
    a.iretq()?;
    a.set_label(&mut lost)?;
    land(a)?;
    a.set_label(&mut end)?;
    a.hlt()?;
    a.jmp(end)
}

/// Goes on at level 0 where the program last said, on a fresh stack.
fn land(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(rax, qword_ptr(LANDING))?;
    a.mov(esp, KERNEL_STACK as u32)?;
    a.push(i32::from(DATA0))?;
    a.push(KERNEL_STACK as i32)?;
    a.push(2)?;
    a.push(i32::from(CODE0))?;
    a.push(rax)?;
    a.iretq()
}

/// What SYSCALL comes to, on the stack of whoever made it.
fn system_call(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut kernel = a.create_label();
    a.add(qword_ptr(LOG), rcx)?;
    a.swapgs()?;
    a.xor(qword_ptr(LOG), r11)?;
    a.add(rax, qword_ptr(SCRATCH))?;
    a.swapgs()?;
    // The program may have made the call at level 0, by way of an address of its own.
    a.test(rcx, 0x4000_0000)?;
    a.je(kernel)?;
    a.sysretq()?;
    a.set_label(&mut kernel)?;
    a.jmp(rcx)
}

fn leave_level_3(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.add(qword_ptr(LOG), rsp)?;
    land(a)
}
