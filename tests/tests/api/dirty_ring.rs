//! The dirty ring: its size, what is put in, and what happens when it is full.

use crate::*;
use ring3_client::VcpuExit;
use ring3_host::shared::SharedPages;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::KVM_RESET_DIRTY_RINGS;
use ring3_uapi::x86::*;
use ring3_uapi::*;
use std::sync::atomic::Ordering::{Acquire, Release};

const ENTRY: usize = size_of::<KvmDirtyGfn>();
/// Bytes of the tests' rings: 256 entries.
const SIZE: usize = 4096;

fn enable(vm: &Vm, cap: u32, size: u64) -> Result<(), Errno> {
    vm.enable_cap(cap, [size, 0, 0, 0])
}

#[test]
fn sizes_of_a_ring() {
    let Some(vm) = vm().filter(|_| offered(KVM_CAP_DIRTY_LOG_RING)) else {
        return;
    };
    let most = vm.check_extension(KVM_CAP_DIRTY_LOG_RING).unwrap() as u64;
    assert_eq!(
        vm.check_extension(KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
        Ok(most as i64)
    );
    assert_eq!(vm.check_extension(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP), Ok(0));
    assert_eq!(vm.reset_dirty_rings(), Err(Errno::EINVAL), "there is none");
    assert_eq!(enable(&vm, KVM_CAP_DIRTY_LOG_RING, 0), Err(Errno::EINVAL));
    assert_eq!(enable(&vm, KVM_CAP_DIRTY_LOG_RING, 4096 + 1), Err(Errno::EINVAL));
    assert_eq!(
        enable(&vm, KVM_CAP_DIRTY_LOG_RING, 2048),
        Err(Errno::EINVAL),
        "a page at least"
    );
    assert_eq!(enable(&vm, KVM_CAP_DIRTY_LOG_RING, most * 2), Err(Errno::E2BIG));
    assert_eq!(
        enable(&vm, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 1),
        Err(Errno::EINVAL)
    );
    assert_eq!(enable(&vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, most), OK);
    assert_eq!(
        enable(&vm, KVM_CAP_DIRTY_LOG_RING, most),
        Err(Errno::EINVAL),
        "once"
    );
    assert_eq!(vm.reset_dirty_rings(), Ok(0));
    assert_eq!(
        vm.raw(KVM_RESET_DIRTY_RINGS, NOWHERE),
        Ok(0),
        "its argument is not looked at"
    );
    let Some((vm, _vcpu)) = vcpu() else { return };
    assert_eq!(
        enable(&vm, KVM_CAP_DIRTY_LOG_RING, most),
        Err(Errno::EINVAL),
        "too late"
    );
}

/// A ring, as the client has it.
struct Ring {
    pages: SharedPages,
    next: usize,
}

impl Ring {
    fn of(vcpu: &Vcpu) -> Ring {
        let pages = vcpu
            .map_all(KVM_DIRTY_LOG_PAGE_OFFSET * 4096 + SIZE)
            .expect("the ring");
        Ring { pages, next: 0 }
    }

    /// The pages in it, marked as taken.
    fn harvest(&mut self) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        loop {
            let at = KVM_DIRTY_LOG_PAGE_OFFSET * 4096 + self.next % (SIZE / ENTRY) * ENTRY;
            let flags = self.pages.atomic_u32(at);
            if flags.load(Acquire) != KVM_DIRTY_GFN_F_DIRTY {
                return found;
            }
            let entry: KvmDirtyGfn = self.pages.load(at);
            found.push((entry.slot, entry.offset));
            flags.store(KVM_DIRTY_GFN_F_RESET, Release);
            self.next += 1;
        }
    }
}

/// A guest that writes one byte to each of `pages` pages of slot 5, which begins at 1 MiB, and then halts; again when it runs on.
fn writer(pages: u16) -> Option<(Vm, Vcpu, Ring)> {
    let vm = vm().filter(|_| offered(KVM_CAP_DIRTY_LOG_RING))?;
    enable(&vm, KVM_CAP_DIRTY_LOG_RING, SIZE as u64).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let code = memory(0x1000);
    let [low, high] = pages.to_le_bytes();
    // again: mov cx, pages; xor edi, edi; next: mov [edi], al; add edi, 0x1000; loop next; hlt; jmp again
    let program = [
        0xb9, low, high, 0x66, 0x31, 0xff, 0x67, 0x88, 0x07, 0x66, 0x81, 0xc7, 0, 0x10, 0, 0, 0xe2, 0xf4,
        0xf4, 0xeb, 0xeb,
    ];
    code.write(0, &program).unwrap();
    vm.add_memory(0, 0x1000, &code, 0).unwrap();
    vm.add_memory(
        5,
        0x10_0000,
        &memory(usize::from(pages) * 4096),
        KVM_MEM_LOG_DIRTY_PAGES,
    )
    .unwrap();
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    (sregs.ds.base, sregs.ds.limit) = (0x10_0000, u32::MAX);
    vcpu.set_sregs(&sregs).unwrap();
    let regs = KvmRegs {
        rip: 0x1000,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).unwrap();
    let ring = Ring::of(&vcpu);
    Some((vm, vcpu, ring))
}

fn all(pages: std::ops::Range<u64>) -> Vec<(u32, u64)> {
    pages.map(|page| (5, page)).collect()
}

#[test]
fn written_pages_are_in_the_ring() {
    let Some((vm, vcpu, mut ring)) = writer(10) else {
        return;
    };
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(ring.harvest(), all(0..10));
    // Until they are taken out, they are not watched again.
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(ring.harvest(), []);
    assert_eq!(vm.reset_dirty_rings(), Ok(10));
    assert_eq!(vm.reset_dirty_rings(), Ok(0));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    assert_eq!(ring.harvest(), all(0..10));
    assert_eq!(vm.get_dirty_log(5, 10), Err(Errno::ENXIO));
    assert_eq!(vm.clear_dirty_log(5, 0, 10, &[0]), Err(Errno::ENXIO));
}

#[test]
fn a_full_ring_stops_the_vcpu() {
    let Some((vm, vcpu, mut ring)) = writer(300) else {
        return;
    };
    assert_eq!(vcpu.run(), Ok(VcpuExit::DirtyRingFull));
    assert_eq!(vcpu.run(), Ok(VcpuExit::DirtyRingFull), "as long as it is");
    let mut found = ring.harvest();
    let first = found.len();
    assert!((192..=256).contains(&first), "{first}");
    assert_eq!(vcpu.run(), Ok(VcpuExit::DirtyRingFull), "taken is not reset");
    assert_eq!(vm.reset_dirty_rings(), Ok(first as i64));
    assert_eq!(vcpu.run(), Ok(VcpuExit::Hlt));
    found.extend(ring.harvest());
    assert_eq!(found, all(0..300));
}
