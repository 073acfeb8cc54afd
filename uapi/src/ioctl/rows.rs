//! The ioctl rows themselves, in the order of the requests' documentation sections; the undocumented ones
//! stand last. Each row also becomes the constant of its name.
//!
//! Sizes are those of this crate's structures; for structures of architectures that are not described here yet they are
//! written as numbers.

use super::{Arg, IoctlRow, Level, On, io, ior, iow, iowr};
use crate::arch::Archs;
use crate::x86::*;
use crate::*;

macro_rules! ioctls {
    ($($(#[doc = $purpose:literal])* $name:ident = $request:expr, $arg:expr,
       [$($level:ident: $($arch:ident)|+),+], $section:literal, $cap:literal;)*) => {
        $($(#[doc = $purpose])* pub const $name: u32 = $request;)*

        /// Every ioctl of the API.
        pub const IOCTLS: &[IoctlRow] = &[$(IoctlRow {
            name: stringify!($name),
            request: $name,
            on: &[$(On {
                level: Level::$level,
                archs: Archs::empty()$(.union(Archs::$arch))+,
            }),+],
            arg: $arg,
            section: $section,
            capability: $cap,
            purpose: concat!($($purpose),*).trim_ascii(),
        }),*];
    };
}

ioctls! {
    /// Report the fixed interface version, always twelve.
    KVM_GET_API_VERSION = io(0x00), Arg::Zero, [System: ALL], "4.1", "basic";
    /// Make an empty VM of a given type; returns its fd.
    KVM_CREATE_VM = io(0x01), Arg::Value, [System: ALL], "4.2", "basic";
    /// List guest MSR numbers worth saving and restoring.
    KVM_GET_MSR_INDEX_LIST = iowr(0x02, size_of::<KvmMsrList>()), Arg::InOutList("kvm_msr_list", "u32"), [System: X86], "4.3", "basic";
    /// List host feature MSRs readable on the system fd.
    KVM_GET_MSR_FEATURE_INDEX_LIST = iowr(0x0a, size_of::<KvmMsrList>()), Arg::InOutList("kvm_msr_list", "u32"), [System: X86], "4.3", "KVM_CAP_GET_MSR_FEATURES";
    /// Ask whether, or how much of, a capability exists.
    KVM_CHECK_EXTENSION = io(0x03), Arg::Value, [System: ALL, Vm: ALL], "4.4", "basic (vm: KVM_CAP_CHECK_EXTENSION_VM)";
    /// Tell how many bytes of a vcpu fd to mmap.
    KVM_GET_VCPU_MMAP_SIZE = io(0x04), Arg::Zero, [System: ALL], "4.5", "basic";
    /// Add a virtual CPU with a chosen id; returns fd.
    KVM_CREATE_VCPU = io(0x41), Arg::Value, [Vm: ALL], "4.7", "basic";
    /// Fetch and normally clear one memory slot's dirty-page bitmap.
    KVM_GET_DIRTY_LOG = iow(0x42, size_of::<KvmDirtyLog>()), Arg::In("kvm_dirty_log"), [Vm: ALL], "4.8", "basic";
    /// Execute guest code until something needs userspace.
    KVM_RUN = io(0x80), Arg::Zero, [Vcpu: ALL], "4.10", "basic";
    /// Read the general-purpose register file.
    KVM_GET_REGS = ior(0x81, size_of::<KvmRegs>()), Arg::Out("kvm_regs"), [Vcpu: X86|S390|PPC|LOONGARCH|MIPS], "4.11", "basic";
    /// Load the general-purpose register file.
    KVM_SET_REGS = iow(0x82, size_of::<KvmRegs>()), Arg::In("kvm_regs"), [Vcpu: X86|S390|PPC|LOONGARCH|MIPS], "4.12", "basic";
    /// Read segment, control and other privileged registers.
    KVM_GET_SREGS = ior(0x83, size_of::<KvmSregs>()), Arg::Out("kvm_sregs"), [Vcpu: X86|S390|PPC], "4.13", "basic";
    /// Load segment, control and other privileged registers.
    KVM_SET_SREGS = iow(0x84, size_of::<KvmSregs>()), Arg::In("kvm_sregs"), [Vcpu: X86|S390|PPC], "4.14", "basic";
    /// Walk guest page tables for one linear address.
    KVM_TRANSLATE = iowr(0x85, size_of::<KvmTranslation>()), Arg::InOut("kvm_translation"), [Vcpu: X86|PPC], "4.15", "basic";
    /// Queue an external interrupt when userspace owns the interrupt controller.
    KVM_INTERRUPT = iow(0x86, size_of::<KvmInterrupt>()), Arg::In("kvm_interrupt"), [Vcpu: X86|PPC|MIPS|RISCV|LOONGARCH], "4.16", "basic";
    /// Read a batch of MSRs, per vcpu or host feature values.
    KVM_GET_MSRS = iowr(0x88, size_of::<KvmMsrs>()), Arg::InOutList("kvm_msrs", "kvm_msr_entry"), [System: X86, Vcpu: X86], "4.18", "basic (system: KVM_CAP_GET_MSR_FEATURES)";
    /// Write a batch of MSRs, stopping at the first failure.
    KVM_SET_MSRS = iow(0x89, size_of::<KvmMsrs>()), Arg::InList("kvm_msrs", "kvm_msr_entry"), [Vcpu: X86], "4.19", "basic";
    /// Install CPUID answers, old format without subleaf index.
    KVM_SET_CPUID = iow(0x8a, size_of::<KvmCpuid>()), Arg::InList("kvm_cpuid", "kvm_cpuid_entry"), [Vcpu: X86], "4.20", "basic";
    /// Choose signals blocked only while inside KVM_RUN.
    KVM_SET_SIGNAL_MASK = iow(0x8b, size_of::<KvmSignalMask>()), Arg::InList("kvm_signal_mask", "u8"), [Vcpu: ALL], "4.21", "basic";
    /// Read legacy floating-point and vector state.
    KVM_GET_FPU = ior(0x8c, size_of::<KvmFpu>()), Arg::Out("kvm_fpu"), [Vcpu: X86|S390|LOONGARCH], "4.22", "basic";
    /// Load legacy floating-point and vector state.
    KVM_SET_FPU = iow(0x8d, size_of::<KvmFpu>()), Arg::In("kvm_fpu"), [Vcpu: X86|S390|LOONGARCH], "4.23", "basic";
    /// Create the default in-kernel interrupt controllers.
    KVM_CREATE_IRQCHIP = io(0x60), Arg::None, [Vm: X86|ARM64|S390|LOONGARCH], "4.24", "KVM_CAP_IRQCHIP (s390: KVM_CAP_S390_IRQCHIP)";
    /// Raise or lower one input line of the in-kernel irqchip.
    KVM_IRQ_LINE = iow(0x61, size_of::<KvmIrqLevel>()), Arg::In("kvm_irq_level"), [Vm: X86|ARM64|PPC|RISCV|LOONGARCH], "4.25", "KVM_CAP_IRQCHIP";
    /// Save PIC or IOAPIC state.
    KVM_GET_IRQCHIP = iowr(0x62, size_of::<KvmIrqchip>()), Arg::InOut("kvm_irqchip"), [Vm: X86], "4.26", "KVM_CAP_IRQCHIP";
    /// Restore PIC or IOAPIC state.
    KVM_SET_IRQCHIP = ior(0x63, size_of::<KvmIrqchip>()), Arg::In("kvm_irqchip"), [Vm: X86], "4.27", "KVM_CAP_IRQCHIP";
    /// Configure the Xen hypercall page MSR and interception flags.
    KVM_XEN_HVM_CONFIG = iow(0x7a, size_of::<KvmXenHvmConfig>()), Arg::In("kvm_xen_hvm_config"), [Vm: X86], "4.28", "KVM_CAP_XEN_HVM";
    /// Read kvmclock plus optional host real time and TSC.
    KVM_GET_CLOCK = ior(0x7c, size_of::<KvmClockData>()), Arg::Out("kvm_clock_data"), [Vm: X86], "4.29", "KVM_CAP_ADJUST_CLOCK";
    /// Set kvmclock, optionally advancing it by elapsed real time.
    KVM_SET_CLOCK = iow(0x7b, size_of::<KvmClockData>()), Arg::In("kvm_clock_data"), [Vm: X86], "4.30", "KVM_CAP_ADJUST_CLOCK";
    /// Save pending exceptions, interrupts, NMI, SMI or SError.
    KVM_GET_VCPU_EVENTS = ior(0x9f, size_of::<KvmVcpuEvents>()), Arg::Out("kvm_vcpu_events"), [Vcpu: X86|ARM64], "4.31", "KVM_CAP_VCPU_EVENTS";
    /// Restore or inject pending exceptions and interrupt-related state.
    KVM_SET_VCPU_EVENTS = iow(0xa0, size_of::<KvmVcpuEvents>()), Arg::In("kvm_vcpu_events"), [Vcpu: X86|ARM64], "4.32", "KVM_CAP_VCPU_EVENTS";
    /// Read guest debug registers DR0-3, DR6 and DR7.
    KVM_GET_DEBUGREGS = ior(0xa1, size_of::<KvmDebugregs>()), Arg::Out("kvm_debugregs"), [Vcpu: X86], "4.33", "KVM_CAP_DEBUGREGS";
    /// Load guest debug registers.
    KVM_SET_DEBUGREGS = iow(0xa2, size_of::<KvmDebugregs>()), Arg::In("kvm_debugregs"), [Vcpu: X86], "4.34", "KVM_CAP_DEBUGREGS";
    /// Create, change or delete a guest memory slot backed by userspace.
    KVM_SET_USER_MEMORY_REGION = iow(0x46, size_of::<KvmUserspaceMemoryRegion>()), Arg::In("kvm_userspace_memory_region"), [Vm: ALL], "4.35", "KVM_CAP_USER_MEMORY";
    /// Reserve three guest pages Intel needs for real-mode emulation.
    KVM_SET_TSS_ADDR = io(0x47), Arg::Value, [Vm: X86], "4.36", "KVM_CAP_SET_TSS_ADDR";
    /// Turn on an opt-in capability with up to four arguments.
    KVM_ENABLE_CAP = iow(0xa3, size_of::<KvmEnableCap>()), Arg::In("kvm_enable_cap"), [Vm: ALL, Vcpu: X86|S390|PPC|MIPS|LOONGARCH], "4.37", "KVM_CAP_ENABLE_CAP_VM (vm) / KVM_CAP_ENABLE_CAP (vcpu)";
    /// Read whether a vcpu is runnable, halted, stopped or uninitialised.
    KVM_GET_MP_STATE = ior(0x98, size_of::<KvmMpState>()), Arg::Out("kvm_mp_state"), [Vcpu: X86|S390|ARM64|RISCV|LOONGARCH], "4.38", "KVM_CAP_MP_STATE";
    /// Set a vcpu's runnable, halted or stopped state.
    KVM_SET_MP_STATE = iow(0x99, size_of::<KvmMpState>()), Arg::In("kvm_mp_state"), [Vcpu: X86|S390|ARM64|RISCV|LOONGARCH], "4.39", "KVM_CAP_MP_STATE";
    /// Place the one-page identity page table Intel hosts need.
    KVM_SET_IDENTITY_MAP_ADDR = iow(0x48, 8), Arg::In("u64"), [Vm: X86], "4.40", "KVM_CAP_SET_IDENTITY_MAP_ADDR";
    /// Pick which vcpu id is the bootstrap processor.
    KVM_SET_BOOT_CPU_ID = io(0x78), Arg::Value, [Vm: X86], "4.41", "KVM_CAP_SET_BOOT_CPU_ID";
    /// Save extended FPU state, fixed four-kilobyte image.
    KVM_GET_XSAVE = ior(0xa4, size_of::<KvmXsave>()), Arg::Out("kvm_xsave"), [Vcpu: X86], "4.42", "KVM_CAP_XSAVE";
    /// Restore extended FPU state of the advertised size.
    KVM_SET_XSAVE = iow(0xa5, size_of::<KvmXsave>()), Arg::In("kvm_xsave"), [Vcpu: X86], "4.43", "KVM_CAP_XSAVE / KVM_CAP_XSAVE2";
    /// Read extended control registers such as XCR0.
    KVM_GET_XCRS = ior(0xa6, size_of::<KvmXcrs>()), Arg::Out("kvm_xcrs"), [Vcpu: X86], "4.44", "KVM_CAP_XCRS";
    /// Load extended control registers such as XCR0.
    KVM_SET_XCRS = iow(0xa7, size_of::<KvmXcrs>()), Arg::In("kvm_xcrs"), [Vcpu: X86], "4.45", "KVM_CAP_XCRS";
    /// List CPUID leaves and bits the host plus KVM can offer.
    KVM_GET_SUPPORTED_CPUID = iowr(0x05, size_of::<KvmCpuid2>()), Arg::InOutList("kvm_cpuid2", "kvm_cpuid_entry2"), [System: X86], "4.46", "KVM_CAP_EXT_CPUID";
    /// Get hypercall instruction words to publish in the device tree.
    KVM_PPC_GET_PVINFO = iow(0xa1, 128), Arg::Out("kvm_ppc_pvinfo"), [Vm: PPC], "4.47", "KVM_CAP_PPC_GET_PVINFO";
    /// Replace the table mapping interrupt numbers to pins or MSIs.
    KVM_SET_GSI_ROUTING = iow(0x6a, size_of::<KvmIrqRouting>()), Arg::InList("kvm_irq_routing", "kvm_irq_routing_entry"), [Vm: X86|ARM64|S390|PPC|RISCV|LOONGARCH], "4.52", "KVM_CAP_IRQ_ROUTING";
    /// Set guest timestamp-counter frequency in kilohertz.
    KVM_SET_TSC_KHZ = io(0xa2), Arg::Value, [Vm: X86, Vcpu: X86], "4.55", "KVM_CAP_TSC_CONTROL (vcpu) / KVM_CAP_VM_TSC_CONTROL (vm)";
    /// Read guest timestamp-counter frequency in kilohertz.
    KVM_GET_TSC_KHZ = io(0xa3), Arg::None, [Vm: X86, Vcpu: X86], "4.56", "KVM_CAP_GET_TSC_KHZ (vcpu) / KVM_CAP_VM_TSC_CONTROL (vm)";
    /// Save the local APIC register page.
    KVM_GET_LAPIC = ior(0x8e, size_of::<KvmLapicState>()), Arg::Out("kvm_lapic_state"), [Vcpu: X86], "4.57", "KVM_CAP_IRQCHIP";
    /// Restore the local APIC register page.
    KVM_SET_LAPIC = iow(0x8f, size_of::<KvmLapicState>()), Arg::In("kvm_lapic_state"), [Vcpu: X86], "4.58", "KVM_CAP_IRQCHIP";
    /// Signal an eventfd when the guest writes an address or port.
    KVM_IOEVENTFD = iow(0x79, size_of::<KvmIoeventfd>()), Arg::In("kvm_ioeventfd"), [Vm: ALL], "4.59", "KVM_CAP_IOEVENTFD";
    /// Tell KVM which shared software-TLB entries userspace changed.
    KVM_DIRTY_TLB = iow(0xaa, 16), Arg::In("kvm_dirty_tlb"), [Vcpu: PPC], "4.60", "KVM_CAP_SW_TLB";
    /// Make a 32-bit PAPR IOMMU table; returns mappable fd.
    KVM_CREATE_SPAPR_TCE = iow(0xa8, 16), Arg::In("kvm_create_spapr_tce"), [Vm: PPC], "4.62", "KVM_CAP_SPAPR_TCE";
    /// Queue a non-maskable interrupt on this vcpu.
    KVM_NMI = io(0x9a), Arg::None, [Vcpu: X86], "4.64", "KVM_CAP_USER_NMI";
    /// Map user memory into a user-controlled vcpu address space.
    KVM_S390_UCAS_MAP = iow(0x50, 24), Arg::In("kvm_s390_ucas_mapping"), [Vcpu: S390], "4.65", "KVM_CAP_S390_UCONTROL";
    /// Remove a mapping from a user-controlled vcpu address space.
    KVM_S390_UCAS_UNMAP = iow(0x51, 24), Arg::In("kvm_s390_ucas_mapping"), [Vcpu: S390], "4.66", "KVM_CAP_S390_UCONTROL";
    /// Fault one guest page in ahead of running.
    KVM_S390_VCPU_FAULT = iow(0x52, 8), Arg::Value, [Vcpu: S390], "4.67", "KVM_CAP_S390_UCONTROL";
    /// Write one register named by a 64-bit id.
    KVM_SET_ONE_REG = iow(0xac, size_of::<KvmOneReg>()), Arg::In("kvm_one_reg"), [Vcpu: ALL], "4.68", "KVM_CAP_ONE_REG";
    /// Read one register named by a 64-bit id.
    KVM_GET_ONE_REG = iow(0xab, size_of::<KvmOneReg>()), Arg::In("kvm_one_reg"), [Vcpu: ALL], "4.69", "KVM_CAP_ONE_REG";
    /// Mark the vcpu as host-paused so guest watchdogs stay quiet.
    KVM_KVMCLOCK_CTRL = io(0xad), Arg::None, [Vcpu: X86], "4.70", "KVM_CAP_KVMCLOCK_CTRL";
    /// Inject one message-signalled interrupt directly.
    KVM_SIGNAL_MSI = iow(0xa5, size_of::<KvmMsi>()), Arg::In("kvm_msi"), [Vm: X86|ARM64|PPC|RISCV|LOONGARCH], "4.71", "KVM_CAP_SIGNAL_MSI";
    /// Create the in-kernel 8254 timer with flags.
    KVM_CREATE_PIT2 = iow(0x77, size_of::<KvmPitConfig>()), Arg::In("kvm_pit_config"), [Vm: X86], "4.71", "KVM_CAP_PIT2";
    /// Save 8254 timer state including flags.
    KVM_GET_PIT2 = ior(0x9f, size_of::<KvmPitState2>()), Arg::Out("kvm_pit_state2"), [Vm: X86], "4.72", "KVM_CAP_PIT_STATE2";
    /// Restore 8254 timer state including flags.
    KVM_SET_PIT2 = iow(0xa0, size_of::<KvmPitState2>()), Arg::In("kvm_pit_state2"), [Vm: X86], "4.73", "KVM_CAP_PIT_STATE2";
    /// Describe hash-MMU segment and page sizes for the device tree.
    KVM_PPC_GET_SMMU_INFO = ior(0xa6, 592), Arg::Out("kvm_ppc_smmu_info"), [Vm: PPC], "4.74", "KVM_CAP_PPC_GET_SMMU_INFO";
    /// Wire an eventfd to a guest interrupt, optionally with resample.
    KVM_IRQFD = iow(0x76, size_of::<KvmIrqfd>()), Arg::In("kvm_irqfd"), [Vm: X86|ARM64|S390|PPC|RISCV|LOONGARCH], "4.75", "KVM_CAP_IRQFD";
    /// Allocate or clear the guest's hashed page table.
    KVM_PPC_ALLOCATE_HTAB = iowr(0xa7, 4), Arg::InOut("u32"), [Vm: PPC], "4.76", "KVM_CAP_PPC_ALLOC_HTAB";
    /// Inject a floating or per-cpu interrupt, compact form.
    KVM_S390_INTERRUPT = iow(0x94, 16), Arg::In("kvm_s390_interrupt"), [Vm: S390, Vcpu: S390], "4.77", "basic";
    /// Get an fd streaming hashed page table contents in or out.
    KVM_PPC_GET_HTAB_FD = iow(0xaa, 32), Arg::In("kvm_get_htab_fd"), [Vm: PPC], "4.78", "KVM_CAP_PPC_HTAB_FD";
    /// Instantiate an in-kernel device by type; returns its fd.
    KVM_CREATE_DEVICE = iowr(0xe0, size_of::<KvmCreateDevice>()), Arg::InOut("kvm_create_device"), [Vm: ALL], "4.79", "KVM_CAP_DEVICE_CTRL";
    /// Write a grouped attribute of a device, vm or vcpu.
    KVM_SET_DEVICE_ATTR = iow(0xe1, size_of::<KvmDeviceAttr>()), Arg::In("kvm_device_attr"), [Device: ALL, Vm: ARM64|S390, Vcpu: X86|ARM64|LOONGARCH], "4.80", "KVM_CAP_DEVICE_CTRL / KVM_CAP_VM_ATTRIBUTES / KVM_CAP_VCPU_ATTRIBUTES";
    /// Read a grouped attribute of a device, vm, vcpu or system.
    KVM_GET_DEVICE_ATTR = iow(0xe2, size_of::<KvmDeviceAttr>()), Arg::In("kvm_device_attr"), [Device: ALL, Vm: S390, Vcpu: X86|ARM64|LOONGARCH, System: X86], "4.80", "KVM_CAP_DEVICE_CTRL / KVM_CAP_VM_ATTRIBUTES / KVM_CAP_VCPU_ATTRIBUTES / KVM_CAP_SYS_ATTRIBUTES";
    /// Test whether a grouped attribute is implemented.
    KVM_HAS_DEVICE_ATTR = iow(0xe3, size_of::<KvmDeviceAttr>()), Arg::In("kvm_device_attr"), [Device: ALL, Vm: ARM64|S390|LOONGARCH, Vcpu: X86|ARM64|LOONGARCH, System: X86], "4.81", "KVM_CAP_DEVICE_CTRL / KVM_CAP_VM_ATTRIBUTES / KVM_CAP_VCPU_ATTRIBUTES / KVM_CAP_SYS_ATTRIBUTES";
    /// Choose CPU target and features, and reset the vcpu.
    KVM_ARM_VCPU_INIT = iow(0xae, 32), Arg::In("kvm_vcpu_init"), [Vcpu: ARM64], "4.82", "basic";
    /// Get the CPU target best matching this host.
    KVM_ARM_PREFERRED_TARGET = ior(0xaf, 32), Arg::Out("kvm_vcpu_init"), [Vm: ARM64], "4.83", "basic";
    /// Enumerate the register ids usable with one-reg access.
    KVM_GET_REG_LIST = iowr(0xb0, size_of::<KvmRegList>()), Arg::InOutList("kvm_reg_list", "u64"), [Vcpu: X86|ARM64|MIPS|RISCV], "4.84", "basic (x86: KVM_CAP_ONE_REG)";
    /// Deprecated way to place GICv2 frames in guest physical space.
    KVM_ARM_SET_DEVICE_ADDR = iow(0xab, 16), Arg::In("kvm_arm_device_addr"), [Vm: ARM64], "4.85", "KVM_CAP_ARM_SET_DEVICE_ADDR";
    /// Bind an RTAS service token to its in-kernel handler.
    KVM_PPC_RTAS_DEFINE_TOKEN = iow(0xac, 128), Arg::In("kvm_rtas_token_args"), [Vm: PPC], "4.86", "KVM_CAP_PPC_RTAS";
    /// Arm single-step and breakpoints for a host debugger.
    KVM_SET_GUEST_DEBUG = iow(0x9b, size_of::<KvmGuestDebug>()), Arg::In("kvm_guest_debug"), [Vcpu: X86|ARM64|S390|PPC|RISCV|LOONGARCH], "4.87", "KVM_CAP_SET_GUEST_DEBUG";
    /// List CPUID bits KVM emulates slowly in software.
    KVM_GET_EMULATED_CPUID = iowr(0x09, size_of::<KvmCpuid2>()), Arg::InOutList("kvm_cpuid2", "kvm_cpuid_entry2"), [System: X86], "4.88", "KVM_CAP_EXT_EMUL_CPUID";
    /// Read, write or compare-exchange guest memory with key checks.
    KVM_S390_MEM_OP = iow(0xb1, 64), Arg::In("kvm_s390_mem_op"), [Vm: S390, Vcpu: S390], "4.89", "KVM_CAP_S390_MEM_OP";
    /// Read storage keys for a run of guest frames.
    KVM_S390_GET_SKEYS = iow(0xb2, 64), Arg::In("kvm_s390_skeys"), [Vm: S390], "4.90", "KVM_CAP_S390_SKEYS";
    /// Write storage keys for a run of guest frames.
    KVM_S390_SET_SKEYS = iow(0xb3, 64), Arg::In("kvm_s390_skeys"), [Vm: S390], "4.91", "KVM_CAP_S390_SKEYS";
    /// Inject a per-cpu interrupt with full payload.
    KVM_S390_IRQ = iow(0xb4, 72), Arg::In("kvm_s390_irq"), [Vcpu: S390], "4.92", "KVM_CAP_S390_INJECT_IRQ";
    /// Dump every interrupt pending on one vcpu.
    KVM_S390_GET_IRQ_STATE = iow(0xb6, 32), Arg::In("kvm_s390_irq_state"), [Vcpu: S390], "4.94", "KVM_CAP_S390_IRQ_STATE";
    /// Reload every interrupt pending on one vcpu.
    KVM_S390_SET_IRQ_STATE = iow(0xb5, 32), Arg::In("kvm_s390_irq_state"), [Vcpu: S390], "4.95", "KVM_CAP_S390_IRQ_STATE";
    /// Queue a system-management interrupt on this vcpu.
    KVM_SMI = io(0xb7), Arg::None, [Vcpu: X86], "4.96", "KVM_CAP_X86_SMM";
    /// Install allow/deny bitmaps for guest MSR reads and writes.
    KVM_X86_SET_MSR_FILTER = iow(0xc6, size_of::<KvmMsrFilter>()), Arg::In("kvm_msr_filter"), [Vm: X86], "4.97", "KVM_CAP_X86_MSR_FILTER";
    /// Make a PAPR IOMMU table with 64-bit window and page size.
    KVM_CREATE_SPAPR_TCE_64 = iow(0xa8, 32), Arg::In("kvm_create_spapr_tce_64"), [Vm: PPC], "4.98", "KVM_CAP_SPAPR_TCE_64";
    /// Choose whether missed 8254 ticks are replayed.
    KVM_REINJECT_CONTROL = io(0x71), Arg::In("kvm_reinject_control"), [Vm: X86], "4.99", "KVM_CAP_REINJECT_CONTROL";
    /// Select radix or hash translation and the process table.
    KVM_PPC_CONFIGURE_V3_MMU = iow(0xaf, 16), Arg::In("kvm_ppc_mmuv3_cfg"), [Vm: PPC], "4.100", "KVM_CAP_PPC_MMU_RADIX / KVM_CAP_PPC_MMU_HASH_V3";
    /// List radix tree geometries and page-size encodings.
    KVM_PPC_GET_RMMU_INFO = iow(0xb0, 96), Arg::Out("kvm_ppc_rmmu_info"), [Vm: PPC], "4.101", "KVM_CAP_PPC_MMU_RADIX";
    /// Start, poll or cancel building a resized hash table.
    KVM_PPC_RESIZE_HPT_PREPARE = ior(0xad, 16), Arg::In("kvm_ppc_resize_hpt"), [Vm: PPC], "4.102", "KVM_CAP_SPAPR_RESIZE_HPT";
    /// Switch the guest to the prepared resized hash table.
    KVM_PPC_RESIZE_HPT_COMMIT = ior(0xae, 16), Arg::In("kvm_ppc_resize_hpt"), [Vm: PPC], "4.103", "KVM_CAP_SPAPR_RESIZE_HPT";
    /// Report supported machine-check capability bits.
    KVM_X86_GET_MCE_CAP_SUPPORTED = ior(0x9d, 8), Arg::Out("u64"), [System: X86], "4.104", "KVM_CAP_MCE";
    /// Configure machine-check banks and features for a vcpu.
    KVM_X86_SETUP_MCE = iow(0x9c, 8), Arg::In("u64"), [Vcpu: X86], "4.105", "KVM_CAP_MCE";
    /// Inject a machine-check error into a bank.
    KVM_X86_SET_MCE = iow(0x9e, size_of::<KvmX86Mce>()), Arg::In("kvm_x86_mce"), [Vcpu: X86], "4.106", "KVM_CAP_MCE";
    /// Read collaborative-memory page states, for migration or peeking.
    KVM_S390_GET_CMMA_BITS = iowr(0xb8, 32), Arg::InOut("kvm_s390_cmma_log"), [Vm: S390], "4.107", "KVM_CAP_S390_CMMA_MIGRATION";
    /// Restore collaborative-memory page states.
    KVM_S390_SET_CMMA_BITS = iow(0xb9, 32), Arg::In("kvm_s390_cmma_log"), [Vm: S390], "4.108", "KVM_CAP_S390_CMMA_MIGRATION";
    /// Report speculation-vulnerability traits and recommended mitigations.
    KVM_PPC_GET_CPU_CHAR = ior(0xb1, 32), Arg::Out("kvm_ppc_cpu_char"), [Vm: PPC], "4.109", "KVM_CAP_PPC_GET_CPU_CHAR";
    /// Multiplexed SEV or TDX confidential-VM subcommands.
    KVM_MEMORY_ENCRYPT_OP = iowr(0xba, 8), Arg::InOut("u64"), [Vm: X86, Vcpu: X86], "4.110", "basic";
    /// Pin a memory range that may hold encrypted guest data.
    KVM_MEMORY_ENCRYPT_REG_REGION = ior(0xbb, size_of::<KvmEncRegion>()), Arg::In("kvm_enc_region"), [Vm: X86], "4.111", "basic";
    /// Unpin a range previously registered as encrypted.
    KVM_MEMORY_ENCRYPT_UNREG_REGION = ior(0xbc, size_of::<KvmEncRegion>()), Arg::In("kvm_enc_region"), [Vm: X86], "4.112", "basic";
    /// Bind an eventfd to a Hyper-V connection's signal-event call.
    KVM_HYPERV_EVENTFD = iow(0xbd, size_of::<KvmHypervEventfd>()), Arg::In("kvm_hyperv_eventfd"), [Vm: X86], "4.113", "KVM_CAP_HYPERV_EVENTFD";
    /// Save nested VMX or SVM state for migration.
    KVM_GET_NESTED_STATE = iowr(0xbe, size_of::<KvmNestedState>()), Arg::InOutList("kvm_nested_state", "u8"), [Vcpu: X86], "4.114", "KVM_CAP_NESTED_STATE";
    /// Restore nested VMX or SVM state.
    KVM_SET_NESTED_STATE = iow(0xbf, size_of::<KvmNestedState>()), Arg::InList("kvm_nested_state", "u8"), [Vcpu: X86], "4.115", "KVM_CAP_NESTED_STATE";
    /// Batch guest writes to a range into a shared ring.
    KVM_REGISTER_COALESCED_MMIO = iow(0x67, size_of::<KvmCoalescedMmioZone>()), Arg::In("kvm_coalesced_mmio_zone"), [Vm: X86|ARM64|PPC|RISCV|LOONGARCH|MIPS], "4.116", "KVM_CAP_COALESCED_MMIO / KVM_CAP_COALESCED_PIO";
    /// Stop batching guest writes for a range.
    KVM_UNREGISTER_COALESCED_MMIO = iow(0x68, size_of::<KvmCoalescedMmioZone>()), Arg::In("kvm_coalesced_mmio_zone"), [Vm: X86|ARM64|PPC|RISCV|LOONGARCH|MIPS], "4.116", "KVM_CAP_COALESCED_MMIO / KVM_CAP_COALESCED_PIO";
    /// Mark chosen pages clean and re-arm write tracking.
    KVM_CLEAR_DIRTY_LOG = iowr(0xc0, size_of::<KvmClearDirtyLog>()), Arg::In("kvm_clear_dirty_log"), [Vm: X86|ARM64|RISCV|LOONGARCH|MIPS], "4.117", "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2";
    /// List Hyper-V CPUID leaves that can be exposed.
    KVM_GET_SUPPORTED_HV_CPUID = iowr(0xc1, size_of::<KvmCpuid2>()), Arg::InOutList("kvm_cpuid2", "kvm_cpuid_entry2"), [System: X86, Vcpu: X86], "4.118", "KVM_CAP_SYS_HYPERV_CPUID (system) / KVM_CAP_HYPERV_CPUID (vcpu)";
    /// Freeze a configurable vcpu feature such as SVE lengths.
    KVM_ARM_VCPU_FINALIZE = iow(0xc2, 4), Arg::In("i32"), [Vcpu: ARM64], "4.119", "KVM_CAP_ARM_SVE";
    /// Allow or deny performance events the guest may count.
    KVM_SET_PMU_EVENT_FILTER = iow(0xb2, size_of::<KvmPmuEventFilter>()), Arg::InList("kvm_pmu_event_filter", "u64"), [Vm: X86], "4.120", "KVM_CAP_PMU_EVENT_FILTER";
    /// Return a secure guest to normal mode, on reset.
    KVM_PPC_SVM_OFF = io(0xb3), Arg::None, [Vm: PPC], "4.121", "basic";
    /// Do an architected normal CPU reset.
    KVM_S390_NORMAL_RESET = io(0xc3), Arg::None, [Vcpu: S390], "4.122", "KVM_CAP_S390_VCPU_RESETS";
    /// Do an architected initial CPU reset.
    KVM_S390_INITIAL_RESET = io(0x97), Arg::None, [Vcpu: S390], "4.123", "basic";
    /// Do an architected clear CPU reset.
    KVM_S390_CLEAR_RESET = io(0xc4), Arg::None, [Vcpu: S390], "4.124", "KVM_CAP_S390_VCPU_RESETS";
    /// Multiplexed protected-VM commands to the Ultravisor.
    KVM_S390_PV_COMMAND = iowr(0xc5, 32), Arg::InOut("kvm_pv_cmd"), [Vm: S390], "4.125", "KVM_CAP_S390_PROTECTED";
    /// Set a VM-wide Xen attribute such as shared info.
    KVM_XEN_HVM_SET_ATTR = iow(0xc9, size_of::<KvmXenHvmAttr>()), Arg::In("kvm_xen_hvm_attr"), [Vm: X86], "4.126", "KVM_CAP_XEN_HVM";
    /// Read a VM-wide Xen attribute.
    KVM_XEN_HVM_GET_ATTR = iowr(0xc8, size_of::<KvmXenHvmAttr>()), Arg::InOut("kvm_xen_hvm_attr"), [Vm: X86], "4.127", "KVM_CAP_XEN_HVM";
    /// Set a per-vcpu Xen attribute such as runstate area.
    KVM_XEN_VCPU_SET_ATTR = iow(0xcb, size_of::<KvmXenVcpuAttr>()), Arg::In("kvm_xen_vcpu_attr"), [Vcpu: X86], "4.128", "KVM_CAP_XEN_HVM";
    /// Read a per-vcpu Xen attribute.
    KVM_XEN_VCPU_GET_ATTR = iowr(0xca, size_of::<KvmXenVcpuAttr>()), Arg::InOut("kvm_xen_vcpu_attr"), [Vcpu: X86], "4.129", "KVM_CAP_XEN_HVM";
    /// Bulk-copy memory tags to or from guest memory.
    KVM_ARM_MTE_COPY_TAGS = ior(0xb4, 48), Arg::In("kvm_arm_copy_mte_tags"), [Vm: ARM64], "4.130", "KVM_CAP_ARM_MTE";
    /// Read special registers including PAE page-directory pointers.
    KVM_GET_SREGS2 = ior(0xcc, size_of::<KvmSregs2>()), Arg::Out("kvm_sregs2"), [Vcpu: X86], "4.131", "KVM_CAP_SREGS2";
    /// Load special registers including PAE page-directory pointers.
    KVM_SET_SREGS2 = iow(0xcd, size_of::<KvmSregs2>()), Arg::In("kvm_sregs2"), [Vcpu: X86], "4.132", "KVM_CAP_SREGS2";
    /// Get a self-describing binary statistics file.
    KVM_GET_STATS_FD = io(0xce), Arg::None, [Vm: ALL, Vcpu: ALL], "4.133", "KVM_CAP_BINARY_STATS_FD";
    /// Save extended FPU state of any size, including AMX.
    KVM_GET_XSAVE2 = ior(0xcf, size_of::<KvmXsave>()), Arg::Out("kvm_xsave"), [Vcpu: X86], "4.134", "KVM_CAP_XSAVE2";
    /// Deliver a Xen event-channel interrupt to a vcpu.
    KVM_XEN_HVM_EVTCHN_SEND = iow(0xd0, size_of::<KvmIrqRoutingXenEvtchn>()), Arg::In("kvm_irq_routing_xen_evtchn"), [Vm: X86], "4.135", "KVM_CAP_XEN_HVM";
    /// Protected-VM per-cpu command, currently encrypted dump only.
    KVM_S390_PV_CPU_COMMAND = iowr(0xd0, 32), Arg::InOut("kvm_pv_cmd"), [Vcpu: S390], "4.136", "KVM_CAP_S390_PROTECTED_DUMP";
    /// Enable or disable firmware interrupt delivery for passthrough PCI.
    KVM_S390_ZPCI_OP = iow(0xd1, 72), Arg::In("kvm_s390_zpci_op"), [Vm: S390], "4.137", "KVM_CAP_S390_ZPCI_OP";
    /// Shift both guest timer counters VM-wide.
    KVM_ARM_SET_COUNTER_OFFSET = iow(0xb5, 16), Arg::In("kvm_arm_counter_offset"), [Vm: ARM64], "4.138", "KVM_CAP_COUNTER_OFFSET";
    /// Tell which ID-register bits userspace may change.
    KVM_ARM_GET_REG_WRITABLE_MASKS = ior(0xb6, 64), Arg::InOut("reg_mask_range"), [Vm: ARM64], "4.139", "KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES";
    /// Manage a memory slot that may also bind a guest_memfd.
    KVM_SET_USER_MEMORY_REGION2 = iow(0x49, size_of::<KvmUserspaceMemoryRegion2>()), Arg::In("kvm_userspace_memory_region2"), [Vm: ALL], "4.140", "KVM_CAP_USER_MEMORY2";
    /// Mark guest ranges private or shared.
    KVM_SET_MEMORY_ATTRIBUTES = iow(0xd2, size_of::<KvmMemoryAttributes>()), Arg::In("kvm_memory_attributes"), [Vm: X86], "4.141", "KVM_CAP_MEMORY_ATTRIBUTES";
    /// Create guest-only backing memory as a file descriptor.
    KVM_CREATE_GUEST_MEMFD = iowr(0xd4, size_of::<KvmCreateGuestMemfd>()), Arg::In("kvm_create_guest_memfd"), [Vm: X86|ARM64], "4.142", "KVM_CAP_GUEST_MEMFD";
    /// Populate second-stage mappings before the guest touches them.
    KVM_PRE_FAULT_MEMORY = iowr(0xd5, size_of::<KvmPreFaultMemory>()), Arg::InOut("kvm_pre_fault_memory"), [Vcpu: X86|S390], "4.143", "KVM_CAP_PRE_FAULT_MEMORY";
    /// Get, set or reference-reset one page's storage key.
    KVM_S390_KEYOP = iowr(0x53, 16), Arg::InOut("kvm_s390_keyop"), [Vm: S390], "4.144", "KVM_CAP_S390_KEYOP";
    /// Report older POWER processor modes usable by nested guests.
    KVM_PPC_GET_COMPAT_CAPS = io(0xe4), Arg::InOut("kvm_ppc_compat_caps"), [Vm: PPC], "4.145", "KVM_CAP_PPC_COMPAT_CAPS";
    /// Recycle harvested dirty-ring entries and re-protect their pages.
    KVM_RESET_DIRTY_RINGS = io(0xc7), Arg::None, [Vm: X86|ARM64|RISCV|LOONGARCH], "7.36", "KVM_CAP_DIRTY_LOG_RING / KVM_CAP_DIRTY_LOG_RING_ACQ_REL";
    /// Historic process-wide enable; number reserved, handler gone.
    KVM_S390_ENABLE_SIE = io(0x06), Arg::None, [System: S390], "", "none";
    /// Cap memory used for shadow page tables.
    KVM_SET_NR_MMU_PAGES = io(0x44), Arg::Value, [Vm: X86], "", "KVM_CAP_MMU_SHADOW_CACHE_CONTROL";
    /// Deprecated shadow-page limit query; handler removed.
    KVM_GET_NR_MMU_PAGES = io(0x45), Arg::None, [Vm: X86], "", "KVM_CAP_MMU_SHADOW_CACHE_CONTROL";
    /// Obsolete 8254 timer creation without flags.
    KVM_CREATE_PIT = io(0x64), Arg::None, [Vm: X86], "", "KVM_CAP_PIT";
    /// Obsolete 8254 timer state save.
    KVM_GET_PIT = iowr(0x65, size_of::<KvmPitState>()), Arg::Out("kvm_pit_state"), [Vm: X86], "", "KVM_CAP_PIT";
    /// Obsolete 8254 timer state restore.
    KVM_SET_PIT = ior(0x66, size_of::<KvmPitState>()), Arg::In("kvm_pit_state"), [Vm: X86], "", "KVM_CAP_PIT";
    /// Set a line level and learn whether it was delivered.
    KVM_IRQ_LINE_STATUS = iowr(0x67, size_of::<KvmIrqLevel>()), Arg::InOut("kvm_irq_level"), [Vm: X86|ARM64|PPC|RISCV|LOONGARCH], "", "KVM_CAP_IRQ_INJECT_STATUS";
    /// Obsolete real-mode area allocation; handler removed.
    KVM_ALLOCATE_RMA = ior(0xa9, 8), Arg::Out("kvm_allocate_rma"), [Vm: PPC], "", "KVM_CAP_PPC_RMA";
    /// Install CPUID answers with subleaf indices; defines vcpu model.
    KVM_SET_CPUID2 = iow(0x90, size_of::<KvmCpuid2>()), Arg::InList("kvm_cpuid2", "kvm_cpuid_entry2"), [Vcpu: X86], "", "KVM_CAP_EXT_CPUID";
    /// Read back the CPUID table now in force.
    KVM_GET_CPUID2 = iowr(0x91, size_of::<KvmCpuid2>()), Arg::InOutList("kvm_cpuid2", "kvm_cpuid_entry2"), [Vcpu: X86], "", "KVM_CAP_EXT_CPUID";
    /// Exit when a 32-bit guest touches the task-priority register.
    KVM_TPR_ACCESS_REPORTING = iowr(0x92, size_of::<KvmTprAccessCtl>()), Arg::InOut("kvm_tpr_access_ctl"), [Vcpu: X86], "", "KVM_CAP_VAPIC";
    /// Share a guest word caching task priority for patched guests.
    KVM_SET_VAPIC_ADDR = iow(0x93, size_of::<KvmVapicAddr>()), Arg::In("kvm_vapic_addr"), [Vcpu: X86], "", "KVM_CAP_VAPIC";
    /// Write vcpu register status to an architected save area.
    KVM_S390_STORE_STATUS = iow(0x95, 8), Arg::Value, [Vcpu: S390], "", "none";
    /// Set the boot program status word.
    KVM_S390_SET_INITIAL_PSW = iow(0x96, 16), Arg::In("kvm_s390_psw"), [Vcpu: S390], "", "none";
}
