//! Signal frames, as the kernel lays them: what a handler of the client's finds on its stack, and what it returns from.

use crate::area;
use crate::entry::PARTS;
use crate::thread::*;
use ring3_host::mem::HostFault;
use ring3_host::signal::{Action, SigSet};
use ring3_host::user::UserPtr;
use std::sync::atomic::Ordering::Relaxed;

// A frame: the address to return to, a ucontext, a siginfo.
const CONTEXT: usize = 8;
const STACK: usize = CONTEXT + 16;
const REGISTERS: usize = CONTEXT + 40;
const EXTENDED: usize = REGISTERS + 8 * 23;
const MASK: usize = CONTEXT + 296;
const INFO: usize = CONTEXT + 304;
const SIZE: usize = INFO + 128;

/// The extended state is there, SS is valid, and is to be restored strictly.
const CONTEXT_FLAGS: u64 = 7;
/// CS and SS of 64-bit programs, as a frame has them in one word.
const SEGMENTS: u64 = 0x002b_0000_0000_0033;
/// DF, TF and RF are off in a handler.
const OFF_IN_HANDLER: u64 = 1 << 10 | 1 << 8 | 1 << 16;
/// What the ABI keeps below the stack pointer.
const RED_ZONE: u64 = 128;

// Where the legacy part of the extended state says what follows it.
const MXCSR: usize = 24;
const SOFTWARE: usize = 464;
const HEADER: usize = 512;
const MAGIC: u32 = 0x4650_5853;
const END_MAGIC: u32 = 0x4650_5845;

const SA_RESTORER: u64 = 0x0400_0000;
const SA_ONSTACK: u64 = libc::SA_ONSTACK as u64;
const SA_NODEFER: u64 = libc::SA_NODEFER as u64;
const SS_AUTODISARM: u64 = 1 << 31;

/// Where an extended state is, and how long it is with all that a frame has of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    at: *mut u8,
    len: usize,
}

impl State {
    /// As the kernel has put it into a frame.
    pub(super) fn of_kernel(at: *mut u8) -> State {
        if at.is_null() {
            return State { at, len: 0 };
        }
        // SAFETY: the kernel's, of 512 bytes at least.
        let software = unsafe { &*at.add(SOFTWARE).cast::<[u32; 2]>() };
        let len = if software[0] == MAGIC {
            software[1] as usize
        } else {
            512
        };
        State { at, len }
    }

    /// As [`format`] has made it.
    pub(super) fn of_thread(extended: &Extended) -> State {
        Self::of_kernel(extended.0.get().cast())
    }

    /// # Safety
    /// Nobody writes it meanwhile.
    pub(super) unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the bytes are there by how it was made, and by contract.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    /// Makes it what it is at the beginning of a handler, or of a program.
    ///
    /// # Safety
    /// Nobody else uses it meanwhile.
    pub(super) unsafe fn reset(self) {
        if self.len > HEADER + 8 {
            // SAFETY: as above.
            unsafe {
                self.at.add(HEADER).cast::<u64>().write(0);
                self.at.add(MXCSR).cast::<u32>().write(0x1f80);
            }
        }
    }
}

/// Makes a thread's extended state what it is at the beginning of a handler, or of a program.
pub fn reset(extended: &Extended) {
    format(extended);
    // SAFETY: the thread's own, and nobody else looks at it.
    unsafe { State::of_thread(extended).reset() };
}

/// Bytes that XSAVE writes for the parts that we have it write.
fn xsave_size() -> usize {
    let parts = PARTS.load(Relaxed);
    let of_part = |part: u32| {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, part);
        (leaf.eax + leaf.ebx) as usize
    };
    (2..32)
        .filter(|part| parts & 1 << part != 0)
        .map(of_part)
        .max()
        .unwrap_or(0)
        .max(HEADER + 64)
}

/// Marks a thread's extended state as the kernel does in a frame.
pub fn format(extended: &Extended) {
    let size = xsave_size_once();
    let at = extended.0.get().cast::<u8>();
    // SAFETY: within the thread's own buffer, of which XSAVE leaves the words for software alone.
    unsafe {
        let software = at.add(SOFTWARE).cast::<u32>();
        software.write(MAGIC);
        software.add(1).write(size as u32 + 4);
        software
            .add(2)
            .cast::<u64>()
            .write_unaligned(u64::from(PARTS.load(Relaxed)));
        software.add(4).write(size as u32);
        at.add(size).cast::<u32>().write_unaligned(END_MAGIC);
    }
}

fn xsave_size_once() -> usize {
    use std::sync::atomic::AtomicUsize;
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    let known = SIZE.load(Relaxed);
    if known != 0 {
        return known;
    }
    let size = xsave_size().min(Extended::SIZE - 4);
    SIZE.store(size, Relaxed);
    size
}

/// What a handler interrupts.
pub(super) struct Interrupted<'a> {
    pub(super) registers: &'a Registers,
    pub(super) extended: &'a [u8],
    /// What is blocked again when it returns.
    pub(super) mask: u64,
}

/// Whether the stack pointer is on the client's own signal stack.
fn on_signal_stack(thread: &Thread, pointer: u64) -> bool {
    let [at, flags, size] = thread.signal_stack.get();
    flags & (libc::SS_DISABLE as u64 | SS_AUTODISARM) == 0 && pointer.wrapping_sub(at).wrapping_sub(1) < size
}

/// The client's signal stack as it would read it, its stack pointer being there.
pub(super) fn signal_stack(thread: &Thread, pointer: u64) -> [u64; 3] {
    let [at, flags, size] = thread.signal_stack.get();
    let on = if on_signal_stack(thread, pointer) {
        libc::SS_ONSTACK as u64
    } else {
        0
    };
    [at, flags | on, size]
}

