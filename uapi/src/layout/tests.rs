//! Witnesses: every argument of an x86 ioctl is described, and is as long as its request says.

use super::meanings::{Meaning, of, of_argument, union_of};
use super::*;
use crate::arch::Archs;
use crate::ioctl::{Arg, IOCTLS, IoctlRow, arg_size};
use zerocopy::IntoBytes;

fn x86() -> impl Iterator<Item = &'static IoctlRow> {
    IOCTLS
        .iter()
        .filter(|row| row.on.iter().any(|on| on.archs.contains(Archs::X86)))
}

#[test]
fn every_argument_is_described_and_has_the_size_of_its_request() {
    let mut seen = 0;
    for row in x86() {
        let (name, entry) = match row.arg {
            Arg::None | Arg::Zero | Arg::Value => continue,
            Arg::In(name) | Arg::Out(name) | Arg::InOut(name) => (name, None),
            Arg::InList(name, entry) | Arg::InOutList(name, entry) => (name, Some(entry)),
        };
        let kind = by_c_name(name).unwrap_or_else(|| panic!("{}: {name}", row.name));
        // KVM_REINJECT_CONTROL does not say that it takes a pointer.
        if arg_size(row.request) != 0 {
            assert_eq!(arg_size(row.request), kind.size(), "{}: {name}", row.name);
        }
        if let Some(entry) = entry {
            assert!(by_c_name(entry).is_some(), "{}: {entry}", row.name);
            let Kind::Structure(header) = kind else {
                panic!("{}: {name} has no count", row.name);
            };
            assert!(
                follows(header, &vec![0; header.size]).is_some(),
                "{}: {name}",
                row.name
            );
        }
        seen += 1;
    }
    assert!(seen > 60, "only {seen}");
}

#[test]
fn fields_fill_their_structures() {
    for layout in ARGUMENTS
        .iter()
        .copied()
        .chain(meanings::PAYLOADS.iter().map(|row| row.2))
    {
        let mut end = 0;
        for field in layout.fields {
            assert_eq!(field.offset, end, "{}.{}", layout.name, field.name());
            end += field.kind.size();
        }
        assert_eq!(end, layout.size, "{}", layout.name);
    }
}

#[test]
fn names_are_those_of_c() {
    let find = |name| match by_c_name(name) {
        Some(Kind::Structure(layout)) => layout.name,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(find("kvm_pit_state2"), "KvmPitState2");
    assert_eq!(find("kvm_x86_mce"), "KvmX86Mce");
    assert_eq!(find("kvm_irqchip"), "KvmIrqchip");
    assert!(by_c_name("kvm_vcpu_init").is_none());
}

#[test]
fn counts_are_read_from_headers() {
    let header = KvmMsrs { nmsrs: 7, pad: 9 };
    let Kind::Structure(layout) = KvmMsrs::KIND else {
        panic!()
    };
    assert_eq!(follows(layout, header.as_bytes()), Some(Follows::Entries(7)));
    let header = KvmNestedState {
        size: 4224,
        ..KvmNestedState::default()
    };
    let Kind::Structure(layout) = KvmNestedState::KIND else {
        panic!()
    };
    assert_eq!(
        follows(layout, header.as_bytes()),
        Some(Follows::WholeBytes(4224))
    );
    let Kind::Structure(layout) = KvmRegs::KIND else {
        panic!()
    };
    assert_eq!(follows(layout, KvmRegs::default().as_bytes()), None);
}

#[test]
fn meanings_are_found() {
    let Some(Meaning::Values(values)) = of("KvmIrqRoutingEntry", "type") else {
        panic!()
    };
    assert!(values.contains(&("KVM_IRQ_ROUTING_MSI", 2)));
    assert!(matches!(of("KvmEnableCap", "cap"), Some(Meaning::Capability)));
    assert!(matches!(
        of_argument("KVM_CHECK_EXTENSION"),
        Some(Meaning::Capability)
    ));
    assert!(of("KvmRegs", "rax").is_none());
    let union = union_of("KvmIrqchip", "chip").expect("a union");
    assert_eq!(union.members.len(), 3);
    assert_eq!(
        payload(KVM_EXIT_MMIO, &[]).map(|layout| layout.name),
        Some("RunMmio")
    );
    let internal = |suberror: u32| payload(KVM_EXIT_INTERNAL_ERROR, &suberror.to_le_bytes());
    assert_eq!(internal(1).map(|layout| layout.name), Some("RunEmulationFailure"));
    assert_eq!(internal(3).map(|layout| layout.name), Some("RunInternal"));
    assert!(payload(KVM_EXIT_HLT, &[]).is_none());
}
