//! The guest's memory among the host's, and a guest's life in it.

use super::secret::{self, SECRET};
use super::tricks;
use crate::watch::Watch;
use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use iced_x86::code_asm::*;
use ring3_client::{Errno, Memory, VcpuExit};
use ring3_host::testing::ClientMemory;
use ring3_tests::bare::assemble;
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::{MORE_TABLES, P, PAGE, STACK, START, Size, TABLES, W, Words};
use ring3_uapi::x86::KvmRegs;
use ring3_uapi::{KVM_MEM_READONLY, KvmUserspaceMemoryRegion};

/// Where the host's memory is, so that an input does the same again in another process.
pub const HOST: u64 = 0x2a57_0000_0000;
/// Where the guest's part of it is for the guest: physical, and linear from its own first page tables on.
pub const GPA: u64 = 0x1000_0000;
pub const WINDOW: u64 = 0x80_0000_0000;
/// Guest-physical pages with something in them, holes included.
pub const PAGES: u64 = 9;
/// Where the last level of the window's page tables begins; the window's first page is the one before its memory.
pub const TABLE_ENTRIES: u64 = MORE_TABLES + 2 * PAGE;

/// A slot: its first guest-physical page, its first page of the host's, its pages, and whether it may be written.
struct Slot {
    gpa: u64,
    host: u64,
    pages: u64,
    writable: bool,
}

/// The second follows the first for the guest, but not for the host.
const SLOTS: [Slot; 3] = [
    Slot {
        gpa: 0,
        host: 4,
        pages: 4,
        writable: true,
    },
    Slot {
        gpa: 4,
        host: 12,
        pages: 2,
        writable: false,
    },
    Slot {
        gpa: 7,
        host: 18,
        pages: 2,
        writable: true,
    },
];
const HOST_PAGES: usize = 24;
const READ_ONLY: u8 = 0x11;

/// Where a guest finds its pointers: several sets, taken in turn.
const POINTERS: u64 = 0x9000;
const SETS: u64 = 4;
const COUNTER: u64 = 0x8ff8;
/// Enough for code to be worth a translation, several times over.
const ROUNDS: u64 = 100;
/// How often a guest may come back, and be interrupted.
const MOST_EXITS: u32 = 300;
const MOST_INTERRUPTIONS: u32 = 8;

const PAGE_LEN: usize = PAGE as usize;

pub struct Prison {
    host: ClientMemory,
}

impl Prison {
    pub fn new() -> std::io::Result<Prison> {
        let host = ClientMemory::at(HOST, HOST_PAGES)?;
        Ok(Prison { host })
    }

    /// Holds one guest that executes the code in a loop; how often it came back.
    pub fn hold(&self, code: &[u8], state: u64, watch: &Watch) -> Result<u32> {
        let mut rng = Rng::with_seed(state);
        self.lock_up();
        let mut guest = self.guest()?;
        enter(&mut guest, code, &mut rng);
        let exits = self.run(&guest, watch)?;
        search(&guest)?;
        self.look_around()?;
        Ok(exits)
    }

    /// Everything is the secret, and then the slots' memory is the guest's.
    fn lock_up(&self) {
        let secret = SECRET.repeat(PAGE_LEN / 8);
        for page in 0..HOST_PAGES {
            self.host.write(page * PAGE_LEN, &secret);
        }
        for slot in &SLOTS {
            let fill = if slot.writable { 0 } else { READ_ONLY };
            for page in slot.host..slot.host + slot.pages {
                self.host.write((page * PAGE) as usize, &[fill; PAGE_LEN]);
            }
        }
    }

    fn guest(&self) -> Result<Guest> {
        let mut guest = Guest::prepared(1, |_| {});
        for (n, slot) in SLOTS.iter().enumerate() {
            let region = KvmUserspaceMemoryRegion {
                slot: n as u32 + 1,
                flags: if slot.writable { 0 } else { KVM_MEM_READONLY },
                guest_phys_addr: GPA + slot.gpa * PAGE,
                memory_size: slot.pages * PAGE,
                userspace_addr: self.host.address() + slot.host * PAGE,
            };
            guest.vm.set_user_memory_region(&region).context("a slot")?;
        }
        for page in 0..PAGES + 2 {
            let at = guest.map(WINDOW + page * PAGE, GPA + page * PAGE - PAGE, P | W, Size::Small);
            debug_assert_eq!(at, TABLE_ENTRIES + page * 8);
        }
        Ok(guest)
    }

