//! vCPUs: creation, KVM_RUN, halting.

use super::{Machine, OWN_REQUEST, Step};
use crate::errno::Errno;
use crate::stats::rows;
use crate::vcpu::Polling;
use ring3_host::time::monotonic_now;
use ring3_uapi::cap::KVM_CAP_HALT_POLL;
use ring3_uapi::ioctl::{KVM_CREATE_VCPU, KVM_ENABLE_CAP, KVM_RUN};
use ring3_uapi::{KvmEnableCap, run as page};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

#[test]
fn ids_are_given_once() {
    let machine = Machine::new();
    let create = |id| machine.value(KVM_CREATE_VCPU, id);
    assert_eq!(create(16), Err(Errno::EINVAL));
    let vcpus: Vec<_> = [9, 0, 15].map(|id| machine.vcpu(id)).into();
    assert_eq!(
        vcpus.iter().map(|vcpu| vcpu.vcpu.index()).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(create(9), Err(Errno::EEXIST));
    // Of the whole argument.
    assert_eq!(create(1 << 32 | 9), Err(Errno::EINVAL));
    let _last = machine.vcpu(1);
    // With no room left, that is what is said.
    assert_eq!((create(9), create(2)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    // One that is closed stays a part of the machine.
    drop(vcpus);
    assert_eq!(machine.vm.vcpus().len(), 4);
    assert!(machine.vm.vcpu_by_id(15).is_some() && machine.vm.vcpu_by_id(3).is_none());
}

#[test]
fn requests_find_their_handlers() {
    let machine = Machine::new();
    let vcpu = machine.vcpu(0);
    assert_eq!(vcpu.fd.ioctl(OWN_REQUEST, 0), Ok(0));
    assert_eq!(vcpu.fd.ioctl(KVM_RUN, 1), Err(Errno::EINVAL));
    assert_eq!(vcpu.fd.ioctl(0x5401, 0), Err(Errno::EINVAL));
    assert_eq!(vcpu.fd.ioctl(KVM_CREATE_VCPU, 0), Err(Errno::EINVAL));
}

#[test]
fn a_run_ends_with_an_exit_or_at_once() {
    let machine = Machine::new();
    let vcpu = machine.vcpu(0);
    vcpu.guest(|_| Step::Exit(17));
    assert_eq!(vcpu.run(), Ok(0));
    let pages = vcpu.vcpu.pages();
    assert_eq!(pages.load::<u32>(page::EXIT_REASON), 17);
    pages.atomic_u8(page::IMMEDIATE_EXIT).store(1, SeqCst);
    assert_eq!(vcpu.run(), Err(Errno::EINTR));
    pages.atomic_u8(page::IMMEDIATE_EXIT).store(0, SeqCst);
    assert_eq!(vcpu.run(), Ok(0));
    assert_eq!(vcpu.vcpu.stats().at(rows::RUNS).get(), 3);
}

fn poll_at_most(machine: &Machine, ns: u64) -> Result<i64, Errno> {
    let cap = KvmEnableCap {
        cap: KVM_CAP_HALT_POLL,
        args: [ns, 0, 0, 0],
        ..KvmEnableCap::default()
    };
    machine.call(KVM_ENABLE_CAP, &cap)
}

#[test]
fn a_halt_ends_with_an_event_or_in_time() {
    let machine = Machine::new();
    let vcpu = machine.vcpu(0);
    let mut halts = 0;
    vcpu.guest(move |_| {
        halts += 1;
        match halts {
            1 => Step::Halt(Some(3_000_000), Polling::Allowed),
            2 => Step::Halt(None, Polling::Forbidden),
            _ => Step::Exit(1),
        }
    });
    std::thread::scope(|scope| {
        let start = monotonic_now();
        let runs = scope.spawn(|| vcpu.run());
        std::thread::sleep(Duration::from_millis(10));
        vcpu.vcpu.unhalt();
        assert_eq!(runs.join().expect("no panic"), Ok(0));
        assert!(monotonic_now().since(start) >= 10_000_000);
    });
    assert_eq!(vcpu.vcpu.stats().at(rows::HALT_WAKEUP).get(), 2);
    assert_eq!(vcpu.vcpu.stats().at(rows::BLOCKING).get(), 0);
}

/// Halts `times` times for `ns` each; the time it polled.
fn polled(machine: &Machine, id: u32, times: u32, ns: u64, polling: Polling) -> u64 {
    let vcpu = machine.vcpu(id);
    let mut left = times;
    vcpu.guest(move |_| {
        if left == 0 {
            return Step::Exit(1);
        }
        left -= 1;
        Step::Halt(Some(ns), polling)
    });
    assert_eq!(vcpu.run(), Ok(0));
    let stats = vcpu.vcpu.stats();
    stats.at(rows::HALT_POLL_FAIL_NS).get() + stats.at(rows::HALT_POLL_SUCCESS_NS).get()
}

#[test]
fn polling_is_bounded_for_each_vm() {
    let (plain, none, other) = (Machine::new(), Machine::new(), Machine::new());
    assert_eq!(poll_at_most(&none, 0), Ok(0));
    assert_eq!(poll_at_most(&other, 1 << 32), Err(Errno::EINVAL));
    let flagged = KvmEnableCap {
        cap: KVM_CAP_HALT_POLL,
        flags: 1,
        ..KvmEnableCap::default()
    };
    assert_eq!(other.call(KVM_ENABLE_CAP, &flagged), Err(Errno::EINVAL));
    // Halts shorter than the bound make it poll, unless the VM forbids it.
    let spare = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    assert_eq!(polled(&plain, 0, 8, 20_000, Polling::Allowed) > 0, spare);
    assert_eq!(polled(&none, 0, 8, 20_000, Polling::Allowed), 0);
    assert_eq!(polled(&plain, 2, 8, 20_000, Polling::Forbidden), 0);
    // Halts that are always longer than the bound do not pay: at most the first few are polled for.
    assert_eq!(poll_at_most(&plain, 15_000), Ok(0));
    assert!(polled(&plain, 1, 50, 1_000_000, Polling::Allowed) < 50 * 15_000);
}
