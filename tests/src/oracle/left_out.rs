//! The instruction forms that are not compared with the host, each with its reason. Privileged ones are compared: at
//! level 3 all of them fault.

use super::Mode;
use iced_x86::{Code, FlowControl, Mnemonic as M, OpCodeOperandKind as K};

/// What a row leaves out.
pub enum Which {
    Names(&'static [M]),
    Rule(fn(Code, Mode) -> bool),
}

pub const LEFT_OUT: &[(Which, &str)] = &[
    (
        Which::Names(&[
            M::Syscall,
            M::Sysenter,
            M::Sysret,
            M::Sysexit,
            M::Int,
            M::Int1,
            M::Iret,
            M::Iretd,
            M::Iretq,
        ]),
        "enters or leaves the operating system",
    ),
    (
        Which::Names(&[M::Int3]),
        "is what ends every case, so it is compared in all of them",
    ),
    (
        Which::Rule(|code, _| {
            let segment = |k: &K| matches!(k, K::seg_reg | K::es | K::ss | K::ds | K::fs | K::gs);
            let far = |k: &K| matches!(k, K::farbr2_2 | K::farbr4_2);
            let op = code.op_code();
            let loads = matches!(code.mnemonic(), M::Mov | M::Pop) && segment(&op.op0_kind());
            loads
                || op.op_kinds().iter().any(far)
                || code.is_call_far_indirect()
                || code.is_jmp_far_indirect()
        }),
        "loads a segment register: what it finds is the operating system's tables",
    ),
    (
        Which::Names(&[
            M::Retf,
            M::Lds,
            M::Les,
            M::Lss,
            M::Lfs,
            M::Lgs,
            M::Lar,
            M::Lsl,
            M::Verr,
            M::Verw,
            M::Sldt,
            M::Str,
            M::Sgdt,
            M::Sidt,
            M::Smsw,
        ]),
        "shows the operating system's tables, or UMIP's emulation of them",
    ),
    (
        Which::Names(&[
            M::Cpuid,
            M::Rdtsc,
            M::Rdtscp,
            M::Rdpmc,
            M::Rdpru,
            M::Rdpid,
            M::Rdrand,
            M::Rdseed,
            M::Xgetbv,
        ]),
        "tells identity, time or chance, which are not the host's in a guest",
    ),
    (
        Which::Names(&[M::Xsaves, M::Xsaves64, M::Xrstors, M::Xrstors64]),
        "supervisor state is privileged",
    ),
    (
        Which::Names(&[
            M::Rdsspd,
            M::Rdsspq,
            M::Incsspd,
            M::Incsspq,
            M::Saveprevssp,
            M::Rstorssp,
            M::Wrssd,
            M::Wrssq,
            M::Setssbsy,
            M::Clrssbsy,
            M::Xbegin,
            M::Xend,
            M::Xabort,
            M::Xtest,
            M::Xsusldtrk,
            M::Xresldtrk,
        ]),
        "shadow stacks and transactions are not offered to guests",
    ),
    (
        Which::Names(&[M::Rdpkru, M::Wrpkru]),
        "the protection keys of the process are not in the state that is compared",
    ),
    (
        Which::Names(&[
            M::Vmcall,
            M::Vmmcall,
            M::Vmfunc,
            M::Vmgexit,
            M::Monitor,
            M::Mwait,
            M::Monitorx,
            M::Mwaitx,
            M::Umonitor,
            M::Umwait,
            M::Tpause,
            M::Enclu,
            M::Clzero,
            M::Mcommit,
            M::Serialize,
        ]),
        "speaks to a hypervisor or a machine, or is not offered to guests",
    ),
    (
        Which::Rule(|code, mode| {
            let short = code.flow_control() != FlowControl::Next && code.op_code().operand_size() == 16;
            mode == Mode::Long
                && (short
                    || matches!(
                        code,
                        Code::Retnw | Code::Retnw_imm16 | Code::Jmp_rm16 | Code::Call_rm16
                    ))
        }),
        "an operand-size prefix on a near branch: Intel's processors ignore it and AMD's do not",
    ),
    (
        Which::Rule(|code, _| code == Code::Movsxd_r16_rm16),
        "Intel's processors read two bytes of memory and AMD's four",
    ),
    (
        Which::Rule(|code, mode| {
            let segment = |k: K| matches!(k, K::es | K::cs | K::ss | K::ds | K::fs | K::gs);
            let op = code.op_code();
            code.mnemonic() == M::Push
                && segment(op.op0_kind())
                && op.operand_size() == 32
                && mode != Mode::Long
        }),
        "Intel's processors write two bytes of the stack and AMD's four",
    ),
    (
        Which::Rule(|code, mode| {
            let op = code.op_code();
            let common = match mode {
                Mode::Long => op.intel_decoder64() && op.amd_decoder64(),
                Mode::Compatible => op.intel_decoder32() && op.amd_decoder32(),
                Mode::Short => op.intel_decoder16() && op.amd_decoder16(),
            };
            op.is_reserved_nop() || !common
        }),
        "hint space, or an encoding that only some makers decode so",
    ),
    (
        Which::Rule(|code, _| {
            let displacement = |k: &K| matches!(k, K::brdisp_2 | K::brdisp_4);
            code.op_code().op_kinds().iter().any(displacement)
        }),
        "no processor of today knows it",
    ),
];

/// Why a form is left out, if it is.
pub fn reason(code: Code, mode: Mode) -> Option<&'static str> {
    LEFT_OUT
        .iter()
        .find(|(which, _)| match which {
            Which::Names(names) => names.contains(&code.mnemonic()),
            Which::Rule(rule) => rule(code, mode),
        })
        .map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::forms::exists;

    #[test]
    fn every_row_leaves_something_out() {
        for (which, reason) in LEFT_OUT {
            let hit = |code: Code| {
                [Mode::Long, Mode::Compatible, Mode::Short]
                    .into_iter()
                    .any(|mode| {
                        exists(code, mode)
                            && match which {
                                Which::Names(names) => names.contains(&code.mnemonic()),
                                Which::Rule(rule) => rule(code, mode),
                            }
                    })
            };
            assert!(Code::values().any(hit), "{reason}");
            if let Which::Names(names) = which {
                for name in *names {
                    let known = Code::values().any(|code| code.mnemonic() == *name && hit(code));
                    assert!(known, "{name:?}");
                }
            }
        }
    }
}
