//! KVM_GET_FPU and KVM_SET_FPU: the x87 and SSE registers in their old form.

use ring3_host::native::xsave::PointerWidth;
use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::KvmFpu;
use ring3_x86_cpu::State;
use zerocopy::FromZeros;

use crate::vcpu::{VcpuState, X86Vcpu};

/// Bytes of an FXSAVE image.
const FXSAVE_SIZE: usize = 512;

fn array<const N: usize>(image: &[u8], at: usize) -> [u8; N] {
    image
        .get(at..at + N)
        .and_then(|b| b.try_into().ok())
        .unwrap_or([0; N])
}

/// MXCSR is in the structure, but Linux neither fills it nor takes it; the XSAVE image has it.
fn to_wire(state: &State) -> KvmFpu {
    let mut image = [0; FXSAVE_SIZE];
    let v = &state.vector;
    v.save_x87(&mut image, PointerWidth::Quad);
    v.save_xmm(&mut image, 16);
    let mut wire = KvmFpu::new_zeroed();
    for (i, register) in wire.fpr.iter_mut().enumerate() {
        *register = array(&image, 32 + 16 * i);
    }
    for (i, register) in wire.xmm.iter_mut().enumerate() {
        *register = array(&image, 160 + 16 * i);
    }
    wire.fcw = u16::from_le_bytes(array(&image, 0));
    wire.fsw = u16::from_le_bytes(array(&image, 2));
    wire.ftwx = image[4];
    wire.last_opcode = u16::from_le_bytes(array(&image, 6));
    wire.last_ip = u64::from_le_bytes(array(&image, 8));
    wire.last_dp = u64::from_le_bytes(array(&image, 16));
    wire
}

fn from_wire(state: &mut State, wire: &KvmFpu) {
    let mut image = [0; FXSAVE_SIZE];
    image[0..2].copy_from_slice(&wire.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&wire.fsw.to_le_bytes());
    image[4] = wire.ftwx;
    image[6..8].copy_from_slice(&wire.last_opcode.to_le_bytes());
    image[8..16].copy_from_slice(&wire.last_ip.to_le_bytes());
    image[16..24].copy_from_slice(&wire.last_dp.to_le_bytes());
    for (i, register) in wire.fpr.iter().enumerate() {
        image[32 + 16 * i..48 + 16 * i].copy_from_slice(register);
    }
    for (i, register) in wire.xmm.iter().enumerate() {
        image[160 + 16 * i..176 + 16 * i].copy_from_slice(register);
    }
    state.vector.load_x87(&image, PointerWidth::Quad);
    state.vector.load_xmm(&image, 16);
}

pub fn get(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    arg.write(&to_wire(&s.cpu.core.state))?;
    Ok(0)
}

pub fn set(_: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmFpu = arg.read()?;
    from_wire(&mut s.cpu.core.state, &wire);
    s.state_changed();
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_survive_a_round_trip() {
        let mut wire = to_wire(&State::power_up());
        assert_eq!(wire.mxcsr, 0);
        wire.fcw = 0x27f;
        wire.ftwx = 0xff;
        wire.fpr[3] = [7, 6, 5, 4, 3, 2, 1, 0x80, 1, 0x40, 0, 0, 0, 0, 0, 0];
        wire.xmm[15] = [9; 16];
        let mut state = State::power_up();
        from_wire(&mut state, &wire);
        assert_eq!(to_wire(&state), wire);
    }
}
