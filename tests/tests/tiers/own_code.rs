//! Programs that change themselves: what was stored is executed, be it the very next instruction.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, assemble, on_every_tier};
use ring3_x86_cpu::state::*;

const ROUNDS: u64 = 40;
/// Another linear address of the page of code at [`START`].
const ALIAS: u64 = 0x20_0000_0000;

/// Every way to store CL to the byte at RDI; all may change RAX, RSI and what is at [`SCRATCH`].
const STORES: [(&str, Build); 12] = [
    ("mov", |a| a.mov(byte_ptr(rdi), cl)),
    ("mov, eight bytes", |a| {
        a.mov(rax, qword_ptr(rdi))?;
        a.mov(al, cl)?;
        a.mov(qword_ptr(rdi), rax)
    }),
    ("xchg", |a| {
        a.mov(eax, ecx)?;
        a.xchg(byte_ptr(rdi), al)
    }),
    ("and, or", |a| {
        a.and(byte_ptr(rdi), 0)?;
        a.or(byte_ptr(rdi), cl)
    }),
    ("lock xadd", |a| {
        a.mov(eax, ecx)?;
        a.sub(al, byte_ptr(rdi))?;
        a.lock().xadd(byte_ptr(rdi), al)
    }),
    ("cmpxchg", |a| {
        a.mov(al, byte_ptr(rdi))?;
        a.lock().cmpxchg(byte_ptr(rdi), cl)
    }),
    ("push", |a| {
        a.mov(rax, qword_ptr(rdi))?;
        a.mov(al, cl)?;
        a.mov(rsi, rsp)?;
        a.lea(rsp, ptr(rdi + 8))?;
        a.push(rax)?;
        a.mov(rsp, rsi)
    }),
    ("stos", |a| {
        a.mov(eax, ecx)?;
        a.stosb()
    }),
    ("rep movs", |a| {
        a.mov(byte_ptr(SCRATCH), cl)?;
        a.mov(esi, SCRATCH as i32)?;
        a.xchg(rcx, rdx)?;
        a.mov(ecx, 1)?;
        a.rep().movsb()?;
        a.xchg(rcx, rdx)
    }),
    ("sixteen bytes", |a| {
        a.movups(xmm1, xmmword_ptr(rdi))?;
        a.movd(xmm2, ecx)?;
        a.movss(xmm0, xmm1)?;
        a.psrldq(xmm0, 1)?;
        a.pslldq(xmm0, 1)?;
        a.por(xmm0, xmm2)?;
        a.movss(xmm1, xmm0)?;
        a.movups(xmmword_ptr(rdi), xmm1)
    }),
    ("setcc, shl", |a| {
        a.mov(byte_ptr(rdi), cl)?;
        a.cmp(rsp, 0)?;
        a.setne(byte_ptr(SCRATCH))?;
        a.movzx(eax, byte_ptr(SCRATCH))?;
        a.xor(eax, 1)?;
        a.add(byte_ptr(rdi), al)
    }),
    ("bts", |a| {
        a.and(byte_ptr(rdi), 0)?;
        a.bsr(eax, ecx)?;
        a.bts(dword_ptr(rdi), eax)?;
        a.or(byte_ptr(rdi), cl)
    }),
];

const SCRATCH: u64 = 0x9000;
const R15: usize = 15;

/// Runs a loop that stores its counter, by `store`, into an instruction; `around` has the loop.
fn sum(m: &mut Machine, store: Build, around: fn(&mut CodeAssembler, Build) -> Result<(), IcedError>) {
    m.state().gpr[RCX] = ROUNDS;
    m.state().rip = START;
    m.code(START, |a| around(a, store));
    m.halt();
}

/// ADD RBX, imm32, with the label at its immediate.
fn add_patched(a: &mut CodeAssembler, immediate: &mut CodeLabel) -> Result<(), IcedError> {
    a.db(&[0x48, 0x81, 0xc3])?;
    a.set_label(immediate)?;
    a.dd(&[0])
}

#[test]
fn the_very_next_instruction() {
    for (name, store) in STORES {
        println!("{name}");
        on_every_tier(|m| {
            sum(m, store, |a, store| {
                let (mut top, mut patched) = (a.create_label(), a.create_label());
                a.set_label(&mut top)?;
                a.lea(rdi, ptr(patched))?;
                store(a)?;
                add_patched(a, &mut patched)?;
                a.dec(ecx)?;
                a.jne(top)?;
                a.hlt()
            });
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2, "{name}");
        });
    }
}

#[test]
fn a_later_instruction_of_the_block() {
    for (name, store) in STORES {
        on_every_tier(|m| {
            sum(m, store, |a, store| {
                let (mut top, mut patched) = (a.create_label(), a.create_label());
                a.set_label(&mut top)?;
                a.lea(rdi, ptr(patched))?;
                store(a)?;
                a.mov(rdx, qword_ptr(rsp - 8))?;
                a.lea(r15, ptr(rdx + 5))?;
                a.mov(qword_ptr(rsp - 8), r15)?;
                add_patched(a, &mut patched)?;
                a.dec(ecx)?;
                a.jne(top)?;
                a.hlt()
            });
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2, "{name}");
            assert_eq!(m.gpr(R15), 5 * ROUNDS);
        });
    }
}

#[test]
fn an_earlier_instruction_of_the_block() {
    for (name, store) in STORES {
        on_every_tier(|m| {
            sum(m, store, |a, store| {
                let (mut top, mut patched) = (a.create_label(), a.create_label());
                a.set_label(&mut top)?;
                add_patched(a, &mut patched)?;
                a.lea(rdi, ptr(patched))?;
                store(a)?;
                a.dec(ecx)?;
                a.jne(top)?;
                a.hlt()
            });
            // The last counter is stored, but no longer added.
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2 - 1, "{name}");
        });
    }
}

