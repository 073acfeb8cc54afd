//! Leaving at any moment: whenever the kick word is set, the processor stops at an instruction's start with everything
//! where it belongs, and goes on as if nothing had been.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions};
use ring3_tests::bare::places::*;
use ring3_tests::bare::{Build, Machine, assemble, on_every_tier};
use ring3_x86_cpu::Leave;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::{Duration, Instant};

/// Where each program lies; its functions are on the page behind.
pub const FUNCTION: u64 = START + PAGE;
const DATA: u64 = 0x20_0000;
/// Exits that a program must have seen, at least.
const ENOUGH: u32 = 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// Rounds of a program.
pub const LONG: u64 = 200_000;

/// Loops that never wait; R12 counts down.
pub const PROGRAMS: [(&str, Build); 6] = [
    ("registers only", |a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(rax, r12)?;
        a.adc(rbx, 0)?;
        a.rol(rax, 3)?;
        a.dec(r12)?;
        a.jne(top)?;
        a.hlt()
    }),
    ("memory", |a| {
        let mut top = a.create_label();
        a.mov(esi, DATA as u32)?;
        a.set_label(&mut top)?;
        a.movzx(ecx, r12b)?;
        a.add(qword_ptr(rsi + rcx * 8), r12)?;
        a.adc(rax, qword_ptr(rsi + rcx * 8 + 8))?;
        a.mov(qword_ptr(rsi + 0xff8), rax)?;
        a.dec(r12)?;
        a.jne(top)?;
        a.hlt()
    }),
    ("calls to another page", |a| {
        let mut top = a.create_label();
        a.mov(edx, FUNCTION as u32)?;
        a.set_label(&mut top)?;
        a.call(FUNCTION)?;
        a.call(rdx)?;
        a.dec(r12)?;
        a.jne(top)?;
        a.hlt()
    }),
    ("vectors", |a| {
        let mut top = a.create_label();
        a.mov(esi, DATA as u32)?;
        a.set_label(&mut top)?;
        a.movq(xmm1, r12)?;
        a.paddq(xmm0, xmm1)?;
        a.movups(xmmword_ptr(rsi), xmm0)?;
        a.pshufd(xmm0, xmm0, 0x4e)?;
        a.dec(r12)?;
        a.jne(top)?;
        a.hlt()
    }),
    ("x87", |a| {
        let mut top = a.create_label();
        a.mov(esi, DATA as u32)?;
        a.fninit()?;
        a.fldz()?;
        a.set_label(&mut top)?;
        a.mov(qword_ptr(rsi + 8), r12)?;
        a.fild(qword_ptr(rsi + 8))?;
        a.faddp(st1, st0)?;
        a.fld(st0)?;
        a.fstp(tword_ptr(rsi + 16))?;
        a.dec(r12)?;
        a.jne(top)?;
        a.hlt()
    }),
    ("two blocks and a jump through memory", |a| {
        let (mut top, mut odd, mut even, mut end) = (
            a.create_label(),
            a.create_label(),
            a.create_label(),
            a.create_label(),
        );
        a.lea(rax, ptr(even))?;
        a.mov(qword_ptr(DATA), rax)?;
        a.lea(rax, ptr(odd))?;
        a.mov(qword_ptr(DATA + 8), rax)?;
        a.set_label(&mut top)?;
        a.mov(ecx, r12d)?;
        a.and(ecx, 1)?;
        a.jmp(qword_ptr(rcx * 8 + DATA))?;
        a.set_label(&mut odd)?;
        a.inc(r13)?;
        a.jmp(end)?;
        a.set_label(&mut even)?;
        a.inc(r14)?;
        a.set_label(&mut end)?;
        a.dec(r12)?;
        a.jne(top)?;
        a.hlt()
    }),
];

pub fn function(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(rbx)?;
    a.lea(rbx, ptr(r12 + r12 * 2))?;
    a.add(r13, rbx)?;
    a.pop(rbx)?;
    a.ret()
}

/// Where the instructions of some code begin.
pub fn starts(code: &[u8], at: u64) -> BTreeSet<u64> {
    let decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    decoder.into_iter().map(|instr| instr.ip()).collect()
}

/// Runs the program to its end while another thread kicks; says how often it left.
fn run_kicked(m: &mut Machine, starts: &BTreeSet<u64>) -> u32 {
    let (kick, done) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(7);
            while !done.load(Relaxed) {
                let until = Instant::now() + Duration::from_nanos(rng.u64(..40_000));
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                kick.store(1, Release);
                std::thread::yield_now();
            }
        });
        let mut kicks = 0;
        let left = loop {
            match m.run_kicked(&kick) {
                Leave::Kicked => {
                    kick.store(0, Release);
                    kicks += 1;
                    let rip = m.state().rip;
                    if !starts.contains(&rip) {
                        break Err(format!("left at {rip:#x}, inside of an instruction"));
                    }
                }
                Leave::Halted => break Ok(kicks),
                other => break Err(format!("{other:?}")),
            }
        };
        done.store(true, Relaxed);
        left
    })
    .expect("a kick changes nothing")
}

#[test]
fn at_random_moments() {
    for (name, program) in PROGRAMS {
        let code = assemble(START, program);
        let mut all = starts(&code, START);
        all.extend(starts(&assemble(FUNCTION, function), FUNCTION));
        on_every_tier(|m| {
            m.code(FUNCTION, function);
            let mut kicks = 0;
            // The same program as often as it takes; each run must end alike.
            let begun = Instant::now();
            while kicks < ENOUGH && begun.elapsed() < PATIENCE {
                m.code(START, program);
                m.supervisor(START);
                m.state().gpr[12] = LONG;
                kicks += run_kicked(m, &all);
            }
            println!("{name}: {kicks} kicks");
            assert!(kicks >= ENOUGH, "{name}");
            // How many runs it took is chance: the last one counts.
            m.state().gpr = [0; 32];
            *m.state().vector = Default::default();
            for page in 0..2 {
                m.world.poke(DATA + page * PAGE, &[0; PAGE as usize]);
            }
            m.supervisor(START);
            m.state().gpr[12] = LONG;
            run_kicked(m, &all);
        });
    }
}

#[test]
fn a_word_that_stays_set_lets_nothing_run() {
    for (name, program) in PROGRAMS {
        on_every_tier(|m| {
            m.code(FUNCTION, function);
            m.code(START, program);
            m.state().gpr[12] = 50;
            // Hot first.
            m.halt();
            m.supervisor(START);
            m.state().gpr[12] = 50;
            for _ in 0..3 {
                assert_eq!(m.run_kicked(&AtomicU32::new(1)), Leave::Kicked, "{name}");
                assert_eq!(m.state().rip, START);
            }
        });
    }
}
