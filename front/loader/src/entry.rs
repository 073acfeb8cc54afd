//! Where the client's code ends and ring3's begins: the few instructions between them.
//!
//! Into ring3: [`enter`] keeps the client's registers in its [`Thread`], and calls the dispatcher on ring3's stack, with ring3's
//! thread-local storage. It wants what a SYSCALL instruction leaves behind, RCX with the address of the next one; R11 holds the thread.
//! Back to the client: [`leave`], which begins again from its start if a signal comes before it is done. All that has to be put
//! back is in the thread, so that costs nothing and loses nothing.
//!
//! The kernel lets all system calls pass that are made here, whatever the thread's selector says.

use crate::area;
use crate::dispatch::dispatch;
use crate::signal::{deliver, on_foreign_signal, on_signal};
use crate::thread::*;
use std::arch::global_asm;
use std::ffi::c_void;
use std::mem::offset_of;
use std::ops::Range;
use std::sync::atomic::AtomicU32;

/// Whether programs may change the FS base themselves. Words that the instructions below read.
pub static FSGSBASE: AtomicU32 = AtomicU32::new(0);
/// Which parts of the extended state XSAVE and XRSTOR are to deal with.
pub static PARTS: AtomicU32 = AtomicU32::new(0);
/// What MXCSR is for ring3.
static MXCSR: u32 = 0x1f80;

/// What a handler says of where to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Resume {
    /// Where it was interrupted.
    AsWas = 0,
    /// In the client, whatever it was before.
    Client = 1,
    /// In ring3.
    Host = 2,
}

const fn register(index: i32) -> usize {
    offset_of!(Thread, registers) + 8 * index as usize
}

