//! CPUID, as a machine with KVM answers it: some clients look there for VMX or SVM before they open the device.
//!
//! Where the processor can fault on the instruction, and the kernel offers it, all threads of the process have it fault; what ring3's own
//! code asks is answered as it is. A processor that has either feature is left alone, and so is one that cannot fault.

use ring3_host::user::UserPtr;
use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

const ARCH_SET_CPUID: i32 = 0x1012;

static FAULTS: AtomicBool = AtomicBool::new(false);

const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
/// The leaf that says whether there is SVM.
const EXTENDED: u32 = 0x8000_0001;

fn let_fault(fault: bool) -> bool {
    // SAFETY: the faults of this thread are answered below.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_CPUID, u64::from(!fault)) == 0 }
}

fn is_intel() -> bool {
    __cpuid(0).ebx == u32::from_le_bytes(*b"Genu")
}

/// Has the instruction fault from now on, on this thread and those that it makes.
pub fn begin() {
    let lacks = __cpuid(1).ecx & VMX == 0
        && (__cpuid(0x8000_0000).eax < EXTENDED || __cpuid(EXTENDED).ecx & SVM == 0);
    if lacks {
        // First the word, because the instruction may fault at once.
        FAULTS.store(true, Relaxed);
        FAULTS.store(let_fault(true), Relaxed);
    }
}

/// Who executed the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Client,
    Ring3,
}

/// If that is what faulted, the context goes on behind it with the answer.
pub fn answer(signal: i32, code: i32, uc: &mut libc::ucontext_t, whose: Whose) -> bool {
    /// What the kernel raises without an address.
    const SI_KERNEL: i32 = 0x80;
    const CPUID: [u8; 2] = [0x0f, 0xa2];
    if signal != libc::SIGSEGV || code != SI_KERNEL || !FAULTS.load(Relaxed) {
        return false;
    }
    let registers = &mut uc.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as u64;
    if UserPtr::new(rip).read::<[u8; 2]>() != Ok(CPUID) {
        return false;
    }
    let register = |index: i32| registers[index as usize] as u32;
    let (leaf, part) = (register(libc::REG_RAX), register(libc::REG_RCX));
    let_fault(false);
    let result = match whose {
        Whose::Client => with_kvm(leaf, __cpuid_count(leaf, part), is_intel()),
        Whose::Ring3 => __cpuid_count(leaf, part),
    };
    let_fault(true);
    for (index, value) in [
        (libc::REG_RAX, result.eax),
        (libc::REG_RBX, result.ebx),
        (libc::REG_RCX, result.ecx),
        (libc::REG_RDX, result.edx),
    ] {
        registers[index as usize] = i64::from(value);
    }
    registers[libc::REG_RIP as usize] += CPUID.len() as i64;
    true
}

/// A processor's answer, as of one that can virtualize.
fn with_kvm(leaf: u32, mut answer: CpuidResult, intel: bool) -> CpuidResult {
    match leaf {
        1 if intel => answer.ecx |= VMX,
        EXTENDED if !intel => answer.ecx |= SVM,
        _ => {}
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_gets_what_its_maker_has() {
        let none = CpuidResult {
            eax: 1,
            ebx: 2,
            ecx: 0,
            edx: 4,
        };
        let ecx = |leaf, intel| with_kvm(leaf, none, intel).ecx;
        assert_eq!((ecx(1, true), ecx(EXTENDED, true)), (VMX, 0));
        assert_eq!((ecx(1, false), ecx(EXTENDED, false)), (0, SVM));
        assert_eq!((ecx(7, true), ecx(7, false)), (0, 0));
    }
}
