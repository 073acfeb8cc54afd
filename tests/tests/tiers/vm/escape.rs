//! Guest code that tries to reach the host's memory: beside its slots, by page tables, by segments, by running off an end. What is
//! not in a slot is a device's, and the memory beside a slot stays what it was.

use iced_x86::code_asm::*;
use ring3_client::VcpuExit;
use ring3_host::testing::ClientMemory;
use ring3_tests::bare::Build;
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;
use ring3_uapi::KvmUserspaceMemoryRegion;
use ring3_uapi::x86::KvmRegs;

/// One page of memory, in the guest's memory and its linear addresses; on both sides of it there is nothing.
const SLOT: u64 = 0x1000_0000;
const WINDOW: u64 = 0x80_0000_0000;
/// A page with a physical address of the guest's own making.
const ANYWHERE: u64 = 0x81_0000_0000;
const ROUNDS: u32 = 30;
const CANARY: u8 = 0xa5;
const PAGE_LEN: usize = PAGE as usize;

/// What the guest did outside of its memory.
#[derive(Debug, Default, PartialEq)]
struct Outside {
    reads: Vec<u64>,
    writes: Vec<u64>,
}

/// A guest whose slot is the middle one of three pages of the host's.
struct Prisoner {
    guest: Guest,
    host: ClientMemory,
}

impl Prisoner {
    fn new() -> Prisoner {
        let mut guest = Guest::new(1);
        let host = ClientMemory::new(3).expect("memory");
        host.write(0, &[CANARY; 3 * PAGE_LEN]);
        host.write(PAGE_LEN, &[0; PAGE_LEN]);
        let region = KvmUserspaceMemoryRegion {
            slot: 1,
            guest_phys_addr: SLOT,
            memory_size: PAGE,
            userspace_addr: host.address() + PAGE,
            ..Default::default()
        };
        guest.vm.set_user_memory_region(&region).expect("a slot");
        for page in [-1i64, 0, 1] {
            let offset = (page * PAGE as i64) as u64;
            let (linear, gpa) = (WINDOW.wrapping_add(offset), SLOT.wrapping_add(offset));
            guest.map(linear, gpa, P | W, Size::Small);
        }
        Prisoner { guest, host }
    }

    /// Runs `body` many times, with RDI at the window, to a HLT.
    fn tries(&mut self, body: Build) -> Outside {
        self.guest.code(START, |a| {
            let mut top = a.create_label();
            a.mov(r15d, ROUNDS)?;
            a.set_label(&mut top)?;
            a.mov(rdi, WINDOW)?;
            body(a)?;
            a.dec(r15d)?;
            a.jne(top)?;
            a.hlt()
        });
        self.run_from(START)
    }

    fn run_from(&mut self, rip: u64) -> Outside {
        let vcpu = self.guest.vcpu();
        let regs = KvmRegs {
            rip,
            rsp: STACK,
            rflags: 2,
            ..KvmRegs::default()
        };
        vcpu.set_regs(&regs).expect("KVM_SET_REGS");
        let mut outside = Outside::default();
        loop {
            match vcpu.run() {
                Ok(VcpuExit::MmioRead { address, .. }) => {
                    outside.reads.push(address);
                    vcpu.complete_mmio_read(&[0x5a; 8]);
                }
                Ok(VcpuExit::MmioWrite { address, .. }) => outside.writes.push(address),
                Ok(VcpuExit::Hlt | VcpuExit::InternalError(_)) => break,
                other => panic!("{other:?}"),
            }
        }
        let mut page = [0; PAGE_LEN];
        for side in [0, 2 * PAGE_LEN] {
            self.host.read(side, &mut page);
            assert!(page == [CANARY; PAGE_LEN], "the guest wrote beside its memory");
        }
        outside
    }
}

/// The addresses of some bytes, as accesses of at most eight.
fn beyond(outside: &[u64]) -> bool {
    !outside.is_empty()
        && outside
            .iter()
            .all(|at| (SLOT + PAGE..SLOT + 2 * PAGE).contains(at))
}

#[test]
fn operands_over_the_end_of_a_slot() {
    let accesses: [(&str, Build); 8] = [
        ("a load", |a| a.mov(rax, qword_ptr(rdi + 0xffc))),
        ("a store", |a| a.mov(qword_ptr(rdi + 0xffc), rdi)),
        ("a change in place", |a| a.add(qword_ptr(rdi + 0xffc), 1)),
        ("a locked change", |a| a.lock().inc(qword_ptr(rdi + 0xffc))),
        ("sixteen bytes", |a| a.movups(xmmword_ptr(rdi + 0xff8), xmm0)),
        ("an x87 image", |a| a.fnsave(ptr(rdi + 0xfe0))),
        ("a vector image", |a| {
            a.lea(rax, ptr(rdi + 0xf00))?;
            a.fxsave(ptr(rax))
        }),
        ("a push", |a| {
            a.mov(rbp, rsp)?;
            a.lea(rsp, ptr(rdi + 0x1004))?;
            a.push(rdi)?;
            a.mov(rsp, rbp)
        }),
    ];
    for (name, access) in accesses {
        println!("{name}");
        let mut prisoner = Prisoner::new();
        let outside = prisoner.tries(access);
        assert!(
            beyond(&outside.writes) || beyond(&outside.reads),
            "{name}: {outside:x?}"
        );
    }
}

