//! The guest's RAM: below the hole for devices, and what is left above 4 GiB.

use crate::layout::HOLE;
use anyhow::{Context, Result, bail};
use ring3_client::Vm;
use ring3_uapi::KvmUserspaceMemoryRegion;
use std::iter;
use std::ops::Range;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

pub type GuestMemory = GuestMemoryMmap<()>;

const MIB: u64 = 1 << 20;
/// The least that the tables and a kernel's first steps fit in.
const LEAST_MIB: u64 = 16;

/// Makes `mib` MiB of RAM.
pub fn create(mib: u64) -> Result<GuestMemory> {
    if mib < LEAST_MIB {
        bail!("memory: {mib} MiB is too little, a guest needs at least {LEAST_MIB} MiB");
    }
    let ranges =
        ranges(mib).with_context(|| format!("memory: {mib} MiB is more than there are addresses for"))?;
    let ranges: Vec<_> = ranges
        .iter()
        .map(|range| (GuestAddress(range.start), (range.end - range.start) as usize))
        .collect();
    GuestMemory::from_ranges(&ranges)
        .map_err(|error| anyhow::anyhow!("memory: cannot get {mib} MiB: {error}"))
}

/// Where RAM of that size is; `None` if it does not fit.
fn ranges(mib: u64) -> Option<Vec<Range<u64>>> {
    let bytes = mib.checked_mul(MIB).filter(|bytes| *bytes < 1 << 46)?;
    let below = bytes.min(HOLE.start);
    let above = (bytes > below).then(|| HOLE.end..HOLE.end + (bytes - below));
    Some(iter::once(0..below).chain(above).collect())
}

/// The end of RAM below the hole.
pub fn low_end(memory: &GuestMemory) -> u64 {
    memory
        .iter()
        .map(|region| region.start_addr().raw_value() + region.len())
        .filter(|end| *end <= HOLE.start)
        .max()
        .unwrap_or(0)
}

/// Gives the guest its RAM.
pub fn plug(vm: &Vm, memory: &GuestMemory) -> Result<()> {
    for (slot, region) in memory.iter().enumerate() {
        let mapping: &MmapRegion<()> = region;
        vm.set_user_memory_region(&KvmUserspaceMemoryRegion {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: mapping.as_ptr() as u64,
        })
        .context("KVM_SET_USER_MEMORY_REGION")?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of ranges is meant")]
mod tests {
    use super::*;

    #[test]
    fn the_hole_is_left_free() {
        assert_eq!(ranges(512).as_deref(), Some(&[0..0x2000_0000][..]));
        assert_eq!(ranges(3072).as_deref(), Some(&[0..0xc000_0000][..]));
        assert_eq!(
            ranges(4096),
            Some(vec![0..0xc000_0000, 0x1_0000_0000..0x1_4000_0000])
        );
        assert_eq!(ranges(u64::MAX), None);
        assert_eq!(ranges(1 << 40), None);
    }

    #[test]
    fn too_little_is_refused() {
        assert!(create(0).is_err());
        assert_eq!(low_end(&create(16).expect("16 MiB")), 16 << 20);
    }
}
