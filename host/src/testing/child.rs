//! The child's side: a process that consists of one signal handler.
//!
//! After its preparations the child executes an INT3 and never leaves the handler but to run code: every exception of the
//! code's is a signal, whose frame holds all registers. The handler copies them to the mailbox, reports, waits for the
//! next work, puts the registers of that into the frame and returns; the kernel loads them. It works without the C
//! library and without thread-local storage, since FS and GS are the code's.

use super::direct::{Mailbox, Rights, Segment, SegmentKind, Trap, Window};
use crate::native::xsave::{XFEATURES, XSAVE_HEADER, component};
use crate::signal::FAULTS;
use crate::sys::{self, KernelAction, MaskHow, SA_ONSTACK, SA_RESTORER, SA_SIGINFO, SigSet};
use rustix::process::Pid;
use std::arch::asm;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize};

const SYS_READ: u64 = 0;
const SYS_WRITE: u64 = 1;
const SYS_MMAP: u64 = 9;
const SYS_RT_SIGRETURN: u64 = 15;
const SYS_FORK: u64 = 57;
const SYS_EXIT: u64 = 60;
const SYS_SIGALTSTACK: u64 = 131;
const SYS_MODIFY_LDT: u64 = 154;
const SYS_PRCTL: u64 = 157;
const SYS_ARCH_PRCTL: u64 = 158;
const SYS_CLOSE_RANGE: u64 = 436;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// RFLAGS bits that a signal's return leaves as they are: nested task and identification.
const STICKY_FLAGS: u64 = 1 << 14 | 1 << 21;
/// RFLAGS.AC, which would make our own unaligned accesses fault.
const AC: u64 = 1 << 18;

/// CS in the word of a frame that holds segment registers.
const SELECTOR: u64 = 0xffff;
/// Where SS is there.
const SS_SHIFT: u32 = 48;

/// In the legacy area of a frame: the words that describe the whole.
const FRAME_FEATURES: usize = 472;
/// The legacy area up to what the processor leaves to software.
const LEGACY: usize = 416;

/// What the child is to become.
pub(super) struct Plan<'a> {
    pub(super) mailbox: NonNull<Mailbox>,
    pub(super) memory: i32,
    pub(super) commands: i32,
    pub(super) reports: i32,
    pub(super) stack: u64,
    pub(super) stack_size: usize,
    pub(super) windows: &'a [Window],
    pub(super) segments: &'a [Segment],
}

// Written once, by the child, to its own copies.
static MAILBOX: AtomicPtr<Mailbox> = AtomicPtr::new(std::ptr::null_mut());
static COMMANDS: AtomicI32 = AtomicI32::new(-1);
static REPORTS: AtomicI32 = AtomicI32::new(-1);
/// Offset and size of each extended component in an image.
static COMPONENTS: [[AtomicUsize; 2]; 8] = [const { [const { AtomicUsize::new(0) }; 2] }; 8];

/// # Safety
/// As for the system call.
unsafe fn call(number: u64, a: [u64; 6]) -> i64 {
    let result: i64;
    // SAFETY: by contract; the kernel clobbers RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            in("rdi") a[0],
            in("rsi") a[1],
            in("rdx") a[2],
            in("r10") a[3],
            in("r8") a[4],
            in("r9") a[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn exit(status: u64) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { call(SYS_EXIT, [status, 0, 0, 0, 0, 0]) };
    }
}

