//! A guest in 64-bit mode without a kernel: a few pages, flat segments, the first four GiB mapped one to one.

use anyhow::{Context, Result};
use ring3_client::{Errno, Kvm, Memory, Vcpu, VcpuExit, Vm};
use ring3_uapi::x86::{KvmRegs, KvmSegment, KvmSregs};

/// Where the code of a processor begins.
pub const CODE: [u64; 2] = [0xa000, 0xb000];
/// Where handlers of interrupts are.
pub const HANDLERS: u64 = 0x9000;
/// A page for data.
pub const DATA: u64 = 0xc000;
/// A port that no device in KVM has.
pub const PORT: u16 = 0x500;
/// An address where no memory is.
pub const DEVICE: u64 = 0x1000_0000;

const BYTES: usize = 0x10000;
const ROOT: u64 = 0x1000;
const POINTERS: u64 = 0x2000;
const DIRECTORIES: u64 = 0x3000;
const GDT: u64 = 0x7000;
const IDT: u64 = 0x8000;
const STACKS: [u64; 2] = [0xe000, 0xf000];

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
const X2APIC: u32 = 1 << 21;
const APIC_BASE: u64 = 0xfee0_0000 | 1 << 11 | 1 << 10;
const APIC_BASE_BOOT: u64 = 1 << 8;

/// Who has the interrupt controllers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Irqchip {
    Client,
    Kvm,
}

pub struct Guest {
    pub vm: Vm,
    pub memory: Memory,
    cpuid: Vec<ring3_uapi::x86::KvmCpuidEntry2>,
    irqchip: Irqchip,
}

impl Guest {
    pub fn new(kvm: &Kvm, irqchip: Irqchip) -> Result<Guest> {
        let vm = kvm.create_vm(0).context("KVM_CREATE_VM")?;
        if irqchip == Irqchip::Kvm {
            vm.create_irqchip().context("KVM_CREATE_IRQCHIP")?;
        }
        let memory = Memory::new(BYTES).context("memory")?;
        vm.add_memory(0, 0, &memory, 0).context("a memory slot")?;
        let cpuid = kvm.supported_cpuid().context("KVM_GET_SUPPORTED_CPUID")?;
        let guest = Guest {
            vm,
            memory,
            cpuid,
            irqchip,
        };
        guest.write_tables()?;
        Ok(guest)
    }

    /// Whether VMMCALL is the host's instruction for hypercalls, and not VMCALL.
    pub fn is_amd(&self) -> bool {
        let vendor = self.cpuid.iter().find(|entry| entry.function == 0);
        vendor.is_some_and(|entry| entry.ebx.to_le_bytes() == *b"Auth")
    }

    fn write_tables(&self) -> Result<()> {
        const PRESENT_WRITABLE: u64 = 3;
        const LARGE: u64 = 1 << 7;
        let store = |at: u64, value: u64| self.memory.store(at as usize, &value);
        store(ROOT, POINTERS | PRESENT_WRITABLE)?;
        for gib in 0..4 {
            store(
                POINTERS + 8 * gib,
                (DIRECTORIES + 0x1000 * gib) | PRESENT_WRITABLE,
            )?;
        }
        for page in 0..4 * 512 {
            store(DIRECTORIES + 8 * page, page << 21 | LARGE | PRESENT_WRITABLE)?;
        }
        store(GDT + u64::from(CODE_SELECTOR), 0x00af_9b00_0000_ffff)?;
        store(GDT + u64::from(DATA_SELECTOR), 0x00cf_9300_0000_ffff)?;
        Ok(())
    }

    /// Puts a handler at an address, and at a vector.
    pub fn handle(&self, vector: u8, at: u64, code: &[u8]) -> Result<()> {
        self.memory.write(at as usize, code)?;
        let gate = (at & 0xffff) | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32;
        self.memory
            .store((IDT + 16 * u64::from(vector)) as usize, &gate)?;
        Ok(())
    }

    /// A processor about to execute `code`, with `regs` but for RIP, RSP and RFLAGS.
    pub fn processor(&self, id: usize, code: &[u8], regs: KvmRegs) -> Result<Vcpu> {
        self.memory.write(CODE[id] as usize, code)?;
        let vcpu = self.vm.create_vcpu(id as u64).context("KVM_CREATE_VCPU")?;
        let mut cpuid = self.cpuid.clone();
        for entry in cpuid.iter_mut().filter(|entry| entry.function == 1) {
            entry.ebx = entry.ebx & 0x00ff_ffff | (id as u32) << 24;
            entry.ecx |= X2APIC;
        }
        vcpu.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
        let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
        long_mode(&mut sregs);
        if self.irqchip == Irqchip::Kvm {
            sregs.apic_base = APIC_BASE | if id == 0 { APIC_BASE_BOOT } else { 0 };
        }
        vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
        let regs = KvmRegs {
            rip: CODE[id],
            rsp: STACKS[id],
            rflags: 2,
            ..regs
        };
        vcpu.set_regs(&regs).context("KVM_SET_REGS")?;
        Ok(vcpu)
    }
}

fn long_mode(sregs: &mut KvmSregs) {
    let flat = |selector, type_, long| KvmSegment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        l: long,
        db: 1 - long,
        g: 1,
        ..KvmSegment::default()
    };
    sregs.cs = flat(CODE_SELECTOR, 0xb, 1);
    let data = flat(DATA_SELECTOR, 3, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x17);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0xfff);
    sregs.cr3 = ROOT;
    sregs.cr4 |= 1 << 5;
    sregs.cr0 |= 1 | 1 << 31;
    sregs.efer |= 1 << 8 | 1 << 10;
}

/// KVM_RUN, again if a signal came between.
pub fn run(vcpu: &Vcpu) -> Result<VcpuExit> {
    loop {
        match vcpu.run() {
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            result => return result.context("KVM_RUN"),
        }
    }
}
