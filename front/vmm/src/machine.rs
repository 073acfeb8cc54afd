//! The machine: its VM, memory, interrupt controllers, processors and devices, put together and run.

use crate::console::{self, RawTerminal};
use crate::devices::Devices;
use crate::gdb::{self, Door, Place, Turns};
use crate::layout::{IDENTITY_MAP, TSS};
use crate::{Config, End, acpi, kernel, memory, vcpu};
use anyhow::{Context, Result, anyhow, ensure};
use ring3_client::{Kvm, Vcpu};
use ring3_uapi::x86::KvmPitConfig;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// APIC identifiers are one byte here, and 255 means all.
const MOST_CPUS: u32 = 254;

/// A machine with a kernel in it.
pub struct Machine {
    vcpus: Vec<Arc<Vcpu>>,
    devices: Arc<Devices>,
    end: Receiver<Result<End>>,
    /// Where a debugger is waited for.
    door: Option<Door>,
    /// Held for as long as the guest may use it.
    memory: memory::GuestMemory,
}

impl Machine {
    /// Builds the machine and puts the kernel in it.
    pub fn build(kvm: &Kvm, config: &Config) -> Result<Machine> {
        let cpus = config.cpus;
        ensure!(
            (1..=MOST_CPUS).contains(&cpus),
            "cpus: {cpus} is not between 1 and {MOST_CPUS}"
        );
        let memory = memory::create(config.memory_mib)?;
        let initrd = config.initrd.as_deref();
        let entry = kernel::load(&memory, &config.kernel, initrd, &config.cmdline)?;
        acpi::write(&memory, cpus)?;
        vcpu::write_page_tables(&memory)?;

        let door = config.gdb.as_deref().map(Door::open).transpose()?;
        if door.is_some() {
            gdb::prepare()?;
        }
        let vm = kvm.create_vm(0).context("KVM_CREATE_VM")?;
        memory::plug(&vm, &memory)?;
        vm.set_identity_map_addr(&IDENTITY_MAP)
            .context("KVM_SET_IDENTITY_MAP_ADDR")?;
        vm.set_tss_addr(TSS).context("KVM_SET_TSS_ADDR")?;
        vm.create_irqchip().context("KVM_CREATE_IRQCHIP")?;
        vm.create_pit2(&KvmPitConfig::default())
            .context("KVM_CREATE_PIT2")?;
        let supported = kvm.supported_cpuid().context("KVM_GET_SUPPORTED_CPUID")?;
        let mut vcpus = Vec::new();
        for id in 0..cpus {
            let new = vm
                .create_vcpu(id.into())
                .with_context(|| format!("cpus: KVM_CREATE_VCPU of processor {id}"))?;
            new.set_cpuid2(&vcpu::cpuid(&supported, id, cpus))
                .context("KVM_SET_CPUID2")?;
            vcpu::offer_fast_strings(&new)?;
            if id == 0 {
                vcpu::start_at(&new, &memory, entry)?;
            }
            vcpus.push(Arc::new(new));
        }
        let (send, end) = channel();
        Ok(Machine {
            vcpus,
            devices: Arc::new(Devices::new(Arc::new(vm), send)),
            end,
            door,
            memory,
        })
    }

    /// Runs it to its end.
    pub fn run(self) -> Result<End> {
        let terminal = RawTerminal::enter();
        console::start(Arc::clone(&self.devices), terminal.keys()).context("starting the console")?;
        let socket = self
            .door
            .as_ref()
            .and_then(Door::path)
            .map(std::path::Path::to_path_buf);
        let turns = match self.door {
            None => None,
            Some(door) => {
                eprintln!("ring3: waiting for a debugger: {}\r", door.invitation());
                let (send, events) = channel();
                let turns = Arc::new(Turns::new(self.vcpus.clone(), send.clone()));
                let (memory, devices) = (self.memory.clone(), Arc::clone(&self.devices));
                gdb::start(door, Arc::clone(&turns), memory, devices, (send, events))?;
                Some(turns)
            }
        };
        for (id, vcpu) in self.vcpus.into_iter().enumerate() {
            let devices = Arc::clone(&self.devices);
            let place = turns.clone().map(|turns| Place { turns, index: id });
            thread::Builder::new()
                .name(format!("vcpu {id}"))
                .spawn(move || vcpu::run(&vcpu, &devices, place.as_ref()))
                .with_context(|| format!("starting processor {id}"))?;
        }
        let end = self.end.recv();
        // What still runs uses the memory until the process ends.
        std::mem::forget(self.memory);
        if let Some(socket) = socket {
            let _ = std::fs::remove_file(socket);
        }
        end.map_err(|_| anyhow!("every processor is gone"))?
    }
}
