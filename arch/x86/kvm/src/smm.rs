//! System management mode of a vCPU: its address space, and the way in. The processor knows the way out (RSM).

use ring3_x86_cpu::{Leave, NoSaveArea, State};

use crate::msr::index::SMI_COUNT;
use crate::vcpu::{VcpuState, X86Vcpu};
use crate::world::Machine;

/// Address spaces of a VM: the ordinary one, and that of system management mode.
pub const SPACES: u16 = 2;

/// Which one a vCPU is in.
pub fn space(state: &State) -> u16 {
    state.smm.active.into()
}

/// The client put the vCPU in the mode, or took it out.
pub fn follow(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let space = space(&s.cpu.core.state);
    s.unit.slots.set_space(vcpu.vm().memory(), space);
    s.state_changed();
}

/// An SMI at an instruction boundary. If there is no memory to save the state in, the VM is as dead as it is in Linux.
pub fn enter(vcpu: &X86Vcpu, s: &mut VcpuState) -> Option<Leave> {
    let count = s.unit.msrs.get(SMI_COUNT);
    s.unit.msrs.set(SMI_COUNT, count.wrapping_add(1));
    let mut machine = Machine {
        vcpu,
        unit: &mut s.unit,
    };
    let Err(NoSaveArea) = s.cpu.enter_smm(&mut machine) else {
        return None;
    };
    tracing::warn!(base = s.cpu.core.state.smm.base, "no memory at SMBASE");
    vcpu.vm().die();
    Some(Leave::Kicked)
}
