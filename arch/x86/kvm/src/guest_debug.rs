//! KVM_SET_GUEST_DEBUG: breakpoints and single-stepping for the client.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::*;
use ring3_uapi::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP};
use ring3_x86_cpu::Vector;
use ring3_x86_cpu::core::DebugControl;

use crate::vcpu::{VcpuState, X86Vcpu};

/// What the client asked for last.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestDebug {
    pub control: u32,
}

impl GuestDebug {
    /// Interrupts stay pending while the client single-steps.
    pub fn blocks_interrupts(&self) -> bool {
        self.control & KVM_GUESTDBG_ENABLE != 0 && self.control & KVM_GUESTDBG_BLOCKIRQ != 0
    }
}

/// KVM_SET_GUEST_DEBUG. As in Linux, bits that mean nothing are let through.
pub fn set(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmGuestDebug = arg.read()?;
    if wire.control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP) != 0 {
        let events = &s.unit.events;
        if events.exception_pending.is_some() || events.exception_injected.is_some() || events.triple_fault {
            return Err(Errno::EBUSY);
        }
        let vector = if wire.control & KVM_GUESTDBG_INJECT_DB != 0 {
            Vector::DB
        } else {
            Vector::BP
        };
        s.unit.events.queue_exception(vector as u8, None);
    }
    let enabled = wire.control & KVM_GUESTDBG_ENABLE != 0;
    let has = |bit: u32| enabled && wire.control & bit != 0;
    let registers = wire.arch.debugreg;
    s.unit.debug.control = if enabled { wire.control } else { 0 };
    s.cpu.core.debug = DebugControl {
        single_step: has(KVM_GUESTDBG_SINGLESTEP),
        intercept_bp: has(KVM_GUESTDBG_USE_SW_BP),
        intercept_db: has(KVM_GUESTDBG_SINGLESTEP) || has(KVM_GUESTDBG_USE_HW_BP),
        hardware: has(KVM_GUESTDBG_USE_HW_BP).then(|| {
            (
                [registers[0], registers[1], registers[2], registers[3]],
                registers[7],
            )
        }),
    };
    s.state_changed();
    Ok(0)
}
