//! Local APIC, PIC, IOAPIC and PIT state, and the local APIC's task-priority sharing.

// KvmIrqchip: chip_id; KvmIrqRoutingIrqchip: irqchip.
pub const KVM_IRQCHIP_PIC_MASTER: u32 = 0;
pub const KVM_IRQCHIP_PIC_SLAVE: u32 = 1;
pub const KVM_IRQCHIP_IOAPIC: u32 = 2;
pub const KVM_NR_IRQCHIPS: u32 = 3;

pub const KVM_IOAPIC_NUM_PINS: usize = 24;
pub const KVM_APIC_REG_SIZE: usize = 0x400;

/// KvmPitConfig: flags.
pub const KVM_PIT_SPEAKER_DUMMY: u32 = 1;

// KvmPitState2: flags.
pub const KVM_PIT_FLAGS_HPET_LEGACY: u32 = 1;
pub const KVM_PIT_FLAGS_SPEAKER_DATA_ON: u32 = 2;

abi! {
    /// One 8259.
    struct KvmPicState {
        /// For edge detection.
        last_irr: u8,
        irr: u8,
        imr: u8,
        isr: u8,
        /// The highest priority.
        priority_add: u8,
        irq_base: u8,
        read_reg_select: u8,
        poll: u8,
        special_mask: u8,
        init_state: u8,
        auto_eoi: u8,
        rotate_on_auto_eoi: u8,
        special_fully_nested_mode: u8,
        /// Four initialisation words, not three.
        init4: u8,
        elcr: u8,
        elcr_mask: u8,
    }

    struct KvmIoapicState {
        base_address: u64,
        ioregsel: u32,
        id: u32,
        irr: u32,
        pad: u32,
        /// Redirection entries as the guest sees them.
        redirtbl: [u64; KVM_IOAPIC_NUM_PINS],
    }

    /// For KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.
    struct KvmIrqchip {
        chip_id: u32,
        pad: u32,
        chip: [u64; 64],
    }

    /// For KVM_GET_LAPIC and KVM_SET_LAPIC: the register page.
    struct KvmLapicState {
        regs: [u8; KVM_APIC_REG_SIZE],
    }

    struct KvmPitChannelState {
        /// Up to 65536.
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: u8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        bcd: u8,
        gate: u8,
        count_load_time: i64,
    }

    /// For KVM_GET_PIT and KVM_SET_PIT.
    struct KvmPitState {
        channels: [KvmPitChannelState; 3],
    }

    /// For KVM_GET_PIT2 and KVM_SET_PIT2.
    struct KvmPitState2 {
        channels: [KvmPitChannelState; 3],
        flags: u32,
        reserved: [u32; 9],
    }

    /// For KVM_CREATE_PIT2.
    struct KvmPitConfig {
        flags: u32,
        pad: [u32; 15],
    }

    /// For KVM_REINJECT_CONTROL.
    struct KvmReinjectControl {
        pit_reinject: u8,
        reserved: [u8; 31],
    }

    /// For KVM_TPR_ACCESS_REPORTING.
    struct KvmTprAccessCtl {
        enabled: u32,
        flags: u32,
        reserved: [u32; 8],
    }

    /// For KVM_SET_VAPIC_ADDR.
    struct KvmVapicAddr {
        vapic_addr: u64,
    }
}

union_member!(KvmIrqchip.chip {
    pic / set_pic: KvmPicState,
    ioapic / set_ioapic: KvmIoapicState,
});
