//! The guest's time-stamp counters: frequency, offset, and keeping the vCPUs' counters together.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use ring3_host::time::{host_tsc, monotonic_now, tsc_khz};

use super::scale::{Ratio, ToNs};

/// One vCPU's counter: guest = host * ratio + offset.
#[derive(Clone, Copy, Debug)]
pub struct GuestTsc {
    pub khz: u32,
    ratio: Ratio,
    pub offset: u64,
}

impl GuestTsc {
    /// A counter that starts at zero now.
    pub fn new(khz: u32) -> GuestTsc {
        let mut tsc = GuestTsc {
            khz: tsc_khz(),
            ratio: Ratio::ONE,
            offset: 0,
        };
        // A frequency nobody can scale to was refused when it was set; the host's own is a fallback.
        let _ = tsc.set_khz(khz);
        tsc.offset = tsc.offset_for(0);
        tsc
    }

    pub fn now(&self) -> u64 {
        self.at(host_tsc())
    }

    #[inline]
    pub fn at(&self, host: u64) -> u64 {
        self.ratio.scale(host).wrapping_add(self.offset)
    }

    /// The offset that makes the counter read `value` now.
    pub fn offset_for(&self, value: u64) -> u64 {
        value.wrapping_sub(self.ratio.scale(host_tsc()))
    }

    /// Changes the frequency; zero means the host's.
    pub fn set_khz(&mut self, khz: u32) -> Result<(), OutOfRange> {
        let host = tsc_khz();
        let khz = if khz == 0 { host } else { khz };
        let ratio = Ratio::new(khz, host).ok_or(OutOfRange)?;
        self.khz = khz;
        self.ratio = ratio;
        Ok(())
    }

    /// Nanoseconds until the counter reaches `value`; zero when it has.
    pub fn ns_until(&self, value: u64) -> u64 {
        let cycles = value.saturating_sub(self.now());
        ToNs::of_khz(self.khz).ns(cycles)
    }
}

/// The frequency cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

/// The largest frequency a client can ask for, as on hosts whose counter can be scaled.
pub const MAX_KHZ: u32 = 0x7fff_ffff;

#[derive(Debug, Default)]
struct LastWrite {
    khz: u32,
    value: u64,
    at_ns: u64,
    /// The offset shared by the vCPUs whose counters are together.
    offset: u64,
}

/// What the vCPUs of a VM have in common.
#[derive(Debug)]
pub struct VmTsc {
    /// The frequency of vCPUs made from now on; zero: the host's.
    default_khz: AtomicU32,
    last: Mutex<LastWrite>,
    /// A vCPU was given a counter of its own.
    apart: AtomicBool,
}

impl Default for VmTsc {
    fn default() -> VmTsc {
        VmTsc {
            default_khz: AtomicU32::new(0),
            last: Mutex::default(),
            apart: AtomicBool::new(false),
        }
    }
}

impl VmTsc {
    pub fn default_khz(&self) -> u32 {
        match self.default_khz.load(Ordering::Relaxed) {
            0 => tsc_khz(),
            khz => khz,
        }
    }

    pub fn set_default_khz(&self, khz: u32) {
        self.default_khz.store(khz, Ordering::Relaxed);
    }

    /// Whether every vCPU's counter shows the same.
    pub fn together(&self) -> bool {
        !self.apart.load(Ordering::Relaxed)
    }

    pub fn set_apart(&self) {
        self.apart.store(true, Ordering::Relaxed);
    }

    /// The client (or power-up) writes a counter. Writes of zero, and writes close to what the last written
    /// counter shows by now, are attempts to make several counters agree: they get one offset.
    pub fn synchronize(&self, tsc: &mut GuestTsc, value: u64) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = monotonic_now().0;
        let hz = u64::from(tsc.khz) * 1000;
        let close = value == 0 || {
            let elapsed = u128::from(now.saturating_sub(last.at_ns)) * u128::from(tsc.khz) / 1_000_000;
            let expected = last.value.wrapping_add(elapsed as u64);
            value < expected.saturating_add(hz) && value.saturating_add(hz) > expected
        };
        let first = last.khz == 0;
        let joins = close && last.khz == tsc.khz;
        tsc.offset = if joins { last.offset } else { tsc.offset_for(value) };
        // A new common offset puts the others apart until they are written too; the boot processor's write
        // comes first, and the others join it.
        if !joins && !first {
            self.apart.store(true, Ordering::Relaxed);
        }
        *last = LastWrite {
            khz: tsc.khz,
            value,
            at_ns: now,
            offset: tsc.offset,
        };
    }

    /// Recomputes whether the counters agree.
    pub fn review(&self, offsets: impl Iterator<Item = u64>) {
        let mut first = None;
        let mut apart = false;
        for offset in offsets {
            apart |= *first.get_or_insert(offset) != offset;
        }
        self.apart.store(apart, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_up_counters_are_together() {
        let vm = VmTsc::default();
        let mut a = GuestTsc::new(0);
        let mut b = GuestTsc::new(0);
        vm.synchronize(&mut a, 0);
        vm.synchronize(&mut b, 0);
        assert_eq!(a.offset, b.offset);
        assert!(vm.together());
    }

    #[test]
    fn a_distant_value_is_taken_and_close_ones_join_it() {
        let vm = VmTsc::default();
        let mut a = GuestTsc::new(0);
        let mut b = GuestTsc::new(0);
        vm.synchronize(&mut a, 0);
        let far = 1 << 50;
        vm.synchronize(&mut a, far);
        assert!(a.now() >= far);
        vm.synchronize(&mut b, far + 1000);
        assert_eq!(a.offset, b.offset);
        vm.review([a.offset, b.offset].into_iter());
        assert!(vm.together());
    }

    #[test]
    fn half_the_frequency_runs_half_as_fast() {
        let mut tsc = GuestTsc::new(0);
        tsc.set_khz(tsc.khz / 2).unwrap();
        tsc.offset = 0;
        assert!(tsc.at(1_000_000).abs_diff(500_000) < 2);
        assert_eq!(tsc.set_khz(0), Ok(()));
        assert_eq!(tsc.at(77), 77);
    }
}
