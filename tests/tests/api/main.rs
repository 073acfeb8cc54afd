//! What each ioctl does, as a client sees it: success, the documented errnos, and that what was set comes back.
//!
//! The tests speak to ring3 in this process. With `RING3_API=device` they speak to whatever `/dev/kvm` opens: the kernel's,
//! which is the oracle, or ring3's under `ring3 run`; without one they are skipped then, each by name.

mod async_pf;
mod attributes;
mod buses;
mod controllers;
mod debug;
mod descriptors;
mod dirty_ring;
mod entering;
mod events;
mod exits;
mod injecting;
mod irq;
mod lists;
mod machine_checks;
mod memory;
mod old;
mod pmu;
mod pointers;
mod private;
mod pv;
mod pv_eoi;
mod registers;
mod round_trips;
mod run;
mod settings;
mod slots;
mod smm;
mod sregs;
mod stats;
mod switches;
mod system;
mod vapic;

use ring3_client::{Errno, Kvm, Memory, Vcpu, Vm};

/// Which KVM the tests speak to, by the name that `RING3_API` gives it.
#[derive(Clone, Copy, PartialEq)]
enum BackEnd {
    InProcess,
    Device,
}

fn back_end() -> BackEnd {
    match std::env::var("RING3_API").as_deref() {
        Ok("device") => BackEnd::Device,
        Err(_) | Ok("" | "in-process") => BackEnd::InProcess,
        Ok(other) => panic!("RING3_API is {other:?}, which is neither \"in-process\" nor \"device\""),
    }
}

/// KVM, or a word on why the calling test is skipped.
fn kvm() -> Option<Kvm> {
    if back_end() == BackEnd::InProcess {
        return Some(Kvm::in_process().expect("ring3 needs no device"));
    }
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(e) => {
            skipped(&format!("/dev/kvm does not open: {e}"));
            None
        }
    }
}

/// Says that the calling test is skipped, and why.
fn skipped(why: &str) {
    let thread = std::thread::current();
    eprintln!("skipped: {}: {why}", thread.name().unwrap_or("?"));
}

/// Whether KVM has the capability; if not, the calling test is skipped.
fn offered(cap: u32) -> bool {
    let Some(kvm) = kvm() else { return false };
    let there = kvm.check_extension(cap).is_ok_and(|answer| answer != 0);
    if !there {
        let name = ring3_uapi::cap::lookup(cap).map_or("?", |row| row.name);
        skipped(&format!("no {name}"));
    }
    there
}

/// A VM without anything.
fn vm() -> Option<Vm> {
    Some(kvm()?.create_vm(0).expect("KVM_CREATE_VM"))
}

/// A VM with one vCPU and all interrupts the client's.
fn vcpu() -> Option<(Vm, Vcpu)> {
    let vm = vm()?;
    let vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
    Some((vm, vcpu))
}

/// A VM with in-kernel interrupt controllers and one vCPU.
fn vcpu_with_irqchip() -> Option<(Vm, Vcpu)> {
    let vm = vm()?;
    vm.create_irqchip().expect("KVM_CREATE_IRQCHIP");
    let vcpu = vm.create_vcpu(0).expect("KVM_CREATE_VCPU");
    Some((vm, vcpu))
}

/// A vCPU with all controllers and all of CPUID.
fn vcpu_with_cpuid() -> Option<(Vm, Vcpu)> {
    let (vm, vcpu) = vcpu_with_irqchip()?;
    vcpu.set_cpuid2(&kvm()?.supported_cpuid().unwrap()).unwrap();
    Some((vm, vcpu))
}

fn eventfd() -> std::os::fd::OwnedFd {
    ring3_host::fd::eventfd().expect("eventfd")
}

fn memory(bytes: usize) -> Memory {
    Memory::new(bytes).expect("memory")
}

/// An address where nothing is, ever.
const NOWHERE: u64 = 8;

const OK: Result<(), Errno> = Ok(());

/// Whether this is the kernel's KVM with the out-of-tree `kvm_pvm` vendor module, which is no witness where it is laxer
/// than Linux's own.
fn kernel_is_pvm(kvm: &Kvm) -> bool {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", kvm.as_raw_fd()));
    let kernels = target.is_ok_and(|target| target.as_os_str() == "/dev/kvm");
    kernels && std::path::Path::new("/sys/module/kvm_pvm").exists()
}