global_asm!(
    ".pushsection .text.ring3_loader,\"ax\",@progbits",
    ".balign 64",
    ".globl ring3_loader_begin",
    ".hidden ring3_loader_begin",
    "ring3_loader_begin:",
    // Sets FS to RAX. RCX, RDI, RSI and R11 are lost.
    ".macro ring3_set_fs",
    "cmp dword ptr [rip + {fsgsbase}], 0",
    "je 8f",
    "wrfsbase rax",
    "jmp 9f",
    "8:",
    "mov rsi, rax",
    "mov edi, 0x1002",
    "mov eax, 158",
    "syscall",
    "9:",
    ".endm",
    //
    ".globl ring3_loader_enter",
    ".hidden ring3_loader_enter",
    "ring3_loader_enter:",
    "mov [r11 + {rax}], rax",
    "mov [r11 + {rbx}], rbx",
    "mov [r11 + {rcx}], rcx",
    "mov [r11 + {rdx}], rdx",
    "mov [r11 + {rsi}], rsi",
    "mov [r11 + {rdi}], rdi",
    "mov [r11 + {rbp}], rbp",
    "mov [r11 + {r8}], r8",
    "mov [r11 + {r9}], r9",
    "mov [r11 + {r10}], r10",
    "mov [r11 + {r12}], r12",
    "mov [r11 + {r13}], r13",
    "mov [r11 + {r14}], r14",
    "mov [r11 + {r15}], r15",
    "mov [r11 + {rip}], rcx",
    "mov [r11 + {rsp}], rsp",
    "mov rsp, [r11 + {host_stack}]",
    "pushfq",
    "pop [r11 + {flags}]",
    "mov rbx, r11",
    "mov byte ptr [rbx + {selector}], {allow}",
    "mov eax, [rip + {parts}]",
    "xor edx, edx",
    "xsave64 [rbx + {extended}]",
    // Without the instruction, only a system call can have changed it.
    "cmp dword ptr [rip + {fsgsbase}], 0",
    "je 2f",
    "rdfsbase rax",
    "mov [rbx + {client_fs}], rax",
    "2:",
    "mov rax, [rbx + {host_fs}]",
    "ring3_set_fs",
    "mov byte ptr [rbx + {state}], {at_host}",
    ".globl ring3_loader_entered",
    ".hidden ring3_loader_entered",
    "ring3_loader_entered:",
    "push 2",
    "popfq",
    "fninit",
    "ldmxcsr [rip + {mxcsr}]",
    "mov rdi, rbx",
    "call {dispatch}",
    "mov [rbx + {exit}], eax",
    "cmp eax, {exit_leave}",
    "je ring3_loader_end_run",
    "mov rdi, rbx",
    //
    ".globl ring3_loader_leave",
    ".hidden ring3_loader_leave",
    "ring3_loader_leave:",
    "mov rbx, rdi",
    "cmp qword ptr [rbx + {pending}], 0",
    "je 2f",
    "call {deliver}",
    "mov rdi, rbx",
    "jmp ring3_loader_leave",
    "2:",
    "cmp dword ptr [rbx + {exit}], {exit_frame}",
    "je 3f",
    "mov eax, [rip + {parts}]",
    "xor edx, edx",
    "xrstor64 [rbx + {extended}]",
    "mov rax, [rbx + {client_fs}]",
    "ring3_set_fs",
    "push [rbx + {flags}]",
    "popfq",
    "mov byte ptr [rbx + {state}], {at_client}",
    "mov byte ptr [rbx + {selector}], {block}",
    "mov rax, [rbx + {rax}]",
    "mov rdx, [rbx + {rdx}]",
    "mov rsi, [rbx + {rsi}]",
    "mov rdi, [rbx + {rdi}]",
    "mov rbp, [rbx + {rbp}]",
    "mov r8, [rbx + {r8}]",
    "mov r9, [rbx + {r9}]",
    "mov r10, [rbx + {r10}]",
    "mov r11, [rbx + {flags}]",
    "mov r12, [rbx + {r12}]",
    "mov r13, [rbx + {r13}]",
    "mov r14, [rbx + {r14}]",
    "mov r15, [rbx + {r15}]",
    "mov rcx, [rbx + {rip}]",
    "mov rsp, [rbx + {rsp}]",
    "mov rbx, [rbx + {rbx}]",
    "jmp rcx",
    "3:",
    "mov rax, [rbx + {client_fs}]",
    "ring3_set_fs",
    "mov byte ptr [rbx + {state}], {at_client}",
    "mov byte ptr [rbx + {selector}], {block}",
    "lea rsp, [rbx + {frame} + 8]",
    "mov eax, 15",
    "syscall",
    ".globl ring3_loader_left",
    ".hidden ring3_loader_left",
    "ring3_loader_left:",
    "ud2",
    //
    ".globl ring3_loader_run",
    ".hidden ring3_loader_run",
    "ring3_loader_run:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "mov [rdi + {host_stack}], rsp",
    "jmp ring3_loader_leave",
    "ring3_loader_end_run:",
    "mov rsp, [rbx + {host_stack}]",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    //
    ".globl ring3_loader_vfork",
    ".hidden ring3_loader_vfork",
    "ring3_loader_vfork:",
    "push rbx",
    "mov rbx, r9",
    "mov r10, rcx",
    "mov eax, 56",
    "syscall",
    "test eax, eax",
    "jz 2f",
    "pop rbx",
    "ret",
    "2:",
    "mov rdi, rbx",
    "call {vforked}",
    "mov rdi, rbx",
    "jmp ring3_loader_leave",
    //
    ".globl ring3_loader_call",
    ".hidden ring3_loader_call",
    "ring3_loader_call:",
    "push rbx",
    "mov rbx, rdi",
    "mov rax, [rsi]",
    "mov rdi, [rsi + 8]",
    "mov rdx, [rsi + 24]",
    "mov r10, [rsi + 32]",
    "mov r8, [rsi + 40]",
    "mov r9, [rsi + 48]",
    "mov rsi, [rsi + 16]",
    ".globl ring3_loader_calling",
    ".hidden ring3_loader_calling",
    "ring3_loader_calling:",
    "cmp qword ptr [rbx + {pending}], 0",
    "jne ring3_loader_not_called",
    "syscall",
    ".globl ring3_loader_called",
    ".hidden ring3_loader_called",
    "ring3_loader_called:",
    "pop rbx",
    "ret",
    ".globl ring3_loader_not_called",
    ".hidden ring3_loader_not_called",
    "ring3_loader_not_called:",
    "mov rax, {interrupted}",
    "pop rbx",
    "ret",
    //
    ".globl ring3_loader_signal",
    ".hidden ring3_loader_signal",
    "ring3_loader_signal:",
    "mov rax, rsp",
    "sub rax, [rip + {areas}]",
    "cmp rax, {all_areas}",
    "jae {foreign}",
    "push rbx",
    "push r12",
    "push r13",
    "sub rsp, 32",
    "mov rbx, rsp",
    "and rbx, {area_mask}",
    "movzx r13d, byte ptr [rbx + {selector}]",
    "mov byte ptr [rbx + {selector}], {allow}",
    "mov [rsp], rdi",
    "mov [rsp + 8], rsi",
    "mov [rsp + 16], rdx",
    "cmp dword ptr [rip + {fsgsbase}], 0",
    "je 2f",
    "rdfsbase r12",
    "jmp 3f",
    "2:",
    "lea rsi, [rsp + 24]",
    "mov edi, 0x1003",
    "mov eax, 158",
    "syscall",
    "mov r12, [rsp + 24]",
    "3:",
    "mov rax, [rbx + {host_fs}]",
    "ring3_set_fs",
    "mov rdi, [rsp]",
    "mov rsi, [rsp + 8]",
    "mov rdx, [rsp + 16]",
    "mov rcx, rbx",
    "mov r8, r12",
    "call {on_signal}",
    "cmp eax, {resume_client}",
    "jb 4f",
    "mov r13d, {allow}",
    "ja 5f",
    "mov r13d, {block}",
    "mov r12, [rbx + {client_fs}]",
    "4:",
    "mov rax, r12",
    "ring3_set_fs",
    "5:",
    "mov byte ptr [rbx + {selector}], r13b",
    "add rsp, 32",
    "pop r13",
    "pop r12",
    "pop rbx",
    "ret",
    // Unwinders know a signal frame by exactly these two instructions.
    "nop",
    ".globl ring3_loader_restorer",
    ".hidden ring3_loader_restorer",
    "ring3_loader_restorer:",
    "mov rax, 15",
    "syscall",
    // The kernel compares the address behind a call.
    "ud2",
    ".globl ring3_loader_end",
    ".hidden ring3_loader_end",
    "ring3_loader_end:",
    ".purgem ring3_set_fs",
    ".popsection",
    fsgsbase = sym FSGSBASE,
    parts = sym PARTS,
    mxcsr = sym MXCSR,
    areas = sym area::FIRST,
    all_areas = const area::ALL,
    area_mask = const -(area::SIZE as i64),
    dispatch = sym dispatch,
    deliver = sym deliver,
    on_signal = sym on_signal,
    foreign = sym on_foreign_signal,
    vforked = sym crate::calls::vforked,
    rax = const register(REG_RAX),
    rbx = const register(REG_RBX),
    rcx = const register(REG_RCX),
    rdx = const register(REG_RDX),
    rsi = const register(REG_RSI),
    rdi = const register(REG_RDI),
    rbp = const register(REG_RBP),
    rsp = const register(REG_RSP),
    r8 = const register(REG_R8),
    r9 = const register(REG_R9),
    r10 = const register(REG_R10),
    r12 = const register(REG_R12),
    r13 = const register(REG_R13),
    r14 = const register(REG_R14),
    r15 = const register(REG_R15),
    rip = const register(REG_RIP),
    flags = const register(REG_EFL),
    host_stack = const offset_of!(Thread, host_stack),
    host_fs = const offset_of!(Thread, host_fs),
    client_fs = const offset_of!(Thread, client_fs),
    extended = const offset_of!(Thread, extended),
    pending = const offset_of!(Thread, pending),
    state = const offset_of!(Thread, state),
    selector = const offset_of!(Thread, selector),
    exit = const offset_of!(Thread, exit),
    frame = const offset_of!(Thread, frame),
    allow = const ALLOW,
    block = const BLOCK,
    at_client = const AT_CLIENT,
    at_host = const AT_HOST,
    exit_frame = const Exit::Frame as u32,
    exit_leave = const Exit::Leave as u32,
    resume_client = const Resume::Client as u32,
    interrupted = const INTERRUPTED,
);

