//! Performance counters: what is offered, their registers, what they count, and filters.

use crate::run::guest;
use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;
use zerocopy::IntoBytes;

const PERFCTR0: u32 = 0xc1;
const EVNTSEL0: u32 = 0x186;
const FIXED_CTR0: u32 = 0x309;
const PERF_CAPABILITIES: u32 = 0x345;
const FIXED_CTR_CTRL: u32 = 0x38d;
const GLOBAL_STATUS: u32 = 0x38e;
const GLOBAL_CTRL: u32 = 0x38f;
const GLOBAL_OVF_CTRL: u32 = 0x390;
const PMC0: u32 = 0x4c1;

/// Counts at level 0.
const ENABLE_KERNEL: u64 = 1 << 22 | 1 << 17;
const INTERRUPT: u64 = 1 << 20;
const INSTRUCTIONS: u64 = 0xc0;
const BRANCHES: u64 = 0xc4;

/// mov cx, 10; nop; loop back; out 10h, al; hlt: 22 instructions before the HLT, 10 branches among them.
const LOOP: [u8; 9] = [0xb9, 10, 0, 0x90, 0xe2, 0xfd, 0xe6, 0x10, 0xf4];

/// CPUID of a processor of Intel's with counters of version 2, and the rest as the host has it.
fn cpuid_of_intel() -> Option<Vec<KvmCpuidEntry2>> {
    let mut table = kvm()?.supported_cpuid().unwrap();
    for entry in &mut table {
        match entry.function {
            0 => (entry.ebx, entry.edx, entry.ecx) = (0x756e_6547, 0x4965_6e69, 0x6c65_746e),
            1 => entry.ecx |= 1 << 15,
            0xa => (entry.eax, entry.ebx, entry.edx) = (0x0730_0802, 0, 0x8603),
            _ => {}
        }
    }
    Some(table)
}

/// A guest of Intel's with counters, if the KVM has any.
fn guest_of_intel(code: &[u8]) -> Option<(Vm, Vcpu, Memory)> {
    let (vm, vcpu, ram) = guest(code).filter(|_| offered(KVM_CAP_PMU_CAPABILITY))?;
    vcpu.set_cpuid2(&cpuid_of_intel()?).unwrap();
    Some((vm, vcpu, ram))
}

fn run_to_port(vcpu: &Vcpu, port: u16) {
    match vcpu.run() {
        Ok(VcpuExit::IoOut(io)) => assert_eq!(io.port, port),
        exit => panic!("{exit:?}"),
    }
}

#[test]
fn registers_keep_their_rules() {
    let Some((_vm, vcpu, _ram)) = guest_of_intel(&[0xf4]) else {
        return;
    };
    assert_eq!(vcpu.get_msr(GLOBAL_CTRL), Ok(0xff), "after a reset all count");
    assert_eq!(vcpu.set_msr(GLOBAL_CTRL, 0x7_0000_00ff), OK);
    assert_eq!(vcpu.set_msr(GLOBAL_CTRL, 1 << 8), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(GLOBAL_CTRL, 1 << 35), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(EVNTSEL0, 1 << 21), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(EVNTSEL0 + 7, ENABLE_KERNEL | 0xffff), OK);
    assert_eq!(vcpu.get_msr(EVNTSEL0 + 7), Ok(ENABLE_KERNEL | 0xffff));
    assert_eq!(vcpu.set_msr(FIXED_CTR_CTRL, 0xbbb), OK);
    assert_eq!(vcpu.set_msr(FIXED_CTR_CTRL, 4), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(FIXED_CTR_CTRL, 0x1000), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(FIXED_CTR0 + 2, u64::MAX), OK);
    assert_eq!(vcpu.get_msr(FIXED_CTR0 + 2), Ok((1 << 48) - 1));
    assert_eq!(vcpu.set_msr(PERF_CAPABILITIES, 1 << 13), OK);
    assert_eq!(vcpu.set_msr(PERF_CAPABILITIES, 1 << 14), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(PMC0, (1 << 48) - 1), OK);
    assert_eq!(vcpu.get_msr(PERFCTR0), Ok((1 << 48) - 1));
    assert_eq!(vcpu.set_msr(PMC0, 1 << 48), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(GLOBAL_STATUS, 1 | 1 << 63), OK);
    assert_eq!(vcpu.set_msr(GLOBAL_STATUS, 1 << 20), Err(Errno::EINVAL));
    assert_eq!(vcpu.get_msr(GLOBAL_OVF_CTRL), Ok(0));
    // Another set of capabilities is another set of counters.
    assert_eq!(vcpu.set_msr(PERF_CAPABILITIES, 0), OK);
    assert_eq!(vcpu.get_msr(EVNTSEL0 + 7), Ok(0));
}

