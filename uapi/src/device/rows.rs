//! Attribute-group rows of the in-kernel devices and of the other fds that take attributes.

use super::*;
use crate::arch::Archs;

macro_rules! groups {
    ($($owner:expr, $($arch:ident)|+, $name:literal = $number:literal, $attributes:literal;)*) => {
        /// Every attribute group of the API.
        pub const ATTR_GROUPS: &[AttrGroupRow] = &[$(AttrGroupRow {
            owner: $owner,
            archs: Archs::empty()$(.union(Archs::$arch))+,
            name: $name,
            number: $number,
            attributes: $attributes,
        }),*];
    };
}

groups! {
    Owner::Device(KVM_DEV_TYPE_FSL_MPIC_20), PPC, "KVM_DEV_MPIC_GRP_MISC" = 1, "BASE_ADDR rw64: where the 256 KiB register window sits";
    Owner::Device(KVM_DEV_TYPE_FSL_MPIC_20), PPC, "KVM_DEV_MPIC_GRP_REGISTER" = 2, "attr = register byte offset; rw32 access as if from guest";
    Owner::Device(KVM_DEV_TYPE_FSL_MPIC_20), PPC, "KVM_DEV_MPIC_GRP_IRQ_ACTIVE" = 3, "attr = IRQ number; rw32 input line level";
    Owner::Device(KVM_DEV_TYPE_FSL_MPIC_42), PPC, "KVM_DEV_MPIC_GRP_MISC" = 1, "same as MPIC 2.0";
    Owner::Device(KVM_DEV_TYPE_FSL_MPIC_42), PPC, "KVM_DEV_MPIC_GRP_REGISTER" = 2, "same as MPIC 2.0";
    Owner::Device(KVM_DEV_TYPE_FSL_MPIC_42), PPC, "KVM_DEV_MPIC_GRP_IRQ_ACTIVE" = 3, "same as MPIC 2.0";
    Owner::Device(KVM_DEV_TYPE_XICS), PPC, "KVM_DEV_XICS_GRP_SOURCES" = 1, "attr = source number; rw64 state: server, priority, level, masked, pending";
    Owner::Device(KVM_DEV_TYPE_XICS), PPC, "KVM_DEV_XICS_GRP_CTRL" = 2, "NR_SERVERS=1 (wo u32)";
    Owner::Device(KVM_DEV_TYPE_VFIO), X86|ARM64|S390|PPC, "KVM_DEV_VFIO_FILE" = 1, "FILE_ADD=1; FILE_DEL=2; GROUP_SET_SPAPR_TCE=3 (ppc)";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V2), ARM64, "KVM_DEV_ARM_VGIC_GRP_ADDR" = 0, "V2_ADDR_TYPE_DIST=0; V2_ADDR_TYPE_CPU=1 (rw64 guest physical bases)";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V2), ARM64, "KVM_DEV_ARM_VGIC_GRP_DIST_REGS" = 1, "attr = vcpu index and offset; rw32 distributor registers";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V2), ARM64, "KVM_DEV_ARM_VGIC_GRP_CPU_REGS" = 2, "attr = vcpu index and offset; rw32 CPU-interface registers";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V2), ARM64, "KVM_DEV_ARM_VGIC_GRP_NR_IRQS" = 3, "value 64..1024 in steps of 32";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V2), ARM64, "KVM_DEV_ARM_VGIC_GRP_CTRL" = 4, "CTRL_INIT=0";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_GET_ALL_IRQS" = 1, "dump pending floating interrupts to a buffer";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_ENQUEUE" = 2, "inject a buffer of floating interrupts";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_CLEAR_IRQS" = 3, "drop all pending floating interrupts";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_APF_ENABLE" = 4, "turn on async page faults";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_APF_DISABLE_WAIT" = 5, "turn off async page faults and drain them";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_ADAPTER_REGISTER" = 6, "struct kvm_s390_io_adapter: id, isc, maskable, swap, flags";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_ADAPTER_MODIFY" = 7, "operations MASK=1, MAP=2, UNMAP=3";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_CLEAR_IO_IRQ" = 8, "drop one pending I/O interrupt by subchannel";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_AISM" = 9, "set suppression mode (all/single) for one isc";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_AIRQ_INJECT" = 10, "attr = adapter id; inject adapter interrupt";
    Owner::Device(KVM_DEV_TYPE_FLIC), S390, "KVM_DEV_FLIC_AISM_ALL" = 11, "get/set suppression masks simm and nimm for all iscs";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_ADDR" = 0, "V3_ADDR_TYPE_DIST=2; REDIST=3; REDIST_REGION=5";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_DIST_REGS" = 1, "attr = mpidr and offset; rw32 distributor registers";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_NR_IRQS" = 3, "value 64..1024 in steps of 32";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_CTRL" = 4, "CTRL_INIT=0; SAVE_PENDING_TABLES=3";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_REDIST_REGS" = 5, "attr = mpidr and offset; rw32 redistributor registers";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS" = 6, "attr = mpidr and sysreg encoding; rw64 ICC/ICH registers";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO" = 7, "attr = mpidr, info, first INTID; 32-line level bitmap";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V3), ARM64, "KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ" = 9, "PPI used as maintenance interrupt (nested)";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_ITS), ARM64, "KVM_DEV_ARM_VGIC_GRP_ADDR" = 0, "VGIC_ITS_ADDR_TYPE=4 (128 KiB frame, 64 KiB aligned)";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_ITS), ARM64, "KVM_DEV_ARM_VGIC_GRP_CTRL" = 4, "CTRL_INIT=0; ITS_SAVE_TABLES=1; ITS_RESTORE_TABLES=2; ITS_CTRL_RESET=4";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_ITS), ARM64, "KVM_DEV_ARM_VGIC_GRP_ITS_REGS" = 8, "attr = register offset; 64-bit access";
    Owner::Device(KVM_DEV_TYPE_XIVE), PPC, "KVM_DEV_XIVE_GRP_CTRL" = 1, "RESET=1; EQ_SYNC=2; NR_SERVERS=3 (all wo)";
    Owner::Device(KVM_DEV_TYPE_XIVE), PPC, "KVM_DEV_XIVE_GRP_SOURCE" = 2, "attr = source number; create MSI/LSI source (wo)";
    Owner::Device(KVM_DEV_TYPE_XIVE), PPC, "KVM_DEV_XIVE_GRP_SOURCE_CONFIG" = 3, "attr = source; priority, server, mask, eisn (wo)";
    Owner::Device(KVM_DEV_TYPE_XIVE), PPC, "KVM_DEV_XIVE_GRP_EQ_CONFIG" = 4, "attr = server and priority; struct kvm_ppc_xive_eq (rw)";
    Owner::Device(KVM_DEV_TYPE_XIVE), PPC, "KVM_DEV_XIVE_GRP_SOURCE_SYNC" = 5, "attr = source; flush notifications (wo)";
    Owner::Device(KVM_DEV_TYPE_RISCV_AIA), RISCV, "KVM_DEV_RISCV_AIA_GRP_CONFIG" = 0, "MODE=0; IDS=1; SRCS=2; GROUP_BITS=3; GROUP_SHIFT=4; HART_BITS=5; GUEST_BITS=6";
    Owner::Device(KVM_DEV_TYPE_RISCV_AIA), RISCV, "KVM_DEV_RISCV_AIA_GRP_ADDR" = 1, "APLIC=0; IMSIC(vcpu)=1+vcpu";
    Owner::Device(KVM_DEV_TYPE_RISCV_AIA), RISCV, "KVM_DEV_RISCV_AIA_GRP_CTRL" = 2, "CTRL_INIT=0";
    Owner::Device(KVM_DEV_TYPE_RISCV_AIA), RISCV, "KVM_DEV_RISCV_AIA_GRP_APLIC" = 3, "attr = APLIC register offset";
    Owner::Device(KVM_DEV_TYPE_RISCV_AIA), RISCV, "KVM_DEV_RISCV_AIA_GRP_IMSIC" = 4, "attr = vcpu and iselect value";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_IPI), LOONGARCH, "KVM_DEV_LOONGARCH_IPI_GRP_REGS" = 0x40000001, "attr = cpu and register offset";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_EIOINTC), LOONGARCH, "KVM_DEV_LOONGARCH_EXTIOI_GRP_REGS" = 0x40000002, "attr = register offset";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_EIOINTC), LOONGARCH, "KVM_DEV_LOONGARCH_EXTIOI_GRP_SW_STATUS" = 0x40000003, "NUM_CPU=0; FEATURE=1; STATE=2";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_EIOINTC), LOONGARCH, "KVM_DEV_LOONGARCH_EXTIOI_GRP_CTRL" = 0x40000004, "INIT_NUM_CPU=0; INIT_FEATURE=1; LOAD_FINISHED=3";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_PCHPIC), LOONGARCH, "KVM_DEV_LOONGARCH_PCH_PIC_GRP_REGS" = 0x40000005, "attr = register offset";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_PCHPIC), LOONGARCH, "KVM_DEV_LOONGARCH_PCH_PIC_GRP_CTRL" = 0x40000006, "CTRL_INIT=0";
    Owner::Device(KVM_DEV_TYPE_LOONGARCH_DMSINTC), LOONGARCH, "KVM_DEV_LOONGARCH_DMSINTC_GRP_CTRL" = 0x40000007, "MSG_ADDR_BASE=0; MSG_ADDR_SIZE=1";
    Owner::Device(KVM_DEV_TYPE_ARM_VGIC_V5), ARM64, "KVM_DEV_ARM_VGIC_GRP_CTRL" = 4, "CTRL_INIT=0; USERSPACE_PPIS=5 (ro u64[2])";
    Owner::Vm, S390, "KVM_S390_VM_MEM_CTRL" = 0, "ENABLE_CMMA=0; CLR_CMMA=1; LIMIT_SIZE=2";
    Owner::Vm, S390, "KVM_S390_VM_TOD" = 1, "LOW=0; HIGH=1; EXT=2";
    Owner::Vm, S390, "KVM_S390_VM_CRYPTO" = 2, "ENABLE_AES_KW=0; ENABLE_DEA_KW=1; DISABLE_AES_KW=2; DISABLE_DEA_KW=3; ENABLE_APIE=4; DISABLE_APIE=5 (last two header only)";
    Owner::Vm, S390, "KVM_S390_VM_CPU_MODEL" = 3, "PROCESSOR=0; MACHINE=1; PROCESSOR_FEAT=2; MACHINE_FEAT=3; PROCESSOR_SUBFUNC=4; MACHINE_SUBFUNC=5; UV_FEAT_GUEST=6,7 (header only)";
    Owner::Vm, S390, "KVM_S390_VM_MIGRATION" = 4, "STOP=0; START=1; STATUS=2";
    Owner::Vm, S390, "KVM_S390_VM_CPU_TOPOLOGY" = 5, "get/set the topology-change report bit";
    Owner::Vm, ARM64, "KVM_ARM_VM_SMCCC_CTRL" = 0, "SMCCC_FILTER=0 (wo ranges: handle, deny, forward)";
    Owner::Vm, LOONGARCH, "KVM_LOONGARCH_VM_FEAT_CTRL" = 0, "has-only feature probes: LSX, LASX, X86BT, ARMBT, MIPSBT, PMU, PV_IPI, PV_STEALTIME, PTW, MSGINT, PV_PREEMPT (0..10)";
    Owner::Vcpu, ARM64, "KVM_ARM_VCPU_PMU_V3_CTRL" = 0, "IRQ=0; INIT=1; FILTER=2; SET_PMU=3; SET_NR_COUNTERS=4";
    Owner::Vcpu, ARM64, "KVM_ARM_VCPU_TIMER_CTRL" = 1, "IRQ_VTIMER=0; IRQ_PTIMER=1; IRQ_HVTIMER=2; IRQ_HPTIMER=3";
    Owner::Vcpu, ARM64, "KVM_ARM_VCPU_PVTIME_CTRL" = 2, "PVTIME_IPA=0";
    Owner::Vcpu, X86, "KVM_VCPU_TSC_CTRL" = 0, "TSC_OFFSET=0";
    Owner::Vcpu, LOONGARCH, "KVM_LOONGARCH_VCPU_CPUCFG" = 0, "attr = CPUCFG index, incl. PV feature word";
    Owner::Vcpu, LOONGARCH, "KVM_LOONGARCH_VCPU_PVTIME_CTRL" = 1, "PVTIME_GPA=0";
    Owner::System, X86, "KVM_X86_GRP_SYSTEM" = 0, "XCOMP_GUEST_SUPP=0 (ro u64 of permittable dynamic XSAVE features)";
    Owner::System, X86, "KVM_X86_GRP_SEV" = 1, "SEV_VMSA_FEATURES=0; SNP_POLICY_BITS=1 (header only); SEV_SNP_REQ_CERTS=2";
}