#[test]
fn an_instruction_that_runs_into_the_page_stored_to() {
    const ACROSS: u64 = 0x1_8000 - 3;
    for (name, store) in STORES {
        on_every_tier(|m| {
            m.code(ACROSS, |a| {
                let mut patched = a.create_label();
                add_patched(a, &mut patched)?;
                a.dec(ecx)?;
                a.jne(START)?;
                a.hlt()
            });
            sum(m, store, |a, store| {
                a.mov(edi, ACROSS as i32 + 3)?;
                store(a)?;
                a.jmp(ACROSS)
            });
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2, "{name}");
        });
    }
}

#[test]
fn another_block_that_is_jumped_to_directly() {
    for (name, store) in STORES {
        on_every_tier(|m| {
            sum(m, store, |a, store| {
                let (mut top, mut patched, mut other) =
                    (a.create_label(), a.create_label(), a.create_label());
                a.set_label(&mut top)?;
                a.lea(rdi, ptr(patched))?;
                store(a)?;
                a.test(ecx, ecx)?;
                a.jne(other)?;
                a.hlt()?;
                a.set_label(&mut other)?;
                add_patched(a, &mut patched)?;
                a.dec(ecx)?;
                a.jmp(top)
            });
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2, "{name}");
        });
    }
}

#[test]
fn a_function_on_another_page() {
    const FUNCTION: u64 = START + 3 * PAGE + 0x40;
    for (name, store) in STORES {
        on_every_tier(|m| {
            m.code(FUNCTION, |a| {
                let mut patched = a.create_label();
                add_patched(a, &mut patched)?;
                a.ret()
            });
            sum(m, store, |a, store| {
                let mut top = a.create_label();
                a.set_label(&mut top)?;
                a.mov(edi, FUNCTION as i32 + 3)?;
                store(a)?;
                a.call(FUNCTION)?;
                a.dec(ecx)?;
                a.jne(top)?;
                a.hlt()
            });
            assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2, "{name}");
        });
    }
}

#[test]
fn through_another_linear_address() {
    on_every_tier(|m| {
        m.map(ALIAS, START, P | W, Size::Small);
        m.state().gpr[RCX] = ROUNDS;
        m.code(START, |a| {
            let (mut top, mut patched, mut next) = (a.create_label(), a.create_label(), a.create_label());
            a.set_label(&mut top)?;
            a.lea(rdi, ptr(patched))?;
            a.mov(rax, ALIAS - START)?;
            a.mov(byte_ptr(rdi + rax), cl)?;
            // The architecture promises it only after a jump or something that serializes.
            a.jmp(next)?;
            a.set_label(&mut next)?;
            add_patched(a, &mut patched)?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!(m.gpr(RBX), ROUNDS * (ROUNDS + 1) / 2);
    });
}

#[test]
fn a_store_that_runs_into_the_page_of_code() {
    const CODE: u64 = START + 2 * PAGE;
    on_every_tier(|m| {
        // MOV EBX, imm32 with its immediate in the page's first bytes, reached over the page's start.
        m.code(CODE - 1, |a| {
            a.mov(ebx, 0)?;
            a.add(rdx, rbx)?;
            a.ret()
        });
        m.state().gpr[RCX] = ROUNDS;
        m.code(START, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.mov(rax, rcx)?;
            a.shl(rax, 8)?;
            a.mov(al, 0xbb)?;
            a.mov(dword_ptr(CODE - 1), eax)?;
            a.call(CODE - 1)?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        assert_eq!(m.gpr(RDX), ROUNDS * (ROUNDS + 1) / 2);
    });
}

#[test]
fn data_beside_code() {
    on_every_tier(|m| {
        m.state().gpr[RCX] = 2000;
        m.code(START, |a| {
            let (mut top, mut near) = (a.create_label(), a.create_label());
            a.set_label(&mut top)?;
            // In the same line of 64 bytes, and in another one of the page.
            a.add(qword_ptr(near), rcx)?;
            a.add(qword_ptr(START + 0x800), rcx)?;
            a.dec(ecx)?;
            a.jne(top)?;
            a.hlt()?;
            a.set_label(&mut near)?;
            a.dq(&[0])
        });
        m.halt();
        assert_eq!(m.word(START + 0x800), 2000 * 2001 / 2);
    });
}

#[test]
fn whole_functions_are_replaced() {
    const BUFFER: u64 = START + 5 * PAGE;
    on_every_tier(|m| {
        let variants: Vec<Vec<u8>> = (1..=3u32)
            .map(|n| {
                assemble(BUFFER, |a| {
                    for _ in 0..n {
                        a.add(rbx, 1 << (8 * n))?;
                    }
                    a.ret()
                })
            })
            .collect();
        for (n, code) in variants.iter().enumerate() {
            m.world.poke(0xa000 + 0x100 * n as u64, code);
        }
        m.state().gpr[RDX] = 300;
        m.code(START, |a| {
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            for n in 0..3u64 {
                a.mov(esi, 0xa000 + 0x100 * n as i32)?;
                a.mov(edi, BUFFER as i32)?;
                a.mov(ecx, 0x100 / 8)?;
                a.rep().movsq()?;
                a.call(BUFFER)?;
                a.call(BUFFER)?;
            }
            a.dec(edx)?;
            a.jne(top)?;
            a.hlt()
        });
        m.halt();
        let each = |n: u64| (2 * 300 * n) << (8 * n);
        assert_eq!(m.gpr(RBX), each(1) + each(2) + each(3));
    });
}
