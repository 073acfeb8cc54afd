//! The x87 and MMX state, which translated code keeps in the host's unit: across whatever ends that, with pointers and pending
//! exceptions as the interpreter has them.

use fastrand::Rng;
use iced_x86::code_asm::*;
use iced_x86::{Encoder, IcedError, Instruction, Mnemonic, OpCodeOperandKind};
use ring3_tests::bare::places::*;
use ring3_tests::bare::snapshot::{Snapshot, vector_differences};
use ring3_tests::bare::tiers::AnyTier;
use ring3_tests::bare::{Machine, on_every_tier, repeat};
use ring3_tests::oracle::forms::{Family, Form, of_family};
use ring3_tests::oracle::program::instruction;
use ring3_tests::oracle::{Mode, values, x87};
use ring3_x86_cpu::state::*;

const DATA: u64 = 0x20_0000;
const SAVED: u64 = 0x20_2000;
const FUNCTION: u64 = 0x1_8000;
const HANDLER: u64 = 0x1_9000;
const LATER: u64 = 0x80_0000_0000;
/// Cases of each form that are compared.
const CASES: u64 = 0x60_0000;

type Built = Result<(), IcedError>;

/// Callouts so far, on the translator.
fn callouts(m: &Machine) -> Option<u64> {
    match &m.tier {
        AnyTier::Interpreter => None,
        AnyTier::Eager(jit) | AnyTier::Usual(jit) => Some(jit.callouts()),
    }
}

/// What the translator leaves to the interpreter's handlers.
fn is_left(instr: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instr.mnemonic(),
        M::Fninit
            | M::Fneni
            | M::Fndisi
            | M::Fnsetpm
            | M::Fnstenv
            | M::Fldenv
            | M::Fnsave
            | M::Frstor
            | M::Maskmovq
    )
}

/// The forms of x87 and MMX instructions.
fn forms() -> Vec<Form> {
    let mmx = |form: &Form| {
        use OpCodeOperandKind as K;
        let operand = |k: &K| matches!(k, K::mm_or_mem | K::mm_reg | K::mm_rm);
        form.code.mnemonic() == Mnemonic::Emms || form.code.op_code().op_kinds().iter().any(operand)
    };
    let mut all = of_family(Family::X87, Mode::Long);
    all.extend(of_family(Family::Sse, Mode::Long).into_iter().filter(mmx));
    all
}

#[test]
fn every_form_is_translated_and_is_as_interpreted() {
    let forms = forms();
    assert!(forms.len() > 200, "{}", forms.len());
    let mut machines: Vec<Machine> = AnyTier::all().into_iter().map(Machine::new).take(2).collect();
    let mut rng = Rng::with_seed(87);
    let mut at = START;
    let mut translated = 0;
    for form in &forms {
        for round in 0..24 {
            let Some(instr) = instruction(&mut rng, form) else {
                continue;
            };
            let mut encoder = Encoder::new(64);
            if encoder.encode(&instr, at).is_err() {
                continue;
            }
            let mut code = encoder.take_buffer();
            code.push(0xf4);
            let mut vector = machines[0].state().vector.clone();
            x87::fill(&mut rng, &mut vector.x87);
            // SIMD exceptions are none of this test's.
            assert_eq!(vector.set_mxcsr(0x1f80), Ok(()));
            let masked = round % 4 != 0;
            if masked {
                let all = vector.x87.fcw() | 0x3f;
                vector.x87.set_fcw(all);
            }
            let gpr: [u64; 16] = std::array::from_fn(|_| values::integer(&mut rng));
            let data: Vec<u8> = (0..512).map(|_| rng.u8(..)).collect();
            for m in &mut machines {
                m.world.poke(at, &code);
                m.world.poke(DATA, &data);
                m.supervisor(at);
                let state = m.state();
                state.gpr[..16].copy_from_slice(&gpr);
                for (n, register) in [RBX, RSI, RDI, 13].into_iter().enumerate() {
                    state.gpr[register] = DATA + 128 + 64 * n as u64;
                }
                state.gpr[RSP] = STACK;
                state.vector.clone_from(&vector);
                let before = callouts(m);
                let ended = m.run();
                assert_eq!(ended, ring3_x86_cpu::Leave::Halted, "{instr}");
                let made = callouts(m).zip(before).map(|(now, before)| now - before);
                // HLT is one.
                let done = m.cpu.core.state.rip == at + code.len() as u64;
                if let Some(made) = made.filter(|_| masked && done) {
                    assert_eq!(made == 1, !is_left(&instr), "{instr}: {made} callouts");
                    translated += 1;
                }
            }
            at += 64;
            assert!(at < CASES);
            if let [one, other] = &machines[..] {
                compare(&instr, one, other);
            }
        }
    }
    println!("{translated} cases in translated code");
}

