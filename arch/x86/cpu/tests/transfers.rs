//! Far transfers: call gates, virtual-8086 mode, task switches, the fast system calls, and the way up from real
//! mode.

mod machine;

use iced_x86::code_asm::*;
use machine::*;
use ring3_x86_cpu::state::*;

#[test]
fn call_gate_copies_parameters_and_returns() {
    let mut m = Machine::protected();
    m.world
        .poke64(GDT + u64::from(GATE), gate(CODE0, 0x5000, 0xec, 2));
    m.vector(0x80, gate(CODE0, 0x5800, 0xee, 0));
    m.code(32, 0x5800, |a| a.hlt());
    m.code(32, 0x5000, |a| {
        a.mov(eax, dword_ptr(esp + 8))?;
        a.mov(ecx, dword_ptr(esp + 12))?;
        a.mov(edx, cs)?;
        a.mov(esi, ss)?;
        a.retf_1(8)
    });
    m.code(32, 0x1000, |a| {
        a.push(0x11)?;
        a.push(0x22)?;
        // CALL GATE:0
        a.db(&[0x9a, 0, 0, 0, 0, GATE as u8 | 3, 0])?;
        a.mov(edi, esp)?;
        a.int(0x80)
    });
    m.user(0x1000, 0x7000);
    m.halt();
    let gpr = m.state().gpr;
    assert_eq!((gpr[RAX], gpr[RCX]), (0x22, 0x11));
    assert_eq!((gpr[RDX], gpr[RSI]), (u64::from(CODE0), u64::from(DATA0)));
    assert_eq!(gpr[RDI], 0x7000);
}

#[test]
fn long_call_gate_changes_stacks_and_returns() {
    let mut m = Machine::long();
    m.world
        .poke64(GDT + u64::from(GATE), gate(CODE0, 0x5000, 0xec, 0));
    m.world.poke64(GDT + u64::from(GATE) + 8, 0);
    m.vector64(0x80, 0x5800, 0xee, 0);
    m.code(64, 0x5800, |a| a.hlt());
    m.code(64, 0x5000, |a| {
        a.mov(rdx, rsp)?;
        a.db(&[0x48, 0xcb]) // RETFQ
    });
    m.code(64, 0x1000, |a| {
        a.mov(rax, 0x6000u64)?;
        a.mov(dword_ptr(rax), 0)?;
        a.mov(word_ptr(rax + 4), i32::from(GATE | 3))?;
        a.db(&[0xff, 0x18])?; // CALL FAR [RAX]
        a.mov(rdi, rsp)?;
        a.int(0x80)
    });
    m.user(0x1000, 0x7000);
    m.halt();
    assert_eq!(m.state().gpr[RDX], INNER_STACK - 32);
    assert_eq!(m.state().gpr[RDI], 0x7000);
}

#[test]
fn virtual_8086_round_trip() {
    let mut m = Machine::protected();
    m.vector(13, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| {
        a.mov(eax, ds)?;
        a.hlt()
    });
    // In virtual-8086 mode at 0100:0000, with IOPL 0: INT is the monitor's.
    m.code(16, 0x1_1000, |a| {
        a.mov(bx, es)?;
        a.mov(ax, 0x2000)?;
        a.mov(ds, eax)?;
        a.int(0x21)
    });
    m.code(32, 0x1000, |a| {
        for selector in [0x4000, 0x5000, 0x3000, 0x0abc, 0x0700] {
            a.push(selector)?;
        }
        a.push(0x100)?;
        a.push(0x2_0002)?;
        a.push(0x1100)?;
        a.push(0)?;
        a.iretd()
    });
    m.halt();
    assert_eq!(m.state().gpr[RBX], 0x0abc);
    assert_eq!(m.state().gpr[RAX], 0);
    assert!(!m.state().flags.has(flags::VM));
    let frame = m.words(INNER_STACK - 40, 4, 10);
    assert_eq!(frame[..3], [0, 0x8, 0x1100]);
    assert_eq!(frame[3] & (flags::VM | flags::RF), flags::VM | flags::RF);
    assert_eq!(frame[4..], [0x100, 0x0700, 0x0abc, 0x2000, 0x5000, 0x4000]);
}