/// Makes the child.
///
/// # Safety
/// The mailbox and the signal stack are mapped and nobody else's.
pub(super) unsafe fn fork(plan: &Plan<'_>) -> io::Result<Pid> {
    // The library may still have to find this out, which the child should not do.
    for (bit, row) in COMPONENTS.iter().enumerate() {
        if let Some((at, size)) = component(1 << bit) {
            row[0].store(at, Relaxed);
            row[1].store(size, Relaxed);
        }
    }
    // SAFETY: the child, a copy of this thread alone, makes system calls only, takes no lock, allocates nothing.
    match unsafe { call(SYS_FORK, [0; 6]) } {
        0 => {
            // SAFETY: by contract.
            unsafe { become_child(plan) }
        }
        error if error < 0 => Err(io::Error::from_raw_os_error(-error as i32)),
        pid => Pid::from_raw(pid as i32).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// # Safety
/// As for [`fork`]; in the child.
unsafe fn become_child(plan: &Plan<'_>) -> ! {
    MAILBOX.store(plan.mailbox.as_ptr(), Relaxed);
    COMMANDS.store(plan.commands, Relaxed);
    REPORTS.store(plan.reports, Relaxed);
    let mut ok = true;
    // SAFETY: each of these changes nothing but this process, in which nothing but this function runs.
    unsafe {
        ok &= call(
            SYS_PRCTL,
            [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0, 0, 0],
        ) == 0;
        for window in plan.windows {
            ok &= map(plan.memory, window);
        }
        let described = plan
            .segments
            .iter()
            .enumerate()
            .all(|(n, segment)| describe(n as u32, segment));
        (*plan.mailbox.as_ptr()).has_segments = described.into();
        close_others(plan);
        let stack = libc::stack_t {
            ss_sp: plan.stack as *mut _,
            ss_flags: 0,
            ss_size: plan.stack_size,
        };
        ok &= call(SYS_SIGALTSTACK, [(&raw const stack) as u64, 0, 0, 0, 0, 0]) == 0;
        let action = KernelAction {
            handler: on_exception as *const () as u64,
            flags: SA_SIGINFO | SA_ONSTACK | SA_RESTORER,
            restorer: sys::restorer(),
            mask: SigSet(u64::MAX),
        };
        for signal in (1..=64).filter(|signal| FAULTS.has(*signal)) {
            ok &= sys::sigaction(signal, Some(&action)).is_ok();
        }
        sys::sigprocmask(MaskHow::Set, SigSet(u64::MAX).without(FAULTS));
        ok &= lock_down();
    }
    if ok {
        // SAFETY: the handler takes over here.
        unsafe { asm!("int3") };
    }
    exit(1)
}

/// # Safety
/// In the child only.
unsafe fn map(memory: i32, window: &Window) -> bool {
    let rights = match window.rights {
        Rights::Read => libc::PROT_READ,
        Rights::Write => libc::PROT_READ | libc::PROT_WRITE,
        Rights::Execute => libc::PROT_READ | libc::PROT_EXEC,
    };
    // Present from the start: the code sees the faults of its own making only.
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE | libc::MAP_POPULATE;
    let (len, offset) = (window.pages * 4096, window.page * 4096);
    // SAFETY: the kernel refuses a place where there is something already.
    let at = unsafe {
        call(
            SYS_MMAP,
            [
                window.address,
                len as u64,
                rights as u64,
                flags as u64,
                memory as u64,
                offset as u64,
            ],
        )
    };
    at == window.address as i64
}

/// Enters a segment in the local descriptor table. Says whether the kernel did.
///
/// # Safety
/// In the child only.
unsafe fn describe(number: u32, segment: &Segment) -> bool {
    /// The new format of the kernel's `struct user_desc`.
    const WRITE: u64 = 0x11;
    // The fields after the limit: 32-bit no, contents, writable, limit in bytes, present.
    let contents = match segment.kind {
        SegmentKind::Code => 2 << 1,
        SegmentKind::Data => 0,
    };
    let row = [number, segment.base, segment.limit, contents];
    // SAFETY: the kernel reads sixteen bytes; nothing in this process uses the segment.
    unsafe { call(SYS_MODIFY_LDT, [WRITE, row.as_ptr() as u64, 16, 0, 0, 0]) == 0 }
}

/// Closes every descriptor but the two pipes.
///
/// # Safety
/// In the child only.
unsafe fn close_others(plan: &Plan<'_>) {
    let (low, high) = (
        plan.commands.min(plan.reports) as u64,
        plan.commands.max(plan.reports) as u64,
    );
    for (first, last) in [(0, low), (low + 1, high), (high + 1, 1 << 31)] {
        if first < last {
            // SAFETY: nothing in this process uses them.
            unsafe { call(SYS_CLOSE_RANGE, [first, last - 1, 0, 0, 0, 0]) };
        }
    }
}

/// From here on, any system call but those of the handler ends the process.
///
/// # Safety
/// In the child only.
unsafe fn lock_down() -> bool {
    const ALLOWED: [u64; 5] = [SYS_READ, SYS_WRITE, SYS_RT_SIGRETURN, SYS_ARCH_PRCTL, SYS_EXIT];
    /// AUDIT_ARCH_X86_64: 64-bit system calls.
    const ARCHITECTURE: u32 = 0xc000_003e;
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let give = (libc::BPF_RET | libc::BPF_K) as u16;
    let row = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [row(give, 0, 0, libc::SECCOMP_RET_KILL_PROCESS); 10];
    // The architecture, then the number; row 8 kills, row 9 allows.
    program[0] = row(load, 0, 0, 4);
    program[1] = row(equal, 0, 6, ARCHITECTURE);
    program[2] = row(load, 0, 0, 0);
    for (n, number) in ALLOWED.iter().enumerate() {
        program[3 + n] = row(equal, 5 - n as u8, 0, *number as u32);
    }
    program[9] = row(give, 0, 0, libc::SECCOMP_RET_ALLOW);
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the program outlives the call; only this process changes.
    unsafe {
        call(SYS_PRCTL, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0, 0]) == 0
            && call(
                SYS_PRCTL,
                [
                    libc::PR_SET_SECCOMP as u64,
                    libc::SECCOMP_MODE_FILTER.into(),
                    (&raw const program) as u64,
                    0,
                    0,
                    0,
                ],
            ) == 0
    }
}

/// Where the general registers are in a frame, in the encoding's order.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_exception(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: clears RFLAGS.AC, which the code may have set, before anything here touches memory out of line.
    unsafe {
        asm!(
            "pushfq",
            "and qword ptr [rsp], {keep}",
            "popfq",
            keep = const !(AC as i32),
        );
    }
    // SAFETY: the kernel passes a context, valid until we return and ours alone; the mailbox is mapped for good, and
    // the parent keeps its hands off it until the report.
    let (context, mailbox) = unsafe { (&mut *context, &mut *MAILBOX.load(Relaxed)) };
    save(context, mailbox);
    let byte = 0u8;
    // SAFETY: one byte of ours; the descriptor is ours.
    let told = unsafe {
        call(
            SYS_WRITE,
            [REPORTS.load(Relaxed) as u64, (&raw const byte) as u64, 1, 0, 0, 0],
        )
    };
    let mut byte = 0u8;
    // SAFETY: as above.
    let asked = unsafe {
        call(
            SYS_READ,
            [COMMANDS.load(Relaxed) as u64, (&raw mut byte) as u64, 1, 0, 0, 0],
        )
    };
    if told != 1 || asked != 1 {
        exit(0);
    }
    load(mailbox, context);
}

