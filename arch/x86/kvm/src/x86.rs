//! The architecture x86 as the neutral KVM sees it.

use std::sync::Arc;

use ring3_host::user::UserPtr;
use ring3_kvm::arch::{Irqs, Limits, System, Types, Vcpus, Vms};
use ring3_kvm::irq::{IrqSource, Level, LineStatus, Route};
use ring3_kvm::memory::{Slot, SlotLimits};
use ring3_kvm::stats::StatRow;
use ring3_kvm::vcpu::Seat;
use ring3_kvm::{Errno, Tables, Vcpu, Vm};
use ring3_uapi::KvmEnableCap;
use ring3_uapi::arch::Archs;
use ring3_uapi::device::Owner;
use ring3_uapi::ioctl::KVM_NMI;
use ring3_uapi::x86::{KVM_COALESCED_MMIO_PAGE_OFFSET, KVM_DIRTY_LOG_PAGE_OFFSET, KVM_X86_SW_PROTECTED_VM};

use crate::vcpu::{Shared, VcpuState};
use crate::vm::VmArch;
use crate::{caps, clock, controllers, exit, ioctls, run, stats, vcpu, vm};

/// Pages of the widest guest-physical address.
const MOST_PAGES: u64 = 1 << (52 - 12);

/// x86, by name.
#[derive(Clone, Copy, Debug)]
pub struct X86;

impl Types for X86 {
    type Vm = VmArch;
    type Vcpu = VcpuState;
    type Shared = Shared;

    const ARCH: Archs = Archs::X86;
    const LIMITS: Limits = Limits {
        vcpu_mmap_pages: 3,
        coalesced_page: Some(KVM_COALESCED_MMIO_PAGE_OFFSET),
        dirty_ring_page: Some(KVM_DIRTY_LOG_PAGE_OFFSET),
        memory: SlotLimits {
            user_slots: 32764,
            address_spaces: crate::smm::SPACES,
            readonly: true,
            private: true,
        },
        vcpus: 1024,
        vcpu_ids: 4096,
        irq_routes: 4096,
    };
    const VM_STATS: &'static [StatRow] = stats::VM;
    const VCPU_STATS: &'static [StatRow] = stats::VCPU;
}

impl System for X86 {
    fn system_ioctl(request: u32, arg: u64) -> Result<i64, Errno> {
        let handler = ioctls::find(ioctls::SYSTEM, request).ok_or(Errno::EINVAL)?;
        handler(UserPtr::new(arg))
    }

    fn tables() -> Tables {
        fn numbers<T>(rows: &[(u32, T)]) -> Vec<u32> {
            rows.iter().map(|row| row.0).collect()
        }
        let attributes = [
            (Owner::System, ioctls::SYSTEM_ATTRIBUTES),
            (Owner::Vcpu, clock::ioctls::ATTRIBUTES),
        ];
        let groups = attributes.map(|(owner, rows)| rows.iter().map(move |row| (owner, row.0)));
        Tables {
            system: numbers(ioctls::SYSTEM),
            vm: numbers(ioctls::VM),
            vcpu: numbers(ioctls::VCPU),
            capabilities: caps::answered().collect(),
            enabled_on_vm: numbers(caps::enable::ON_VM),
            enabled_on_vcpu: numbers(caps::enable::ON_VCPU),
            exits: exit::REASONS.to_vec(),
            attributes: groups.into_iter().flatten().collect(),
            ..Tables::default()
        }
    }

    fn check_extension(vm: Option<&Vm<X86>>, cap: u32) -> i64 {
        caps::check(vm, cap)
    }
}

impl Vms for X86 {
    fn create_vm(kind: u64) -> Result<VmArch, Errno> {
        if kind >= 64 || vm::TYPES >> kind & 1 == 0 {
            return Err(Errno::EINVAL);
        }
        let mut vm = VmArch::default();
        vm.private_memory = kind == KVM_X86_SW_PROTECTED_VM;
        Ok(vm)
    }

    fn has_private_memory(vm: &VmArch) -> bool {
        vm.private_memory
    }

    fn vm_ioctl(vm: &Arc<Vm<X86>>, request: u32, arg: u64) -> Result<i64, Errno> {
        let handler = ioctls::find(ioctls::VM, request).ok_or(Errno::ENOTTY)?;
        handler(vm, UserPtr::new(arg))
    }

    fn enable_cap(vm: &Arc<Vm<X86>>, cap: &KvmEnableCap) -> Result<i64, Errno> {
        caps::enable::on_vm(vm, cap)
    }

    fn check_slot(_: &Vm<X86>, slot: &Slot) -> Result<(), Errno> {
        if slot.end() <= MOST_PAGES {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn closing(vm: &Vm<X86>) {
        controllers::close(vm);
        vm.arch().apics.clear();
    }
}

impl Irqs for X86 {
    fn irqchip_in_kernel(vm: &Vm<X86>) -> bool {
        controllers::has_apics(vm)
    }

    fn has_pins(vm: &Vm<X86>) -> bool {
        controllers::has_chips(vm)
    }

    fn check_route(vm: &Vm<X86>, route: &Route) -> Result<(), Errno> {
        controllers::delivery::check_route(vm, route)
    }

    fn set_irq(vm: &Vm<X86>, route: &Route, source: IrqSource, level: Level) -> LineStatus {
        controllers::delivery::set_irq(vm, route, source, level)
    }

    fn routing_changed(vm: &Vm<X86>) {
        controllers::refresh_eoi_vectors(vm);
    }
}

impl Vcpus for X86 {
    fn create_vcpu(vm: &Arc<Vm<X86>>, seat: &Arc<Seat>) -> Result<(VcpuState, Shared), Errno> {
        vcpu::create(vm, seat)
    }

    fn vcpu_created(vcpu: &Arc<Vcpu<X86>>) {
        if let Some(apic) = &vcpu.shared().apic {
            vcpu.vm().arch().apics.add(apic);
            controllers::refresh_eoi_vectors(vcpu.vm());
        }
    }

    fn vcpu_ioctl_async(vcpu: &Arc<Vcpu<X86>>, request: u32, _: u64) -> Option<Result<i64, Errno>> {
        // A watchdog's or the monitor's NMI should not wait for KVM_RUN to end.
        if request != KVM_NMI {
            return None;
        }
        Some(crate::apic::client::post_nmi(vcpu))
    }

    fn vcpu_ioctl(vcpu: &Arc<Vcpu<X86>>, s: &mut VcpuState, request: u32, arg: u64) -> Result<i64, Errno> {
        let handler = ioctls::find(ioctls::VCPU, request).ok_or(Errno::EINVAL)?;
        handler(vcpu, s, UserPtr::new(arg))
    }

    fn run(vcpu: &Arc<Vcpu<X86>>, s: &mut VcpuState) -> Result<(), Errno> {
        run::run(vcpu, s)
    }
}
