//! kvmclock: the VM's clock, the page each vCPU shows the guest, and the wall clock.

use std::sync::{Mutex, PoisonError};

use ring3_host::addr::GuestPhys;
use ring3_host::time::{host_tsc, realtime_now, tsc_khz};
use ring3_kvm::Errno;

use super::scale::ToNs;
use super::tsc::GuestTsc;
use crate::vm::X86Vm;

/// `pvclock_vcpu_time_info`: flags.
const FLAG_TSC_STABLE: u8 = 1 << 0;
const FLAG_GUEST_STOPPED: u8 = 1 << 1;
/// Bytes of `pvclock_vcpu_time_info`.
const TIME_INFO_SIZE: usize = 32;

/// The clock read `ns` when the host's counter read `tsc`.
#[derive(Clone, Copy, Debug)]
struct Reference {
    tsc: u64,
    ns: u64,
}

/// The clock of a VM: the host's counter, in nanoseconds since a reference point.
#[derive(Debug)]
pub struct VmClock {
    reference: Mutex<Reference>,
    to_ns: ToNs,
}

impl Default for VmClock {
    /// A clock that starts at zero now.
    fn default() -> VmClock {
        VmClock {
            reference: Mutex::new(Reference {
                tsc: host_tsc(),
                ns: 0,
            }),
            to_ns: ToNs::of_khz(tsc_khz()),
        }
    }
}

impl VmClock {
    fn reference(&self) -> Reference {
        *self.reference.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock at a reading of the host's counter.
    pub fn at(&self, tsc: u64) -> u64 {
        let reference = self.reference();
        reference
            .ns
            .wrapping_add(self.to_ns.ns(tsc.saturating_sub(reference.tsc)))
    }

    pub fn now(&self) -> u64 {
        self.at(host_tsc())
    }

    pub fn set(&self, ns: u64) {
        let new = Reference { tsc: host_tsc(), ns };
        *self.reference.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Fills a `pvclock_vcpu_time_info`, version aside.
    fn time_info(&self, tsc: &GuestTsc, flags: u8) -> [u8; TIME_INFO_SIZE] {
        // All vCPUs extrapolate from the one reference, so their clocks agree exactly.
        let reference = self.reference();
        let scale = ToNs::of_khz(tsc.khz);
        let mut out = [0; TIME_INFO_SIZE];
        out[8..16].copy_from_slice(&tsc.at(reference.tsc).to_le_bytes());
        out[16..24].copy_from_slice(&reference.ns.to_le_bytes());
        out[24..28].copy_from_slice(&scale.multiplier.to_le_bytes());
        out[28] = scale.shift as u8;
        out[29] = flags;
        out
    }
}

/// The part of kvmclock that belongs to one vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct VcpuClock {
    /// MSR_KVM_SYSTEM_TIME: the page's address, and bit 0 to enable it.
    pub system_time: u64,
    /// Tell the guest once that it was stopped (KVM_KVMCLOCK_CTRL).
    pub stopped: bool,
    version: u32,
}

impl VcpuClock {
    pub fn enabled(&self) -> bool {
        self.system_time & 1 != 0
    }

    /// Writes the vCPU's page anew. The version is odd while it is being written.
    pub fn publish(&mut self, vm: &X86Vm, tsc: &GuestTsc) {
        if !self.enabled() {
            return;
        }
        let at = GuestPhys(self.system_time & !1);
        let mut old = [0; TIME_INFO_SIZE];
        if crate::vm::read_guest(vm, at, &mut old).is_err() {
            return;
        }
        let old_version = u32::from_le_bytes([old[0], old[1], old[2], old[3]]);
        let begun = (old_version | 1).wrapping_add(if old_version & 1 == 0 { 0 } else { 2 });
        // The guest clears this flag itself once it has seen it.
        let mut flags = old[29] & FLAG_GUEST_STOPPED;
        if std::mem::take(&mut self.stopped) {
            flags |= FLAG_GUEST_STOPPED;
        }
        if vm.arch().tsc.together() {
            flags |= FLAG_TSC_STABLE;
        }
        let mut info = vm.arch().clock.time_info(tsc, flags);
        info[..4].copy_from_slice(&begun.to_le_bytes());
        self.version = begun.wrapping_add(1);
        // A page that vanished meanwhile has no reader.
        let _ = crate::vm::write_guest(vm, at, &begun.to_le_bytes())
            .and_then(|()| crate::vm::write_guest(vm, at, &info))
            .and_then(|()| crate::vm::write_guest(vm, at, &self.version.to_le_bytes()));
    }
}

/// Writes the wall clock at the time kvmclock was zero (`pvclock_wall_clock`).
pub fn write_wall_clock(vm: &X86Vm, at: GuestPhys) -> Result<(), Errno> {
    let mut version = [0; 4];
    crate::vm::read_guest(vm, at, &mut version)?;
    let old = u32::from_le_bytes(version);
    let begun = if old & 1 == 0 {
        old.wrapping_add(1)
    } else {
        old.wrapping_add(2)
    };
    crate::vm::write_guest(vm, at, &begun.to_le_bytes())?;
    let boot = realtime_now().0.wrapping_sub(vm.arch().clock.now());
    let mut body = [0; 8];
    body[..4].copy_from_slice(&((boot / 1_000_000_000) as u32).to_le_bytes());
    body[4..].copy_from_slice(&((boot % 1_000_000_000) as u32).to_le_bytes());
    crate::vm::write_guest(vm, GuestPhys(at.0.wrapping_add(4)), &body)?;
    crate::vm::write_guest(vm, at, &begun.wrapping_add(1).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_at_zero_and_can_be_set() {
        let clock = VmClock::default();
        assert!(clock.now() < 1_000_000_000);
        clock.set(1 << 60);
        assert!(clock.now() >= 1 << 60);
    }

    #[test]
    fn a_guest_reading_its_page_sees_the_vm_clock() {
        let clock = VmClock::default();
        let tsc = GuestTsc::new(0);
        let info = clock.time_info(&tsc, 0);
        let u64_at = |i: usize| u64::from_le_bytes(info[i..i + 8].try_into().unwrap());
        let multiplier = u32::from_le_bytes(info[24..28].try_into().unwrap());
        let scale = ToNs {
            multiplier,
            shift: info[28] as i8,
        };
        let host = host_tsc();
        let guest_ns = u64_at(16) + scale.ns(tsc.at(host).wrapping_sub(u64_at(8)));
        assert!(guest_ns.abs_diff(clock.at(host)) <= 1);
    }
}