fn save(context: &libc::ucontext_t, mailbox: &mut Mailbox) {
    let gregs = &context.uc_mcontext.gregs;
    let registers = &mut mailbox.registers;
    for (to, from) in registers.gpr.iter_mut().zip(GREGS) {
        *to = gregs[from as usize] as u64;
    }
    registers.rip = gregs[libc::REG_RIP as usize] as u64;
    registers.rflags = gregs[libc::REG_EFL as usize] as u64;
    let segments = gregs[libc::REG_CSGSFS as usize] as u64;
    (registers.cs, registers.ss) = (segments & SELECTOR, segments >> SS_SHIFT);
    mailbox.trap = Trap {
        vector: gregs[libc::REG_TRAPNO as usize] as u64,
        error: gregs[libc::REG_ERR as usize] as u64,
        cr2: gregs[libc::REG_CR2 as usize] as u64,
    };
    // SAFETY: the kernel writes one word each.
    unsafe {
        call(
            SYS_ARCH_PRCTL,
            [ARCH_GET_FS, (&raw mut registers.fs_base) as u64, 0, 0, 0, 0],
        );
        call(
            SYS_ARCH_PRCTL,
            [ARCH_GET_GS, (&raw mut registers.gs_base) as u64, 0, 0, 0, 0],
        );
    }
    let frame = context.uc_mcontext.fpregs.cast::<u8>().cast_const();
    // SAFETY: the frame is an XSAVE image in the standard format, with its features at `FRAME_FEATURES`; only the
    // parts of components it has are copied, to the same place in an image that has room for all of ours.
    unsafe {
        let there = frame.add(FRAME_FEATURES).cast::<u64>().read_unaligned();
        let image = mailbox.image.as_mut_ptr();
        image.copy_from_nonoverlapping(frame, LEGACY);
        image.add(XSAVE_HEADER).write_bytes(0, 64);
        let used = frame.add(XSAVE_HEADER).cast::<u64>().read_unaligned();
        image
            .add(XSAVE_HEADER)
            .cast::<u64>()
            .write_unaligned(used & XFEATURES);
        for_components(there, |at, size| {
            image.add(at).copy_from_nonoverlapping(frame.add(at), size);
        });
    }
}