fn second_task(m: &mut Machine, eip: u32) {
    m.world.poke64(GDT + u64::from(TASK2), system(TSS2, 0x67, 0x89));
    let mut tss = [0u32; 26];
    tss[8] = eip;
    tss[9] = 2;
    tss[10] = 0xaaaa;
    tss[14] = 0xb000; // ESP
    for n in [18, 20, 21, 22, 23] {
        tss[n] = u32::from(DATA0);
    }
    tss[19] = u32::from(CODE0);
    tss[25] = 0x68 << 16;
    for (n, word) in tss.into_iter().enumerate() {
        m.world.poke(TSS2 + 4 * n as u64, &word.to_le_bytes());
    }
}

#[test]
fn call_to_a_task_and_iret_back() {
    let mut m = Machine::protected();
    second_task(&mut m, 0x5000);
    m.code(32, 0x5000, |a| {
        a.pushfd()?;
        a.pop(ebx)?;
        a.mov(dword_ptr(0x6000), ebx)?;
        a.mov(dword_ptr(0x6004), eax)?;
        a.iretd()
    });
    m.code(32, 0x1000, |a| {
        a.mov(eax, 0x1234)?;
        a.db(&[0x9a, 0, 0, 0, 0, TASK2 as u8, 0])?;
        a.hlt()
    });
    m.halt();
    let seen = m.words(0x6000, 4, 2);
    assert_eq!(seen[0] & flags::NT, flags::NT);
    assert_eq!(seen[1], 0xaaaa);
    assert_eq!(m.state().gpr[RAX], 0x1234);
    assert_eq!(m.state().tr.selector, TASK);
    assert!(!m.state().flags.has(flags::NT));
    assert!(m.state().cr0 & CR0_TS != 0);
    // The first task is busy still, the second is not any more.
    assert_eq!(m.words(GDT + u64::from(TASK) + 5, 1, 1), [0x8b]);
    assert_eq!(m.words(GDT + u64::from(TASK2) + 5, 1, 1), [0x89]);
    // EIP in the second TSS: after its IRET.
    assert!(m.words(TSS2 + 0x20, 4, 1)[0] > 0x5000);
}

#[test]
fn jump_to_a_task_releases_the_old_one() {
    let mut m = Machine::protected();
    second_task(&mut m, 0x5000);
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x1000, |a| a.db(&[0xea, 0, 0, 0, 0, TASK2 as u8, 0]));
    m.halt();
    assert_eq!(m.state().tr.selector, TASK2);
    assert_eq!(m.words(GDT + u64::from(TASK) + 5, 1, 1), [0x89]);
    assert_eq!(m.words(GDT + u64::from(TASK2) + 5, 1, 1), [0x8b]);
    assert_eq!(m.words(TSS + 0x20, 4, 1), [0x1007]);
    assert!(!m.state().flags.has(flags::NT));
}

