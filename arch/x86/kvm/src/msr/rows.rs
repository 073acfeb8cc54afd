//! The table of registers. Order does not matter; ranges do not overlap (a test checks).

use super::index::*;
use super::{Lists, Row, mce, misc, mtrr, system, xfd};
use crate::{apic, async_pf, clock, pmu, pv_eoi, steal};

const SAVED: Lists = Lists::INDEX;
const NONE: Lists = Lists::empty();

macro_rules! rows {
    ($($name:ident $first:tt .. $last:tt $lists:tt $read:path, $write:path;)*) => {
        pub const ROWS: &[Row] = &[
            $(Row {
                name: stringify!($name),
                first: rows!(@n $first $name),
                last: rows!(@n $last $name),
                lists: $lists,
                read: $read,
                write: $write,
            },)*
        ];
    };
    (@n _ $name:ident) => { $name };
    (@n $n:tt $name:ident) => { $n };
}

const FEATURE: Lists = Lists::FEATURE;
const BOTH: Lists = Lists::INDEX.union(Lists::FEATURE);

rows! {
    // System calls, segments, paging.
    IA32_SYSENTER_CS    _ .. _ SAVED system::read_system, system::write_system;
    IA32_SYSENTER_ESP   _ .. _ SAVED system::read_system, system::write_system;
    IA32_SYSENTER_EIP   _ .. _ SAVED system::read_system, system::write_system;
    STAR                _ .. _ SAVED system::read_system, system::write_system;
    LSTAR               _ .. _ SAVED system::read_system, system::write_system;
    CSTAR               _ .. _ SAVED system::read_system, system::write_system;
    FMASK               _ .. _ SAVED system::read_system, system::write_system;
    KERNEL_GS_BASE      _ .. _ SAVED system::read_system, system::write_system;
    FS_BASE             _ .. _ NONE  system::read_system, system::write_system;
    GS_BASE             _ .. _ NONE  system::read_system, system::write_system;
    EFER                _ .. _ NONE  system::read_efer, system::write_efer;
    TSC_AUX             _ .. _ SAVED system::read_tsc_aux, system::write_tsc_aux;
    IA32_XSS            _ .. _ NONE  system::read_xss, system::write_xss;
    // Whether the client saves them hangs on the host: see `xfd::listed`.
    IA32_XFD            _ .. IA32_XFD_ERR NONE xfd::read, xfd::write;

    // Memory types.
    MTRR_CAP            _ .. _ NONE  mtrr::read, misc::refuse;
    MTRR_FIRST          _ .. 0x276 NONE mtrr::read, mtrr::write;
    IA32_PAT            _ .. _ SAVED mtrr::read_pat, mtrr::write_pat;
    MTRR_AFTER_PAT      0x278 .. 0x27f NONE mtrr::read, mtrr::write;
    MTRR_AFTER_MCE      0x2a0 .. 0x2ff NONE mtrr::read, mtrr::write;

    // Machine check.
    IA32_P5_MC_ADDR     _ .. IA32_P5_MC_TYPE NONE mce::read, mce::write;
    IA32_MCG_CAP        _ .. _ NONE  mce::read, misc::refuse;
    IA32_MCG_STATUS     _ .. _ SAVED mce::read, mce::write;
    IA32_MCG_CTL        _ .. _ SAVED mce::read, mce::write;
    IA32_MC0_CTL2       _ .. (mce::CTL2_LAST) NONE mce::read, mce::write;
    IA32_MC0_CTL        _ .. (mce::BANKS_LAST) NONE mce::read, mce::write;

    // Time.
    IA32_TSC            _ .. _ SAVED clock::msrs::read_tsc, clock::msrs::write_tsc;
    IA32_TSC_ADJUST     _ .. _ SAVED clock::msrs::read_adjust, clock::msrs::write_adjust;
    IA32_TSC_DEADLINE   _ .. _ SAVED apic::msrs::read_deadline, apic::msrs::write_deadline;
    KVM_WALL_CLOCK      _ .. _ SAVED clock::msrs::read_wall_clock, clock::msrs::write_wall_clock_msr;
    KVM_SYSTEM_TIME     _ .. _ SAVED clock::msrs::read_system_time, clock::msrs::write_system_time;
    KVM_WALL_CLOCK_NEW  _ .. _ SAVED clock::msrs::read_wall_clock, clock::msrs::write_wall_clock_msr;
    KVM_SYSTEM_TIME_NEW _ .. _ SAVED clock::msrs::read_system_time, clock::msrs::write_system_time;
    KVM_STEAL_TIME      _ .. _ SAVED steal::msrs::read_steal, steal::msrs::write_steal;
    KVM_PV_EOI_EN       _ .. _ SAVED pv_eoi::read, pv_eoi::write;
    KVM_ASYNC_PF_EN     _ .. _ SAVED async_pf::msrs::read_enable, async_pf::msrs::write_enable;
    KVM_ASYNC_PF_INT    _ .. _ SAVED async_pf::msrs::read_interrupt, async_pf::msrs::write_interrupt;
    KVM_ASYNC_PF_ACK    _ .. _ SAVED async_pf::msrs::read_ack, async_pf::msrs::write_ack;
    KVM_POLL_CONTROL    _ .. _ SAVED steal::msrs::read_poll, steal::msrs::write_poll;
    AMD_TSC_RATIO       _ .. _ SAVED misc::plain, misc::write_tsc_ratio;

    // Interrupts.
    IA32_APIC_BASE      _ .. _ NONE  apic::msrs::read_base, apic::msrs::write_base;
    X2APIC_FIRST        _ .. X2APIC_LAST NONE apic::msrs::read_x2apic, apic::msrs::write_x2apic;

    // Identification and features.
    IA32_UCODE_REV      _ .. _ BOTH  misc::plain, misc::client_store_else_ignore;
    IA32_UCODE_WRITE    _ .. _ NONE  misc::refuse_read, misc::ignore;
    IA32_ARCH_CAPABILITIES _ .. _ BOTH misc::read_arch_capabilities, misc::client_store;
    IA32_PERF_CAPABILITIES _ .. _ BOTH misc::read_perf_capabilities, misc::write_perf_capabilities;
    IA32_MISC_ENABLE    _ .. _ SAVED misc::plain, misc::write_misc_enable;
    IA32_POWER_CTL      _ .. _ SAVED misc::plain, misc::store;
    IA32_SMBASE         _ .. _ SAVED system::read_smbase, system::write_smbase;
    SMI_COUNT           _ .. _ SAVED misc::plain, misc::client_store;
    PLATFORM_INFO       _ .. _ SAVED misc::read_platform_info, misc::write_platform_info;
    MISC_FEATURES_ENABLES _ .. _ SAVED misc::plain, misc::write_misc_features;
    IA32_SPEC_CTRL      _ .. _ SAVED misc::read_spec_ctrl, misc::write_spec_ctrl;
    IA32_PRED_CMD       _ .. _ NONE  misc::refuse_read, misc::write_pred_cmd;
    VIRT_SPEC_CTRL      _ .. _ SAVED misc::read_virt_spec_ctrl, misc::write_virt_spec_ctrl;

    // AMD.
    HWCR                _ .. _ SAVED misc::plain, misc::write_hwcr;
    AMD_DE_CFG          _ .. _ FEATURE misc::plain, misc::write_de_cfg;
    SYSCFG              _ .. _ NONE  misc::zero, misc::refuse;
    K7_CLK_CTL          _ .. _ NONE  misc::fixed, misc::ignore;
    AMD_NB_CFG          _ .. _ NONE  misc::zero, misc::ignore;
    PATCH_LOADER        _ .. _ NONE  misc::refuse_read, misc::ignore;
    INT_PENDING_MSG     _ .. _ NONE  misc::zero, misc::refuse;
    MMIO_CONF_BASE      _ .. _ NONE  misc::zero, misc::only_zero;
    TSEG_ADDR           _ .. _ NONE  misc::zero, misc::refuse;
    TSEG_MASK           _ .. _ NONE  misc::zero, misc::refuse;
    VM_CR               _ .. _ NONE  misc::zero, misc::only_zero;
    VM_IGNNE            _ .. _ NONE  misc::refuse_read, misc::ignore;
    VM_HSAVE_PA         _ .. _ NONE  misc::zero, misc::ignore;
    OSVW_ID_LENGTH      _ .. _ NONE  misc::read_osvw, misc::write_osvw;
    OSVW_STATUS         _ .. _ NONE  misc::read_osvw, misc::write_osvw;
    F15H_IC_CFG         _ .. _ NONE  misc::zero, misc::refuse;
    AMD_DC_CFG          _ .. _ NONE  misc::zero, misc::ignore;
    AMD_BU_CFG2         _ .. _ NONE  misc::zero, misc::ignore;
    AMD_TW_CFG          _ .. _ NONE  misc::zero, misc::ignore;
    F15H_EX_CFG         _ .. _ NONE  misc::zero, misc::ignore;

    // Probed by kernels; nothing stands behind them.
    IA32_PLATFORM_ID    _ .. _ NONE  misc::zero, misc::refuse;
    EBL_CR_POWERON      _ .. _ NONE  misc::zero, misc::refuse;
    EBC_FREQUENCY_ID    _ .. _ NONE  misc::fixed, misc::refuse;
    FSB_FREQ            _ .. _ NONE  misc::fixed, misc::refuse;
    IA32_PERF_STATUS    _ .. _ NONE  misc::fixed, misc::refuse;
    IA32_PERF_CTL       _ .. _ NONE  misc::zero, misc::refuse;
    BBL_CR_CTL3         _ .. _ NONE  misc::fixed, misc::ignore;
    IA32_DEBUGCTL       _ .. _ NONE  misc::zero, misc::ignore;
    LAST_BRANCH_FROM_IP _ .. LAST_INT_TO_IP NONE misc::zero, misc::refuse;
    RAPL_POWER_UNIT     _ .. _ NONE  misc::zero, misc::refuse;
    PKG_ENERGY_STATUS   _ .. _ NONE  misc::zero, misc::refuse;
    DRAM_ENERGY_STATUS  _ .. _ NONE  misc::zero, misc::refuse;
    PP0_ENERGY_STATUS   _ .. _ NONE  misc::zero, misc::refuse;
    PP1_ENERGY_STATUS   _ .. _ NONE  misc::zero, misc::refuse;

    // Performance counters. Which of them the client saves hangs on the host: see `pmu::msrs::listed`.
    P6_PERFCTR0         _ .. IA32_PERFCTR7 NONE pmu::msrs::read, pmu::msrs::write;
    P6_EVNTSEL0         _ .. IA32_EVNTSEL7 NONE pmu::msrs::read, pmu::msrs::write;
    FIXED_CTR0          _ .. FIXED_CTR2 NONE pmu::msrs::read, pmu::msrs::write;
    FIXED_CTR_CTRL      _ .. PERF_GLOBAL_OVF_CTRL NONE pmu::msrs::read, pmu::msrs::write;
    IA32_PMC0           _ .. IA32_PMC7 NONE pmu::msrs::read, pmu::msrs::write;
    K7_EVNTSEL0         _ .. K7_PERFCTR3 NONE pmu::msrs::read, pmu::msrs::write;
    F15H_PERF_CTL0      _ .. F15H_PERF_CTR5 NONE pmu::msrs::read, pmu::msrs::write;
    AMD_PERF_STATUS     _ .. AMD_PERF_STATUS_SET NONE pmu::msrs::read, pmu::msrs::write;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_overlap() {
        let mut sorted: Vec<&Row> = ROWS.iter().collect();
        sorted.sort_by_key(|row| row.first);
        for pair in sorted.windows(2) {
            assert!(pair[0].first <= pair[0].last);
            assert!(
                pair[0].last < pair[1].first,
                "{} and {}",
                pair[0].name,
                pair[1].name
            );
        }
    }

    #[test]
    fn listed_rows_name_one_register() {
        for row in ROWS.iter().filter(|row| !row.lists.is_empty()) {
            assert_eq!(row.first, row.last, "{}", row.name);
        }
    }
}
