//! Paravirtual features: the steal-time record, the flush of a sleeping vCPU's TLB, the polling switch, paired clocks.

use crate::*;
use ring3_client::VcpuExit;
use ring3_uapi::cap::{KVM_CAP_EXIT_HYPERCALL, KVM_CAP_X86_DISABLE_EXITS};
use ring3_uapi::x86::pv::*;
use ring3_uapi::x86::*;
use std::time::{Duration, Instant};

const FEATURES: u32 = 0x4000_0001;

/// Whether guests are offered all of these; if not, the calling test is skipped.
fn guests_have(features: &[u32]) -> bool {
    let Some(kvm) = kvm() else { return false };
    let cpuid = kvm.supported_cpuid().unwrap();
    let word = cpuid.iter().find(|e| e.function == FEATURES).map_or(0, |e| e.eax);
    let all = features.iter().all(|bit| word >> bit & 1 != 0);
    if !all {
        skipped("not offered");
    }
    all
}

#[test]
fn registers_keep_their_rules() {
    if !guests_have(&[KVM_FEATURE_STEAL_TIME, KVM_FEATURE_POLL_CONTROL]) {
        return;
    }
    let listed = kvm().unwrap().msr_index_list().unwrap();
    assert!(listed.contains(&MSR_KVM_STEAL_TIME) && listed.contains(&MSR_KVM_POLL_CONTROL));
    let Some((_vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    assert_eq!(vcpu.get_msr(MSR_KVM_STEAL_TIME), Ok(0));
    assert_eq!(vcpu.set_msr(MSR_KVM_STEAL_TIME, 0x1000 | 2), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(MSR_KVM_STEAL_TIME, 0x1040 | 1), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_STEAL_TIME), Ok(0x1041));
    assert_eq!(vcpu.get_msr(MSR_KVM_POLL_CONTROL), Ok(1));
    assert_eq!(vcpu.set_msr(MSR_KVM_POLL_CONTROL, 2), Err(Errno::EINVAL));
    assert_eq!(vcpu.set_msr(MSR_KVM_POLL_CONTROL, 0), OK);
    assert_eq!(vcpu.get_msr(MSR_KVM_POLL_CONTROL), Ok(0));
}

// Where things are in the guest's 64 KiB, each page of which is mapped to itself, but for WINDOW.
const RECORD: usize = 0x1100;
const GDT: u64 = 0x2000;
const IDT: u64 = 0x3000;
const DIRECTORY: u64 = 0x4000;
const TABLE: usize = 0x5000;
const PAGES: [usize; 2] = [0x6000, 0x7000];
const CODE: u64 = 0x8000;
const HANDLER: u64 = 0x8800;
const WINDOW: usize = 9;

fn segment(selector: u16, type_: u8) -> KvmSegment {
    KvmSegment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// A guest in paged 32-bit mode that looks through WINDOW, halts, and looks again when an NMI comes.
fn looks_twice(ram: &Memory, vcpu: &Vcpu) {
    // mov eax, [0x9000]; hlt
    ram.write(CODE as usize, &[0xa1, 0x00, 0x90, 0, 0, 0xf4]).unwrap();
    // mov ebx, [0x9000]; out 0x10, al
    let handler = [0x8b, 0x1d, 0x00, 0x90, 0, 0, 0xe6, 0x10];
    ram.write(HANDLER as usize, &handler).unwrap();
    ram.store(GDT as usize + 8, &0x00cf_9b00_0000_ffffu64).unwrap();
    let gate = (HANDLER & 0xffff) | 8 << 16 | 0x8e00 << 32;
    ram.store(IDT as usize + 2 * 8, &gate).unwrap();
    ram.store(DIRECTORY as usize, &(TABLE as u32 | 7)).unwrap();
    for page in 0..16u32 {
        ram.store(TABLE + 4 * page as usize, &(page << 12 | 7)).unwrap();
    }
    for (i, page) in PAGES.into_iter().enumerate() {
        ram.store(page, &(0x1111_1111 * (i as u32 + 1))).unwrap();
    }
    show(ram, 0);
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.cs = segment(8, 11);
    let data = segment(16, 3);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x17);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xff);
    (sregs.cr0, sregs.cr3) = (0x8000_0011, DIRECTORY);
    vcpu.set_sregs(&sregs).unwrap();
    let regs = KvmRegs {
        rip: CODE,
        rflags: 2,
        rsp: 0xf000,
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
}

/// Puts one of PAGES behind the window.
fn show(ram: &Memory, page: usize) {
    ram.store(TABLE + 4 * WINDOW, &(PAGES[page] as u32 | 7)).unwrap();
}

/// Code for the same guest: a hypercall, then an exit.
fn calls(number: u8, args: [u32; 2]) -> Vec<u8> {
    // mov eax, number; mov ebx, args[0]; mov ecx, args[1]; vmmcall; out 0x10, al
    let mut code = vec![0xb8, number, 0, 0, 0, 0xbb];
    code.extend(args[0].to_le_bytes());
    code.push(0xb9);
    code.extend(args[1].to_le_bytes());
    code.extend([0x0f, 0x01, 0xd9, 0xe6, 0x10]);
    code
}

#[test]
fn clocks_are_paired() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    looks_twice(&ram, &vcpu);
    let call = |args| {
        ram.write(CODE as usize, &calls(KVM_HC_CLOCK_PAIRING as u8, args))
            .unwrap();
        let regs = KvmRegs {
            rip: CODE,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        let exit = vcpu.run();
        assert!(matches!(exit, Ok(VcpuExit::IoOut(_))), "{exit:?}");
        vcpu.get_regs().unwrap().rax as u32
    };
    let seconds = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.unwrap().as_secs() as i64
    };
    let (before, tsc_before) = (seconds(), vcpu.get_msr(0x10).unwrap());
    let answer = call([0xa000, 0]);
    if answer == (KVM_EOPNOTSUPP as u32).wrapping_neg() {
        return skipped("the host's clock is not its TSC");
    }
    assert_eq!(answer, 0);
    let pair: KvmClockPairing = ram.load(0xa000).unwrap();
    assert!((before..=seconds()).contains(&pair.sec) && (0..1_000_000_000).contains(&pair.nsec));
    assert!((tsc_before..=vcpu.get_msr(0x10).unwrap()).contains(&pair.tsc));
    assert_eq!(call([0xa000, 1]), (KVM_EOPNOTSUPP as u32).wrapping_neg());
    assert_eq!(call([0xf000_0000, 0]), (KVM_EFAULT as u32).wrapping_neg());
}

