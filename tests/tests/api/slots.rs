//! Memory slots in both forms of the request, and logs of what is written to them: what is refused, and what comes first.

use crate::*;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::*;

/// One that fits, of the newer form.
fn good(ram: &Memory) -> KvmUserspaceMemoryRegion2 {
    KvmUserspaceMemoryRegion2 {
        slot: 3,
        guest_phys_addr: 0x10_0000,
        memory_size: ram.size() as u64,
        userspace_addr: ram.address(),
        ..Default::default()
    }
}

/// The same in the older form.
fn old(region: &KvmUserspaceMemoryRegion2) -> KvmUserspaceMemoryRegion {
    KvmUserspaceMemoryRegion {
        slot: region.slot,
        flags: region.flags,
        guest_phys_addr: region.guest_phys_addr,
        memory_size: region.memory_size,
        userspace_addr: region.userspace_addr,
    }
}

/// Makes both requests, which must agree.
#[track_caller]
fn set(vm: &Vm, region: &KvmUserspaceMemoryRegion2, name: &str) -> Result<(), Errno> {
    let (first, second) = (
        vm.set_user_memory_region(&old(region)),
        vm.set_user_memory_region2(region),
    );
    assert_eq!(first, second, "{name}");
    second
}

type Change = fn(&mut KvmUserspaceMemoryRegion2);

#[test]
fn slots_that_cannot_be_made() {
    if !offered(KVM_CAP_USER_MEMORY2) {
        return;
    }
    let Some(vm) = vm() else { return };
    let ram = memory(0x10000);
    let good = good(&ram);
    let most = vm.check_extension(KVM_CAP_NR_MEMSLOTS).unwrap() as u32;
    let rows: [(&str, Change); 16] = [
        ("a flag that there is not", |r| r.flags = 1 << 3),
        ("all flags that there are not", |r| r.flags = !7),
        ("a size that is no page's", |r| r.memory_size -= 1),
        ("half a page", |r| r.memory_size = 0x800),
        ("a guest address that is no page's", |r| {
            r.guest_phys_addr += 0x800
        }),
        ("an address that is no page's", |r| r.userspace_addr += 0x800),
        ("an address of the kernel's", |r| {
            r.userspace_addr = 0xffff_8000_0000_0000;
        }),
        ("an address that there is not", |r| r.userspace_addr = 1 << 62),
        ("up to the kernel", |r| r.userspace_addr = 0x7fff_ffff_f000),
        ("an address space that there is not", |r| r.slot = 2 << 16),
        ("the last address space", |r| r.slot = 0xffff << 16),
        ("more than there are addresses", |r| {
            r.guest_phys_addr = 0u64.wrapping_sub(0x8000);
        }),
        ("beyond the physical addresses", |r| r.guest_phys_addr = 1 << 52),
        ("across their end", |r| r.guest_phys_addr = (1 << 52) - 0x8000),
        ("2^31 pages", |r| r.memory_size = 1 << 43),
        ("the end of what there is not", |r| r.memory_size = 0),
    ];
    for (name, change) in rows {
        let mut wrong = good;
        change(&mut wrong);
        assert_eq!(set(&vm, &wrong, name), Err(Errno::EINVAL), "{name}");
    }
    for slot in [most, 0xffff] {
        let wrong = KvmUserspaceMemoryRegion2 { slot, ..good };
        assert_eq!(set(&vm, &wrong, "slots"), Err(Errno::EINVAL), "{slot}");
    }
    let last = KvmUserspaceMemoryRegion2 {
        slot: most - 1,
        ..good
    };
    assert_eq!(set(&vm, &last, "the last slot"), OK);
}

