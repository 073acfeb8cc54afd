//! A thread that ends calls which wait for ever, and the process where that does not help.

use ring3_host::signal::{Action, SigSet, client_sigaction};
use ring3_host::testing::ThreadId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// SIGALRM, which must interrupt KVM_RUN.
pub const SIGNAL: i32 = 14;
/// How long a call may take before the signal, and before it hangs for certain.
const PATIENCE: Duration = Duration::from_micros(300);
const FOR_EVER: Duration = Duration::from_secs(60);

struct Shared {
    /// Which call is on its way; even between two.
    call: AtomicU64,
    batch: AtomicU64,
}

pub struct Watch {
    shared: Arc<Shared>,
}

extern "C" fn nothing(_: i32) {}

impl Watch {
    /// Watches the calling thread.
    pub fn start() -> std::io::Result<Watch> {
        let action = Action {
            handler: nothing as extern "C" fn(i32) as usize as u64,
            flags: 0,
            restorer: 0,
            mask: SigSet::EMPTY,
        };
        client_sigaction(SIGNAL, Some(&action))?;
        let shared = Arc::new(Shared {
            call: AtomicU64::new(0),
            batch: AtomicU64::new(0),
        });
        let (watched, thread) = (Arc::clone(&shared), ThreadId::current());
        std::thread::spawn(move || watch(&watched, thread));
        Ok(Watch { shared })
    }

    /// The seed of what is done now.
    pub fn batch(&self, seed: u64) {
        self.shared.batch.store(seed, Relaxed);
    }

    /// Makes a call.
    pub fn during<R>(&self, call: impl FnOnce() -> R) -> R {
        self.shared.call.fetch_add(1, Relaxed);
        let result = call();
        self.shared.call.fetch_add(1, Relaxed);
        result
    }
}

fn watch(shared: &Shared, thread: ThreadId) {
    let mut last = (0, Instant::now());
    loop {
        std::thread::sleep(PATIENCE / 2);
        let call = shared.call.load(Relaxed);
        if call != last.0 || call.is_multiple_of(2) {
            last = (call, Instant::now());
            continue;
        }
        let waited = last.1.elapsed();
        if waited > FOR_EVER {
            eprintln!(
                "fuzz: call {} of batch {:#x} hangs",
                call / 2,
                shared.batch.load(Relaxed)
            );
            std::process::abort();
        }
        if waited >= PATIENCE {
            thread.signal(SIGNAL);
        }
    }
}