/// Puts the client into a handler: lays the frame, changes the mask, and says what its registers are then.
pub(super) fn push(
    thread: &Thread,
    signal: i32,
    info: &Info,
    action: &Action,
    was: &Interrupted<'_>,
) -> Result<Registers, HostFault> {
    if action.flags & SA_RESTORER == 0 {
        return Err(HostFault);
    }
    let pointer = was.registers[REG_RSP as usize];
    let [at, flags, size] = thread.signal_stack.get();
    let there = on_signal_stack(thread, pointer);
    let switch = action.flags & SA_ONSTACK != 0 && flags & libc::SS_DISABLE as u64 == 0 && !there;
    let top = if switch {
        at + size
    } else {
        pointer.wrapping_sub(RED_ZONE)
    };
    let extended = top.wrapping_sub(was.extended.len() as u64) & !63;
    let frame = (extended.wrapping_sub(SIZE as u64) & !15).wrapping_sub(8);
    if (there || switch) && frame.wrapping_sub(at) >= size {
        return Err(HostFault);
    }
    let mut bytes = [0; SIZE];
    let mut put = |at: usize, words: &[u64]| {
        words.iter().enumerate().for_each(|(n, word)| {
            bytes[at + 8 * n..at + 8 * n + 8].copy_from_slice(&word.to_le_bytes());
        });
    };
    put(0, &[action.restorer, CONTEXT_FLAGS, 0]);
    put(STACK, &signal_stack(thread, pointer));
    put(REGISTERS, was.registers);
    put(REGISTERS + 8 * REG_CSGSFS as usize, &[SEGMENTS]);
    let at_extended = if was.extended.is_empty() { 0 } else { extended };
    put(EXTENDED, &[at_extended]);
    put(MASK, &[was.mask]);
    put(INFO, info);
    UserPtr::new(extended).write_bytes(was.extended)?;
    UserPtr::new(frame).write_bytes(&bytes)?;
    if switch && flags & SS_AUTODISARM != 0 {
        thread.signal_stack.set([0, libc::SS_DISABLE as u64, 0]);
    }
    let itself = if action.flags & SA_NODEFER == 0 {
        SigSet::of(signal)
    } else {
        SigSet::EMPTY
    };
    let mask = SigSet(thread.mask.load(Relaxed)).with(action.mask).with(itself);
    thread
        .mask
        .store(mask.without(ring3_host::signal::UNBLOCKABLE).0, Relaxed);

    let mut registers = *was.registers;
    registers[REG_RIP as usize] = action.handler;
    registers[REG_RSP as usize] = frame;
    registers[REG_RDI as usize] = signal as u64;
    registers[REG_RSI as usize] = frame + INFO as u64;
    registers[REG_RDX as usize] = frame + CONTEXT as u64;
    registers[REG_RAX as usize] = 0;
    registers[REG_EFL as usize] &= !OFF_IN_HANDLER;
    Ok(registers)
}

/// The client's handler returns: takes its frame, which begins below the stack pointer, into the thread, as the kernel is to return from it.
pub fn returned_from(thread: &Thread) -> Result<(), HostFault> {
    let frame = thread.register(REG_RSP).wrapping_sub(8);
    let mut bytes = [0; SIZE];
    UserPtr::new(frame).read_bytes(&mut bytes)?;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    let extended = word(EXTENDED);
    let stack = [word(STACK), word(STACK + 8), word(STACK + 16)];
    let mask = SigSet(word(MASK)).without(ring3_host::signal::UNBLOCKABLE).0;

    let to = thread.frame.0.get().cast::<u8>();
    let mut at_extended = 0;
    if extended != 0 {
        let len = extended_len(extended)?;
        // SAFETY: behind the frame's fixed part, at a multiple of 64, and cut to fit.
        let room = unsafe { std::slice::from_raw_parts_mut(to.add(STATE), len.min(Frame::SIZE - STATE)) };
        UserPtr::new(extended).read_bytes(room)?;
        at_extended = room.as_ptr() as u64;
    }
    let ours = area::signal_stack(thread);
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(CONTEXT, CONTEXT_FLAGS);
    put(STACK, ours.ss_sp as u64);
    put(STACK + 8, 0);
    put(STACK + 16, ours.ss_size as u64);
    put(EXTENDED, at_extended);
    put(MASK, super::for_kernel(mask));
    put(REGISTERS + 8 * REG_CSGSFS as usize, SEGMENTS);
    // SAFETY: the thread's own buffer, which begins with the fixed part.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, SIZE) };
    thread.mask.store(mask, Relaxed);
    let flags = stack[1] & (libc::SS_DISABLE as u64 | SS_AUTODISARM);
    thread.signal_stack.set([stack[0], flags, stack[2]]);
    Ok(())
}

/// Where the extended state is in the thread's own frame.
const STATE: usize = SIZE.next_multiple_of(64);

fn extended_len(at: u64) -> Result<usize, HostFault> {
    let software: [u32; 2] = UserPtr::new(at).offset(SOFTWARE as u64).read()?;
    Ok(if software[0] == MAGIC {
        software[1] as usize
    } else {
        512
    })
}

/// What is in the thread's own frame: where the client was to go on.
pub(super) fn in_frame(thread: &Thread) -> (Registers, State, u64) {
    let from = thread.frame.0.get().cast::<u8>();
    // SAFETY: the thread's own buffer, filled by `returned_from`.
    unsafe {
        let registers = from.add(REGISTERS).cast::<Registers>().read();
        let extended = from.add(EXTENDED).cast::<u64>().read();
        (
            registers,
            State::of_kernel(extended as *mut u8),
            thread.mask.load(Relaxed),
        )
    }
}
