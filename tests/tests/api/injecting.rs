//! Events that the client may not put in: exceptions, interrupts, run states, and what a debugger injects.

use crate::*;
use ring3_uapi::cap::*;
use ring3_uapi::x86::*;
use ring3_uapi::*;

type Change = fn(&mut KvmVcpuEvents);

fn exception(events: &mut KvmVcpuEvents, nr: u8) {
    events.exception.injected = 1;
    events.exception.nr = nr;
}

fn pending(events: &mut KvmVcpuEvents, nr: u8) {
    events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    events.exception.pending = 1;
    events.exception.nr = nr;
}

#[test]
fn events_that_cannot_be() {
    let Some((_vm, vcpu)) = vcpu_with_irqchip() else {
        return;
    };
    let good = vcpu.get_vcpu_events().unwrap();
    let rows: [(&str, Change); 7] = [
        ("a flag that there is not", |e| e.flags |= 1 << 6),
        ("all flags that there are not", |e| e.flags |= !0x3f),
        ("a payload that nobody enabled", |e| {
            e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
        }),
        ("a triple fault that nobody enabled", |e| {
            e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        }),
        ("an NMI as an exception", |e| exception(e, 2)),
        ("exception 32", |e| exception(e, 32)),
        ("exception 255", |e| exception(e, 255)),
    ];
    for (name, change) in rows {
        let mut wrong = good;
        change(&mut wrong);
        assert_eq!(vcpu.set_vcpu_events(&wrong), Err(Errno::EINVAL), "{name}");
    }
    assert_eq!(vcpu.get_vcpu_events(), Ok(good));
    let mut last = good;
    exception(&mut last, 31);
    assert_eq!(vcpu.set_vcpu_events(&last), OK);
    // A number that is not valid is not looked at, nor is a pending exception without payloads.
    for number in [2, 255] {
        let mut ignored = good;
        (ignored.exception.pending, ignored.exception.nr) = (1, number);
        assert_eq!(vcpu.set_vcpu_events(&ignored), OK);
    }
}

#[test]
fn payloads_and_triple_faults_once_enabled() {
    let Some((vm, vcpu)) = vcpu() else { return };
    for cap in [KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT] {
        vm.enable_cap(cap, [1, 0, 0, 0]).unwrap();
    }
    let good = vcpu.get_vcpu_events().unwrap();
    let told = KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    assert_eq!(good.flags & told, told);
    for nr in [2, 32] {
        let mut wrong = good;
        pending(&mut wrong, nr);
        assert_eq!(vcpu.set_vcpu_events(&wrong), Err(Errno::EINVAL));
    }
    let mut fault = good;
    pending(&mut fault, 14);
    (fault.exception_has_payload, fault.exception_payload) = (1, 0x1234);
    (fault.exception.has_error_code, fault.exception.error_code) = (1, 6);
    fault.triple_fault.pending = 1;
    assert_eq!(vcpu.set_vcpu_events(&fault), OK);
    let back = vcpu.get_vcpu_events().unwrap();
    assert_eq!(back.exception, fault.exception);
    assert_eq!(back.exception_payload, 0x1234);
    assert_eq!(back.triple_fault, fault.triple_fault);
    assert_eq!(vcpu.set_vcpu_events(&good), OK);
    assert_eq!(vcpu.get_vcpu_events().unwrap().triple_fault.pending, 0);
}

#[test]
fn vectors_by_who_has_the_controllers() {
    let Some((_vm, own)) = vcpu() else { return };
    for wrong in [256, u32::MAX] {
        assert_eq!(own.interrupt(wrong), Err(Errno::EINVAL));
    }
    assert_eq!(
        (own.interrupt(255), own.interrupt(0)),
        (OK, OK),
        "the newest counts"
    );
    let Some(vm) = vm() else { return };
    vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [24, 0, 0, 0]).unwrap();
    let split = vm.create_vcpu(0).unwrap();
    assert_eq!(split.interrupt(256), Err(Errno::EINVAL));
    assert_eq!(split.interrupt(0x41), OK);
    assert_eq!(split.interrupt(0x42), Err(Errno::EEXIST), "until it is taken");
    let Some((_vm, full)) = vcpu_with_irqchip() else {
        return;
    };
    assert_eq!(full.interrupt(256), Err(Errno::EINVAL));
    assert_eq!(full.interrupt(0x41), Err(Errno::ENXIO));
}

