//! The shell around KVM_RUN: whose turn it is, which signals end it, what is counted. The loop inside is the architecture's
//! ([`crate::arch::Vcpus::run`]).

use super::{KickBits, Owned, Vcpu};
use crate::arch::{Arch, Vcpus};
use crate::errno::Errno;
use crate::stats::rows;
use ring3_host::signal::RunScope;
use ring3_uapi::exit::KVM_EXIT_INTR;
use std::sync::Arc;

/// The exit reasons that every architecture has.
pub(crate) const EXITS: &[u32] = &[KVM_EXIT_INTR];

impl<A: Arch> Vcpu<A> {
    /// KVM_RUN, with the vCPU's mutex held.
    pub(super) fn run(self: &Arc<Self>, owned: &mut Owned<A>) -> Result<i64, Errno> {
        self.sample_immediate_exit();
        let kick = self.seat().kick();
        kick.clear_signal();
        self.stats.at(rows::RUNS).add(1);
        // Ends before the mutex does, so that a signal's handler never runs with the guest's mask.
        let scope = RunScope::enter(kick.word(), KickBits::SIGNAL.bits(), owned.signal_mask);
        let result = <A as Vcpus>::run(self, &mut owned.arch);
        drop(scope);
        if result == Err(Errno::EINTR) && kick.contains(KickBits::SIGNAL) {
            self.set_exit_reason(KVM_EXIT_INTR);
        }
        result.map(|()| 0)
    }
}
