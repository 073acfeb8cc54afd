//! The world around the processor: guest memory from the memslots, in-kernel devices, and the client for the rest.

use std::sync::atomic::Ordering;

use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_host::mem::HostPage;
use ring3_kvm::io::Bus;
use ring3_kvm::memory::Lines;
use ring3_kvm::stats::Place;
use ring3_uapi::exit::KVM_MEMORY_EXIT_FLAG_PRIVATE;
use ring3_uapi::exit::{KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN};
use ring3_uapi::run::RunMemoryFault;
use ring3_x86_cpu::{
    Access, Backing, Fault, Foreign, Hypercall, Memory, Pause, Platform, Ports, Posted, Refusal, State,
};

use crate::exit::Exit;
use crate::msr::{self, By, Denied};
use crate::vcpu::{Unit, X86Vcpu};
use crate::{apic, async_pf, hypercall, parameters, pmu, smm, stats, vapic};

/// One vCPU's view of the machine, for the length of a run.
pub struct Machine<'a> {
    pub vcpu: &'a X86Vcpu,
    pub unit: &'a mut Unit,
}

impl Memory for Machine<'_> {
    fn page(&mut self, gpa: GuestPhys, access: Access) -> Backing {
        let memory = self.vcpu.vm().memory();
        let Some(page) = self.unit.slots.lookup(memory, gpa.page()) else {
            return self.no_page(gpa);
        };
        if access != Access::Write {
            return Backing::Ram {
                page: page.host(),
                direct: true,
            };
        }
        if !page.writable() {
            return Backing::Mmio;
        }
        self.vcpu.mark_dirty(&page);
        Backing::Ram {
            page: page.host(),
            direct: page.direct_write(),
        }
    }

    fn puts_off(&mut self, gpa: GuestPhys, page: HostPage) -> bool {
        async_pf::puts_off(self.vcpu, self.unit, gpa, page.address().0)
    }

    fn mmio_read(&mut self, gpa: GuestPhys, data: &mut [u8]) -> Result<(), Pause> {
        if self.unit.io.take_mmio(gpa, data) {
            return Ok(());
        }
        if apic::is_task_priority(self.vcpu, gpa) {
            self.unit.vapic.note(false);
        }
        if apic::mmio_read(self.vcpu, self.unit, gpa, data)
            || self.vcpu.vm().io().read(Bus::Mmio, gpa.0, data)
        {
            return Ok(());
        }
        self.count(stats::MMIO_EXITS);
        self.unit.io.queue(Exit::MmioRead {
            gpa,
            len: data.len() as u8,
        });
        Err(Pause)
    }

    fn mmio_write(&mut self, gpa: GuestPhys, data: &[u8]) -> Posted {
        let reported = apic::is_task_priority(self.vcpu, gpa) && self.unit.vapic.note(true);
        if apic::mmio_write(self.vcpu, self.unit, gpa, data)
            || self.vcpu.vm().io().write(Bus::Mmio, gpa.0, data)
        {
            return if reported { Posted::Pause } else { self.posted() };
        }
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        self.count(stats::MMIO_EXITS);
        self.unit.io.queue(Exit::MmioWrite {
            gpa,
            len: data.len() as u8,
            data: bytes,
        });
        Posted::Pause
    }

    fn mark_code(&mut self, gpa: GuestPhys, lines: u64) {
        if let Some(page) = self.unit.slots.lookup(self.vcpu.vm().memory(), gpa.page()) {
            // Linux maps a page writable, and so logs it, when the guest first reaches it. Clients' tests expect that
            // of code at least.
            if page.writable() && !page.has_code() {
                self.vcpu.mark_dirty(&page);
            }
            self.vcpu
                .vm()
                .memory()
                .mark_code(self.vcpu.seat(), &page, Lines(lines));
        }
    }

    fn code_written(&mut self, gpa: GuestPhys, len: usize) -> bool {
        let Some(page) = self.unit.slots.lookup(self.vcpu.vm().memory(), gpa.page()) else {
            return false;
        };
        self.vcpu
            .vm()
            .memory()
            .code_written(Some(self.vcpu.seat()), &page, Lines::of(gpa.offset(), len))
    }

    fn retired(&mut self, at: u64) -> Posted {
        self.unit.io.retire();
        vapic::report(self.unit, at)
    }

    fn space_changed(&mut self, state: &State) {
        let space = smm::space(state);
        self.unit.slots.set_space(self.vcpu.vm().memory(), space);
    }
}

