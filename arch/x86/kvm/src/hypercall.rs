//! KVM's hypercalls.
//!
//! MAP_GPA_RANGE is the client's, if it wants it. Not supported: SCHED_YIELD (its CPUID bit is absent).

use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_host::time::realtime_and_tsc;
use ring3_uapi::x86::pv::*;
use ring3_x86_cpu::state::{RAX, RBX, RCX, RDX, RSI};
use ring3_x86_cpu::{Refusal, State};
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

use crate::cpuid::features::pv;
use crate::exit::Exit;
use crate::vcpu::{Unit, X86Vcpu};

// What hypercalls answer: the guest's error numbers.
const ENOSYS: u64 = KVM_ENOSYS.wrapping_neg();
const EPERM: u64 = KVM_EPERM.wrapping_neg();
const EINVAL: u64 = KVM_EINVAL.wrapping_neg();
const EFAULT: u64 = KVM_EFAULT.wrapping_neg();
const EOPNOTSUPP: u64 = KVM_EOPNOTSUPP.wrapping_neg();

/// VMCALL or VMMCALL: number and arguments from the registers, the answer to RAX. Pauses if it is the client that answers.
pub fn execute(vcpu: &X86Vcpu, unit: &mut Unit, state: &mut State) -> Result<(), Refusal> {
    let wide = state.code64();
    let arg = |i: usize| {
        if wide {
            state.gpr[i]
        } else {
            state.gpr[i] & 0xffff_ffff
        }
    };
    let (number, args) = (arg(RAX), [arg(RBX), arg(RCX), arg(RDX), arg(RSI)]);
    let answer = match unit.io.take_hypercall(number) {
        Some(answer) => answer,
        None => {
            vcpu.stats().hypercalls.add(1);
            match answer(vcpu, unit, state.cpl(), number, args, wide) {
                Some(answer) => answer,
                None => {
                    let [gpa, pages, attributes, _] = args;
                    unit.io.queue(Exit::Hypercall {
                        number,
                        args: [gpa, pages, attributes],
                        flags: if wide { KVM_EXIT_HYPERCALL_LONG_MODE } else { 0 },
                    });
                    return Err(Refusal::Pause);
                }
            }
        }
    };
    state.gpr[RAX] = if wide { answer } else { answer & 0xffff_ffff };
    Ok(())
}

/// `None` if the client is to be asked.
fn answer(vcpu: &X86Vcpu, unit: &mut Unit, cpl: u8, number: u64, args: [u64; 4], wide: bool) -> Option<u64> {
    if cpl != 0 {
        return Some(EPERM);
    }
    let exits = vcpu.vm().arch().settings.hypercall_exits.load(Ordering::Relaxed);
    if number == u64::from(KVM_HC_MAP_GPA_RANGE) && exits >> number & 1 != 0 {
        return (!is_range(args[0], args[1])).then_some(EINVAL);
    }
    Some(dispatch(vcpu, unit, number, args, wide))
}

/// Whether these are pages of guest-physical memory: at least one, and none beyond the last number.
fn is_range(gpa: u64, pages: u64) -> bool {
    let page = PAGE_SIZE;
    let first = gpa / page;
    gpa.is_multiple_of(page) && first.wrapping_add(pages) > first
}

fn has(unit: &Unit, bit: u32) -> bool {
    !unit.enforce_pv_cpuid || unit.cpuid.pv_features().is_some_and(|f| f >> bit & 1 != 0)
}

fn dispatch(vcpu: &X86Vcpu, unit: &mut Unit, number: u64, args: [u64; 4], wide: bool) -> u64 {
    match u32::try_from(number) {
        Ok(KVM_HC_VAPIC_POLL_IRQ) => 0,
        Ok(KVM_HC_KICK_CPU) if has(unit, pv::PV_UNHALT) => {
            crate::apic::unhalt(vcpu.vm(), args[1] as u32);
            0
        }
        Ok(KVM_HC_CLOCK_PAIRING) => pair_clocks(vcpu, unit, GuestPhys(args[0]), args[1]),
        Ok(KVM_HC_SEND_IPI) if has(unit, pv::PV_SEND_IPI) => {
            let width = if wide { 64 } else { 32 };
            crate::apic::send_ipis(vcpu, [args[0], args[1]], args[2] as u32, args[3], width).unwrap_or(EINVAL)
        }
        _ => ENOSYS,
    }
}

/// Writes the host's wall clock and the guest's TSC at one moment.
fn pair_clocks(vcpu: &X86Vcpu, unit: &Unit, at: GuestPhys, clock: u64) -> u64 {
    if clock != KVM_CLOCK_PAIRING_WALLCLOCK {
        return EOPNOTSUPP;
    }
    let (now, tsc) = realtime_and_tsc();
    let pair = KvmClockPairing {
        sec: (now.0 / 1_000_000_000) as i64,
        nsec: (now.0 % 1_000_000_000) as i64,
        tsc: unit.tsc.at(tsc),
        ..KvmClockPairing::default()
    };
    match crate::vm::write_guest(vcpu.vm(), at, pair.as_bytes()) {
        Ok(()) => 0,
        Err(_) => EFAULT,
    }
}
