//! One vCPU: the processor, and everything of the vCPU that lies outside it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use ring3_host::addr::GuestPhys;
use ring3_host::mem::{HostFault, HostPage};
use ring3_kvm::Errno;
use ring3_kvm::memory::{Lines, SlotPage, SlotsView};
use ring3_kvm::vcpu::{Request, Seat, Vcpu};
use ring3_uapi::x86::{KVM_X86_DISABLE_EXITS_HLT, KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS};
use ring3_uapi::{KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED};
use ring3_x86_cpu::state::{CR4_OSXSAVE, CR4_PKE, RDX};
use ring3_x86_cpu::{Cpu, Features as Instructions, State};
use ring3_x86_jit::Engine;

use crate::X86;
use crate::apic::Target;
use crate::apic::target::Posted;
use crate::async_pf::AsyncPf;
use crate::clock::pvclock::VcpuClock;
use crate::clock::tsc::GuestTsc;
use crate::controllers;
use crate::cpuid::{self, features};
use crate::events::Events;
use crate::exit::Pending;
use crate::guest_debug::GuestDebug;
use crate::lapic::{Features, Lapic, ResetKind, Role};
use crate::msr::mce::{MCG_CMCI_P, Mce};
use crate::msr::{self};
use crate::pmu::{self, Pmu};
use crate::pv_eoi::PvEoi;
use crate::steal::Steal;
use crate::vapic::Vapic;
use crate::vm::X86Vm;

pub type X86Vcpu = Vcpu<X86>;

/// The request to write the paravirtual clock's page anew.
pub const CLOCK_UPDATE: Request = Request::arch(0);
/// The request to look at the filter of performance events.
pub const PMU_UPDATE: Request = Request::arch(1);

/// What the vCPU's own thread (or an ioctl) works on.
pub struct VcpuState {
    pub cpu: Cpu,
    /// What executes the processor's hot code.
    pub engine: Engine,
    pub unit: Unit,
}

/// The APIC of a vCPU whose APIC is the client's: what the processor itself keeps of it.
#[derive(Clone, Copy, Debug)]
pub struct ClientApic {
    pub base: u64,
    pub cr8: u64,
}

/// A vCPU without its processor.
pub struct Unit {
    pub cpuid: cpuid::Table,
    pub msrs: msr::Storage,
    pub mce: Mce,
    pub tsc: GuestTsc,
    pub tsc_adjust: u64,
    pub clock: VcpuClock,
    pub steal: Steal,
    pub events: Events,
    pub pmu: Pmu,
    /// KVM_INTERRUPT with the split irqchip: the client's 8259 wants this vector taken.
    pub external_vector: Option<u8>,
    pub mp_state: u32,
    pub io: Pending,
    pub debug: GuestDebug,
    pub client_apic: ClientApic,
    pub slots: SlotsView,
    /// KVM_RUN was called.
    pub ran: bool,
    pub enforce_pv_cpuid: bool,
    /// The dynamic state components that the client ever gave to the guest.
    pub dynamic_components: u64,
    /// What kvm_run's flags shall say at the next return to the client.
    pub run_flags: u16,
    pub pv_eoi: PvEoi,
    pub vapic: Vapic,
    pub async_pf: AsyncPf,
}

/// What other threads reach.
pub struct Shared {
    pub posted: Arc<Posted>,
    /// `None` if the APIC is the client's.
    pub apic: Option<Arc<Target>>,
}

impl Unit {
    /// What CPUID shows of the vCPU's state.
    pub fn cpuid_runtime(&self, vcpu: &X86Vcpu, state: &State) -> cpuid::Runtime {
        cpuid::Runtime {
            osxsave: state.cr4 & CR4_OSXSAVE != 0,
            ospke: state.cr4 & CR4_PKE != 0,
            apic_enabled: self.apic_is_enabled(vcpu),
            xcr0: state.xcr0,
        }
    }

    /// Whether IA32_APIC_BASE says so.
    pub fn apic_is_enabled(&self, vcpu: &X86Vcpu) -> bool {
        crate::apic::base(vcpu, self) & 1 << 11 != 0
    }

    /// Copies from guest memory as the vCPU sees it.
    pub fn read_guest(&self, vcpu: &X86Vcpu, at: GuestPhys, bytes: &mut [u8]) -> Result<(), Errno> {
        vcpu.vm().memory().read(self.slots.space(), at, bytes)?;
        Ok(())
    }

