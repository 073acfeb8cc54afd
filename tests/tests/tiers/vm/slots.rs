//! Slots that change, and memory that vanishes under them, while code that uses them is hot or even running.

use iced_x86::code_asm::*;
use ring3_client::{Errno, Memory, VcpuExit};
use ring3_host::testing::ClientMemory;
use ring3_tests::bare::Build;
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;
use ring3_uapi::KvmUserspaceMemoryRegion;
use std::time::Duration;

/// Where the second slot is, and where that is mapped.
const SLOT: u64 = 0x1000_0000;
const ELSEWHERE: u64 = 0x1800_0000;
const WINDOW: u64 = 0x80_0000_0000;
const ROUNDS: u64 = 25;

/// A guest that executes `body` for ever, with RDI pointing to [`WINDOW`], a page of the slot.
fn endless(body: Build) -> Guest {
    let mut guest = Guest::new(1);
    guest.map(WINDOW, SLOT, P | W, Size::Small);
    guest.map(WINDOW + PAGE, SLOT + PAGE, P | W, Size::Small);
    guest.code(START, |a| {
        let mut top = a.create_label();
        a.mov(rdi, WINDOW)?;
        a.set_label(&mut top)?;
        body(a)?;
        a.inc(r12)?;
        a.jmp(top)
    });
    guest
}

fn plug(guest: &Guest, memory: &ClientMemory, gpa: u64) {
    let region = KvmUserspaceMemoryRegion {
        slot: 1,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: memory.len() as u64,
        userspace_addr: memory.address(),
    };
    guest.vm.set_user_memory_region(&region).expect("a slot");
}

#[test]
fn memory_vanishes_under_hot_accesses() {
    // Loads, stores, changes in place, pushes: the run ends in EFAULT, and goes on once there is memory again.
    let bodies: [Build; 5] = [
        |a| a.add(rax, qword_ptr(rdi)),
        |a| a.mov(qword_ptr(rdi + 8), r12),
        |a| a.add(qword_ptr(rdi), 1),
        |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, ptr(rdi + 0x100))?;
            a.push(r12)?;
            a.pop(rcx)?;
            a.mov(rsp, rbp)
        },
        |a| a.movups(xmm0, xmmword_ptr(rdi)),
    ];
    for body in bodies {
        let guest = endless(body);
        let memory = ClientMemory::new(2).expect("memory");
        plug(&guest, &memory, SLOT);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(3));
                    memory.unmap(0, 4096).expect("munmap");
                });
                assert_eq!(guest.vcpu().run(), Err(Errno::EFAULT));
                assert_eq!(guest.vcpu().run(), Err(Errno::EFAULT), "and still");
                memory.map_again(0, 4096).expect("mmap");
            }
        });
        let regs = guest.vcpu().get_regs().expect("KVM_GET_REGS");
        assert!(regs.r12 > 0);
    }
}

#[test]
fn memory_vanishes_under_hot_code() {
    let guest = endless(|a| a.call(rdi));
    let memory = ClientMemory::new(2).expect("memory");
    plug(&guest, &memory, SLOT);
    memory.write(0, &[0x48, 0xff, 0xc3, 0xc3]);
    for _ in 0..5 {
        // Interrupted with the code hot; the client then takes it away.
        guest.vcpu().set_immediate_exit(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(3));
                guest.vm.remove_memory(1).expect("the slot goes");
            });
            let left = guest.vcpu().run();
            assert!(matches!(left, Ok(VcpuExit::InternalError(_))), "{left:?}");
        });
        memory.unmap(0, 4096).expect("munmap");
        plug(&guest, &memory, SLOT);
        assert_eq!(guest.vcpu().run(), Err(Errno::EFAULT));
        memory.map_again(0, 4096).expect("mmap");
        memory.write(0, &[0x48, 0xff, 0xc3, 0xc3]);
    }
}

