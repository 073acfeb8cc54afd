//! The back end that needs nobody's help: ring3 in this process, its descriptors found without interposition.
//!
//! Handlers of signals that the process installed before it creates a vCPU interrupt KVM_RUN; later ones are not seen,
//! because nothing stands between the process and its C library.

use crate::{Errno, Handle};
use ring3_host::device::DeviceFile;
use ring3_host::shared::SharedPages;
use ring3_host::signal::{self, Shield};
use ring3_kvm::{Files, Tables, open_system};
use ring3_x86_kvm::X86;
use std::os::fd::{AsRawFd, RawFd};

/// A descriptor of ring3's.
#[derive(Debug)]
struct InProcess(DeviceFile);

impl InProcess {
    fn adopt(fd: RawFd) -> Result<Box<dyn Handle>, Errno> {
        Ok(Box::new(InProcess(DeviceFile::from_raw(fd)?)))
    }
}

impl Handle for InProcess {
    fn ioctl(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        let _work = Shield::enter();
        let files = Files::process();
        let file = files.get(self.as_raw_fd()).ok_or(Errno::EBADF)?;
        Ok(files.ioctl(&file, request, arg)?)
    }

    fn adopt(&self, fd: RawFd) -> Result<Box<dyn Handle>, Errno> {
        InProcess::adopt(fd)
    }

    fn map(&self, len: usize) -> Result<SharedPages, Errno> {
        let mut pages = self.0.map(len)?;
        let over = Files::process()
            .get(self.as_raw_fd())
            .and_then(|file| file.overlay());
        if let Some(over) = over.filter(|over| over.offset + 4096 <= len) {
            pages.overlay(over.offset, &over.pages, over.from)?;
        }
        Ok(pages)
    }

    fn as_raw_fd(&self) -> RawFd {
        AsRawFd::as_raw_fd(&self.0)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        let _work = Shield::enter();
        Files::process().closed(self.as_raw_fd());
    }
}

/// Opens ring3's `/dev/kvm`.
pub fn open() -> Result<Box<dyn Handle>, Errno> {
    signal::activate();
    let _work = Shield::enter();
    InProcess::adopt(open_system::<X86>()?)
}

/// What this ring3 has for x86, read off the rows that requests go through.
pub fn tables() -> Tables {
    Tables::of::<X86>()
}

#[cfg(test)]
mod tests {
    use crate::{Kvm, Memory, VcpuExit};

    #[test]
    fn a_guest_runs_without_a_device() {
        let kvm = Kvm::in_process().expect("ring3 needs no device");
        let vm = kvm.create_vm(0).expect("a VM");
        let memory = Memory::new(4096).expect("memory");
        memory.write(0, &[0xb0, 0x2a, 0xe6, 0x10, 0xf4]).expect("fits");
        vm.add_memory(0, 0x1000, &memory, 0).expect("a slot");
        let vcpu = vm.create_vcpu(0).expect("a vCPU");
        let mut sregs = vcpu.get_sregs().expect("sregs");
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).expect("sregs");
        let mut regs = vcpu.get_regs().expect("regs");
        (regs.rip, regs.rflags) = (0x1000, 2);
        vcpu.set_regs(&regs).expect("regs");
        match vcpu.run().expect("runs") {
            VcpuExit::IoOut(io) => assert_eq!((io.port, vcpu.port_data(&io)), (0x10, vec![0x2a])),
            other => panic!("{other:?}"),
        }
        assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    }
}