    /// Changes `len` bytes of guest memory, all in one page, and has the change known. In guest mode, so that the page stays. `None`
    /// if there is no memory to be written.
    pub fn change_guest<R>(
        &mut self,
        vcpu: &X86Vcpu,
        at: GuestPhys,
        len: usize,
        change: impl FnOnce(HostPage, usize) -> Result<R, HostFault>,
    ) -> Option<R> {
        let memory = vcpu.vm().memory();
        let page = self.slots.lookup(memory, at.page()).filter(SlotPage::writable)?;
        vcpu.mark_dirty(&page);
        let result = change(page.host(), at.offset()).ok();
        memory.code_written(None, &page, Lines::of(at.offset(), len));
        result
    }

    /// What the APIC is made of changed.
    pub fn review_apic(&self, vcpu: &X86Vcpu) {
        if let Some(apic) = &vcpu.shared().apic {
            let mut features = apic_features(vcpu.vm(), &self.cpuid);
            features.set(Features::CMCI, self.mce.cap & MCG_CMCI_P != 0);
            apic.lock().lapic.set_features(features);
        }
    }
}

impl VcpuState {
    /// The client changed registers: what the processor derived from them is void.
    pub fn state_changed(&mut self) {
        self.cpu.core.refresh();
        self.cpu.core.flush_tlb();
    }

    /// The client set the CPUID table.
    pub fn after_cpuid(&mut self, vcpu: &X86Vcpu) {
        self.cpu.core.state.physical_bits = self.unit.cpuid.physical_bits().min(52) as u8;
        let mut instructions = Instructions::from_cpuid(|leaf, subleaf| {
            self.unit
                .cpuid
                .find(leaf, subleaf)
                .map_or([0; 4], |entry| entry.regs)
        });
        // Who has HLT for itself is not woken by a call.
        if vcpu.vm().arch().settings.disabled_exits.load(Relaxed) & KVM_X86_DISABLE_EXITS_HLT != 0 {
            self.unit.cpuid.hide_pv(features::pv::PV_UNHALT);
        }
        // As in Linux: unless this quirk is off, MONITOR and MWAIT do nothing where they do not exist.
        let quirks = vcpu.vm().arch().settings.disabled_quirks.load(Relaxed);
        if quirks & KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS == 0 {
            instructions.insert(Instructions::MONITOR);
        }
        self.cpu.set_features(instructions);
        self.unit.review_apic(vcpu);
        pmu::refresh(vcpu, self);
        self.state_changed();
    }
}

/// What the VM and the CPUID table make of the APIC.
fn apic_features(vm: &X86Vm, table: &cpuid::Table) -> Features {
    use ring3_uapi::x86::{
        KVM_X2APIC_API_USE_32BIT_IDS, KVM_X86_QUIRK_LAPIC_MMIO_HOLE, KVM_X86_QUIRK_LINT0_REENABLED,
    };
    let settings = &vm.arch().settings;
    let quirk = |bit: u64| settings.disabled_quirks.load(Relaxed) & bit == 0;
    let wide = settings.x2apic_api.load(Relaxed) & KVM_X2APIC_API_USE_32BIT_IDS != 0;
    let mut features = Features::empty();
    features.set(Features::X2APIC, table.has(features::X2APIC));
    features.set(Features::TSC_DEADLINE, table.has(features::TSC_DEADLINE));
    features.set(Features::SUPPRESS_EOI_BROADCAST, !controllers::has_chips(vm));
    features.set(Features::PERFORMANCE_MASKS_ITSELF, !table.is_amd());
    features.set(Features::LINT0_REENABLED, quirk(KVM_X86_QUIRK_LINT0_REENABLED));
    features.set(Features::MMIO_HOLE, quirk(KVM_X86_QUIRK_LAPIC_MMIO_HOLE));
    features.set(Features::WIDE_IDS, wide);
    features
}

/// The vCPU's time-stamp counter jumped: what was derived from it follows.
pub fn tsc_moved(vcpu: &X86Vcpu, unit: &mut Unit) {
    let tsc = unit.tsc;
    if let Some(apic) = &vcpu.shared().apic {
        let mut guard = apic.lock();
        let inner = &mut *guard;
        inner.port.tsc = tsc;
        inner.lapic.tsc_changed(&mut inner.port);
    }
    crate::vm::review_tsc(vcpu.vm(), vcpu.seat().index(), tsc.offset);
    unit.clock.publish(vcpu.vm(), &tsc);
}

pub fn is_boot_processor(vm: &X86Vm, id: u32) -> bool {
    vm.arch().settings.boot_cpu_id.load(Relaxed) == id
}

