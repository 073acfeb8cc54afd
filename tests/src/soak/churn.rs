//! Bare guests in this process, and a client that takes away and gives back whatever they use while they run.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use iced_x86::code_asm::*;
use ring3_client::{Errno, VcpuExit};
use ring3_host::fd::eventfd;
use ring3_host::testing::{ClientMemory, ThreadId, Usage};
use ring3_uapi::exit::KVM_INTERNAL_ERROR_EMULATION;
use ring3_uapi::{
    KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IOEVENTFD_FLAG_PIO, KVM_IRQFD_FLAG_DEASSIGN, KVM_MEM_LOG_DIRTY_PAGES,
    KvmIoeventfd, KvmIrqfd, KvmMsi, KvmUserspaceMemoryRegion,
};

use crate::bare::guest::{Guest, SIGNAL};
use crate::bare::places::*;

/// The slot that comes and goes, and where the guest sees it.
const SLOT: u64 = 0x1000_0000;
const WINDOW: u64 = 0x80_0000_0000;
const PAGES: usize = 64;

/// Where a guest says that it goes on, and that its registers are not what they were.
const GOES_ON: u16 = 0x10;
const BROKEN: u16 = 0x11;
const DOORBELL: u16 = 0x12;

const ROUND: Duration = Duration::from_millis(250);
/// What more may be in use than after the first rounds, in pages: 64 MiB.
const SLACK: u64 = 16384;
const FIRST_ROUNDS: u32 = 5;

/// Runs one guest after the other for so long.
pub fn churn(time: Duration, seed: u64) -> Result<()> {
    let mut rng = Rng::with_seed(seed);
    let end = Instant::now() + time;
    let mut base = None;
    let (mut rounds, mut exits) = (0, 0);
    while Instant::now() < end {
        let seed = rng.u64(..);
        exits +=
            round(&mut Rng::with_seed(seed)).with_context(|| format!("round {rounds}, seed {seed:#x}"))?;
        rounds += 1;
        if rounds < FIRST_ROUNDS {
            continue;
        }
        let base = *base.get_or_insert(Usage::own()?);
        ensure!(
            base.is_left(SLACK, Usage::own),
            "seed {seed:#x} leaks: {base:?} have become {:?}",
            Usage::own()?
        );
    }
    println!("churn: {rounds} guests, {exits} exits");
    Ok(())
}

/// A guest that adds up what it finds in the window, writes there, rings a doorbell, and sees that its registers agree.
fn guest(cpus: u64) -> Guest {
    let mut guest = Guest::prepared(cpus, |vm| vm.create_irqchip().expect("KVM_CREATE_IRQCHIP"));
    for page in 0..PAGES as u64 {
        guest.map(WINDOW + page * PAGE, SLOT + page * PAGE, P | W, Size::Small);
    }
    guest.code(START, |a| {
        let (mut top, mut good) = (a.create_label(), a.create_label());
        a.mov(rdi, WINDOW)?;
        a.xor(r12d, r12d)?;
        a.xor(r13d, r13d)?;
        a.set_label(&mut top)?;
        a.imul_3(eax, r12d, 4096 + 64)?;
        a.and(eax, (PAGES as i32 - 1) << 12 | 0xfc0)?;
        a.add(rbx, qword_ptr(rdi + rax))?;
        a.mov(qword_ptr(rdi + rax + 8), r12)?;
        a.lock().inc(qword_ptr(rdi + rax + 16))?;
        a.add(r12, 1)?;
        a.add(r13, 3)?;
        a.lea(rcx, ptr(r12 + r12 * 2))?;
        a.cmp(rcx, r13)?;
        a.je(good)?;
        a.out(BROKEN as i32, al)?;
        a.set_label(&mut good)?;
        a.test(r12d, 0xfff)?;
        a.jne(top)?;
        a.out(DOORBELL as i32, al)?;
        a.out(GOES_ON as i32, al)?;
        a.jmp(top)
    });
    guest
}

/// One guest's life; how often its processors came back.
fn round(rng: &mut Rng) -> Result<u64> {
    let guest = guest(rng.u64(1..=3));
    let memories = [ClientMemory::new(PAGES)?, ClientMemory::new(PAGES)?];
    let (stop, exits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<u64> {
        let threads: Vec<_> = guest
            .vcpus
            .iter()
            .map(|vcpu| {
                let (sender, receiver) = std::sync::mpsc::channel();
                let (stop, exits) = (&stop, &exits);
                let thread = scope.spawn(move || {
                    let _ = sender.send(ThreadId::current());
                    run(vcpu, stop, exits)
                });
                (thread, receiver)
            })
            .collect();
        let ids: Vec<ThreadId> = threads.iter().filter_map(|(_, id)| id.recv().ok()).collect();
        let treated = treat(&guest, &memories, &ids, rng);
        let before = exits.load(Relaxed);
        // With memory there again, each of them goes on, or is stuck.
        plug(&guest, Some(&memories[0]), 0);
        std::thread::sleep(Duration::from_millis(5));
        stop.store(true, Relaxed);
        let deadline = Instant::now() + Duration::from_secs(20);
        while threads.iter().any(|(thread, _)| !thread.is_finished()) {
            ensure!(
                Instant::now() < deadline,
                "a processor is stuck after {before} exits"
            );
            ids.iter().for_each(|id| id.signal(SIGNAL));
            std::thread::sleep(Duration::from_millis(1));
        }
        for (thread, _) in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        treated?;
        Ok(exits.load(Relaxed))
    })
}

