//! What an architecture supplies: the contract between the neutral KVM and `arch/*/kvm`.
//!
//! An architecture is a type without values (`struct X86;`) that implements the five traits here. All its functions are
//! associated functions over [`Vm`] and [`Vcpu`]; its own state is in the associated types:
//!
//! * `Vm`: VM-wide, shared by all threads, locks what it must itself;
//! * `Vcpu`: one vCPU's registers and engine, handed out `&mut` to whoever holds the vCPU's mutex: KVM_RUN or an ioctl;
//! * `Shared`: one vCPU's state that other threads reach (a local APIC, pending events).
//!
//! # The run function
//!
//! [`Vcpus::run`] is called with the vCPU's mutex held, signals routed to the kick word, and the run page to read and
//! fill. It loops until there is something for the client:
//!
//! ```text
//! complete the client's answer to the last exit
//! if vcpu.immediate_exit() { return Err(EINTR) }
//! loop {
//!     let kick = vcpu.seat().kick().take();              // clears REQUEST, EVENT and UNHALT
//!     if kick.contains(KickBits::SIGNAL) { return Err(EINTR) }
//!     handle vcpu.seat().take_requests() and take_notices()
//!     if halted and nothing to wake for { vcpu.halt(deadline, polling); continue }
//!     inject events
//!     let Some(guest) = vcpu.seat().enter_guest() else { continue };   // something was posted meanwhile
//!     run the engine until it leaves; it leaves at the next boundary after the kick word becomes nonzero
//!     drop(guest)
//!     an exit for the client: fill the run page and return Ok(())
//! }
//! ```
//!
//! Whatever reaches guest memory through pages cached from the memslots (a TLB, translated code) runs between
//! `enter_guest` and the drop of what it returns. KVM_SET_USER_MEMORY_REGION, the dirty log and code tracking wait only
//! for that.

use crate::errno::Errno;
use crate::irq::{IrqSource, Level, LineStatus, Route};
use crate::memory::{Slot, SlotLimits};
use crate::stats::StatRow;
use crate::tables::Tables;
use crate::vcpu::{Seat, Vcpu};
use crate::vm::Vm;
use ring3_host::user::UserPtr;
use ring3_uapi::KvmEnableCap;
use ring3_uapi::arch::Archs;
use std::sync::Arc;

/// The types and constants of an architecture.
pub trait Types: Sized + Send + Sync + 'static {
    type Vm: Send + Sync;
    type Vcpu: Send;
    type Shared: Send + Sync;

    /// Which of the rows' architectures it is.
    const ARCH: Archs;
    const LIMITS: Limits;
    /// What is counted besides what every VM counts.
    const VM_STATS: &'static [StatRow];
    /// What is counted besides what every vCPU counts.
    const VCPU_STATS: &'static [StatRow];
}

/// Sizes that differ between architectures.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Pages of a vCPU's mapping.
    pub vcpu_mmap_pages: usize,
    /// The page of that mapping that holds the coalesced ring.
    pub coalesced_page: Option<usize>,
    /// The page of a vCPU's file that its dirty ring begins with, behind that mapping.
    pub dirty_ring_page: Option<usize>,
    pub memory: SlotLimits,
    /// vCPUs in one VM, by default and at most.
    pub vcpus: u32,
    /// vCPU ids are below this.
    pub vcpu_ids: u32,
    /// GSIs are below this, and so is the number of routes.
    pub irq_routes: u32,
}

/// `/dev/kvm`.
pub trait System: Types {
    /// A request of `/dev/kvm` that is not neutral.
    fn system_ioctl(request: u32, arg: u64) -> Result<i64, Errno>;
    /// The architecture's own rows.
    fn tables() -> Tables {
        Tables::default()
    }
    /// KVM_CHECK_EXTENSION of a capability that is not neutral, on `/dev/kvm` or a VM. Zero for what is not there.
    fn check_extension(vm: Option<&Vm<Self>>, cap: u32) -> i64
    where
        Self: Arch;
}

