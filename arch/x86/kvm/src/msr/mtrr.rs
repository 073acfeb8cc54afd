//! Memory type range registers and the page attribute table: validated and stored. All guest memory is
//! write-back here whatever they say.

use super::index::*;
use super::{Access, Denied, allow};

/// Eight variable ranges, fixed ranges, write-combining.
const CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
const VARIABLE_LAST: u32 = MTRR_FIRST + 15;

fn is_fixed(index: u32) -> bool {
    matches!(index, 0x250 | 0x258 | 0x259 | 0x268..=0x26f)
}

fn exists(index: u32) -> bool {
    is_fixed(index) || (MTRR_FIRST..=VARIABLE_LAST).contains(&index) || index == MTRR_DEF_TYPE
}

fn valid_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

fn valid(index: u32, value: u64, physical_bits: u32) -> bool {
    if index == MTRR_DEF_TYPE {
        return value & !0xcff == 0 && valid_type(value as u8);
    }
    if is_fixed(index) {
        return value.to_le_bytes().into_iter().all(valid_type);
    }
    let beyond = u64::MAX.checked_shl(physical_bits).unwrap_or(0);
    if index & 1 == 0 {
        valid_type(value as u8) && value & (beyond | 0xf00) == 0
    } else {
        value & (beyond | 0x7ff) == 0
    }
}

pub fn read(a: &mut Access) -> Result<u64, Denied> {
    if a.index == MTRR_CAP {
        return Ok(CAPABILITIES);
    }
    if !exists(a.index) {
        return Err(Denied::Invalid);
    }
    Ok(a.unit.msrs.get(a.index))
}

pub fn write(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(exists(a.index) && valid(a.index, value, a.unit.cpuid.physical_bits()))?;
    a.unit.msrs.set(a.index, value);
    Ok(())
}

pub fn read_pat(a: &mut Access) -> Result<u64, Denied> {
    Ok(a.unit.msrs.get(IA32_PAT))
}

pub fn write_pat(a: &mut Access, value: u64) -> Result<(), Denied> {
    allow(value.to_le_bytes().into_iter().all(|t| valid_type(t) || t == 7))?;
    a.unit.msrs.set(IA32_PAT, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_and_types_are_refused() {
        assert!(valid(MTRR_DEF_TYPE, 0xc06, 40));
        assert!(!valid(MTRR_DEF_TYPE, 0x1c06, 40));
        assert!(!valid(MTRR_DEF_TYPE, 2, 40));
        assert!(valid(0x250, 0x0606_0606_0606_0606, 40));
        assert!(!valid(0x250, 0x0706_0606_0606_0606, 40));
        assert!(valid(0x200, 0x8000_0000, 40));
        assert!(!valid(0x200, 0x1_0000_0000_0006, 40));
        assert!(valid(0x201, 0xff_8000_0800, 40));
        assert!(!valid(0x201, 0xff_8000_0400, 40));
    }
}