/// Makes a vCPU's two halves.
pub fn create(vm: &Arc<X86Vm>, seat: &Arc<Seat>) -> Result<(VcpuState, Shared), Errno> {
    if seat.id() >= vm.arch().settings.vcpu_ids() {
        return Err(Errno::EINVAL);
    }
    let boot = is_boot_processor(vm, seat.id());
    let mut tsc = GuestTsc::new(vm.arch().tsc.default_khz());
    vm.arch().tsc.synchronize(&mut tsc, 0);
    let posted: Arc<Posted> = Arc::default();
    let cpuid = cpuid::Table::default();
    let apic = if controllers::has_apics(vm) {
        let role = if boot { Role::Boot } else { Role::Application };
        let mut lapic = Lapic::new(seat.id(), role, apic_features(vm, &cpuid));
        lapic.set_bus_cycle(vm.arch().settings.apic_bus_cycle_ns.load(Relaxed));
        let target = Target::new(lapic, tsc, seat, &posted, vm.events())?;
        {
            let mut guard = target.lock();
            let inner = &mut *guard;
            inner.lapic.reset(ResetKind::PowerUp, &mut inner.port);
        }
        Some(target)
    } else {
        None
    };
    let runs = apic.is_none() || boot;
    let mut cpu = Cpu::new();
    // Family 6, as Linux leaves it until the client sets registers.
    cpu.core.state.gpr[RDX] = 0x600;
    cpu.core.reports_bus_locks = vm.arch().settings.bus_lock_exits.load(Relaxed);
    cpu.core.forced_emulation = vm.arch().settings.parameters.force_emulation_prefix;
    let unit = Unit {
        cpuid,
        msrs: msr::Storage::default(),
        mce: Mce::default(),
        tsc,
        tsc_adjust: 0,
        clock: VcpuClock::default(),
        steal: Steal::default(),
        events: Events::default(),
        pmu: Pmu::default(),
        external_vector: None,
        mp_state: if runs {
            KVM_MP_STATE_RUNNABLE
        } else {
            KVM_MP_STATE_UNINITIALIZED
        },
        io: Pending::default(),
        debug: GuestDebug::default(),
        client_apic: ClientApic {
            base: 0xfee0_0900 & !(u64::from(!boot) << 8),
            cr8: 0,
        },
        slots: vm.memory().view(0),
        ran: false,
        enforce_pv_cpuid: false,
        dynamic_components: 0,
        run_flags: 0,
        pv_eoi: PvEoi::default(),
        vapic: Vapic::default(),
        async_pf: AsyncPf::default(),
    };
    crate::vm::review_tsc(vm, seat.index(), tsc.offset);
    let engine = Engine::new();
    Ok((VcpuState { cpu, engine, unit }, Shared { posted, apic }))
}

/// INIT: the processor starts over; caches of time, MSRs and x87 state survive.
pub fn init(vcpu: &X86Vcpu, s: &mut VcpuState) {
    let old = std::mem::take(&mut s.cpu.core.state);
    let state = &mut s.cpu.core.state;
    // CR0.CD and NW keep their values; so do the vector registers and MSRs that are not part of the mode.
    state.cr0 = 0x10 | old.cr0 & (3 << 29);
    state.cr2 = 0;
    state.vector = old.vector;
    state.tiles = old.tiles;
    state.xcr0 = old.xcr0;
    state.pkru = old.pkru;
    state.msr = old.msr;
    state.physical_bits = old.physical_bits;
    state.smm.base = old.smm.base;
    state.meter = old.meter;
    state.gpr[RDX] = u64::from(s.unit.cpuid.find(1, 0).map_or(0x600, |e| e.regs[0]));
    s.unit.events = Events::default();
    s.unit.msrs.set(msr::index::SMI_COUNT, 0);
    s.unit.pv_eoi = PvEoi::default();
    s.unit.vapic.reset();
    s.unit.async_pf.reset();
    if let Some(apic) = &vcpu.shared().apic {
        let mut guard = apic.lock();
        let inner = &mut *guard;
        inner.lapic.reset(ResetKind::Init, &mut inner.port);
        inner.lapic.allow_unseen_ends(false);
    }
    s.state_changed();
}

/// STARTUP: real mode at `vector` * 4 KiB.
pub fn startup(s: &mut VcpuState, vector: u8) {
    use ring3_x86_cpu::state::CS;
    let state = &mut s.cpu.core.state;
    state.seg[CS].selector = u16::from(vector) << 8;
    state.seg[CS].base = u64::from(vector) << 12;
    state.rip = 0;
    s.state_changed();
}
