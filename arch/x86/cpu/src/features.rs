//! Instructions that exist only where the guest's CPUID says so; decoding asks here. The others exist always.

use iced_x86::{CpuidFeature, Instruction};

bitflags::bitflags! {
    /// What the guest's processor has of the extensions that can be missing. All of them, until someone says
    /// otherwise.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        const MONITOR = 1 << 0;
        const MOVBE = 1 << 1;
        const XSAVE = 1 << 2;
        const RDRAND = 1 << 3;
        const FSGSBASE = 1 << 4;
        const INVPCID = 1 << 5;
        const RDSEED = 1 << 6;
        const SMAP = 1 << 7;
        const CLFLUSHOPT = 1 << 8;
        const CLWB = 1 << 9;
        const RDPID = 1 << 10;
        const XSAVEOPT = 1 << 11;
        const XSAVEC = 1 << 12;
        const RDTSCP = 1 << 13;
        const XSAVES = 1 << 14;
        const AMX_TILE = 1 << 15;
        const AMX_INT8 = 1 << 16;
        const AMX_BF16 = 1 << 17;
        const PKU = 1 << 18;
    }
}

/// Registers of CPUID's answer.
const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// A feature, its name in the decoder, and its place in CPUID: leaf, subleaf, register, bit.
type Row = (Features, CpuidFeature, u32, u32, usize, u32);

const ROWS: [Row; 19] = [
    (Features::MONITOR, CpuidFeature::MONITOR, 1, 0, ECX, 3),
    (Features::MOVBE, CpuidFeature::MOVBE, 1, 0, ECX, 22),
    (Features::XSAVE, CpuidFeature::XSAVE, 1, 0, ECX, 26),
    (Features::RDRAND, CpuidFeature::RDRAND, 1, 0, ECX, 30),
    (Features::FSGSBASE, CpuidFeature::FSGSBASE, 7, 0, EBX, 0),
    (Features::INVPCID, CpuidFeature::INVPCID, 7, 0, EBX, 10),
    (Features::RDSEED, CpuidFeature::RDSEED, 7, 0, EBX, 18),
    (Features::SMAP, CpuidFeature::SMAP, 7, 0, EBX, 20),
    (Features::CLFLUSHOPT, CpuidFeature::CLFLUSHOPT, 7, 0, EBX, 23),
    (Features::CLWB, CpuidFeature::CLWB, 7, 0, EBX, 24),
    (Features::PKU, CpuidFeature::PKU, 7, 0, ECX, 3),
    (Features::RDPID, CpuidFeature::RDPID, 7, 0, ECX, 22),
    (Features::AMX_BF16, CpuidFeature::AMX_BF16, 7, 0, EDX, 22),
    (Features::AMX_TILE, CpuidFeature::AMX_TILE, 7, 0, EDX, 24),
    (Features::AMX_INT8, CpuidFeature::AMX_INT8, 7, 0, EDX, 25),
    (Features::XSAVEOPT, CpuidFeature::XSAVEOPT, 0xd, 1, EAX, 0),
    (Features::XSAVEC, CpuidFeature::XSAVEC, 0xd, 1, EAX, 1),
    (Features::XSAVES, CpuidFeature::XSAVES, 0xd, 1, EAX, 3),
    (Features::RDTSCP, CpuidFeature::RDTSCP, 0x8000_0001, 0, EDX, 27),
];

impl Features {
    /// The features that CPUID, as a function of leaf and subleaf, shows.
    pub fn from_cpuid(mut cpuid: impl FnMut(u32, u32) -> [u32; 4]) -> Features {
        let mut all = Features::empty();
        for (feature, _, leaf, subleaf, register, bit) in ROWS {
            all.set(feature, cpuid(leaf, subleaf)[register] >> bit & 1 != 0);
        }
        all
    }

    /// Whether the processor knows this instruction.
    pub fn include(self, instr: &Instruction) -> bool {
        self.is_all()
            || !instr.cpuid_features().iter().any(|needed| {
                ROWS.iter()
                    .any(|(feature, name, ..)| name == needed && !self.contains(*feature))
            })
    }
}

impl Default for Features {
    fn default() -> Features {
        Features::all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::instruction;

    /// An instruction of each row.
    const SAMPLES: [(Features, &[u8]); 25] = [
        (Features::MONITOR, &[0x0f, 0x01, 0xc8]),
        (Features::MONITOR, &[0x0f, 0x01, 0xc9]),
        (Features::MOVBE, &[0x0f, 0x38, 0xf0, 0x00]),
        (Features::XSAVE, &[0x0f, 0xae, 0x20]),
        (Features::XSAVE, &[0x0f, 0x01, 0xd0]),
        (Features::RDRAND, &[0x0f, 0xc7, 0xf0]),
        (Features::FSGSBASE, &[0xf3, 0x0f, 0xae, 0xc0]),
        (Features::INVPCID, &[0x66, 0x0f, 0x38, 0x82, 0x00]),
        (Features::RDSEED, &[0x0f, 0xc7, 0xf8]),
        (Features::SMAP, &[0x0f, 0x01, 0xca]),
        (Features::SMAP, &[0x0f, 0x01, 0xcb]),
        (Features::CLFLUSHOPT, &[0x66, 0x0f, 0xae, 0x38]),
        (Features::CLWB, &[0x66, 0x0f, 0xae, 0x30]),
        (Features::PKU, &[0x0f, 0x01, 0xee]),
        (Features::PKU, &[0x0f, 0x01, 0xef]),
        (Features::RDPID, &[0xf3, 0x0f, 0xc7, 0xf8]),
        (Features::AMX_TILE, &[0xc4, 0xe2, 0x78, 0x49, 0x00]),
        (Features::AMX_INT8, &[0xc4, 0xe2, 0x6b, 0x5e, 0xc1]),
        (Features::AMX_BF16, &[0xc4, 0xe2, 0x6a, 0x5c, 0xc1]),
        (Features::XSAVEOPT, &[0x0f, 0xae, 0x30]),
        (Features::XSAVEC, &[0x0f, 0xc7, 0x20]),
        (Features::XSAVES, &[0x0f, 0xc7, 0x28]),
        (Features::XSAVES, &[0x0f, 0xc7, 0x18]),
        (Features::RDTSCP, &[0x0f, 0x01, 0xf9]),
        (Features::MOVBE, &[0x0f, 0x38, 0xf1, 0x00]),
    ];

    #[test]
    fn each_feature_gates_its_instructions_and_no_others() {
        for (feature, bytes) in SAMPLES {
            let (instr, _) = instruction(bytes, 0, 64);
            assert!(!instr.is_invalid(), "{bytes:x?}");
            assert!((Features::all()).include(&instr), "{instr}");
            assert!(!(Features::all() - feature).include(&instr), "{instr}");
            assert!(feature.include(&instr), "{instr}");
        }
        let (nop, _) = instruction(&[0x90], 0, 64);
        assert!(Features::empty().include(&nop));
    }

    #[test]
    fn features_are_read_off_their_bits() {
        for (feature, _, leaf, subleaf, register, bit) in ROWS {
            let found = Features::from_cpuid(|l, s| {
                let mut answer = [0; 4];
                if (l, s) == (leaf, subleaf) {
                    answer[register] = 1 << bit;
                }
                answer
            });
            assert_eq!(found, feature);
        }
    }
}