/// What [`call`] returns if a signal came before the kernel had done anything.
pub const INTERRUPTED: i64 = -512;

unsafe extern "C" {
    fn ring3_loader_begin();
    fn ring3_loader_end();
    fn ring3_loader_enter();
    fn ring3_loader_entered();
    fn ring3_loader_leave();
    fn ring3_loader_left();
    fn ring3_loader_run(thread: *const c_void);
    fn ring3_loader_vfork(
        flags: u64,
        stack: u64,
        parent: u64,
        child: u64,
        tls: u64,
        thread: *const c_void,
    ) -> i64;
    fn ring3_loader_call(thread: *const c_void, call: *const [u64; 7]) -> i64;
    fn ring3_loader_calling();
    fn ring3_loader_called();
    fn ring3_loader_not_called();
    fn ring3_loader_signal();
    fn ring3_loader_restorer();
}

/// A thread, as the instructions take it.
fn word(thread: &Thread) -> *const c_void {
    std::ptr::from_ref(thread).cast()
}

fn address(function: unsafe extern "C" fn()) -> u64 {
    function as *const () as u64
}

/// All of these instructions.
pub fn all() -> Range<u64> {
    address(ring3_loader_begin)..address(ring3_loader_end)
}

/// Where a client enters.
pub fn enter() -> u64 {
    address(ring3_loader_enter)
}

