//! Two processors, on two threads: one changes the other's code and page tables by the architecture's rules, and both
//! change the same words.

use iced_x86::code_asm::*;
use ring3_tests::bare::guest::{Guest, go_to, halt};
use ring3_tests::bare::places::*;

/// Words that both wait for; each in a line of its own.
const ASKED: u64 = 0xa000;
const ANSWERED: u64 = 0xa040;
const FUNCTION: u64 = 0x1_8000;
const SECOND: u64 = 0x1_4000;
const ROUNDS: u32 = 600;
const WINDOW: u64 = 0x80_0000_0000;

/// Runs the first processor at [`START`] and the other at [`SECOND`], both to their HLT.
fn both(guest: &Guest) {
    go_to(&guest.vcpus[1], SECOND, STACK - 0x1000);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| halt(&guest.vcpus[1]));
        halt(&guest.vcpus[0]);
        other.join().expect("the other processor");
    });
}

/// Waits until the word at `at` is EBX.
fn wait(a: &mut CodeAssembler, at: u64) -> Result<(), iced_x86::IcedError> {
    let (mut top, mut end) = (a.create_label(), a.create_label());
    // The assembler takes one label an instruction.
    a.nop()?;
    a.set_label(&mut top)?;
    a.cmp(dword_ptr(at), ebx)?;
    a.je(end)?;
    a.pause()?;
    a.jmp(top)?;
    a.set_label(&mut end)?;
    a.nop()
}

