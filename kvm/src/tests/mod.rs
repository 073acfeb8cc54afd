//! Tests of this crate against an architecture of a few lines.
//!
//! [`Tiny`] has vCPUs whose guest is a closure, called again and again in guest mode, and one interrupt controller that notes what
//! was done to its pins. A [`Machine`] is a VM of it, with the calls a client makes.

mod dirty;
mod io;
mod irq;
mod memory;
mod ring;
mod seats;
mod vcpu;
mod vm;

use crate::arch::{Device, Irqs, Limits, Purpose, System, Types, Vcpus, Vms};
use crate::errno::Errno;
use crate::file::File;
use crate::files::Files;
use crate::irq::{IrqSource, Level, LineStatus, Route};
use crate::memory::{Slot, SlotLimits};
use crate::stats::{StatKind, StatRow, stat};
use crate::vcpu::{KickBits, PageNotices, Polling, Request, Seat, Vcpu};
use crate::vm::{Vm, VmFile};
use ring3_host::fd::adopt_raw;
use ring3_host::shared::SharedPages;
use ring3_host::time::monotonic_now;
use ring3_host::user::UserPtr;
use ring3_uapi::arch::Archs;
use ring3_uapi::ioctl::{KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION};
use ring3_uapi::{KvmDeviceAttr, KvmEnableCap, KvmUserspaceMemoryRegion};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

pub struct Tiny;

/// What a guest's turn ends with.
pub enum Step {
    /// Go on, after what was posted.
    Again,
    /// Nothing to do until something is posted, or for so many ns.
    Halt(Option<u64>, Polling),
    /// An exit for the client, of this reason.
    Exit(u32),
}

pub type Guest = Box<dyn FnMut(&Arc<Vcpu<Tiny>>) -> Step + Send>;

pub struct TinyVcpu {
    pub guest: Guest,
    pub slots_changed: u32,
    pub flushes: u32,
    pub notices: PageNotices,
}

#[derive(Default)]
pub struct TinyVm {
    pub controller: AtomicBool,
    private: bool,
    pub driven: Mutex<Vec<(Route, IrqSource, Level)>>,
}

/// What the architecture calls its own.
pub const OWN_REQUEST: u32 = 0xaefe;
pub const OWN_DEVICE: u32 = 77;
const PINS: u32 = 8;
/// The type of VM with private memory; the other is zero.
const PRIVATE: u64 = 1;

impl Types for Tiny {
    type Vm = TinyVm;
    type Vcpu = TinyVcpu;
    type Shared = ();
    const ARCH: Archs = Archs::X86;
    const LIMITS: Limits = Limits {
        vcpu_mmap_pages: 3,
        coalesced_page: Some(2),
        dirty_ring_page: Some(16),
        memory: SlotLimits {
            user_slots: 16,
            address_spaces: 2,
            readonly: true,
            private: true,
        },
        vcpus: 4,
        vcpu_ids: 16,
        irq_routes: 32,
    };
    const VM_STATS: &'static [StatRow] = &[];
    const VCPU_STATS: &'static [StatRow] = &[stat("own", StatKind::Count)];
}

impl System for Tiny {
    fn system_ioctl(_: u32, _: u64) -> Result<i64, Errno> {
        Err(Errno::EINVAL)
    }

    fn check_extension(_: Option<&Vm<Tiny>>, _: u32) -> i64 {
        0
    }
}

struct TinyDevice;

impl Device for TinyDevice {
    fn set_attr(&self, _: &KvmDeviceAttr) -> Result<(), Errno> {
        panic!("on purpose")
    }

    fn get_attr(&self, _: UserPtr) -> Result<(), Errno> {
        Err(Errno::ENXIO)
    }

    fn has_attr(&self, _: &KvmDeviceAttr) -> Result<(), Errno> {
        Ok(())
    }
}

