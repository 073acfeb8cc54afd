//! KVM_GET_DEBUGREGS and KVM_SET_DEBUGREGS.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::KvmDebugregs;

use crate::vcpu::{VcpuState, X86Vcpu};

pub fn get(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let state = &s.cpu.core.state;
    arg.write(&KvmDebugregs {
        db: state.dr,
        dr6: state.dr6,
        dr7: state.dr7,
        ..KvmDebugregs::default()
    })?;
    Ok(0)
}

pub fn set(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmDebugregs = arg.read()?;
    if wire.flags != 0 || wire.dr6 >> 32 != 0 || wire.dr7 >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let state = &mut s.cpu.core.state;
    state.dr = wire.db;
    state.dr6 = wire.dr6;
    state.dr7 = wire.dr7;
    s.state_changed();
    Ok(0)
}
