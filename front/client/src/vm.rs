//! A VM descriptor, and the descriptors of its in-kernel devices.

use crate::handle::Fd;
use crate::list::List;
use crate::{Errno, Memory, Stats, Vcpu};
use ring3_host::shared::SharedPages;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: Fd,
    run_size: usize,
    /// Memory given to the guest, by slot: it must outlive its use.
    memory: Mutex<Vec<(u32, Memory)>>,
}

/// Requests that take or give one structure.
macro_rules! plain {
    ($($(#[$attr:meta])* $method:ident($value:ident: &$ty:ty) = $request:ident;)*) => {
        $($(#[$attr])*
        #[doc = concat!(stringify!($request), ".")]
        pub fn $method(&self, $value: &$ty) -> Result<(), Errno> {
            self.fd.set($request, $value)
        })*
    };
    ($($(#[$attr:meta])* $method:ident() -> $ty:ty = $request:ident;)*) => {
        $($(#[$attr])*
        #[doc = concat!(stringify!($request), ".")]
        pub fn $method(&self) -> Result<$ty, Errno> {
            self.fd.get($request)
        })*
    };
    ($($(#[$attr:meta])* $method:ident() = $request:ident;)*) => {
        $($(#[$attr])*
        #[doc = concat!(stringify!($request), ".")]
        pub fn $method(&self) -> Result<(), Errno> {
            self.fd.done($request, 0)
        })*
    };
}
pub(crate) use plain;

impl Vm {
    pub(crate) fn new(fd: Fd, run_size: usize) -> Vm {
        Vm {
            fd,
            run_size,
            memory: Mutex::default(),
        }
    }

    /// The descriptor's number.
    pub fn as_raw_fd(&self) -> RawFd {
        self.fd.0.as_raw_fd()
    }

    /// Any request.
    pub fn raw(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.fd.value(request, arg)
    }

    /// KVM_CHECK_EXTENSION for this VM.
    pub fn check_extension(&self, cap: u32) -> Result<i64, Errno> {
        self.fd.value(KVM_CHECK_EXTENSION, cap.into())
    }

    /// KVM_ENABLE_CAP.
    pub fn enable_cap(&self, cap: u32, args: [u64; 4]) -> Result<(), Errno> {
        self.fd.set(
            KVM_ENABLE_CAP,
            &KvmEnableCap {
                cap,
                args,
                ..Default::default()
            },
        )
    }

    /// KVM_CREATE_VCPU, and its run page mapped.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu, Errno> {
        Vcpu::new(self.fd.open(KVM_CREATE_VCPU, id)?, self.run_size)
    }

    /// Gives memory to the guest, and keeps it alive as long as the guest may reach it.
    pub fn add_memory(&self, slot: u32, gpa: u64, memory: &Memory, flags: u32) -> Result<(), Errno> {
        self.set_user_memory_region(&memory.region(slot, gpa, flags))?;
        let mut kept = self.memory.lock().unwrap_or_else(|e| e.into_inner());
        kept.retain(|(other, _)| *other != slot);
        kept.push((slot, memory.clone()));
        Ok(())
    }

    /// Takes a slot away.
    pub fn remove_memory(&self, slot: u32) -> Result<(), Errno> {
        self.set_user_memory_region(&KvmUserspaceMemoryRegion {
            slot,
            ..Default::default()
        })?;
        let mut kept = self.memory.lock().unwrap_or_else(|e| e.into_inner());
        kept.retain(|(other, _)| *other != slot);
        Ok(())
    }

    plain! {
        set_user_memory_region(region: &KvmUserspaceMemoryRegion) = KVM_SET_USER_MEMORY_REGION;
        set_user_memory_region2(region: &KvmUserspaceMemoryRegion2) = KVM_SET_USER_MEMORY_REGION2;
        set_memory_attributes(attributes: &KvmMemoryAttributes) = KVM_SET_MEMORY_ATTRIBUTES;
        set_identity_map_addr(address: &u64) = KVM_SET_IDENTITY_MAP_ADDR;
        irq_line(line: &KvmIrqLevel) = KVM_IRQ_LINE;
        set_irqchip(chip: &KvmIrqchip) = KVM_SET_IRQCHIP;
        create_pit2(config: &KvmPitConfig) = KVM_CREATE_PIT2;
        set_pit2(state: &KvmPitState2) = KVM_SET_PIT2;
        reinject_control(control: &KvmReinjectControl) = KVM_REINJECT_CONTROL;
        irqfd(irqfd: &KvmIrqfd) = KVM_IRQFD;
        ioeventfd(ioeventfd: &KvmIoeventfd) = KVM_IOEVENTFD;
        register_coalesced_mmio(zone: &KvmCoalescedMmioZone) = KVM_REGISTER_COALESCED_MMIO;
        unregister_coalesced_mmio(zone: &KvmCoalescedMmioZone) = KVM_UNREGISTER_COALESCED_MMIO;
        set_clock(clock: &KvmClockData) = KVM_SET_CLOCK;
        set_msr_filter(filter: &KvmMsrFilter) = KVM_X86_SET_MSR_FILTER;
    }

    plain! {
        get_pit2() -> KvmPitState2 = KVM_GET_PIT2;
        get_clock() -> KvmClockData = KVM_GET_CLOCK;
    }

    plain! {
        create_irqchip() = KVM_CREATE_IRQCHIP;
    }

    /// KVM_GET_IRQCHIP.
    pub fn get_irqchip(&self, chip_id: u32) -> Result<KvmIrqchip, Errno> {
        let mut chip = KvmIrqchip {
            chip_id,
            ..Default::default()
        };
        self.fd.update(KVM_GET_IRQCHIP, &mut chip)?;
        Ok(chip)
    }

    /// KVM_IRQ_LINE_STATUS: how the line's change was taken.
    pub fn irq_line_status(&self, irq: u32, level: u32) -> Result<i32, Errno> {
        let mut line = KvmIrqLevel { irq, level };
        self.fd.update(KVM_IRQ_LINE_STATUS, &mut line)?;
        Ok(line.status())
    }

    /// KVM_SIGNAL_MSI: how many vCPUs it went to; zero when the guest blocked it.
    pub fn signal_msi(&self, msi: &KvmMsi) -> Result<i64, Errno> {
        self.fd.update(KVM_SIGNAL_MSI, &mut { *msi })
    }

    /// KVM_SET_GSI_ROUTING.
    pub fn set_gsi_routing(&self, entries: &[KvmIrqRoutingEntry]) -> Result<(), Errno> {
        let header = KvmIrqRouting {
            nr: entries.len() as u32,
            flags: 0,
        };
        List::new(&header, entries)
            .call(&self.fd, KVM_SET_GSI_ROUTING)
            .map(drop)
    }

    /// KVM_SET_TSS_ADDR.
    pub fn set_tss_addr(&self, address: u64) -> Result<(), Errno> {
        self.fd.done(KVM_SET_TSS_ADDR, address)
    }

    /// KVM_SET_BOOT_CPU_ID.
    pub fn set_boot_cpu_id(&self, id: u64) -> Result<(), Errno> {
        self.fd.done(KVM_SET_BOOT_CPU_ID, id)
    }

    /// KVM_SET_TSC_KHZ: for vCPUs made from now on.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), Errno> {
        self.fd.done(KVM_SET_TSC_KHZ, khz.into())
    }

    /// KVM_GET_TSC_KHZ.
    pub fn get_tsc_khz(&self) -> Result<u32, Errno> {
        Ok(self.fd.value(KVM_GET_TSC_KHZ, 0)? as u32)
    }

    /// KVM_GET_DIRTY_LOG of a slot of `pages` pages.
    pub fn get_dirty_log(&self, slot: u32, pages: usize) -> Result<Vec<u64>, Errno> {
        let mut bitmap = vec![0u64; pages.div_ceil(64)];
        let log = KvmDirtyLog {
            slot,
            padding1: 0,
            dirty_bitmap: bitmap.as_mut_ptr() as u64,
        };
        self.fd.set(KVM_GET_DIRTY_LOG, &log)?;
        Ok(bitmap)
    }

    /// KVM_CLEAR_DIRTY_LOG for the pages whose bits are set. Fails with EINVAL when the bitmap is shorter than the range.
    pub fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        if (bitmap.len() * 64) < num_pages as usize {
            return Err(Errno::EINVAL);
        }
        let dirty_bitmap = bitmap.as_ptr() as u64;
        self.fd.set(
            KVM_CLEAR_DIRTY_LOG,
            &KvmClearDirtyLog {
                slot,
                num_pages,
                first_page,
                dirty_bitmap,
            },
        )
    }

    /// KVM_RESET_DIRTY_RINGS: how many entries were recycled.
    pub fn reset_dirty_rings(&self) -> Result<i64, Errno> {
        self.fd.value(KVM_RESET_DIRTY_RINGS, 0)
    }

    /// KVM_CREATE_GUEST_MEMFD.
    pub fn create_guest_memfd(&self, size: u64, flags: u64) -> Result<GuestMemfd, Errno> {
        let mut args = KvmCreateGuestMemfd {
            size,
            flags,
            reserved: [0; 6],
        };
        let fd = self.fd.update(KVM_CREATE_GUEST_MEMFD, &mut args)?;
        self.fd.0.adopt(fd as RawFd).map(Fd).map(GuestMemfd)
    }

    /// KVM_GET_STATS_FD.
    pub fn stats(&self) -> Result<Stats, Errno> {
        Stats::new(self.fd.open(KVM_GET_STATS_FD, 0)?)
    }

    /// KVM_CREATE_DEVICE.
    pub fn create_device(&self, type_: u32) -> Result<Device, Errno> {
        let mut device = KvmCreateDevice {
            type_,
            ..Default::default()
        };
        self.fd.update(KVM_CREATE_DEVICE, &mut device)?;
        self.fd.0.adopt(device.fd as RawFd).map(Fd).map(Device)
    }

    /// KVM_CREATE_DEVICE, only to ask whether there is such a device.
    pub fn has_device(&self, type_: u32) -> Result<(), Errno> {
        self.fd.set(
            KVM_CREATE_DEVICE,
            &KvmCreateDevice {
                type_,
                fd: 0,
                flags: device::KVM_CREATE_DEVICE_TEST,
            },
        )
    }
}

/// Shorthands over the structures.
impl Vm {
    /// Drives an interrupt line.
    pub fn set_irq_line(&self, irq: u32, level: u32) -> Result<(), Errno> {
        self.irq_line(&KvmIrqLevel { irq, level })
    }

    /// Has an eventfd pulse a line.
    pub fn register_irqfd(&self, fd: &impl AsRawFd, gsi: u32) -> Result<(), Errno> {
        self.irqfd(&KvmIrqfd {
            fd: fd.as_raw_fd() as u32,
            gsi,
            ..Default::default()
        })
    }

    /// Ends that.
    pub fn unregister_irqfd(&self, fd: &impl AsRawFd, gsi: u32) -> Result<(), Errno> {
        let flags = KVM_IRQFD_FLAG_DEASSIGN;
        self.irqfd(&KvmIrqfd {
            fd: fd.as_raw_fd() as u32,
            gsi,
            flags,
            ..Default::default()
        })
    }
}

/// Memory of KVM_CREATE_GUEST_MEMFD.
#[derive(Debug)]
pub struct GuestMemfd(Fd);

impl GuestMemfd {
    /// The descriptor's number.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }

    /// Any request.
    pub fn raw(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.0.value(request, arg)
    }

    /// Maps the first `len` bytes.
    pub fn map(&self, len: usize) -> Result<SharedPages, Errno> {
        self.0.0.map(len)
    }

    /// All of a part of it as a slot, `memory` being what is not private.
    pub fn region(&self, slot: u32, gpa: u64, memory: &Memory, offset: u64) -> KvmUserspaceMemoryRegion2 {
        KvmUserspaceMemoryRegion2 {
            slot,
            flags: KVM_MEM_GUEST_MEMFD,
            guest_phys_addr: gpa,
            memory_size: memory.size() as u64,
            userspace_addr: memory.address(),
            guest_memfd_offset: offset,
            guest_memfd: self.as_raw_fd() as u32,
            ..Default::default()
        }
    }
}

/// An in-kernel device.
#[derive(Debug)]
pub struct Device(Fd);

impl Device {
    /// Any request.
    pub fn raw(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.0.value(request, arg)
    }

    /// KVM_HAS_DEVICE_ATTR.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<(), Errno> {
        self.0.set(
            KVM_HAS_DEVICE_ATTR,
            &KvmDeviceAttr {
                flags: 0,
                group,
                attr,
                addr: 0,
            },
        )
    }
}
