//! The run page around an exit: the fields that are neither reason nor payload, and the synchronised registers.

use ring3_kvm::Errno;
use ring3_uapi::run::*;
use ring3_uapi::x86::{
    KVM_RUN_X86_SMM, KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, KVM_SYNC_X86_VALID_FIELDS,
    KvmRegs, KvmSregs, KvmVcpuEvents,
};
use ring3_x86_cpu::state::flags;

use crate::vcpu::{VcpuState, X86Vcpu};
use crate::{apic, controllers, events, inject, regs};

const SYNC_SREGS: usize = SYNC_REGS + size_of::<KvmRegs>();
const SYNC_EVENTS: usize = SYNC_SREGS + size_of::<KvmSregs>();

/// Whether the client wants to be told when it can inject.
pub fn wants_window(vcpu: &X86Vcpu) -> bool {
    vcpu.pages().load::<u8>(REQUEST_INTERRUPT_WINDOW) != 0
}

/// Takes what the client wrote before KVM_RUN.
pub fn load(vcpu: &X86Vcpu, s: &mut VcpuState) -> Result<(), Errno> {
    let page = vcpu.pages();
    let valid: u64 = page.load(KVM_VALID_REGS);
    let dirty: u64 = page.load(KVM_DIRTY_REGS);
    if (valid | dirty) & !KVM_SYNC_X86_VALID_FIELDS != 0 {
        return Err(Errno::EINVAL);
    }
    if dirty & KVM_SYNC_X86_REGS != 0 {
        regs::apply(s, &page.load(SYNC_REGS));
    }
    if dirty & KVM_SYNC_X86_SREGS != 0 {
        let wire: KvmSregs = page.load(SYNC_SREGS);
        regs::sregs::apply(vcpu, s, &wire)?;
    }
    if dirty & KVM_SYNC_X86_EVENTS != 0 {
        let wire: KvmVcpuEvents = page.load(SYNC_EVENTS);
        events::apply(vcpu, s, &wire)?;
    }
    page.store(KVM_DIRTY_REGS, &0u64);
    // With a local APIC of ours CR8 is the guest's; without, the client may have changed it.
    if !apic::in_kernel(vcpu) {
        let cr8: u64 = page.load(CR8);
        if cr8 > 15 {
            return Err(Errno::EINVAL);
        }
        apic::set_cr8(vcpu, &mut s.unit, cr8);
    }
    Ok(())
}

/// Writes what the client may look at after KVM_RUN.
pub fn save(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let page = vcpu.pages();
    let ready = controllers::has_chips(vcpu.vm()) || inject::ready_for_client(vcpu, s);
    page.store(IF_FLAG, &u8::from(s.cpu.core.state.flags.has(flags::IF)));
    page.store(READY_FOR_INTERRUPT_INJECTION, &u8::from(ready));
    let smm = if s.cpu.core.state.smm.active {
        KVM_RUN_X86_SMM
    } else {
        0
    };
    page.store(FLAGS, &(std::mem::take(&mut s.unit.run_flags) | smm));
    page.store(CR8, &apic::cr8(vcpu, &s.unit));
    page.store(APIC_BASE, &apic::base(vcpu, &s.unit));
    let valid: u64 = page.load(KVM_VALID_REGS);
    if valid & KVM_SYNC_X86_REGS != 0 {
        page.store(SYNC_REGS, &regs::to_wire(&s.cpu.core.state));
    }
    if valid & KVM_SYNC_X86_SREGS != 0 {
        page.store(SYNC_SREGS, &regs::sregs::to_wire(vcpu, s));
    }
    if valid & KVM_SYNC_X86_EVENTS != 0 {
        let wire = events::to_wire(vcpu, s);
        page.store(SYNC_EVENTS, &wire);
    }
}