#[test]
fn the_client_answers_the_hypercalls_it_asked_for() {
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    if !offered(KVM_CAP_EXIT_HYPERCALL) {
        return;
    }
    let all = vm.check_extension(KVM_CAP_EXIT_HYPERCALL).unwrap() as u64;
    assert_eq!(all, KVM_EXIT_HYPERCALL_VALID_MASK);
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    looks_twice(&ram, &vcpu);
    let call = |args| {
        ram.write(CODE as usize, &calls(KVM_HC_MAP_GPA_RANGE as u8, args))
            .unwrap();
        let regs = KvmRegs {
            rip: CODE,
            rdx: 0x11,
            rflags: 2,
            ..Default::default()
        };
        vcpu.set_regs(&regs).unwrap();
        vcpu.run().unwrap()
    };
    let answer = |exit| {
        assert!(matches!(exit, VcpuExit::IoOut(_)), "{exit:?}");
        vcpu.get_regs().unwrap().rax as u32
    };
    let negated = |error: u64| (error as u32).wrapping_neg();
    let enable = |hypercalls| vm.enable_cap(KVM_CAP_EXIT_HYPERCALL, [hypercalls, 0, 0, 0]);
    // Nobody asked for them.
    assert_eq!(answer(call([0x8000, 4])), negated(KVM_ENOSYS));
    assert_eq!(enable(all | 1 << KVM_HC_SEND_IPI), Err(Errno::EINVAL));
    assert_eq!(enable(all), OK);
    for range in [[0x8000, 0], [0x8100, 1]] {
        assert_eq!(answer(call(range)), negated(KVM_EINVAL), "{range:x?}");
    }
    for value in [0, negated(KVM_EINVAL).into(), 0x5_0000_0007] {
        let exit = call([0x8000, 4]);
        let VcpuExit::Hypercall(asked) = exit else {
            panic!("{exit:?}");
        };
        assert_eq!(
            (asked.nr, asked.ret, asked.flags),
            (KVM_HC_MAP_GPA_RANGE.into(), 0, 0)
        );
        assert_eq!(asked.args[..3], [0x8000, 4, 0x11]);
        vcpu.complete_hypercall(value);
        assert_eq!(answer(vcpu.run().unwrap()), value as u32);
    }
    assert_eq!(enable(0), OK);
    assert_eq!(answer(call([0x8000, 4])), negated(KVM_ENOSYS));
}

