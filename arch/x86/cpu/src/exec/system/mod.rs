//! Instructions of the operating system: tables, control registers, MSRs, ports, interrupts, flags of privilege.

pub mod cache;
pub mod control;
pub mod debug;
pub mod extended;
pub mod fast_call;
pub mod flag_ops;
pub mod identify;
pub mod interrupt;
pub mod msr;
pub mod ports;
pub mod query;
pub mod tables;

use crate::state::CR4_UMIP;
use crate::{Core, Fault, Step};

/// #GP unless at privilege level 0.
pub(crate) fn privileged(core: &Core) -> Step {
    if core.mode.cpl == 0 {
        Ok(())
    } else {
        Err(Fault::GP0.into())
    }
}

/// #GP for SGDT, SIDT, SLDT, STR and SMSW outside level 0 under CR4.UMIP.
fn user_may_look(core: &Core) -> Step {
    if core.state.cr4 & CR4_UMIP != 0 {
        privileged(core)
    } else {
        Ok(())
    }
}

/// #UD in real and virtual-8086 mode.
fn protected_only(core: &Core) -> Step {
    if core.mode.real_segments {
        Err(Fault::UD.into())
    } else {
        Ok(())
    }
}
