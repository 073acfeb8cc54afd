//! The task priority of guests that set it often: reports of each access to it, and a word of guest memory in its place.
//!
//! A client that hears of an access (KVM_TPR_ACCESS_REPORTING) may put other instructions in the place of the one that made
//! it, which use the word that KVM_SET_VAPIC_ADDR names: bits 0-7 are the task priority, which the guest sets, 8-15 the class in
//! service and 24-31 the highest vector requested, by which the guest knows that lowering the priority lets an
//! interrupt in, and asks for it by KVM_HC_VAPIC_POLL_IRQ. The word is written before the guest runs, and read when it has left
//! and before each access to the APIC of its own.
//!
//! Not supported: reports of accesses through the x2APIC's MSRs.

use ring3_host::addr::GuestPhys;
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{KvmTprAccessCtl, KvmVapicAddr};
use ring3_x86_cpu::Posted;

use crate::apic;
use crate::exit::Exit;
use crate::vcpu::{Unit, VcpuState, X86Vcpu};

/// A vCPU's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vapic {
    /// Where the word is, if there is one.
    word: Option<GuestPhys>,
    /// The word is the guest's to change.
    offered: bool,
    /// Accesses to the task priority are reported.
    reports: bool,
    /// The instruction that is being executed made one; whether it wrote.
    seen: Option<bool>,
}

impl Vapic {
    /// INIT: there is no word any more.
    pub fn reset(&mut self) {
        self.word = None;
        self.offered = false;
    }

    /// Notes an access to the task priority; true if it is to be reported.
    #[inline]
    pub fn note(&mut self, is_write: bool) -> bool {
        if self.reports {
            self.seen = Some(is_write);
        }
        self.reports
    }
}

/// The instruction at RIP `rip` has retired: its access to the task priority, if it made one, is reported.
#[inline]
pub fn report(unit: &mut Unit, rip: u64) -> Posted {
    match unit.vapic.seen.take() {
        None => Posted::Done,
        Some(is_write) => {
            unit.io.queue(Exit::TprAccess { rip, is_write });
            Posted::Pause
        }
    }
}

/// The guest is about to run, or has changed its APIC: the word says what is in it.
#[inline]
pub fn offer(vcpu: &X86Vcpu, unit: &mut Unit) {
    if unit.vapic.word.is_some() {
        write_word(vcpu, unit);
    }
}

#[cold]
fn write_word(vcpu: &X86Vcpu, unit: &mut Unit) {
    let Some(at) = unit.vapic.word else { return };
    let word = apic::vapic_word(vcpu).to_le_bytes();
    let written = unit.change_guest(vcpu, at, word.len(), |page, offset| page.write(offset, &word));
    unit.vapic.offered = written.is_some();
}

/// The guest's instruction changed its APIC: the word must not say otherwise.
#[inline]
pub fn follow(vcpu: &X86Vcpu, unit: &mut Unit) {
    if unit.vapic.offered {
        write_word(vcpu, unit);
    }
}

/// The guest is about to access its APIC.
#[inline]
pub fn collect(vcpu: &X86Vcpu, unit: &mut Unit) {
    if unit.vapic.offered {
        read_word(vcpu, unit);
    }
}

/// The guest has left.
#[inline]
pub fn withdraw(vcpu: &X86Vcpu, unit: &mut Unit) {
    collect(vcpu, unit);
    unit.vapic.offered = false;
}

#[cold]
fn read_word(vcpu: &X86Vcpu, unit: &mut Unit) {
    let mut priority = [0];
    let Some(at) = unit.vapic.word else { return };
    if unit.read_guest(vcpu, at, &mut priority).is_ok() {
        apic::set_task_priority(vcpu, priority[0]);
    }
}

/// KVM_SET_VAPIC_ADDR; zero is for no word.
pub fn set_address(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    if !apic::in_kernel(vcpu) {
        return Err(Errno::EINVAL);
    }
    let KvmVapicAddr { vapic_addr } = arg.read()?;
    let word = (vapic_addr != 0).then_some(GuestPhys(vapic_addr));
    if let Some(word) = word {
        let last = GuestPhys(vapic_addr.wrapping_add(3));
        let slots = s.unit.slots.slots(vcpu.vm().memory());
        if slots.lookup(word.page()).is_none() || slots.lookup(last.page()).is_none() {
            return Err(Errno::EINVAL);
        }
    }
    s.unit.vapic.word = word;
    Ok(0)
}

/// KVM_TPR_ACCESS_REPORTING, which writes back what it was given.
pub fn report_accesses(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let control: KvmTprAccessCtl = arg.read()?;
    if control.flags != 0 {
        return Err(Errno::EINVAL);
    }
    s.unit.vapic.reports = control.enabled != 0;
    arg.write(&control)?;
    Ok(0)
}
