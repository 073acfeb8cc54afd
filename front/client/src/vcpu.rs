//! A vCPU descriptor and its run page.

use crate::handle::Fd;
use crate::list::List;
use crate::system::{get_cpuid, get_msrs};
use crate::vm::plain;
use crate::{Errno, Stats, VcpuExit};
use ring3_host::shared::SharedPages;
use ring3_uapi::ioctl::*;
use ring3_uapi::run::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering::Relaxed;
use zerocopy::{FromZeros, IntoBytes};

/// A virtual processor.
#[derive(Debug)]
pub struct Vcpu {
    fd: Fd,
    run: SharedPages,
}

impl Vcpu {
    pub(crate) fn new(fd: Fd, run_size: usize) -> Result<Vcpu, Errno> {
        let run = fd.0.map(run_size)?;
        Ok(Vcpu { fd, run })
    }

    /// The descriptor's number.
    pub fn as_raw_fd(&self) -> RawFd {
        self.fd.0.as_raw_fd()
    }

    /// Any request.
    pub fn raw(&self, request: u32, arg: u64) -> Result<i64, Errno> {
        self.fd.value(request, arg)
    }

    /// KVM_RUN.
    pub fn run(&self) -> Result<VcpuExit, Errno> {
        self.fd.done(KVM_RUN, 0)?;
        Ok(VcpuExit::read(&self.run))
    }

    /// The mapping of the run page and what follows it.
    pub fn run_page(&self) -> &SharedPages {
        &self.run
    }

    /// Maps the first `len` bytes once more: the dirty ring is behind what [`Vcpu::run_page`] has.
    pub fn map_all(&self, len: usize) -> Result<SharedPages, Errno> {
        self.fd.0.map(len)
    }

    plain! {
        get_regs() -> KvmRegs = KVM_GET_REGS;
        get_sregs() -> KvmSregs = KVM_GET_SREGS;
        get_sregs2() -> KvmSregs2 = KVM_GET_SREGS2;
        get_fpu() -> KvmFpu = KVM_GET_FPU;
        get_lapic() -> KvmLapicState = KVM_GET_LAPIC;
        get_mp_state() -> KvmMpState = KVM_GET_MP_STATE;
        get_vcpu_events() -> KvmVcpuEvents = KVM_GET_VCPU_EVENTS;
        get_debugregs() -> KvmDebugregs = KVM_GET_DEBUGREGS;
        get_xsave() -> KvmXsave = KVM_GET_XSAVE;
        get_xcrs() -> KvmXcrs = KVM_GET_XCRS;
    }

    plain! {
        set_regs(regs: &KvmRegs) = KVM_SET_REGS;
        set_sregs(sregs: &KvmSregs) = KVM_SET_SREGS;
        set_sregs2(sregs: &KvmSregs2) = KVM_SET_SREGS2;
        set_fpu(fpu: &KvmFpu) = KVM_SET_FPU;
        set_lapic(lapic: &KvmLapicState) = KVM_SET_LAPIC;
        set_mp_state(state: &KvmMpState) = KVM_SET_MP_STATE;
        set_vcpu_events(events: &KvmVcpuEvents) = KVM_SET_VCPU_EVENTS;
        set_debugregs(regs: &KvmDebugregs) = KVM_SET_DEBUGREGS;
        set_xsave(xsave: &KvmXsave) = KVM_SET_XSAVE;
        set_xcrs(xcrs: &KvmXcrs) = KVM_SET_XCRS;
        set_guest_debug(debug: &KvmGuestDebug) = KVM_SET_GUEST_DEBUG;
        set_vapic_addr(address: &KvmVapicAddr) = KVM_SET_VAPIC_ADDR;
        setup_mce(mcg_cap: &u64) = KVM_X86_SETUP_MCE;
        set_mce(mce: &KvmX86Mce) = KVM_X86_SET_MCE;
    }

    plain! {
        nmi() = KVM_NMI;
        smi() = KVM_SMI;
        kvmclock_ctrl() = KVM_KVMCLOCK_CTRL;
    }

    /// KVM_GET_STATS_FD.
    pub fn stats(&self) -> Result<Stats, Errno> {
        Stats::new(self.fd.open(KVM_GET_STATS_FD, 0)?)
    }