#[test]
fn run_states_by_who_has_the_local_apic() {
    let (Some((_vm, without)), Some((_other, with))) = (vcpu(), vcpu_with_irqchip()) else {
        return;
    };
    let set = |vcpu: &Vcpu, mp_state| vcpu.set_mp_state(&KvmMpState { mp_state });
    for vcpu in [&without, &with] {
        let runs = KvmMpState {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        assert_eq!(vcpu.get_mp_state(), Ok(runs));
    }
    for state in [
        KVM_MP_STATE_UNINITIALIZED,
        KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_SIPI_RECEIVED,
        KVM_MP_STATE_AP_RESET_HOLD,
    ] {
        assert_eq!(set(&without, state), Err(Errno::EINVAL), "{state}");
        assert_eq!(set(&with, state), OK, "{state}");
        let shown = match state {
            // It waits, and a SIPI waits for it.
            KVM_MP_STATE_SIPI_RECEIVED => None,
            other => Some(KvmMpState { mp_state: other }),
        };
        if let Some(shown) = shown {
            assert_eq!(with.get_mp_state(), Ok(shown));
        }
    }
    for state in [
        KVM_MP_STATE_STOPPED,
        KVM_MP_STATE_CHECK_STOP,
        KVM_MP_STATE_OPERATING,
        KVM_MP_STATE_LOAD,
        KVM_MP_STATE_SUSPENDED,
        99,
        u32::MAX,
    ] {
        assert_eq!(set(&without, state), Err(Errno::EINVAL), "{state}");
        assert_eq!(set(&with, state), Err(Errno::EINVAL), "{state}");
    }
    assert_eq!(set(&without, KVM_MP_STATE_RUNNABLE), OK);
}

#[test]
fn a_debugger_injects_one_exception_at_a_time() {
    let Some((vm, vcpu)) = vcpu() else { return };
    vm.enable_cap(KVM_CAP_EXCEPTION_PAYLOAD, [1, 0, 0, 0]).unwrap();
    let none = vcpu.get_vcpu_events().unwrap();
    let inject = |control| {
        vcpu.set_guest_debug(&KvmGuestDebug {
            control: KVM_GUESTDBG_ENABLE | control,
            ..Default::default()
        })
    };
    assert_eq!(inject(KVM_GUESTDBG_INJECT_BP), OK);
    assert_eq!(vcpu.get_vcpu_events().unwrap().exception.nr, 3);
    for control in [KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB] {
        assert_eq!(inject(control), Err(Errno::EBUSY));
    }
    assert_eq!(inject(0), OK, "nothing more");
    assert_eq!(vcpu.set_vcpu_events(&none), OK);
    assert_eq!(inject(KVM_GUESTDBG_INJECT_DB), OK);
    // No bit of the control word is refused.
    assert_eq!(inject(1 << 15 | 1 << 31), OK);
}

/// From Linux 7.3 on; older ones overwrite it.
#[test]
fn nor_while_another_is_delivered() {
    let Some((_vm, vcpu)) = vcpu() else { return };
    let mut events = vcpu.get_vcpu_events().unwrap();
    exception(&mut events, 6);
    vcpu.set_vcpu_events(&events).unwrap();
    let result = vcpu.set_guest_debug(&KvmGuestDebug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP,
        ..Default::default()
    });
    let old = back_end() == BackEnd::Device && result == OK;
    assert!(old || result == Err(Errno::EBUSY), "{result:?}");
}
