//! Guest memory that the host has in a file only: the guest does something else until it is there.

use super::port;
use iced_x86::code_asm::*;
use ring3_host::testing::ClientMemory;
use ring3_tests::bare::guest::Guest;
use ring3_tests::bare::places::*;
use ring3_uapi::KvmUserspaceMemoryRegion;
use ring3_uapi::x86::pv::*;
use std::io::Write;

/// Where the file is mapped, physically and linearly, and what of it is read: pages far enough from each other.
const FILE: u64 = 0x1000_0000;
const WINDOW: u64 = 0x80_0000_0000;
const PAGES: u64 = 2048;
const STRIDE: u64 = 128;

const VECTOR: u32 = 0x41;
/// The structure shared with the guest, and where it counts: exceptions, what they said, and the last token that was ready.
const STRUCTURE: u64 = 0xa000;
const FAULTS: u64 = 0xb000;
const ERROR: u64 = FAULTS + 8;
const TOKEN: u64 = FAULTS + 16;
const READY: u64 = FAULTS + 24;
const STRANGE: u64 = FAULTS + 32;
const FAULT_HANDLER: u64 = 0xc000;
const READY_HANDLER: u64 = 0xd000;

const APIC_BASE: u32 = 0x1b;
const X2APIC_SVR: u32 = 0x80f;
const X2APIC_EOI: u32 = 0x80b;

/// A guest that is about to add the first words of some pages of a file, none of which is in memory; the sum; the file.
/// `None` where the host keeps all files in memory.
fn guest(enables_interrupts: bool) -> Option<(Guest, u64, ClientMemory)> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    for page in 0..PAGES {
        let mut bytes = [0; PAGE as usize];
        bytes[..8].copy_from_slice(&(page + 1).to_le_bytes());
        file.write_all(&bytes).expect("the disk has room");
    }
    file.sync_all().expect("the disk works");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is free");
    let memory = ClientMemory::of_file(&file, PAGES as usize).expect("a mapping");
    let last = memory.address() + (PAGES - STRIDE) * PAGE;
    if ring3_host::residence::is_resident(last) {
        eprintln!("skipped: this file system keeps its files in memory");
        return None;
    }
    let mut guest = Guest::prepared(1, |vm| vm.create_irqchip().expect("KVM_CREATE_IRQCHIP"));
    let region = KvmUserspaceMemoryRegion {
        slot: 1,
        guest_phys_addr: FILE,
        memory_size: PAGES * PAGE,
        userspace_addr: memory.address(),
        ..Default::default()
    };
    guest.vm.set_user_memory_region(&region).expect("a slot");
    for page in (0..PAGES).step_by(STRIDE as usize) {
        guest.map(WINDOW + page * PAGE, FILE + page * PAGE, P | W, Size::Small);
    }
    guest.code(START, |a| {
        let mut top = a.create_label();
        if enables_interrupts {
            a.sti()?;
        }
        a.mov(rdi, WINDOW)?;
        a.xor(ebx, ebx)?;
        a.mov(r12d, (PAGES / STRIDE) as u32)?;
        a.set_label(&mut top)?;
        a.add(rbx, qword_ptr(rdi))?;
        a.add(rdi, (STRIDE * PAGE) as i32)?;
        a.dec(r12d)?;
        a.jne(top)?;
        a.mov(eax, ebx)?;
        a.out(0x10, eax)
    });
    let sum = (0..PAGES).step_by(STRIDE as usize).map(|page| page + 1).sum();
    Some((guest, sum, memory))
}

/// Has the guest count faults, wait for each page, and take note of what is ready.
fn handlers(guest: &mut Guest) {
    guest.code(FAULT_HANDLER, |a| {
        let (mut wait, mut done) = (a.create_label(), a.create_label());
        a.push(rax)?;
        a.mov(rax, qword_ptr(rsp + 8))?;
        a.or(qword_ptr(ERROR), rax)?;
        // Exceptions of the guest's own making have no place here.
        a.xor(eax, eax)?;
        a.xchg(dword_ptr(STRUCTURE), eax)?;
        a.xor(eax, 1)?;
        a.or(qword_ptr(STRANGE), rax)?;
        a.inc(qword_ptr(FAULTS))?;
        a.mov(rax, cr2)?;
        a.mov(qword_ptr(TOKEN), rax)?;
        a.set_label(&mut wait)?;
        a.cli()?;
        a.cmp(qword_ptr(READY), rax)?;
        a.je(done)?;
        a.sti()?;
        a.hlt()?;
        a.jmp(wait)?;
        a.set_label(&mut done)?;
        a.pop(rax)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
    guest.code(READY_HANDLER, |a| {
        a.push(rax)?;
        a.push(rcx)?;
        a.push(rdx)?;
        a.xor(eax, eax)?;
        a.xchg(dword_ptr(STRUCTURE + 4), eax)?;
        a.mov(qword_ptr(READY), rax)?;
        a.mov(eax, 1)?;
        a.xor(edx, edx)?;
        a.mov(ecx, MSR_KVM_ASYNC_PF_ACK)?;
        a.wrmsr()?;
        a.xor(eax, eax)?;
        a.mov(ecx, X2APIC_EOI)?;
        a.wrmsr()?;
        a.pop(rdx)?;
        a.pop(rcx)?;
        a.pop(rax)?;
        a.iretq()
    });
    gate(&mut guest.ram, 14, FAULT_HANDLER, 0x8e, 0);
    gate(&mut guest.ram, VECTOR.into(), READY_HANDLER, 0x8e, 0);
    let base = guest.vcpu().get_msr(APIC_BASE).expect("KVM_GET_MSRS");
    for (register, value) in [
        (APIC_BASE, base | 1 << 10),
        (X2APIC_SVR, 0x1ff),
        (MSR_KVM_ASYNC_PF_INT, VECTOR.into()),
    ] {
        guest.vcpu().set_msr(register, value).expect("KVM_SET_MSRS");
    }
}

#[test]
fn a_guest_that_asked_waits_for_it_as_it_likes() {
    let Some((mut guest, sum, _memory)) = guest(true) else {
        return;
    };
    handlers(&mut guest);
    let enabled = KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_SEND_ALWAYS | KVM_ASYNC_PF_DELIVERY_AS_INT;
    let vcpu = guest.vcpu();
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, STRUCTURE | enabled), Ok(()));
    assert_eq!(port(vcpu), sum);
    assert!(guest.word(FAULTS) >= 2, "{} faults", guest.word(FAULTS));
    assert_eq!((guest.word(ERROR), guest.word(STRANGE)), (0, 0));
    assert_eq!(guest.word(READY), guest.word(TOKEN));
}

#[test]
fn a_guest_that_wants_it_for_programs_only_is_left_alone_at_level_0() {
    let Some((mut guest, sum, _memory)) = guest(true) else {
        return;
    };
    handlers(&mut guest);
    let enabled = KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT;
    let vcpu = guest.vcpu();
    assert_eq!(vcpu.set_msr(MSR_KVM_ASYNC_PF_EN, STRUCTURE | enabled), Ok(()));
    assert_eq!(port(vcpu), sum);
    assert_eq!(guest.word(FAULTS), 0);
}

#[test]
fn a_guest_that_did_not_ask_does_not_notice() {
    for enables_interrupts in [true, false] {
        let Some((guest, sum, _memory)) = guest(enables_interrupts) else {
            return;
        };
        assert_eq!(port(guest.vcpu()), sum);
    }
}