/// Runs a processor until it is to stop.
fn run(vcpu: &ring3_client::Vcpu, stop: &AtomicBool, exits: &AtomicU64) -> Result<()> {
    while !stop.load(Relaxed) {
        exits.fetch_add(1, Relaxed);
        match vcpu.run() {
            Ok(VcpuExit::IoOut(io)) if io.port != BROKEN => {}
            Ok(VcpuExit::MmioRead { .. }) => vcpu.complete_mmio_read(&[0; 8]),
            // Where the slot is only to be read, or is not there.
            Ok(VcpuExit::MmioWrite { .. }) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Memory that the client took away.
            Err(Errno::EFAULT) => std::thread::sleep(Duration::from_micros(100)),
            Ok(VcpuExit::InternalError(error)) if error.suberror != KVM_INTERNAL_ERROR_EMULATION => {}
            other => {
                let rip = vcpu.get_regs().map(|regs| regs.rip);
                bail!("{other:?} at {rip:x?}");
            }
        }
    }
    Ok(())
}

fn plug(guest: &Guest, memory: Option<&ClientMemory>, flags: u32) {
    let region = |size, address| KvmUserspaceMemoryRegion {
        slot: 1,
        flags,
        guest_phys_addr: SLOT,
        memory_size: size,
        userspace_addr: address,
    };
    // What is there already, or not there, is refused.
    let _ = guest.vm.set_user_memory_region(&region(0, 0));
    if let Some(memory) = memory {
        let whole = region(memory.len() as u64, memory.address());
        let _ = guest.vm.set_user_memory_region(&whole);
    }
}

/// What a client may do meanwhile.
fn treat(guest: &Guest, memories: &[ClientMemory; 2], ids: &[ThreadId], rng: &mut Rng) -> Result<()> {
    let end = Instant::now() + ROUND;
    let mut kept = Vec::new();
    while Instant::now() < end {
        let memory = &memories[rng.usize(0..2)];
        let page = rng.usize(0..PAGES) * PAGE as usize;
        match rng.u32(0..10) {
            0 => plug(guest, None, 0),
            1 | 2 => plug(guest, Some(memory), KVM_MEM_LOG_DIRTY_PAGES * rng.u32(0..2)),
            3 => memory.discard(page, PAGE as usize)?,
            4 => {
                memory.unmap(page, PAGE as usize)?;
                std::thread::sleep(Duration::from_micros(rng.u64(0..500)));
                memory.map_again(page, PAGE as usize)?;
            }
            5 => ids[rng.usize(0..ids.len())].signal(SIGNAL),
            6 => {
                // There is none, or it is not logged.
                let _ = guest.vm.get_dirty_log(1, PAGES);
            }
            7 => interrupts(guest, rng, &mut kept)?,
            8 => doorbell(guest, rng)?,
            _ => {
                let message = KvmMsi {
                    address_lo: 0xfee0_0000 | rng.u32(0..4) << 12,
                    data: rng.u32(0x20..0x100),
                    ..KvmMsi::default()
                };
                let _ = guest.vm.signal_msi(&message);
            }
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..300)));
    }
    Ok(())
}

/// An eventfd that interrupts the guest, which is dropped, or given back first, or kept.
fn interrupts(guest: &Guest, rng: &mut Rng, kept: &mut Vec<std::os::fd::OwnedFd>) -> Result<()> {
    let event = eventfd()?;
    let mut irqfd = KvmIrqfd {
        fd: event.as_raw_fd() as u32,
        gsi: rng.u32(0..24),
        ..KvmIrqfd::default()
    };
    guest.vm.irqfd(&irqfd)?;
    ring3_host::fd::eventfd_signal(&event)?;
    match rng.u32(0..3) {
        0 => kept.push(event),
        1 => {
            irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
            guest.vm.irqfd(&irqfd)?;
        }
        _ => {}
    }
    Ok(())
}

/// An eventfd in the place of the doorbell's exits, for a while or for ever.
fn doorbell(guest: &Guest, rng: &mut Rng) -> Result<()> {
    let event = eventfd()?;
    let mut doorbell = KvmIoeventfd {
        addr: DOORBELL.into(),
        len: 1,
        fd: event.as_raw_fd(),
        flags: KVM_IOEVENTFD_FLAG_PIO,
        ..KvmIoeventfd::default()
    };
    match guest.vm.ioeventfd(&doorbell) {
        Ok(()) => {}
        // One that was left behind is still there.
        Err(Errno::EEXIST) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    std::thread::sleep(Duration::from_micros(rng.u64(0..2000)));
    if rng.bool() {
        doorbell.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
        guest.vm.ioeventfd(&doorbell)?;
    }
    Ok(())
}