/// A loop that has EBX count up to [`ROUNDS`].
fn rounds(
    a: &mut CodeAssembler,
    body: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Result<(), iced_x86::IcedError> {
    let mut top = a.create_label();
    a.mov(ebx, 1)?;
    a.set_label(&mut top)?;
    body(a)?;
    a.inc(ebx)?;
    a.cmp(ebx, ROUNDS as i32 + 1)?;
    a.jne(top)?;
    a.hlt()
}

/// Calls the function and stops in UD2 unless it leaves EBX in EAX.
fn expect(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    let mut good = a.create_label();
    a.call(FUNCTION)?;
    a.cmp(eax, ebx)?;
    a.je(good)?;
    a.ud2()?;
    a.set_label(&mut good)?;
    a.nop()
}

#[test]
fn changes_code_and_says_so() {
    // MOV EAX, imm32; RET. The other serializes before it executes what it was told of.
    let mut guest = Guest::new(2);
    guest.code(FUNCTION, |a| {
        a.mov(eax, 0)?;
        a.ret()
    });
    guest.code(START, |a| {
        rounds(a, |a| {
            a.mov(dword_ptr(FUNCTION + 1), ebx)?;
            a.mov(dword_ptr(ASKED), ebx)?;
            wait(a, ANSWERED)
        })
    });
    guest.code(SECOND, |a| {
        rounds(a, |a| {
            wait(a, ASKED)?;
            a.mov(esi, ebx)?;
            a.xor(eax, eax)?;
            a.cpuid()?;
            a.mov(ebx, esi)?;
            expect(a)?;
            a.mov(dword_ptr(ANSWERED), ebx)
        })
    });
    both(&guest);
}

#[test]
fn changes_code_that_the_other_never_stops_executing() {
    // One aligned byte: the old or the new instruction, nothing else, and in the end the new one.
    let mut guest = Guest::new(2);
    guest.code(FUNCTION, |a| {
        a.mov(al, 0)?;
        a.ret()
    });
    guest.code(START, |a| {
        a.mov(ebp, 40)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        let mut top = a.create_label();
        a.mov(ebx, 1)?;
        a.set_label(&mut top)?;
        a.mov(byte_ptr(FUNCTION + 1), bl)?;
        let mut delay = a.create_label();
        a.mov(ecx, 200)?;
        a.set_label(&mut delay)?;
        a.pause()?;
        a.dec(ecx)?;
        a.jne(delay)?;
        a.inc(ebx)?;
        a.cmp(ebx, 0x80)?;
        a.jne(top)?;
        a.dec(ebp)?;
        a.jne(again)?;
        a.mov(byte_ptr(FUNCTION + 1), 0xff)?;
        a.hlt()
    });
    guest.code(SECOND, |a| {
        let (mut top, mut good) = (a.create_label(), a.create_label());
        a.set_label(&mut top)?;
        a.call(FUNCTION)?;
        a.cmp(al, 0xffu32)?;
        a.je(good)?;
        a.test(al, al)?;
        a.jns(top)?;
        a.ud2()?;
        a.set_label(&mut good)?;
        a.hlt()
    });
    both(&guest);
}

#[test]
fn patches_a_long_instruction_behind_a_breakpoint() {
    // As Linux does: INT3 on the first byte, then the tail, then the first byte. The trap's handler waits.
    const HANDLER: u64 = 0x1_c000;
    let mut guest = Guest::new(2);
    gate(&mut guest.ram, 3, HANDLER, 0x8e, 1);
    // MOV R8, imm64; RET: the constant must always be one value eight times.
    guest.code(FUNCTION, |a| {
        a.mov(r8, 0x0101_0101_0101_0101u64)?;
        a.ret()
    });
    guest.code(HANDLER, |a| {
        // Back to the breakpoint.
        a.inc(qword_ptr(0xb000))?;
        a.dec(qword_ptr(rsp))?;
        a.pause()?;
        a.iretq()
    });
    guest.code(START, |a| {
        let mut top = a.create_label();
        a.mov(ebx, 1)?;
        a.set_label(&mut top)?;
        a.mov(byte_ptr(FUNCTION), 0xcc)?;
        a.mfence()?;
        a.movzx(eax, bl)?;
        a.mov(rdx, 0x0101_0101_0101_0101u64)?;
        a.imul_2(rax, rdx)?;
        a.mov(qword_ptr(FUNCTION + 2), rax)?;
        a.mfence()?;
        a.mov(byte_ptr(FUNCTION), 0x49)?;
        a.inc(ebx)?;
        a.cmp(ebx, ROUNDS as i32)?;
        a.jne(top)?;
        a.mov(dword_ptr(ASKED), 1)?;
        a.hlt()
    });
    guest.code(SECOND, |a| {
        let (mut top, mut good) = (a.create_label(), a.create_label());
        a.mov(r9, 0x0101_0101_0101_0101u64)?;
        a.set_label(&mut top)?;
        a.call(FUNCTION)?;
        a.movzx(eax, r8b)?;
        a.imul_2(rax, r9)?;
        a.cmp(rax, r8)?;
        a.je(good)?;
        a.ud2()?;
        a.set_label(&mut good)?;
        a.cmp(dword_ptr(ASKED), 1)?;
        a.jne(top)?;
        a.hlt()
    });
    both(&guest);
}

#[test]
fn changes_a_page_table_and_says_so() {
    // The other invalidates its own translation, as the handler of an interrupt would.
    let mut guest = Guest::new(2);
    let pages = [0x20_0000, 0x20_1000];
    let entry = guest.map(WINDOW, pages[0], P | W, Size::Small);
    for (n, page) in pages.into_iter().enumerate() {
        // MOV EAX, imm32; RET: as code, and as data at its second byte.
        guest
            .ram
            .0
            .write(page as usize, &[0xb8, n as u8, 0, 0, 0, 0xc3])
            .expect("fits");
    }
    guest.code(START, |a| {
        rounds(a, |a| {
            a.mov(eax, ebx)?;
            a.and(eax, 1)?;
            a.shl(eax, 12)?;
            a.or(eax, (pages[0] | P | W | A | D) as i32)?;
            a.mov(qword_ptr(entry), rax)?;
            a.mov(dword_ptr(ASKED), ebx)?;
            wait(a, ANSWERED)
        })
    });
    guest.code(SECOND, |a| {
        let mut bad = a.create_label();
        a.mov(r15, WINDOW)?;
        rounds(a, |a| {
            wait(a, ASKED)?;
            a.invlpg(byte_ptr(r15))?;
            a.mov(ecx, ebx)?;
            a.and(ecx, 1)?;
            a.cmp(dword_ptr(r15 + 1), ecx)?;
            a.jne(bad)?;
            a.call(r15)?;
            a.cmp(eax, ecx)?;
            a.jne(bad)?;
            a.mov(dword_ptr(ANSWERED), ebx)
        })?;
        a.set_label(&mut bad)?;
        a.ud2()
    });
    both(&guest);
}

#[test]
fn both_count_in_the_same_words() {
    const WORDS: u64 = 0xb000;
    const LOCK: u64 = 0xb100;
    const EACH: u32 = 60_000;
    let mut guest = Guest::new(2);
    let program = |a: &mut CodeAssembler| {
        let (mut top, mut spin, mut taken, mut again) = (
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
        );
        a.mov(r12d, EACH)?;
        a.set_label(&mut top)?;
        a.lock().inc(qword_ptr(WORDS))?;
        a.mov(eax, 3)?;
        a.lock().xadd(qword_ptr(WORDS + 8), rax)?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(WORDS + 16))?;
        a.lea(rcx, ptr(rax + 5))?;
        a.lock().cmpxchg(qword_ptr(WORDS + 16), rcx)?;
        a.jne(again)?;
        // A lock, and in it an addition that is not atomic.
        a.set_label(&mut spin)?;
        a.mov(eax, 1)?;
        a.xchg(dword_ptr(LOCK), eax)?;
        a.test(eax, eax)?;
        a.je(taken)?;
        a.pause()?;
        a.jmp(spin)?;
        a.set_label(&mut taken)?;
        a.add(qword_ptr(WORDS + 24), 7)?;
        a.mov(dword_ptr(LOCK), 0)?;
        a.dec(r12d)?;
        a.jne(top)?;
        a.hlt()
    };
    guest.code(START, program);
    guest.code(SECOND, program);
    both(&guest);
    let expected = [1, 3, 5, 7].map(|each| 2 * u64::from(EACH) * each);
    let found = [0, 8, 16, 24].map(|offset| guest.word(WORDS + offset));
    assert_eq!(found, expected);
}
