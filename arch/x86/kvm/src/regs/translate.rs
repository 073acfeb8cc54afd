//! KVM_TRANSLATE: one walk of the guest's page tables for the client.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::KvmTranslation;

use crate::vcpu::{VcpuState, X86Vcpu};
use crate::world::Machine;

/// As in Linux, `writeable` and `usermode` are not looked at: they read 1 and 0.
pub fn translate(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let wire: KvmTranslation = arg.read()?;
    let mut machine = Machine {
        vcpu,
        unit: &mut s.unit,
    };
    // The last address stands for none, whatever it would translate to.
    let found = s
        .cpu
        .core
        .translate(&mut machine, wire.linear_address)
        .filter(|gpa| gpa.0 != u64::MAX);
    arg.write(&KvmTranslation {
        linear_address: wire.linear_address,
        physical_address: found.map_or(u64::MAX, |gpa| gpa.0),
        valid: found.is_some().into(),
        writeable: 1,
        usermode: 0,
        pad: [0; 5],
    })?;
    Ok(0)
}
