//! All that KVM tells of a VM and a vCPU is changed, set, and told again.

use crate::*;
use ring3_uapi::cap::KVM_CAP_XSAVE2;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use zerocopy::IntoBytes;

/// A segment like no other.
fn segment(n: u8) -> KvmSegment {
    KvmSegment {
        base: 0x10_0000 * u64::from(n),
        limit: 0xf_ffff,
        selector: 8 * u16::from(n),
        type_: 3,
        present: 1,
        s: 1,
        ..Default::default()
    }
}

/// Protected mode, with everything else than it was.
fn change(sregs: &mut KvmSregs) {
    sregs.cs = KvmSegment {
        type_: 11,
        ..segment(1)
    };
    let data = [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ];
    for (n, place) in (2..).zip(data) {
        *place = segment(n);
    }
    sregs.tr = KvmSegment {
        type_: 11,
        s: 0,
        ..segment(8)
    };
    sregs.ldt = KvmSegment {
        type_: 2,
        s: 0,
        ..segment(9)
    };
    (sregs.gdt.base, sregs.gdt.limit) = (0x5000, 0x37);
    (sregs.idt.base, sregs.idt.limit) = (0x6000, 0x7ff);
    sregs.cr0 = 0x6000_0011;
    (sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8) = (0xdead_beef, 0x9000, 0x600, 5);
    sregs.efer = 1;
}

#[test]
fn special_registers() {
    let Some((_vm, vcpu)) = vcpu_with_cpuid() else {
        return;
    };
    let mut sregs = vcpu.get_sregs().unwrap();
    change(&mut sregs);
    assert_eq!(vcpu.set_sregs(&sregs), OK);
    assert_eq!(vcpu.get_sregs(), Ok(sregs));
    let mut second = vcpu.get_sregs2().unwrap();
    assert_eq!(
        (second.cs, second.tr, second.cr2),
        (sregs.cs, sregs.tr, sregs.cr2)
    );
    (second.ds, second.cr2, second.cr8) = (segment(10), 0x1234, 7);
    assert_eq!(vcpu.set_sregs2(&second), OK);
    assert_eq!(vcpu.get_sregs2(), Ok(second));
    let back = vcpu.get_sregs().unwrap();
    assert_eq!((back.ds, back.cr2, back.cr8), (second.ds, 0x1234, 7));
}

#[test]
fn a_queued_interrupt() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.interrupt_bitmap[1] = 1 << 1;
    assert_eq!(vcpu.set_sregs(&sregs), OK);
    assert_eq!(vcpu.get_sregs(), Ok(sregs));
    let events = vcpu.get_vcpu_events().unwrap();
    assert_eq!((events.interrupt.injected, events.interrupt.nr), (1, 0x41));
}

#[test]
fn floating_point() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let mut fpu = vcpu.get_fpu().unwrap();
    for (n, register) in fpu.fpr.iter_mut().enumerate() {
        register[..10].copy_from_slice(&[n as u8, 2, 3, 4, 5, 6, 7, 0x80, 9, 0x40]);
    }
    for (n, register) in fpu.xmm.iter_mut().enumerate() {
        *register = [n as u8 + 1; 16];
    }
    (fpu.fcw, fpu.fsw, fpu.ftwx) = (0x27f, 0x3800, 0xff);
    (fpu.last_opcode, fpu.last_ip, fpu.last_dp) = (0x123, 0x1000, 0x2000);
    assert_eq!(vcpu.set_fpu(&fpu), OK);
    assert_eq!(vcpu.get_fpu(), Ok(fpu));
}