#[test]
fn fault_through_a_task_gate_pushes_its_error_code() {
    let mut m = Machine::protected();
    second_task(&mut m, 0x5000);
    m.vector(13, gate(TASK2, 0, 0x85, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.code(32, 0x1000, |a| {
        a.mov(eax, 0x88)?;
        a.mov(ds, eax)
    });
    m.halt();
    assert_eq!(m.state().tr.selector, TASK2);
    assert_eq!(m.words(0xb000 - 4, 4, 1), [0x88]);
    assert_eq!(m.words(TSS + 0x20, 4, 1), [0x1005]);
    assert_eq!(m.words(TSS2, 2, 1), [u64::from(TASK)]);
}

#[test]
fn a_bad_segment_in_a_new_task_is_that_tasks_fault() {
    let mut m = Machine::protected();
    second_task(&mut m, 0x5000);
    m.world.poke(TSS2 + 0x54, &0x88u32.to_le_bytes()); // DS
    m.vector(10, gate(CODE0, 0x5800, 0x8e, 0));
    m.code(32, 0x5800, |a| a.hlt());
    m.code(32, 0x1000, |a| a.db(&[0xea, 0, 0, 0, 0, TASK2 as u8, 0]));
    m.halt();
    assert_eq!(m.state().tr.selector, TASK2);
    assert_eq!(m.words(0xb000 - 16, 4, 2), [0x88, 0x5000]);
}

#[test]
fn syscall_and_sysret() {
    let mut m = Machine::long();
    m.vector64(0x80, 0x5800, 0xee, 0);
    m.code(64, 0x5800, |a| a.hlt());
    // SYSRET: SS = base + 8, CS = base + 16.
    m.state().msr.star = u64::from(DATA0 | 3) << 48 | u64::from(CODE0) << 32;
    m.state().msr.lstar = 0x5000;
    m.state().msr.fmask = flags::IF;
    m.code(64, 0x5000, |a| {
        a.pushfq()?;
        a.pop(rdx)?;
        a.mov(esi, cs)?;
        a.sysretq()
    });
    m.code(64, 0x1000, |a| {
        a.syscall()?;
        a.mov(edi, cs)?;
        a.int(0x80)
    });
    m.user(0x1000, 0x7000);
    m.halt();
    let gpr = m.state().gpr;
    assert_eq!(gpr[RCX], 0x1002);
    assert_eq!(gpr[11], flags::IF | 2);
    assert_eq!(gpr[RDX] & flags::IF, 0);
    assert_eq!(gpr[RSI], u64::from(CODE0));
    assert_eq!(gpr[RDI], u64::from(DATA0 + 16) | 3);
    assert_eq!(m.words(INNER_STACK - 24, 8, 1)[0] & flags::IF, flags::IF);
}

#[test]
fn from_real_mode_to_long_mode() {
    let mut m = Machine::real();
    for (n, row) in [0, flat(0x9b, 0xc), flat(0x93, 0xc), flat(0x9b, 0xa)]
        .into_iter()
        .enumerate()
    {
        m.world.poke64(GDT + 8 * n as u64, row);
    }
    m.world.poke(0x6000, &[0x1f, 0, 0x00, 0x20, 0, 0]);
    m.world.poke64(0x10_0000, 0x10_1003);
    m.world.poke64(0x10_1000, 0x10_2003);
    m.world.poke64(0x10_2000, 0x83);
    m.code(16, 0x1000, |a| {
        a.db(&[0x0f, 0x01, 0x16, 0x00, 0x60])?; // LGDT [6000]
        a.mov(eax, cr0)?;
        a.or(eax, 1)?;
        a.mov(cr0, eax)?;
        a.db(&[0x66, 0xea, 0, 0x11, 0, 0, 8, 0]) // JMP 8:1100
    });
    m.code(32, 0x1100, |a| {
        a.mov(eax, 0x10)?;
        a.mov(ds, eax)?;
        a.mov(ss, eax)?;
        a.mov(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, 0x10_0000)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xc000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 0x100)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32)?;
        a.mov(cr0, eax)?;
        a.db(&[0xea, 0, 0x12, 0, 0, 0x18, 0]) // JMP 18:1200
    });
    m.code(64, 0x1200, |a| {
        a.mov(rbx, 0x1234_5678_9abc_def0u64)?;
        a.hlt()
    });
    m.halt();
    assert!(m.state().code64());
    assert_eq!(m.state().gpr[RBX], 0x1234_5678_9abc_def0);
    assert_eq!(m.state().efer & EFER_LMA, EFER_LMA);
    assert_eq!(m.state().cpl(), 0);
}

#[test]
fn back_from_long_mode_to_protected_mode() {
    let mut m = Machine::long();
    m.world.poke64(GDT + u64::from(GATE), flat(0x9b, 0xc));
    m.code(64, 0x1000, |a| {
        a.push(i32::from(GATE))?;
        a.push(0x1100)?;
        a.db(&[0x48, 0xcb])
    });
    m.code(32, 0x1100, |a| {
        a.mov(eax, cr0)?;
        a.btr(eax, 31)?;
        a.mov(cr0, eax)?;
        a.hlt()
    });
    m.halt();
    assert!(!m.state().long_mode() && !m.state().paging());
}

#[test]
fn paging_with_long_mode_enabled_needs_pae() {
    let mut m = Machine::protected();
    m.vector(13, gate(CODE0, 0x5000, 0x8e, 0));
    m.code(32, 0x5000, |a| a.hlt());
    m.state().efer = EFER_LME;
    m.code(32, 0x1000, |a| {
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32)?;
        a.mov(cr0, eax)
    });
    m.halt();
    assert_eq!(m.words(0x8000 - 16, 4, 2), [0, 0x1008]);
    assert!(!m.state().paging());
}
