//! KVM_GET_ONE_REG and KVM_SET_ONE_REG: MSRs one by one. There are no registers of KVM's own, as there are no shadow stacks.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::{
    KVM_REG_ARCH_MASK, KVM_REG_SIZE_MASK, KVM_REG_SIZE_U64, KVM_REG_X86, KvmOneReg, KvmRegList,
};

use super::ioctls::access;
use crate::vcpu::{VcpuState, X86Vcpu};

/// Below the type: the register's index.
const TYPE_SHIFT: u32 = 32;
const TYPE_MSR: u8 = 2;
/// Between the type and the size.
const RESERVED: u64 = 0x000f_ff00_0000_0000;

/// The MSR that an id means.
fn index(id: u64) -> Result<u32, Errno> {
    let kind = (id >> TYPE_SHIFT) as u8;
    let is_msr = id & KVM_REG_ARCH_MASK == KVM_REG_X86
        && id & RESERVED == 0
        && kind == TYPE_MSR
        && id & KVM_REG_SIZE_MASK == KVM_REG_SIZE_U64;
    if is_msr { Ok(id as u32) } else { Err(Errno::EINVAL) }
}

pub fn get(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let reg: KvmOneReg = arg.read()?;
    let value = super::read(&mut access(vcpu, s, index(reg.id)?)).map_err(|_| Errno::EINVAL)?;
    UserPtr::new(reg.addr).write(&value)?;
    Ok(0)
}

pub fn set(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let reg: KvmOneReg = arg.read()?;
    let index = index(reg.id)?;
    let value: u64 = UserPtr::new(reg.addr).read()?;
    super::write(&mut access(vcpu, s, index), value).map_err(|_| Errno::EINVAL)?;
    s.state_changed();
    Ok(0)
}

/// KVM_GET_REG_LIST: registers of KVM's own, which there are none of.
pub fn list(_: &X86Vcpu, _: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let _: KvmRegList = arg.read()?;
    arg.write(&KvmRegList { n: 0 })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_msrs() {
        let id = KVM_REG_X86 | KVM_REG_SIZE_U64 | u64::from(TYPE_MSR) << TYPE_SHIFT | 0xc000_0080;
        assert_eq!(index(id), Ok(0xc000_0080));
        for wrong in [
            id ^ KVM_REG_X86,
            id ^ KVM_REG_SIZE_U64,
            id | 1 << 40,
            id | 1 << 48,
            id ^ 1 << TYPE_SHIFT,
        ] {
            assert_eq!(index(wrong), Err(Errno::EINVAL), "{wrong:#x}");
        }
    }
}
