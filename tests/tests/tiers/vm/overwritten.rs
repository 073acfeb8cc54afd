//! Code that the client overwrites between two runs: by its own stores, by a file's contents, by throwing pages away.

use super::{CALLS, caller, port};
use ring3_host::testing::ClientMemory;
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;
use ring3_uapi::KvmUserspaceMemoryRegion;
use std::io::{Seek, Write};

const ROUNDS: u64 = 30;
/// Where the function is that changes: in the guest's memory, or in a slot of its own.
const FUNCTION: u64 = 0x20_0000;
const SLOT: u64 = 0x1000_0000;
const WINDOW: u64 = 0x80_0000_0000;

/// MOV EAX, value; RET
fn function(value: u64) -> [u8; 6] {
    let [a, b, c, d, ..] = value.to_le_bytes();
    [0xb8, a, b, c, d, 0xc3]
}

/// A slot of the client's private memory, mapped at [`WINDOW`].
fn with_slot() -> (Guest, ClientMemory) {
    let mut guest = caller(WINDOW);
    let memory = ClientMemory::new(4).expect("memory");
    let region = KvmUserspaceMemoryRegion {
        slot: 1,
        flags: 0,
        guest_phys_addr: SLOT,
        memory_size: memory.len() as u64,
        userspace_addr: memory.address(),
    };
    guest.vm.set_user_memory_region(&region).expect("a slot");
    guest.map(WINDOW, SLOT, P | W, Size::Small);
    (guest, memory)
}

#[test]
fn between_two_runs() {
    let guest = caller(FUNCTION);
    for n in 1..=ROUNDS {
        guest.ram.0.write(FUNCTION as usize, &function(n)).expect("fits");
        assert_eq!(port(guest.vcpu()), n * CALLS);
    }
}

#[test]
fn only_the_last_byte() {
    let guest = caller(FUNCTION);
    guest.ram.0.write(FUNCTION as usize, &function(0)).expect("fits");
    for n in 1..=ROUNDS {
        let byte = FUNCTION as usize + 1;
        guest.ram.0.write(byte, &[n as u8]).expect("fits");
        assert_eq!(port(guest.vcpu()), n * CALLS);
    }
}

#[test]
fn by_a_files_contents() {
    let (guest, memory) = with_slot();
    let mut file = tempfile::tempfile().expect("a file");
    for n in 1..=ROUNDS {
        file.rewind().expect("seeks");
        file.write_all(&function(n)).expect("writes");
        file.rewind().expect("seeks");
        assert_eq!(memory.read_file(&file, 0, 6).expect("reads"), 6);
        assert_eq!(port(guest.vcpu()), n * CALLS);
    }
}

#[test]
fn by_throwing_it_away() {
    let (guest, memory) = with_slot();
    // The page's other half begins with a function, too: what is thrown away is seen in both.
    for n in 1..=ROUNDS {
        memory.discard(0, 4096).expect("MADV_DONTNEED");
        let mut now = [1; 6];
        memory.read(0, &mut now);
        assert_eq!(now, [0; 6]);
        memory.write(0, &function(n));
        assert_eq!(port(guest.vcpu()), n * CALLS);
    }
}

#[test]
fn by_unmapping_and_mapping_it() {
    let (guest, memory) = with_slot();
    for n in 1..=ROUNDS {
        memory.unmap(0, 4096).expect("munmap");
        memory.map_again(0, 4096).expect("mmap");
        memory.write(0, &function(n));
        assert_eq!(port(guest.vcpu()), n * CALLS);
    }
}
