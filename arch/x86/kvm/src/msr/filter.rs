//! KVM_X86_SET_MSR_FILTER: which registers the guest may reach.

use std::sync::{Arc, PoisonError, RwLock};

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{
    KVM_MSR_FILTER_DEFAULT_DENY, KVM_MSR_FILTER_MAX_BITMAP_SIZE, KVM_MSR_FILTER_RANGE_VALID_MASK,
    KVM_MSR_FILTER_VALID_MASK, KvmMsrFilter, KvmMsrFilterRange,
};

use super::index::{X2APIC_FIRST, X2APIC_LAST};

struct Range {
    flags: u32,
    base: u32,
    count: u32,
    bitmap: Vec<u8>,
}

/// A filter in force.
pub struct Filter {
    deny: bool,
    ranges: Vec<Range>,
}

/// The filter of a VM; none lets everything through.
#[derive(Default)]
pub struct FilterSlot(RwLock<Option<Arc<Filter>>>);

impl FilterSlot {
    /// Whether the guest may make this kind of access (KVM_MSR_FILTER_READ or _WRITE). x2APIC registers always pass.
    pub fn allows(&self, index: u32, kind: u32) -> bool {
        if (X2APIC_FIRST..=X2APIC_LAST).contains(&index) {
            return true;
        }
        let slot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().is_none_or(|filter| filter.allows(index, kind))
    }

    pub fn set(&self, arg: UserPtr) -> Result<i64, Errno> {
        let new = read(arg)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new.map(Arc::new);
        Ok(0)
    }
}

impl Filter {
    fn allows(&self, index: u32, kind: u32) -> bool {
        for range in &self.ranges {
            let Some(bit) = index.checked_sub(range.base).filter(|bit| *bit < range.count) else {
                continue;
            };
            if range.flags & kind != 0 {
                return range
                    .bitmap
                    .get(bit as usize / 8)
                    .is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
            }
        }
        !self.deny
    }
}

fn read_range(wire: &KvmMsrFilterRange) -> Result<Range, Errno> {
    if wire.flags & !KVM_MSR_FILTER_RANGE_VALID_MASK != 0 || wire.flags == 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = (wire.nmsrs as usize).div_ceil(64) * 8;
    if bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE {
        return Err(Errno::EINVAL);
    }
    let bitmap = UserPtr::new(wire.bitmap).read_vec(bytes)?;
    Ok(Range {
        flags: wire.flags,
        base: wire.base,
        count: wire.nmsrs,
        bitmap,
    })
}

/// `None` when the filter would let everything through.
fn read(arg: UserPtr) -> Result<Option<Filter>, Errno> {
    let wire: KvmMsrFilter = arg.read()?;
    if wire.flags & !KVM_MSR_FILTER_VALID_MASK != 0 {
        return Err(Errno::EINVAL);
    }
    let deny = wire.flags & KVM_MSR_FILTER_DEFAULT_DENY != 0;
    let used: Vec<_> = wire.ranges.iter().filter(|range| range.nmsrs != 0).collect();
    if used.is_empty() {
        // A filter that denies everything would be a mistake.
        return if deny { Err(Errno::EINVAL) } else { Ok(None) };
    }
    let ranges = used.into_iter().map(read_range).collect::<Result<_, Errno>>()?;
    Ok(Some(Filter { deny, ranges }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_of_the_right_kind_decides() {
        let filter = Filter {
            deny: true,
            ranges: vec![Range {
                flags: 1,
                base: 0x10,
                count: 16,
                bitmap: vec![0b10, 0],
            }],
        };
        assert!(filter.allows(0x11, 1));
        assert!(!filter.allows(0x10, 1));
        assert!(!filter.allows(0x11, 2));
        assert!(!filter.allows(0x20, 1));
    }
}
