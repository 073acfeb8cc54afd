//! Rights in hot loops: SMAP and SMEP, NX and CR0.WP, and level 3 and level 0 taking turns.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{self, Build, Machine, on_every_tier};
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 40;
const HANDLER: u64 = 0x1_8000;
/// Pages of level 3: code, data and stack.
const USER_CODE: u64 = 0x90_0000_0000;
const USER_DATA: u64 = USER_CODE + 0x10_0000;
const USER_STACK: u64 = USER_CODE + 0x20_0000;
const CODE_PAGE: u64 = 0x20_0000;
const DATA_PAGE: u64 = 0x21_0000;
const STACK_PAGE: u64 = 0x22_0000;

/// Maps the pages of level 3 and returns where the entries of code and data lie.
fn user_pages(m: &mut Machine) -> (u64, u64) {
    let code = m.map(USER_CODE, CODE_PAGE, P | W | U, Size::Small);
    let data = m.map(USER_DATA, DATA_PAGE, P | W | U | NX, Size::Small);
    m.map(USER_STACK, STACK_PAGE, P | W | U | NX, Size::Small);
    (code, data)
}

/// A handler of page faults that counts them in R10, sums up their error codes in R11, and goes on `skip` bytes later.
fn count_and_skip(m: &mut Machine, skip: i32) {
    m.vector(14, HANDLER, 1);
    m.code(HANDLER, |a| {
        a.inc(r10)?;
        a.add(r11, qword_ptr(rsp))?;
        a.add(rsp, 8)?;
        a.add(qword_ptr(rsp), skip)?;
        a.iretq()
    });
}

fn repeat(m: &mut Machine, body: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) {
    m.code(START, |a| {
        a.mov(rdi, USER_DATA)?;
        bare::repeat(a, ROUNDS as u32, body)
    });
}

fn switch_on(m: &mut Machine, bits: u64) {
    m.state().cr4 |= bits;
    m.cpu.core.refresh();
}

#[test]
fn stac_and_clac_in_a_loop() {
    on_every_tier(|m| {
        user_pages(m);
        switch_on(m, CR4_SMAP);
        count_and_skip(m, 3);
        m.world.put(DATA_PAGE, 5);
        repeat(m, |a| {
            a.stac()?;
            a.add(r12, qword_ptr(rdi))?;
            a.mov(qword_ptr(rdi + 8), rbx)?;
            a.clac()?;
            // Three bytes each; the first is refused as a read, the second as a write.
            a.mov(rax, qword_ptr(rdi))?;
            a.mov(qword_ptr(rdi), rax)
        });
        m.halt();
        assert_eq!(m.gpr(12), 5 * ROUNDS);
        assert_eq!((m.gpr(10), m.gpr(11)), (2 * ROUNDS, (1 + 3) * ROUNDS));
        assert_eq!(m.word(DATA_PAGE + 8), 1);
    });
}

#[test]
fn alignment_is_checked_where_ac_is_on() {
    // RFLAGS.AC is SMAP's at level 0 and the alignment check's at level 3.
    on_every_tier(|m| {
        user_pages(m);
        switch_on(m, CR4_SMAP);
        m.state().cr0 |= CR0_AM;
        m.code_at(CODE_PAGE, USER_CODE, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.mov(rax, qword_ptr(rdi))?;
            a.dec(ebx)?;
            a.jne(top)?;
            a.mov(rax, qword_ptr(rdi + 1))?;
            a.pushfq()?;
            a.or(dword_ptr(rsp), flags::AC as i32)?;
            a.popfq()?;
            a.mov(rax, qword_ptr(rdi + 8))?;
            a.mov(rax, qword_ptr(rdi + 1))
        });
        let gpr = &mut m.state().gpr;
        (gpr[RBX], gpr[RDI]) = (ROUNDS, USER_DATA);
        m.user(USER_CODE, USER_STACK + PAGE);
        let trap = m.trap();
        assert_eq!((trap.vector, trap.error), (17, 0));
        assert_ne!(trap.rflags & flags::AC, 0);
    });
}

