//! Which instruction forms may be executed natively, and what state class they belong to.
//!
//! An allow list in three sieves: structural properties (no privilege, control flow, stack, string, LOCK), then for the
//! integer instruction set a list of mnemonics, and for everything else a list of CPUID features, each of which the
//! host must have. A few members of allowed features are refused by name.

use std::arch::is_x86_feature_detected as detected;

use iced_x86::{CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Which processor state an instruction belongs to: decides #UD and #NM before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateClass {
    /// General registers only: no check. VEX-encoded members (BMI) are #UD in real and virtual-8086 mode.
    General,
    /// #NM if CR0.EM or CR0.TS.
    X87,
    /// MMX registers only: #UD if CR0.EM, #NM if CR0.TS.
    Mmx,
    /// MMX and XMM registers: as `Mmx`, and #UD unless CR4.OSFXSR.
    MmxSse,
    /// #UD if CR0.EM or not CR4.OSFXSR, #NM if CR0.TS.
    Sse,
    /// #UD unless CR4.OSXSAVE and XCR0 has SSE and AVX, #NM if CR0.TS; #UD in real and virtual-8086 mode.
    Avx,
    /// As `Avx`, with XCR0's opmask, ZMM_Hi256 and Hi16_ZMM too.
    Avx512,
}

pub(super) fn allowed(instr: &Instruction) -> bool {
    if instr.is_invalid()
        || instr.is_privileged()
        || instr.flow_control() != FlowControl::Next
        || instr.is_stack_instruction()
        || instr.is_string_instruction() && !is_mask_move(instr)
        || instr.is_save_restore_instruction() && !is_x87_state(instr.mnemonic())
        || instr.has_lock_prefix()
        || instr.is_vsib()
        || (0..instr.op_count())
            .any(|i| instr.op_kind(i) == OpKind::Register && is_system(instr.op_register(i)))
    {
        return false;
    }
    let features = instr.cpuid_features();
    if !features.iter().all(|&f| host_has(f)) || refused(instr.mnemonic()) {
        return false;
    }
    if features.iter().all(|&f| is_integer_base(f)) {
        return integer(instr);
    }
    true
}

/// MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: an implicit memory operand at rDI.
pub(super) fn is_mask_move(instr: &Instruction) -> bool {
    matches!(
        instr.mnemonic(),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu
    )
}

fn is_x87_state(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Fnstenv | Fldenv | Fnsave | Frstor)
}

fn is_system(r: Register) -> bool {
    r.is_segment_register() || r.is_cr() || r.is_dr() || r.is_tr() || r.is_bnd() || r.is_tmm()
}

/// The state class of an allowed instruction.
pub(super) fn class(instr: &Instruction) -> StateClass {
    let registers = || {
        (0..instr.op_count())
            .filter(|&i| instr.op_kind(i) == OpKind::Register)
            .map(|i| instr.op_register(i))
    };
    let vector = registers().any(|r| r.is_vector_register());
    match instr.encoding() {
        EncodingKind::EVEX => StateClass::Avx512,
        EncodingKind::VEX | EncodingKind::XOP => {
            use Mnemonic::*;
            if registers().any(Register::is_k) {
                StateClass::Avx512
            } else if vector
                || converts_to_integer(instr.mnemonic())
                || matches!(instr.mnemonic(), Vzeroall | Vzeroupper | Vldmxcsr | Vstmxcsr)
            {
                StateClass::Avx
            } else {
                StateClass::General
            }
        }
        _ => {
            let memory = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
            let mmx = registers().any(|r| r.is_mm())
                || matches!(instr.mnemonic(), Mnemonic::Emms | Mnemonic::Femms);
            let sse = vector
                || memory && converts_to_integer(instr.mnemonic())
                || matches!(instr.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr);
            match (mmx, sse) {
                (true, true) => StateClass::MmxSse,
                (true, false) => StateClass::Mmx,
                (false, true) => StateClass::Sse,
                // FISTTP came with SSE3 and is listed there.
                _ if instr.mnemonic() == Mnemonic::Fisttp => StateClass::X87,
                _ if instr.cpuid_features().iter().any(|&f| is_x87(f)) => StateClass::X87,
                _ => StateClass::General,
            }
        }
    }
}

