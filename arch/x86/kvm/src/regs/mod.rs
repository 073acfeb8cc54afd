//! The client's view of the processor's registers: KVM_GET/SET_REGS here, the rest in one file per ioctl pair.

pub mod debugregs;
pub mod fpu;
pub mod sregs;
pub mod translate;
pub mod xsave;

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::KvmRegs;
use ring3_x86_cpu::State;

use crate::vcpu::{VcpuState, X86Vcpu};

pub fn to_wire(state: &State) -> KvmRegs {
    let g = &state.gpr;
    KvmRegs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: state.rip,
        rflags: state.rflags(),
    }
}

pub fn from_wire(state: &mut State, r: &KvmRegs) {
    let all = [
        r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ];
    state.gpr[..16].copy_from_slice(&all);
    state.rip = r.rip;
    state.set_rflags(r.rflags);
}

/// KVM_GET_REGS.
pub fn get(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    arg.write(&to_wire(&s.cpu.core.state))?;
    Ok(0)
}

/// KVM_SET_REGS. Clears a pending exception, as Linux does.
pub fn set(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmRegs = arg.read()?;
    apply(s, &wire);
    Ok(0)
}

pub fn apply(s: &mut VcpuState, wire: &KvmRegs) {
    from_wire(&mut s.cpu.core.state, wire);
    s.unit.events.exception_pending = None;
    s.state_changed();
}
