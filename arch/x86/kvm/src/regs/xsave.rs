//! KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XSAVE2, KVM_GET_XCRS and KVM_SET_XCRS.

use ring3_host::native::xsave::{
    PointerWidth, XFEATURE_PKRU, XFEATURE_XTILECFG, XFEATURE_XTILEDATA, XFEATURES, XSAVE_HEADER, component,
};
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{KVM_MAX_XCRS, KvmXcr, KvmXcrs};
use ring3_x86_cpu::State;
use ring3_x86_cpu::exec::system::msr::is_consistent;

use crate::caps;
use crate::cpuid::supported::{DYNAMIC, supported_xcr0};
use crate::vcpu::{Unit, VcpuState, X86Vcpu};

/// Bytes of `struct kvm_xsave`.
const KVM_XSAVE_SIZE: usize = 4096;
const X87_AND_SSE: u64 = 3;
const AVX: u64 = 4;
/// Where MXCSR is.
const MXCSR: usize = 24;
/// The components outside of the vector state.
const OTHERS: [u64; 3] = [XFEATURE_PKRU, XFEATURE_XTILECFG, XFEATURE_XTILEDATA];

/// Bytes of a vCPU's image: more than `struct kvm_xsave` only if the client gave the guest a component that needs them.
fn image_size(unit: &Unit) -> usize {
    if unit.dynamic_components == 0 {
        KVM_XSAVE_SIZE
    } else {
        caps::xsave2_size() as usize
    }
}

/// The image of those of the `offered` components that are in use. A component that is disabled looks as if it were not.
fn image(state: &State, offered: u64, size: usize) -> Vec<u8> {
    let mut area = vec![0; size];
    // x87 and SSE are always told, as MXCSR and the control word are not in their initial state's absence; PKRU is, since it
    // would stay what it is where the image is loaded.
    let told = X87_AND_SSE | XFEATURE_PKRU & offered;
    let present = state.components_in_use() & offered & !state.msr.xfd | told;
    state.vector.to_xsave(present, &mut area, PointerWidth::Quad);
    area[XSAVE_HEADER..XSAVE_HEADER + 8].copy_from_slice(&present.to_le_bytes());
    for feature in OTHERS.into_iter().filter(|feature| present & feature != 0) {
        if let Some(part) = place(feature).and_then(|place| area.get_mut(place)) {
            state.save_component(feature, part);
        }
    }
    area
}

fn place(feature: u64) -> Option<std::ops::Range<usize>> {
    let (at, size) = component(feature)?;
    Some(at..at + size)
}

/// Loads an image whose header is valid: what is not there takes its initial state.
fn load(state: &mut State, features: u64, area: &[u8]) -> Result<(), Errno> {
    state
        .vector
        .from_xsave(features & XFEATURES, area, PointerWidth::Quad)
        .map_err(|_| Errno::EINVAL)?;
    let present = present(area);
    for feature in OTHERS.into_iter().filter(|feature| features & feature != 0) {
        match place(feature).and_then(|place| area.get(place)) {
            Some(part) if present & feature != 0 => state.load_component(feature, part),
            // As in Linux: of all components, this one stays.
            _ if feature == XFEATURE_PKRU => {}
            _ => state.reset_components(feature),
        }
    }
    Ok(())
}

fn present(area: &[u8]) -> u64 {
    let word = area[XSAVE_HEADER..].first_chunk();
    word.map_or(0, |word| u64::from_le_bytes(*word))
}

/// KVM_GET_XSAVE, which is refused where it would not tell all.
pub fn get(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    if image_size(&s.unit) > KVM_XSAVE_SIZE {
        return Err(Errno::EINVAL);
    }
    get2_to(s, arg)
}

/// KVM_GET_XSAVE2: at most as many bytes as KVM_CAP_XSAVE2 says.
pub fn get2(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    get2_to(s, arg)
}

fn get2_to(s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let offered = s.unit.cpuid.supported_xcr0();
    let image = image(&s.cpu.core.state, offered, image_size(&s.unit));
    arg.write(image.as_slice())?;
    Ok(0)
}

fn check_header(area: &[u8], known: u64) -> Result<(), Errno> {
    let words = area[XSAVE_HEADER..XSAVE_HEADER + 64].as_chunks::<8>().0;
    let rest_is_zero = words[1..].iter().all(|w| *w == [0; 8]);
    if present(area) & !known == 0 && rest_is_zero {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// KVM_SET_XSAVE.
pub fn set(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let mut area: Vec<u8> = arg.read_vec(image_size(&s.unit))?;
    let state = &mut s.cpu.core.state;
    // As in Linux: what is disabled is not loaded, whatever the image says.
    let enabled = present(&area) & !state.msr.xfd;
    area[XSAVE_HEADER..XSAVE_HEADER + 8].copy_from_slice(&enabled.to_le_bytes());
    let features = supported_xcr0() & (!DYNAMIC | s.unit.dynamic_components) | X87_AND_SSE;
    check_header(&area, features)?;
    // As in Linux, MXCSR counts only with what it is of.
    if enabled & (X87_AND_SSE | AVX) == 0 {
        area[MXCSR..MXCSR + 4].copy_from_slice(&state.vector.mxcsr().to_le_bytes());
    }
    load(state, features, &area)?;
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

/// Whether XCR0 may have this value: what the processor itself takes, and no component that the guest's CPUID lacks.
pub fn valid_xcr0(unit: &Unit, value: u64) -> bool {
    let allowed = unit.cpuid.supported_xcr0() | 1;
    is_consistent(value) && value & !allowed == 0
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

    const ALL: u64 = XFEATURES | XFEATURE_XTILECFG | XFEATURE_XTILEDATA;

    #[test]
    fn an_image_has_a_valid_header_and_loads_back() {
        let mut state = State::power_up();
        state.vector.zmm[1].set_low(42);
        let area = image(&state, ALL, KVM_XSAVE_SIZE);
        assert_eq!(check_header(&area, ALL), Ok(()));
        let mut other = State::power_up();
        load(&mut other, ALL, &area).unwrap();
        assert!(other.vector == state.vector);
    }

    #[test]
    fn tiles_are_told_where_they_are_offered_and_enabled() {
        let mut state = State::power_up();
        state.tiles.tile_mut(3).0[2][1] = 7;
        let size = ring3_host::native::xsave::XSAVE_MOST;
        let area = image(&state, ALL, size);
        let mut other = State::power_up();
        load(&mut other, ALL, &area).unwrap();
        assert_eq!(other.tiles, state.tiles);
        load(&mut other, ALL, &image(&State::power_up(), ALL, size)).unwrap();
        assert!(!other.tiles.has_data());
        assert_eq!(present(&image(&state, XFEATURES, size)), X87_AND_SSE);
        state.msr.xfd = XFEATURE_XTILEDATA;
        assert_eq!(present(&image(&state, ALL, size)), X87_AND_SSE);
    }

    #[test]
    fn unknown_components_are_refused() {
        let mut area = vec![0; KVM_XSAVE_SIZE];
        area[XSAVE_HEADER + 7] = 0x80;
        assert_eq!(check_header(&area, ALL), Err(Errno::EINVAL));
    }
}