#[test]
fn strings_that_run_off_a_slot() {
    let strings: [(&str, Build); 3] = [
        ("stores", |a| {
            a.add(rdi, 0xff0)?;
            a.mov(ecx, 64)?;
            a.rep().stosb()
        }),
        ("moves", |a| {
            a.mov(rsi, rdi)?;
            a.add(rdi, 0xff0)?;
            a.mov(ecx, 16)?;
            a.rep().movsq()
        }),
        ("moves downwards", |a| {
            a.lea(rsi, ptr(rdi + 0x800))?;
            a.add(rdi, 8)?;
            a.mov(ecx, 16)?;
            a.std()?;
            a.rep().movsq()?;
            a.cld()
        }),
    ];
    for (name, string) in strings {
        println!("{name}");
        let outside = Prisoner::new().tries(string);
        let around = (SLOT - PAGE..SLOT).chain(SLOT + PAGE..SLOT + 2 * PAGE);
        let (low, high) = (SLOT - PAGE, SLOT + 2 * PAGE);
        assert!(!outside.writes.is_empty(), "{name} of {}", around.count());
        assert!(
            outside.writes.iter().all(|at| (low..high).contains(at)),
            "{outside:x?}"
        );
    }
}

#[test]
fn page_tables_that_name_the_hosts_own_addresses() {
    // A physical address that happens to be an address of the host's memory is a device's.
    let mut prisoner = Prisoner::new();
    let canary = prisoner.host.address();
    let gpa = canary & ((1 << 45) - 1);
    prisoner.guest.map(ANYWHERE, gpa, P | W, Size::Small);
    let outside = prisoner.tries(|a| {
        a.mov(rsi, ANYWHERE)?;
        a.mov(rax, qword_ptr(rsi + 8))?;
        a.mov(qword_ptr(rsi + 16), rax)
    });
    let each = ROUNDS as usize;
    assert_eq!(
        (outside.reads, outside.writes),
        (vec![gpa + 8; each], vec![gpa + 16; each])
    );
    assert_eq!(
        prisoner.guest.vcpu().get_regs().map(|regs| regs.rax),
        Ok(0x5a5a_5a5a_5a5a_5a5a)
    );
}

#[test]
fn page_tables_that_are_changed_under_a_hot_access() {
    // The same linear address is in the slot, and then beside it, again and again, with the translation invalidated.
    let mut prisoner = Prisoner::new();
    let entry = prisoner.guest.map(ANYWHERE, SLOT, P | W, Size::Small);
    // Where the tables are is mapped one to one.
    assert!(entry < LOW_PAGES as u64 * PAGE);
    let outside = prisoner.tries(|a| {
        // The tables begin there, and the test knows no other way into the closure.
        a.mov(rsi, ANYWHERE)?;
        a.mov(rbx, qword_ptr(0x9000))?;
        a.xor(qword_ptr(rbx), 0x1000)?;
        a.invlpg(byte_ptr(rsi))?;
        a.mov(qword_ptr(rsi + 24), rdi)
    });
    assert!(outside.writes.is_empty(), "nothing says where the entry is yet");
    prisoner.guest.ram.put(0x9000, entry);
    let outside = prisoner.run_from(START);
    assert_eq!(outside.writes, vec![SLOT + PAGE + 24; ROUNDS as usize / 2]);
}

#[test]
fn segments_that_begin_at_the_hosts_own_addresses() {
    // What they lead to is linear, and goes through the page tables as any other: where those have nothing is a page fault.
    let mut prisoner = Prisoner::new();
    let canary = prisoner.host.address();
    let mut sregs = prisoner.guest.vcpu().get_sregs().expect("KVM_GET_SREGS");
    (sregs.fs.base, sregs.gs.base) = (canary, WINDOW.wrapping_sub(canary));
    prisoner.guest.vcpu().set_sregs(&sregs).expect("KVM_SET_SREGS");
    prisoner.tries(|a| a.mov(rax, qword_ptr(8).fs()));
    let regs = prisoner.guest.vcpu().get_regs().expect("KVM_GET_REGS");
    assert_eq!(regs.rip, TRAPS + 14 + 1, "a page fault's HLT");
    // And a base that only an address of the host's makes one of the guest's.
    prisoner.guest.ram.put(0x9000, canary);
    let outside = prisoner.tries(|a| {
        a.mov(rbx, qword_ptr(0x9000))?;
        a.mov(qword_ptr(rbx + 0x1008).gs(), rdi)
    });
    assert_eq!(outside.writes, vec![SLOT + PAGE + 8; ROUNDS as usize]);
}

#[test]
fn code_that_runs_off_its_slot() {
    // The last bytes of the slot are code without an end, which the guest itself writes: behind it there is no code.
    let mut prisoner = Prisoner::new();
    prisoner.host.write(2 * PAGE_LEN, &[CANARY; PAGE_LEN]);
    let outside = prisoner.tries(|a| {
        // inc rbx; three NOPs
        a.mov(eax, 0x90c3_ff48u32)?;
        a.mov(dword_ptr(rdi + 0xff8), eax)?;
        a.mov(dword_ptr(rdi + 0xffc), 0x9090_9090u32 as i32)?;
        a.add(rdi, 0xff8)?;
        a.jmp(rdi)
    });
    assert_eq!(outside, Outside::default(), "code of a device's is not fetched");
    let regs = prisoner.guest.vcpu().get_regs().expect("KVM_GET_REGS");
    assert_eq!((regs.rbx, regs.rip), (1, WINDOW + PAGE));
}