/// Conversions whose vector operand may be in memory, and then none is left to tell what they are.
fn converts_to_integer(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Cvtss2si
            | Cvttss2si
            | Cvtsd2si
            | Cvttsd2si
            | Cvtps2pi
            | Cvttps2pi
            | Cvtpd2pi
            | Cvttpd2pi
            | Vcvtss2si
            | Vcvttss2si
            | Vcvtsd2si
            | Vcvttsd2si
    )
}

fn is_x87(feature: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(feature, FPU | FPU287 | FPU387)
}

fn is_integer_base(f: CpuidFeature) -> bool {
    use CpuidFeature::*;
    matches!(
        f,
        INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | CMOV | CX8 | CMPXCHG16B | MOVDIRI
    )
}

/// Members of otherwise allowed features that are not computation on registers and one memory operand.
fn refused(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Prefetch | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchw | Prefetchwt1 | Sfence | Lfence | Mfence
            | Pause | Clflush | Clflushopt | Clwb | Monitor | Mwait | Movdir64b | Fxsave | Fxsave64 | Fxrstor | Fxrstor64
            // FPREM and friends are fine; these need more than the x87 state, or belong to other processors.
            | Fnstdw | Fnstsg | Fstdw | Fstsg | Frstpm | Fsetpm | Ftstp | Frint2 | Frichop | Frinear
    )
}

/// The integer instructions that may run natively. Divisions are not among them: a #DE would be a host signal.
fn integer(instr: &Instruction) -> bool {
    use Mnemonic::*;
    let memory = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
    match instr.mnemonic() {
        Add | Sub | Adc | Sbb | And | Or | Xor | Cmp | Test | Not | Neg | Inc | Dec | Shl | Sal | Shr
        | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd | Bsf | Bsr | Bswap | Mov | Movzx | Movsx | Movsxd
        | Mul | Imul | Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo | Xadd | Cmpxchg | Cmpxchg8b | Cmpxchg16b
        | Lahf | Sahf | Clc | Stc | Cmc | Movnti | Movdiri | Cmova | Cmovae | Cmovb | Cmovbe | Cmove
        | Cmovg | Cmovge | Cmovl | Cmovle | Cmovne | Cmovno | Cmovnp | Cmovns | Cmovo | Cmovp | Cmovs
        | Seta | Setae | Setb | Setbe | Sete | Setg | Setge | Setl | Setle | Setne | Setno | Setnp
        | Setns | Seto | Setp | Sets => true,
        // With memory, XCHG is locked, and a register bit offset moves the address.
        Xchg => !memory,
        Bt | Btc | Btr | Bts => !memory || instr.op_kind(1) != OpKind::Register,
        _ => false,
    }
}

/// Does the host have this feature? Features not named are not for native steps.
pub fn host_has(f: CpuidFeature) -> bool {
    use CpuidFeature::*;
    match f {
        f if is_integer_base(f) => match f {
            CMPXCHG16B => detected!("cmpxchg16b"),
            MOVDIRI => cpuid(7, 2) & 1 << 27 != 0,
            _ => true,
        },
        FPU | FPU287 | FPU387 | MMX | SSE | SSE2 => true,
        SSE3 => detected!("sse3"),
        SSSE3 => detected!("ssse3"),
        SSE4_1 => detected!("sse4.1"),
        SSE4_2 => detected!("sse4.2"),
        SSE4A => detected!("sse4a"),
        AES => detected!("aes"),
        PCLMULQDQ => detected!("pclmulqdq"),
        SHA => detected!("sha"),
        GFNI => detected!("gfni"),
        POPCNT => detected!("popcnt"),
        LZCNT => detected!("lzcnt"),
        BMI1 => detected!("bmi1"),
        BMI2 => detected!("bmi2"),
        ADX => detected!("adx"),
        MOVBE => detected!("movbe"),
        TBM => detected!("tbm"),
        D3NOW => cpuid(0x8000_0001, 3) & 1 << 31 != 0,
        D3NOWEXT => cpuid(0x8000_0001, 3) & 1 << 30 != 0,
        _ => host_has_vex(f),
    }
}

