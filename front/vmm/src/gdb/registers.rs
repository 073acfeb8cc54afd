//! gdb's core registers of x86-64 and SSE, from KVM's and back.

use gdbstub_arch::x86::reg::{X86_64CoreRegs, X86SegmentRegs, X87FpuInternalRegs};
use ring3_client::{Errno, Vcpu};
use ring3_uapi::x86::{KvmFpu, KvmRegs, KvmSregs};

/// Words of the XSAVE area: MXCSR, and which state is in it.
const MXCSR: usize = 24 / 4;
const STATE_BV: usize = 512 / 4;
const STATE_SSE: u32 = 2;

/// All registers of a processor that stands still.
pub fn read(vcpu: &Vcpu) -> Result<X86_64CoreRegs, Errno> {
    let (regs, sregs, fpu) = (vcpu.get_regs()?, vcpu.get_sregs()?, vcpu.get_fpu()?);
    Ok(X86_64CoreRegs {
        regs: general(&regs),
        eflags: regs.rflags as u32,
        rip: regs.rip,
        segments: segments(&sregs),
        st: std::array::from_fn(|n| std::array::from_fn(|byte| fpu.fpr[n][byte])),
        fpu: x87(&fpu),
        xmm: fpu.xmm.map(u128::from_le_bytes),
        // Not in what KVM_GET_FPU tells.
        mxcsr: vcpu.get_xsave()?.region[MXCSR],
    })
}

/// Puts them back, segment registers excepted: their descriptors would not go with them.
pub fn write(vcpu: &Vcpu, from: &X86_64CoreRegs) -> Result<(), Errno> {
    let before = vcpu.get_regs()?;
    vcpu.set_regs(&KvmRegs {
        rip: from.rip,
        rflags: before.rflags & !0xffff_ffff | u64::from(from.eflags),
        ..with_general(&from.regs)
    })?;
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

fn general(r: &KvmRegs) -> [u64; 16] {
    [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ]
}

fn with_general(from: &[u64; 16]) -> KvmRegs {
    let [
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = *from;
    KvmRegs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rbp,
        rsp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        ..KvmRegs::default()
    }
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
        regs.regs = std::array::from_fn(|n| 0x1000 + n as u64);
        (regs.rip, regs.eflags, regs.mxcsr) = (0x7777, 0x46, 0x1fa0);
        regs.xmm[15] = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        regs.st[3] = [1, 2, 3, 4, 5, 6, 7, 0x88, 0xff, 0x3f];
        regs.fpu.ftag = 0xff3f;
        write(&vcpu, &regs).expect("they can be set");
        assert_eq!(read(&vcpu).expect("registers"), regs);
    }

    #[test]
    fn tags_are_abridged_and_back() {
        for byte in 0..=u8::MAX {
            assert_eq!(abridged(full(byte)), byte);
        }
        assert_eq!(full(0), 0xffff);
    }
}
