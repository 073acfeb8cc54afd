//! KVM_SET_USER_MEMORY_REGION, errno by errno, and what the slots then are.

use super::{Machine, Step, memory};
use crate::errno::Errno;
use ring3_host::addr::GuestPhys;
use ring3_host::mem::HostFault;
use ring3_uapi::ioctl::KVM_SET_USER_MEMORY_REGION2;
use ring3_uapi::{
    KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmUserspaceMemoryRegion,
    KvmUserspaceMemoryRegion2,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Four pages at 1 MiB, in slot 3.
fn region(at: u64) -> KvmUserspaceMemoryRegion {
    KvmUserspaceMemoryRegion {
        slot: 3,
        flags: 0,
        guest_phys_addr: 0x10_0000,
        memory_size: 0x4000,
        userspace_addr: at,
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let machine = Machine::new();
    let memory = memory(4);
    let good = region(memory.address().0);
    let refused = [
        KvmUserspaceMemoryRegion {
            flags: 1 << 4,
            ..good
        },
        KvmUserspaceMemoryRegion {
            flags: KVM_MEM_GUEST_MEMFD,
            ..good
        },
        KvmUserspaceMemoryRegion {
            memory_size: 0x4001,
            ..good
        },
        KvmUserspaceMemoryRegion {
            guest_phys_addr: 0x10_0800,
            ..good
        },
        KvmUserspaceMemoryRegion {
            userspace_addr: good.userspace_addr + 8,
            ..good
        },
        // Not the client's half of the address space, or only at first.
        KvmUserspaceMemoryRegion {
            userspace_addr: 0xffff_8000_0000_0000,
            ..good
        },
        KvmUserspaceMemoryRegion {
            userspace_addr: 0x7fff_ffff_e000,
            ..good
        },
        // The number, the address space.
        KvmUserspaceMemoryRegion { slot: 16, ..good },
        KvmUserspaceMemoryRegion {
            slot: 2 << 16,
            ..good
        },
        // Beyond the end of everything, and too long.
        KvmUserspaceMemoryRegion {
            guest_phys_addr: 0u64.wrapping_sub(0x4000),
            ..good
        },
        KvmUserspaceMemoryRegion {
            memory_size: 1 << 43,
            userspace_addr: 0x1000,
            ..good
        },
        // Nothing to delete.
        KvmUserspaceMemoryRegion {
            memory_size: 0,
            ..good
        },
    ];
    for bad in refused {
        assert_eq!(machine.set_region(&bad), Err(Errno::EINVAL), "{bad:x?}");
    }
    assert_eq!(
        machine.value(ring3_uapi::ioctl::KVM_SET_USER_MEMORY_REGION, 8),
        Err(Errno::EFAULT)
    );
    assert_eq!(machine.set_region(&good), Ok(0));
    // Deleting looks at the address too, but not for what is there.
    let deletion = KvmUserspaceMemoryRegion {
        memory_size: 0,
        ..good
    };
    let nowhere = KvmUserspaceMemoryRegion {
        userspace_addr: 1 << 63,
        ..deletion
    };
    assert_eq!(machine.set_region(&nowhere), Err(Errno::EINVAL));
    assert_eq!(
        machine.set_region(&KvmUserspaceMemoryRegion {
            userspace_addr: 0x1000,
            ..deletion
        }),
        Ok(0)
    );
    assert_eq!(machine.set_region(&deletion), Err(Errno::EINVAL));
}

#[test]
fn slots_do_not_overlap_in_an_address_space() {
    let machine = Machine::new();
    let memory = memory(8);
    let at = memory.address().0;
    let good = region(at);
    assert_eq!(machine.set_region(&good), Ok(0));
    let other = KvmUserspaceMemoryRegion { slot: 4, ..good };
    for guest in [0x0f_d000, 0x10_0000, 0x10_3000] {
        let other = KvmUserspaceMemoryRegion {
            guest_phys_addr: guest,
            ..other
        };
        assert_eq!(machine.set_region(&other), Err(Errno::EEXIST), "{guest:#x}");
    }
    for (slot, guest) in [(4, 0x0f_c000), (5, 0x10_4000)] {
        let other = KvmUserspaceMemoryRegion {
            slot,
            guest_phys_addr: guest,
            ..good
        };
        assert_eq!(machine.set_region(&other), Ok(0));
    }
    // The other address space has room; the same memory may be seen twice.
    assert_eq!(
        machine.set_region(&KvmUserspaceMemoryRegion {
            slot: 1 << 16 | 3,
            ..good
        }),
        Ok(0)
    );
    let slots = machine.vm.memory().slots(0);
    let bases: Vec<u64> = slots.iter().map(|slot| slot.base()).collect();
    assert_eq!(bases, [0xfc, 0x100, 0x104]);
    assert!(slots.lookup(0xfb).is_none() && slots.lookup(0x108).is_none());
    let page = slots.lookup(0x102).expect("in slot 3");
    assert_eq!(
        (page.slot().id(), page.gfn(), page.host().address().0),
        (3, 0x102, at + 0x2000)
    );
    assert_eq!(machine.vm.memory().slots(7).iter().count(), 0);
}

#[test]
fn a_slot_moves_but_does_not_change_its_memory() {
    let machine = Machine::new();
    let memory = memory(8);
    let good = region(memory.address().0);
    assert_eq!(machine.set_region(&good), Ok(0));
    // Nothing new is fine.
    assert_eq!(machine.set_region(&good), Ok(0));
    let changed = [
        KvmUserspaceMemoryRegion {
            memory_size: 0x3000,
            ..good
        },
        KvmUserspaceMemoryRegion {
            userspace_addr: good.userspace_addr + 0x1000,
            ..good
        },
        KvmUserspaceMemoryRegion {
            flags: KVM_MEM_READONLY,
            ..good
        },
    ];
    for bad in changed {
        assert_eq!(machine.set_region(&bad), Err(Errno::EINVAL), "{bad:x?}");
    }
    // By less than its own length, so that it overlaps itself.
    let moved = KvmUserspaceMemoryRegion {
        guest_phys_addr: 0x10_1000,
        ..good
    };
    assert_eq!(machine.set_region(&moved), Ok(0));
    let slots = machine.vm.memory().slots(0);
    assert!(slots.lookup(0x100).is_none() && slots.lookup(0x104).is_some());
    // The architecture has its say last.
    let far = KvmUserspaceMemoryRegion {
        guest_phys_addr: 1 << 32,
        ..good
    };
    assert_eq!(machine.set_region(&far), Err(Errno::ERANGE));
    assert!(machine.vm.memory().slots(0).lookup(0x104).is_some());
    let onto = KvmUserspaceMemoryRegion { slot: 5, ..good };
    assert_eq!(
        machine.set_region(&KvmUserspaceMemoryRegion {
            guest_phys_addr: 0,
            ..onto
        }),
        Ok(0)
    );
    assert_eq!(
        machine.set_region(&KvmUserspaceMemoryRegion {
            guest_phys_addr: 0x10_4000,
            ..onto
        }),
        Err(Errno::EEXIST)
    );
}

#[test]
fn the_longer_form_takes_the_same() {
    let machine = Machine::new();
    let memory = memory(1);
    let mut region = KvmUserspaceMemoryRegion2 {
        memory_size: 0x1000,
        userspace_addr: memory.address().0,
        ..KvmUserspaceMemoryRegion2::default()
    };
    assert_eq!(machine.call(KVM_SET_USER_MEMORY_REGION2, &region), Ok(0));
    region.flags = KVM_MEM_GUEST_MEMFD;
    assert_eq!(
        machine.call(KVM_SET_USER_MEMORY_REGION2, &region),
        Err(Errno::EINVAL)
    );
}

#[test]
fn devices_reach_memory_across_slots_and_respect_its_rights() {
    let machine = Machine::new();
    let (low, high, rom) = (memory(1), memory(1), memory(1));
    assert_eq!(machine.set_slot(0, 0, 0x1000, &high), Ok(0));
    assert_eq!(machine.set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, 0, &low), Ok(0));
    assert_eq!(machine.set_slot(2, KVM_MEM_READONLY, 0x2000, &rom), Ok(0));
    let of_vm = machine.vm.memory();
    assert_eq!(of_vm.write(0, GuestPhys(0xffe), &[1, 2, 3, 4]), Ok(()));
    assert_eq!(
        (low.load::<[u8; 2]>(0xffe), high.load::<[u8; 2]>(0)),
        ([1, 2], [3, 4])
    );
    let mut bytes = [0; 4];
    assert_eq!(of_vm.read(0, GuestPhys(0xffe), &mut bytes), Ok(()));
    assert_eq!(bytes, [1, 2, 3, 4]);
    assert_eq!(of_vm.write(0, GuestPhys(0x1ffe), &[1, 2, 3, 4]), Err(HostFault));
    assert_eq!(of_vm.read(0, GuestPhys(0x1ffe), &mut bytes), Ok(()));
    assert_eq!(of_vm.read(0, GuestPhys(0x2ffe), &mut bytes), Err(HostFault));
    assert_eq!(of_vm.read(0, GuestPhys(u64::MAX - 1), &mut bytes), Err(HostFault));
    assert_eq!(of_vm.read(1, GuestPhys(0), &mut bytes), Err(HostFault));
    assert_eq!(of_vm.read(9, GuestPhys(0), &mut bytes), Err(HostFault));
    let slots = of_vm.slots(0);
    let rights = [0, 1, 2].map(|gfn| slots.lookup(gfn).expect("a page").direct_write());
    assert_eq!(rights, [true, true, false]);
}

#[test]
fn a_view_follows_its_address_space() {
    let machine = Machine::new();
    let memory = memory(1);
    let of_vm = machine.vm.memory();
    let mut view = of_vm.view(0);
    assert!(view.lookup(of_vm, 1).is_none());
    assert_eq!(machine.set_slot(0, 0, 0x1000, &memory), Ok(0));
    assert!(view.lookup(of_vm, 1).is_some());
    view.set_space(of_vm, 1);
    assert!(view.lookup(of_vm, 1).is_none());
    assert_eq!(machine.set_slot(1 << 16, 0, 0x2000, &memory), Ok(0));
    assert_eq!(view.slots(of_vm).iter().count(), 1);
    assert!(view.lookup(of_vm, 2).is_some());
}

#[test]
fn no_vcpu_uses_a_slot_once_it_is_gone() {
    let machine = Machine::new();
    let memory = memory(1);
    assert_eq!(machine.set_slot(0, 0, 0, &memory), Ok(0));
    let vcpu = machine.vcpu(0);
    // The guest's memory says whether it may be used: as long as a guest turn lasts, it must not change.
    let (usable, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (seen, told) = (Arc::clone(&usable), Arc::clone(&stop));
    vcpu.guest(move |vcpu| {
        let there = vcpu.vm().memory().slots(0).lookup(0).is_some();
        let mut turns = 0u64;
        while !vcpu.seat().kick().pending() && turns < 1_000_000 {
            if there {
                assert!(seen.load(SeqCst), "a slot in use went away");
            }
            turns += 1;
        }
        if told.load(SeqCst) {
            Step::Exit(1)
        } else {
            Step::Again
        }
    });
    let deletion = KvmUserspaceMemoryRegion::default();
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| vcpu.run());
        for _ in 0..200 {
            assert_eq!(machine.set_region(&deletion), Ok(0));
            usable.store(false, SeqCst);
            usable.store(true, SeqCst);
            assert_eq!(machine.set_slot(0, 0, 0, &memory), Ok(0));
        }
        stop.store(true, SeqCst);
        vcpu.vcpu.seat().event();
        assert_eq!(runs.join().expect("no slot went away"), Ok(0));
    });
    assert!(vcpu.vcpu.with_state(|state| state.slots_changed) > 0);
}

