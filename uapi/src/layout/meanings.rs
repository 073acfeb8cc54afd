//! What the numbers in the structures mean, which union member a field selects, which field counts the entries of a list,
//! and which structure an exit's payload is.
//!
//! The fields named here are checked by the compiler to exist.

use super::*;
use crate::device::KVM_CREATE_DEVICE_TEST;
use crate::x86::pv;

/// What a number stands for.
#[derive(Clone, Copy, Debug)]
pub enum Meaning {
    /// One of these.
    Values(&'static [(&'static str, u64)]),
    /// A sum of these.
    Flags(&'static [(&'static str, u64)]),
    /// A capability.
    Capability,
    /// A type of in-kernel device.
    DeviceType,
    /// A number that people read in decimal: a count, an index, a descriptor.
    Decimal,
}

/// A member of a union: in force if the selecting field has this value.
pub type Member = (u64, &'static Layout);

/// A union kept as an array of words.
#[derive(Debug)]
pub struct Union {
    pub owner: &'static str,
    pub field: &'static str,
    pub selector: &'static str,
    pub members: &'static [Member],
}

/// The meaning of a field, if it has one.
pub fn of(owner: &str, field: &str) -> Option<&'static Meaning> {
    FIELDS
        .iter()
        .find(|row| row.0 == owner && row.1.trim_end_matches('_') == field)
        .map(|row| &row.2)
}

/// The meaning of the number that an ioctl takes or, for lists of plain numbers, of its entries.
pub fn of_argument(ioctl: &str) -> Option<&'static Meaning> {
    VALUES.iter().find(|row| row.0 == ioctl).map(|row| &row.1)
}

/// The union that a field is.
pub fn union_of(owner: &str, field: &str) -> Option<&'static Union> {
    UNIONS.iter().find(|row| row.owner == owner && row.field == field)
}

const fn structure(kind: Kind) -> &'static Layout {
    match kind {
        Kind::Structure(layout) => layout,
        _ => panic!("not a structure"),
    }
}

macro_rules! names {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as u64)),*] };
}

macro_rules! fields {
    (@meaning values $($name:ident),*) => { Meaning::Values(names!($($name),*)) };
    (@meaning flags $($name:ident),*) => { Meaning::Flags(names!($($name),*)) };
    (@meaning decimal) => { Meaning::Decimal };
    (@meaning capability) => { Meaning::Capability };
    (@meaning device) => { Meaning::DeviceType };
    ($($owner:ident.$field:ident: $how:ident $($name:ident),*;)*) => {
        const FIELDS: &[(&str, &str, Meaning)] = &[$({
            const _: usize = std::mem::offset_of!($owner, $field);
            (stringify!($owner), stringify!($field), fields!(@meaning $how $($name),*))
        }),*];
    };
}