    fn run(&self, guest: &Guest, watch: &Watch) -> Result<u32> {
        let vcpu = guest.vcpu();
        let (mut exits, mut interruptions) = (0, 0);
        while exits < MOST_EXITS {
            exits += 1;
            match watch.during(|| vcpu.run()) {
                Ok(VcpuExit::MmioRead { .. }) => vcpu.complete_mmio_read(&[0x5a; 8]),
                Ok(VcpuExit::MmioWrite { data, len, .. }) => {
                    let shown = data.get(..len).unwrap_or(&data);
                    ensure!(
                        len < 4 || secret::found(shown, 4).is_none(),
                        "a device was shown {shown:x?}"
                    );
                }
                Ok(VcpuExit::IoIn(io)) => vcpu.complete_io_in(&io, &[0x5a; 8]),
                // It goes on behind.
                Ok(VcpuExit::IoOut(_) | VcpuExit::Hypercall(_)) => {}
                // The end, or an exception's.
                Ok(VcpuExit::Hlt) => {
                    if guest.word(COUNTER) & 0xffff_ffff == 0 {
                        break;
                    }
                    guest
                        .ram
                        .clone()
                        .put(COUNTER, (guest.word(COUNTER) & 0xffff_ffff) - 1);
                    guest.restart();
                }
                Ok(VcpuExit::Shutdown | VcpuExit::InternalError(_)) => {
                    guest.restart();
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {
                    interruptions += 1;
                    if interruptions > MOST_INTERRUPTIONS {
                        break;
                    }
                }
                other => bail!("{other:x?}"),
            }
        }
        Ok(exits)
    }

    /// The host's memory is what it was.
    fn look_around(&self) -> Result<()> {
        let secret = SECRET.repeat(PAGE_LEN / 8);
        let mut bytes = vec![0; PAGE_LEN];
        for page in 0..HOST_PAGES as u64 {
            self.host.read((page * PAGE) as usize, &mut bytes);
            let slot = SLOTS
                .iter()
                .find(|slot| (slot.host..slot.host + slot.pages).contains(&page));
            match slot {
                None => ensure!(bytes == secret, "the host's page {page} was changed"),
                Some(slot) if !slot.writable => {
                    ensure!(
                        bytes == [READ_ONLY; PAGE_LEN],
                        "page {page}, which is only to be read, was changed"
                    );
                }
                Some(_) => ensure!(
                    secret::found(&bytes, 8).is_none(),
                    "the guest's page {page} of the host's holds the secret"
                ),
            }
        }
        Ok(())
    }
}

/// Writes the loop around the code, and the pointers that it is given.
fn enter(guest: &mut Guest, code: &[u8], rng: &mut Rng) {
    let loads = assemble(START, |a| {
        a.mov(eax, dword_ptr(COUNTER))?;
        a.and(eax, SETS as i32 - 1)?;
        a.shl(eax, 6)?;
        let set = |n: u64| qword_ptr(rax + (POINTERS + n * 8) as i32);
        for (n, register) in [rbx, rsi, rdi, r13, rsp, rbp, rcx].into_iter().enumerate() {
            a.mov(register, set(n as u64))?;
        }
        a.mov(rax, set(7))
    });
    let body = START + loads.len() as u64;
    let behind = body + code.len() as u64;
    let end = assemble(behind, |a| {
        let mut top = a.create_label();
        a.dec(dword_ptr(COUNTER))?;
        a.je(top)?;
        a.jmp(START)?;
        a.set_label(&mut top)?;
        a.hlt()
    });
    for (at, bytes) in [(START, &loads[..]), (body, code), (behind, &end)] {
        guest.ram.0.write(at as usize, bytes).expect("inside of memory");
    }
    guest.ram.put(COUNTER, ROUNDS);
    for n in 0..SETS * 8 {
        let mut value = tricks::address(rng);
        if n % 8 == 4 && rng.bool() {
            value = STACK - 64;
        }
        guest.ram.put(POINTERS + n * 8, value);
    }
}

/// Looks for the secret in the registers, and in memory from zero on.
fn search(guest: &Guest) -> Result<()> {
    let regs: KvmRegs = guest.vcpu().get_regs()?;
    let registers = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.r8, regs.r9, regs.r10,
        regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ];
    for register in registers {
        ensure!(
            secret::found(&register.to_le_bytes(), 4).is_none(),
            "a register holds {register:#x}"
        );
    }
    for (n, register) in guest.vcpu().get_fpu()?.xmm.iter().enumerate() {
        ensure!(secret::found(register, 8).is_none(), "XMM{n} holds the secret");
    }
    look_through(&guest.ram.0)
}

/// Looks where guests write most: around their stacks, tables and code.
fn look_through(memory: &Memory) -> Result<()> {
    let mut bytes = vec![0; PAGE_LEN];
    let low = 0..(START + PAGE) as usize;
    let tables = TABLES as usize..TABLE_ENTRIES as usize + 2 * PAGE_LEN;
    for at in low.step_by(PAGE_LEN).chain(tables.step_by(PAGE_LEN)) {
        memory.read(at, &mut bytes)?;
        ensure!(
            bytes == [0; PAGE_LEN] || secret::found(&bytes, 8).is_none(),
            "the guest's memory from {at:#x} on holds the secret"
        );
    }
    Ok(())
}