#[test]
fn private_pages_are_one_more_change_of_slots() {
    let machine = Machine::private();
    let memory = memory(4);
    assert_eq!(machine.set_region(&region(memory.address().0)), Ok(0));
    let set = |attributes| {
        machine.call(
            ring3_uapi::ioctl::KVM_SET_MEMORY_ATTRIBUTES,
            &ring3_uapi::KvmMemoryAttributes {
                address: 0x10_1000,
                size: 0x1000,
                attributes,
                flags: 0,
            },
        )
    };
    let vcpu = machine.vcpu(0);
    let changes = || {
        assert_eq!(vcpu.run(), Ok(0));
        vcpu.vcpu
            .with_state(|state| std::mem::take(&mut state.slots_changed))
    };
    changes();
    let there = |gfn| machine.vm.memory().slots(0).lookup(gfn).is_some();
    assert_eq!(set(ring3_uapi::KVM_MEMORY_ATTRIBUTE_PRIVATE), Ok(0));
    assert_eq!((changes(), there(0x101), there(0x102)), (1, false, true));
    assert_eq!(set(ring3_uapi::KVM_MEMORY_ATTRIBUTE_PRIVATE), Ok(0));
    assert_eq!(changes(), 0, "nothing new");
    assert_eq!(set(0), Ok(0));
    assert_eq!((changes(), there(0x101)), (1, true));
    // There is one address space only.
    let elsewhere = KvmUserspaceMemoryRegion {
        slot: 1 << 16,
        ..region(memory.address().0)
    };
    assert_eq!(machine.set_region(&elsewhere), Err(Errno::EINVAL));
}
