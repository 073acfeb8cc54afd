//! KVM_SET_PMU_EVENT_FILTER: which events a VM's counters may count.

use std::sync::{Arc, Mutex, PoisonError};

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{
    KVM_PMU_EVENT_ALLOW, KVM_PMU_EVENT_DENY, KVM_PMU_EVENT_FLAG_MASKED_EVENTS, KvmPmuEventFilter,
};

use super::shape::Vendor;
use crate::cpuid::supported;
use crate::vcpu::PMU_UPDATE;
use crate::vm::X86Vm;

/// The most events of a filter.
const MOST_EVENTS: u32 = 300;

const UNIT: u64 = 0xff00;
/// Of a masked entry: which bits of the unit mask are compared, and whether what matches is an exception.
const MASK_SHIFT: u32 = 56;
const EXCLUDE: u64 = 1 << 55;

/// The bits of an event's number.
fn number_bits(vendor: Vendor) -> u64 {
    match vendor {
        Vendor::Intel => 0xff,
        Vendor::Amd => 0xf_0000_00ff,
    }
}

fn host_vendor() -> Vendor {
    if supported::host_is_amd() {
        Vendor::Amd
    } else {
        Vendor::Intel
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
}

#[derive(Debug)]
pub struct Filter {
    action: Action,
    fixed: u32,
    /// Masked entries, exceptions among them.
    entries: Vec<u64>,
}

impl Filter {
    fn new(head: &KvmPmuEventFilter, events: &[u64]) -> Result<Filter, Errno> {
        let action = match head.action {
            KVM_PMU_EVENT_ALLOW => Action::Allow,
            _ => Action::Deny,
        };
        let event = number_bits(host_vendor()) | UNIT;
        let entries = if head.flags & KVM_PMU_EVENT_FLAG_MASKED_EVENTS != 0 {
            let known = event | 0xff << MASK_SHIFT | EXCLUDE;
            if events.iter().any(|entry| entry & !known != 0) {
                return Err(Errno::EINVAL);
            }
            events.to_vec()
        } else {
            // What no event can be is let through, and matches none.
            let possible = events.iter().filter(|entry| *entry & !event == 0);
            possible.map(|entry| entry | 0xff << MASK_SHIFT).collect()
        };
        Ok(Filter {
            action,
            fixed: head.fixed_counter_bitmap,
            entries,
        })
    }

    /// Whether a general-purpose counter may count what its selector says.
    pub fn allows(&self, select: u64, vendor: Vendor) -> bool {
        let number = number_bits(vendor);
        let matches = |entry: &&u64| {
            let mask = *entry >> MASK_SHIFT << 8;
            (*entry ^ select) & number == 0 && select & UNIT & mask == *entry & UNIT
        };
        let (mut included, mut excluded) = (false, false);
        for entry in self.entries.iter().filter(matches) {
            if entry & EXCLUDE != 0 {
                excluded = true;
            } else {
                included = true;
            }
        }
        (included && !excluded) == (self.action == Action::Allow)
    }

    pub fn allows_fixed(&self, n: usize) -> bool {
        (self.fixed >> n & 1 != 0) == (self.action == Action::Allow)
    }
}

/// A VM's filter.
#[derive(Debug, Default)]
pub struct FilterSlot(Mutex<Option<Arc<Filter>>>);

impl FilterSlot {
    pub fn get(&self) -> Option<Arc<Filter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// KVM_SET_PMU_EVENT_FILTER.
pub fn set(vm: &X86Vm, arg: UserPtr) -> Result<i64, Errno> {
    let head: KvmPmuEventFilter = arg.read()?;
    let known_action = matches!(head.action, KVM_PMU_EVENT_ALLOW | KVM_PMU_EVENT_DENY);
    if !known_action || head.flags & !KVM_PMU_EVENT_FLAG_MASKED_EVENTS != 0 {
        return Err(Errno::EINVAL);
    }
    if head.nevents > MOST_EVENTS {
        return Err(Errno::E2BIG);
    }
    let events: Vec<u64> = arg
        .offset(size_of::<KvmPmuEventFilter>() as u64)
        .read_vec(head.nevents as usize)?;
    let filter = Arc::new(Filter::new(&head, &events)?);
    let slot = &vm.arch().pmu_filter;
    *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(filter);
    vm.seats().request_all(PMU_UPDATE);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(action: u32, flags: u32, events: &[u64]) -> Filter {
        let head = KvmPmuEventFilter {
            action,
            flags,
            ..Default::default()
        };
        Filter::new(&head, events).unwrap()
    }

    #[test]
    fn plain_events_are_compared_whole() {
        let allow = filter(KVM_PMU_EVENT_ALLOW, 0, &[0xc0, 0x412e, u64::MAX]);
        assert!(allow.allows(0x43_00c0, Vendor::Intel) && allow.allows(0x43_412e, Vendor::Intel));
        assert!(!allow.allows(0x43_01c0, Vendor::Intel));
        let deny = filter(KVM_PMU_EVENT_DENY, 0, &[0xc0]);
        assert!(!deny.allows(0x43_00c0, Vendor::Intel) && deny.allows(0x43_01c0, Vendor::Intel));
    }

    #[test]
    fn masked_events_have_exceptions() {
        let events = [0xd0 | 0x7c << 56, 0xd0 | 0x8300 | 0xff << 56 | EXCLUDE];
        let allow = filter(KVM_PMU_EVENT_ALLOW, KVM_PMU_EVENT_FLAG_MASKED_EVENTS, &events);
        assert!(allow.allows(0x81d0, Vendor::Intel) && allow.allows(0x82d0, Vendor::Intel));
        assert!(!allow.allows(0x83d0, Vendor::Intel) && !allow.allows(0x84d0, Vendor::Intel));
    }

    #[test]
    fn fixed_counters_have_a_bit_each() {
        let head = KvmPmuEventFilter {
            action: KVM_PMU_EVENT_ALLOW,
            fixed_counter_bitmap: 2,
            ..Default::default()
        };
        let allow = Filter::new(&head, &[]).unwrap();
        assert!(!allow.allows_fixed(0) && allow.allows_fixed(1));
        let deny = Filter::new(
            &KvmPmuEventFilter {
                action: KVM_PMU_EVENT_DENY,
                ..head
            },
            &[],
        )
        .unwrap();
        assert!(deny.allows_fixed(0) && !deny.allows_fixed(1));
    }
}
