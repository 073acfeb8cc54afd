//! What is worth a warning, on stderr, if `RING3_LOG` says what of it is wanted (`warn`, `ring3_kvm=debug`, ...).

use std::sync::Once;

/// Starts logging, once, if it is wanted.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(wanted) = std::env::var("RING3_LOG") else {
            return;
        };
        let filter = tracing_subscriber::EnvFilter::new(wanted);
        // Fails only if somebody else listens already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .try_init();
    });
}
