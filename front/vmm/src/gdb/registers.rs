//! gdb's registers of x86-64, from KVM's and back.

use super::amd64::{Amd64Registers, System};
use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use ring3_client::{Errno, Vcpu};
use ring3_uapi::x86::{KvmFpu, KvmRegs, KvmSregs};

const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Words of the XSAVE area: MXCSR, and which state is in it.
const MXCSR: usize = 24 / 4;
const STATE_BV: usize = 512 / 4;
const STATE_SSE: u32 = 2;

/// All registers of a processor that stands still.
pub fn read(vcpu: &Vcpu) -> Result<Amd64Registers, Errno> {
    let (mut regs, sregs, fpu) = (vcpu.get_regs()?, vcpu.get_sregs()?, vcpu.get_fpu()?);
    let core = X86_64CoreRegs {
        regs: general(&mut regs).map(|register| *register),
        eflags: regs.rflags as u32,
        rip: regs.rip,
        segments: segments(&sregs),
        st: std::array::from_fn(|n| std::array::from_fn(|byte| fpu.fpr[n][byte])),
        fpu: x87(&fpu),
        xmm: fpu.xmm.map(u128::from_le_bytes),
        // Not in what KVM_GET_FPU tells.
        mxcsr: vcpu.get_xsave()?.region[MXCSR],
    };
    let system = System {
        fs_base: sregs.fs.base,
        gs_base: sregs.gs.base,
        k_gs_base: vcpu.get_msr(MSR_KERNEL_GS_BASE)?,
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        cr8: sregs.cr8,
        efer: sregs.efer,
    };
    Ok(Amd64Registers { core, system })
}

/// Puts them back, segment selectors excepted: their descriptors would not go with them.
pub fn write(vcpu: &Vcpu, from: &Amd64Registers) -> Result<(), Errno> {
    let Amd64Registers { core: from, system } = from;
    let mut sregs = vcpu.get_sregs()?;
    (sregs.fs.base, sregs.gs.base) = (system.fs_base, system.gs_base);
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4) = (system.cr0, system.cr2, system.cr3, system.cr4);
    (sregs.cr8, sregs.efer) = (system.cr8, system.efer);
    vcpu.set_sregs(&sregs)?;
    vcpu.set_msr(MSR_KERNEL_GS_BASE, system.k_gs_base)?;
    let mut regs = vcpu.get_regs()?;
    for (to, from) in general(&mut regs).into_iter().zip(from.regs) {
        *to = from;
    }
    regs.rip = from.rip;
    regs.rflags = regs.rflags & !0xffff_ffff | u64::from(from.eflags);
    vcpu.set_regs(&regs)?;
    let mut fpu = vcpu.get_fpu()?;
    for (to, from) in fpu.fpr.iter_mut().zip(&from.st) {
        to[..10].copy_from_slice(from);
    }
    fpu.fcw = from.fpu.fctrl as u16;
    fpu.fsw = from.fpu.fstat as u16;
    fpu.ftwx = abridged(from.fpu.ftag as u16);
    fpu.xmm = from.xmm.map(u128::to_le_bytes);
    vcpu.set_fpu(&fpu)?;
    let mut area = vcpu.get_xsave()?;
    area.region[MXCSR] = from.mxcsr;
    area.region[STATE_BV] |= STATE_SSE;
    vcpu.set_xsave(&area)
}

/// The general registers in gdb's order.
fn general(r: &mut KvmRegs) -> [&mut u64; 16] {
    [
        &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp, &mut r.rsp,
        &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ]
}

fn segments(sregs: &KvmSregs) -> X86SegmentRegs {
    X86SegmentRegs {
        cs: sregs.cs.selector.into(),
        ss: sregs.ss.selector.into(),
        ds: sregs.ds.selector.into(),
        es: sregs.es.selector.into(),
        fs: sregs.fs.selector.into(),
        gs: sregs.gs.selector.into(),
    }
}

fn x87(fpu: &KvmFpu) -> X87FpuInternalRegs {
    X87FpuInternalRegs {
        fctrl: fpu.fcw.into(),
        fstat: fpu.fsw.into(),
        ftag: full(fpu.ftwx).into(),
        fiseg: (fpu.last_ip >> 32) as u32,
        fioff: fpu.last_ip as u32,
        foseg: (fpu.last_dp >> 32) as u32,
        fooff: fpu.last_dp as u32,
        fop: fpu.last_opcode.into(),
    }
}

/// The tag word: two bits for each register, all ones where it is empty. What else they say (zero, special) is not told.
fn full(abridged: u8) -> u16 {
    (0..8)
        .filter(|n| abridged >> n & 1 == 0)
        .fold(0, |word, n| word | 3 << (2 * n))
}

fn abridged(full: u16) -> u8 {
    (0..8)
        .filter(|n| full >> (2 * n) & 3 != 3)
        .fold(0, |byte, n| byte | 1 << n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring3_client::Kvm;

    #[test]
    fn what_was_written_is_read() {
        let vm = Kvm::in_process().and_then(|kvm| kvm.create_vm(0)).expect("a VM");
        let vcpu = vm.create_vcpu(0).expect("a vCPU");
        let mut regs = read(&vcpu).expect("registers");
        let Amd64Registers { core, system } = &mut regs;
        core.regs = std::array::from_fn(|n| 0x1000 + n as u64);
        (core.rip, core.eflags, core.mxcsr) = (0x7777, 0x46, 0x1fa0);
        core.xmm[15] = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        core.st[3] = [1, 2, 3, 4, 5, 6, 7, 0x88, 0xff, 0x3f];
        core.fpu.ftag = 0xff3f;
        (system.fs_base, system.gs_base, system.k_gs_base) =
            (0x1000, 0xffff_8000_0000_1000, 0x7fff_0000_0000);
        (system.cr2, system.cr3) = (0x1234, 0x5000);
        write(&vcpu, &regs).expect("they can be set");
        assert_eq!(read(&vcpu).expect("registers"), regs);
        // What the processor does not take is refused.
        regs.system.cr0 = 1 << 31;
        assert!(write(&vcpu, &regs).is_err());
    }

    #[test]
    fn tags_are_abridged_and_back() {
        for byte in 0..=u8::MAX {
            assert_eq!(abridged(full(byte)), byte);
        }
        assert_eq!(full(0), 0xffff);
    }
}
