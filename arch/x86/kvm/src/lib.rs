//! KVM/x86: the part of the KVM API that depends on the guest being x86.
//!
//! [`X86`] is what the neutral KVM is instantiated with; `ioctls` and `caps` are the tables a client's requests go
//! through. A vCPU (`vcpu`) runs in `run`: events go in by `inject`, the processor executes against the `world`, and
//! what the client must do goes out by `exit` and `run_page`. Its registers for the client are in `regs`, `events`,
//! `mp_state`, `guest_debug`; `pre_fault` is about its memory, `smm` about system management mode, `pmu` about performance
//! counters; `cpuid` and `msr` are tables with their ioctls; `clock` is guest time, `steal` what the host took of it, `async_pf` what the guest does while
//! its memory is fetched, `pv_eoi`
//! the end of interrupts without the APIC, `vapic` the task priority in guest memory; `stats` what is counted. Interrupts: the
//! models `lapic`, `ioapic`, `pic` and `pit` behind `ports`, assembled in `irqchip`, put into a VM by `apic` and
//! `controllers`.
//!
//! Not supported: nested virtualization, Hyper-V and Xen interfaces, SEV and TDX.
#![forbid(unsafe_code)]

pub mod apic;
pub mod async_pf;
pub mod caps;
pub mod clock;
pub mod controllers;
pub mod cpuid;
pub mod events;
pub mod exit;
pub mod guest_debug;
pub mod hypercall;
pub mod inject;
pub mod ioapic;
pub mod ioctls;
pub mod irqchip;
pub mod lapic;
pub mod locks;
pub mod module;
pub mod mp_state;
pub mod msr;
pub mod parameters;
pub mod pic;
pub mod pit;
pub mod pmu;
pub mod ports;
pub mod pre_fault;
pub mod pv_eoi;
pub mod regs;
pub mod run;
pub mod run_page;
pub mod settings;
pub mod smm;
pub mod stats;
pub mod steal;
#[cfg(test)]
mod tests;
pub mod vapic;
pub mod vcpu;
pub mod vm;
pub mod world;
mod x86;

pub use x86::X86;
