//! The CPUID feature bits this KVM can offer, one row each.
//!
//! A row says where the bit lives and what it takes to offer it: `Software` features are implemented by us on any
//! host; `Host` features are executed by the host CPU on the guest's behalf, or are what clients expect of a host that has
//! them, so they are offered only there; `Known` bits are never offered, but the code asks whether the client set them all the same.
//!
//! A bit without a row is never offered.

/// An output register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Reg {
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// The place of one feature bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub function: u32,
    pub index: u32,
    pub reg: Reg,
    pub bit: u8,
}

/// What it takes to offer a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Implemented in software, on any host.
    Software,
    /// The host's CPU has it.
    Host,
    /// Implemented in software, and offered where the host's processor is Intel's.
    Intel,
    /// The like of AMD.
    Amd,
    /// Never offered by us, honoured if the client sets it.
    Known,
}

pub struct Row {
    pub name: &'static str,
    pub feature: Feature,
    pub source: Source,
}

macro_rules! features {
    ($($name:ident $function:literal $index:literal $reg:ident $bit:literal $source:ident;)*) => {
        $(pub const $name: Feature =
            Feature { function: $function, index: $index, reg: Reg::$reg, bit: $bit };)*
        pub const ROWS: &[Row] = &[
            $(Row { name: stringify!($name), feature: $name, source: Source::$source },)*
        ];
    };
}

