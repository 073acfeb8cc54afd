//! What a VM exit costs: an ordinary client of `/dev/kvm` that makes a guest leave again and again.
//!
//!     ring3 run -- ring3-exits [PERCENT [NAME...]]
//!
//! For each way out it prints the nanoseconds of a round trip. It opens the device through the C library, so it pays what
//! any client under `ring3 run` pays; without that it measures the machine's own KVM. `cargo xtask bench` runs it.
//!
//! Only 64-bit guests: that is where real ones are.

#![forbid(unsafe_code)]

mod guest;
mod ipi;
mod trips;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ring3_client::Kvm;

/// For how long a way out is taken at 100 percent, after a quarter of that to be warm.
const TIME: Duration = Duration::from_millis(300);

/// Round trips between two looks at the clock.
const BATCH: u32 = 1000;

/// One way out of the guest and back, until the clock says that it is enough.
struct Way {
    name: &'static str,
    measure: fn(&Kvm, Duration) -> Result<Pace>,
}

const WAYS: [Way; 9] = [
    Way {
        name: "pio-out",
        measure: trips::pio_out,
    },
    Way {
        name: "pio-in",
        measure: trips::pio_in,
    },
    Way {
        name: "mmio-write",
        measure: trips::mmio_write,
    },
    Way {
        name: "mmio-read",
        measure: trips::mmio_read,
    },
    Way {
        name: "hypercall",
        measure: trips::hypercall,
    },
    Way {
        name: "hypercall-in",
        measure: trips::hypercall_inside,
    },
    Way {
        name: "cpuid",
        measure: trips::cpuid,
    },
    Way {
        name: "hlt-wake",
        measure: trips::hlt_wake,
    },
    Way {
        name: "ipi",
        measure: ipi::there_and_back,
    },
];

/// How many round trips took how long.
#[derive(Clone, Copy)]
struct Pace {
    trips: u64,
    time: Duration,
}

impl Pace {
    /// Does batches until the time is over, once to be warm and once to be measured.
    fn of(time: Duration, mut batch: impl FnMut() -> Result<()>) -> Result<Pace> {
        Self::measure(time / 4, &mut batch)?;
        Self::measure(time, &mut batch)
    }

    fn measure(time: Duration, batch: &mut impl FnMut() -> Result<()>) -> Result<Pace> {
        let start = Instant::now();
        let mut trips = 0;
        loop {
            batch()?;
            trips += u64::from(BATCH);
            let passed = start.elapsed();
            if passed >= time {
                return Ok(Pace { trips, time: passed });
            }
        }
    }

    fn nanoseconds(self) -> f64 {
        self.time.as_nanos() as f64 / self.trips as f64
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let percent: u32 = match arguments.next() {
        Some(percent) => percent.parse().context("the percentage")?,
        None => 100,
    };
    ensure!((1..=10_000).contains(&percent), "the percentage is out of range");
    let names: Vec<String> = arguments.collect();
    if let Some(name) = names.iter().find(|name| WAYS.iter().all(|way| way.name != *name)) {
        bail!("there is no {name}");
    }
    let kvm = Kvm::open().context("/dev/kvm")?;
    for way in &WAYS {
        if names.is_empty() || names.iter().any(|name| name == way.name) {
            let pace = (way.measure)(&kvm, TIME * percent / 100).context(way.name)?;
            println!(
                "result {} ns={:.1} trips={}",
                way.name,
                pace.nanoseconds(),
                pace.trips
            );
        }
    }
    Ok(())
}
