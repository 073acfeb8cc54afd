//! All local APICs of a VM, and how a message reaches them.

use std::sync::{Arc, PoisonError, RwLock};

use super::target::Target;
use crate::lapic::{ApicMessage, BroadcastRule, for_each_target};
use crate::ports::Delivery;

/// The local APICs by vCPU index.
#[derive(Default)]
pub struct Apics {
    list: RwLock<Arc<[Arc<Target>]>>,
}

impl Apics {
    pub fn all(&self) -> Arc<[Arc<Target>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds a vCPU's; they are made in the order of their indices.
    pub fn add(&self, target: &Arc<Target>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        *list = list.iter().cloned().chain([Arc::clone(target)]).collect();
    }

    pub fn each(&self, f: impl FnMut(&Arc<Target>)) {
        self.all().iter().for_each(f);
    }

    /// The VM goes.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.list.write().unwrap_or_else(PoisonError::into_inner));
        drop(gone);
    }

    /// Delivers a message; `accepted` is told the index of every vCPU that took it. `source` is the sender of an IPI.
    pub fn route(
        &self,
        message: &ApicMessage,
        source: Option<usize>,
        rule: BroadcastRule,
        accepted: &mut dyn FnMut(usize),
    ) -> Delivery {
        let all = self.all();
        let mut count = 0;
        let any = for_each_target(
            message,
            source,
            all.len(),
            |index| all[index].shown.view(),
            rule,
            |index| {
                if all[index].accept(message) {
                    count += 1;
                    accepted(index);
                }
            },
        );
        if any {
            Delivery::Accepted(count)
        } else {
            Delivery::NoTarget
        }
    }

    /// Sends an IPI; answers how many APICs took it.
    pub fn send(&self, message: &ApicMessage, source: usize, rule: BroadcastRule) -> u32 {
        match self.route(message, Some(source), rule, &mut |_| {}) {
            Delivery::NoTarget => 0,
            Delivery::Accepted(count) => count,
        }
    }
}