fields! {
    KvmUserspaceMemoryRegion.flags: flags KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY;
    KvmUserspaceMemoryRegion2.flags: flags KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_MEM_GUEST_MEMFD;
    KvmUserspaceMemoryRegion2.guest_memfd: decimal;
    KvmClearDirtyLog.num_pages: decimal;
    KvmMemoryAttributes.attributes: flags KVM_MEMORY_ATTRIBUTE_PRIVATE;
    KvmCreateGuestMemfd.flags: flags GUEST_MEMFD_FLAG_MMAP, GUEST_MEMFD_FLAG_INIT_SHARED;
    KvmIrqLevel.irq: decimal;
    KvmIrqRouting.nr: decimal;
    KvmIrqRoutingEntry.gsi: decimal;
    KvmIrqRoutingEntry.type_: values KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQ_ROUTING_S390_ADAPTER,
        KVM_IRQ_ROUTING_HV_SINT, KVM_IRQ_ROUTING_XEN_EVTCHN;
    KvmIrqRoutingIrqchip.irqchip: values KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC;
    KvmIrqRoutingIrqchip.pin: decimal;
    KvmMsi.flags: flags KVM_MSI_VALID_DEVID;
    KvmIrqfd.fd: decimal;
    KvmIrqfd.gsi: decimal;
    KvmIrqfd.flags: flags KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE;
    KvmIrqfd.resamplefd: decimal;
    KvmIoeventfd.flags: flags KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_DEASSIGN,
        KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY;
    KvmEnableCap.cap: capability;
    KvmMpState.mp_state: values KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_HALTED, KVM_MP_STATE_SIPI_RECEIVED, KVM_MP_STATE_STOPPED, KVM_MP_STATE_AP_RESET_HOLD;
    KvmInterrupt.irq: decimal;
    KvmRegList.n: decimal;
    KvmCreateDevice.type_: device;
    KvmCreateDevice.fd: decimal;
    KvmCreateDevice.flags: flags KVM_CREATE_DEVICE_TEST;
    KvmCpuid.nent: decimal;
    KvmCpuid2.nent: decimal;
    KvmCpuidEntry2.flags: flags KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_CPUID_FLAG_STATEFUL_FUNC,
        KVM_CPUID_FLAG_STATE_READ_NEXT;
    KvmMsrs.nmsrs: decimal;
    KvmMsrList.nmsrs: decimal;
    KvmMsrFilter.flags: flags KVM_MSR_FILTER_DEFAULT_DENY;
    KvmMsrFilterRange.flags: flags KVM_MSR_FILTER_READ, KVM_MSR_FILTER_WRITE;
    KvmMsrFilterRange.nmsrs: decimal;
    KvmGuestDebug.control: flags KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_SW_BP,
        KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_BLOCKIRQ;
    KvmPmuEventFilter.action: values KVM_PMU_EVENT_ALLOW, KVM_PMU_EVENT_DENY;
    KvmPmuEventFilter.nevents: decimal;
    KvmPmuEventFilter.flags: flags KVM_PMU_EVENT_FLAG_MASKED_EVENTS;
    KvmVcpuEvents.flags: flags KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SIPI_VECTOR,
        KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SMM, KVM_VCPUEVENT_VALID_PAYLOAD,
        KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    KvmVcpuEventsInterrupt.shadow: flags KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI;
    KvmIrqchip.chip_id: values KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC;
    KvmPitConfig.flags: flags KVM_PIT_SPEAKER_DUMMY;
    KvmPitState2.flags: flags KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    KvmClockData.clock: decimal;
    KvmClockData.flags: flags KVM_CLOCK_TSC_STABLE, KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC;
    KvmClockData.realtime: decimal;
    KvmNestedState.flags: flags KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_RUN_PENDING, KVM_STATE_NESTED_EVMCS,
        KVM_STATE_NESTED_MTF_PENDING, KVM_STATE_NESTED_GIF_SET;
    KvmNestedState.format: values KVM_STATE_NESTED_FORMAT_VMX, KVM_STATE_NESTED_FORMAT_SVM;
    KvmNestedState.size: decimal;
    KvmSregs2.flags: flags KVM_SREGS2_FLAGS_PDPTRS_VALID;
    KvmXenHvmConfig.flags: flags KVM_XEN_HVM_CONFIG_HYPERCALL_MSR, KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL,
        KVM_XEN_HVM_CONFIG_SHARED_INFO, KVM_XEN_HVM_CONFIG_RUNSTATE, KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL,
        KVM_XEN_HVM_CONFIG_EVTCHN_SEND, KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG,
        KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE, KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA;
    KvmXenHvmAttr.type_: values KVM_XEN_ATTR_TYPE_LONG_MODE, KVM_XEN_ATTR_TYPE_SHARED_INFO,
        KVM_XEN_ATTR_TYPE_UPCALL_VECTOR, KVM_XEN_ATTR_TYPE_EVTCHN, KVM_XEN_ATTR_TYPE_XEN_VERSION,
        KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG, KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA;
    KvmXenVcpuAttr.type_: values KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO,
        KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT,
        KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST,
        KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID, KVM_XEN_VCPU_ATTR_TYPE_TIMER, KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR,
        KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA;
    KvmHypervEventfd.flags: flags KVM_HYPERV_EVENTFD_DEASSIGN;
    RunIo.direction: values KVM_EXIT_IO_IN, KVM_EXIT_IO_OUT;
    RunIo.count: decimal;
    RunHypercall.nr: values KVM_HC_VAPIC_POLL_IRQ, KVM_HC_KICK_CPU, KVM_HC_CLOCK_PAIRING, KVM_HC_SEND_IPI,
        KVM_HC_SCHED_YIELD, KVM_HC_MAP_GPA_RANGE;
    RunEmulationFailure.suberror: values KVM_INTERNAL_ERROR_EMULATION;
    RunEmulationFailure.flags: flags KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    RunInternal.suberror: values KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
        KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON;
    RunSystemEvent.type_: values KVM_SYSTEM_EVENT_SHUTDOWN, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_CRASH,
        KVM_SYSTEM_EVENT_WAKEUP, KVM_SYSTEM_EVENT_SUSPEND, KVM_SYSTEM_EVENT_SEV_TERM, KVM_SYSTEM_EVENT_TDX_FATAL;
    RunMsr.reason: flags KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, KVM_MSR_EXIT_REASON_FILTER;
    RunNotify.flags: flags KVM_NOTIFY_CONTEXT_INVALID;
    RunMemoryFault.flags: flags KVM_MEMORY_EXIT_FLAG_PRIVATE;
    RunHyperv.type_: values KVM_EXIT_HYPERV_SYNIC, KVM_EXIT_HYPERV_HCALL, KVM_EXIT_HYPERV_SYNDBG;
    RunXen.type_: values KVM_EXIT_XEN_HCALL;
}

use pv::{
    KVM_HC_CLOCK_PAIRING, KVM_HC_KICK_CPU, KVM_HC_MAP_GPA_RANGE, KVM_HC_SCHED_YIELD, KVM_HC_SEND_IPI,
    KVM_HC_VAPIC_POLL_IRQ,
};

