//! Accesses that leave memory: pages where devices are, and operands that lie half in memory and half there.

use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, on_every_tier, repeat};
use ring3_x86_cpu::Leave;
use ring3_x86_cpu::state::*;

/// A page of memory, and behind it one where a device is.
const MEMORY: u64 = 0x80_0000_0000;
const DEVICE: u64 = MEMORY + PAGE;
const FRAME: u64 = 0x20_0000;
const REGISTERS: u64 = 0xd000_0000;

fn prepare(m: &mut Machine) {
    m.map(MEMORY, FRAME, P | W, Size::Small);
    m.map(DEVICE, REGISTERS, P | W, Size::Small);
    m.state().gpr[RDI] = DEVICE;
}

/// Answers all reads alike, and lets writes pass; returns how often the client was needed.
fn serve(m: &mut Machine, answer: u64) -> u64 {
    let mut exits = 0;
    loop {
        match m.run() {
            Leave::Halted => return exits,
            Leave::Paused => {
                exits += 1;
                assert!(exits < 10_000, "it does not end");
                m.world.answer(answer);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Every way to read from a device, with the size of the access.
const READS: [(&str, Build); 7] = [
    ("mov", |a| a.mov(rax, qword_ptr(rdi))),
    ("movzx", |a| a.movzx(eax, word_ptr(rdi))),
    ("cmp", |a| a.cmp(dword_ptr(rdi), 0x1234_5678)),
    ("test", |a| a.test(byte_ptr(rdi), 8)),
    ("adc", |a| a.adc(rax, qword_ptr(rdi))),
    ("pop", |a| {
        a.mov(rbp, rsp)?;
        a.mov(rsp, rdi)?;
        a.pop(rax)?;
        a.mov(rsp, rbp)
    }),
    ("movq", |a| {
        a.movq(xmm0, qword_ptr(rdi))?;
        a.movq(rax, xmm0)
    }),
];

#[test]
fn reads_in_a_hot_loop() {
    for (name, read) in READS {
        println!("{name}");
        on_every_tier(|m| {
            prepare(m);
            m.code(START, |a| {
                repeat(a, 30, |a| {
                    a.mov(eax, ebx)?;
                    a.cmp(eax, 7)?;
                    read(a)?;
                    // What the access left, and flags of its or of before.
                    a.lahf()?;
                    a.rol(r14, 3)?;
                    a.xor(r14, rax)?;
                    Ok(())
                })
            });
            assert!(serve(m, 0x8877_6655_1234_5678) >= 1);
        });
    }
}

#[test]
fn writes_in_a_hot_loop() {
    let writes: [Build; 6] = [
        |a| a.mov(qword_ptr(rdi), rbx),
        |a| a.mov(byte_ptr(rdi + 3), bl),
        |a| a.movups(xmmword_ptr(rdi), xmm1),
        |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, ptr(rdi + 8))?;
            a.push(rbx)?;
            a.mov(rsp, rbp)
        },
        |a| a.setb(byte_ptr(rdi)),
        |a| {
            a.mov(rax, rbx)?;
            a.push(rdi)?;
            a.stosd()?;
            a.pop(rdi)
        },
    ];
    for write in writes {
        on_every_tier(|m| {
            prepare(m);
            m.code(START, |a| {
                repeat(a, 30, |a| {
                    a.cmp(ebx, 15)?;
                    write(a)?;
                    a.adc(r14, 0)?;
                    Ok(())
                })
            });
            assert_eq!(serve(m, 0), 30);
            assert_eq!(m.gpr(14), 14, "the carry of the comparison");
        });
    }
}

#[test]
fn the_instruction_behind_an_access_is_told() {
    on_every_tier(|m| {
        prepare(m);
        m.code(START, |a| {
            repeat(a, 30, |a| {
                a.mov(rax, qword_ptr(rdi))?;
                a.nop()?;
                a.mov(qword_ptr(rdi), rbx)
            })
        });
        serve(m, 0);
        // Behind a move of five bytes, and one byte apart.
        let (read, write) = (START + 5, START + 9);
        assert_eq!(m.world.retired_at, [read, write].repeat(30));
    });
}

#[test]
fn operands_half_in_memory() {
    // Four bytes in memory, the others the device's.
    let accesses: [(&str, Build); 8] = [
        ("a load", |a| a.mov(rax, qword_ptr(rdi - 4))),
        ("a store", |a| a.mov(qword_ptr(rdi - 4), rbx)),
        ("a load of sixteen bytes", |a| {
            a.movups(xmm0, xmmword_ptr(rdi - 4))?;
            a.movq(rax, xmm0)
        }),
        ("a store of sixteen bytes", |a| {
            a.movq(xmm0, rbx)?;
            a.movups(xmmword_ptr(rdi - 4), xmm0)
        }),
        ("a push", |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, ptr(rdi + 4))?;
            a.push(rbx)?;
            a.mov(rsp, rbp)
        }),
        ("a pop", |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, ptr(rdi - 4))?;
            a.pop(rax)?;
            a.mov(rsp, rbp)
        }),
        ("an addition", |a| a.add(qword_ptr(rdi - 4), rbx)),
        ("an exchange", |a| {
            a.mov(rax, rbx)?;
            a.xchg(qword_ptr(rdi - 4), rax)
        }),
    ];
    for (name, access) in accesses {
        println!("{name}");
        on_every_tier(|m| {
            prepare(m);
            m.world.put(FRAME + PAGE - 8, 0x4433_2211_0000_0000);
            m.code(START, |a| {
                repeat(a, 25, |a| {
                    a.cmp(ebx, 7)?;
                    access(a)?;
                    a.lahf()?;
                    a.rol(r14, 3)?;
                    a.xor(r14, rax)?;
                    Ok(())
                })
            });
            assert!(serve(m, 0x8877_6655) >= 1);
        });
    }
}

#[test]
fn a_read_that_waits_for_its_answer_has_done_nothing() {
    on_every_tier(|m| {
        prepare(m);

        m.code(START, |a| {
            repeat(a, 20, |a| {
                a.inc(r13)?;
                a.push(rbx)?;
                a.cmp(bl, 0x80)?;
                // RIP here is what the test looks at.
                a.add(rax, qword_ptr(rdi))?;
                a.pop(rdx)?;
                Ok(())
            })
        });
        let mut rounds = 0;
        while m.run() == Leave::Paused {
            rounds += 1;
            // MOV EBX, INC, PUSH and CMP are 5, 3, 1 and 3 bytes long.
            assert_eq!(m.state().rip, START + 12);
            assert_eq!((m.gpr(13), m.gpr(RSP)), (rounds, STACK - 8));
            assert_eq!(m.gpr(RAX), 3 * (rounds - 1));
            // 20 - 80H and so on: a borrow, a sign, an overflow.
            assert_eq!(m.state().rflags() & 0x881, 0x881);
            m.world.answer(3);
        }
        assert_eq!((rounds, m.gpr(RAX)), (20, 60));
    });
}
