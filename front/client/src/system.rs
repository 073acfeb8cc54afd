//! The `/dev/kvm` descriptor.

use crate::handle::Fd;
use crate::list::{self, List};
use crate::{Errno, Handle, Vm, device, in_process};
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use std::os::fd::RawFd;

/// KVM itself.
#[derive(Debug)]
pub struct Kvm(Fd);

impl Kvm {
    /// Opens `/dev/kvm`: the kernel's, or an interposed one.
    pub fn open() -> Result<Kvm, Errno> {
        Ok(Self::from_handle(device::open("/dev/kvm")?))
    }

    /// Opens ring3's, in this process: no device is needed, nor anything interposed.
    pub fn in_process() -> Result<Kvm, Errno> {
        Ok(Self::from_handle(in_process::open()?))
    }

    /// Uses an open descriptor of any back end.
    pub fn from_handle(handle: Box<dyn Handle>) -> Kvm {
        Kvm(Fd(handle))
    }

    /// The descriptor's number.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }

    /// Any request.
    pub fn raw(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.0.value(request, arg)
    }

    /// KVM_GET_API_VERSION.
    pub fn api_version(&self) -> Result<u32, Errno> {
        Ok(self.0.value(KVM_GET_API_VERSION, 0)? as u32)
    }

    /// KVM_CHECK_EXTENSION.
    pub fn check_extension(&self, cap: u32) -> Result<i64, Errno> {
        self.0.value(KVM_CHECK_EXTENSION, cap.into())
    }

    /// KVM_GET_VCPU_MMAP_SIZE.
    pub fn vcpu_mmap_size(&self) -> Result<usize, Errno> {
        Ok(self.0.value(KVM_GET_VCPU_MMAP_SIZE, 0)? as usize)
    }

    /// KVM_CREATE_VM.
    pub fn create_vm(&self, vm_type: u64) -> Result<Vm, Errno> {
        let run_size = self.vcpu_mmap_size()?;
        Ok(Vm::new(self.0.open(KVM_CREATE_VM, vm_type)?, run_size))
    }

    /// KVM_GET_MSR_INDEX_LIST.
    pub fn msr_index_list(&self) -> Result<Vec<u32>, Errno> {
        list::fetch(
            &self.0,
            KVM_GET_MSR_INDEX_LIST,
            256,
            |nmsrs| KvmMsrList { nmsrs },
            |h| h.nmsrs,
        )
    }

    /// KVM_GET_MSR_FEATURE_INDEX_LIST.
    pub fn msr_feature_index_list(&self) -> Result<Vec<u32>, Errno> {
        list::fetch(
            &self.0,
            KVM_GET_MSR_FEATURE_INDEX_LIST,
            64,
            |nmsrs| KvmMsrList { nmsrs },
            |h| h.nmsrs,
        )
    }

    /// KVM_GET_MSRS on this descriptor: feature MSRs. Returns how many were read, from the first on.
    pub fn feature_msrs(&self, entries: &mut [KvmMsrEntry]) -> Result<usize, Errno> {
        get_msrs(&self.0, entries)
    }

    /// KVM_GET_SUPPORTED_CPUID.
    pub fn supported_cpuid(&self) -> Result<Vec<KvmCpuidEntry2>, Errno> {
        get_cpuid(&self.0, KVM_GET_SUPPORTED_CPUID)
    }

    /// KVM_GET_EMULATED_CPUID.
    pub fn emulated_cpuid(&self) -> Result<Vec<KvmCpuidEntry2>, Errno> {
        get_cpuid(&self.0, KVM_GET_EMULATED_CPUID)
    }

    /// KVM_GET_SUPPORTED_HV_CPUID.
    pub fn supported_hv_cpuid(&self) -> Result<Vec<KvmCpuidEntry2>, Errno> {
        get_cpuid(&self.0, KVM_GET_SUPPORTED_HV_CPUID)
    }

    /// KVM_X86_GET_MCE_CAP_SUPPORTED.
    pub fn mce_cap_supported(&self) -> Result<u64, Errno> {
        self.0.get(KVM_X86_GET_MCE_CAP_SUPPORTED)
    }
}

pub(crate) fn get_cpuid(fd: &Fd, request: u32) -> Result<Vec<KvmCpuidEntry2>, Errno> {
    list::fetch(fd, request, 64, |nent| KvmCpuid2 { nent, padding: 0 }, |h| h.nent)
}

pub(crate) fn get_msrs(fd: &Fd, entries: &mut [KvmMsrEntry]) -> Result<usize, Errno> {
    let mut list = List::new(
        &KvmMsrs {
            nmsrs: entries.len() as u32,
            pad: 0,
        },
        entries,
    );
    let count = list.call(fd, KVM_GET_MSRS)? as usize;
    for (entry, read) in entries.iter_mut().zip(list.entries(count)) {
        *entry = read;
    }
    Ok(count)
}
