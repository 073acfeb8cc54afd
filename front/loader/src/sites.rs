//! Hot call sites: those at which calls are caught often enter ring3 without a signal.
//!
//! Compilers and C libraries load the number of a call right before the instruction: `mov eax, number; syscall`. After some calls from
//! such a place the five bytes of the load are made a jump to a few instructions of ours that load the number, find the thread, and go
//! where the SIGSYS handler would have sent the client. The SYSCALL itself stays: who jumps to it is caught as ever, and so is a call for
//! which the thread is not found. Nothing but what SYSCALL changes is changed, the flags neither.
//!
//! The thread is found by the GS base, which 64-bit programs hardly use: it is the thread's area if the word there says so. A client that
//! asks for another base gets it, and is caught by signals.
//!
//! Code is changed as Linux changes its own, since other threads may be executing it: first its first byte becomes INT3, then the rest is
//! written, then the first byte; and all threads' processors synchronize between the steps. A thread that meets the INT3 goes on
//! as if it had executed the load.
//!
//! Not done where programs may not read the GS base themselves, and where there is no room near the program.

use crate::entry;
use crate::image::Image;
use crate::thread::*;
use ring3_host::user::UserPtr;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::ffi::c_void;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// Calls that are caught at a place before it is changed.
const OFTEN: u32 = 50;
/// Places that are counted.
const COUNTED: usize = 1024;
/// Bytes of the instructions of a place.
const STUB: usize = 64;
/// Bytes for all of them.
const ROOM: usize = 1 << 14;
const PLACES: usize = ROOM / STUB;
const PAGE: u64 = 4096;

/// MOV EAX with a constant, and JMP: both of five bytes.
const LOAD: u8 = 0xb8;
const JUMP: u8 = 0xe9;
const BREAK: u8 = 0xcc;
const LEN: u64 = 5;

static COUNTS: [AtomicU32; COUNTED] = [const { AtomicU32::new(0) }; COUNTED];
/// Where the instructions are; zero if there are none.
static ROOM_AT: AtomicU64 = AtomicU64::new(0);
/// The program: its first address, and the one behind it.
static PROGRAM: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// The places that were changed or are being changed: their addresses, and their calls' numbers. A handler reads them.
static CHANGED: [(AtomicU64, AtomicU32); PLACES] = [const { (AtomicU64::new(0), AtomicU32::new(0)) }; PLACES];
static USED: AtomicU32 = AtomicU32::new(0);
static CHANGING: Mutex<()> = Mutex::new(());
/// The client wants the GS base for itself.
static GS_IS_THE_CLIENTS: AtomicBool = AtomicBool::new(false);

fn room() -> Range<u64> {
    let at = ROOM_AT.load(Relaxed);
    at..if at == 0 { 0 } else { at + ROOM as u64 }
}

/// Prepares a program for being changed, if it can be.
pub fn begin(image: &Image) {
    if entry::FSGSBASE.load(Relaxed) == 0 || !membarrier(REGISTER) {
        return;
    }
    // Below the program, as near as there is room.
    for distance in 1..64 {
        let Some(at) = image
            .span
            .start
            .checked_sub(distance * ROOM as u64)
            .filter(|at| *at >= 1 << 16)
        else {
            return;
        };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        let rights = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: nothing is replaced.
        match unsafe { mmap_anonymous(at as *mut c_void, ROOM, rights, flags) } {
            Ok(got) if got as u64 == at => {
                PROGRAM[0].store(image.span.start, Relaxed);
                PROGRAM[1].store(image.span.end, Relaxed);
                return ROOM_AT.store(at, Release);
            }
            Ok(got) => {
                // SAFETY: the mapping has just been made.
                let _ = unsafe { munmap(got, ROOM) };
            }
            Err(_) => {}
        }
    }
}

/// Has this thread found by the GS base.
pub fn thread(thread: &Thread) {
    const ARCH_SET_GS: i32 = 0x1001;
    thread.this.set(thread);
    if ROOM_AT.load(Acquire) != 0 && !GS_IS_THE_CLIENTS.load(Relaxed) {
        // SAFETY: neither ring3 nor the C library uses it between calls of the client's.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, thread.this.get()) };
    }
}

/// The client sets the GS base: what is changed goes on being caught, since the thread is not found.
pub fn give_up_gs() {
    GS_IS_THE_CLIENTS.store(true, Relaxed);
}

/// Whether it has.
pub fn gs_is_the_clients() -> bool {
    GS_IS_THE_CLIENTS.load(Relaxed)
}

/// A call was caught by a signal: after some, its place is changed.
pub fn caught(thread: &Thread) {
    let room = room();
    let after = thread.register(REG_RIP);
    let program = PROGRAM[0].load(Relaxed)..PROGRAM[1].load(Relaxed);
    if room.is_empty() || !program.contains(&after) || GS_IS_THE_CLIENTS.load(Relaxed) {
        return;
    }
    let count = &COUNTS[(after as usize).wrapping_mul(0x9e37_79b9) >> 7 & (COUNTED - 1)];
    if count.fetch_add(1, Relaxed) == OFTEN {
        // If there is no more room, it stays as it is.
        let _ = change(thread, after, room.start);
    }
}

