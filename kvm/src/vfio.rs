//! The VFIO device: through it a client says which VFIO files belong to the VM.
//!
//! Nothing in the guest's way depends on it: a passed-through device's memory is mapped by the client, its DMA goes to the
//! client's own memory, and its interrupts come by eventfd. The device checks the files and keeps them open, as the kernel's does.
//!
//! Not supported: telling the driver behind a file which VM it serves (mediated devices that ask for one do not open),
//! and the devices' snooping behaviour, which has no effect on a guest whose memory accesses are the host's.

use crate::arch::{Arch, Device};
use crate::errno::Errno;
use crate::ranks;
use crate::vm::Vm;
use ring3_host::fd::{self, FdId};
use ring3_host::lock::RankedMutex;
use ring3_host::user::UserPtr;
use ring3_uapi::KvmDeviceAttr;
use ring3_uapi::device::{DEVICE_TYPES, KVM_DEV_TYPE_VFIO, KVM_DEV_VFIO_FILE};
use ring3_uapi::device::{KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A VFIO file that the client added.
struct Held {
    id: FdId,
    _fd: OwnedFd,
}

/// What KVM_CREATE_DEVICE gives for KVM_DEV_TYPE_VFIO.
struct Vfio {
    files: RankedMutex<Vec<Held>>,
    _place: Place,
}

/// A VM's one place for such a device.
#[derive(Default)]
pub(crate) struct Vacancy(Arc<AtomicBool>);

/// The place, taken; free again when dropped.
struct Place(Arc<AtomicBool>);

impl Vacancy {
    fn take(&self) -> Result<Place, Errno> {
        if self.0.swap(true, SeqCst) {
            return Err(Errno::EBUSY);
        }
        Ok(Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

/// Its type, and its groups of attributes.
pub(crate) const TYPE: u32 = KVM_DEV_TYPE_VFIO;
pub(crate) const GROUPS: [u32; 1] = [KVM_DEV_VFIO_FILE];

/// Whether the architecture has such devices.
pub(crate) fn exists<A: Arch>() -> bool {
    DEVICE_TYPES
        .iter()
        .any(|row| row.number == KVM_DEV_TYPE_VFIO && row.archs.contains(A::ARCH))
}

/// KVM_CREATE_DEVICE: EBUSY if the VM has one.
pub(crate) fn create<A: Arch>(vm: &Vm<A>) -> Result<Box<dyn Device>, Errno> {
    Ok(Box::new(Vfio {
        files: RankedMutex::new(ranks::VFIO, Vec::new()),
        _place: vm.vfio().take()?,
    }))
}

impl Vfio {
    fn add(&self, fd: OwnedFd, id: FdId) -> Result<(), Errno> {
        if !fd::is_vfio(&fd) {
            return Err(Errno::EINVAL);
        }
        let mut files = self.files.lock();
        if files.iter().any(|held| held.id == id) {
            return Err(Errno::EEXIST);
        }
        let fd = fd::out_of_the_way(fd);
        files.push(Held { id, _fd: fd });
        Ok(())
    }

    fn remove(&self, id: FdId) -> Result<(), Errno> {
        let mut files = self.files.lock();
        let at = files.iter().position(|held| held.id == id).ok_or(Errno::ENOENT)?;
        let gone = files.swap_remove(at);
        drop(files);
        drop(gone);
        Ok(())
    }
}

impl Device for Vfio {
    fn set_attr(&self, attr: &KvmDeviceAttr) -> Result<(), Errno> {
        self.has_attr(attr)?;
        let number: i32 = UserPtr::new(attr.addr).read()?;
        let fd = fd::dup_raw(number)?;
        let id = fd::identity(&fd)?;
        match attr.attr {
            KVM_DEV_VFIO_FILE_ADD => self.add(fd, id),
            _ => self.remove(id),
        }
    }

    /// There is nothing to get, for which Linux has this number.
    fn get_attr(&self, _: UserPtr) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }

    fn has_attr(&self, attr: &KvmDeviceAttr) -> Result<(), Errno> {
        let known = matches!(attr.attr, KVM_DEV_VFIO_FILE_ADD | KVM_DEV_VFIO_FILE_DEL);
        if GROUPS.contains(&attr.group) && known {
            Ok(())
        } else {
            Err(Errno::ENXIO)
        }
    }
}
