//! A processor: how it starts, and the loop that runs it.

use crate::End;
use crate::devices::Devices;
use crate::gdb::Place;
use crate::layout::{GDT, PAGE_TABLES, ZERO_PAGE};
use crate::memory::GuestMemory;
use anyhow::{Context, Result, anyhow};
use ring3_client::{Errno, Vcpu, VcpuExit};
use ring3_uapi::x86::{KvmCpuidEntry2, KvmRegs, KvmSegment};
use vm_memory::{Bytes, GuestAddress};

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;
const PAGE: u64 = 4096;

/// Linux's boot selectors.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

/// IA32_MISC_ENABLE, and its bit for fast strings.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;

/// Without that, Linux would not use REP MOVSB.
pub fn offer_fast_strings(vcpu: &Vcpu) -> Result<()> {
    let value = vcpu.get_msr(MISC_ENABLE).context("KVM_GET_MSRS")?;
    vcpu.set_msr(MISC_ENABLE, value | FAST_STRINGS)
        .context("KVM_SET_MSRS")
}

/// The CPUID of processor `id` of `cpus`: what KVM supports, with its own APIC id and topology.
pub fn cpuid(supported: &[KvmCpuidEntry2], id: u32, cpus: u32) -> Vec<KvmCpuidEntry2> {
    let width = cpus.next_power_of_two().trailing_zeros();
    let mut entries = supported.to_vec();
    for entry in &mut entries {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | id << 24 | cpus << 16;
                // Whether the count of processors means anything.
                entry.edx = entry.edx & !(1 << 28) | u32::from(cpus > 1) << 28;
            }
            // Caches: nobody's threads, each processor a core.
            4 => entry.eax = entry.eax & 0x3fff | (cpus - 1).min(63) << 26,
            0xb | 0x1f => {
                let (shift, count, level) = match entry.index {
                    0 => (0, 1, 1),
                    1 => (width, cpus, 2),
                    _ => (0, 0, 0),
                };
                (entry.eax, entry.ebx) = (shift, count);
                (entry.ecx, entry.edx) = (level << 8 | entry.index, id);
            }
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | width << 12 | (cpus - 1),
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
            _ => {}
        }
    }
    entries
}

/// Writes the page tables that the first processor starts on: the first four GiB, one to one.
pub fn write_page_tables(memory: &GuestMemory) -> Result<()> {
    let directories = PAGE_TABLES + 2 * PAGE;
    memory.write_obj((PAGE_TABLES + PAGE) | PRESENT_WRITABLE, GuestAddress(PAGE_TABLES))?;
    for gib in 0..4 {
        let directory = directories + gib * PAGE;
        let at = PAGE_TABLES + PAGE + gib * 8;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(at))?;
        for n in 0..512 {
            let page = (gib * 512 + n) << 21 | LARGE | PRESENT_WRITABLE;
            memory.write_obj(page, GuestAddress(directory + n * 8))?;
        }
    }
    Ok(())
}

/// Puts the first processor at Linux's 64-bit entry, as its boot protocol says.
pub fn start_at(vcpu: &Vcpu, memory: &GuestMemory, entry: u64) -> Result<()> {
    let code = segment(CODE, 0xb);
    let data = segment(DATA, 3);
    let descriptors = [0, 0, descriptor(&code), descriptor(&data)];
    for (n, descriptor) in descriptors.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(GDT + 8 * n as u64))?;
    }
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, (descriptors.len() * 8 - 1) as u16);
    sregs.cs = code;
    for segment in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *segment = data;
    }
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    let regs = KvmRegs {
        rip: entry,
        rsi: ZERO_PAGE,
        rflags: 2,
        ..KvmRegs::default()
    };
    vcpu.set_regs(&regs).context("KVM_SET_REGS")
}

/// A flat segment; long if it is code.
fn segment(selector: u16, type_: u8) -> KvmSegment {
    let code = type_ >> 3;
    KvmSegment {
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        l: code,
        db: 1 - code,
        g: 1,
        ..KvmSegment::default()
    }
}

/// A segment's descriptor, as in the GDT.
fn descriptor(segment: &KvmSegment) -> u64 {
    let access = u64::from(segment.type_ | segment.s << 4 | segment.present << 7);
    let flags = u64::from(segment.l << 1 | segment.db << 2 | segment.g << 3);
    0xffff | access << 40 | 0xf << 48 | flags << 52
}

/// Runs a processor until the guest is done; the end, or what went wrong, is told to `devices`. Where there is a debugger, `place`
/// is the processor's before it.
pub fn run(vcpu: &Vcpu, devices: &Devices, place: Option<&Place>) {
    devices.finish(run_to_end(vcpu, devices, place));
    if let Some(place) = place {
        place.leave();
    }
}

fn run_to_end(vcpu: &Vcpu, devices: &Devices, place: Option<&Place>) -> Result<End> {
    if let Some(place) = place {
        place.wait();
    }
    loop {
        match (vcpu.run(), place) {
            (Ok(VcpuExit::Shutdown), _) => return Ok(End::Reset),
            (Ok(VcpuExit::Debug(exit)), Some(place)) => place.hit(&exit)?,
            (Ok(exit), _) => answer(vcpu, devices, exit)?,
            (Err(Errno::EINTR | Errno::EAGAIN), Some(place)) => place.wait(),
            (Err(Errno::EINTR | Errno::EAGAIN), None) => {}
            (Err(errno), _) => return Err(anyhow!("KVM_RUN: {errno}")),
        }
    }
}

fn answer(vcpu: &Vcpu, devices: &Devices, exit: VcpuExit) -> Result<()> {
    match exit {
        VcpuExit::IoOut(io) => {
            let size = usize::from(io.size).max(1);
            for data in vcpu.port_data(&io).chunks(size) {
                devices.write(io.port, data);
            }
        }
        VcpuExit::IoIn(io) => {
            let size = usize::from(io.size).max(1);
            let mut data = vec![0; size * io.count as usize];
            for item in data.chunks_mut(size) {
                devices.read(io.port, item);
            }
            vcpu.complete_io_in(&io, &data);
        }
        // No device has memory.
        VcpuExit::MmioRead { len, .. } => vcpu.complete_mmio_read(&[0xff; 8][..len]),
        VcpuExit::MmioWrite { .. } => {}
        other => {
            let rip = vcpu.get_regs().map(|regs| format!("{:#x}", regs.rip));
            let rip = rip.unwrap_or_else(|errno| errno.to_string());
            return Err(anyhow!("a processor stopped at RIP {rip}: {other:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_what_linux_wants() {
        assert_eq!(descriptor(&segment(CODE, 0xb)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(DATA, 3)), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn each_processor_knows_itself() {
        let leaf = |function, index| KvmCpuidEntry2 {
            function,
            index,
            ebx: 0xffff_0800,
            ..KvmCpuidEntry2::default()
        };
        let entries = cpuid(&[leaf(1, 0), leaf(0xb, 0), leaf(0xb, 1)], 3, 4);
        assert_eq!(entries[0].ebx, 0x0304_0800);
        assert_eq!(entries[0].edx >> 28, 1);
        let level = |entry: &KvmCpuidEntry2| (entry.eax, entry.ebx, entry.ecx, entry.edx);
        assert_eq!(level(&entries[1]), (0, 1, 0x100, 3));
        assert_eq!(level(&entries[2]), (2, 4, 0x201, 3));
    }
}
