//! Statistics descriptors: their layout, what is counted, and how long they live.

use crate::run::guest;
use crate::*;
use ring3_client::{Stats, VcpuExit};
use ring3_uapi::cap::KVM_CAP_BINARY_STATS_FD;
use ring3_uapi::ioctl::*;
use ring3_uapi::*;
use std::os::fd::RawFd;

/// KVM, if it has statistics.
fn kvm() -> Option<Kvm> {
    crate::kvm().filter(|_| offered(KVM_CAP_BINARY_STATS_FD))
}

/// Rows share nothing, and are of kinds and units that exist.
fn check_rows(stats: &Stats) {
    let mut places = Vec::new();
    for (name, row) in stats.rows() {
        let kind = row.flags & KVM_STATS_TYPE_MASK;
        let unit = row.flags & KVM_STATS_UNIT_MASK;
        assert!(
            kind <= KVM_STATS_TYPE_LOG_HIST && unit <= KVM_STATS_UNIT_BOOLEAN,
            "{name}"
        );
        assert_eq!(kind == KVM_STATS_TYPE_LOG_HIST, row.size > 1, "{name}");
        assert_eq!(unit == KVM_STATS_UNIT_SECONDS, row.exponent == -9, "{name}");
        assert_eq!(row.bucket_size, 0, "{name}");
        places.push((row.offset, row.offset + u32::from(row.size) * 8));
        assert_eq!(stats.get(name).unwrap().len(), usize::from(row.size), "{name}");
    }
    places.sort_unstable();
    assert!(places.windows(2).all(|two| two[0].1 <= two[1].0));
}

#[test]
fn rows_are_those_of_linux() {
    let Some(kvm) = kvm() else { return };
    let vm = kvm.create_vm(0).unwrap();
    let vcpu = vm.create_vcpu(3).unwrap();
    let (of_vm, of_vcpu) = (vm.stats().unwrap(), vcpu.stats().unwrap());
    // Linux counts threads as processes.
    let id = format!("kvm-{}", rustix::thread::gettid().as_raw_nonzero());
    assert_eq!(of_vm.id(), Ok(id.clone()));
    assert_eq!(of_vcpu.id(), Ok(format!("{id}/vcpu-3")));
    check_rows(&of_vm);
    check_rows(&of_vcpu);
    for name in [
        "remote_tlb_flush",
        "remote_tlb_flush_requests",
        "pages_4k",
        "max_mmu_rmap_size",
    ] {
        assert!(of_vm.one(name).is_ok(), "{name}");
    }
    for name in [
        "halt_wait_ns",
        "blocking",
        "exits",
        "io_exits",
        "hypercalls",
        "guest_mode",
    ] {
        assert!(of_vcpu.one(name).is_ok(), "{name}");
    }
    assert_eq!(of_vcpu.get("halt_wait_hist").unwrap().len(), 32);
    assert_eq!(of_vcpu.get("no such name"), Err(Errno::ENOENT));
    assert_eq!(of_vm.raw(KVM_GET_STATS_FD, 0), Err(Errno::ENOTTY));
    assert_eq!(of_vcpu.raw(KVM_RUN, 0), Err(Errno::ENOTTY));
}

#[test]
fn what_the_guest_does_is_counted() {
    // in al, 0x20; mov al, [es:0]; hlt
    let Some((vm, vcpu, _ram)) = guest(&[0xe4, 0x20, 0x26, 0xa0, 0, 0, 0xf4]) else {
        return;
    };
    if kvm().is_none() {
        return;
    }
    let mut sregs = vcpu.get_sregs().unwrap();
    sregs.es.base = 0x20000;
    vcpu.set_sregs(&sregs).unwrap();
    // Counted before there is a descriptor, and after.
    assert!(matches!(vcpu.run(), Ok(VcpuExit::IoIn(_))));
    let (stats, again) = (vcpu.stats().unwrap(), vcpu.stats().unwrap());
    assert_eq!(stats.one("io_exits"), Ok(1));
    assert_eq!(stats.one("mmio_exits"), Ok(0));
    let exits = stats.one("exits").unwrap();
    assert!(exits > 0);
    assert!(matches!(vcpu.run(), Ok(VcpuExit::MmioRead { .. })));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    for stats in [&stats, &again] {
        let counts = ["io_exits", "mmio_exits", "halt_exits"].map(|name| stats.one(name));
        assert_eq!(counts, [Ok(1); 3]);
        assert!(stats.one("exits").unwrap() > exits);
    }
    // A signal's exit is one too, and so is what changes slots.
    vcpu.set_immediate_exit(1);
    assert_eq!(vcpu.run(), Err(Errno::EINTR));
    let flushes = vm.stats().unwrap();
    let before = flushes.one("remote_tlb_flush_requests").unwrap();
    vm.remove_memory(0).unwrap();
    assert!(flushes.one("remote_tlb_flush_requests").unwrap() > before);
}

#[test]
fn a_descriptor_outlives_its_vcpus() {
    let Some(kvm) = kvm() else { return };
    let vm = kvm.create_vm(0).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let (of_vm, of_vcpu) = (vm.stats().unwrap(), vcpu.stats().unwrap());
    drop((vm, vcpu));
    assert_eq!(of_vcpu.one("exits"), Ok(0));
    drop(of_vcpu);
    assert!(of_vm.one("remote_tlb_flush").is_ok());
}

#[test]
fn nobody_writes_statistics() {
    let Some(kvm) = kvm() else { return };
    let vm = kvm.create_vm(0).unwrap();
    let stats = vm.stats().unwrap();
    let write = |fd: RawFd| {
        ring3_host::fd::with_raw(fd, |fd| {
            use std::io::Write;
            std::fs::File::from(fd.try_clone_to_owned()?).write(&[1])
        })
    };
    let error = write(stats.as_raw_fd()).and_then(|written| written).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EBADF.0));
}