/// The VM.
pub trait Vms: Types {
    /// KVM_CREATE_VM. `kind` is its argument.
    fn create_vm(kind: u64) -> Result<Self::Vm, Errno>;
    /// Whether the VM is one whose pages can be private.
    fn has_private_memory(_vm: &Self::Vm) -> bool {
        false
    }
    /// A request of a VM that is not neutral.
    fn vm_ioctl(vm: &Arc<Vm<Self>>, request: u32, arg: u64) -> Result<i64, Errno>
    where
        Self: Arch;
    /// KVM_ENABLE_CAP on the VM, of a capability that is not neutral.
    fn enable_cap(vm: &Arc<Vm<Self>>, cap: &KvmEnableCap) -> Result<i64, Errno>
    where
        Self: Arch;
    /// Whether the architecture takes this slot; nothing has changed yet.
    fn check_slot(_vm: &Vm<Self>, _slot: &Slot) -> Result<(), Errno>
    where
        Self: Arch,
    {
        Ok(())
    }
    /// KVM_CREATE_DEVICE of this type, or ENODEV. With [`Purpose::Test`] none is made.
    fn create_device(
        _vm: &Arc<Vm<Self>>,
        _kind: u32,
        _purpose: Purpose,
    ) -> Result<Option<Box<dyn Device>>, Errno>
    where
        Self: Arch,
    {
        Err(Errno::ENODEV)
    }
    /// The last descriptor of the VM and its vCPUs is closed: stop what runs by itself (timers).
    fn closing(_vm: &Vm<Self>)
    where
        Self: Arch,
    {
    }
}

/// Why a device is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Test,
    Create,
}

/// A device of KVM_CREATE_DEVICE. Dropped at its descriptor's last close, or with the VM.
pub trait Device: Send + Sync {
    fn set_attr(&self, attr: &ring3_uapi::KvmDeviceAttr) -> Result<(), Errno>;
    /// A device that has nothing to get need not look at the argument.
    fn get_attr(&self, arg: UserPtr) -> Result<(), Errno>;
    fn has_attr(&self, attr: &ring3_uapi::KvmDeviceAttr) -> Result<(), Errno>;
}

/// Interrupt controllers.
pub trait Irqs: Types {
    /// Whether interrupts are delivered here at all: with the full set of controllers, or with the client keeping those that
    /// have pins (the x86 split irqchip).
    fn irqchip_in_kernel(vm: &Vm<Self>) -> bool
    where
        Self: Arch;
    /// Whether the controllers that have pins are here too, so that an end of interrupt can be seen.
    fn has_pins(vm: &Vm<Self>) -> bool
    where
        Self: Arch;
    /// Whether there is such a pin, vCPU or message; EINVAL if not.
    fn check_route(vm: &Vm<Self>, route: &Route) -> Result<(), Errno>
    where
        Self: Arch;
    /// Drives a pin, or sends a message (on [`Level::High`]; on `Low` a message is ignored). Called from any thread,
    /// without neutral locks.
    fn set_irq(vm: &Vm<Self>, route: &Route, source: IrqSource, level: Level) -> LineStatus
    where
        Self: Arch;
    /// The routing table was replaced.
    fn routing_changed(_vm: &Vm<Self>)
    where
        Self: Arch,
    {
    }
}

/// vCPUs.
pub trait Vcpus: Types {
    /// Makes a vCPU's state. `seat` may be kept, to post to the vCPU from timers.
    fn create_vcpu(vm: &Arc<Vm<Self>>, seat: &Arc<Seat>) -> Result<(Self::Vcpu, Self::Shared), Errno>
    where
        Self: Arch;
    /// The vCPU is in the VM's list and has a descriptor.
    fn vcpu_created(_vcpu: &Arc<Vcpu<Self>>)
    where
        Self: Arch,
    {
    }
    /// A request that may not wait for the vCPU's mutex, as it concerns a vCPU that runs. `None` if it is not one.
    fn vcpu_ioctl_async(_vcpu: &Arc<Vcpu<Self>>, _request: u32, _arg: u64) -> Option<Result<i64, Errno>>
    where
        Self: Arch,
    {
        None
    }
    /// A request of a vCPU that is not neutral.
    fn vcpu_ioctl(
        vcpu: &Arc<Vcpu<Self>>,
        state: &mut Self::Vcpu,
        request: u32,
        arg: u64,
    ) -> Result<i64, Errno>
    where
        Self: Arch;
    /// KVM_RUN: see the module's head.
    fn run(vcpu: &Arc<Vcpu<Self>>, state: &mut Self::Vcpu) -> Result<(), Errno>
    where
        Self: Arch;
}

/// An architecture, whole.
pub trait Arch: System + Vms + Irqs + Vcpus {}

impl<T: System + Vms + Irqs + Vcpus> Arch for T {}
