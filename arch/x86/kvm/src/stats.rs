//! What is counted on x86: the rows of Linux, in its order, and where those are that something is counted in.
//!
//! The others stay zero, because what they count does not exist here: second-level page tables of KVM's own, with pages of
//! several sizes (`mmu_...`, `pages_...`, `pf_...`, `nx_lpage_splits`), an emulator to fall back to (`insn_emulation`), host
//! state to restore (`irq_exits`, `host_state_reload`, `fpu_reload`, `l1d_flush`), nested guests, directed yields, and windows
//! of notification.

use ring3_kvm::stats::StatKind::{Count, Now, NowTrue, Peak};
use ring3_kvm::stats::{Place, StatRow, stat};

/// Of a VM.
pub const VM: &[StatRow] = &[
    stat("mmu_shadow_zapped", Count),
    stat("mmu_pte_write", Count),
    stat("mmu_pde_zapped", Count),
    stat("mmu_flooded", Count),
    stat("mmu_recycled", Count),
    stat("mmu_cache_miss", Count),
    stat("mmu_unsync", Now),
    stat("mmu_shadow_pages", Now),
    stat("pages_4k", Now),
    stat("pages_2m", Now),
    stat("pages_1g", Now),
    stat("nx_lpage_splits", Now),
    stat("max_mmu_rmap_size", Peak),
    stat("max_mmu_page_hash_collisions", Peak),
];

/// Of a vCPU.
pub const VCPU: &[StatRow] = &[
    stat("pf_taken", Count),
    stat("pf_fixed", Count),
    stat("pf_emulate", Count),
    stat("pf_spurious", Count),
    stat("pf_fast", Count),
    stat("pf_mmio_spte_created", Count),
    stat("pf_guest", Count),
    stat("tlb_flush", Count),
    stat("invlpg", Count),
    stat("exits", Count),
    stat("io_exits", Count),
    stat("mmio_exits", Count),
    stat("signal_exits", Count),
    stat("irq_window_exits", Count),
    stat("nmi_window_exits", Count),
    stat("l1d_flush", Count),
    stat("halt_exits", Count),
    stat("request_irq_exits", Count),
    stat("irq_exits", Count),
    stat("host_state_reload", Count),
    stat("fpu_reload", Count),
    stat("insn_emulation", Count),
    stat("insn_emulation_fail", Count),
    stat("hypercalls", Count),
    stat("irq_injections", Count),
    stat("nmi_injections", Count),
    stat("req_event", Count),
    stat("nested_run", Count),
    stat("directed_yield_attempted", Count),
    stat("directed_yield_successful", Count),
    stat("preemption_reported", Count),
    stat("preemption_other", Count),
    stat("guest_mode", NowTrue),
    stat("notify_window_exits", Count),
];

macro_rules! places {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Place = Place::of_vcpu(VCPU, $text);)*
    };
}

places! {
    /// The TLB was emptied because others, or the client, asked for it.
    TLB_FLUSH = "tlb_flush";
    /// The guest was left.
    EXITS = "exits";
    /// The guest reached for a port.
    IO_EXITS = "io_exits";
    /// The client was asked to serve an access to memory.
    MMIO_EXITS = "mmio_exits";
    SIGNAL_EXITS = "signal_exits";
    IRQ_WINDOW_EXITS = "irq_window_exits";
    NMI_WINDOW_EXITS = "nmi_window_exits";
    HALT_EXITS = "halt_exits";
    REQUEST_IRQ_EXITS = "request_irq_exits";
    INSN_EMULATION_FAIL = "insn_emulation_fail";
    HYPERCALLS = "hypercalls";
    IRQ_INJECTIONS = "irq_injections";
    NMI_INJECTIONS = "nmi_injections";
    /// Events were looked for because somebody said that there are some.
    REQ_EVENT = "req_event";
    /// The guest could read that the vCPU does not run.
    PREEMPTION_REPORTED = "preemption_reported";
}