/// That both have come to the same.
fn compare(instr: &Instruction, one: &Machine, other: &Machine) {
    let [mine, theirs] = [one, other].map(|m| &m.cpu.core.state);
    let told = vector_differences(&theirs.vector, &mine.vector);
    assert!(told.is_empty(), "{instr}: {}", told.join("; "));
    assert_eq!(theirs.gpr[..16], mine.gpr[..16], "{instr}");
    assert_eq!(
        (theirs.rip, theirs.rflags()),
        (mine.rip, mine.rflags()),
        "{instr}"
    );
    let data = |m: &Machine| {
        let mut bytes = [0; 1024];
        m.world.peek(DATA, &mut bytes);
        bytes
    };
    assert_eq!(data(other), data(one), "{instr}");
}

/// A few instructions whose results show in `[DATA + 40H]` and later.
fn sums(a: &mut CodeAssembler) -> Built {
    a.fld(qword_ptr(DATA))?;
    a.fmul(qword_ptr(DATA + 8))?;
    a.fld1()?;
    a.fadd_2(st1, st0)?;
    a.fxch(st0, st1)?;
    a.fstp(tword_ptr(DATA + 0x40))?;
    a.fadd(qword_ptr(DATA))?;
    a.fstp(qword_ptr(DATA))
}

fn numbers(m: &mut Machine) {
    m.world.put(DATA, 1.5f64.to_bits());
    m.world.put(DATA + 8, 1.000_1f64.to_bits());
}

#[test]
fn a_loop_needs_no_callouts() {
    on_every_tier(|m| {
        numbers(m);
        m.code(START, |a| repeat(a, 1000, sums));
        m.halt();
        // The HLT, and the first accesses to the page.
        assert!(callouts(m).is_none_or(|made| made <= 4), "{:?}", callouts(m));
    });
}

#[test]
fn live_across_a_page_fault_of_an_operand() {
    on_every_tier(|m| {
        numbers(m);
        m.vector(14, HANDLER, 1);
        m.code(HANDLER, |a| {
            a.fxsave64(ptr(SAVED))?;
            a.fninit()?;
            a.fldpi()?;
            a.fistp(dword_ptr(DATA + 0x80))?;
            a.fxrstor64(ptr(SAVED))?;
            a.mov(esi, DATA as u32)?;
            a.add(rsp, 8)?;
            a.iretq()
        });
        m.code(START, |a| {
            repeat(a, 60, |a| {
                a.fld(qword_ptr(DATA))?;
                a.fld1()?;
                a.mov(rsi, LATER)?;
                a.fadd(qword_ptr(rsi))?;
                a.fmulp(st1, st0)?;
                a.mov(rsi, LATER)?;
                a.fstp(qword_ptr(rsi + 0x10))
            })
        });
        m.halt();
        assert_eq!(m.word(DATA + 0x10), (1.5f64 * 2.5).to_bits());
        // The last fault was the store's: the instruction before it shows.
        let fop = m.word(SAVED) >> 48;
        assert_eq!(fop, 0x6c9, "FMULP");
    });
}

#[test]
fn live_across_callouts_calls_and_other_pages() {
    on_every_tier(|m| {
        numbers(m);
        m.code(FUNCTION, |a| {
            a.cpuid()?;
            a.fld1()?;
            a.faddp(st1, st0)?;
            a.ret()
        });
        m.code(START, |a| {
            repeat(a, 60, |a| {
                a.mov(r12, rbx)?;
                a.fldz()?;
                a.rdmsr_of_efer()?;
                a.fld(qword_ptr(DATA))?;
                a.call(FUNCTION)?;
                a.faddp(st1, st0)?;
                a.out(0x80, al)?;
                a.fistp(dword_ptr(DATA + 0x80))?;
                a.mov(rbx, r12)
            })
        });
        m.halt();
        assert_eq!(m.word(DATA + 0x80) as u32, 2);
        (m.state().gpr[RAX], m.state().gpr[RCX], m.state().gpr[RDX]) = (0, 0, 0);
    });
}

