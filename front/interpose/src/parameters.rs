//! What `RING3_PARAMETERS` switches on: parameters of Linux's module, as `name=value,...`.

use ring3_x86_kvm::parameters::Parameters;
use std::sync::Once;

/// Puts the parameters in force, once. Linux, too, goes without those that it does not know.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Ok(text) = std::env::var("RING3_PARAMETERS") else {
            return;
        };
        match Parameters::parse(&text) {
            Ok(parameters) => parameters.put_in_force(),
            Err(item) => tracing::warn!(item, "RING3_PARAMETERS: not understood, none is in force"),
        }
    });
}