fn host_has_vex(f: CpuidFeature) -> bool {
    use CpuidFeature::*;
    match f {
        AVX => detected!("avx"),
        AVX2 => detected!("avx2"),
        F16C => detected!("f16c"),
        FMA => detected!("fma"),
        FMA4 => detected!("avx") && cpuid(0x8000_0001, 2) & 1 << 16 != 0,
        XOP => detected!("avx") && cpuid(0x8000_0001, 2) & 1 << 11 != 0,
        VAES => detected!("vaes"),
        VPCLMULQDQ => detected!("vpclmulqdq"),
        AVX_VNNI => detected!("avxvnni"),
        AVX_IFMA => detected!("avxifma"),
        AVX_NE_CONVERT => detected!("avxneconvert"),
        AVX_VNNI_INT8 => detected!("avxvnniint8"),
        AVX_VNNI_INT16 => detected!("avxvnniint16"),
        SHA512 => detected!("sha512"),
        SM3 => detected!("sm3"),
        SM4 => detected!("sm4"),
        AVX512F => detected!("avx512f"),
        AVX512CD => detected!("avx512cd"),
        AVX512BW => detected!("avx512bw"),
        AVX512DQ => detected!("avx512dq"),
        AVX512VL => detected!("avx512vl"),
        AVX512_IFMA => detected!("avx512ifma"),
        AVX512_VBMI => detected!("avx512vbmi"),
        AVX512_VBMI2 => detected!("avx512vbmi2"),
        AVX512_VNNI => detected!("avx512vnni"),
        AVX512_BITALG => detected!("avx512bitalg"),
        AVX512_BF16 => detected!("avx512bf16"),
        AVX512_FP16 => detected!("avx512fp16"),
        AVX512_VPOPCNTDQ => detected!("avx512vpopcntdq"),
        AVX512_VP2INTERSECT => detected!("avx512vp2intersect"),
        _ => false,
    }
}

/// One output register (0 = EAX .. 3 = EDX) of a CPUID leaf, subleaf 0; 0 when the leaf is beyond the last one.
fn cpuid(leaf: u32, register: usize) -> u32 {
    let last = core::arch::x86_64::__cpuid(leaf & 0x8000_0000).eax;
    if leaf > last {
        return 0;
    }
    let r = core::arch::x86_64::__cpuid_count(leaf, 0);
    [r.eax, r.ebx, r.ecx, r.edx][register & 3]
}

/// Do this mnemonic's forms read or write MXCSR? Over-inclusive by intent: a needless load costs nanoseconds.
pub(super) fn uses_mxcsr(instr: &Instruction) -> bool {
    const STEMS: [&str; 32] = [
        "add", "sub", "mul", "div", "sqrt", "min", "max", "cmp", "comi", "ucomi", "cvt", "fm", "fnm", "fcm",
        "rndscale", "reduce", "range", "getexp", "getmant", "fixup", "scale", "hadd", "hsub", "dpp", "rcp",
        "rsqrt", "round", "exp2", "frcz", "dpbf16", "bcstne", "fpclass",
    ];
    let class = class(instr);
    if matches!(class, StateClass::General | StateClass::X87 | StateClass::Mmx) {
        return false;
    }
    let name = format!("{:?}", instr.mnemonic()).to_lowercase();
    let stem = match instr.encoding() {
        EncodingKind::Legacy => name.as_str(),
        _ => name.strip_prefix('v').unwrap_or(&name),
    };
    STEMS.iter().any(|s| stem.starts_with(s))
}
