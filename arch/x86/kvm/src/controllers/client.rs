//! The client's side: KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, their states, and KVM_CAP_SPLIT_IRQCHIP.

use std::sync::{Arc, OnceLock};

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_kvm::arch::Types;
use ring3_uapi::KvmIrqRoutingEntry;
use ring3_uapi::x86::{
    KVM_PIT_SPEAKER_DUMMY, KvmIrqchip, KvmPitConfig, KvmPitState, KvmPitState2, KvmReinjectControl,
};

use super::wiring::{ApicsOf, GsisOf};
use super::{Mode, ports};
use crate::X86;
use crate::irqchip::{Chips, PitTimer, Speaker, default_routes};
use crate::pit::ReinjectMode;
use crate::vm::X86Vm;

/// KVM_CREATE_IRQCHIP.
pub fn create_irqchip(vm: &Arc<X86Vm>) -> Result<i64, Errno> {
    let _changes = vm.changes().lock();
    let arch = vm.arch();
    if arch.controllers.mode().is_some() {
        return Err(Errno::EEXIST);
    }
    if !vm.vcpus().is_empty() {
        return Err(Errno::EINVAL);
    }
    let apics = ApicsOf {
        apics: Arc::clone(&arch.apics),
        settings: Arc::clone(&arch.settings),
    };
    let gsis = GsisOf(Arc::downgrade(vm));
    let chips = Chips::new(Arc::new(apics), Arc::new(gsis), vm.events())?;
    ports::add_chips(vm, &chips)?;
    // The lock above makes this the only writer.
    let _ = arch.controllers.mode.set(Mode::Full {
        chips,
        pit: OnceLock::new(),
    });
    let routes: Vec<_> = default_routes()
        .map(|(gsi, pin)| {
            let (chip, pin) = pin.route();
            KvmIrqRoutingEntry::to_irqchip(gsi, chip, pin)
        })
        .collect();
    ring3_kvm::irq::set_gsi_routing(vm, &routes)?;
    Ok(0)
}

/// KVM_CAP_SPLIT_IRQCHIP.
pub fn split(vm: &X86Vm, reserved_gsis: u64) -> Result<i64, Errno> {
    if reserved_gsis > u64::from(X86::LIMITS.irq_routes) {
        return Err(Errno::EINVAL);
    }
    let _changes = vm.changes().lock();
    if vm.arch().controllers.mode().is_some() || !vm.vcpus().is_empty() {
        return Err(Errno::EEXIST);
    }
    // The lock above makes this the only writer.
    let _ = vm.arch().controllers.mode.set(Mode::Split {
        reserved_gsis: reserved_gsis as u32,
    });
    Ok(0)
}

fn chips(vm: &X86Vm) -> Result<&Arc<Chips>, Errno> {
    vm.arch().controllers.chips().ok_or(Errno::ENXIO)
}

/// KVM_GET_IRQCHIP.
pub fn get_irqchip(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let mut state: KvmIrqchip = arg.read()?;
    chips(vm)?.get_state(&mut state).map_err(|_| Errno::EINVAL)?;
    arg.write(&state)?;
    Ok(0)
}

/// KVM_SET_IRQCHIP.
pub fn set_irqchip(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let state: KvmIrqchip = arg.read()?;
    chips(vm)?.set_state(&state).map_err(|_| Errno::EINVAL)?;
    Ok(0)
}

/// KVM_CREATE_PIT2, and KVM_CREATE_PIT with no argument.
pub fn create_pit(vm: &Arc<X86Vm>, flags: u32) -> Result<i64, Errno> {
    let _changes = vm.changes().lock();
    let Some(Mode::Full { chips, pit }) = vm.arch().controllers.mode() else {
        return Err(Errno::ENOENT);
    };
    if pit.get().is_some() {
        return Err(Errno::EEXIST);
    }
    let speaker = if flags & KVM_PIT_SPEAKER_DUMMY != 0 {
        Speaker::Dummy
    } else {
        Speaker::Absent
    };
    let new = PitTimer::new(chips, speaker, vm.events())?;
    ports::add_pit(vm, &new, speaker)?;
    // The lock above makes this the only writer.
    let _ = pit.set(new);
    Ok(0)
}

/// KVM_CREATE_PIT2.
pub fn create_pit2(vm: &Arc<X86Vm>, arg: UserPtr) -> Result<i64, Errno> {
    let config: KvmPitConfig = arg.read()?;
    create_pit(vm, config.flags)
}

fn pit(vm: &X86Vm) -> Result<&Arc<PitTimer>, Errno> {
    vm.arch().controllers.pit().ok_or(Errno::ENXIO)
}

pub fn get_pit(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let _: KvmPitState = arg.read()?;
    arg.write(&pit(vm)?.state())?;
    Ok(0)
}

pub fn set_pit(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let state: KvmPitState = arg.read()?;
    pit(vm)?.set_state(&state);
    Ok(0)
}

pub fn get_pit2(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    arg.write(&pit(vm)?.state2())?;
    Ok(0)
}

pub fn set_pit2(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let state: KvmPitState2 = arg.read()?;
    pit(vm)?.set_state2(&state);
    Ok(0)
}

/// KVM_REINJECT_CONTROL.
pub fn reinject(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let control: KvmReinjectControl = arg.read()?;
    let mode = if control.pit_reinject != 0 {
        ReinjectMode::Reinject
    } else {
        ReinjectMode::Discard
    };
    pit(vm)?.set_reinject(mode);
    Ok(0)
}