/// From there until it is known that ring3 is at work.
pub fn entering() -> Range<u64> {
    enter()..address(ring3_loader_entered)
}

/// Where a client is left to.
pub fn leave() -> u64 {
    address(ring3_loader_leave)
}

/// From there until the client is on its way.
pub fn leaving() -> Range<u64> {
    leave()..address(ring3_loader_left)
}

/// From where [`call`] looks for signals until the kernel has answered.
pub fn calling() -> Range<u64> {
    address(ring3_loader_calling)..address(ring3_loader_called)
}

/// Where [`call`] goes on if it is not to be made.
pub fn not_called() -> u64 {
    address(ring3_loader_not_called)
}

/// The kernel's handler of all signals, and where it returns to.
pub fn handler() -> (u64, u64) {
    (address(ring3_loader_signal), address(ring3_loader_restorer))
}

/// Runs the client on this thread, from where its registers say, until the thread ends.
///
/// # Safety
/// The registers are those of a client that may run, the thread is this one, and nothing on this stack is lost if it never returns.
pub unsafe fn run(thread: &Thread) {
    // SAFETY: by contract.
    unsafe { ring3_loader_run(word(thread)) };
}

/// A system call of the client's: number and arguments. It is not made if a signal waits, and is left by one that comes.
///
/// # Safety
/// What it does to memory and descriptors is what the client asked for, and none of ours.
pub unsafe fn call(thread: &Thread, call: &[u64; 7]) -> i64 {
    // SAFETY: by contract.
    unsafe { ring3_loader_call(word(thread), call) }
}

/// The clone system call for a child that shares memory with this process, and for which this thread waits. The child goes on as
/// `thread` says, on a stack of its own.
///
/// # Safety
/// The thread is one that nobody else uses, and the stack is large enough for ring3.
pub unsafe fn vfork(flags: u64, parent: u64, child: u64, thread: &Thread) -> i64 {
    // SAFETY: by contract.
    unsafe { ring3_loader_vfork(flags, thread.host_stack.get(), parent, child, 0, word(thread)) }
}