trait Callout {
    fn rdmsr_of_efer(&mut self) -> Built;
}

impl Callout for CodeAssembler {
    fn rdmsr_of_efer(&mut self) -> Built {
        self.mov(ecx, 0xc000_0080u32)?;
        self.rdmsr()
    }
}

/// Kernels that switch the state when somebody else uses it: each of two tasks has its own.
#[test]
fn switched_when_task_switched_is_found() {
    const OWN: u64 = DATA + 0x200;
    on_every_tier(|m| {
        numbers(m);
        // Both states are those of FNINIT.
        for task in 0..2 {
            m.world.put(SAVED + 512 * task, 0x37f);
            m.world.put(SAVED + 512 * task + 24, 0x1f80);
        }
        m.vector(7, HANDLER, 1);
        m.code(HANDLER, |a| {
            a.clts()?;
            a.mov(rdi, qword_ptr(OWN))?;
            a.fxsave64(ptr(rdi))?;
            a.xor(rdi, 512)?;
            a.mov(qword_ptr(OWN), rdi)?;
            a.fxrstor64(ptr(rdi))?;
            a.iretq()
        });
        m.world.put(OWN, SAVED);
        m.code(START, |a| {
            repeat(a, 100, |a| {
                a.fld(qword_ptr(DATA))?;
                a.movq(mm7, qword_ptr(DATA + 8))?;
                a.emms()?;
                a.fld1()?;
                a.mov(rax, cr0)?;
                a.or(rax, 8)?;
                a.mov(cr0, rax)?;
                a.fadd(qword_ptr(DATA))?;
                a.fst(qword_ptr(DATA + 0x40))
            })
        });
        m.halt();
    });
}

#[test]
fn mmx_then_x87() {
    on_every_tier(|m| {
        numbers(m);
        m.code(START, |a| {
            repeat(a, 50, |a| {
                a.fld1()?;
                a.movd(mm3, ebx)?;
                a.paddd(mm3, qword_ptr(DATA + 8))?;
                a.movq2dq(xmm1, mm3)?;
                a.cvtpi2ps(xmm2, mm3)?;
                // All registers are full now.
                a.fld(qword_ptr(DATA))?;
                a.fnstsw(ax)?;
                a.movzx(eax, ax)?;
                a.add(r8, rax)?;
                a.movq(qword_ptr(DATA + 0x40), mm3)?;
                a.emms()?;
                a.fld(qword_ptr(DATA))?;
                a.fistp(qword_ptr(DATA + 0x48))?;
                a.pmovmskb(ecx, mm3)?;
                a.emms()
            })
        });
        m.halt();
    });
}

/// FNSTENV shows the last instruction and operand, whatever has come between.
#[test]
fn pointers_are_those_of_the_last_instruction() {
    on_every_tier(|m| {
        numbers(m);
        m.state().seg[FS].base = 0x1000;
        m.cpu.core.refresh();
        m.code(START, |a| {
            // Encoded as relative to RIP.
            let mut here = a.create_label();
            let mut over = a.create_label();
            a.jmp(over)?;
            a.set_label(&mut here)?;
            a.dq(&[0])?;
            a.set_label(&mut over)?;
            repeat(a, 40, |a| {
                let mut at = DATA + 0x400;
                let mut show = |a: &mut CodeAssembler| {
                    at += 32;
                    a.fnstenv(ptr(at))?;
                    // It masks what was not.
                    a.fldcw(word_ptr(DATA + 0x20))
                };
                a.mov(esi, DATA as u32)?;
                a.mov(r13, rsi)?;
                a.mov(r14d, 1)?;
                a.fld(qword_ptr(rsi))?;
                show(a)?;
                a.fld1()?;
                a.fld1()?;
                show(a)?;
                a.fadd(dword_ptr(r13 + r14 * 8 + 4))?;
                a.faddp(st1, st0)?;
                a.mov(esi, 0)?;
                show(a)?;
                a.fmul(dword_ptr(DATA - 0x1000).fs())?;
                a.nop()?;
                show(a)?;
                a.fnstcw(word_ptr(DATA + 0x60))?;
                a.fxch(st0, st1)?;
                a.cpuid_kept()?;
                a.fnop()?;
                show(a)?;
                a.fstp(dword_ptr(esp - 16))?;
                a.wait()?;
                a.fnclex()?;
                show(a)?;
                a.fst(qword_ptr(here))?;
                show(a)?;
                a.fninit()?;
                show(a)
            })
        });
        m.world.put(DATA + 0x20, 0x37f);
        m.halt();
    });
}