/// Changes the place whose SYSCALL ends at `after`, if its bytes are what they must be.
fn change(thread: &Thread, after: u64, room: u64) -> Option<()> {
    let at = after - 2 - LEN;
    let bytes: [u8; 8] = UserPtr::new(at - 1).read().ok()?;
    let number = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
    // A byte before that would make it a load of another register; and whatever else could end so, EAX would be another.
    if !is_only_executable(at) {
        return None;
    }
    let rex = bytes[0] & 0xf0 == 0x40;
    if rex || bytes[1] != LOAD || bytes[6..] != [0x0f, 0x05] || thread.register(REG_RAX) != u64::from(number)
    {
        return None;
    }
    let _changing = CHANGING.lock().ok()?;
    let used = USED.load(Relaxed) as usize;
    let is_there = CHANGED[..used].iter().any(|(place, _)| place.load(Relaxed) == at);
    if is_there || used == PLACES {
        return None;
    }
    let stub = room + (used * STUB) as u64;
    let code = stub_code(stub, after, number);
    // SAFETY: the room is ours, and this part of it is not executed yet.
    unsafe { write_code(stub, &code) }?;
    let distance = i32::try_from(stub.wrapping_sub(at + LEN).cast_signed()).ok()?;
    CHANGED[used].0.store(at, Relaxed);
    CHANGED[used].1.store(number, Relaxed);
    USED.store(used as u32 + 1, Release);
    // SAFETY: the bytes are the load that was just read, in code of the client's; each state of them is complete, see above.
    unsafe {
        write_code(at, &[BREAK])?;
        membarrier(SYNCHRONIZE);
        write_code(at + 1, &distance.to_le_bytes())?;
        membarrier(SYNCHRONIZE);
        write_code(at, &[JUMP])?;
    }
    membarrier(SYNCHRONIZE);
    Some(())
}

/// Whether the page has the rights that it is given back: those of code.
fn is_only_executable(at: u64) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let holds = |line: &&str| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let (from, to) = (
            u64::from_str_radix(from, 16).ok()?,
            u64::from_str_radix(to, 16).ok()?,
        );
        Some((from..to).contains(&at))
    };
    let line = maps.lines().find(|line| holds(line) == Some(true));
    line.is_some_and(|line| line.contains(" r-xp "))
}

/// The instructions of a place, which are to lie at `stub`.
fn stub_code(stub: u64, after: u64, number: u32) -> Vec<u8> {
    let mut code = vec![LOAD];
    code.extend(number.to_le_bytes());
    // rdgsbase rcx; mov r11, gs:[this]
    code.extend([0xf3, 0x48, 0x0f, 0xae, 0xc9, 0x65, 0x4c, 0x8b, 0x1c, 0x25]);
    code.extend((offset_of!(Thread, this) as u32).to_le_bytes());
    // not r11; lea rcx, [rcx + r11 + 1]; not r11; jrcxz over the jump
    code.extend([
        0x49, 0xf7, 0xd3, 0x4a, 0x8d, 0x4c, 0x19, 0x01, 0x49, 0xf7, 0xd3, 0xe3, 0x05,
    ]);
    let ahead = |code: &[u8], to: u64| (to.wrapping_sub(stub + code.len() as u64 + 4) as u32).to_le_bytes();
    // jmp to the SYSCALL
    code.push(JUMP);
    code.extend(ahead(&code, after - 2));
    // lea rcx, [the address behind the SYSCALL]; jmp through the word that follows
    code.extend([0x48, 0x8d, 0x0d]);
    code.extend(ahead(&code, after));
    code.extend([0xff, 0x25, 0, 0, 0, 0]);
    code.extend(entry::enter().to_le_bytes());
    debug_assert!(code.len() <= STUB);
    code
}

/// # Safety
/// The bytes are code that may be so at any moment from now on, of a private mapping.
unsafe fn write_code(at: u64, bytes: &[u8]) -> Option<()> {
    let page = at & !(PAGE - 1);
    let len = (at + bytes.len() as u64 - page) as usize;
    let rights = MprotectFlags::READ | MprotectFlags::EXEC;
    // SAFETY: rights are added, and taken again; by contract.
    unsafe {
        mprotect(page as *mut c_void, len, rights | MprotectFlags::WRITE).ok()?;
        match bytes {
            [one] => (*(at as *mut u8 as *const std::sync::atomic::AtomicU8)).store(*one, Release),
            _ => std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()),
        }
        mprotect(page as *mut c_void, len, rights).ok()
    }
}

// Commands of membarrier: code that was written is what all threads of the process execute, once that is done.
const SYNCHRONIZE: u32 = 1 << 5;
const REGISTER: u32 = 1 << 6;

fn membarrier(command: u32) -> bool {
    // SAFETY: it has no effect but order.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

/// A signal by an instruction of a place that is being changed, or of one for which the GS base leads nowhere: says whether it was, and has
/// the client go on at its SYSCALL.
pub fn met(signal: i32, uc: &mut libc::ucontext_t) -> bool {
    let registers = &mut uc.uc_mcontext.gregs;
    let rip = registers[REG_RIP as usize] as u64;
    let used = USED.load(Acquire) as usize;
    let place = match signal {
        libc::SIGTRAP => CHANGED[..used]
            .iter()
            .find(|(at, _)| at.load(Relaxed) == rip.wrapping_sub(1)),
        libc::SIGSEGV if room().contains(&rip) => CHANGED.get((rip - room().start) as usize / STUB),
        _ => None,
    };
    let Some((at, number)) = place else {
        return false;
    };
    registers[REG_RAX as usize] = i64::from(number.load(Relaxed));
    registers[REG_RIP as usize] = (at.load(Relaxed) + LEN) as i64;
    true
}
