//! KVM's hypercalls.
//!
//! MAP_GPA_RANGE is the client's, if it wants it. SCHED_YIELD gives the host's scheduler a chance, but cannot say to whom.

use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_host::time::realtime_and_tsc;
use ring3_uapi::x86::KVM_X86_QUIRK_FIX_HYPERCALL_INSN;
use ring3_uapi::x86::pv::*;
use ring3_x86_cpu::state::{RAX, RBX, RCX, RDX, RSI};
use ring3_x86_cpu::{Foreign, Hypercall, Refusal, State};
use std::sync::atomic::Ordering;
use zerocopy::IntoBytes;

use crate::cpuid::features::pv;
use crate::cpuid::supported;
use crate::exit::Exit;
use crate::vcpu::{Unit, X86Vcpu};
use crate::{stats, vapic};

// What hypercalls answer: the guest's error numbers.
const ENOSYS: u64 = KVM_ENOSYS.wrapping_neg();
const EPERM: u64 = KVM_EPERM.wrapping_neg();
const EINVAL: u64 = KVM_EINVAL.wrapping_neg();
const EFAULT: u64 = KVM_EFAULT.wrapping_neg();
const EOPNOTSUPP: u64 = KVM_EOPNOTSUPP.wrapping_neg();

/// What becomes of a hypercall by this instruction. As in Linux, the guest's own is put in the place of the other maker's,
/// unless the client disabled that quirk. Where no CPUID was set, the host says which the own one is.
pub fn foreign(vcpu: &X86Vcpu, unit: &Unit, instruction: Hypercall) -> Foreign {
    let amd = if unit.cpuid.is_set() {
        unit.cpuid.is_amd()
    } else {
        supported::host_is_amd()
    };
    let own = if amd {
        Hypercall::Vmmcall
    } else {
        Hypercall::Vmcall
    };
    let quirks = vcpu.vm().arch().settings.disabled_quirks.load(Ordering::Relaxed);
    if instruction == own {
        Foreign::Served
    } else if quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN != 0 {
        Foreign::Undefined
    } else {
        Foreign::Replaced(own)
    }
}

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
            vcpu.stats().at(stats::HYPERCALLS).add(1);
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
        Ok(KVM_HC_VAPIC_POLL_IRQ) => {
            vapic::collect(vcpu, unit);
            0
        }
        Ok(KVM_HC_KICK_CPU) if has(unit, pv::PV_UNHALT) => {
            crate::apic::unhalt(vcpu.vm(), args[1] as u32);
            0
        }
        Ok(KVM_HC_SCHED_YIELD) if has(unit, pv::PV_SCHED_YIELD) => {
            std::thread::yield_now();
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
