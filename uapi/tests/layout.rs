//! Every structure and constant against the kvm-bindings crate, which bindgen made from the kernel's headers.

use kvm_bindings as b;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use std::mem::offset_of;

/// Same size, and the same place for every field; `ours = theirs` where bindgen gave another name.
macro_rules! same {
    (@name $f:ident) => { $f };
    ($($ours:ty = $theirs:ident { $($f:ident $(= $g:ident $(. $h:ident)*)?),* $(,)? })*) => {$(
        assert_eq!(size_of::<$ours>(), size_of::<b::$theirs>(), stringify!($theirs));
        $(same!(@field $ours, $theirs, $f $(, $g $(. $h)*)?);)*
    )*};
    (@field $ours:ty, $theirs:ident, $f:ident) => {
        assert_eq!(offset_of!($ours, $f), offset_of!(b::$theirs, $f), concat!(stringify!($theirs), ".", stringify!($f)));
    };
    (@field $ours:ty, $theirs:ident, $f:ident, $g:ident $(. $h:ident)*) => {
        assert_eq!(offset_of!($ours, $f), offset_of!(b::$theirs, $g $(. $h)*), concat!(stringify!($theirs), ".", stringify!($f)));
    };
}

#[test]
fn generic_structures() {
    same! {
        KvmUserspaceMemoryRegion = kvm_userspace_memory_region { slot, flags, guest_phys_addr, memory_size, userspace_addr }
        KvmUserspaceMemoryRegion2 = kvm_userspace_memory_region2 {
            slot, flags, guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset, guest_memfd, pad1, pad2
        }
        KvmDirtyLog = kvm_dirty_log { slot, padding1, dirty_bitmap = __bindgen_anon_1 }
        KvmClearDirtyLog = kvm_clear_dirty_log { slot, num_pages, first_page, dirty_bitmap = __bindgen_anon_1 }
        KvmDirtyGfn = kvm_dirty_gfn { flags, slot, offset }
        KvmCoalescedMmioZone = kvm_coalesced_mmio_zone { addr, size, pio = __bindgen_anon_1 }
        KvmCoalescedMmio = kvm_coalesced_mmio { phys_addr, len, pio = __bindgen_anon_1, data }
        KvmCoalescedMmioRing = kvm_coalesced_mmio_ring { first, last }
        KvmMemoryAttributes = kvm_memory_attributes { address, size, attributes, flags }
        KvmCreateGuestMemfd = kvm_create_guest_memfd { size, flags, reserved }
        KvmPreFaultMemory = kvm_pre_fault_memory { gpa, size, flags, padding }
        KvmEncRegion = kvm_enc_region { addr, size }
        KvmIrqLevel = kvm_irq_level { irq = __bindgen_anon_1, level }
        KvmIrqRoutingIrqchip = kvm_irq_routing_irqchip { irqchip, pin }
        KvmIrqRoutingMsi = kvm_irq_routing_msi { address_lo, address_hi, data, devid = __bindgen_anon_1 }
        KvmIrqRoutingS390Adapter = kvm_irq_routing_s390_adapter {
            ind_addr, summary_addr, ind_offset, summary_offset, adapter_id
        }
        KvmIrqRoutingHvSint = kvm_irq_routing_hv_sint { vcpu, sint }
        KvmIrqRoutingXenEvtchn = kvm_irq_routing_xen_evtchn { port, vcpu, priority }
        KvmIrqRoutingEntry = kvm_irq_routing_entry { gsi, type_, flags, pad, u }
        KvmIrqRouting = kvm_irq_routing { nr, flags }
        KvmMsi = kvm_msi { address_lo, address_hi, data, flags, devid, pad }
        KvmIrqfd = kvm_irqfd { fd, gsi, flags, resamplefd, pad }
        KvmIoeventfd = kvm_ioeventfd { datamatch, addr, len, fd, flags, pad }
        KvmEnableCap = kvm_enable_cap { cap, flags, args, pad }
        KvmMpState = kvm_mp_state { mp_state }
        KvmInterrupt = kvm_interrupt { irq }
        KvmTranslation = kvm_translation { linear_address, physical_address, valid, writeable, usermode, pad }
        KvmSignalMask = kvm_signal_mask { len }
        KvmOneReg = kvm_one_reg { id, addr }
        KvmRegList = kvm_reg_list { n }
        KvmStatsHeader = kvm_stats_header { flags, name_size, num_desc, id_offset, desc_offset, data_offset }
        KvmStatsDesc = kvm_stats_desc { flags, exponent, size, offset, bucket_size }
        KvmCreateDevice = kvm_create_device { type_, fd, flags }
        KvmDeviceAttr = kvm_device_attr { flags, group, attr, addr }
    }
}

