//! Extended feature disable: components that the guest's operating system gives to programs only when they use them.

use ring3_host::native::xsave::XFEATURE_XTILEDATA;

use super::index::{IA32_XFD, IA32_XFD_ERR};
use super::{Access, Denied, allow};
use crate::cpuid::{features, supported};

/// The registers that the client saves, where there are any.
pub fn listed() -> impl Iterator<Item = u32> {
    let offered = supported::offered(0xd, 1, features::XFD.reg) >> features::XFD.bit & 1 != 0;
    [IA32_XFD, IA32_XFD_ERR].into_iter().filter(move |_| offered)
}

pub fn read(a: &mut Access) -> Result<u64, Denied> {
    a.client_or(features::XFD)?;
    match a.index {
        IA32_XFD => Ok(a.state.msr.xfd),
        _ => Ok(a.state.msr.xfd_err),
    }
}

pub fn write(a: &mut Access, value: u64) -> Result<(), Denied> {
    a.client_or(features::XFD)?;
    allow(value & !(a.unit.cpuid.supported_xcr0() & XFEATURE_XTILEDATA) == 0)?;
    match a.index {
        IA32_XFD => a.state.msr.xfd = value,
        _ => a.state.msr.xfd_err = value,
    }
    Ok(())
}
