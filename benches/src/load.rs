//! How busy the machine was with other things while it measured: what says how far the figures can be trusted.

use std::time::Instant;

/// A hundredth of a second, the unit of `/proc`'s times on every Linux there is.
const TICKS: f64 = 100.0;

/// Times up to one moment.
pub struct Moment {
    at: Instant,
    /// Ticks that all processors spent on anything.
    busy: u64,
    /// Ticks that a hypervisor took away.
    stolen: u64,
    /// Ticks of this process and of the children it waited for.
    own: u64,
}

impl Moment {
    /// `None` where `/proc` does not tell.
    pub fn now() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/stat").ok()?;
        let own = std::fs::read_to_string("/proc/self/stat").ok()?;
        let (busy, stolen) = busy(&stat)?;
        Some(Self {
            at: Instant::now(),
            busy,
            stolen,
            own: own_ticks(&own)?,
        })
    }

    /// A line on what others did since.
    pub fn others_since(&self) -> Option<String> {
        let now = Self::now()?;
        let ticks = now.at.duration_since(self.at).as_secs_f64() * TICKS;
        let processors = |ticks_of: u64| ticks_of as f64 / ticks;
        let others = (now.busy - self.busy).saturating_sub(now.own - self.own);
        Some(format!(
            "load    others used {:.2} of {} processors meanwhile, and {:.2} were stolen",
            processors(others),
            std::thread::available_parallelism().map_or(1, usize::from),
            processors(now.stolen - self.stolen)
        ))
    }
}

/// Busy and stolen ticks of `/proc/stat`. Guests' time is part of user's.
fn busy(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, stolen] = *ticks.first_chunk()?;
    Some((user + nice + system + irq + softirq, stolen))
}

/// The four times of `/proc/self/stat`.
fn own_ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks: Vec<u64> = rest
        .split(' ')
        .skip(11)
        .take(4)
        .map_while(|word| word.parse().ok())
        .collect();
    (ticks.len() == 4).then(|| ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::{busy, own_ticks};

    #[test]
    fn ticks_are_found() {
        let stat = "cpu  10 20 30 400 50 6 7 8 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy(stat), Some((73, 8)));
        assert_eq!(busy("cpu  10 20\n"), None);
        let own = "7 (a) b) S 1 7 7 0 -1 4 100 0 0 0 1 2 30 40 20 0 1 0 99";
        assert_eq!(own_ticks(own), Some(73));
    }
}