#[test]
fn slots_that_cannot_change() {
    if !offered(KVM_CAP_USER_MEMORY2) {
        return;
    }
    let Some(vm) = vm() else { return };
    let (ram, other) = (memory(0x10000), memory(0x10000));
    let good = good(&ram);
    assert_eq!(set(&vm, &good, "twice the same"), OK);
    let beside = KvmUserspaceMemoryRegion2 {
        slot: 4,
        guest_phys_addr: 0x20_0000,
        userspace_addr: other.address(),
        ..good
    };
    assert_eq!(set(&vm, &beside, "beside"), OK);
    let rows: [(&str, Change, Errno); 6] = [
        ("a smaller size", |r| r.memory_size -= 0x1000, Errno::EINVAL),
        ("other memory", |r| r.userspace_addr += 0x1000, Errno::EINVAL),
        ("read-only", |r| r.flags = KVM_MEM_READONLY, Errno::EINVAL),
        ("onto another", |r| r.guest_phys_addr = 0x20_0000, Errno::EEXIST),
        (
            "onto the end of another",
            |r| r.guest_phys_addr = 0x20_f000,
            Errno::EEXIST,
        ),
        ("as another, at the same place", |r| r.slot = 5, Errno::EEXIST),
    ];
    for (name, change, errno) in rows {
        let mut wrong = good;
        change(&mut wrong);
        assert_eq!(set(&vm, &wrong, name), Err(errno), "{name}");
    }
    let rows: [(&str, Change); 4] = [
        ("logged", |r| r.flags = KVM_MEM_LOG_DIRTY_PAGES),
        ("not logged", |_| ()),
        ("elsewhere", |r| r.guest_phys_addr = 0x21_0000),
        ("back, over where it was", |r| r.guest_phys_addr = 0x21_8000),
    ];
    for (name, change) in rows {
        let mut other = good;
        change(&mut other);
        assert_eq!(set(&vm, &other, name), OK, "{name}");
    }
    let gone = KvmUserspaceMemoryRegion2 {
        memory_size: 0,
        ..good
    };
    assert_eq!(vm.set_user_memory_region2(&gone), OK);
    assert_eq!(set(&vm, &gone, "twice gone"), Err(Errno::EINVAL));
}

#[test]
fn logs_that_there_are_not() {
    let Some(vm) = vm() else { return };
    let most = vm.check_extension(KVM_CAP_NR_MEMSLOTS).unwrap() as u32;
    let (logged, plain) = (memory(100 * 0x1000), memory(0x1000));
    vm.add_memory(0, 0, &logged, KVM_MEM_LOG_DIRTY_PAGES).unwrap();
    vm.add_memory(1, 0x10_0000, &plain, 0).unwrap();
    for (slot, errno) in [
        (1, Errno::ENOENT),
        (2, Errno::ENOENT),
        (most - 1, Errno::ENOENT),
        (most, Errno::EINVAL),
        (0xffff, Errno::EINVAL),
        (2 << 16, Errno::EINVAL),
        (u32::MAX, Errno::EINVAL),
    ] {
        assert_eq!(vm.get_dirty_log(slot, 100), Err(errno), "{slot:#x}");
        let clear = vm.clear_dirty_log(slot, 0, 64, &[0]);
        assert_eq!(clear, Err(errno), "{slot:#x}");
    }
    // That is seen before whether there is such a slot.
    assert_eq!(vm.clear_dirty_log(2, 63, 64, &[0]), Err(Errno::EINVAL));
    for (first, pages, expected) in [
        (1, 64, Err(Errno::EINVAL)),
        (63, 1, Err(Errno::EINVAL)),
        (0, 63, Err(Errno::EINVAL)),
        (0, 101, Err(Errno::EINVAL)),
        (64, 64, Err(Errno::EINVAL)),
        (128, 0, Err(Errno::EINVAL)),
        (1 << 63, 64, Err(Errno::EINVAL)),
        (0, 0, OK),
        (0, 64, OK),
        (64, 36, OK),
        (0, 100, OK),
    ] {
        let clear = vm.clear_dirty_log(0, first, pages, &[0, 0]);
        assert_eq!(clear, expected, "{pages} from {first} on");
    }
    // Where there is nothing to be told, nothing is asked.
    let log = KvmDirtyLog {
        slot: 1,
        dirty_bitmap: NOWHERE,
        ..Default::default()
    };
    let none = vm.raw(KVM_GET_DIRTY_LOG, &raw const log as u64);
    assert_eq!(none, Err(Errno::ENOENT));
}
