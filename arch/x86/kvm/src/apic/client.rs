//! The client's side of the local APIC: KVM_GET/SET_LAPIC, KVM_INTERRUPT, KVM_NMI and KVM_SET_VAPIC_ADDR.
//!
//! Not supported: reporting of TPR accesses, and so the shared TPR that clients offer guests on its account.

use ring3_host::addr::GuestPhys;
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::KvmInterrupt;
use ring3_uapi::x86::{KVM_APIC_REG_SIZE, KvmLapicState, KvmVapicAddr};

use crate::controllers;
use crate::lapic::STATE_SIZE;
use crate::vcpu::{VcpuState, X86Vcpu};

const _: () = assert!(STATE_SIZE == KVM_APIC_REG_SIZE);

/// KVM_GET_LAPIC.
pub fn get(vcpu: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let apic = vcpu.shared().apic.as_ref().ok_or(Errno::EINVAL)?;
    let regs = {
        let inner = apic.lock();
        inner.lapic.state(&inner.port)
    };
    arg.write(&KvmLapicState { regs })?;
    Ok(0)
}

/// KVM_SET_LAPIC.
pub fn set(vcpu: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let apic = vcpu.shared().apic.as_ref().ok_or(Errno::EINVAL)?;
    let wire: KvmLapicState = arg.read()?;
    {
        let mut guard = apic.lock();
        let inner = &mut *guard;
        inner
            .lapic
            .set_state(&wire.regs, &mut inner.port)
            .map_err(|_| Errno::EINVAL)?;
    }
    controllers::restored(vcpu.vm());
    vcpu.seat().event();
    Ok(0)
}

/// KVM_INTERRUPT: a vector from the client's interrupt controller.
pub fn interrupt(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let KvmInterrupt { irq } = arg.read()?;
    let vector = u8::try_from(irq).map_err(|_| Errno::EINVAL)?;
    if controllers::has_chips(vcpu.vm()) {
        return Err(Errno::ENXIO);
    }
    if super::in_kernel(vcpu) {
        if s.unit.external_vector.is_some() {
            return Err(Errno::EEXIST);
        }
        s.unit.external_vector = Some(vector);
    } else {
        s.unit.events.queue_interrupt(vector);
    }
    vcpu.seat().event();
    Ok(0)
}

/// KVM_NMI.
pub fn nmi(vcpu: &X86Vcpu, _: &mut VcpuState, _: UserPtr) -> Result<i64, Errno> {
    post_nmi(vcpu)
}

/// An NMI, from any thread.
pub fn post_nmi(vcpu: &X86Vcpu) -> Result<i64, Errno> {
    vcpu.shared().posted.nmi();
    vcpu.seat().event();
    Ok(0)
}

/// KVM_SMI.
pub fn smi(vcpu: &X86Vcpu, _: &mut VcpuState, _: UserPtr) -> Result<i64, Errno> {
    vcpu.shared().posted.smi();
    vcpu.seat().event();
    Ok(0)
}

/// KVM_SET_VAPIC_ADDR. Clients set it to zero at each reset; without reports of TPR accesses (KVM_CAP_VAPIC is absent)
/// no guest code comes to use the page.
pub fn set_vapic_addr(vcpu: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    if !super::in_kernel(vcpu) {
        return Err(Errno::EINVAL);
    }
    let KvmVapicAddr { vapic_addr } = arg.read()?;
    let word = vapic_addr.checked_add(3).ok_or(Errno::EINVAL)?;
    let slots = vcpu.vm().memory().slots(0);
    let there = [vapic_addr, word].map(|at| slots.lookup(GuestPhys(at).page()).is_some());
    // Zero stands for nowhere.
    if vapic_addr == 0 || there == [true; 2] {
        Ok(0)
    } else {
        Err(Errno::EINVAL)
    }
}