#[test]
fn x86_registers() {
    same! {
        KvmRegs = kvm_regs {
            rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
        }
        KvmSegment = kvm_segment {
            base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable, padding
        }
        KvmDtable = kvm_dtable { base, limit, padding }
        KvmSregs = kvm_sregs {
            cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, interrupt_bitmap
        }
        KvmSregs2 = kvm_sregs2 {
            cs, ds, es, fs, gs, ss, tr, ldt, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base, flags, pdptrs
        }
        KvmSyncRegs = kvm_sync_regs { regs, sregs, events }
        KvmFpu = kvm_fpu { fpr, fcw, fsw, ftwx, pad1, last_opcode, last_ip, last_dp, xmm, mxcsr, pad2 }
        KvmXsave = kvm_xsave { region }
        KvmXcr = kvm_xcr { xcr, reserved, value }
        KvmXcrs = kvm_xcrs { nr_xcrs, flags, xcrs, padding }
        KvmMsrEntry = kvm_msr_entry { index, reserved, data }
        KvmMsrs = kvm_msrs { nmsrs, pad }
        KvmMsrList = kvm_msr_list { nmsrs }
        KvmMsrFilterRange = kvm_msr_filter_range { flags, nmsrs, base, bitmap }
        KvmMsrFilter = kvm_msr_filter { flags, ranges }
        KvmCpuidEntry = kvm_cpuid_entry { function, eax, ebx, ecx, edx, padding }
        KvmCpuid = kvm_cpuid { nent, padding }
        KvmCpuidEntry2 = kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding }
        KvmCpuid2 = kvm_cpuid2 { nent, padding }
        KvmDebugregs = kvm_debugregs { db, dr6, dr7, flags, reserved }
        KvmGuestDebug = kvm_guest_debug { control, pad, arch }
        KvmGuestDebugArch = kvm_guest_debug_arch { debugreg }
        KvmDebugExitArch = kvm_debug_exit_arch { exception, pad, pc, dr6, dr7 }
        KvmPmuEventFilter = kvm_pmu_event_filter { action, nevents, fixed_counter_bitmap, flags, pad }
    }
}

#[test]
fn x86_devices_and_events() {
    same! {
        KvmPicState = kvm_pic_state {
            last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi,
            rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask
        }
        KvmIoapicState = kvm_ioapic_state { base_address, ioregsel, id, irr, pad, redirtbl }
        KvmIrqchip = kvm_irqchip { chip_id, pad, chip }
        KvmLapicState = kvm_lapic_state { regs }
        KvmPitChannelState = kvm_pit_channel_state {
            count, latched_count, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode,
            mode, bcd, gate, count_load_time
        }
        KvmPitState = kvm_pit_state { channels }
        KvmPitState2 = kvm_pit_state2 { channels, flags, reserved }
        KvmPitConfig = kvm_pit_config { flags, pad }
        KvmReinjectControl = kvm_reinject_control { pit_reinject, reserved }
        KvmTprAccessCtl = kvm_tpr_access_ctl { enabled, flags, reserved }
        KvmVapicAddr = kvm_vapic_addr { vapic_addr }
        KvmVcpuEvents = kvm_vcpu_events {
            exception, interrupt, nmi, sipi_vector, flags, smi, triple_fault, reserved, exception_has_payload,
            exception_payload
        }
        KvmVcpuEventsException = kvm_vcpu_events__bindgen_ty_1 { injected, nr, has_error_code, pending, error_code }
        KvmVcpuEventsInterrupt = kvm_vcpu_events__bindgen_ty_2 { injected, nr, soft, shadow }
        KvmVcpuEventsNmi = kvm_vcpu_events__bindgen_ty_3 { injected, pending, masked, pad }
        KvmVcpuEventsSmi = kvm_vcpu_events__bindgen_ty_4 { smm, pending, smm_inside_nmi, latched_init }
        KvmVcpuEventsTripleFault = kvm_vcpu_events__bindgen_ty_5 { pending }
        KvmX86Mce = kvm_x86_mce { status, addr, misc, mcg_status, bank, pad1, pad2 }
        KvmNestedState = kvm_nested_state { flags, format, size, hdr }
        KvmVmxNestedStateHdr = kvm_vmx_nested_state_hdr {
            vmxon_pa, vmcs12_pa, smm_flags = smm, pad, flags, preemption_timer_deadline
        }
        KvmSvmNestedStateHdr = kvm_svm_nested_state_hdr { vmcb_pa }
        KvmClockData = kvm_clock_data { clock, flags, pad0, realtime, host_tsc, pad }
        KvmHypervEventfd = kvm_hyperv_eventfd { conn_id, fd, flags, padding }
        KvmXenHvmConfig = kvm_xen_hvm_config {
            flags, msr, blob_addr_32, blob_addr_64, blob_size_32, blob_size_64, pad2
        }
        KvmXenHvmAttr = kvm_xen_hvm_attr { type_, pad, u }
        KvmXenVcpuAttr = kvm_xen_vcpu_attr { type_, pad, u }
        KvmSevCmd = kvm_sev_cmd { id, data, error, sev_fd }
    }
}