impl Ports for Machine<'_> {
    fn port_read(&mut self, port: u16, data: &mut [u8]) -> Result<(), Pause> {
        if self.unit.io.take_port(port, data) {
            return Ok(());
        }
        self.count(stats::IO_EXITS);
        if self.vcpu.vm().io().read(Bus::Pio, port.into(), data) {
            return Ok(());
        }
        self.unit.io.queue(Exit::PortRead {
            port,
            size: data.len() as u8,
        });
        Err(Pause)
    }

    fn port_write(&mut self, port: u16, data: &[u8]) -> Posted {
        self.count(stats::IO_EXITS);
        if self.vcpu.vm().io().write(Bus::Pio, port.into(), data) {
            return self.posted();
        }
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        self.unit.io.queue(Exit::PortWrite {
            port,
            size: data.len() as u8,
            data: bytes,
        });
        Posted::Pause
    }

    fn port_is_open(&self, port: u16) -> bool {
        let settings = &self.vcpu.vm().arch().settings;
        settings.parameters.enable_vmware_backdoor.open(port)
    }

    fn port_read_string(&mut self, port: u16, size: usize, data: &mut [u8]) -> Result<usize, Pause> {
        if let Some(len) = self.unit.io.take_port_string(port, size, data) {
            return Ok(len);
        }
        self.count(stats::IO_EXITS);
        if self.read_string_here(port, size, data) {
            return Ok(data.len());
        }
        self.unit.io.queue(Exit::StringRead {
            port,
            size: size as u8,
            count: (data.len() / size) as u32,
        });
        Err(Pause)
    }
}

/// The exit that an access to a page comes to which has to be in a guest_memfd, and cannot be reached there.
pub fn memory_fault(vcpu: &X86Vcpu, unit: &mut Unit, gpa: GuestPhys) -> Option<RunMemoryFault> {
    let slots = unit.slots.slots(vcpu.vm().memory());
    let private = slots.is_private(gpa.page());
    (private || slots.is_in_guest_memfd(gpa.page())).then(|| RunMemoryFault {
        flags: if private { KVM_MEMORY_EXIT_FLAG_PRIVATE } else { 0 },
        gpa: gpa.page_start().0,
        size: PAGE_SIZE,
    })
}

impl Machine<'_> {
    /// What is in no slot is the client's to serve, and what has to be in a guest_memfd and is not is lost.
    fn no_page(&mut self, gpa: GuestPhys) -> Backing {
        if memory_fault(self.vcpu, self.unit, gpa).is_none() {
            return Backing::Mmio;
        }
        Backing::Ram {
            page: HostPage::NULL,
            direct: false,
        }
    }

    fn count(&self, place: Place) {
        self.vcpu.stats().at(place).add(1);
    }

    /// Repeated reads of a port by a device of ours; false if it is none's.
    fn read_string_here(&self, port: u16, size: usize, data: &mut [u8]) -> bool {
        let io = self.vcpu.vm().io();
        let mut pieces = data.chunks_exact_mut(size);
        let Some(first) = pieces.next() else { return true };
        if !io.read(Bus::Pio, port.into(), first) {
            return false;
        }
        for piece in pieces {
            // A device that went meanwhile leaves zeros, as in Linux.
            if !io.read(Bus::Pio, port.into(), piece) {
                piece.fill(0);
            }
        }
        true
    }

    /// Whether a write that was handled here left something for the client (an EOI for its I/O APIC).
    fn posted(&self) -> Posted {
        if self.unit.io.is_empty() {
            Posted::Done
        } else {
            Posted::Pause
        }
    }

    fn access<'b>(&'b mut self, state: &'b mut State, index: u32) -> msr::Access<'b> {
        msr::Access {
            vcpu: self.vcpu,
            unit: self.unit,
            state,
            index,
            by: By::Guest,
        }
    }

    /// Why the client wants to see an access, if it does.
    fn client_reason(&self, denied: Denied) -> Option<u32> {
        let reason = match denied {
            Denied::Invalid => KVM_MSR_EXIT_REASON_INVAL,
            Denied::Unknown => KVM_MSR_EXIT_REASON_UNKNOWN,
            Denied::Filtered => KVM_MSR_EXIT_REASON_FILTER,
        };
        let wanted = self
            .vcpu
            .vm()
            .arch()
            .settings
            .user_space_msr
            .load(Ordering::Relaxed);
        (wanted & u64::from(reason) != 0).then_some(reason)
    }
}