fn load(mailbox: &Mailbox, context: &mut libc::ucontext_t) {
    let gregs = &mut context.uc_mcontext.gregs;
    let registers = &mailbox.registers;
    for (from, to) in registers.gpr.iter().zip(GREGS) {
        gregs[to as usize] = *from as i64;
    }
    gregs[libc::REG_RIP as usize] = registers.rip as i64;
    gregs[libc::REG_EFL as usize] = registers.rflags as i64;
    let segments = &mut gregs[libc::REG_CSGSFS as usize];
    let others = *segments as u64 & !(SELECTOR | SELECTOR << SS_SHIFT);
    *segments = (others | registers.cs & SELECTOR | registers.ss << SS_SHIFT) as i64;
    let frame = context.uc_mcontext.fpregs.cast::<u8>();
    // SAFETY: as in `save`, the other way round. The words that describe the frame stay, so the kernel takes it back.
    unsafe {
        let there = frame.add(FRAME_FEATURES).cast::<u64>().read_unaligned();
        let image = mailbox.image.as_ptr();
        frame.copy_from_nonoverlapping(image, LEGACY);
        let header = frame.add(XSAVE_HEADER).cast::<u64>();
        let used = image.add(XSAVE_HEADER).cast::<u64>().read_unaligned();
        let others = header.read_unaligned() & !XFEATURES;
        header.write_unaligned(others | used & XFEATURES & there);
        for_components(there, |at, size| {
            frame.add(at).copy_from_nonoverlapping(image.add(at), size);
        });
    }
    // SAFETY: the code's segments and flags; nothing in this process uses FS, GS, NT or ID.
    unsafe {
        asm!(
            "mov ds, {selector:x}",
            "mov es, {selector:x}",
            "mov fs, {selector:x}",
            "mov gs, {selector:x}",
            selector = in(reg) registers.ds,
            options(nostack, preserves_flags),
        );
        if registers.ds == 0 {
            call(SYS_ARCH_PRCTL, [ARCH_SET_FS, registers.fs_base, 0, 0, 0, 0]);
            call(SYS_ARCH_PRCTL, [ARCH_SET_GS, registers.gs_base, 0, 0, 0, 0]);
        }
        asm!(
            "pushfq",
            "pop {now}",
            "and {now}, {others}",
            "or {now}, {wanted}",
            "push {now}",
            "popfq",
            now = out(reg) _,
            others = in(reg) !STICKY_FLAGS,
            wanted = in(reg) registers.rflags & STICKY_FLAGS,
        );
    }
}

/// Calls `copy` with offset and size of each extended component of ours that is there.
fn for_components(there: u64, mut copy: impl FnMut(usize, usize)) {
    for (bit, row) in COMPONENTS.iter().enumerate() {
        let size = row[1].load(Relaxed);
        if there & XFEATURES & 1 << bit != 0 && size != 0 {
            copy(row[0].load(Relaxed), size);
        }
    }
}