#[test]
fn who_keeps_hlt_is_not_told_of_kicks() {
    let (Some(kvm), Some(vm)) = (kvm(), vm()) else {
        return;
    };
    let cpuid = kvm.supported_cpuid().unwrap();
    let unhalt = |table: &[KvmCpuidEntry2]| {
        let leaf = table.iter().find(|e| e.function == FEATURES);
        leaf.is_some_and(|e| e.eax >> KVM_FEATURE_PV_UNHALT & 1 != 0)
    };
    let exits = kvm.check_extension(KVM_CAP_X86_DISABLE_EXITS).unwrap() as u64;
    if !unhalt(&cpuid) || exits & KVM_X86_DISABLE_EXITS_HLT == 0 {
        return skipped("not offered");
    }
    let with_exits = vm.create_vcpu(0).unwrap();
    with_exits.set_cpuid2(&cpuid).unwrap();
    assert!(unhalt(&with_exits.get_cpuid2().unwrap()));
    let other = kvm.create_vm(0).unwrap();
    let keeps = KVM_X86_DISABLE_EXITS_HLT;
    other
        .enable_cap(KVM_CAP_X86_DISABLE_EXITS, [keeps, 0, 0, 0])
        .unwrap();
    let without = other.create_vcpu(0).unwrap();
    without.set_cpuid2(&cpuid).unwrap();
    assert!(!unhalt(&without.get_cpuid2().unwrap()));
}

fn record(ram: &Memory) -> KvmStealTime {
    ram.load(RECORD).unwrap()
}

#[test]
fn a_sleeper_flushes_its_tlb_when_it_wakes() {
    if !guests_have(&[KVM_FEATURE_STEAL_TIME, KVM_FEATURE_PV_TLB_FLUSH]) {
        return;
    }
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    looks_twice(&ram, &vcpu);
    vcpu.set_cpuid2(&kvm().unwrap().supported_cpuid().unwrap())
        .unwrap();
    // What the guest has never written may be anything.
    ram.store(RECORD + 8, &5u32).unwrap();
    vcpu.set_msr(MSR_KVM_STEAL_TIME, RECORD as u64 | KVM_MSR_ENABLED)
        .unwrap();
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| vcpu.run());
        let end = Instant::now() + Duration::from_secs(20);
        while record(&ram).preempted & KVM_VCPU_PREEMPTED == 0 {
            assert!(Instant::now() < end, "it does not sleep");
            std::thread::yield_now();
        }
        let version = record(&ram).version;
        assert!(version > 5 && version.is_multiple_of(2));
        show(&ram, 1);
        let wish = KVM_VCPU_PREEMPTED | KVM_VCPU_FLUSH_TLB;
        ram.store(RECORD + 16, &wish).unwrap();
        assert_eq!(vcpu.nmi(), OK);
        let exit = runs.join().expect("no panic");
        assert!(
            matches!(exit, Ok(VcpuExit::IoOut(io)) if io.port == 0x10),
            "{exit:?}"
        );
    });
    let regs = vcpu.get_regs().unwrap();
    assert_eq!((regs.rax, regs.rbx), (0x1111_1111, 0x2222_2222));
    let record = record(&ram);
    assert_eq!(record.preempted & KVM_VCPU_FLUSH_TLB, 0);
    assert!(record.version.is_multiple_of(2));
}

#[test]
fn ipis_reach_who_is_there() {
    if !guests_have(&[KVM_FEATURE_PV_SEND_IPI]) {
        return;
    }
    let Some((vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let ram = memory(0x10000);
    vm.add_memory(0, 0, &ram, 0).unwrap();
    looks_twice(&ram, &vcpu);
    vcpu.set_cpuid2(&kvm().unwrap().supported_cpuid().unwrap())
        .unwrap();
    // To the APIC ids from `first` on that the bitmap has.
    let call = |bitmap: u32, first: u64, icr: u64| {
        ram.write(CODE as usize, &calls(KVM_HC_SEND_IPI as u8, [bitmap, 0]))
            .unwrap();
        let regs = KvmRegs {
            rip: CODE,
            rflags: 2,
            rdx: first,
            rsi: icr,
            ..vcpu.get_regs().unwrap()
        };
        vcpu.set_regs(&regs).unwrap();
        let exit = vcpu.run();
        assert!(matches!(exit, Ok(VcpuExit::IoOut(_))), "{exit:?}");
        vcpu.get_regs().unwrap().rax as u32
    };
    let nobody = 0;
    assert_eq!(call(0b10, 0, 0x4400), nobody);
    assert_eq!(
        call(u32::MAX, 0xffff_ffff, 0x4400),
        nobody,
        "the first is not beyond the last"
    );
    assert_eq!(call(u32::MAX, 0xff, 0x4400), nobody, "nor everybody an id");
    let invalid = (KVM_EINVAL as u32).wrapping_neg();
    for other in [0x800, 0x4_0000, 0x8_0000] {
        assert_eq!(call(1, 0, other), invalid);
    }
}
