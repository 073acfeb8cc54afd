//! Witnesses of the rows: numbers written by hand, and the kernel header where the machine has it.

use super::*;

/// Codes as strace and debuggers print them.
#[test]
fn codes_written_by_hand() {
    for (request, code) in [
        (KVM_GET_API_VERSION, 0xae00),
        (KVM_CREATE_VM, 0xae01),
        (KVM_GET_MSR_INDEX_LIST, 0xc004_ae02),
        (KVM_CHECK_EXTENSION, 0xae03),
        (KVM_GET_VCPU_MMAP_SIZE, 0xae04),
        (KVM_GET_SUPPORTED_CPUID, 0xc008_ae05),
        (KVM_CREATE_VCPU, 0xae41),
        (KVM_GET_DIRTY_LOG, 0x4010_ae42),
        (KVM_SET_USER_MEMORY_REGION, 0x4020_ae46),
        (KVM_SET_TSS_ADDR, 0xae47),
        (KVM_SET_IDENTITY_MAP_ADDR, 0x4008_ae48),
        (KVM_SET_USER_MEMORY_REGION2, 0x40a0_ae49),
        (KVM_CREATE_IRQCHIP, 0xae60),
        (KVM_IRQ_LINE, 0x4008_ae61),
        (KVM_GET_IRQCHIP, 0xc208_ae62),
        (KVM_SET_IRQCHIP, 0x8208_ae63),
        (KVM_IRQ_LINE_STATUS, 0xc008_ae67),
        (KVM_REGISTER_COALESCED_MMIO, 0x4010_ae67),
        (KVM_SET_GSI_ROUTING, 0x4008_ae6a),
        (KVM_IRQFD, 0x4020_ae76),
        (KVM_CREATE_PIT2, 0x4040_ae77),
        (KVM_IOEVENTFD, 0x4040_ae79),
        (KVM_SET_CLOCK, 0x4030_ae7b),
        (KVM_GET_CLOCK, 0x8030_ae7c),
        (KVM_RUN, 0xae80),
        (KVM_GET_REGS, 0x8090_ae81),
        (KVM_SET_REGS, 0x4090_ae82),
        (KVM_GET_SREGS, 0x8138_ae83),
        (KVM_SET_SREGS, 0x4138_ae84),
        (KVM_GET_MSRS, 0xc008_ae88),
        (KVM_SET_MSRS, 0x4008_ae89),
        (KVM_SET_SIGNAL_MASK, 0x4004_ae8b),
        (KVM_GET_FPU, 0x81a0_ae8c),
        (KVM_GET_LAPIC, 0x8400_ae8e),
        (KVM_SET_CPUID2, 0x4008_ae90),
        (KVM_GET_MP_STATE, 0x8004_ae98),
        (KVM_SET_GUEST_DEBUG, 0x4048_ae9b),
        (KVM_GET_VCPU_EVENTS, 0x8040_ae9f),
        (KVM_GET_PIT2, 0x8070_ae9f),
        (KVM_GET_DEBUGREGS, 0x8080_aea1),
        (KVM_ENABLE_CAP, 0x4068_aea3),
        (KVM_GET_XSAVE, 0x9000_aea4),
        (KVM_SIGNAL_MSI, 0x4020_aea5),
        (KVM_GET_XCRS, 0x8188_aea6),
        (KVM_CLEAR_DIRTY_LOG, 0xc018_aec0),
        (KVM_GET_SREGS2, 0x8140_aecc),
        (KVM_GET_STATS_FD, 0xaece),
        (KVM_CREATE_DEVICE, 0xc00c_aee0),
        (KVM_SET_DEVICE_ATTR, 0x4018_aee1),
    ] {
        assert_eq!(
            request,
            code,
            "{:#x} is {:?}",
            code,
            lookup_any(request).map(|row| row.name)
        );
    }
}

#[test]
fn a_level_and_a_code_name_one_row() {
    for (i, row) in IOCTLS.iter().enumerate() {
        assert!(!row.on.is_empty() && is_kvm(row.request), "{}", row.name);
        assert!(!row.purpose.is_empty(), "{}", row.name);
        for on in row.on {
            assert_eq!(
                lookup(on.level, row.request).map(|found| found.name),
                Some(row.name)
            );
            assert!(!row.archs(on.level).is_empty());
        }
        assert!(
            !IOCTLS[..i].iter().any(|other| other.name == row.name),
            "{} twice",
            row.name
        );
    }
    assert!(lookup(Level::System, KVM_RUN).is_none());
    assert_eq!(by_name("KVM_RUN").map(IoctlRow::nr), Some(0x80));
}