trait Kept {
    fn cpuid_kept(&mut self) -> Built;
}

impl Kept for CodeAssembler {
    /// CPUID, of which nothing is left.
    fn cpuid_kept(&mut self) -> Built {
        self.mov(r12, rbx)?;
        self.cpuid()?;
        self.mov(rbx, r12)?;
        self.xor(eax, eax)?;
        self.xor(ecx, ecx)?;
        self.xor(edx, edx)
    }
}

#[test]
fn unmasked_exceptions_are_found_by_the_next_instruction() {
    on_every_tier(|m| {
        numbers(m);
        m.world.put(DATA + 0x20, 0x37f);
        m.world.put(DATA + 0x28, 0x37b);
        m.vector(16, HANDLER, 1);
        m.code(HANDLER, |a| {
            a.inc(r8)?;
            a.add(r9, qword_ptr(rsp))?;
            a.fnstenv(ptr(DATA + 0x400))?;
            a.fnclex()?;
            a.fldcw(word_ptr(DATA + 0x20))?;
            a.iretq()
        });
        m.code(START, |a| {
            repeat(a, 50, |a| {
                a.fld1()?;
                a.fldcw(word_ptr(DATA + 0x28))?;
                a.fldz()?;
                a.fdivp(st1, st0)?;
                a.mov(eax, dword_ptr(DATA))?;
                // #MF.
                a.fld1()?;
                a.fcompp()?;
                a.fnstsw(ax)?;
                a.add(r10, rax)?;
                a.movq(mm0, mm1)?;
                a.emms()
            })
        });
        m.halt();
        assert_eq!(m.gpr(8), 50);
    });
}

#[test]
fn flags_live_on_and_are_made() {
    on_every_tier(|m| {
        numbers(m);
        m.code(START, |a| {
            repeat(a, 80, |a| {
                let mut less = a.create_label();
                a.cmp(rax, rbx)?;
                a.fldz()?;
                a.adc(r8, rax)?;
                a.sub(rax, rbx)?;
                a.fnstsw(ax)?;
                a.sbb(r9, rbx)?;
                a.cmp(rax, rbx)?;
                a.movd(mm1, eax)?;
                a.emms()?;
                a.fld(qword_ptr(DATA))?;
                a.fld1()?;
                a.fcmovb(st0, st1)?;
                a.fcomip(st0, st1)?;
                a.jb(less)?;
                a.inc(r10)?;
                a.set_label(&mut less)?;
                a.fstp(st0)?;
                a.add(rax, r10)
            })
        });
        m.halt();
    });
}

/// What one processor has in the host's unit is not another's, where both run on one thread.
#[test]
fn two_processors_take_turns() {
    let program = |a: &mut CodeAssembler| -> Built {
        let mut top = a.create_label();
        a.fldpi()?;
        a.set_label(&mut top)?;
        a.fadd(qword_ptr(DATA))?;
        a.fld(st0)?;
        a.fistp(qword_ptr(DATA + 0x40))?;
        a.hlt()?;
        a.jmp(top)
    };
    let mut ends: Vec<[Snapshot; 2]> = Vec::new();
    for (one, other) in AnyTier::all().into_iter().zip(AnyTier::all()) {
        let mut machines = [Machine::new(one), Machine::new(other)];
        for (n, m) in machines.iter_mut().enumerate() {
            m.world.put(DATA, (1.25f64 + n as f64).to_bits());
            m.code(START, program);
        }
        for _ in 0..60 {
            for m in &mut machines {
                m.halt();
            }
        }
        ends.push(machines.map(|m| Snapshot::of(&m)));
    }
    for end in &ends {
        for (found, expected) in end.iter().zip(&ends[0]) {
            let told = found.differences(expected);
            assert!(told.is_empty(), "{}", told.join("; "));
        }
    }
}
