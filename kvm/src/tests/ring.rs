//! Coalesced I/O.

use super::Machine;
use crate::errno::Errno;
use crate::io::Bus;
use ring3_host::shared::SharedPages;
use ring3_uapi::ioctl::{KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO};
use ring3_uapi::{KVM_COALESCED_MMIO_MAX, KvmCoalescedMmio, KvmCoalescedMmioRing, KvmCoalescedMmioZone};

const RING: usize = 2 * 4096;
const MOST: u32 = KVM_COALESCED_MMIO_MAX as u32;

fn zone(machine: &Machine, request: u32, addr: u64, size: u32, pio: u32) -> Result<i64, Errno> {
    machine.call(request, &KvmCoalescedMmioZone { addr, size, pio })
}

fn head(pages: &SharedPages) -> (u32, u32) {
    let head: KvmCoalescedMmioRing = pages.load(RING);
    (head.first, head.last)
}

fn set_first(pages: &SharedPages, first: u32) {
    pages.store(RING, &first);
}

fn entry(pages: &SharedPages, index: usize) -> KvmCoalescedMmio {
    pages.load(RING + size_of::<KvmCoalescedMmioRing>() + index * size_of::<KvmCoalescedMmio>())
}

#[test]
fn writes_gather_in_order() {
    let machine = Machine::new();
    let vcpu = machine.vcpu(0);
    let (io, pages) = (machine.vm.io(), vcpu.vcpu.pages());
    assert_eq!(
        zone(&machine, KVM_REGISTER_COALESCED_MMIO, 0x1000, 0x10, 0),
        Ok(0)
    );
    assert_eq!(zone(&machine, KVM_REGISTER_COALESCED_MMIO, 0x20, 4, 1), Ok(0));
    assert_eq!(
        zone(&machine, KVM_REGISTER_COALESCED_MMIO, 0x20, 4, 2),
        Err(Errno::EINVAL)
    );
    assert!(io.write(Bus::Mmio, 0x1004, &[1, 2, 3, 4]));
    assert!(io.write(Bus::Pio, 0x21, &[5]));
    assert!(!io.write(Bus::Mmio, 0x100e, &[0; 4]) && !io.write(Bus::Mmio, 0x20, &[0]));
    assert!(!io.read(Bus::Mmio, 0x1004, &mut [0; 4]));
    assert_eq!(head(pages), (0, 2));
    let (a, b) = (entry(pages, 0), entry(pages, 1));
    assert_eq!(
        (a.phys_addr, a.len, a.pio, a.data),
        (0x1004, 4, 0, [1, 2, 3, 4, 0, 0, 0, 0])
    );
    assert_eq!((b.phys_addr, b.len, b.pio, b.data[0]), (0x21, 1, 1, 5));
}

#[test]
fn a_full_ring_leaves_the_write_to_the_client() {
    let machine = Machine::new();
    let vcpu = machine.vcpu(0);
    let (io, pages) = (machine.vm.io(), vcpu.vcpu.pages());
    assert_eq!(zone(&machine, KVM_REGISTER_COALESCED_MMIO, 0, 8, 0), Ok(0));
    let fill = || {
        (0..2 * MOST)
            .take_while(|i| io.write(Bus::Mmio, 0, &i.to_le_bytes()))
            .count() as u32
    };
    assert_eq!((fill(), head(pages)), (MOST - 1, (0, MOST - 1)));
    set_first(pages, 3);
    assert_eq!((fill(), head(pages)), (3, (3, 2)));
    // A client that writes nonsense gets its exits, and nothing worse.
    pages.store(RING + 4, &u32::MAX);
    assert!(!io.write(Bus::Mmio, 0, &[0]));
    pages.store(RING + 4, &MOST);
    assert!(!io.write(Bus::Mmio, 0, &[0]));
    for first in [MOST, u32::MAX] {
        pages.store(RING, &[first, 5]);
        io.write(Bus::Mmio, 0, &[0]);
    }
}

#[test]
fn zones_that_hold_the_one_named_go() {
    let machine = Machine::new();
    let _vcpu = machine.vcpu(0);
    let io = machine.vm.io();
    for (addr, size) in [(0x1000, 0x100), (0x1010, 0x10), (0x2000, 8)] {
        assert_eq!(zone(&machine, KVM_REGISTER_COALESCED_MMIO, addr, size, 0), Ok(0));
    }
    assert_eq!(
        zone(&machine, KVM_UNREGISTER_COALESCED_MMIO, 0x1010, 8, 3),
        Err(Errno::EINVAL)
    );
    assert_eq!(zone(&machine, KVM_UNREGISTER_COALESCED_MMIO, 0x1010, 8, 1), Ok(0));
    assert!(io.write(Bus::Mmio, 0x1010, &[0]));
    assert_eq!(zone(&machine, KVM_UNREGISTER_COALESCED_MMIO, 0x1010, 8, 0), Ok(0));
    assert!(!io.write(Bus::Mmio, 0x1010, &[0]) && !io.write(Bus::Mmio, 0x1000, &[0]));
    assert!(io.write(Bus::Mmio, 0x2000, &[0]));
    // Nothing to remove is no error.
    assert_eq!(zone(&machine, KVM_UNREGISTER_COALESCED_MMIO, 0x9000, 8, 0), Ok(0));
}

#[test]
fn the_ring_is_in_every_vcpus_mapping() {
    let machine = Machine::new();
    let vcpus = [machine.vcpu(5), machine.vcpu(0)];
    assert_eq!(zone(&machine, KVM_REGISTER_COALESCED_MMIO, 0, 8, 0), Ok(0));
    assert!(vcpus[0].fd.file().overlay().is_none());
    let over = vcpus[1].fd.file().overlay().expect("the ring is the first one's");
    // What a client does with the second one's descriptor.
    let (mut mapping, _) = SharedPages::create("mapping", 3).unwrap();
    mapping.overlay(over.offset, &over.pages, over.from).unwrap();
    for pages in [vcpus[0].vcpu.pages(), &mapping] {
        let last = head(pages).1;
        assert!(machine.vm.io().write(Bus::Mmio, 0, &[9]));
        assert_eq!(
            (head(pages).1, entry(pages, last as usize).data[0]),
            (last + 1, 9)
        );
    }
    set_first(&mapping, 1);
    assert_eq!(head(vcpus[0].vcpu.pages()).0, 1);
}

#[test]
fn without_a_vcpu_there_is_no_ring() {
    let machine = Machine::new();
    assert_eq!(zone(&machine, KVM_REGISTER_COALESCED_MMIO, 0, 8, 0), Ok(0));
    assert!(!machine.vm.io().write(Bus::Mmio, 0, &[0]));
}