/// Sizes of arguments by their C name, as another crate has them.
const SIZES: &[(&str, usize)] = {
    use kvm_bindings::*;
    macro_rules! sizes { ($($ty:ident),*) => { &[$((stringify!($ty), size_of::<$ty>())),*] } }
    sizes!(
        kvm_userspace_memory_region,
        kvm_irq_level,
        kvm_irqchip,
        kvm_pit_config,
        kvm_coalesced_mmio_zone,
        kvm_translation,
        kvm_interrupt,
        kvm_dirty_log,
        kvm_clear_dirty_log,
        kvm_tpr_access_ctl,
        kvm_vapic_addr,
        kvm_mp_state,
        kvm_guest_debug,
        kvm_ioeventfd,
        kvm_enable_cap,
        kvm_x86_mce,
        kvm_xen_hvm_config,
        kvm_irqfd,
        kvm_clock_data,
        kvm_one_reg,
        kvm_msi,
        kvm_create_device,
        kvm_device_attr,
        kvm_enc_region,
        kvm_xen_hvm_attr,
        kvm_xen_vcpu_attr,
        kvm_hyperv_eventfd,
        kvm_regs,
        kvm_sregs,
        kvm_sregs2,
        kvm_fpu,
        kvm_lapic_state,
        kvm_pit_state,
        kvm_pit_state2,
        kvm_vcpu_events,
        kvm_debugregs,
        kvm_xcrs,
        kvm_msr_filter,
        kvm_irq_routing_xen_evtchn,
        kvm_dirty_tlb,
        kvm_arm_device_addr,
        kvm_msrs,
        kvm_msr_list,
        kvm_cpuid,
        kvm_cpuid2,
        kvm_nested_state,
        kvm_pmu_event_filter,
        kvm_irq_routing,
        kvm_reg_list,
        kvm_signal_mask,
        kvm_xsave
    )
};

/// Requests of the header that no kernel answers any more, or that are aliases.
const HEADER_ONLY: &[&str] = &[
    "KVM_SET_MEMORY_REGION",
    "KVM_SET_MEMORY_ALIAS",
    "KVM_ASSIGN_PCI_DEVICE",
    "KVM_ASSIGN_DEV_IRQ",
    "KVM_DEASSIGN_PCI_DEVICE",
    "KVM_ASSIGN_SET_MSIX_NR",
    "KVM_ASSIGN_SET_MSIX_ENTRY",
    "KVM_DEASSIGN_DEV_IRQ",
    "KVM_ASSIGN_SET_INTX_MASK",
];

/// A `#define NAME _IOx(KVMIO, nr[, type])` of the header.
fn parse(line: &str) -> Option<(&str, u32, u32, &str)> {
    let (name, rest) = line.strip_prefix("#define ")?.split_once(char::is_whitespace)?;
    let (macro_name, args) = rest.trim_start().split_once('(')?;
    let dir = match macro_name {
        "_IO" => 0,
        "_IOW" => WRITE,
        "_IOR" => READ,
        "_IOWR" => READ | WRITE,
        _ => return None,
    };
    let mut args = args.split(')').next()?.split(',').map(str::trim);
    args.next().filter(|ty| *ty == "KVMIO")?;
    let nr = u32::from_str_radix(args.next()?.strip_prefix("0x")?, 16).ok()?;
    Some((name, dir, nr, args.next().unwrap_or("")))
}

#[test]
fn the_kernel_header_agrees() {
    let Ok(header) = std::fs::read_to_string("/usr/include/linux/kvm.h") else {
        eprintln!("skipped: no /usr/include/linux/kvm.h (package linux-libc-dev)");
        return;
    };
    let header = header.replace("\\\n", " ");
    let mut seen = 0;
    for (name, dir, nr, ty) in header.lines().filter_map(parse) {
        if name.starts_with('_') || HEADER_ONLY.contains(&name) {
            continue;
        }
        let row = by_name(name).unwrap_or_else(|| panic!("no row for {name}"));
        assert_eq!((row.request >> 30, row.request & 0xff), (dir, nr), "{name}");
        let c_name = ty.strip_prefix("struct ").unwrap_or(ty);
        let size = match c_name {
            "" => Some(0),
            "__u64" | "unsigned long" => Some(8),
            "__u32" | "int" => Some(4),
            _ => SIZES
                .iter()
                .find(|(name, _)| *name == c_name)
                .map(|(_, size)| *size),
        };
        if let Some(size) = size {
            assert_eq!(arg_size(row.request), size, "{name}: {ty}");
        }
        seen += 1;
    }
    assert!(seen > 120, "only {seen} requests found in the header");
}