    /// KVM_INTERRUPT.
    pub fn interrupt(&self, irq: u32) -> Result<(), Errno> {
        self.fd.set(KVM_INTERRUPT, &KvmInterrupt { irq })
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

    /// KVM_TRANSLATE.
    pub fn translate(&self, linear_address: u64) -> Result<KvmTranslation, Errno> {
        let mut translation = KvmTranslation {
            linear_address,
            ..Default::default()
        };
        self.fd.update(KVM_TRANSLATE, &mut translation)?;
        Ok(translation)
    }

    /// KVM_TPR_ACCESS_REPORTING.
    pub fn tpr_access_reporting(&self, control: &mut KvmTprAccessCtl) -> Result<(), Errno> {
        self.fd.update(KVM_TPR_ACCESS_REPORTING, control).map(drop)
    }

    /// KVM_SET_CPUID2.
    pub fn set_cpuid2(&self, entries: &[KvmCpuidEntry2]) -> Result<(), Errno> {
        let header = KvmCpuid2 {
            nent: entries.len() as u32,
            padding: 0,
        };
        List::new(&header, entries)
            .call(&self.fd, KVM_SET_CPUID2)
            .map(drop)
    }

    /// KVM_SET_CPUID, the old table.
    pub fn set_cpuid(&self, entries: &[KvmCpuidEntry]) -> Result<(), Errno> {
        let header = KvmCpuid {
            nent: entries.len() as u32,
            padding: 0,
        };
        List::new(&header, entries)
            .call(&self.fd, KVM_SET_CPUID)
            .map(drop)
    }

    /// KVM_GET_CPUID2.
    pub fn get_cpuid2(&self) -> Result<Vec<KvmCpuidEntry2>, Errno> {
        get_cpuid(&self.fd, KVM_GET_CPUID2)
    }

    /// KVM_GET_MSRS: how many were read, from the first on.
    pub fn get_msrs(&self, entries: &mut [KvmMsrEntry]) -> Result<usize, Errno> {
        get_msrs(&self.fd, entries)
    }

    /// KVM_SET_MSRS: how many were written, from the first on.
    pub fn set_msrs(&self, entries: &[KvmMsrEntry]) -> Result<usize, Errno> {
        let header = KvmMsrs {
            nmsrs: entries.len() as u32,
            pad: 0,
        };
        Ok(List::new(&header, entries).call(&self.fd, KVM_SET_MSRS)? as usize)
    }

    /// One MSR; EINVAL when it cannot be read.
    pub fn get_msr(&self, index: u32) -> Result<u64, Errno> {
        let mut entry = [KvmMsrEntry {
            index,
            ..Default::default()
        }];
        match self.get_msrs(&mut entry)? {
            1 => Ok(entry[0].data),
            _ => Err(Errno::EINVAL),
        }
    }

    /// One MSR; EINVAL when it cannot be written so.
    pub fn set_msr(&self, index: u32, data: u64) -> Result<(), Errno> {
        match self.set_msrs(&[KvmMsrEntry {
            index,
            reserved: 0,
            data,
        }])? {
            1 => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// KVM_GET_XSAVE2 of `size` bytes, which KVM_CAP_XSAVE2 answers for the VM.
    pub fn get_xsave2(&self, size: usize) -> Result<Vec<u32>, Errno> {
        let mut area = vec![0u32; size.max(size_of::<KvmXsave>()).div_ceil(4)];
        self.fd
            .done(KVM_GET_XSAVE2, area.as_mut_bytes().as_mut_ptr() as u64)?;
        Ok(area)
    }

    /// KVM_GET_TSC_KHZ.
    pub fn get_tsc_khz(&self) -> Result<u32, Errno> {
        Ok(self.fd.value(KVM_GET_TSC_KHZ, 0)? as u32)
    }

    /// KVM_SET_TSC_KHZ.
    pub fn set_tsc_khz(&self, khz: u32) -> Result<(), Errno> {
        self.fd.done(KVM_SET_TSC_KHZ, khz.into())
    }

    /// KVM_SET_SIGNAL_MASK; `None` takes the mask away.
    pub fn set_signal_mask(&self, mask: Option<u64>) -> Result<(), Errno> {
        match mask {
            None => self.fd.done(KVM_SET_SIGNAL_MASK, 0),
            Some(mask) => {
                let bytes = mask.to_ne_bytes();
                List::new(&KvmSignalMask { len: 8 }, &bytes)
                    .call(&self.fd, KVM_SET_SIGNAL_MASK)
                    .map(drop)
            }
        }
    }

    /// KVM_HAS_DEVICE_ATTR on the vCPU.
    pub fn has_attr(&self, group: u32, attr: u64) -> Result<(), Errno> {
        self.fd.set(
            KVM_HAS_DEVICE_ATTR,
            &KvmDeviceAttr {
                flags: 0,
                group,
                attr,
                addr: 0,
            },
        )
    }

    /// KVM_GET_DEVICE_ATTR of a 64-bit attribute.
    pub fn get_attr(&self, group: u32, attr: u64) -> Result<u64, Errno> {
        let mut value = u64::new_zeroed();
        let addr = std::ptr::from_mut(&mut value) as u64;
        self.fd.set(
            KVM_GET_DEVICE_ATTR,
            &KvmDeviceAttr {
                flags: 0,
                group,
                attr,
                addr,
            },
        )?;
        Ok(value)
    }

    /// KVM_SET_DEVICE_ATTR of a 64-bit attribute.
    pub fn set_attr(&self, group: u32, attr: u64, value: u64) -> Result<(), Errno> {
        let addr = std::ptr::from_ref(&value) as u64;
        self.fd.set(
            KVM_SET_DEVICE_ATTR,
            &KvmDeviceAttr {
                flags: 0,
                group,
                attr,
                addr,
            },
        )
    }
}

/// The run page: what the client tells KVM, and what KVM tells besides the exit.
impl Vcpu {
    /// Makes the next run return EINTR at once, from any thread.
    pub fn set_immediate_exit(&self, on: u8) {
        self.run.atomic_u8(IMMEDIATE_EXIT).store(on, Relaxed);
    }

    /// Asks for an exit as soon as the guest can take an interrupt.
    pub fn request_interrupt_window(&self, on: u8) {
        self.run.atomic_u8(REQUEST_INTERRUPT_WINDOW).store(on, Relaxed);
    }

    /// Whether an interrupt could be queued now.
    pub fn ready_for_interrupt_injection(&self) -> u8 {
        self.run.atomic_u8(READY_FOR_INTERRUPT_INJECTION).load(Relaxed)
    }

    /// Whether the guest had interrupts enabled.
    pub fn if_flag(&self) -> u8 {
        self.run.atomic_u8(IF_FLAG).load(Relaxed)
    }

    /// The exit in the run page, once more.
    pub fn last_exit(&self) -> VcpuExit {
        VcpuExit::read(&self.run)
    }

    fn port_range(&self, io: &RunIo) -> Option<(usize, usize)> {
        let at = usize::try_from(io.data_offset).ok()?;
        let len = (io.count as usize).checked_mul(io.size.into())?;
        (at.checked_add(len)? <= self.run.len()).then_some((at, len))
    }

    /// What the guest wrote to a port, all accesses of a string instruction one after the other.
    pub fn port_data(&self, io: &RunIo) -> Vec<u8> {
        let Some((at, len)) = self.port_range(io) else {
            return Vec::new();
        };
        let mut data = vec![0; len];
        self.run.read(at, &mut data);
        data
    }

    /// Answers a port read; of a string instruction, all accesses at once.
    pub fn complete_io_in(&self, io: &RunIo, data: &[u8]) {
        if let Some((at, len)) = self.port_range(io) {
            self.run.write(at, &data[..len.min(data.len())]);
        }
    }

    /// Answers an MMIO read.
    pub fn complete_mmio_read(&self, data: &[u8]) {
        self.run.write(MMIO_DATA, &data[..data.len().min(8)]);
    }

    /// Answers a hypercall.
    pub fn complete_hypercall(&self, ret: u64) {
        self.run.store(HYPERCALL_RET, &ret);
    }

    /// Answers an MSR read; `None` faults the guest.
    pub fn complete_rdmsr(&self, value: Option<u64>) {
        self.run.store(MSR_ERROR, &u8::from(value.is_none()));
        self.run.store(MSR_DATA, &value.unwrap_or(0));
    }

    /// Answers an MSR write; an error faults the guest.
    pub fn complete_wrmsr(&self, result: Result<(), Errno>) {
        self.run.store(MSR_ERROR, &u8::from(result.is_err()));
    }

    /// CR8 as of the last exit.
    pub fn cr8(&self) -> u64 {
        self.run.load(CR8)
    }

    /// The registers KVM left in the run page.
    pub fn sync_regs(&self) -> KvmSyncRegs {
        self.run.load(SYNC_REGS)
    }

    /// Which registers KVM shall leave in the run page.
    pub fn set_valid_regs(&self, mask: u64) {
        self.run.store(KVM_VALID_REGS, &mask);
    }

    /// Puts registers in the run page; the next run loads those in `dirty`.
    pub fn set_sync_regs(&self, regs: &KvmSyncRegs, dirty: u64) {
        self.run.store(SYNC_REGS, regs);
        self.run.store(KVM_DIRTY_REGS, &dirty);
    }
}