impl Platform for Machine<'_> {
    fn read_msr(&mut self, state: &mut State, index: u32) -> Result<u64, Refusal> {
        if let Some(answer) = self.unit.io.take_msr(index) {
            return answer.ok_or(Refusal::Fault(Fault::GP0));
        }
        let denied = match msr::read_filtered(&mut self.access(state, index)) {
            Ok(value) => return Ok(value),
            Err(denied) => denied,
        };
        let Some(reason) = self.client_reason(denied) else {
            return Err(Refusal::Fault(Fault::GP0));
        };
        self.unit.io.queue(Exit::ReadMsr { index, reason });
        Err(Refusal::Pause)
    }

    fn write_msr(&mut self, state: &mut State, index: u32, value: u64) -> Result<(), Refusal> {
        if let Some(answer) = self.unit.io.take_wrote_msr(index) {
            return answer.map_err(|()| Refusal::Fault(Fault::GP0));
        }
        let denied = match msr::write_filtered(&mut self.access(state, index), value) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        let Some(reason) = self.client_reason(denied) else {
            return Err(Refusal::Fault(Fault::GP0));
        };
        self.unit.io.queue(Exit::WriteMsr {
            index,
            reason,
            data: value,
        });
        Err(Refusal::Pause)
    }

    fn cpuid(&mut self, state: &State, leaf: u32, subleaf: u32) -> [u32; 4] {
        let now = self.unit.cpuid_runtime(self.vcpu, state);
        self.unit.cpuid.lookup(leaf, subleaf, now)
    }

    fn foreign_hypercall(&mut self, _: &State, instruction: Hypercall) -> Foreign {
        hypercall::foreign(self.vcpu, self.unit, instruction)
    }

    fn hypercall(&mut self, state: &mut State) -> Result<(), Refusal> {
        hypercall::execute(self.vcpu, self.unit, state)
    }

    fn task_priority(&mut self, _: &State) -> u8 {
        apic::cr8(self.vcpu, self.unit) as u8
    }

    fn set_task_priority(&mut self, _: &mut State, class: u8) -> Posted {
        let old = apic::cr8(self.vcpu, self.unit) as u8;
        apic::set_cr8(self.vcpu, self.unit, class.into());
        if apic::in_kernel(self.vcpu) || class >= old {
            return Posted::Done;
        }
        self.unit.io.queue(Exit::TaskPriority);
        Posted::Pause
    }

    fn counter_is_open(&self, index: u32) -> bool {
        let settings = &self.vcpu.vm().arch().settings;
        settings.parameters.enable_vmware_backdoor == parameters::Ports::Open
            && pmu::vmware::is_counter(index)
    }

    fn performance_counter(&mut self, state: &mut State, index: u32) -> Option<u64> {
        pmu::read(self.vcpu, &mut self.unit.pmu, &mut state.meter, index)
    }

    fn tsc(&mut self, _: &State) -> u64 {
        self.unit.tsc.now()
    }
}
