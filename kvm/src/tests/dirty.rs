//! KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG.

use super::{Machine, memory};
use crate::errno::Errno;
use ring3_host::addr::GuestPhys;
use ring3_uapi::cap::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
use ring3_uapi::ioctl::{KVM_CLEAR_DIRTY_LOG, KVM_ENABLE_CAP, KVM_GET_DIRTY_LOG};
use ring3_uapi::{
    KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
    KvmClearDirtyLog, KvmDirtyLog, KvmEnableCap,
};

fn log(machine: &Machine, slot: u32) -> Result<[u64; 2], Errno> {
    let mut bits = [0; 2];
    let args = KvmDirtyLog {
        slot,
        padding1: 0,
        dirty_bitmap: bits.as_mut_ptr() as u64,
    };
    machine.call(KVM_GET_DIRTY_LOG, &args).map(|_| bits)
}

fn clear(machine: &Machine, first: u64, pages: u32, mask: [u64; 2]) -> Result<i64, Errno> {
    let args = KvmClearDirtyLog {
        slot: 0,
        num_pages: pages,
        first_page: first,
        dirty_bitmap: mask.as_ptr() as u64,
    };
    machine.call(KVM_CLEAR_DIRTY_LOG, &args)
}

fn manual(machine: &Machine, options: u64) -> Result<i64, Errno> {
    let cap = KvmEnableCap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        args: [options, 0, 0, 0],
        ..KvmEnableCap::default()
    };
    machine.call(KVM_ENABLE_CAP, &cap)
}

fn write(machine: &Machine, page: u64) {
    let at = GuestPhys(page << 12);
    machine.vm.memory().write(0, at, &[1]).expect("in the slot");
}

#[test]
fn a_log_is_cleared_by_being_read() {
    let machine = Machine::new();
    let memory = memory(100);
    assert_eq!(machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, &memory), Ok(0));
    assert_eq!(log(&machine, 0), Ok([0, 0]));
    write(&machine, 3);
    write(&machine, 64);
    write(&machine, 99);
    assert_eq!(log(&machine, 0), Ok([1 << 3, 1 | 1 << 35]));
    assert_eq!(log(&machine, 0), Ok([0, 0]));
    // Reading marks nothing.
    machine
        .vm
        .memory()
        .read(0, GuestPhys(0), &mut [0; 8])
        .expect("readable");
    assert_eq!(log(&machine, 0), Ok([0, 0]));
}

#[test]
fn a_log_lives_with_its_flag() {
    let machine = Machine::new();
    let memory = memory(100);
    assert_eq!(machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, &memory), Ok(0));
    write(&machine, 5);
    // A move takes it along.
    assert_eq!(
        machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0x1000, &memory),
        Ok(0)
    );
    write(&machine, 1);
    assert_eq!(log(&machine, 0), Ok([1 << 5 | 1, 0]));
    write(&machine, 1);
    assert_eq!(machine.set_slot(0, 0, 0x1000, &memory), Ok(0));
    assert_eq!(log(&machine, 0), Err(Errno::ENOENT));
    assert_eq!(
        machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0x1000, &memory),
        Ok(0)
    );
    assert_eq!(log(&machine, 0), Ok([0, 0]));
}

#[test]
fn what_has_no_log_is_told_apart() {
    let machine = Machine::new();
    assert_eq!(log(&machine, 16), Err(Errno::EINVAL));
    assert_eq!(log(&machine, 2 << 16), Err(Errno::EINVAL));
    assert_eq!(log(&machine, 3), Err(Errno::ENOENT));
    let memory = memory(100);
    assert_eq!(machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, &memory), Ok(0));
    assert_eq!(log(&machine, 1 << 16), Err(Errno::ENOENT));
    let nowhere = KvmDirtyLog {
        dirty_bitmap: 16,
        ..KvmDirtyLog::default()
    };
    assert_eq!(machine.call(KVM_GET_DIRTY_LOG, &nowhere), Err(Errno::EFAULT));
}

#[test]
fn a_client_may_clear_by_itself() {
    let machine = Machine::new();
    let memory = memory(100);
    assert_eq!(manual(&machine, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), Ok(0));
    assert_eq!(machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, &memory), Ok(0));
    write(&machine, 3);
    write(&machine, 70);
    for _ in 0..2 {
        assert_eq!(log(&machine, 0), Ok([1 << 3, 1 << 6]));
    }
    assert_eq!(clear(&machine, 64, 36, [u64::MAX, 0]), Ok(0));
    assert_eq!(log(&machine, 0), Ok([1 << 3, 0]));
    assert_eq!(clear(&machine, 0, 64, [0, 0]), Ok(0));
    assert_eq!(log(&machine, 0), Ok([1 << 3, 0]));
    assert_eq!(clear(&machine, 0, 100, [1 << 3, 0]), Ok(0));
    assert_eq!(log(&machine, 0), Ok([0, 0]));
    // Where it starts and how far it goes: whole words, or up to the end.
    for (first, pages) in [(1, 64), (64, 37), (0, 63), (128, 0), (0, 101)] {
        assert_eq!(
            clear(&machine, first, pages, [0; 2]),
            Err(Errno::EINVAL),
            "{first} {pages}"
        );
    }
    assert_eq!(clear(&machine, 64, 0, [0; 2]), Ok(0));
    let nowhere = KvmClearDirtyLog {
        num_pages: 100,
        dirty_bitmap: 16,
        ..KvmClearDirtyLog::default()
    };
    assert_eq!(machine.call(KVM_CLEAR_DIRTY_LOG, &nowhere), Err(Errno::EFAULT));
}

#[test]
fn a_log_may_begin_full() {
    let machine = Machine::new();
    let memory = memory(100);
    // Only together with clearing by hand.
    assert_eq!(manual(&machine, KVM_DIRTY_LOG_INITIALLY_SET), Err(Errno::EINVAL));
    assert_eq!(manual(&machine, 1 << 2), Err(Errno::EINVAL));
    let both = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    assert_eq!(manual(&machine, both), Ok(0));
    assert_eq!(machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, &memory), Ok(0));
    assert_eq!(log(&machine, 0), Ok([u64::MAX, (1 << 36) - 1]));
}

#[test]
fn clearing_flushes_what_vcpus_remember() {
    let machine = Machine::new();
    let memory = memory(100);
    let vcpu = machine.vcpu(0);
    let flushes = || {
        vcpu.run().expect("the guest exits at once");
        vcpu.vcpu.with_state(|state| std::mem::take(&mut state.flushes))
    };
    assert_eq!(machine.set_slot(0, KVM_MEM_LOG_DIRTY_PAGES, 0, &memory), Ok(0));
    flushes();
    assert_eq!(log(&machine, 0), Ok([0, 0]));
    assert_eq!(flushes(), 0);
    write(&machine, 1);
    assert_eq!(log(&machine, 0), Ok([2, 0]));
    assert_eq!(flushes(), 1);
    assert_eq!(manual(&machine, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE), Ok(0));
    write(&machine, 1);
    assert_eq!(log(&machine, 0), Ok([2, 0]));
    assert_eq!(flushes(), 0);
    assert_eq!(clear(&machine, 0, 64, [2, 0]), Ok(0));
    assert_eq!(flushes(), 1);
}
