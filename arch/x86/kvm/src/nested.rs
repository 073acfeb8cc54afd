//! KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE, of vCPUs that cannot nest.
//!
//! Neither SVM nor VMX is offered, so the state is a header that says "no nested guest", in the format of SVM (which has one
//! flag, GIF, that is set then). The capability, which tells that there is more to save, is absent.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{KVM_STATE_NESTED_FORMAT_SVM, KVM_STATE_NESTED_GIF_SET, KvmNestedState};

use crate::vcpu::{VcpuState, X86Vcpu};

const SIZE: u32 = size_of::<KvmNestedState>() as u32;

pub fn get(_: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let mut state: KvmNestedState = arg.read()?;
    let room = state.size;
    state = KvmNestedState {
        flags: KVM_STATE_NESTED_GIF_SET,
        format: KVM_STATE_NESTED_FORMAT_SVM,
        size: SIZE,
        ..KvmNestedState::default()
    };
    if room < SIZE {
        // The size that is wanted, behind the flags and the format.
        arg.offset(4).write(&SIZE)?;
        return Err(Errno::E2BIG);
    }
    arg.write(&state)?;
    Ok(0)
}

pub fn set(_: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let state: KvmNestedState = arg.read()?;
    let nothing = state.size >= SIZE
        && state.format == KVM_STATE_NESTED_FORMAT_SVM
        && state.flags == KVM_STATE_NESTED_GIF_SET;
    if nothing { Ok(0) } else { Err(Errno::EINVAL) }
}
