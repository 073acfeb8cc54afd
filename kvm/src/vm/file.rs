//! A VM's descriptor: its ioctls as rows.

use super::{Life, Vm, caps, device, vcpus};
use crate::arch::{Arch, Irqs, Vms};
use crate::errno::Errno;
use crate::file::{File, FileKind};
use crate::io::{coalesced, ioeventfd};
use crate::irq;
use crate::memory::{SlotSpec, guest_memfd};
use crate::stats::StatsFile;
use ring3_host::user::UserPtr;
use ring3_uapi::ioctl::*;
use ring3_uapi::{KvmIrqLevel, KvmIrqRouting, KvmUserspaceMemoryRegion, KvmUserspaceMemoryRegion2};
use std::sync::Arc;
use zerocopy::{FromBytes, IntoBytes};

/// What stands behind a VM's descriptor.
pub(crate) struct VmFile<A: Arch> {
    vm: Arc<Vm<A>>,
    life: Arc<Life<A>>,
}

impl<A: Arch> VmFile<A> {
    pub fn new(vm: Arc<Vm<A>>) -> VmFile<A> {
        VmFile {
            life: Life::new(Arc::clone(&vm)),
            vm,
        }
    }
}

type Handler<A> = fn(&VmFile<A>, u64) -> Result<i64, Errno>;

macro_rules! rows {
    ($($request:ident => $handler:expr;)*) => {
        /// The requests handled here; all others are the architecture's.
        pub(crate) const REQUESTS: &[u32] = &[$($request),*];

        fn handler<A: Arch>(request: u32) -> Option<Handler<A>> {
            Some(match request {
                $($request => $handler,)*
                _ => return None,
            })
        }
    };
}

rows! {
    KVM_CREATE_VCPU => |file, arg| vcpus::create(&file.vm, &file.life, arg);
    KVM_ENABLE_CAP => |file, arg| caps::enable(&file.vm, &read(arg)?);
    KVM_SET_USER_MEMORY_REGION => |file, arg| set_region(&file.vm, &read::<KvmUserspaceMemoryRegion>(arg)?.into());
    KVM_SET_USER_MEMORY_REGION2 => |file, arg| set_region(&file.vm, &read::<KvmUserspaceMemoryRegion2>(arg)?.into());
    KVM_GET_DIRTY_LOG => |file, arg| done(file.vm.memory.get_dirty_log(&read(arg)?));
    KVM_CLEAR_DIRTY_LOG => |file, arg| done(file.vm.memory.clear_dirty_log(&read(arg)?));
    KVM_RESET_DIRTY_RINGS => |file, _| reset_dirty_rings(&file.vm);
    KVM_REGISTER_COALESCED_MMIO => |file, arg| done(coalesced::register(&file.vm.io, &read(arg)?));
    KVM_UNREGISTER_COALESCED_MMIO => |file, arg| done(coalesced::unregister(&file.vm.io, &read(arg)?));
    KVM_IOEVENTFD => |file, arg| done(ioeventfd::ioctl(&file.vm.io, &read(arg)?));
    KVM_IRQFD => |file, arg| done(irq::irqfd::ioctl(&file.vm, &read(arg)?));
    KVM_SIGNAL_MSI => |file, arg| irq::signal_msi(&file.vm, &read(arg)?);
    KVM_IRQ_LINE => |file, arg| irq::irq_line(&file.vm, &read(arg)?).map(|_| 0);
    KVM_IRQ_LINE_STATUS => |file, arg| irq_line_status(&file.vm, arg);
    KVM_SET_GSI_ROUTING => |file, arg| set_gsi_routing(&file.vm, arg);
    KVM_CREATE_DEVICE => |file, arg| device::create(&file.vm, &file.life, arg);
    KVM_SET_MEMORY_ATTRIBUTES => |file, arg| done(file.vm.memory.set_attributes(&read(arg)?));
    KVM_CREATE_GUEST_MEMFD => |file, arg| create_guest_memfd(&file.life, arg);
    KVM_GET_STATS_FD => |file, _| StatsFile::install(&file.life, file.vm.stats().open()?);
    KVM_CHECK_EXTENSION => |file, arg| Ok(caps::check_extension(Some(&file.vm), arg));
}

impl<A: Arch> File for VmFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::Vm
    }

    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.life.check()?;
        match handler::<A>(request) {
            Some(handle) => handle(self, arg),
            None => <A as Vms>::vm_ioctl(&self.vm, request, arg),
        }
    }

    fn broken(&self) {
        self.life.broken();
    }
}

fn read<T: FromBytes + IntoBytes>(arg: u64) -> Result<T, Errno> {
    Ok(UserPtr::new(arg).read()?)
}

fn done(result: Result<(), Errno>) -> Result<i64, Errno> {
    result.map(|()| 0)
}

fn set_region<A: Arch>(vm: &Arc<Vm<A>>, spec: &SlotSpec) -> Result<i64, Errno> {
    done(
        vm.memory
            .set_region(spec, |slot| <A as Vms>::check_slot(vm, slot)),
    )
}

fn create_guest_memfd<A: Arch>(life: &Arc<Life<A>>, arg: u64) -> Result<i64, Errno> {
    if !A::LIMITS.memory.private {
        return Err(Errno::ENOTTY);
    }
    guest_memfd::create(life, &read(arg)?)
}

fn reset_dirty_rings<A: Arch>(vm: &Vm<A>) -> Result<i64, Errno> {
    let vcpus = vm.vcpus();
    vm.memory
        .reset_dirty_rings(vcpus.iter().filter_map(|vcpu| vcpu.dirty_ring()))
}

fn irq_line_status<A: Arch>(vm: &Vm<A>, arg: u64) -> Result<i64, Errno> {
    let mut line: KvmIrqLevel = read(arg)?;
    line.irq = irq::irq_line(vm, &line)?.code() as u32;
    UserPtr::new(arg).write(&line)?;
    Ok(0)
}

fn set_gsi_routing<A: Arch>(vm: &Vm<A>, arg: u64) -> Result<i64, Errno> {
    let header: KvmIrqRouting = read(arg)?;
    let allowed = <A as Irqs>::irqchip_in_kernel(vm);
    if !allowed || header.nr > A::LIMITS.irq_routes || header.flags != 0 {
        return Err(Errno::EINVAL);
    }
    let at = UserPtr::new(arg).offset(size_of::<KvmIrqRouting>() as u64);
    done(irq::set_gsi_routing(vm, &at.read_vec(header.nr as usize)?))
}
