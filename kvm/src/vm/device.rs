//! KVM_CREATE_DEVICE, and the descriptors it gives.

use super::{Life, Vm};
use crate::arch::{Arch, Device, Purpose, Vms};
use crate::errno::Errno;
use crate::file::{File, FileKind};
use crate::files::Files;
use crate::vfio;
use ring3_host::fd;
use ring3_host::user::UserPtr;
use ring3_uapi::KvmCreateDevice;
use ring3_uapi::device::{KVM_CREATE_DEVICE_TEST, KVM_DEV_TYPE_VFIO};
use ring3_uapi::ioctl::{KVM_GET_DEVICE_ATTR, KVM_HAS_DEVICE_ATTR, KVM_SET_DEVICE_ATTR};
use std::sync::Arc;

type Handler = fn(&dyn Device, UserPtr) -> Result<(), Errno>;

const ROWS: [(u32, Handler); 3] = [
    (KVM_SET_DEVICE_ATTR, |device, arg| device.set_attr(&arg.read()?)),
    (KVM_GET_DEVICE_ATTR, |device, arg| device.get_attr(arg)),
    (KVM_HAS_DEVICE_ATTR, |device, arg| device.has_attr(&arg.read()?)),
];

/// The requests of a device's descriptor.
pub(crate) const REQUESTS: [u32; 3] = [ROWS[0].0, ROWS[1].0, ROWS[2].0];

struct DeviceFile<A: Arch> {
    device: Box<dyn Device>,
    life: Arc<Life<A>>,
}

impl<A: Arch> File for DeviceFile<A> {
    fn kind(&self) -> FileKind {
        FileKind::Device
    }

    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.life.check()?;
        let row = ROWS.iter().find(|row| row.0 == request).ok_or(Errno::ENOTTY)?;
        (row.1)(&*self.device, UserPtr::new(arg)).map(|()| 0)
    }

    fn broken(&self) {
        self.life.broken();
    }
}

fn make<A: Arch>(vm: &Arc<Vm<A>>, kind: u32, purpose: Purpose) -> Result<Option<Box<dyn Device>>, Errno> {
    match (kind, purpose) {
        (KVM_DEV_TYPE_VFIO, Purpose::Test) if vfio::exists::<A>() => Ok(None),
        (KVM_DEV_TYPE_VFIO, Purpose::Create) if vfio::exists::<A>() => vfio::create(vm).map(Some),
        _ => <A as Vms>::create_device(vm, kind, purpose),
    }
}

/// KVM_CREATE_DEVICE.
pub(super) fn create<A: Arch>(vm: &Arc<Vm<A>>, life: &Arc<Life<A>>, arg: u64) -> Result<i64, Errno> {
    let at = UserPtr::new(arg);
    let mut args: KvmCreateDevice = at.read()?;
    let purpose = if args.flags & KVM_CREATE_DEVICE_TEST != 0 {
        Purpose::Test
    } else {
        Purpose::Create
    };
    let changes = vm.changes.lock();
    let device = make(vm, args.type_, purpose)?;
    if purpose == Purpose::Test {
        return Ok(at.write(&args).map(|()| 0)?);
    }
    let device = device.ok_or(Errno::ENODEV)?;
    let memfd = fd::memfd_create("kvm-device", 0)?;
    let file = DeviceFile {
        device,
        life: Arc::clone(life),
    };
    let number = Files::process().install(Arc::new(file), memfd)?;
    args.fd = number as u32;
    let told = at.write(&args);
    if told.is_err() {
        // Nobody knows of it, so nobody would close it, and it would keep the VM.
        drop(changes);
        Files::process().closed(number);
        drop(fd::adopt_raw(number));
    }
    Ok(told.map(|()| 0)?)
}
