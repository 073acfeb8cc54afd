//! Capability rows, by number. Each row also becomes the constant of its name.

use super::{CapRow, Kind};
use crate::arch::Archs;

macro_rules! capabilities {
    ($($(#[doc = $purpose:literal])* $name:ident = $number:literal, $($arch:ident)|+, $kind:ident;)*) => {
        $($(#[doc = $purpose])* pub const $name: u32 = $number;)*

        /// Every capability of the API.
        pub const CAPABILITIES: &[CapRow] = &[$(CapRow {
            name: stringify!($name),
            number: $name,
            archs: Archs::empty()$(.union(Archs::$arch))+,
            kind: Kind::$kind,
            purpose: concat!($($purpose),*).trim_ascii(),
        }),*];
    };
}

capabilities! {
    /// In-kernel interrupt controller can be created.
    KVM_CAP_IRQCHIP = 0, X86|ARM64|RISCV|LOONGARCH, Query;
    /// Guest HLT supported; vcpu idles in the kernel.
    KVM_CAP_HLT = 1, X86, Query;
    /// Shadow page table memory limit can be tuned.
    KVM_CAP_MMU_SHADOW_CACHE_CONTROL = 2, X86, Query;
    /// Guest memory slots come from userspace mappings.
    KVM_CAP_USER_MEMORY = 3, ALL, Query;
    /// Three-page Intel real-mode area can be positioned.
    KVM_CAP_SET_TSS_ADDR = 4, X86, Query;
    /// Task-priority access reporting and shared virtual APIC word.
    KVM_CAP_VAPIC = 6, X86, Query;
    /// Indexed CPUID tables and supported-CPUID query exist.
    KVM_CAP_EXT_CPUID = 7, X86, Query;
    /// Paravirtual kvmclock is available to guests.
    KVM_CAP_CLOCKSOURCE = 8, X86, Query;
    /// Recommended number of vcpus, capped by online host CPUs.
    KVM_CAP_NR_VCPUS = 9, ALL, Query;
    /// How many guest memory slots userspace may use.
    KVM_CAP_NR_MEMSLOTS = 10, ALL, Query;
    /// In-kernel 8254 timer can be created.
    KVM_CAP_PIT = 11, X86, Query;
    /// Guests may skip legacy port-I/O delay loops.
    KVM_CAP_NOP_IO_DELAY = 12, X86, Query;
    /// Obsolete paravirtual MMU; always answers zero.
    KVM_CAP_PV_MMU = 13, X86, Query;
    /// Vcpu run-state can be read and written.
    KVM_CAP_MP_STATE = 14, X86|ARM64|S390|RISCV|LOONGARCH, Query;
    /// Write-batching ring exists; value gives its mmap page offset.
    KVM_CAP_COALESCED_MMIO = 15, X86|ARM64|PPC|RISCV|LOONGARCH|MIPS, Query;
    /// Changes to host mappings propagate into the guest.
    KVM_CAP_SYNC_MMU = 16, ALL, Query;
    /// Obsolete legacy device-assignment IOMMU support; never reported.
    KVM_CAP_IOMMU = 18, X86, Query;
    /// Deleting a memory slot is safe.
    KVM_CAP_DESTROY_MEMORY_REGION_WORKS = 21, ALL, Query;
    /// Userspace may queue a non-maskable interrupt.
    KVM_CAP_USER_NMI = 22, X86, Query;
    /// Host debugger control of a vcpu is available.
    KVM_CAP_SET_GUEST_DEBUG = 23, X86|ARM64|S390|PPC|RISCV|LOONGARCH, Query;
    /// 8254 lost-tick replay can be toggled.
    KVM_CAP_REINJECT_CONTROL = 24, X86, Query;
    /// Interrupt routing table can be set; value is its size.
    KVM_CAP_IRQ_ROUTING = 25, X86|ARM64|S390|PPC|RISCV|LOONGARCH, Query;
    /// Line-set ioctl reports whether the interrupt was taken.
    KVM_CAP_IRQ_INJECT_STATUS = 26, X86, Query;
    /// Obsolete legacy device-assignment interrupt call; never reported.
    KVM_CAP_ASSIGN_DEV_IRQ = 29, X86, Query;
    /// Adjacent or replaced memory slots behave correctly.
    KVM_CAP_JOIN_MEMORY_REGIONS_WORKS = 30, ALL, Query;
    /// Machine-check emulation; value is the bank count.
    KVM_CAP_MCE = 31, X86, Query;
    /// Eventfds can trigger guest interrupts.
    KVM_CAP_IRQFD = 32, X86|ARM64|S390|PPC|RISCV|LOONGARCH, Query;
    /// 8254 timer creation takes flags.
    KVM_CAP_PIT2 = 33, X86, Query;
    /// Bootstrap vcpu can be chosen.
    KVM_CAP_SET_BOOT_CPU_ID = 34, X86, Query;
    /// 8254 state ioctls carry flags.
    KVM_CAP_PIT_STATE2 = 35, X86, Query;
    /// Guest writes can signal eventfds instead of exiting.
    KVM_CAP_IOEVENTFD = 36, ALL, Query;
    /// Intel identity-map page can be positioned.
    KVM_CAP_SET_IDENTITY_MAP_ADDR = 37, X86, Query;
    /// Xen HVM guest features; value is a flag set.
    KVM_CAP_XEN_HVM = 38, X86, Query;
    /// kvmclock can be read and set; value lists flags.
    KVM_CAP_ADJUST_CLOCK = 39, X86, Query;
    /// Internal-error exits carry diagnostic words.
    KVM_CAP_INTERNAL_ERROR_DATA = 40, ALL, Query;
    /// Pending-event state can be saved and restored.
    KVM_CAP_VCPU_EVENTS = 41, X86|ARM64, Query;
    /// Program status word is visible in the run page.
    KVM_CAP_S390_PSW = 42, S390, Query;
    /// Segment and SLB state included in special registers.
    KVM_CAP_PPC_SEGSTATE = 43, PPC, Query;
    /// Basic Hyper-V enlightenments supported.
    KVM_CAP_HYPERV = 44, X86, Query;
    /// Hyper-V virtual APIC assist and MSR access supported.
    KVM_CAP_HYPERV_VAPIC = 45, X86, Query;
    /// Hyper-V long-spin-wait notification supported.
    KVM_CAP_HYPERV_SPIN = 46, X86, Query;
    /// Historic: assigned devices may use nonzero PCI segment.
    KVM_CAP_PCI_SEGMENT = 47, X86, Query;
    /// Gekko paired-single floating point emulated.
    KVM_CAP_PPC_PAIRED_SINGLES = 48, PPC, Query;
    /// Interrupt-shadow field in vcpu events; documented, no longer reported.
    KVM_CAP_INTR_SHADOW = 49, X86, Query;
    /// Debug registers can be saved and restored.
    KVM_CAP_DEBUGREGS = 50, X86, Query;
    /// Single-step survives flag-changing instructions.
    KVM_CAP_X86_ROBUST_SINGLESTEP = 51, X86, Query;
    /// Forward Mac-on-Linux OSI hypercalls to userspace.
    KVM_CAP_PPC_OSI = 52, PPC, EnableVcpu;
    /// Queued external interrupt can be withdrawn.
    KVM_CAP_PPC_UNSET_IRQ = 53, PPC, Query;
    /// Capabilities can be switched on per vcpu.
    KVM_CAP_ENABLE_CAP = 54, X86|S390|PPC|LOONGARCH|MIPS, Query;
    /// Extended FPU state can be saved and restored.
    KVM_CAP_XSAVE = 55, X86, Query;
    /// Extended control registers can be saved and restored.
    KVM_CAP_XCRS = 56, X86, Query;
    /// Paravirtual hypercall instructions can be fetched.
    KVM_CAP_PPC_GET_PVINFO = 57, PPC, Query;
    /// Level-triggered external interrupt injection works.
    KVM_CAP_PPC_IRQ_LEVEL = 58, PPC, Query;
    /// Asynchronous page faults offered to guests.
    KVM_CAP_ASYNC_PF = 59, X86|S390, Query;
    /// Hardware TSC scaling: guest frequency can be set.
    KVM_CAP_TSC_CONTROL = 60, X86, Query;
    /// Guest TSC frequency can be read.
    KVM_CAP_GET_TSC_KHZ = 61, X86, Query;
    /// BookE special-register layout is filled in.
    KVM_CAP_PPC_BOOKE_SREGS = 62, PPC, Query;
    /// In-kernel 32-bit PAPR IOMMU tables available.
    KVM_CAP_SPAPR_TCE = 63, PPC, Query;
    /// Query or set vcpus per virtual core.
    KVM_CAP_PPC_SMT = 64, PPC, EnableVm;
    /// Obsolete contiguous real-mode area; never reported now.
    KVM_CAP_PPC_RMA = 65, PPC, Query;
    /// Hard limit on vcpus in one VM.
    KVM_CAP_MAX_VCPUS = 66, ALL, Query;
    /// Interrupt-vector offset register can be set by userspace.
    KVM_CAP_PPC_HIOR = 67, PPC, Query;
    /// Run guest under PAPR, with hypercall interception.
    KVM_CAP_PPC_PAPR = 68, PPC, EnableVcpu;
    /// Share the BookE TLB array with userspace.
    KVM_CAP_SW_TLB = 69, PPC, EnableVcpu;
    /// Single-register get and set by id.
    KVM_CAP_ONE_REG = 70, ALL, Query;
    /// Guest memory may sit anywhere in user address space.
    KVM_CAP_S390_GMAP = 71, S390, Query;
    /// In-kernel APIC emulates TSC-deadline mode.
    KVM_CAP_TSC_DEADLINE_TIMER = 72, X86, Query;
    /// Userspace may fully control vcpu address spaces.
    KVM_CAP_S390_UCONTROL = 73, S390, Query;
    /// Register sets mirrored through the shared run page.
    KVM_CAP_SYNC_REGS = 74, X86|S390, Query;
    /// Obsolete legacy-assignment PCI 2.3 INTx masking; never reported.
    KVM_CAP_PCI_2_3 = 75, X86, Query;
    /// Host-paused flag can be set in kvmclock.
    KVM_CAP_KVMCLOCK_CTRL = 76, X86, Query;
    /// Message-signalled interrupts can be injected directly.
    KVM_CAP_SIGNAL_MSI = 77, X86|ARM64|PPC|RISCV|LOONGARCH, Query;
    /// Server-class MMU page-size table can be fetched.
    KVM_CAP_PPC_GET_SMMU_INFO = 78, PPC, Query;
    /// Guest memory supports copy-on-write and read-only dirty tracking.
    KVM_CAP_S390_COW = 79, S390, Query;
    /// Hashed page table size chosen by userspace.
    KVM_CAP_PPC_ALLOC_HTAB = 80, PPC, Query;
    /// Memory slots may be read-only for the guest.
    KVM_CAP_READONLY_MEM = 81, X86|ARM64|RISCV|LOONGARCH|MIPS, Query;
    /// Level-triggered irqfd with end-of-interrupt notification.
    KVM_CAP_IRQFD_RESAMPLE = 82, X86|ARM64|S390|PPC, Query;
    /// Emulate BookE watchdog, exiting on final expiry.
    KVM_CAP_PPC_BOOKE_WATCHDOG = 83, PPC, EnableVcpu;
    /// Hashed page table can be streamed via fd.
    KVM_CAP_PPC_HTAB_FD = 84, PPC, Query;
    /// Channel-I/O instructions split between kernel and userspace.
    KVM_CAP_S390_CSS_SUPPORT = 85, S390, EnableVcpu;
    /// External-proxy interrupt acknowledge goes through userspace.
    KVM_CAP_PPC_EPR = 86, PPC, EnableVcpu;
    /// Legacy PSCI 0.1 power control emulated.
    KVM_CAP_ARM_PSCI = 87, ARM64, Query;
    /// Deprecated GICv2 address-setting ioctl present.
    KVM_CAP_ARM_SET_DEVICE_ADDR = 88, ARM64, Query;
    /// Generic in-kernel device creation and attributes.
    KVM_CAP_DEVICE_CTRL = 89, ALL, Query;
    /// Attach a vcpu to an in-kernel MPIC.
    KVM_CAP_IRQ_MPIC = 90, PPC, EnableVcpu;
    /// Selected RTAS services can run in-kernel.
    KVM_CAP_PPC_RTAS = 91, PPC, Query;
    /// Attach a vcpu to an in-kernel XICS.
    KVM_CAP_IRQ_XICS = 92, PPC, EnableVcpu;
    /// Vcpus can start in 32-bit mode.
    KVM_CAP_ARM_EL1_32BIT = 93, ARM64, Query;
    /// Multi-entry IOMMU hypercalls handled in-kernel.
    KVM_CAP_SPAPR_MULTITCE = 94, PPC, Query;
    /// Software-emulated CPUID bits can be listed.
    KVM_CAP_EXT_EMUL_CPUID = 95, X86, Query;
    /// Hyper-V reference counter and TSC page supported.
    KVM_CAP_HYPERV_TIME = 96, X86, Query;
    /// Line level one always means asserted.
    KVM_CAP_IOAPIC_POLARITY_IGNORED = 97, X86, Query;
    /// Capabilities can be switched on VM-wide.
    KVM_CAP_ENABLE_CAP_VM = 98, ALL, Query;
    /// Enable the dummy irqchip used for adapter routing.
    KVM_CAP_S390_IRQCHIP = 99, S390, EnableVm;
    /// Zero-length MMIO ioeventfd accepted on x86.
    KVM_CAP_IOEVENTFD_NO_LENGTH = 100, X86, Query;
    /// VM fd accepts device-attribute ioctls.
    KVM_CAP_VM_ATTRIBUTES = 101, S390, Query;
    /// PSCI 0.2 or later power control emulated.
    KVM_CAP_ARM_PSCI_0_2 = 102, ARM64, Query;
    /// Hypercall instruction safe across guest endianness.
    KVM_CAP_PPC_FIXUP_HCALL = 103, PPC, Query;
    /// Toggle in-kernel handling of individual PAPR hypercalls.
    KVM_CAP_PPC_ENABLE_HCALL = 104, PPC, EnableVm;
    /// Capability query also works on a VM fd.
    KVM_CAP_CHECK_EXTENSION_VM = 105, ALL, Query;
    /// Most SIGP orders handled in userspace.
    KVM_CAP_S390_USER_SIGP = 106, S390, EnableVm;
    /// Vector registers exposed and synchronised.
    KVM_CAP_S390_VECTOR_REGISTERS = 107, S390, EnableVm;
    /// Guest memory access ioctl; value is maximum length.
    KVM_CAP_S390_MEM_OP = 108, S390, Query;
    /// Let userspace extend store-system-information results.
    KVM_CAP_S390_USER_STSI = 109, S390, EnableVm;
    /// Storage keys can be bulk read and written.
    KVM_CAP_S390_SKEYS = 110, S390, Query;
    /// Let the guest use the host floating-point unit.
    KVM_CAP_MIPS_FPU = 111, MIPS, EnableVcpu;
    /// Let the guest use MIPS SIMD.
    KVM_CAP_MIPS_MSA = 112, MIPS, EnableVcpu;
    /// Per-cpu interrupt injection with full payload.
    KVM_CAP_S390_INJECT_IRQ = 113, S390, Query;
    /// Pending per-cpu interrupts can be dumped and reloaded.
    KVM_CAP_S390_IRQ_STATE = 114, S390, Query;
    /// Random-number hypercall backed by hardware.
    KVM_CAP_PPC_HWRNG = 115, PPC, Query;
    /// Older way to switch off behaviour quirks.
    KVM_CAP_DISABLE_QUIRKS = 116, X86, EnableVm;
    /// System-management mode emulated.
    KVM_CAP_X86_SMM = 117, X86, Query;
    /// Number of separate guest memory maps, for SMM.
    KVM_CAP_MULTI_ADDRESS_SPACE = 118, X86, Query;
    /// How many hardware breakpoints debuggers may use.
    KVM_CAP_GUEST_DEBUG_HW_BPS = 119, ARM64, Query;
    /// How many hardware watchpoints debuggers may use.
    KVM_CAP_GUEST_DEBUG_HW_WPS = 120, ARM64, Query;
    /// Local APICs in-kernel; PIC, IOAPIC and PIT in userspace.
    KVM_CAP_SPLIT_IRQCHIP = 121, X86, EnableVm;
    /// Zero-length ioeventfd accepted on every architecture.
    KVM_CAP_IOEVENTFD_ANY_LENGTH = 122, ALL, Query;
    /// Turn on Hyper-V synthetic interrupt controller.
    KVM_CAP_HYPERV_SYNIC = 123, X86, EnableVcpu;
    /// Allow runtime instrumentation in the guest.
    KVM_CAP_S390_RI = 124, S390, EnableVm;
    /// 64-bit PAPR IOMMU windows available.
    KVM_CAP_SPAPR_TCE_64 = 125, PPC, Query;
    /// Performance monitor v3 can be emulated.
    KVM_CAP_ARM_PMU_V3 = 126, ARM64, Query;
    /// Vcpu fd accepts device-attribute ioctls.
    KVM_CAP_VCPU_ATTRIBUTES = 127, X86|ARM64|LOONGARCH, Query;
    /// Largest vcpu id; x86 may lower it per VM.
    KVM_CAP_MAX_VCPU_ID = 128, X86|ARM64|S390|PPC|LOONGARCH|MIPS, EnableVm;
    /// Select 32-bit APIC ids and EOI-broadcast behaviour.
    KVM_CAP_X2APIC_API = 129, X86, EnableVm;
    /// Forward the all-zero opcode to userspace.
    KVM_CAP_S390_USER_INSTR0 = 130, S390, EnableVm;
    /// MSI injection must carry a device id.
    KVM_CAP_MSI_DEVID = 131, ARM64, Query;
    /// Transactional memory available to guests.
    KVM_CAP_PPC_HTM = 132, PPC, Query;
    /// Hashed page table can be resized at run time.
    KVM_CAP_SPAPR_RESIZE_HPT = 133, PPC, Query;
    /// Guests may use radix page tables.
    KVM_CAP_PPC_MMU_RADIX = 134, PPC, Query;
    /// Guests may use POWER9 hashed page tables.
    KVM_CAP_PPC_MMU_HASH_V3 = 135, PPC, Query;
    /// Run-page flag forces an instant return.
    KVM_CAP_IMMEDIATE_EXIT = 136, ALL, Query;
    /// Hardware-assisted MIPS virtualization in use or available.
    KVM_CAP_MIPS_VZ = 137, MIPS, Query;
    /// Trap-and-emulate MIPS mode; removed, never reported.
    KVM_CAP_MIPS_TE = 138, MIPS, Query;
    /// Guest register and address width supported.
    KVM_CAP_MIPS_64BIT = 139, MIPS, Query;
    /// Allow guarded storage in the guest.
    KVM_CAP_S390_GS = 140, S390, EnableVm;
    /// Allow adapter-interruption suppression.
    KVM_CAP_S390_AIS = 141, S390, EnableVm;
    /// IOMMU tables can be tied to VFIO groups.
    KVM_CAP_SPAPR_TCE_VFIO = 142, PPC, Query;
    /// Let HLT, MWAIT, PAUSE, C-state or APERF/MPERF run unintercepted.
    KVM_CAP_X86_DISABLE_EXITS = 143, X86, EnableVm;
    /// Timer and PMU lines reported when GIC is userspace.
    KVM_CAP_ARM_USER_IRQ = 144, ARM64, Query;
    /// Collaborative-memory state can be migrated.
    KVM_CAP_S390_CMMA_MIGRATION = 145, S390, Query;
    /// Machine checks exit to userspace for guest-registered handlers.
    KVM_CAP_PPC_FWNMI = 146, PPC, EnableVcpu;
    /// Bitmap of selectable virtual SMT modes.
    KVM_CAP_PPC_SMT_POSSIBLE = 147, PPC, Query;
    /// Hyper-V synthetic interrupts without clearing guest pages.
    KVM_CAP_HYPERV_SYNIC2 = 148, X86, EnableVcpu;
    /// Userspace may load the Hyper-V processor index.
    KVM_CAP_HYPERV_VP_INDEX = 149, X86, Query;
    /// Adapter-suppression modes can be migrated.
    KVM_CAP_S390_AIS_MIGRATION = 150, S390, Query;
    /// CPU speculation characteristics can be queried.
    KVM_CAP_PPC_GET_CPU_CHAR = 151, PPC, Query;
    /// Branch-prediction blocking is handled across reset and migration.
    KVM_CAP_S390_BPB = 152, S390, Query;
    /// Feature MSRs readable on the system fd.
    KVM_CAP_GET_MSR_FEATURES = 153, X86, Query;
    /// Hyper-V signal-event calls can hit an eventfd.
    KVM_CAP_HYPERV_EVENTFD = 154, X86, Query;
    /// Hyper-V paravirtual TLB flush calls supported.
    KVM_CAP_HYPERV_TLBFLUSH = 155, X86, Query;
    /// Allow one-megabyte huge-page guest backing.
    KVM_CAP_S390_HPAGE_1M = 156, S390, EnableVm;
    /// Nested state migration; value is maximum size.
    KVM_CAP_NESTED_STATE = 157, X86, Query;
    /// SError injection may carry a syndrome.
    KVM_CAP_ARM_INJECT_SERROR_ESR = 158, ARM64, Query;
    /// Choose whether guest may read MSR_PLATFORM_INFO.
    KVM_CAP_MSR_PLATFORM_INFO = 159, X86, EnableVm;
    /// Let the guest run its own HV guests.
    KVM_CAP_PPC_NESTED_HV = 160, PPC, EnableVm;
    /// Hyper-V paravirtual IPI calls supported.
    KVM_CAP_HYPERV_SEND_IPI = 161, X86, Query;
    /// Port writes can be batched like MMIO.
    KVM_CAP_COALESCED_PIO = 162, X86|ARM64|PPC|RISCV|LOONGARCH|MIPS, Query;
    /// Use the Hyper-V enlightened VMCS when nesting.
    KVM_CAP_HYPERV_ENLIGHTENED_VMCS = 163, X86, EnableVcpu;
    /// Expose pending-exception payloads such as fault address.
    KVM_CAP_EXCEPTION_PAYLOAD = 164, X86, EnableVm;
    /// Maximum guest physical address width selectable.
    KVM_CAP_ARM_VM_IPA_SIZE = 165, ARM64, Query;
    /// Obsolete buggy predecessor of manual dirty protection.
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT = 166, X86|ARM64|MIPS, Query;
    /// Hyper-V CPUID leaves queryable per vcpu.
    KVM_CAP_HYPERV_CPUID = 167, X86, Query;
    /// Decouple reading the dirty bitmap from re-protection.
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 168, X86|ARM64|RISCV|LOONGARCH|MIPS, EnableVm;
    /// Attach a vcpu to an in-kernel XIVE.
    KVM_CAP_PPC_IRQ_XIVE = 169, PPC, EnableVcpu;
    /// Scalable vectors available to guests.
    KVM_CAP_ARM_SVE = 170, ARM64, Query;
    /// Address pointer authentication available to guests.
    KVM_CAP_ARM_PTRAUTH_ADDRESS = 171, ARM64, Query;
    /// Generic pointer authentication available to guests.
    KVM_CAP_ARM_PTRAUTH_GENERIC = 172, ARM64, Query;
    /// Guest performance events can be filtered.
    KVM_CAP_PMU_EVENT_FILTER = 173, X86, Query;
    /// Interrupt-line encoding reaches more than 256 vcpus.
    KVM_CAP_ARM_IRQ_LINE_LAYOUT_2 = 174, ARM64, Query;
    /// Let outer Hyper-V service nested TLB flushes.
    KVM_CAP_HYPERV_DIRECT_TLBFLUSH = 175, X86, EnableVcpu;
    /// Single-step debugging supported.
    KVM_CAP_PPC_GUEST_DEBUG_SSTEP = 176, PPC, Query;
    /// Exit to userspace on undecodable memory aborts.
    KVM_CAP_ARM_NISV_TO_USER = 177, ARM64, EnableVm;
    /// Userspace may inject an external data abort.
    KVM_CAP_ARM_INJECT_EXT_DABT = 178, ARM64, Query;
    /// Normal and clear CPU reset ioctls exist.
    KVM_CAP_S390_VCPU_RESETS = 179, S390, Query;
    /// Ultravisor-protected VMs can be started.
    KVM_CAP_S390_PROTECTED = 180, S390, Query;
    /// Permit guest transition to ultravisor secure mode.
    KVM_CAP_PPC_SECURE_GUEST = 181, PPC, EnableVm;
    /// Per-VM ceiling for host polling on guest halt.
    KVM_CAP_HALT_POLL = 182, ALL, EnableVm;
    /// Async page-ready events delivered by interrupt.
    KVM_CAP_ASYNC_PF_INT = 183, X86, Query;
    /// Fail-entry exits record the host CPU number.
    KVM_CAP_LAST_CPU = 184, X86, Query;
    /// Guest physical width may be below the host's.
    KVM_CAP_SMALLER_MAXPHYADDR = 185, X86, Query;
    /// Control-program identification via DIAGNOSE 318 kept.
    KVM_CAP_S390_DIAG318 = 186, S390, Query;
    /// Steal-time accounting available to guests.
    KVM_CAP_STEAL_TIME = 187, X86|ARM64|LOONGARCH, Query;
    /// Send faulting or filtered MSR accesses to userspace.
    KVM_CAP_X86_USER_SPACE_MSR = 188, X86, EnableVm;
    /// MSR access bitmaps can be installed.
    KVM_CAP_X86_MSR_FILTER = 189, X86, Query;
    /// Only CPUID-advertised KVM paravirtual features work.
    KVM_CAP_ENFORCE_PV_FEATURE_CPUID = 190, X86, EnableVcpu;
    /// Hyper-V CPUID leaves queryable on the system fd.
    KVM_CAP_SYS_HYPERV_CPUID = 191, X86, Query;
    /// Per-vcpu dirty rings, strong-ordering architectures only.
    KVM_CAP_DIRTY_LOG_RING = 192, X86, EnableVm;
    /// Exit when the guest takes a bus lock.
    KVM_CAP_X86_BUS_LOCK_EXIT = 193, X86, EnableVm;
    /// Give the guest a second data watchpoint register.
    KVM_CAP_PPC_DAWR1 = 194, PPC, EnableVm;
    /// Mask of supported debugger control flags.
    KVM_CAP_SET_GUEST_DEBUG2 = 195, X86|ARM64|S390, Query;
    /// Grant the VM privileged SGX enclave attributes.
    KVM_CAP_SGX_ATTRIBUTE = 196, X86, EnableVm;
    /// Mirror another VM's SEV encryption context.
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM = 197, X86, EnableVm;
    /// Guest can read host time through PTP hypercall.
    KVM_CAP_PTP_KVM = 198, ARM64, Query;
    /// Only CPUID-advertised Hyper-V features work.
    KVM_CAP_HYPERV_ENFORCE_CPUID = 199, X86, EnableVcpu;
    /// Extended special-register ioctls exist.
    KVM_CAP_SREGS2 = 200, X86, Query;
    /// Choose hypercalls that exit to userspace.
    KVM_CAP_EXIT_HYPERCALL = 201, X86, EnableVm;
    /// Range TLB-invalidate hypercall handled in-kernel.
    KVM_CAP_PPC_RPT_INVALIDATE = 202, PPC, Query;
    /// Binary statistics files available.
    KVM_CAP_BINARY_STATS_FD = 203, ALL, Query;
    /// Give userspace failed instruction bytes.
    KVM_CAP_EXIT_ON_EMULATION_FAILURE = 204, X86, EnableVm;
    /// Enable memory tagging for the guest.
    KVM_CAP_ARM_MTE = 205, ARM64, EnableVm;
    /// Take over another VM's SEV encryption context.
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM = 206, X86, EnableVm;
    /// Guest physical width; RISC-V may set it per VM.
    KVM_CAP_VM_GPA_BITS = 207, RISCV, EnableVm;
    /// Variable-size extended FPU state; value is its size.
    KVM_CAP_XSAVE2 = 208, X86, Query;
    /// System fd accepts device-attribute reads.
    KVM_CAP_SYS_ATTRIBUTES = 209, X86, Query;
    /// Faster relocated-interrupt mode supported.
    KVM_CAP_PPC_AIL_MODE_3 = 210, PPC, Query;
    /// Keyed, absolute and compare-exchange memory operations; flag set.
    KVM_CAP_S390_MEM_OP_EXTENSION = 211, S390, Query;
    /// Turn PMU virtualization off for the VM.
    KVM_CAP_PMU_CAPABILITY = 212, X86, EnableVm;
    /// Switch off chosen quirks; query lists them.
    KVM_CAP_DISABLE_QUIRKS2 = 213, X86, EnableVm;
    /// Default TSC frequency can be set VM-wide.
    KVM_CAP_VM_TSC_CONTROL = 214, X86, Query;
    /// System-event exits carry a data array.
    KVM_CAP_SYSTEM_EVENT_DATA = 215, ALL, Query;
    /// Pass guest system-suspend requests to userspace.
    KVM_CAP_ARM_SYSTEM_SUSPEND = 216, ARM64, EnableVm;
    /// Encrypted dumps of protected VMs supported.
    KVM_CAP_S390_PROTECTED_DUMP = 217, S390, Query;
    /// Pending triple fault visible in vcpu events.
    KVM_CAP_X86_TRIPLE_FAULT_EVENT = 218, X86, EnableVm;
    /// Exit when no event window opens for too long.
    KVM_CAP_X86_NOTIFY_VMEXIT = 219, X86, EnableVm;
    /// Opt a VM out of the NX-huge-page mitigation.
    KVM_CAP_VM_DISABLE_NX_HUGE_PAGES = 220, X86, EnableVm;
    /// Passthrough-PCI firmware interrupt control ioctl exists.
    KVM_CAP_S390_ZPCI_OP = 221, S390, Query;
    /// Provide CPU topology facility and change report.
    KVM_CAP_S390_CPU_TOPOLOGY = 222, S390, EnableVm;
    /// Per-vcpu dirty rings needing acquire/release accesses.
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL = 223, X86|ARM64|RISCV|LOONGARCH, EnableVm;
    /// Protected VMs can be torn down asynchronously.
    KVM_CAP_S390_PROTECTED_ASYNC_DISABLE = 224, S390, Query;
    /// Back dirty rings with a fallback bitmap.
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP = 225, ARM64, EnableVm;
    /// Performance filters may match masked unit fields.
    KVM_CAP_PMU_EVENT_MASKED_EVENTS = 226, X86, Query;
    /// VM-wide timer counter offset can be set.
    KVM_CAP_COUNTER_OFFSET = 227, ARM64, Query;
    /// Set chunk size for splitting huge pages early.
    KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE = 228, ARM64, EnableVm;
    /// Bitmap of valid huge-page split sizes.
    KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES = 229, ARM64, Query;
    /// Which register ranges report writable masks.
    KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES = 230, ARM64, Query;
    /// Extended memory-slot ioctl exists.
    KVM_CAP_USER_MEMORY2 = 231, ALL, Query;
    /// Failed runs describe the faulting guest range.
    KVM_CAP_MEMORY_FAULT_INFO = 232, X86, Query;
    /// Which per-range attributes can be set.
    KVM_CAP_MEMORY_ATTRIBUTES = 233, X86, Query;
    /// Guest-only memory files can be created.
    KVM_CAP_GUEST_MEMFD = 234, X86|ARM64, Query;
    /// Bitmap of VM types creatable.
    KVM_CAP_VM_TYPES = 235, X86, Query;
    /// Guest memory can be mapped ahead of time.
    KVM_CAP_PRE_FAULT_MEMORY = 236, X86|S390, Query;
    /// Set the APIC timer bus period.
    KVM_CAP_X86_APIC_BUS_CYCLES_NS = 237, X86, EnableVm;
    /// Run-page flag tells whether L2 was running.
    KVM_CAP_X86_GUEST_MODE = 238, X86, Query;
    /// Let userspace change CPU identity registers.
    KVM_CAP_ARM_WRITABLE_IMP_ID_REGS = 239, ARM64, EnableVm;
    /// Nested virtualization available to guests.
    KVM_CAP_ARM_EL2 = 240, ARM64, Query;
    /// Non-VHE nested virtualization available to guests.
    KVM_CAP_ARM_EL2_E2H0 = 241, ARM64, Query;
    /// Setting init-received state resets the vcpu.
    KVM_CAP_RISCV_MP_STATE_RESET = 242, RISCV, EnableVm;
    /// Device memory ranges may be mapped cacheable safely.
    KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED = 243, ARM64, Query;
    /// Which guest_memfd creation flags are valid.
    KVM_CAP_GUEST_MEMFD_FLAGS = 244, X86|ARM64, Query;
    /// Forward synchronous external aborts to userspace.
    KVM_CAP_ARM_SEA_TO_USER = 245, ARM64, EnableVm;
    /// Forward unhandled operation exceptions to userspace.
    KVM_CAP_S390_USER_OPEREXEC = 246, S390, EnableVm;
    /// Single storage-key operation ioctl exists.
    KVM_CAP_S390_KEYOP = 247, S390, Query;
    /// Nested guests may start in ESA mode.
    KVM_CAP_S390_VSIE_ESAMODE = 248, S390, EnableVm;
    /// Allow two-gigabyte huge-page guest backing.
    KVM_CAP_S390_HPAGE_2G = 249, S390, EnableVm;
    /// Processor compatibility modes can be queried.
    KVM_CAP_PPC_COMPAT_CAPS = 250, PPC, Query;
    /// Stricter PMU setup rules can be requested.
    KVM_CAP_ARM_PMU_V3_STRICT = 251, ARM64, Query;
}