#[test]
fn the_run_page() {
    use run::*;
    macro_rules! at {
        ($($ours:expr, $($theirs:ident).+;)*) => { $(assert_eq!($ours, offset_of!(b::kvm_run, $($theirs).+));)* };
    }
    at! {
        REQUEST_INTERRUPT_WINDOW, request_interrupt_window;
        IMMEDIATE_EXIT, immediate_exit;
        EXIT_REASON, exit_reason;
        READY_FOR_INTERRUPT_INJECTION, ready_for_interrupt_injection;
        IF_FLAG, if_flag;
        FLAGS, flags;
        CR8, cr8;
        APIC_BASE, apic_base;
        PAYLOAD, __bindgen_anon_1;
        KVM_VALID_REGS, kvm_valid_regs;
        KVM_DIRTY_REGS, kvm_dirty_regs;
        SYNC_REGS, s;
    }
    assert_eq!(RUN_SIZE, size_of::<b::kvm_run>());
    assert_eq!(PAYLOAD_SIZE, size_of::<b::kvm_run__bindgen_ty_1>());
    assert!(size_of::<KvmSyncRegs>() <= SYNC_REGS_SIZE_BYTES);
    assert_eq!(MMIO_DATA, PAYLOAD + offset_of!(RunMmio, data));
    assert_eq!(MSR_DATA, PAYLOAD + offset_of!(RunMsr, data));
    assert_eq!(MSR_ERROR, PAYLOAD + offset_of!(RunMsr, error));
    assert_eq!(HYPERCALL_RET, PAYLOAD + offset_of!(RunHypercall, ret));
}

/// Payloads have no C name of their own; bindgen numbers them in the order of the header.
#[test]
fn the_payloads() {
    use run::*;
    same! {
        RunHw = kvm_run__bindgen_ty_1__bindgen_ty_1 { hardware_exit_reason }
        RunFailEntry = kvm_run__bindgen_ty_1__bindgen_ty_2 { hardware_entry_failure_reason, cpu }
        RunEx = kvm_run__bindgen_ty_1__bindgen_ty_3 { exception, error_code }
        RunIo = kvm_run__bindgen_ty_1__bindgen_ty_4 { direction, size, port, count, data_offset }
        RunMmio = kvm_run__bindgen_ty_1__bindgen_ty_6 { phys_addr, data, len, is_write }
        RunHypercall = kvm_run__bindgen_ty_1__bindgen_ty_8 { nr, args, ret, flags = __bindgen_anon_1 }
        RunTprAccess = kvm_run__bindgen_ty_1__bindgen_ty_9 { rip, is_write, pad }
        RunInternal = kvm_run__bindgen_ty_1__bindgen_ty_13 { suberror, ndata, data }
        RunEmulationFailure = kvm_run__bindgen_ty_1__bindgen_ty_14 { suberror, ndata, flags, insn_size = __bindgen_anon_1 }
        RunSystemEvent = kvm_run__bindgen_ty_1__bindgen_ty_19 { type_, ndata, data = __bindgen_anon_1 }
        RunEoi = kvm_run__bindgen_ty_1__bindgen_ty_21 { vector }
        RunMsr = kvm_run__bindgen_ty_1__bindgen_ty_23 { error, pad, reason, index, data }
        RunNotify = kvm_run__bindgen_ty_1__bindgen_ty_26 { flags }
        RunMemoryFault = kvm_run__bindgen_ty_1__bindgen_ty_27 { flags, gpa, size }
        RunHyperv = kvm_hyperv_exit { type_, pad1, u }
        RunHypervSynic = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_1 { msr, pad2, control, evt_page, msg_page }
        RunHypervHcall = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_2 { input, result, params }
        RunHypervSyndbg = kvm_hyperv_exit__bindgen_ty_1__bindgen_ty_3 {
            msr, pad2, control, status, send_page, recv_page, pending_page
        }
        RunXen = kvm_xen_exit { type_, longmode = u }
    }
}

#[test]
fn unions_come_back_as_they_were_put() {
    let entry = KvmIrqRoutingEntry::to_irqchip(4, KVM_IRQCHIP_IOAPIC, 11);
    assert_eq!((entry.irqchip().irqchip, entry.irqchip().pin), (2, 11));
    let entry = KvmIrqRoutingEntry::to_msi(24, 0x1_fee0_1000, 0x41);
    assert_eq!(
        (entry.msi().address_lo, entry.msi().address_hi, entry.msi().data),
        (0xfee0_1000, 1, 0x41)
    );
    let mut chip = KvmIrqchip {
        chip_id: KVM_IRQCHIP_IOAPIC,
        ..Default::default()
    };
    let mut ioapic = KvmIoapicState {
        base_address: 0xfec0_0000,
        ..Default::default()
    };
    ioapic.redirtbl[23] = 0x1_0000;
    chip.set_ioapic(ioapic);
    assert_eq!(chip.ioapic(), ioapic);
}