#[test]
fn what_is_saved_can_be_read_without_counters() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let listed = kvm().unwrap().msr_index_list().unwrap();
    for index in listed {
        assert!(vcpu.get_msr(index).is_ok(), "{index:#x}");
    }
}

#[test]
fn instructions_and_branches_are_counted_exactly() {
    let Some((_vm, vcpu, _ram)) = guest_of_intel(&LOOP) else {
        return;
    };
    vcpu.set_msr(EVNTSEL0, ENABLE_KERNEL | INSTRUCTIONS).unwrap();
    vcpu.set_msr(EVNTSEL0 + 1, ENABLE_KERNEL | BRANCHES).unwrap();
    // Only at other levels, and not at all.
    vcpu.set_msr(EVNTSEL0 + 2, 1 << 22 | 1 << 16 | INSTRUCTIONS)
        .unwrap();
    vcpu.set_msr(EVNTSEL0 + 3, 1 << 17 | INSTRUCTIONS).unwrap();
    vcpu.set_msr(FIXED_CTR_CTRL, 0x11).unwrap();
    vcpu.set_msr(GLOBAL_CTRL, 0x1_0000_000f).unwrap();
    run_to_port(&vcpu, 0x10);
    let read = |index| vcpu.get_msr(index).unwrap();
    assert_eq!([read(PERFCTR0), read(PERFCTR0 + 1)], [22, 10]);
    assert_eq!([read(PERFCTR0 + 2), read(PERFCTR0 + 3)], [0, 0]);
    assert_eq!([read(FIXED_CTR0), read(FIXED_CTR0 + 1)], [22, 0]);
    // What is written is counted on from.
    vcpu.set_msr(PERFCTR0, 1000).unwrap();
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(read(PERFCTR0), 1001);
}

/// The guest starts and reads a counter itself: the instruction that stops it is the last that counts.
#[test]
fn the_guest_counts_for_itself() {
    // mov ecx, 186h; mov eax, 4200c0h; xor edx, edx; wrmsr; nop; nop; xor eax, eax; wrmsr; xor cx, cx; rdpmc; out 10h, al
    let code = [
        0x66, 0xb9, 0x86, 0x01, 0, 0, 0x66, 0xb8, 0xc0, 0, 0x42, 0, 0x66, 0x31, 0xd2, 0x0f, 0x30, 0x90, 0x90,
        0x66, 0x31, 0xc0, 0x0f, 0x30, 0x66, 0x31, 0xc9, 0x0f, 0x33, 0xe6, 0x10,
    ];
    let Some((_vm, vcpu, _ram)) = guest_of_intel(&code) else {
        return;
    };
    run_to_port(&vcpu, 0x10);
    let regs = vcpu.get_regs().unwrap();
    assert_eq!((regs.rax, regs.rdx), (4, 0));
}

