//! Fixed-point arithmetic of clocks: frequency ratios, and pvclock's multiplier and shift.

/// Fraction bits of a TSC ratio.
const FRACTION: u32 = 48;

/// Guest cycles per host cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u64);

impl Ratio {
    pub const ONE: Ratio = Ratio(1 << FRACTION);

    /// `None` when the ratio is out of range.
    pub fn new(guest_khz: u32, host_khz: u32) -> Option<Ratio> {
        if host_khz == 0 {
            return None;
        }
        let ratio = (u128::from(guest_khz) << FRACTION) / u128::from(host_khz);
        match u64::try_from(ratio) {
            Ok(0) | Err(_) => None,
            Ok(ratio) => Some(Ratio(ratio)),
        }
    }

    #[inline]
    pub fn scale(self, host_cycles: u64) -> u64 {
        if self == Ratio::ONE {
            return host_cycles;
        }
        ((u128::from(host_cycles) * u128::from(self.0)) >> FRACTION) as u64
    }
}

/// pvclock's conversion: nanoseconds = ((cycles << shift) * multiplier) >> 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToNs {
    pub multiplier: u32,
    pub shift: i8,
}

impl ToNs {
    /// For a counter of `khz`; the multiplier gets as many significant bits as fit.
    pub fn of_khz(khz: u32) -> ToNs {
        let khz = u64::from(khz.max(1));
        let mut shift = 0i8;
        loop {
            // cycles << shift has the frequency khz << shift.
            let wanted = if shift >= 0 {
                (1_000_000u128 << 32) >> shift
            } else {
                (1_000_000u128 << 32) << -shift
            };
            let multiplier = wanted / u128::from(khz);
            if multiplier > u128::from(u32::MAX) {
                shift += 1;
            } else if multiplier < 1 << 31 {
                shift -= 1;
            } else {
                return ToNs {
                    multiplier: multiplier as u32,
                    shift,
                };
            }
        }
    }

    pub fn ns(self, cycles: u64) -> u64 {
        let shifted = if self.shift >= 0 {
            u128::from(cycles) << self.shift
        } else {
            u128::from(cycles) >> -self.shift
        };
        ((shifted * u128::from(self.multiplier)) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_second_of_cycles_is_one_second() {
        for khz in [1_000u32, 999_999, 1_000_000, 2_596_120, 3_700_000, 33] {
            let ns = ToNs::of_khz(khz).ns(u64::from(khz) * 1000);
            assert!(
                ns.abs_diff(1_000_000_000) <= 1 + 1_000_000 / u64::from(khz),
                "{khz}: {ns}"
            );
        }
    }

    #[test]
    fn ratios() {
        let half = Ratio::new(1_000_000, 2_000_000).unwrap();
        assert_eq!(half.scale(1000), 500);
        assert_eq!(Ratio::new(5, 5), Some(Ratio::ONE));
        assert_eq!(Ratio::new(0, 5), None);
        assert_eq!(Ratio::ONE.scale(u64::MAX), u64::MAX);
    }
}
