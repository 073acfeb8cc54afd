//! Time: the monotonic and real clocks, and the time stamp counter.

use rustix::time::{ClockId, clock_gettime};
use std::arch::x86_64::{__cpuid, __cpuid_count, _mm_lfence, _rdtsc};
use std::sync::OnceLock;

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// The moment `ns` nanoseconds later, or the end of time.
    pub const fn after_ns(self, ns: u64) -> Monotonic {
        Monotonic(self.0.saturating_add(ns))
    }

    /// Nanoseconds since `earlier`, zero if that is later.
    pub const fn since(self, earlier: Monotonic) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Nanoseconds of `CLOCK_REALTIME` since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realtime(pub u64);

fn nanoseconds(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    (t.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(t.tv_nsec as u64)
}

/// Now, by `CLOCK_MONOTONIC`.
pub fn monotonic_now() -> Monotonic {
    Monotonic(nanoseconds(ClockId::Monotonic))
}

/// Now, by `CLOCK_BOOTTIME`, in the same unit: as monotonic, plus the time the host slept.
pub fn boottime_now() -> Monotonic {
    Monotonic(nanoseconds(ClockId::Boottime))
}

/// Now, by the wall clock.
pub fn realtime_now() -> Realtime {
    Realtime(nanoseconds(ClockId::Realtime))
}

/// The wall clock and the time stamp counter at one moment, as nearly as that can be had.
pub fn realtime_and_tsc() -> (Realtime, u64) {
    let read = || {
        let before = host_tsc();
        let now = realtime_now();
        (host_tsc().wrapping_sub(before), now, before)
    };
    // A reading that was interrupted is longer than others.
    let readings = [read(), read(), read()];
    let (took, now, before) = readings.into_iter().min_by_key(|it| it.0).unwrap_or_else(read);
    (now, before.wrapping_add(took / 2))
}

/// Nanoseconds that the calling thread ran.
pub fn thread_cpu_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// Nanoseconds that the calling thread was ready to run and did not, since it began. `None` where the kernel does not tell.
pub fn thread_delay_ns() -> Option<u64> {
    let account = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    account.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until all loads before are done: what follows, RDTSC for one, does not begin earlier.
#[inline(always)]
pub fn complete_loads() {
    // SAFETY: every x86-64 processor has LFENCE.
    unsafe { _mm_lfence() };
}

/// The time stamp counter, not ordered with other instructions.
#[inline(always)]
pub fn host_tsc() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and a process that may not use it (PR_SET_TSC) asked for the signal.
    unsafe { _rdtsc() }
}

/// The frequency of the time stamp counter, from the processor, else the hypervisor, else measured once (20 ms).
pub fn tsc_khz() -> u32 {
    static KHZ: OnceLock<u32> = OnceLock::new();
    *KHZ.get_or_init(|| from_processor().or_else(from_hypervisor).unwrap_or_else(measured))
}

/// CPUID leaf 15H gives the counter's ratio to the core crystal clock; where it leaves the crystal out, leaf 16H's base
/// frequency is the counter's.
fn from_processor() -> Option<u32> {
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let ratio = __cpuid_count(0x15, 0);
    if ratio.eax == 0 || ratio.ebx == 0 {
        return None;
    }
    if ratio.ecx != 0 {
        let khz = u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax) / 1000;
        return plausible(khz);
    }
    if __cpuid(0).eax < 0x16 {
        return None;
    }
    plausible(u64::from(__cpuid(0x16).eax & 0xffff) * 1000)
}

/// The timing leaf that several hypervisors share, EAX of 40000010H: kHz.
fn from_hypervisor() -> Option<u32> {
    let under_one = __cpuid(1).ecx >> 31 == 1;
    if !under_one || !(0x4000_0010..0x4001_0000).contains(&__cpuid(0x4000_0000).eax) {
        return None;
    }
    plausible(u64::from(__cpuid(0x4000_0010).eax))
}

/// Anything else is a leaf that means something other than we think.
fn plausible(khz: u64) -> Option<u32> {
    (100_000..20_000_000).contains(&khz).then_some(khz as u32)
}

/// One reading of both clocks, as close together as ten attempts get.
fn both_clocks() -> (u64, u64) {
    let attempt = || {
        let before = host_tsc();
        let ns = monotonic_now().0;
        let after = host_tsc();
        (
            after.wrapping_sub(before),
            before.wrapping_add(after.wrapping_sub(before) / 2),
            ns,
        )
    };
    let (_, tsc, ns) = (0..10).map(|_| attempt()).min().unwrap_or_else(attempt);
    (tsc, ns)
}

fn measured() -> u32 {
    let (tsc0, ns0) = both_clocks();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (tsc1, ns1) = both_clocks();
    let ticks = u128::from(tsc1.wrapping_sub(tsc0));
    let ns = u128::from(ns1.saturating_sub(ns0).max(1));
    u32::try_from(ticks * 1_000_000 / ns).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (a, t) = (monotonic_now(), host_tsc());
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(monotonic_now().since(a) >= 1_000_000);
        assert!(host_tsc() > t);
        assert!(boottime_now() >= a);
        assert!(realtime_now().0 > 1_600_000_000_000_000_000);
    }

    #[test]
    fn what_the_processor_says_is_what_one_measures() {
        let (said, seen) = (u64::from(tsc_khz()), u64::from(measured()));
        assert!(said.abs_diff(seen) < seen / 50, "{said} kHz, measured {seen}");
    }
}
