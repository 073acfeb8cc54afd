//! The client's side of CPUID: the lists of what is offered, and a vCPU's table.

use ring3_host::user::UserPtr;
use ring3_kvm::Errno;
use ring3_uapi::x86::{KvmCpuid, KvmCpuid2, KvmCpuidEntry, KvmCpuidEntry2};

use super::{Entry, supported};
use crate::vcpu::{VcpuState, X86Vcpu};

/// The largest table.
const MAX_ENTRIES: u32 = 256;

fn to_wire(e: &Entry) -> KvmCpuidEntry2 {
    let [eax, ebx, ecx, edx] = e.regs;
    KvmCpuidEntry2 {
        function: e.function,
        index: e.index,
        flags: e.flags,
        eax,
        ebx,
        ecx,
        edx,
        padding: [0; 3],
    }
}

fn from_wire(e: &KvmCpuidEntry2) -> Entry {
    Entry {
        function: e.function,
        index: e.index,
        flags: e.flags,
        regs: [e.eax, e.ebx, e.ecx, e.edx],
    }
}

fn entries_of(arg: UserPtr) -> UserPtr {
    arg.offset(size_of::<KvmCpuid2>() as u64)
}

fn write_table(arg: UserPtr, table: &[Entry]) -> Result<i64, Errno> {
    let wire: Vec<KvmCpuidEntry2> = table.iter().map(to_wire).collect();
    entries_of(arg).write(wire.as_slice())?;
    arg.write(&KvmCpuid2 {
        nent: table.len() as u32,
        padding: 0,
    })?;
    Ok(0)
}

/// KVM_GET_SUPPORTED_CPUID.
pub fn get_supported(arg: UserPtr) -> Result<i64, Errno> {
    let head: KvmCpuid2 = arg.read()?;
    let table = supported::supported();
    if (head.nent as usize) < table.len() {
        return Err(Errno::E2BIG);
    }
    write_table(arg, table)
}

/// KVM_GET_EMULATED_CPUID.
pub fn get_emulated(arg: UserPtr) -> Result<i64, Errno> {
    let head: KvmCpuid2 = arg.read()?;
    if head.nent < 1 {
        return Err(Errno::E2BIG);
    }
    // As in Linux, entries that cannot be read are wrong ones.
    let given: Vec<KvmCpuidEntry2> = entries_of(arg)
        .read_vec(head.nent.min(MAX_ENTRIES) as usize)
        .map_err(|_| Errno::EINVAL)?;
    if given.iter().any(|e| e.padding != [0; 3]) {
        return Err(Errno::EINVAL);
    }
    let table = supported::emulated();
    // Linux wants room for one more, as it asks before it knows that there is nothing to come.
    if (head.nent as usize) <= table.len() {
        return Err(Errno::E2BIG);
    }
    write_table(arg, &table)
}

/// KVM_SET_CPUID: the old table, without indices.
pub fn set(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let head: KvmCpuid = arg.read()?;
    if head.nent > MAX_ENTRIES {
        return Err(Errno::E2BIG);
    }
    let wire: Vec<KvmCpuidEntry> = entries_of(arg).read_vec(head.nent as usize)?;
    let table = wire
        .iter()
        .map(|e| Entry {
            function: e.function,
            index: 0,
            flags: 0,
            regs: [e.eax, e.ebx, e.ecx, e.edx],
        })
        .collect();
    accept(vcpu, s, table)
}

/// KVM_SET_CPUID2.
pub fn set2(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let head: KvmCpuid2 = arg.read()?;
    if head.nent > MAX_ENTRIES {
        return Err(Errno::E2BIG);
    }
    let wire: Vec<KvmCpuidEntry2> = entries_of(arg).read_vec(head.nent as usize)?;
    accept(vcpu, s, wire.iter().map(from_wire).collect())
}

/// KVM_GET_CPUID2.
pub fn get2(vcpu: &X86Vcpu, s: &mut VcpuState, arg: UserPtr) -> Result<i64, Errno> {
    let head: KvmCpuid2 = arg.read()?;
    let table = s
        .unit
        .cpuid
        .current(s.unit.cpuid_runtime(vcpu, &s.cpu.core.state));
    if (head.nent as usize) < table.len() {
        return Err(Errno::E2BIG);
    }
    write_table(arg, &table)
}

fn accept(vcpu: &X86Vcpu, s: &mut VcpuState, table: Vec<Entry>) -> Result<i64, Errno> {
    if s.unit.ran {
        // Once the guest has run, only the same table is accepted (clients that reuse vCPUs set it again).
        let now = s.unit.cpuid_runtime(vcpu, &s.cpu.core.state);
        let mut given = super::Table::default();
        given.replace(table);
        let same = given.current(now) == s.unit.cpuid.current(now);
        return if same { Ok(0) } else { Err(Errno::EINVAL) };
    }
    let virtual_bits = table
        .iter()
        .find(|e| e.function == 0x8000_0008)
        .map_or(0, |e| e.regs[0] >> 8 & 0xff);
    if !matches!(virtual_bits, 0 | 48 | 57) {
        return Err(Errno::EINVAL);
    }
    let mut given = super::Table::default();
    given.replace(table);
    let dynamic = given.dynamic_components();
    if dynamic & !supported::permitted_xcr0() != 0 {
        return Err(Errno::EPERM);
    }
    s.unit.dynamic_components |= dynamic;
    s.unit.cpuid = given;
    s.after_cpuid(vcpu);
    Ok(0)
}