#[test]
fn memory_is_thrown_away_under_hot_accesses() {
    // The guest's own word stays what it is until the pages go; then the guest notices, and begins anew.
    let guest = endless(|a| {
        let mut lost = a.create_label();
        a.inc(r13)?;
        a.lock().inc(qword_ptr(rdi))?;
        a.cmp(qword_ptr(rdi), r13)?;
        a.je(lost)?;
        // Not zero, which a page has that was thrown away before anyone counted in it.
        a.mov(r13d, 100)?;
        a.mov(qword_ptr(rdi), r13)?;
        a.out(0x10, al)?;
        a.set_label(&mut lost)?;
        a.nop()
    });
    let memory = ClientMemory::new(2).expect("memory");
    plug(&guest, &memory, SLOT);
    memory.write(0, &100u64.to_le_bytes());
    let mut regs = guest.vcpu().get_regs().expect("KVM_GET_REGS");
    regs.r13 = 100;
    guest.vcpu().set_regs(&regs).expect("KVM_SET_REGS");
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(1));
                memory.discard(0, 4096).expect("MADV_DONTNEED");
            });
            let left = guest.vcpu().run();
            assert!(matches!(left, Ok(VcpuExit::IoOut(_))), "{left:?}");
        }
    });
}

#[test]
fn a_slot_goes_and_comes_while_it_is_used() {
    let guest = endless(|a| {
        a.mov(rax, qword_ptr(rdi))?;
        a.add(r13, rax)
    });
    let memories: Vec<Memory> = (1..=2u64)
        .map(|value| {
            let memory = Memory::new(2 * 4096).expect("memory");
            memory.store(0, &value).expect("fits");
            memory
        })
        .collect();
    let vm = &guest.vm;
    for n in 0..ROUNDS {
        let memory = &memories[n as usize % 2];
        vm.add_memory(1, SLOT, memory, 0).expect("a slot");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(500 * (n % 4)));
                vm.remove_memory(1).expect("the slot goes");
            });
            let left = guest.vcpu().run();
            assert_eq!(
                left,
                Ok(VcpuExit::MmioRead {
                    address: SLOT,
                    len: 8
                })
            );
        });
        guest.vcpu().complete_mmio_read(&[0; 8]);
    }
}

#[test]
fn a_slot_moves_while_it_is_used() {
    let guest = endless(|a| {
        a.inc(qword_ptr(rdi))?;
        a.mov(qword_ptr(rdi + 8), r12)
    });
    let memory = ClientMemory::new(2).expect("memory");
    plug(&guest, &memory, SLOT);
    for _ in 0..ROUNDS {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_micros(700));
                plug(&guest, &memory, ELSEWHERE);
            });
            let left = guest.vcpu().run();
            let here = |address| (SLOT..SLOT + 16).contains(&address);
            assert!(
                matches!(left, Ok(VcpuExit::MmioRead { address, .. } | VcpuExit::MmioWrite { address, .. }) if here(address)),
                "{left:?}"
            );
        });
        guest.vcpu().complete_mmio_read(&[0; 8]);
        plug(&guest, &memory, SLOT);
    }
}

#[test]
fn two_slots_of_code_change_places() {
    let mut guest = super::caller(WINDOW);
    guest.map(WINDOW, SLOT, P | W, Size::Small);
    let memories: Vec<Memory> = (1..=2u8)
        .map(|value| {
            let memory = Memory::new(4096).expect("memory");
            memory.write(0, &[0xb8, value, 0, 0, 0, 0xc3]).expect("fits");
            memory
        })
        .collect();
    for n in 0..ROUNDS as usize {
        if n > 0 {
            guest.vm.remove_memory(1).expect("a slot goes");
            guest.vm.remove_memory(2).expect("a slot goes");
        }
        guest.vm.add_memory(1, SLOT, &memories[n % 2], 0).expect("a slot");
        guest
            .vm
            .add_memory(2, ELSEWHERE, &memories[1 - n % 2], 0)
            .expect("a slot");
        assert_eq!(super::port(guest.vcpu()), super::CALLS * (n as u64 % 2 + 1));
    }
}