features! {
    SSE3            0x1 0 Ecx 0 Host;
    PCLMULQDQ       0x1 0 Ecx 1 Host;
    MONITOR         0x1 0 Ecx 3 Known;
    VMX             0x1 0 Ecx 5 Known;
    SSSE3           0x1 0 Ecx 9 Host;
    FMA             0x1 0 Ecx 12 Host;
    CX16            0x1 0 Ecx 13 Software;
    PDCM            0x1 0 Ecx 15 Intel;
    PCID            0x1 0 Ecx 17 Software;
    SSE4_1          0x1 0 Ecx 19 Host;
    SSE4_2          0x1 0 Ecx 20 Host;
    X2APIC          0x1 0 Ecx 21 Software;
    MOVBE           0x1 0 Ecx 22 Software;
    POPCNT          0x1 0 Ecx 23 Software;
    TSC_DEADLINE    0x1 0 Ecx 24 Software;
    AES             0x1 0 Ecx 25 Host;
    XSAVE           0x1 0 Ecx 26 Host;
    OSXSAVE         0x1 0 Ecx 27 Known;
    AVX             0x1 0 Ecx 28 Host;
    F16C            0x1 0 Ecx 29 Host;
    RDRAND          0x1 0 Ecx 30 Host;
    HYPERVISOR      0x1 0 Ecx 31 Software;

    FPU             0x1 0 Edx 0 Software;
    VME             0x1 0 Edx 1 Known;
    DE              0x1 0 Edx 2 Software;
    PSE             0x1 0 Edx 3 Software;
    TSC             0x1 0 Edx 4 Software;
    MSR             0x1 0 Edx 5 Software;
    PAE             0x1 0 Edx 6 Software;
    MCE             0x1 0 Edx 7 Software;
    CX8             0x1 0 Edx 8 Software;
    APIC            0x1 0 Edx 9 Software;
    SEP             0x1 0 Edx 11 Software;
    MTRR            0x1 0 Edx 12 Software;
    PGE             0x1 0 Edx 13 Software;
    MCA             0x1 0 Edx 14 Software;
    CMOV            0x1 0 Edx 15 Software;
    PAT             0x1 0 Edx 16 Software;
    PSE36           0x1 0 Edx 17 Software;
    CLFLUSH         0x1 0 Edx 19 Software;
    MMX             0x1 0 Edx 23 Software;
    FXSR            0x1 0 Edx 24 Software;
    SSE             0x1 0 Edx 25 Software;
    SSE2            0x1 0 Edx 26 Software;
    SELFSNOOP       0x1 0 Edx 27 Host;

    ARAT            0x6 0 Eax 2 Software;

    FSGSBASE        0x7 0 Ebx 0 Software;
    TSC_ADJUST      0x7 0 Ebx 1 Software;
    BMI1            0x7 0 Ebx 3 Host;
    AVX2            0x7 0 Ebx 5 Host;
    FDP_EXCPTN_ONLY 0x7 0 Ebx 6 Host;
    SMEP            0x7 0 Ebx 7 Software;
    BMI2            0x7 0 Ebx 8 Host;
    ERMS            0x7 0 Ebx 9 Software;
    INVPCID         0x7 0 Ebx 10 Software;
    ZERO_FCS_FDS    0x7 0 Ebx 13 Host;
    AVX512F         0x7 0 Ebx 16 Host;
    AVX512DQ        0x7 0 Ebx 17 Host;
    RDSEED          0x7 0 Ebx 18 Host;
    ADX             0x7 0 Ebx 19 Host;
    SMAP            0x7 0 Ebx 20 Software;
    AVX512IFMA      0x7 0 Ebx 21 Host;
    CLFLUSHOPT      0x7 0 Ebx 23 Software;
    CLWB            0x7 0 Ebx 24 Software;
    AVX512CD        0x7 0 Ebx 28 Host;
    SHA_NI          0x7 0 Ebx 29 Host;
    AVX512BW        0x7 0 Ebx 30 Host;
    AVX512VL        0x7 0 Ebx 31 Host;

    AVX512VBMI      0x7 0 Ecx 1 Host;
    UMIP            0x7 0 Ecx 2 Software;
    PKU             0x7 0 Ecx 3 Host;
    OSPKE           0x7 0 Ecx 4 Known;
    AVX512_VBMI2    0x7 0 Ecx 6 Host;
    GFNI            0x7 0 Ecx 8 Host;
    VAES            0x7 0 Ecx 9 Host;
    VPCLMULQDQ      0x7 0 Ecx 10 Host;
    AVX512_VNNI     0x7 0 Ecx 11 Host;
    AVX512_BITALG   0x7 0 Ecx 12 Host;
    AVX512_VPOPCNTDQ 0x7 0 Ecx 14 Host;
    LA57            0x7 0 Ecx 16 Known;
    RDPID           0x7 0 Ecx 22 Software;

    FSRM            0x7 0 Edx 4 Software;
    AVX512_VP2INTERSECT 0x7 0 Edx 8 Host;
    AMX_BF16        0x7 0 Edx 22 Host;
    AMX_TILE        0x7 0 Edx 24 Host;
    AMX_INT8        0x7 0 Edx 25 Host;
    SPEC_CTRL       0x7 0 Edx 26 Known;
    INTEL_STIBP     0x7 0 Edx 27 Known;
    ARCH_CAPABILITIES 0x7 0 Edx 29 Software;
    SPEC_CTRL_SSBD  0x7 0 Edx 31 Known;

    AVX_VNNI        0x7 1 Eax 4 Host;
    AVX512_BF16     0x7 1 Eax 5 Host;

    XSAVEOPT        0xd 1 Eax 0 Host;
    XSAVEC          0xd 1 Eax 1 Host;
    XGETBV1         0xd 1 Eax 2 Host;
    XSAVES          0xd 1 Eax 3 Host;
    XFD             0xd 1 Eax 4 Host;

    AMX_INT8_ALIAS  0x1e 1 Eax 0 Host;
    AMX_BF16_ALIAS  0x1e 1 Eax 1 Host;

    LAHF_LM         0x8000_0001 0 Ecx 0 Software;
    CMP_LEGACY      0x8000_0001 0 Ecx 1 Host;
    SVM             0x8000_0001 0 Ecx 2 Known;
    CR8_LEGACY      0x8000_0001 0 Ecx 4 Software;
    ABM             0x8000_0001 0 Ecx 5 Host;
    SSE4A           0x8000_0001 0 Ecx 6 Host;
    MISALIGNSSE     0x8000_0001 0 Ecx 7 Host;
    PREFETCHW       0x8000_0001 0 Ecx 8 Software;
    OSVW            0x8000_0001 0 Ecx 9 Software;
    TOPOEXT         0x8000_0001 0 Ecx 22 Host;
    PERFCTR_CORE    0x8000_0001 0 Ecx 23 Amd;

    AMD_FPU         0x8000_0001 0 Edx 0 Software;
    AMD_DE          0x8000_0001 0 Edx 2 Software;
    AMD_PSE         0x8000_0001 0 Edx 3 Software;
    AMD_TSC         0x8000_0001 0 Edx 4 Software;
    AMD_MSR         0x8000_0001 0 Edx 5 Software;
    AMD_PAE         0x8000_0001 0 Edx 6 Software;
    AMD_MCE         0x8000_0001 0 Edx 7 Software;
    AMD_CX8         0x8000_0001 0 Edx 8 Software;
    AMD_APIC        0x8000_0001 0 Edx 9 Software;
    SYSCALL         0x8000_0001 0 Edx 11 Software;
    AMD_MTRR        0x8000_0001 0 Edx 12 Software;
    AMD_PGE         0x8000_0001 0 Edx 13 Software;
    AMD_MCA         0x8000_0001 0 Edx 14 Software;
    AMD_CMOV        0x8000_0001 0 Edx 15 Software;
    AMD_PAT         0x8000_0001 0 Edx 16 Software;
    AMD_PSE36       0x8000_0001 0 Edx 17 Software;
    NX              0x8000_0001 0 Edx 20 Software;
    MMXEXT          0x8000_0001 0 Edx 22 Host;
    AMD_MMX         0x8000_0001 0 Edx 23 Software;
    AMD_FXSR        0x8000_0001 0 Edx 24 Software;
    FXSR_OPT        0x8000_0001 0 Edx 25 Host;
    GBPAGES         0x8000_0001 0 Edx 26 Software;
    RDTSCP          0x8000_0001 0 Edx 27 Software;
    LM              0x8000_0001 0 Edx 29 Software;

    CONSTANT_TSC    0x8000_0007 0 Edx 8 Known;

    CLZERO          0x8000_0008 0 Ebx 0 Known;
    XSAVEERPTR      0x8000_0008 0 Ebx 2 Host;
    WBNOINVD        0x8000_0008 0 Ebx 9 Known;
    AMD_IBPB        0x8000_0008 0 Ebx 12 Known;
    AMD_IBRS        0x8000_0008 0 Ebx 14 Known;
    AMD_STIBP       0x8000_0008 0 Ebx 15 Known;
    AMD_SSBD        0x8000_0008 0 Ebx 24 Known;
    VIRT_SSBD       0x8000_0008 0 Ebx 25 Known;
    AMD_SSB_NO      0x8000_0008 0 Ebx 26 Software;

    NO_NESTED_DATA_BP 0x8000_0021 0 Eax 0 Software;
    LFENCE_RDTSC    0x8000_0021 0 Eax 2 Software;
    NULL_SEL_CLR_BASE 0x8000_0021 0 Eax 6 Known;
    NO_SMM_CTL_MSR  0x8000_0021 0 Eax 9 Software;

    PERFMON_V2      0x8000_0022 0 Eax 0 Amd;
}