#[test]
fn extended_images() {
    let Some((vm, vcpu)) = vcpu_with_cpuid() else {
        return;
    };
    let size = vm.check_extension(KVM_CAP_XSAVE2).unwrap() as usize;
    let mut image = vcpu.get_xsave2(size).unwrap();
    // The x87 and SSE, and, where they are, the upper halves of AVX's registers.
    const COMPONENTS: usize = 512 / 4;
    const UPPER_HALVES: usize = 576 / 4;
    let xcr0 = vcpu.get_xcrs().unwrap();
    let mut all = xcr0;
    all.xcrs[0].value = 7;
    let avx = vcpu.set_xcrs(&all) == OK;
    image[COMPONENTS] = if avx { 7 } else { 3 };
    (image[0], image[6]) = (0x027f, 0x1fa0);
    for (n, word) in (1..).zip(&mut image[160 / 4..416 / 4]) {
        *word = n;
    }
    if avx {
        image[UPPER_HALVES..][..64].fill(0x5a5a_5a5a);
    }
    let at = image.as_mut_ptr() as u64;
    assert_eq!(vcpu.raw(KVM_SET_XSAVE, at), Ok(0));
    let back = vcpu.get_xsave2(size).unwrap();
    assert_eq!(back[..UPPER_HALVES + 64], image[..UPPER_HALVES + 64]);
    assert_eq!(back[..1024], vcpu.get_xsave().unwrap().region[..1024]);
    assert_eq!(vcpu.set_xcrs(&xcr0), OK);
    assert_eq!(vcpu.get_xcrs(), Ok(xcr0));
}

#[test]
fn debug_registers() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let debug = KvmDebugregs {
        db: [0x1000, 0x2000, 0x3000, 0x4000],
        dr6: 0xffff_0ff1,
        dr7: 0x455,
        ..Default::default()
    };
    assert_eq!(vcpu.set_debugregs(&debug), OK);
    assert_eq!(vcpu.get_debugregs(), Ok(debug));
}

