//! What events count, as a multiple or a part of the instructions or branches that retire.
//!
//! The model processor retires one instruction a cycle, of four that it has room for. Reference cycles are its cycles. Every 16th
//! instruction refers to the last-level cache, and every fourth of those references misses. Every 16th branch was not predicted.
//! What is not listed never happens.

use ring3_x86_cpu::state::Retired;

use super::shape::Vendor;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Instructions,
    Branches,
}

/// How often an event happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    of: Of,
    times: u64,
    /// Once for so many.
    per: u64,
}

const fn each(of: Of, times: u64, per: u64) -> Rate {
    Rate { of, times, per }
}

const CYCLES: Rate = each(Of::Instructions, 1, 1);
const INSTRUCTIONS: Rate = each(Of::Instructions, 1, 1);
const SLOTS: Rate = each(Of::Instructions, 4, 1);
const CACHE_REFERENCES: Rate = each(Of::Instructions, 1, 16);
const CACHE_MISSES: Rate = each(Of::Instructions, 1, 64);
const BRANCHES: Rate = each(Of::Branches, 1, 1);
const BRANCH_MISSES: Rate = each(Of::Branches, 1, 16);

impl Rate {
    fn count(self, retired: Retired) -> u64 {
        let base = match self.of {
            Of::Instructions => retired.instructions,
            Of::Branches => retired.branches,
        };
        (base / self.per).wrapping_mul(self.times)
    }

    /// How often the event happened from one reading of the meter to another.
    pub fn between(self, from: Retired, to: Retired) -> u64 {
        self.count(to).wrapping_sub(self.count(from))
    }

    /// So many instructions at least retire until the event has happened more than `events` times.
    pub fn instructions_for(self, events: u64) -> u64 {
        (events / self.times).saturating_mul(self.per)
    }
}

/// An event's number and unit mask.
const EVENT: u64 = 0xff;
const UNIT_SHIFT: u32 = 8;
/// AMD's four more bits of the number.
const AMD_EVENT_HIGH: u64 = 0xf << 32;
const INVERT: u64 = 1 << 23;
const THRESHOLD_SHIFT: u32 = 24;

/// Intel's architectural events, by number and unit mask.
const INTEL: [(u64, u64, Rate); 12] = [
    (0x3c, 0x00, CYCLES),
    (0xc0, 0x00, INSTRUCTIONS),
    (0x3c, 0x01, CYCLES),
    (0x2e, 0x4f, CACHE_REFERENCES),
    (0x2e, 0x41, CACHE_MISSES),
    (0xc4, 0x00, BRANCHES),
    (0xc5, 0x00, BRANCH_MISSES),
    // Of the slots, one in four retires, and the others wait for the front end, the back end, or a branch.
    (0xa4, 0x01, SLOTS),
    (0xa4, 0x02, CYCLES),
    (0x73, 0x00, CYCLES),
    (0x9c, 0x01, CYCLES),
    (0xc2, 0x02, CYCLES),
];

/// The events that Linux knows of AMD's processors since family 17h.
const AMD: [(u64, u64, Rate); 6] = [
    (0x76, 0x00, CYCLES),
    (0xc0, 0x00, INSTRUCTIONS),
    (0x60, 0xff, CACHE_REFERENCES),
    (0x64, 0x09, CACHE_MISSES),
    (0xc2, 0x00, BRANCHES),
    (0xc3, 0x00, BRANCH_MISSES),
];

/// What a fixed counter counts: instructions, cycles, reference cycles.
pub fn fixed(n: usize) -> Option<Rate> {
    [INSTRUCTIONS, CYCLES, CYCLES].get(n).copied()
}

/// What a general-purpose counter counts; `None` for what never happens.
pub fn general(select: u64, vendor: Vendor) -> Option<Rate> {
    let high = match vendor {
        Vendor::Intel => 0,
        Vendor::Amd => select & AMD_EVENT_HIGH,
    };
    let rows: &[_] = match vendor {
        Vendor::Intel => &INTEL,
        Vendor::Amd => &AMD,
    };
    let (event, unit) = (select & EVENT | high, select >> UNIT_SHIFT & 0xff);
    let rate = rows.iter().find(|row| (row.0, row.1) == (event, unit))?.2;
    threshold(rate, select)
}

/// With a threshold, a counter counts the cycles in which the event happens so often at least, or, inverted, less often.
fn threshold(rate: Rate, select: u64) -> Option<Rate> {
    let least = select >> THRESHOLD_SHIFT & 0xff;
    // A cycle is an instruction, so this is how often it happens in one that it happens in.
    let reached = rate.times >= least;
    match (least, select & INVERT != 0) {
        (0, _) => Some(rate),
        (_, false) if reached => Some(Rate { times: 1, ..rate }),
        (_, false) => None,
        (_, true) if !reached => Some(CYCLES),
        // In every cycle that it does not happen in, of which an event of each cycle has none.
        (_, true) if rate.per == 1 && rate.of == Of::Instructions => None,
        (_, true) => Some(CYCLES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retired(instructions: u64, branches: u64) -> Retired {
        Retired {
            instructions,
            branches,
        }
    }

    #[test]
    fn rates_are_exact_over_any_sequence_of_readings() {
        for rate in [CYCLES, SLOTS, CACHE_REFERENCES, CACHE_MISSES, BRANCH_MISSES] {
            let mut sum = 0;
            let mut last = retired(0, 0);
            for step in [1, 15, 16, 17, 63, 64, 65, 1000] {
                let next = retired(last.instructions + step, last.branches + step / 2);
                sum += rate.between(last, next);
                last = next;
            }
            assert_eq!(sum, rate.count(last));
        }
    }

    #[test]
    fn no_alarm_comes_too_late() {
        for rate in [CYCLES, SLOTS, CACHE_MISSES] {
            for left in [0, 1, 3, 100] {
                let n = rate.instructions_for(left);
                let before = rate.between(retired(63, 0), retired(63 + n.saturating_sub(rate.per), 0));
                assert!(before <= left, "{rate:?} {left}");
            }
        }
    }

    #[test]
    fn selectors_name_events_by_vendor() {
        assert_eq!(general(0x41_00c0, Vendor::Intel), Some(INSTRUCTIONS));
        assert_eq!(general(0x41_4f2e, Vendor::Intel), Some(CACHE_REFERENCES));
        assert_eq!(general(0x41_0076, Vendor::Amd), Some(CYCLES));
        assert_eq!(general(0x41_0076, Vendor::Intel), None);
        assert_eq!(general(0x1_0041_00c0, Vendor::Amd), None);
    }

    #[test]
    fn thresholds_count_cycles() {
        assert_eq!(general(0x0100_00c0, Vendor::Intel), Some(INSTRUCTIONS));
        assert_eq!(general(0x0200_00c0, Vendor::Intel), None);
        // The cycles with fewer than two instructions are all there are.
        assert_eq!(general(0x0280_00c0, Vendor::Intel), Some(CYCLES));
        assert_eq!(general(0x0180_00c0, Vendor::Intel), None);
    }
}
