//! The bare machine once more, as a guest of ring3's KVM in this process: the same places, memory and registers, but with
//! the client's whole interface around it, on as many processors as there are to be.

use super::places::{self, *};
use super::{assemble, initial};
use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use ring3_client::{Kvm, Memory, Vcpu, VcpuExit, Vm};
use ring3_host::signal::{Action, SigSet, client_sigaction};
use ring3_uapi::x86::{KvmRegs, KvmSegment};
use ring3_x86_cpu::State;
use ring3_x86_cpu::state::{CS, DS, ES, FS, GS, RSP, SS, Segment};
use std::sync::Once;

/// The signal that interrupts a processor; its handler does nothing.
pub const SIGNAL: i32 = 10;

pub struct Guest {
    pub vm: Vm,
    pub vcpus: Vec<Vcpu>,
    pub ram: Ram,
    next_table: u64,
}

/// Memory from zero.
#[derive(Clone)]
pub struct Ram(pub Memory);

impl Words for Ram {
    fn put(&mut self, gpa: u64, value: u64) {
        self.0.store(gpa as usize, &value).expect("inside of memory");
    }

    fn get(&self, gpa: u64) -> u64 {
        self.0.load(gpa as usize).expect("inside of memory")
    }
}

/// KVM, with the signal's handler installed before KVM looks.
fn kvm() -> Kvm {
    extern "C" fn nothing(_: i32) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let action = Action {
            handler: nothing as *const () as u64,
            flags: 0,
            restorer: 0,
            mask: SigSet::EMPTY,
        };
        client_sigaction(SIGNAL, Some(&action)).expect("a handler that does nothing");
    });
    Kvm::in_process().expect("ring3 needs no device")
}

fn segment(from: &Segment) -> KvmSegment {
    let bits = from.attributes.0;
    KvmSegment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: (bits & 15) as u8,
        s: (bits >> 4 & 1) as u8,
        dpl: (bits >> 5 & 3) as u8,
        present: (bits >> 7 & 1) as u8,
        avl: (bits >> 12 & 1) as u8,
        l: (bits >> 13 & 1) as u8,
        db: (bits >> 14 & 1) as u8,
        g: (bits >> 15 & 1) as u8,
        ..KvmSegment::default()
    }
}

impl Guest {
    /// A guest of so many processors, all about to execute what is put at [`START`].
    pub fn new(cpus: u64) -> Guest {
        Guest::prepared(cpus, |_| {})
    }

    /// The same, in a VM to which something is done before it has processors.
    pub fn prepared(cpus: u64, prepare: impl FnOnce(&Vm)) -> Guest {
        let kvm = kvm();
        let vm = kvm.create_vm(0).expect("KVM_CREATE_VM");
        prepare(&vm);
        let mut ram = Ram(Memory::new(LOW_PAGES * 4096).expect("memory"));
        places::write(&mut ram);
        vm.add_memory(0, 0, &ram.0, 0).expect("a slot");
        let supported = kvm.supported_cpuid().expect("KVM_GET_SUPPORTED_CPUID");
        let vcpus: Vec<Vcpu> = (0..cpus)
            .map(|id| {
                let vcpu = vm.create_vcpu(id).expect("KVM_CREATE_VCPU");
                vcpu.set_cpuid2(&supported).expect("KVM_SET_CPUID2");
                vcpu
            })
            .collect();
        let guest = Guest {
            vm,
            vcpus,
            ram,
            next_table: MORE_TABLES,
        };
        for vcpu in &guest.vcpus {
            start(vcpu);
        }
        guest
    }

    /// The first processor.
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpus[0]
    }

    /// Assembles code for `at`, which is both its linear and its physical address.
    pub fn code(
        &mut self,
        at: u64,
        build: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> usize {
        let code = assemble(at, build);
        self.ram.0.write(at as usize, &code).expect("inside of memory");
        code.len()
    }

    /// Maps a page and returns where its entry lies.
    pub fn map(&mut self, linear: u64, gpa: u64, bits: u64, size: Size) -> u64 {
        let at = places::entry(&mut self.ram, TABLES, &mut self.next_table, linear, size);
        let large = if size == Size::Small { 0 } else { PS };
        self.ram.put(at, gpa | bits | large);
        at
    }

    /// The first processor is again about to execute what is at [`START`].
    pub fn restart(&self) {
        start(self.vcpu());
    }

    pub fn word(&self, gpa: u64) -> u64 {
        self.ram.get(gpa)
    }

    /// Runs the first processor to its HLT.
    #[track_caller]
    pub fn halt(&self) {
        halt(self.vcpu());
    }
}

/// Runs to a HLT that is no exception's.
#[track_caller]
pub fn halt(vcpu: &Vcpu) {
    let left = vcpu.run();
    let rip = vcpu.get_regs().expect("KVM_GET_REGS").rip;
    assert_eq!(left, Ok(VcpuExit::Hlt), "at {rip:#x}");
    assert!(
        !(TRAPS + 1..=TRAPS + 256).contains(&rip),
        "exception {}",
        rip.wrapping_sub(TRAPS + 1)
    );
}

/// The registers of the bare machine.
fn start(vcpu: &Vcpu) {
    let mut state = State::power_up();
    initial(&mut state);
    let mut sregs = vcpu.get_sregs().expect("KVM_GET_SREGS");
    for (to, from) in [
        (&mut sregs.es, ES),
        (&mut sregs.cs, CS),
        (&mut sregs.ss, SS),
        (&mut sregs.ds, DS),
        (&mut sregs.fs, FS),
        (&mut sregs.gs, GS),
    ] {
        *to = segment(&state.seg[from]);
    }
    sregs.tr = segment(&state.tr);
    (sregs.gdt.base, sregs.gdt.limit) = (state.gdtr.base, state.gdtr.limit);
    (sregs.idt.base, sregs.idt.limit) = (state.idtr.base, state.idtr.limit);
    (sregs.cr0, sregs.cr3, sregs.cr4) = (state.cr0, state.cr3, state.cr4);
    sregs.efer = state.efer;
    vcpu.set_sregs(&sregs).expect("KVM_SET_SREGS");
    go_to(vcpu, START, state.gpr[RSP]);
}

/// Continues at `rip` with other registers zero.
pub fn go_to(vcpu: &Vcpu, rip: u64, rsp: u64) {
    vcpu.set_regs(&KvmRegs {
        rip,
        rsp,
        rflags: 2,
        ..KvmRegs::default()
    })
    .expect("KVM_SET_REGS");
}
