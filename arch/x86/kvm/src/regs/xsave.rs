//! KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS and KVM_SET_XCRS.

use ring3_host::native::xsave::{PointerWidth, XSAVE_HEADER};
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{KVM_MAX_XCRS, KvmXcr, KvmXcrs};
use ring3_x86_cpu::State;

use crate::caps;
use crate::cpuid::supported::supported_xcr0;
use crate::vcpu::{Unit, VcpuState, X86Vcpu};

/// Bytes of `struct kvm_xsave`.
const KVM_XSAVE_SIZE: usize = 4096;
const X87_AND_SSE: u64 = 3;
const AVX: u64 = 4;
/// Where MXCSR is.
const MXCSR: usize = 24;

fn image(state: &State, size: usize) -> Vec<u8> {
    let mut area = vec![0; size];
    // x87 and SSE are always told, as MXCSR and the control word are not in their initial state's absence.
    let present = (state.vector.in_use() | X87_AND_SSE) & (supported_xcr0() | X87_AND_SSE);
    state.vector.to_xsave(present, &mut area, PointerWidth::Quad);
    area
}

/// KVM_GET_XSAVE.
pub fn get(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    arg.write(image(&s.cpu.core.state, KVM_XSAVE_SIZE).as_slice())?;
    Ok(0)
}

/// KVM_GET_XSAVE2: as many bytes as KVM_CAP_XSAVE2 says.
pub fn get2(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    arg.write(image(&s.cpu.core.state, caps::xsave2_size() as usize).as_slice())?;
    Ok(0)
}

/// The components that are not in their initial state.
fn check_header(area: &[u8]) -> Result<u64, Errno> {
    let words = area[XSAVE_HEADER..XSAVE_HEADER + 64].as_chunks::<8>().0;
    let xstate_bv = u64::from_le_bytes(words[0]);
    let rest_is_zero = words[1..].iter().all(|w| *w == [0; 8]);
    let known = xstate_bv & !(supported_xcr0() | X87_AND_SSE) == 0;
    if known && rest_is_zero {
        Ok(xstate_bv)
    } else {
        Err(Errno::EINVAL)
    }
}

/// KVM_SET_XSAVE.
pub fn set(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let mut area: Vec<u8> = arg.read_vec(caps::xsave2_size() as usize)?;
    let components = check_header(&area)?;
    let features = supported_xcr0() | X87_AND_SSE;
    let vector = &mut s.cpu.core.state.vector;
    // As in Linux, MXCSR counts only with what it is of.
    if components & (X87_AND_SSE | AVX) == 0 {
        area[MXCSR..MXCSR + 4].copy_from_slice(&vector.mxcsr().to_le_bytes());
    }
    vector
        .from_xsave(features, &area, PointerWidth::Quad)
        .map_err(|_| Errno::EINVAL)?;
    s.state_changed();
    Ok(0)
}

/// KVM_GET_XCRS: XCR0 alone.
pub fn get_xcrs(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let mut wire = KvmXcrs {
        nr_xcrs: 1,
        ..KvmXcrs::default()
    };
    wire.xcrs[0] = KvmXcr {
        xcr: 0,
        reserved: 0,
        value: s.cpu.core.state.xcr0,
    };
    arg.write(&wire)?;
    Ok(0)
}

/// Whether XCR0 may have this value: x87 always, AVX with SSE, the parts of AVX-512 together and with AVX, and no
/// component that the guest's CPUID lacks.
pub fn valid_xcr0(unit: &Unit, value: u64) -> bool {
    const AVX512: u64 = 0xe0;
    let allowed = unit.cpuid.supported_xcr0() | 1;
    value & 1 != 0
        && (value & 4 == 0 || value & 2 != 0)
        && (value & AVX512 == 0 || (value & AVX512 == AVX512 && value & 4 != 0))
        && value & !allowed == 0
}

/// KVM_SET_XCRS.
pub fn set_xcrs(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmXcrs = arg.read()?;
    if supported_xcr0() == 0 || wire.nr_xcrs as usize > KVM_MAX_XCRS || wire.flags != 0 {
        return Err(Errno::EINVAL);
    }
    if let Some(xcr) = wire.xcrs[..wire.nr_xcrs as usize].iter().find(|x| x.xcr == 0) {
        if !valid_xcr0(&s.unit, xcr.value) {
            return Err(Errno::EINVAL);
        }
        s.cpu.core.state.xcr0 = xcr.value;
        s.state_changed();
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_valid_header_and_loads_back() {
        let mut state = State::power_up();
        state.vector.zmm[1].set_low(42);
        let area = image(&state, KVM_XSAVE_SIZE);
        assert_eq!(check_header(&area), Ok(X87_AND_SSE));
        let mut other = State::power_up();
        other
            .vector
            .from_xsave(supported_xcr0() | 3, &area, PointerWidth::Quad)
            .unwrap();
        assert!(other.vector == state.vector);
    }

    #[test]
    fn unknown_components_are_refused() {
        let mut area = vec![0; KVM_XSAVE_SIZE];
        area[XSAVE_HEADER + 7] = 0x80;
        assert_eq!(check_header(&area), Err(Errno::EINVAL));
    }
}
