//! Interrupt lines, routing, MSIs, and the eventfds that stand for lines and for guest writes.

// KvmIrqRoutingEntry: type.
pub const KVM_IRQ_ROUTING_IRQCHIP: u32 = 1;
pub const KVM_IRQ_ROUTING_MSI: u32 = 2;
pub const KVM_IRQ_ROUTING_S390_ADAPTER: u32 = 3;
pub const KVM_IRQ_ROUTING_HV_SINT: u32 = 4;
pub const KVM_IRQ_ROUTING_XEN_EVTCHN: u32 = 5;

pub const KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL: u32 = u32::MAX;

// KvmIrqfd: flags.
pub const KVM_IRQFD_FLAG_DEASSIGN: u32 = 1 << 0;
pub const KVM_IRQFD_FLAG_RESAMPLE: u32 = 1 << 1;

// KvmMsi and KvmIrqRoutingEntry (MSI): flags.
pub const KVM_MSI_VALID_DEVID: u32 = 1 << 0;

// KvmIoeventfd: flags.
pub const KVM_IOEVENTFD_FLAG_DATAMATCH: u32 = 1 << 0;
pub const KVM_IOEVENTFD_FLAG_PIO: u32 = 1 << 1;
pub const KVM_IOEVENTFD_FLAG_DEASSIGN: u32 = 1 << 2;
pub const KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY: u32 = 1 << 3;
/// All that Linux lets through its first check, the unnamed "fast MMIO" bit among them.
pub const KVM_IOEVENTFD_VALID_FLAG_MASK: u32 = (1 << 5) - 1;

abi! {
    /// For KVM_IRQ_LINE and KVM_IRQ_LINE_STATUS.
    struct KvmIrqLevel {
        /// The line; KVM_IRQ_LINE_STATUS puts its result here (`status`, signed).
        irq: u32,
        level: u32,
    }

    /// An input of an interrupt controller.
    struct KvmIrqRoutingIrqchip {
        irqchip: u32,
        pin: u32,
    }

    /// A message.
    struct KvmIrqRoutingMsi {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        devid: u32,
    }

    /// An s390 adapter interrupt.
    struct KvmIrqRoutingS390Adapter {
        ind_addr: u64,
        summary_addr: u64,
        ind_offset: u64,
        summary_offset: u32,
        adapter_id: u32,
    }

    /// A Hyper-V synthetic interrupt source.
    struct KvmIrqRoutingHvSint {
        vcpu: u32,
        sint: u32,
    }

    /// A Xen event channel; also for KVM_XEN_HVM_EVTCHN_SEND.
    struct KvmIrqRoutingXenEvtchn {
        port: u32,
        vcpu: u32,
        priority: u32,
    }

    /// One route of a GSI.
    struct KvmIrqRoutingEntry {
        gsi: u32,
        type_: u32,
        flags: u32,
        pad: u32,
        u: [u64; 4],
    }

    /// For KVM_SET_GSI_ROUTING; `nr` entries follow.
    struct KvmIrqRouting {
        nr: u32,
        flags: u32,
    }

    /// For KVM_SIGNAL_MSI.
    struct KvmMsi {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        flags: u32,
        devid: u32,
        pad: [u8; 12],
    }

    /// For KVM_IRQFD.
    struct KvmIrqfd {
        fd: u32,
        gsi: u32,
        flags: u32,
        resamplefd: u32,
        pad: [u8; 16],
    }

    /// For KVM_IOEVENTFD.
    struct KvmIoeventfd {
        datamatch: u64,
        /// A guest-physical address or a port.
        addr: u64,
        /// 1, 2, 4 or 8 bytes; 0 for any.
        len: u32,
        fd: i32,
        flags: u32,
        pad: [u8; 36],
    }
}

union_member!(KvmIrqRoutingEntry.u {
    irqchip / set_irqchip: KvmIrqRoutingIrqchip,
    msi / set_msi: KvmIrqRoutingMsi,
    adapter / set_adapter: KvmIrqRoutingS390Adapter,
    hv_sint / set_hv_sint: KvmIrqRoutingHvSint,
    xen_evtchn / set_xen_evtchn: KvmIrqRoutingXenEvtchn,
});

impl KvmIrqRoutingEntry {
    /// A route from a GSI to a pin of a controller.
    pub fn to_irqchip(gsi: u32, irqchip: u32, pin: u32) -> Self {
        let mut entry = Self {
            gsi,
            type_: KVM_IRQ_ROUTING_IRQCHIP,
            ..Self::default()
        };
        entry.set_irqchip(KvmIrqRoutingIrqchip { irqchip, pin });
        entry
    }

    /// A route from a GSI to a message.
    pub fn to_msi(gsi: u32, address: u64, data: u32) -> Self {
        let mut entry = Self {
            gsi,
            type_: KVM_IRQ_ROUTING_MSI,
            ..Self::default()
        };
        entry.set_msi(KvmIrqRoutingMsi {
            address_lo: address as u32,
            address_hi: (address >> 32) as u32,
            data,
            devid: 0,
        });
        entry
    }
}

impl KvmIrqLevel {
    /// What KVM_IRQ_LINE_STATUS answered: negative when the line was masked, zero when it was coalesced with an earlier
    /// one, otherwise to how many vCPUs it went.
    pub fn status(&self) -> i32 {
        self.irq as i32
    }
}