impl Vms for Tiny {
    fn create_vm(kind: u64) -> Result<TinyVm, Errno> {
        if kind <= PRIVATE {
            Ok(TinyVm {
                private: kind == PRIVATE,
                ..TinyVm::default()
            })
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn has_private_memory(vm: &TinyVm) -> bool {
        vm.private
    }

    fn vm_ioctl(_: &Arc<Vm<Tiny>>, request: u32, arg: u64) -> Result<i64, Errno> {
        match request {
            OWN_REQUEST => Ok(arg as i64),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn enable_cap(_: &Arc<Vm<Tiny>>, _: &KvmEnableCap) -> Result<i64, Errno> {
        Err(Errno::EINVAL)
    }

    /// Refuses slots that begin at 4 GiB.
    fn check_slot(_: &Vm<Tiny>, slot: &Slot) -> Result<(), Errno> {
        if slot.base() == 1 << 20 {
            Err(Errno::ERANGE)
        } else {
            Ok(())
        }
    }

    fn create_device(
        _: &Arc<Vm<Tiny>>,
        kind: u32,
        purpose: Purpose,
    ) -> Result<Option<Box<dyn Device>>, Errno> {
        match (kind, purpose) {
            (OWN_DEVICE, Purpose::Test) => Ok(None),
            (OWN_DEVICE, Purpose::Create) => Ok(Some(Box::new(TinyDevice))),
            _ => Err(Errno::ENODEV),
        }
    }
}

impl Irqs for Tiny {
    fn irqchip_in_kernel(vm: &Vm<Tiny>) -> bool {
        vm.arch().controller.load(SeqCst)
    }

    fn has_pins(vm: &Vm<Tiny>) -> bool {
        vm.arch().controller.load(SeqCst)
    }

    fn check_route(_: &Vm<Tiny>, route: &Route) -> Result<(), Errno> {
        match route {
            Route::Pin(pin) if pin.pin >= PINS => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    fn set_irq(vm: &Vm<Tiny>, route: &Route, source: IrqSource, level: Level) -> LineStatus {
        let mut driven = vm.arch().driven.lock().expect("nobody panics with it");
        driven.push((*route, source, level));
        LineStatus::Delivered(1)
    }
}

impl Vcpus for Tiny {
    fn create_vcpu(_: &Arc<Vm<Tiny>>, _: &Arc<Seat>) -> Result<(TinyVcpu, ()), Errno> {
        let state = TinyVcpu {
            guest: Box::new(|_| Step::Exit(0)),
            slots_changed: 0,
            flushes: 0,
            notices: PageNotices::default(),
        };
        Ok((state, ()))
    }

    fn vcpu_ioctl(_: &Arc<Vcpu<Tiny>>, state: &mut TinyVcpu, request: u32, _: u64) -> Result<i64, Errno> {
        match request {
            OWN_REQUEST => Ok(i64::from(state.flushes)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn run(vcpu: &Arc<Vcpu<Tiny>>, state: &mut TinyVcpu) -> Result<(), Errno> {
        let seat = vcpu.seat();
        if vcpu.immediate_exit() {
            return Err(Errno::EINTR);
        }
        loop {
            if seat.kick().take().contains(KickBits::SIGNAL) {
                return Err(Errno::EINTR);
            }
            let requests = seat.take_requests();
            if requests.contains(Request::DEAD) {
                return Err(Errno::EIO);
            }
            state.slots_changed += u32::from(requests.contains(Request::SLOTS_CHANGED));
            state.flushes += u32::from(requests.contains(Request::TLB_FLUSH));
            if requests.contains(Request::PAGES) {
                state.notices = seat.take_notices();
            }
            let Some(guest) = seat.enter_guest() else { continue };
            let step = (state.guest)(vcpu);
            drop(guest);
            match step {
                Step::Again => {}
                Step::Halt(ns, polling) => vcpu.halt(ns.map(|ns| monotonic_now().after_ns(ns)), polling),
                Step::Exit(reason) => {
                    vcpu.set_exit_reason(reason);
                    return Ok(());
                }
            }
        }
    }
}

/// A VM, and a client's calls on it.
pub struct Machine {
    pub vm: Arc<Vm<Tiny>>,
    pub file: Arc<dyn File>,
}

impl Machine {
    pub fn new() -> Machine {
        Machine::of(0)
    }

    /// With private memory.
    pub fn private() -> Machine {
        Machine::of(PRIVATE)
    }

    fn of(kind: u64) -> Machine {
        let vm = Vm::<Tiny>::create(kind).expect("it exists");
        let file = Arc::new(VmFile::new(Arc::clone(&vm)));
        Machine { vm, file }
    }

    /// With the interrupt controller.
    pub fn with_controller() -> Machine {
        let machine = Machine::new();
        machine.vm.arch().controller.store(true, SeqCst);
        machine
    }

    /// A request whose argument is a structure.
    pub fn call<T>(&self, request: u32, arg: &T) -> Result<i64, Errno> {
        self.value(request, std::ptr::from_ref(arg) as u64)
    }

    /// A request whose argument is a number.
    pub fn value(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        Files::process().ioctl(&self.file, request, arg)
    }

    pub fn set_slot(&self, slot: u32, flags: u32, guest: u64, memory: &SharedPages) -> Result<i64, Errno> {
        self.set_region(&KvmUserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: guest,
            memory_size: memory.len() as u64,
            userspace_addr: memory.address().0,
        })
    }

    pub fn set_region(&self, region: &KvmUserspaceMemoryRegion) -> Result<i64, Errno> {
        self.call(KVM_SET_USER_MEMORY_REGION, region)
    }

    pub fn vcpu(&self, id: u32) -> Processor {
        let fd = self.value(KVM_CREATE_VCPU, id.into()).expect("a vCPU");
        Processor {
            vcpu: self.vm.vcpu_by_id(id).expect("just made"),
            fd: Open(fd as RawFd),
        }
    }

    /// What was done to pins and messages since the last time.
    pub fn driven(&self) -> Vec<(Route, IrqSource, Level)> {
        std::mem::take(&mut *self.vm.arch().driven.lock().expect("nobody panics with it"))
    }
}

/// A descriptor of ours, closed when dropped.
pub struct Open(pub RawFd);

impl Open {
    pub fn file(&self) -> Arc<dyn File> {
        Files::process().get(self.0).expect("it is ours")
    }

    pub fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        Files::process().ioctl(&self.file(), request, arg)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        Files::process().closed(self.0);
        drop(adopt_raw(self.0));
    }
}

/// A vCPU and its descriptor.
pub struct Processor {
    pub vcpu: Arc<Vcpu<Tiny>>,
    pub fd: Open,
}

impl Processor {
    /// What its guest does from now on.
    pub fn guest(&self, guest: impl FnMut(&Arc<Vcpu<Tiny>>) -> Step + Send + 'static) {
        self.vcpu.with_state(|state| state.guest = Box::new(guest));
    }

    pub fn run(&self) -> Result<i64, Errno> {
        self.fd.ioctl(ring3_uapi::ioctl::KVM_RUN, 0)
    }
}

/// Zeroed memory.
pub fn memory(pages: usize) -> SharedPages {
    SharedPages::create("memory", pages).expect("memory").0
}