#[test]
fn implicit_accesses_of_the_processor_ignore_ac() {
    for (smap, faults) in [(0, 0), (CR4_SMAP, ROUNDS)] {
        on_every_tier(|m| {
            user_pages(m);
            switch_on(m, smap);
            count_and_skip(m, 2);
            // A local descriptor table in a page of level 3, with a segment of data.
            m.world.put(DATA_PAGE, 0x00cf_f300_0000_ffff);
            m.state().ldtr = Segment {
                selector: TASK,
                base: USER_DATA,
                limit: 0xfff,
                attributes: Attributes(0x82),
            };
            repeat(m, |a| {
                a.stac()?;
                a.mov(eax, 7)?;
                a.mov(rcx, qword_ptr(rdi))?;
                a.mov(ds, eax)?;
                a.mov(rcx, qword_ptr(rdi))?;
                a.clac()
            });
            m.halt();
            assert_eq!((m.gpr(10), m.gpr(11)), (faults, faults));
        });
    }
}

#[test]
fn smep_goes_on_and_off() {
    on_every_tier(|m| {
        user_pages(m);
        m.vector(14, HANDLER, 1);
        // Back to where the call came from.
        m.code(HANDLER, |a| {
            a.inc(r10)?;
            a.add(r11, qword_ptr(rsp))?;
            a.mov(rax, qword_ptr(rsp + 0x20))?;
            a.mov(rcx, qword_ptr(rax))?;
            a.mov(qword_ptr(rsp + 8), rcx)?;
            a.add(qword_ptr(rsp + 0x20), 8)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        m.code_at(CODE_PAGE, USER_CODE, |a| {
            a.inc(r12)?;
            a.ret()
        });
        repeat(m, |a| {
            a.mov(rdx, USER_CODE)?;
            a.call(rdx)?;
            a.mov(rax, cr4)?;
            a.xor(rax, CR4_SMEP as i32)?;
            a.mov(cr4, rax)?;
            a.call(rdx)
        });
        m.halt();
        assert_eq!((m.gpr(10), m.gpr(11)), (ROUNDS, 0x11 * ROUNDS));
        assert_eq!(m.gpr(12), ROUNDS);
    });
}

#[test]
fn write_protection_goes_on_and_off() {
    on_every_tier(|m| {
        m.map(USER_DATA, DATA_PAGE, P, Size::Small);
        count_and_skip(m, 3);
        repeat(m, |a| {
            a.add(qword_ptr(rdi), rbx)?;
            a.mov(rax, cr0)?;
            a.xor(rax, CR0_WP as i32)?;
            a.mov(cr0, rax)
        });
        m.halt();
        // Every other store, from the second on.
        let stored: u64 = (1..=ROUNDS).filter(|n| n % 2 == 1).sum();
        assert_eq!(m.word(DATA_PAGE), stored);
        assert_eq!((m.gpr(10), m.gpr(11)), (ROUNDS / 2, 3 * ROUNDS / 2));
    });
}

#[test]
fn level_3_does_not_see_what_level_0_just_used() {
    const SECRET: u64 = USER_DATA + 0x10_0000;
    on_every_tier(|m| {
        user_pages(m);
        m.map(SECRET, DATA_PAGE + PAGE, P | W, Size::Small);
        m.world.put(DATA_PAGE + PAGE, 77);
        m.vector(0x80, 0x1_9000, 0);
        m.code(0x1_9000, |a| {
            a.add(r13, qword_ptr(rsi))?;
            a.add(qword_ptr(rsi + 8), 1)?;
            a.iretq()
        });
        count_and_skip(m, 3);
        m.code_at(CODE_PAGE, USER_CODE, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.int(0x80)?;
            a.mov(rax, qword_ptr(rsi))?;
            a.mov(qword_ptr(rsi), rax)?;
            a.dec(ebx)?;
            a.jne(top)?;
            a.int(0x81)
        });
        let gpr = &mut m.state().gpr;
        (gpr[RBX], gpr[RSI]) = (ROUNDS, SECRET);
        m.user(USER_CODE, USER_STACK + PAGE);
        assert_eq!(m.trap().vector, 0x81);
        assert_eq!(m.gpr(13), 77 * ROUNDS);
        assert_eq!((m.gpr(10), m.gpr(11)), (2 * ROUNDS, (5 + 7) * ROUNDS));
        assert_eq!(m.gpr(RAX), 0);
    });
}

/// Ways of level 3 to level 0 and back; the handler's code ends in the second.
const WAYS: [(&str, Build, Build); 2] = [
    ("SYSCALL and SYSRET", |a| a.syscall(), |a| a.sysretq()),
    ("INT and IRET", |a| a.int(0x80), |a| a.iretq()),
];

#[test]
fn rights_that_system_calls_change() {
    // Each call takes the page of data away, or its executable neighbour's right to be executed; faults bring them back.
    for (name, there, back) in WAYS {
        println!("{name}");
        on_every_tier(|m| {
            let (_, data) = user_pages(m);
            let function = USER_CODE + 5 * PAGE;
            let code = m.map(function, CODE_PAGE + 5 * PAGE, P | W | U, Size::Small);
            m.world.poke(CODE_PAGE + 5 * PAGE, &[0xc3]);
            m.state().msr.lstar = 0x1_9000;
            m.vector(0x80, 0x1_9000, 0);
            m.code(0x1_9000, |a| {
                a.xor(qword_ptr(data), (P | W) as i32)?;
                a.btc(qword_ptr(code), 63)?;
                a.invlpg(byte_ptr(rdi))?;
                a.invlpg(byte_ptr(rdx))?;
                back(a)
            });
            m.vector(14, HANDLER, 1);
            m.code(HANDLER, |a| give_back(a, data, code));
            m.code_at(CODE_PAGE, USER_CODE, |a| {
                let mut top = a.create_label();
                a.set_label(&mut top)?;
                a.add(qword_ptr(rdi), rbx)?;
                a.call(rdx)?;
                there(a)?;
                a.add(qword_ptr(rdi), rbx)?;
                a.call(rdx)?;
                a.dec(ebx)?;
                a.jne(top)?;
                a.int(0x81)
            });
            let gpr = &mut m.state().gpr;
            (gpr[RBX], gpr[RDI], gpr[RDX]) = (ROUNDS, USER_DATA, function);
            m.user(USER_CODE, USER_STACK + PAGE);
            assert_eq!(m.trap().vector, 0x81);
            assert_eq!(m.word(DATA_PAGE), ROUNDS * (ROUNDS + 1));
            // A write that finds no page, and a fetch of what must not be executed.
            assert_eq!((m.gpr(10), m.gpr(13)), (2 * ROUNDS, (6 + 0x15) * ROUNDS));
        });
    }
}

/// A handler that makes both pages usable and counts in R10 and R13; SYSCALL has R11.
fn give_back(a: &mut CodeAssembler, data: u64, code: u64) -> Result<(), IcedError> {
    let mut fetch = a.create_label();
    let mut end = a.create_label();
    a.inc(r10)?;
    a.add(r13, qword_ptr(rsp))?;
    a.test(dword_ptr(rsp), 0x10)?;
    a.jne(fetch)?;
    a.or(qword_ptr(data), (P | W) as i32)?;
    a.jmp(end)?;
    a.set_label(&mut fetch)?;
    a.btr(qword_ptr(code), 63)?;
    a.set_label(&mut end)?;
    a.invlpg(byte_ptr(rdi))?;
    a.invlpg(byte_ptr(rdx))?;
    a.add(rsp, 8)?;
    a.iretq()
}

#[test]
fn both_levels_execute_the_same_code() {
    on_every_tier(|m| {
        user_pages(m);
        m.vector(0x80, 0x1_9000, 0);
        m.code(0x1_9000, |a| {
            a.call(rdx)?;
            a.iretq()
        });
        // Where the function is called from shows in CS.
        m.code_at(CODE_PAGE + 0x800, USER_CODE + 0x800, |a| {
            a.mov(eax, cs)?;
            a.and(eax, 3)?;
            a.add(r12, rax)?;
            a.inc(r13)?;
            a.add(qword_ptr(rdi), 1)?;
            a.ret()
        });
        m.code_at(CODE_PAGE, USER_CODE, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.call(rdx)?;
            a.int(0x80)?;
            a.dec(ebx)?;
            a.jne(top)?;
            a.int(0x81)
        });
        let gpr = &mut m.state().gpr;
        (gpr[RBX], gpr[RDI], gpr[RDX]) = (ROUNDS, USER_DATA, USER_CODE + 0x800);
        m.user(USER_CODE, USER_STACK + PAGE);
        assert_eq!(m.trap().vector, 0x81);
        assert_eq!((m.gpr(12), m.gpr(13)), (3 * ROUNDS, 2 * ROUNDS));
        assert_eq!(m.word(DATA_PAGE), 2 * ROUNDS);
    });
}