#[test]
fn events() {
    let Some((_vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let mut events = vcpu.get_vcpu_events().unwrap();
    events.interrupt = KvmVcpuEventsInterrupt {
        injected: 1,
        nr: 0x41,
        soft: 0,
        shadow: KVM_X86_SHADOW_INT_STI,
    };
    (events.nmi.injected, events.nmi.pending, events.nmi.masked) = (1, 1, 1);
    events.exception = KvmVcpuEventsException {
        injected: 1,
        nr: 13,
        has_error_code: 1,
        error_code: 0x10,
        ..Default::default()
    };
    assert_eq!(vcpu.set_vcpu_events(&events), OK);
    assert_eq!(vcpu.get_vcpu_events(), Ok(events));
}

/// What a client saves is what it can restore.
#[test]
fn all_registers_that_are_listed() {
    let (Some(kvm), Some((_vm, vcpu))) = (kvm(), vcpu_with_cpuid()) else {
        return;
    };
    /// The time-stamp counter goes on.
    const TSC: u32 = 0x10;
    let listed = kvm.msr_index_list().unwrap();
    let entry = |index| KvmMsrEntry {
        index,
        ..Default::default()
    };
    let mut saved: Vec<_> = listed
        .into_iter()
        .filter(|index| *index != TSC)
        .map(entry)
        .collect();
    for part in saved.chunks_mut(100) {
        assert_eq!(vcpu.get_msrs(part), Ok(part.len()));
    }
    for part in saved.chunks(100) {
        let done = vcpu.set_msrs(part).unwrap();
        assert_eq!(done, part.len(), "{:#x?}", part.get(done));
    }
    let mut again = saved.clone();
    for part in again.chunks_mut(100) {
        assert_eq!(vcpu.get_msrs(part), Ok(part.len()));
    }
    let fields = |list: &[KvmMsrEntry]| -> Vec<_> { list.iter().map(|e| (e.index, e.data)).collect() };
    assert_eq!(fields(&again), fields(&saved));
}

#[test]
fn tables_of_cpuid() {
    let Some((_vm, vcpu)) = vcpu_with_cpuid() else {
        return;
    };
    let table = vcpu.get_cpuid2().unwrap();
    assert_eq!(vcpu.set_cpuid2(&table[1..]), OK);
    let rest = vcpu.get_cpuid2().unwrap();
    assert_eq!(rest.as_bytes(), table[1..].as_bytes());
    assert_eq!(vcpu.set_cpuid2(&table), OK);
    assert_eq!(vcpu.get_cpuid2().unwrap().as_bytes(), table.as_bytes());
    // The older form has no indices.
    let old = KvmCpuidEntry {
        function: 0x8000_0006,
        ecx: 0x1234,
        ..Default::default()
    };
    assert_eq!(vcpu.set_cpuid(&[old]), OK);
    let back = vcpu.get_cpuid2().unwrap();
    let (leaf, expected) = (back[0], (0x8000_0006, 0, 0x1234));
    assert_eq!((leaf.function, leaf.index, leaf.ecx), expected);
}

#[test]
fn a_local_apic() {
    let Some((_vm, vcpu)) = vcpu_with_cpuid() else {
        return;
    };
    let mut lapic = vcpu.get_lapic().unwrap();
    let mut put = |register: usize, value: u32| {
        lapic.regs[register..register + 4].copy_from_slice(&value.to_le_bytes());
    };
    // Task priority, logical destination and its format, spurious vector, commands, the table of local interrupts, the
    // timer's divisor and initial count.
    for (register, value) in [
        (0x80, 0x20),
        (0xd0, 0x0200_0000),
        (0xe0, 0x0fff_ffff),
        (0xf0, 0x1ff),
        (0x300, 0x4_0041),
        (0x310, 0x0100_0000),
        (0x320, 0x1_0031),
        (0x350, 0x1_0700),
        (0x360, 0x400),
        (0x370, 0x32),
        (0x3e0, 0xb),
        // In service, triggered by level, and requested.
        (0x110, 1 << 16),
        (0x190, 1 << 16),
        (0x210, 1 << 5),
    ] {
        put(register, value);
    }
    assert_eq!(vcpu.set_lapic(&lapic), OK);
    let back = vcpu.get_lapic().unwrap();
    for register in (0x20..0x400).step_by(16) {
        // The processor's priority follows from the others.
        if register != 0xa0 {
            let value = |state: &KvmLapicState| state.regs[register..register + 4].to_vec();
            assert_eq!(value(&back), value(&lapic), "{register:#x}");
        }
    }
}

#[test]
fn controllers_with_pins() {
    let Some((vm, _vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let mut chip = vm.get_irqchip(KVM_IRQCHIP_IOAPIC).unwrap();
    let mut ioapic = chip.ioapic();
    assert_eq!(ioapic.base_address, 0xfec0_0000);
    (ioapic.ioregsel, ioapic.id) = (0x10, 3);
    for (n, entry) in (0..).zip(&mut ioapic.redirtbl) {
        // Masked, each with a vector of its own.
        *entry = 1 << 56 | 0x1_0030 | n;
    }
    chip.set_ioapic(ioapic);
    assert_eq!(vm.set_irqchip(&chip), OK);
    assert_eq!(vm.get_irqchip(KVM_IRQCHIP_IOAPIC).unwrap().ioapic(), ioapic);
    for id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
        let mut chip = vm.get_irqchip(id).unwrap();
        let pic = KvmPicState {
            last_irr: 1,
            irr: 2,
            imr: 0xff,
            isr: 4,
            priority_add: 3,
            irq_base: 0x70,
            read_reg_select: 1,
            special_mask: 1,
            auto_eoi: 1,
            rotate_on_auto_eoi: 1,
            special_fully_nested_mode: 1,
            elcr: 0x20,
            ..chip.pic()
        };
        chip.set_pic(pic);
        assert_eq!(vm.set_irqchip(&chip), OK);
        assert_eq!(vm.get_irqchip(id).unwrap().pic(), pic);
    }
}

#[test]
fn a_timer() {
    let Some(vm) = vm() else { return };
    vm.create_irqchip().unwrap();
    vm.create_pit2(&KvmPitConfig::default()).unwrap();
    let mut state = vm.get_pit2().unwrap();
    for (n, channel) in (1..).zip(&mut state.channels) {
        channel.count = 0x1000 * n;
        (channel.latched_count, channel.count_latched) = (0x55, 3);
        (channel.status_latched, channel.status) = (1, 0x34);
        (channel.read_state, channel.write_state) = (3, 4);
        (channel.write_latch, channel.rw_mode) = (0x12, 3);
        (channel.mode, channel.bcd, channel.gate) = (2, 0, 1);
    }
    state.flags = KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    assert_eq!(vm.set_pit2(&state), OK);
    let mut back = vm.get_pit2().unwrap();
    // When the count was loaded is when it was set.
    for (channel, set) in back.channels.iter_mut().zip(&state.channels) {
        channel.count_load_time = set.count_load_time;
    }
    assert_eq!(back, state);
}
