//! Memory slots and the dirty log.

use crate::*;
use ring3_uapi::cap::*;
use ring3_uapi::ioctl::*;
use ring3_uapi::*;
use zerocopy::IntoBytes;

#[test]
fn a_slot_lives() {
    let Some(vm) = vm() else { return };
    let ram = memory(0x10000);
    assert_eq!(vm.add_memory(0, 0, &ram, 0), OK);
    // The same again, another place, and other flags are all changes it takes.
    assert_eq!(vm.add_memory(0, 0, &ram, 0), OK);
    assert_eq!(vm.add_memory(0, 0x100000, &ram, 0), OK);
    assert_eq!(vm.add_memory(0, 0x100000, &ram, KVM_MEM_LOG_DIRTY_PAGES), OK);
    assert_eq!(vm.remove_memory(0), OK);
}

#[test]
fn the_dirty_log() {
    let Some(vm) = vm() else { return };
    let ram = memory(0x10000);
    assert_eq!(vm.get_dirty_log(0, 16), Err(Errno::ENOENT));
    assert_eq!(vm.add_memory(0, 0, &ram, 0), OK);
    assert_eq!(vm.get_dirty_log(0, 16), Err(Errno::ENOENT), "not logged");
    assert_eq!(vm.get_dirty_log(0x7fff_0000, 16), Err(Errno::EINVAL));
    assert_eq!(vm.add_memory(0, 0, &ram, KVM_MEM_LOG_DIRTY_PAGES), OK);
    assert_eq!(vm.get_dirty_log(0, 16), Ok(vec![0]));
}

#[test]
fn clearing_the_dirty_log() {
    let Some(vm) = vm() else { return };
    if !offered(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) {
        return;
    }
    let flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
    assert_eq!(
        vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, [1 << 8, 0, 0, 0]),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, [flags, 0, 0, 0]),
        OK
    );
    let ram = memory(0x80 * 0x1000);
    assert_eq!(vm.add_memory(0, 0, &ram, KVM_MEM_LOG_DIRTY_PAGES), OK);
    assert_eq!(
        vm.get_dirty_log(0, 0x80),
        Ok(vec![u64::MAX; 2]),
        "all set at first"
    );
    assert_eq!(vm.clear_dirty_log(0, 64, 64, &[0xff]), OK);
    assert_eq!(vm.get_dirty_log(0, 0x80), Ok(vec![u64::MAX, !0xff]));
    assert_eq!(vm.clear_dirty_log(0, 1, 64, &[0]), Err(Errno::EINVAL));
    assert_eq!(vm.clear_dirty_log(0, 0, 63, &[0]), Err(Errno::EINVAL));
    assert_eq!(vm.clear_dirty_log(0, 128, 64, &[0]), Err(Errno::EINVAL));
    assert_eq!(vm.clear_dirty_log(7, 0, 64, &[0]), Err(Errno::ENOENT));
}

#[test]
fn faults_can_be_had_before_the_guest_runs() {
    let Some((vm, vcpu)) = vcpu() else { return };
    if !offered(KVM_CAP_PRE_FAULT_MEMORY) {
        return;
    }
    let ram = memory(0x4000);
    vm.add_memory(0, 0x10000, &ram, 0).unwrap();
    let call = |gpa, size, flags| {
        let mut range = KvmPreFaultMemory {
            gpa,
            size,
            flags,
            padding: [0; 5],
        };
        let at = range.as_mut_bytes().as_mut_ptr() as u64;
        let result = vcpu.raw(KVM_PRE_FAULT_MEMORY, at);
        result.map(|_| (range.gpa, range.size))
    };
    assert_eq!(call(0x10000, 0x4000, 0), Ok((0x14000, 0)));
    assert_eq!(
        call(0x13000, 0x2000, 0),
        Ok((0x14000, 0x1000)),
        "as far as it goes"
    );
    assert_eq!(call(0x14000, 0x1000, 0), Err(Errno::ENOENT));
    for (gpa, size, flags) in [
        (0x10000, 0, 0),
        (0x10800, 0x1000, 0),
        (0x10000, 0x800, 0),
        (0x10000, 0x1000, 1),
        (0u64.wrapping_sub(0x1000), 0x1000, 0),
    ] {
        assert_eq!(
            call(gpa, size, flags),
            Err(Errno::EINVAL),
            "{gpa:#x} {size:#x} {flags}"
        );
    }
    assert_eq!(vcpu.raw(KVM_PRE_FAULT_MEMORY, NOWHERE), Err(Errno::EFAULT));
}