const VALUES: &[(&str, Meaning)] = &[
    ("KVM_CHECK_EXTENSION", Meaning::Capability),
    (
        "KVM_CREATE_VM",
        Meaning::Values(names!(
            KVM_X86_DEFAULT_VM,
            KVM_X86_SW_PROTECTED_VM,
            KVM_X86_SEV_VM,
            KVM_X86_SEV_ES_VM,
            KVM_X86_SNP_VM,
            KVM_X86_TDX_VM
        )),
    ),
    ("KVM_CREATE_VCPU", Meaning::Decimal),
    ("KVM_SET_BOOT_CPU_ID", Meaning::Decimal),
    ("KVM_SET_TSC_KHZ", Meaning::Decimal),
    ("KVM_SET_NR_MMU_PAGES", Meaning::Decimal),
];

macro_rules! unions {
    ($($owner:ident.$field:ident by $selector:ident { $($value:expr => $member:ident),* $(,)? })*) => {
        const UNIONS: &[Union] = &[$({
            const _: usize = std::mem::offset_of!($owner, $field) + std::mem::offset_of!($owner, $selector);
            Union {
                owner: stringify!($owner),
                field: stringify!($field),
                selector: stringify!($selector),
                members: &[$(($value as u64, structure(<$member as Described>::KIND))),*],
            }
        }),*];
    };
}

unions! {
    KvmIrqRoutingEntry.u by type_ {
        KVM_IRQ_ROUTING_IRQCHIP => KvmIrqRoutingIrqchip,
        KVM_IRQ_ROUTING_MSI => KvmIrqRoutingMsi,
        KVM_IRQ_ROUTING_S390_ADAPTER => KvmIrqRoutingS390Adapter,
        KVM_IRQ_ROUTING_HV_SINT => KvmIrqRoutingHvSint,
        KVM_IRQ_ROUTING_XEN_EVTCHN => KvmIrqRoutingXenEvtchn,
    }
    KvmIrqchip.chip by chip_id {
        KVM_IRQCHIP_PIC_MASTER => KvmPicState,
        KVM_IRQCHIP_PIC_SLAVE => KvmPicState,
        KVM_IRQCHIP_IOAPIC => KvmIoapicState,
    }
    KvmNestedState.hdr by format {
        KVM_STATE_NESTED_FORMAT_VMX => KvmVmxNestedStateHdr,
        KVM_STATE_NESTED_FORMAT_SVM => KvmSvmNestedStateHdr,
    }
    RunHyperv.u by type_ {
        KVM_EXIT_HYPERV_SYNIC => RunHypervSynic,
        KVM_EXIT_HYPERV_HCALL => RunHypervHcall,
        KVM_EXIT_HYPERV_SYNDBG => RunHypervSyndbg,
    }
}

macro_rules! counts {
    ($($owner:ident.$field:ident $whole:literal;)*) => {
        pub(super) const COUNTS: &[(&str, &str, bool)] = &[$({
            const _: usize = std::mem::offset_of!($owner, $field);
            (stringify!($owner), stringify!($field), $whole)
        }),*];
    };
}

// Whether the count is of bytes, with the header.
counts! {
    KvmCpuid.nent false;
    KvmCpuid2.nent false;
    KvmIrqRouting.nr false;
    KvmMsrs.nmsrs false;
    KvmMsrList.nmsrs false;
    KvmPmuEventFilter.nevents false;
    KvmRegList.n false;
    KvmSignalMask.len false;
    KvmNestedState.size true;
}

/// The payload of an exit, where its first word is this one, or whatever that is.
type Payload = (u32, Option<u32>, &'static Layout);

macro_rules! payloads {
    ($($reason:ident $(if $first:ident)? => $payload:ident,)*) => {
        pub(super) const PAYLOADS: &[Payload] = &[$((
            $reason,
            payloads!(@first $($first)?),
            structure(<$payload as Described>::KIND),
        )),*];
    };
    (@first) => { None };
    (@first $first:ident) => { Some($first) };
}

payloads! {
    KVM_EXIT_UNKNOWN => RunHw,
    KVM_EXIT_EXCEPTION => RunEx,
    KVM_EXIT_IO => RunIo,
    KVM_EXIT_HYPERCALL => RunHypercall,
    KVM_EXIT_DEBUG => KvmDebugExitArch,
    KVM_EXIT_MMIO => RunMmio,
    KVM_EXIT_FAIL_ENTRY => RunFailEntry,
    KVM_EXIT_TPR_ACCESS => RunTprAccess,
    KVM_EXIT_INTERNAL_ERROR if KVM_INTERNAL_ERROR_EMULATION => RunEmulationFailure,
    KVM_EXIT_INTERNAL_ERROR => RunInternal,
    KVM_EXIT_SYSTEM_EVENT => RunSystemEvent,
    KVM_EXIT_IOAPIC_EOI => RunEoi,
    KVM_EXIT_HYPERV => RunHyperv,
    KVM_EXIT_X86_RDMSR => RunMsr,
    KVM_EXIT_X86_WRMSR => RunMsr,
    KVM_EXIT_XEN => RunXen,
    KVM_EXIT_NOTIFY => RunNotify,
    KVM_EXIT_MEMORY_FAULT => RunMemoryFault,
}
