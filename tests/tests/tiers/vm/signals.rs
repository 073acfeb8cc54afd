//! Signals at any moment: KVM_RUN returns EINTR at an instruction's start with all registers right, and the guest goes on
//! as if nothing had been.

use crate::kicks::{FUNCTION, LONG, PROGRAMS, function, starts};
use ring3_client::{Errno, VcpuExit};
use ring3_host::testing::ThreadId;
use ring3_tests::bare::assemble;
use ring3_tests::bare::guest::{Guest, SIGNAL};
use ring3_tests::bare::places::*;
use ring3_uapi::x86::KvmRegs;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::time::{Duration, Instant};

const ENOUGH: u32 = 12;
const PATIENCE: Duration = Duration::from_secs(30);

fn begin(guest: &mut Guest, program: ring3_tests::bare::Build) {
    guest.code(FUNCTION, function);
    guest.code(START, program);
    guest.ram.0.write(0x20_0000, &[0; 8192]).expect("fits");
    let regs = KvmRegs {
        rip: START,
        rsp: STACK,
        rflags: 2,
        r12: LONG,
        ..KvmRegs::default()
    };
    guest.vcpu().set_regs(&regs).expect("KVM_SET_REGS");
    guest.vcpu().set_fpu(&Default::default()).expect("KVM_SET_FPU");
}

/// All registers, and the memory that programs use.
fn end(guest: &Guest) -> (KvmRegs, Vec<u8>, Vec<u8>) {
    let mut data = vec![0; 8192];
    guest.ram.0.read(0x20_0000, &mut data).expect("fits");
    let fpu = guest.vcpu().get_fpu().expect("KVM_GET_FPU");
    (
        guest.vcpu().get_regs().expect("KVM_GET_REGS"),
        fpu.xmm.iter().flatten().copied().collect(),
        data,
    )
}

/// How the other thread makes KVM_RUN return.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Signal,
    /// `immediate_exit`, and then a signal.
    ImmediateExit,
}

fn interrupted(guest: &Guest, by: By) -> u32 {
    let vcpu = guest.vcpu();
    let target = ThreadId::current();
    let done = AtomicBool::new(false);
    let mut bytes = vec![0; 4096];
    guest.ram.0.read(START as usize, &mut bytes).expect("fits");
    let mut all = starts(&bytes, START);
    all.extend(starts(&assemble(FUNCTION, function), FUNCTION));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(3);
            while !done.load(Relaxed) {
                std::thread::sleep(Duration::from_nanos(rng.u64(..60_000)));
                if by == By::ImmediateExit {
                    vcpu.set_immediate_exit(1);
                }
                target.signal(SIGNAL);
            }
        });
        let mut count = 0;
        let result = loop {
            match vcpu.run() {
                Err(Errno::EINTR) => {
                    vcpu.set_immediate_exit(0);
                    count += 1;
                    let rip = vcpu.get_regs().expect("KVM_GET_REGS").rip;
                    if !all.contains(&rip) {
                        break Err(format!("left at {rip:#x}, inside of an instruction"));
                    }
                }
                Ok(VcpuExit::Hlt) => break Ok(count),
                other => break Err(format!("{other:?}")),
            }
        };
        done.store(true, Relaxed);
        result
    })
    .expect("a signal changes nothing")
}

fn all_programs(by: By) {
    for (name, program) in PROGRAMS {
        let mut guest = Guest::new(1);
        begin(&mut guest, program);
        guest.halt();
        let expected = end(&guest);
        let begun = Instant::now();
        let mut count = 0;
        while count < ENOUGH && begun.elapsed() < PATIENCE {
            begin(&mut guest, program);
            count += interrupted(&guest, by);
            assert!(end(&guest) == expected, "{name} ended otherwise");
        }
        println!("{name}: interrupted {count} times");
        assert!(count >= ENOUGH, "{name}: {count} interruptions");
    }
}

#[test]
fn at_random_moments() {
    all_programs(By::Signal);
}

#[test]
fn with_immediate_exit() {
    all_programs(By::ImmediateExit);
}