/// Bits of CPUID.KVM_CPUID_FEATURES:EAX that work.
pub mod pv {
    pub const CLOCKSOURCE: u32 = 0;
    pub const NOP_IO_DELAY: u32 = 1;
    pub const CLOCKSOURCE2: u32 = 3;
    pub const ASYNC_PF: u32 = 4;
    pub const STEAL_TIME: u32 = 5;
    pub const PV_EOI: u32 = 6;
    pub const PV_UNHALT: u32 = 7;
    pub const PV_TLB_FLUSH: u32 = 9;
    /// For hypervisors in the guest only, but Linux offers it without nesting, too.
    pub const ASYNC_PF_VMEXIT: u32 = 10;
    pub const PV_SEND_IPI: u32 = 11;
    pub const POLL_CONTROL: u32 = 12;
    pub const PV_SCHED_YIELD: u32 = 13;
    pub const ASYNC_PF_INT: u32 = 14;
    pub const CLOCKSOURCE_STABLE: u32 = 24;

    pub const OFFERED: u32 = 1 << CLOCKSOURCE
        | 1 << NOP_IO_DELAY
        | 1 << CLOCKSOURCE2
        | 1 << ASYNC_PF
        | 1 << STEAL_TIME
        | 1 << PV_EOI
        | 1 << PV_UNHALT
        | 1 << PV_TLB_FLUSH
        | 1 << ASYNC_PF_VMEXIT
        | 1 << PV_SEND_IPI
        | 1 << POLL_CONTROL
        | 1 << PV_SCHED_YIELD
        | 1 << ASYNC_PF_INT
        | 1 << CLOCKSOURCE_STABLE;
}

/// The bits of one output register that may be offered, before the host's own are looked at.
pub fn mask(function: u32, index: u32, reg: Reg, source: Source) -> u32 {
    ROWS.iter()
        .filter(|row| row.source == source)
        .map(|row| row.feature)
        .filter(|f| f.function == function && f.index == index && f.reg == reg)
        .fold(0, |bits, f| bits | 1 << f.bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_has_one_row() {
        for (i, a) in ROWS.iter().enumerate() {
            for b in &ROWS[i + 1..] {
                assert_ne!(a.feature, b.feature, "{} and {}", a.name, b.name);
            }
        }
    }
}
