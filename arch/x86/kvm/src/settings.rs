//! What KVM_ENABLE_CAP and a few old ioctls switch for a whole VM.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use ring3_kvm::arch::Types;
use ring3_uapi::x86::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

use crate::X86;
use crate::lapic::{BroadcastRule, DEFAULT_CYCLE_NS};
use crate::parameters::Parameters;

/// Switches of one VM. Each stands alone, so relaxed atomics do.
#[derive(Debug)]
pub struct Settings {
    /// KVM_CAP_DISABLE_QUIRKS(2): KVM_X86_QUIRK_* that are off.
    pub disabled_quirks: AtomicU64,
    /// KVM_CAP_X2APIC_API.
    pub x2apic_api: AtomicU64,
    /// KVM_CAP_X86_DISABLE_EXITS.
    pub disabled_exits: AtomicU64,
    /// KVM_CAP_X86_USER_SPACE_MSR: reasons for which MSR accesses go to the client.
    pub user_space_msr: AtomicU64,
    /// KVM_CAP_EXIT_HYPERCALL: hypercalls that go to the client, as bits.
    pub hypercall_exits: AtomicU64,
    /// KVM_CAP_EXCEPTION_PAYLOAD.
    pub exception_payload: AtomicBool,
    /// KVM_CAP_X86_TRIPLE_FAULT_EVENT.
    pub triple_fault_event: AtomicBool,
    /// KVM_CAP_MSR_PLATFORM_INFO: the guest may read that register.
    pub guest_reads_platform_info: AtomicBool,
    /// KVM_CAP_EXIT_ON_EMULATION_FAILURE.
    pub exit_on_emulation_failure: AtomicBool,
    /// KVM_CAP_X86_NOTIFY_VMEXIT: its flags.
    pub notify_vmexit: AtomicU64,
    /// KVM_CAP_X86_BUS_LOCK_EXIT, of vCPUs that are made from now on.
    pub bus_lock_exits: AtomicBool,
    /// Cleared by KVM_CAP_PMU_CAPABILITY: guests have no performance counters, whatever CPUID says.
    pub performance_counters: AtomicBool,
    /// KVM_CAP_X86_APIC_BUS_CYCLES_NS.
    pub apic_bus_cycle_ns: AtomicU64,
    /// KVM_CAP_MAX_VCPU_ID: ids of vCPUs are below this; zero means the default.
    pub max_vcpu_id: AtomicU32,
    /// KVM_SET_BOOT_CPU_ID.
    pub boot_cpu_id: AtomicU32,
    /// KVM_SET_TSS_ADDR and KVM_SET_IDENTITY_MAP_ADDR: kept for the record, nothing is placed there.
    pub tss_addr: AtomicU64,
    pub identity_map_addr: AtomicU64,
    /// Those in force when the VM was made.
    pub parameters: Parameters,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            disabled_quirks: AtomicU64::new(0),
            x2apic_api: AtomicU64::new(0),
            disabled_exits: AtomicU64::new(0),
            user_space_msr: AtomicU64::new(0),
            hypercall_exits: AtomicU64::new(0),
            exception_payload: AtomicBool::new(false),
            triple_fault_event: AtomicBool::new(false),
            guest_reads_platform_info: AtomicBool::new(true),
            exit_on_emulation_failure: AtomicBool::new(false),
            notify_vmexit: AtomicU64::new(0),
            bus_lock_exits: AtomicBool::new(false),
            performance_counters: AtomicBool::new(true),
            apic_bus_cycle_ns: AtomicU64::new(DEFAULT_CYCLE_NS),
            max_vcpu_id: AtomicU32::new(0),
            boot_cpu_id: AtomicU32::new(0),
            tss_addr: AtomicU64::new(0),
            identity_map_addr: AtomicU64::new(0xfffb_c000),
            parameters: Parameters::in_force(),
        }
    }
}

impl Settings {
    /// Ids of vCPUs are below this.
    pub fn vcpu_ids(&self) -> u32 {
        match self.max_vcpu_id.load(Relaxed) {
            0 => X86::LIMITS.vcpu_ids,
            most => most,
        }
    }

    /// What destination FFh of a device's interrupt means.
    pub fn broadcast_rule(&self) -> BroadcastRule {
        let quirk_off = self.x2apic_api.load(Relaxed) & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK != 0;
        if quirk_off {
            BroadcastRule::Strict
        } else {
            BroadcastRule::Quirk
        }
    }
}
