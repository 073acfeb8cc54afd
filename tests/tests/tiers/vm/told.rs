//! Code that a device writes while the guest runs, which is told of it and invalidates its translation.

use iced_x86::code_asm::*;
use ring3_client::VcpuExit;
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;

const ROUNDS: u64 = 30;
const FUNCTION: u64 = 0x20_0000;
const WINDOW: u64 = 0x80_0000_0000;

/// MOV EAX, value; RET
fn function(value: u64) -> [u8; 6] {
    [0xb8, value as u8, 0, 0, 0, 0xc3]
}

#[test]
fn is_executed_then() {
    // A device writes code and then a flag; the guest sees the flag, invalidates the translation, and calls.
    const FLAG: u64 = 0xa000;
    const DONE: u64 = 0xb000;
    let mut guest = Guest::new(1);
    guest.map(WINDOW, FUNCTION, P | W, Size::Small);
    guest.code(START, |a| {
        let (mut wait, mut good) = (a.create_label(), a.create_label());
        a.mov(r15, WINDOW)?;
        a.mov(ebx, 1)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(qword_ptr(FLAG), rbx)?;
        a.jne(wait)?;
        a.invlpg(byte_ptr(r15))?;
        a.call(r15)?;
        a.cmp(rax, rbx)?;
        a.je(good)?;
        a.ud2()?;
        a.set_label(&mut good)?;
        a.mov(qword_ptr(DONE), rbx)?;
        a.inc(ebx)?;
        a.cmp(ebx, ROUNDS as i32 + 1)?;
        a.jne(wait)?;
        a.hlt()
    });
    let mut ram = guest.ram.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 1..=ROUNDS {
                ram.0.write(FUNCTION as usize, &function(n)).expect("fits");
                ram.put(FLAG, n);
                while ram.get(DONE) != n {
                    std::thread::yield_now();
                    // The guest may have failed by now: then nobody answers, and the test has its reason.
                    if ram.get(DONE) == u64::MAX {
                        return;
                    }
                }
            }
        });
        let left = guest.vcpu().run();
        let rip = guest.vcpu().get_regs().expect("KVM_GET_REGS").rip;
        guest.ram.clone().put(DONE, u64::MAX);
        assert_eq!(left, Ok(VcpuExit::Hlt));
        assert!(!(TRAPS..=TRAPS + 256).contains(&rip), "stale code");
    });
}
