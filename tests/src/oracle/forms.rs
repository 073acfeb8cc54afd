//! All instruction forms that the host has.

use super::{Mode, left_out};
use iced_x86::{Code, CpuidFeature, EncodingKind, OpCodeOperandKind as K};
use ring3_host::native::host_has;
use std::arch::x86_64::__cpuid_count as cpuid;

/// Which of the two things an operand encoded in ModRM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Register,
    Memory,
    /// There is no choice.
    Only,
}

/// A prefix that makes another form of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    None,
    Lock,
    Rep,
    Repne,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub mode: Mode,
    pub code: Code,
    pub side: Side,
    pub prefix: Prefix,
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.code)?;
        match self.side {
            Side::Register => write!(f, ".register")?,
            Side::Memory => write!(f, ".memory")?,
            Side::Only => {}
        }
        match self.prefix {
            Prefix::None => {}
            other => write!(f, ".{}", format!("{other:?}").to_lowercase())?,
        }
        match self.mode {
            Mode::Long => Ok(()),
            other => write!(f, "@{}", other.bits()),
        }
    }
}

/// The parts in which forms are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Integer,
    X87,
    /// MMX, SSE and their kin in the legacy encoding.
    Sse,
    /// VEX encoding, BMI included.
    Vex,
    Evex,
}

pub fn family(code: Code) -> Family {
    use CpuidFeature as F;
    match code.encoding() {
        EncodingKind::EVEX => Family::Evex,
        EncodingKind::VEX | EncodingKind::XOP => Family::Vex,
        _ => {
            let x87 = |f: &F| matches!(f, F::FPU | F::FPU287 | F::FPU387);
            let vector = |k: &K| {
                matches!(
                    k,
                    K::mm_or_mem | K::xmm_or_mem | K::mm_reg | K::mm_rm | K::xmm_reg | K::xmm_rm
                )
            };
            let op = code.op_code();
            if code.cpuid_features().iter().any(x87) || op.op_kinds().contains(&K::st0) {
                Family::X87
            } else if op.op_kinds().iter().any(vector)
                || code
                    .cpuid_features()
                    .iter()
                    .any(|f| matches!(f, F::SSE | F::SSE2 | F::MMX | F::FXSR | F::XSAVE))
            {
                Family::Sse
            } else {
                Family::Integer
            }
        }
    }
}

/// Whether the code can be encoded in the mode.
pub fn exists(code: Code, mode: Mode) -> bool {
    let op = code.op_code();
    let here = match mode {
        Mode::Long => op.mode64(),
        Mode::Compatible => op.mode32() && op.compatibility_mode(),
        Mode::Short => op.mode16() && op.compatibility_mode(),
    };
    here && op.is_instruction() && !op.fwait()
}

/// Every form of a family that the host has and the table does not leave out.
pub fn of_family(wanted: Family, mode: Mode) -> Vec<Form> {
    let mut forms = Vec::new();
    for code in Code::values() {
        let op = code.op_code();
        if !exists(code, mode) || left_out::reason(code, mode).is_some() {
            continue;
        }
        if family(code) != wanted || !code.cpuid_features().iter().all(|f| available(*f)) {
            continue;
        }
        let sides: &[Side] = if op.op_kinds().iter().any(|k| has_choice(*k)) {
            &[Side::Register, Side::Memory]
        } else {
            &[Side::Only]
        };
        for &side in sides {
            forms.push(Form {
                mode,
                code,
                side,
                prefix: Prefix::None,
            });
            if op.can_use_lock_prefix() && side != Side::Register {
                forms.push(Form {
                    mode,
                    code,
                    side,
                    prefix: Prefix::Lock,
                });
            }
        }
        for (prefix, allowed) in [
            (Prefix::Rep, op.can_use_rep_prefix()),
            (Prefix::Repne, op.can_use_repne_prefix()),
        ] {
            if allowed && code.is_string_instruction() {
                forms.push(Form {
                    mode,
                    code,
                    side: Side::Only,
                    prefix,
                });
            }
        }
    }
    forms
}

/// Whether the operand is a register or memory, by ModRM.
pub fn has_choice(kind: K) -> bool {
    matches!(
        kind,
        K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
            | K::zmm_or_mem
            | K::k_or_mem
    )
}

/// Features that are not computation, which the host crate's list of native steps leaves out.
fn available(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    match feature {
        // Every 64-bit processor has them.
        F::FXSR | F::CLFSH | F::PAUSE | F::MULTIBYTENOP => true,
        F::CLFLUSHOPT => cpuid(7, 0).ebx >> 23 & 1 != 0,
        F::CLWB => cpuid(7, 0).ebx >> 24 & 1 != 0,
        F::PREFETCHW => cpuid(0x8000_0001, 0).ecx >> 8 & 1 != 0,
        F::XSAVE => std::arch::is_x86_feature_detected!("xsave"),
        F::XSAVEOPT => cpuid(0xd, 1).eax & 1 != 0,
        F::XSAVEC => cpuid(0xd, 1).eax >> 1 & 1 != 0,
        F::FSGSBASE => cpuid(7, 0).ebx & 1 != 0,
        // ENDBR is a NOP where it is nothing else.
        F::CET_IBT => true,
        _ => host_has(feature),
    }
}