#[test]
fn privileged_instructions_fault_at_level_3_however_hot() {
    on_every_tier(|m| {
        user_pages(m);
        m.vector(13, HANDLER, 1);
        // Instructions of two bytes, or three, all with the same handler: the address after each is in R14.
        m.code(HANDLER, |a| {
            a.inc(r10)?;
            a.add(rsp, 8)?;
            a.mov(qword_ptr(rsp), r14)?;
            a.iretq()
        });
        let privileged: [Build; 7] = [
            |a| a.cli(),
            |a| a.hlt(),
            |a| a.mov(rax, cr3),
            |a| a.wrmsr(),
            |a| a.invlpg(byte_ptr(rdi)),
            |a| a.mov(rax, dr7),
            |a| a.in_(al, 0x60u32),
        ];
        m.code_at(CODE_PAGE, USER_CODE, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            for instruction in privileged {
                let mut next = a.create_label();
                a.lea(r14, ptr(next))?;
                instruction(a)?;
                a.set_label(&mut next)?;
                a.nop()?;
            }
            a.dec(ebx)?;
            a.jne(top)?;
            a.int(0x81)
        });
        let gpr = &mut m.state().gpr;
        (gpr[RBX], gpr[RDI]) = (ROUNDS, USER_DATA);
        m.user(USER_CODE, USER_STACK + PAGE);
        assert_eq!(m.trap().vector, 0x81);
        assert_eq!(m.gpr(10), 7 * ROUNDS);
    });
}

#[test]
fn hot_code_of_level_0_at_level_1() {
    const CODE1: u64 = 0x38;
    const DATA1: u64 = 0x40;
    on_every_tier(|m| {
        m.world.put(GDT + CODE1, 0x00af_bb00_0000_ffff);
        m.world.put(GDT + DATA1, 0x00cf_b300_0000_ffff);
        m.state().gdtr.limit = 0x47;
        m.code(HANDLER, |a| {
            a.cli()?;
            a.ret()
        });
        m.code(START, |a| {
            let mut top = a.create_label();
            a.mov(ebx, ROUNDS as u32)?;
            a.set_label(&mut top)?;
            a.call(HANDLER)?;
            a.dec(ebx)?;
            a.jne(top)?;
            a.push(DATA1 as i32 | 1)?;
            a.push(STACK as i32)?;
            a.push(2)?;
            a.push(CODE1 as i32 | 1)?;
            a.push(HANDLER as i32)?;
            a.iretq()
        });
        // IOPL is zero.
        let trap = m.trap();
        assert_eq!((trap.vector, trap.rip, trap.cs), (13, HANDLER, CODE1 | 1));
    });
}