#[test]
fn an_overflow_is_noted_and_interrupts() {
    let Some(table) = cpuid_of_intel() else { return };
    let Some((vm, vcpu)) = vcpu_with_irqchip().filter(|_| offered(KVM_CAP_PMU_CAPABILITY)) else {
        return;
    };
    vcpu.set_cpuid2(&table).unwrap();
    let ram = memory(0x10000);
    // jmp here; and where NMIs go: out 11h, al
    ram.write(0x1000, &[0xeb, 0xfe]).unwrap();
    ram.write(0x3000, &[0xe6, 0x11]).unwrap();
    ram.store(2 * 4, &0x3000u32).unwrap();
    vm.add_memory(0, 0, &ram, 0).unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    vcpu.set_regs(&KvmRegs {
        rip: 0x1000,
        rflags: 2,
        rsp: 0x8000,
        ..Default::default()
    })
    .unwrap();
    // Of the local APIC's table the counters' entry is an NMI.
    const PERFORMANCE: usize = 0x340;
    let mut lapic = vcpu.get_lapic().unwrap();
    lapic.regs[0xf0..0xf4].copy_from_slice(&0x1ffu32.to_le_bytes());
    lapic.regs[PERFORMANCE..PERFORMANCE + 4].copy_from_slice(&0x400u32.to_le_bytes());
    vcpu.set_lapic(&lapic).unwrap();
    vcpu.set_msr(PERF_CAPABILITIES, 1 << 13).unwrap();
    vcpu.set_msr(EVNTSEL0, ENABLE_KERNEL | INTERRUPT | BRANCHES)
        .unwrap();
    vcpu.set_msr(PMC0, (1 << 48) - 1000).unwrap();
    vcpu.set_msr(GLOBAL_CTRL, 1).unwrap();
    run_to_port(&vcpu, 0x11);
    assert_eq!(vcpu.get_msr(GLOBAL_STATUS), Ok(1));
    assert!(vcpu.get_msr(PMC0).unwrap() < 16, "counted on from zero");
    // The entry masks itself.
    let lapic = vcpu.get_lapic().unwrap();
    assert_ne!(lapic.regs[PERFORMANCE + 2] & 1, 0);
}

fn set_filter(vm: &Vm, head: &KvmPmuEventFilter, events: &[u64]) -> Result<i64, Errno> {
    let bytes = [head.as_bytes(), events.as_bytes()].concat();
    vm.raw(KVM_SET_PMU_EVENT_FILTER, bytes.as_ptr() as u64)
}

#[test]
fn filters_are_checked_and_obeyed() {
    let Some((vm, vcpu, _ram)) = guest_of_intel(&LOOP) else {
        return;
    };
    assert_eq!(vm.check_extension(KVM_CAP_PMU_EVENT_FILTER), Ok(1));
    assert_eq!(vm.check_extension(KVM_CAP_PMU_EVENT_MASKED_EVENTS), Ok(1));
    let deny = KvmPmuEventFilter {
        action: KVM_PMU_EVENT_DENY,
        nevents: 1,
        fixed_counter_bitmap: 1,
        ..Default::default()
    };
    let set = |change: &dyn Fn(&mut KvmPmuEventFilter), event: u64| {
        let mut head = deny;
        change(&mut head);
        set_filter(&vm, &head, &[event])
    };
    assert_eq!(set(&|f| f.action = 2, 0), Err(Errno::EINVAL));
    assert_eq!(set(&|f| f.flags = 2, 0), Err(Errno::EINVAL));
    assert_eq!(set(&|f| f.nevents = 301, 0), Err(Errno::E2BIG));
    assert_eq!(
        set(&|f| f.flags = KVM_PMU_EVENT_FLAG_MASKED_EVENTS, u64::MAX),
        Err(Errno::EINVAL)
    );
    assert_eq!(set(&|_| (), u64::MAX), Ok(0), "matches nothing");
    assert_eq!(vm.raw(KVM_SET_PMU_EVENT_FILTER, NOWHERE), Err(Errno::EFAULT));
    assert_eq!(set(&|_| (), BRANCHES), Ok(0));
    vcpu.set_msr(EVNTSEL0, ENABLE_KERNEL | INSTRUCTIONS).unwrap();
    vcpu.set_msr(EVNTSEL0 + 1, ENABLE_KERNEL | BRANCHES).unwrap();
    vcpu.set_msr(FIXED_CTR_CTRL, 0x11).unwrap();
    vcpu.set_msr(GLOBAL_CTRL, 0x3_0000_0003).unwrap();
    run_to_port(&vcpu, 0x10);
    let read = |index| vcpu.get_msr(index).unwrap();
    assert_eq!([read(PERFCTR0), read(PERFCTR0 + 1)], [22, 0]);
    assert_eq!([read(FIXED_CTR0), read(FIXED_CTR0 + 1)], [0, 22]);
    // Another one, while counters count.
    assert_eq!(set(&|f| f.action = KVM_PMU_EVENT_ALLOW, BRANCHES), Ok(0));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!([read(PERFCTR0), read(FIXED_CTR0)], [22, 1]);
}

