//! KVM_GET_MP_STATE and KVM_SET_MP_STATE: running, halted, or waiting to be started.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::*;

use crate::apic;
use crate::vcpu::{VcpuState, X86Vcpu};

/// KVM_GET_MP_STATE. A vCPU that was kicked out of a paravirtual halt runs.
pub fn get(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    crate::run::accept_apic_events(vcpu, s);
    let halted = matches!(s.unit.mp_state, KVM_MP_STATE_HALTED | KVM_MP_STATE_AP_RESET_HOLD);
    let mp_state = if halted && apic::is_unhalted(vcpu) {
        KVM_MP_STATE_RUNNABLE
    } else {
        s.unit.mp_state
    };
    arg.write(&KvmMpState { mp_state })?;
    Ok(0)
}

/// KVM_SET_MP_STATE.
pub fn set(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let KvmMpState { mp_state } = arg.read()?;
    match mp_state {
        KVM_MP_STATE_UNINITIALIZED
        | KVM_MP_STATE_HALTED
        | KVM_MP_STATE_AP_RESET_HOLD
        | KVM_MP_STATE_INIT_RECEIVED
        | KVM_MP_STATE_SIPI_RECEIVED
            if !apic::in_kernel(vcpu) =>
        {
            return Err(Errno::EINVAL);
        }
        KVM_MP_STATE_SIPI_RECEIVED => {
            s.unit.mp_state = KVM_MP_STATE_INIT_RECEIVED;
            apic::post_sipi(vcpu);
        }
        KVM_MP_STATE_RUNNABLE
        | KVM_MP_STATE_UNINITIALIZED
        | KVM_MP_STATE_INIT_RECEIVED
        | KVM_MP_STATE_HALTED
        | KVM_MP_STATE_AP_RESET_HOLD => s.unit.mp_state = mp_state,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
