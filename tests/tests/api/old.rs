//! Requests that few clients make any more, and those of what is not there.

use crate::*;
use ring3_uapi::cap::KVM_CAP_NESTED_STATE;
use ring3_uapi::ioctl::*;
use ring3_uapi::x86::*;

#[test]
fn the_timer_without_flags() {
    let Some(vm) = vm() else { return };
    let mut state = KvmPitState::default();
    let at = &raw mut state as u64;
    for request in [KVM_GET_PIT, KVM_SET_PIT] {
        assert_eq!(vm.raw(request, at), Err(Errno::ENXIO), "there is none");
        assert_eq!(vm.raw(request, NOWHERE), Err(Errno::EFAULT));
    }
    assert_eq!(
        vm.raw(KVM_CREATE_PIT, 0),
        Err(Errno::ENOENT),
        "nowhere to interrupt"
    );
    vm.create_irqchip().unwrap();
    assert_eq!(vm.raw(KVM_CREATE_PIT, 0), Ok(0));
    assert_eq!(vm.raw(KVM_CREATE_PIT, 0), Err(Errno::EEXIST));
    assert_eq!(vm.raw(KVM_GET_PIT, at), Ok(0));
    state.channels[1].mode = 2;
    state.channels[1].count = 0x1234;
    assert_eq!(vm.raw(KVM_SET_PIT, &raw const state as u64), Ok(0));
    let mut back = KvmPitState::default();
    assert_eq!(vm.raw(KVM_GET_PIT, &raw mut back as u64), Ok(0));
    assert_eq!((back.channels[1].mode, back.channels[1].count), (2, 0x1234));
    assert_eq!(vm.raw(KVM_GET_PIT, NOWHERE), Err(Errno::EFAULT));
}

#[test]
fn pages_for_shadow_tables() {
    let Some(vm) = vm() else { return };
    assert_eq!(vm.raw(KVM_SET_NR_MMU_PAGES, 63), Err(Errno::EINVAL));
    assert_eq!(vm.raw(KVM_SET_NR_MMU_PAGES, 64), Ok(0));
    // Linux forgot how to tell.
    let told = vm.raw(KVM_GET_NR_MMU_PAGES, 0);
    assert!(
        back_end() == BackEnd::Device || told == Err(Errno::ENOTTY),
        "{told:?}"
    );
}

#[test]
fn there_is_no_nested_guest() {
    let Some((vm, vcpu)) = vcpu() else { return };
    if vm.check_extension(KVM_CAP_NESTED_STATE) != Ok(0) {
        return skipped("guests can have guests");
    }
    let mut room = [0u64; 0x4000 / 8];
    room[0] = 0x4000 << 32;
    for at in [room.as_mut_ptr() as u64, NOWHERE] {
        assert_eq!(vcpu.raw(KVM_GET_NESTED_STATE, at), Err(Errno::EINVAL));
        assert_eq!(vcpu.raw(KVM_SET_NESTED_STATE, at), Err(Errno::EINVAL));
    }
}