#[test]
fn counters_can_be_switched_off() {
    let Some(table) = cpuid_of_intel() else { return };
    let Some(vm) = vm().filter(|_| offered(KVM_CAP_PMU_CAPABILITY)) else {
        return;
    };
    assert_eq!(
        vm.enable_cap(KVM_CAP_PMU_CAPABILITY, [2, 0, 0, 0]),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        vm.enable_cap(KVM_CAP_PMU_CAPABILITY, [KVM_PMU_CAP_DISABLE, 0, 0, 0]),
        OK
    );
    let vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_cpuid2(&table).unwrap();
    assert_eq!(vcpu.set_msr(GLOBAL_CTRL, 1), Err(Errno::EINVAL));
    assert_eq!(vcpu.get_msr(EVNTSEL0), Ok(0));
    assert_eq!(
        vm.enable_cap(KVM_CAP_PMU_CAPABILITY, [0, 0, 0, 0]),
        Err(Errno::EINVAL),
        "too late"
    );
}

/// On ring3, a guest may have AMD's processor on any host.
#[test]
fn amds_counters_are_others() {
    let Some(mut table) = cpuid_of_intel() else { return };
    if back_end() == BackEnd::Device {
        return;
    }
    let Some((_vm, vcpu, _ram)) = guest(&LOOP) else {
        return;
    };
    table.retain(|entry| entry.function != 0x8000_0022);
    for entry in &mut table {
        match entry.function {
            0 => (entry.ebx, entry.edx, entry.ecx) = (0x6874_7541, 0x6974_6e65, 0x444d_4163),
            0x8000_0001 => entry.ecx |= 1 << 23,
            0x8000_0000 => entry.eax = 0x8000_0022,
            _ => {}
        }
    }
    table.push(KvmCpuidEntry2 {
        function: 0x8000_0022,
        eax: 1,
        ebx: 6,
        ..Default::default()
    });
    vcpu.set_cpuid2(&table).unwrap();
    const CORE_CTL: u32 = 0xc001_0200;
    const K7_EVNTSEL0: u32 = 0xc001_0000;
    const K7_PERFCTR0: u32 = 0xc001_0004;
    const CTL: u32 = 0xc000_0301;
    assert_eq!(vcpu.get_msr(CTL), Ok(0x3f));
    // What is reserved is dropped; the older registers are the first of the newer.
    vcpu.set_msr(K7_EVNTSEL0, ENABLE_KERNEL | 1 << 19 | 0xc0).unwrap();
    assert_eq!(vcpu.get_msr(CORE_CTL), Ok(ENABLE_KERNEL | 0xc0));
    vcpu.set_msr(CORE_CTL + 10, ENABLE_KERNEL | 0xc2).unwrap();
    run_to_port(&vcpu, 0x10);
    assert_eq!(vcpu.get_msr(K7_PERFCTR0), Ok(22));
    assert_eq!(vcpu.get_msr(CORE_CTL + 11), Ok(10));
    assert_eq!(vcpu.set_msr(CORE_CTL + 12, 0), Err(Errno::EINVAL));
}
