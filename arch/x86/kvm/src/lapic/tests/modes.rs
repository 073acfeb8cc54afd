//! The APIC base, both register interfaces, IPIs, reset.

use super::*;

#[test]
fn mode_transitions() {
    let (mut lapic, _) = enabled(3);
    assert_eq!(
        lapic.set_base(BASE | 0x400, 0, Writer::Guest),
        Err(InvalidBase),
        "x2APIC without enable"
    );
    assert_eq!(
        lapic.set_base(BASE | 0x801, 0, Writer::Client),
        Err(InvalidBase),
        "reserved bit"
    );
    assert_eq!(
        lapic.set_base(1 << 40 | BASE | 0x800, !0 << 40, Writer::Client),
        Err(InvalidBase)
    );
    assert_eq!(lapic.set_base(X2APIC_ON, 0, Writer::Guest), Ok(()));
    assert_eq!(lapic.base().mode(), ApicMode::X2apic);
    assert_eq!(
        lapic.set_base(BASE | 0x800, 0, Writer::Guest),
        Err(InvalidBase),
        "back to xAPIC"
    );
    assert_eq!(lapic.set_base(BASE, 0, Writer::Guest), Ok(()));
    assert_eq!(
        lapic.set_base(X2APIC_ON, 0, Writer::Guest),
        Err(InvalidBase),
        "disabled to x2APIC"
    );
    assert_eq!(lapic.set_base(X2APIC_ON, 0, Writer::Client), Ok(()));
    lapic.set_features(Features::empty());
    assert_eq!(
        lapic.set_base(X2APIC_ON, 0, Writer::Client),
        Err(InvalidBase),
        "no x2APIC in CPUID"
    );
}

#[test]
fn power_up_values() {
    let lapic = Lapic::new(0, Role::Boot, features());
    let clock = FakeClock::default();
    assert_eq!(lapic.base().bits(), 0xfee0_0900);
    assert_eq!(read(&lapic, &clock, 0x30), 0x5_0014);
    assert_eq!(read(&lapic, &clock, 0xe0), 0xffff_ffff);
    assert_eq!(read(&lapic, &clock, 0xf0), 0xff);
    assert_eq!(read(&lapic, &clock, 0x350), 0x700);
    assert_eq!(read(&lapic, &clock, 0x360), 0x1_0000);
    assert!(lapic.accepts_extint());
    let lapic = Lapic::new(1, Role::Application, features() | Features::CMCI);
    assert_eq!(lapic.base().bits(), 0xfee0_0800);
    assert_eq!(read(&lapic, &clock, 0x20), 1 << 24);
    assert_eq!(read(&lapic, &clock, 0x30), 0x6_0014);
    assert_eq!(read(&lapic, &clock, 0x2f0), 0x1_0000);
    assert!(!lapic.accepts_extint());
}

#[test]
fn init_keeps_the_mode_and_the_id() {
    let (mut lapic, mut clock) = enabled_x2apic(0x21);
    lapic.set_cr8(5);
    lapic.accept(&fixed(0x40, TriggerMode::Edge));
    lapic.reset(ResetKind::Init, &mut clock);
    assert_eq!(lapic.base().mode(), ApicMode::X2apic);
    assert_eq!(lapic.msr_read(0x802, &clock), Ok(0x21));
    assert_eq!(lapic.msr_read(0x80d, &clock), Ok(0x2_0002));
    assert_eq!(lapic.cr8(), 0);
    assert_eq!(lapic.highest_request(), None);
    lapic.reset(ResetKind::PowerUp, &mut clock);
    assert_eq!(lapic.base().mode(), ApicMode::Xapic);
    assert_eq!(read(&lapic, &clock, 0xd0), 0);
}

#[test]
fn mmio_sizes_and_holes() {
    let (mut lapic, mut clock) = enabled(5);
    let mut byte = [0xaa];
    lapic.mmio_read(BASE + 0x23, &mut byte, &clock);
    assert_eq!(byte, [5]);
    let mut two = [0xaa; 2];
    lapic.mmio_read(BASE + 0x23, &mut two, &clock);
    assert_eq!(two, [0, 0], "crosses the register");
    assert_eq!(read(&lapic, &clock, 0xb0), 0, "write-only");
    assert_eq!(read(&lapic, &clock, 0x3f0), 0);
    assert_eq!(lapic.mmio_write(BASE + 0x80, &[0x10], &mut clock), Effect::None);
    assert_eq!(read(&lapic, &clock, 0x80), 0, "byte writes are dropped");
    set(&mut lapic, &mut clock, 0xe0, 0);
    assert_eq!(read(&lapic, &clock, 0xe0), 0x0fff_ffff);
    assert!(lapic.claims(BASE + 0xfff) && !lapic.claims(BASE + 0x1000));
    assert_eq!(lapic.set_base(BASE, 0, Writer::Guest), Ok(()));
    assert_eq!(read(&lapic, &clock, 0x20), 0xffff_ffff);
    lapic.set_features(Features::empty());
    assert!(!lapic.claims(BASE));
}

#[test]
fn x2apic_msr_validity() {
    let (mut lapic, mut clock) = enabled_x2apic(2);
    let gp = Err(GeneralProtection);
    for index in [
        0x80e, 0x80b, 0x809, 0x831, 0x83f, 0x82f, 0x840, 0x800, 0x8ff, 0x7ff,
    ] {
        assert_eq!(lapic.msr_read(index, &clock), gp, "read of {index:#x}");
    }
    for index in [
        0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x818, 0x820, 0x831, 0x839, 0x82f, 0x840,
    ] {
        assert_eq!(
            lapic.msr_write(index, 0, &mut clock),
            Err(GeneralProtection),
            "write of {index:#x}"
        );
    }
    assert_eq!(
        lapic.msr_write(0x808, 1 << 32, &mut clock),
        Err(GeneralProtection)
    );
    assert_eq!(lapic.msr_write(0x808, 0x30, &mut clock), Ok(Effect::None));
    assert_eq!(lapic.msr_read(0x808, &clock), Ok(0x30));
    assert_eq!(lapic.msr_write(0x828, 0, &mut clock), Ok(Effect::None));
    assert_eq!(lapic.msr_write(0x828, 1, &mut clock), Err(GeneralProtection));
    assert_eq!(lapic.msr_write(0x83f, 0x100, &mut clock), Err(GeneralProtection));
    let (mut lapic, mut clock) = enabled(2);
    assert_eq!(lapic.msr_read(0x802, &clock), gp, "no MSRs in xAPIC mode");
    assert_eq!(lapic.msr_write(0x83f, 0x30, &mut clock), Err(GeneralProtection));
}

#[test]
fn ipis() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x310, 0x0200_0000);
    let Effect::Send(message) = write(&mut lapic, &mut clock, 0x300, 0x5041) else {
        panic!("no IPI")
    };
    assert_eq!((message.destination, message.vector), (Destination::Id(2), 0x41));
    assert_eq!(read(&lapic, &clock, 0x300), 0x4041, "never busy");

    let (mut lapic, mut clock) = enabled_x2apic(0);
    let icr = 0x1_0003_0000_4842;
    let Ok(Effect::Send(message)) = lapic.msr_write(0x830, icr, &mut clock) else {
        panic!("no IPI")
    };
    assert_eq!(message.destination, Destination::Id(0x1_0003));
    assert_eq!(message.destination_mode, DestinationMode::Logical);
    assert_eq!(lapic.msr_read(0x830, &clock), Ok(icr));
    for reserved in [1 << 13, 1 << 16, 1 << 17, 1 << 20, 1 << 31] {
        assert_eq!(
            lapic.msr_write(0x830, reserved, &mut clock),
            Err(GeneralProtection)
        );
    }
    let Ok(Effect::Send(message)) = lapic.msr_write(0x83f, 0x55, &mut clock) else {
        panic!("no IPI")
    };
    assert_eq!((message.destination, message.vector), (Destination::Itself, 0x55));
    assert_eq!(message.delivery_mode, DeliveryMode::Fixed);
}

#[test]
fn acceptance_by_delivery_mode() {
    let (mut lapic, _) = enabled(0);
    let mut take = |icr| lapic.accept(&ApicMessage::from_icr(icr, 0));
    assert_eq!(take(0x4030), Acceptance::Requested);
    assert_eq!(take(0x8030), Acceptance::Discarded, "level-triggered deassert");
    assert_eq!(take(0x4200), Acceptance::Smi);
    assert_eq!(take(0x4300), Acceptance::Unhalt);
    assert_eq!(take(0x4400), Acceptance::Nmi);
    assert_eq!(take(0xc500), Acceptance::Init);
    assert_eq!(take(0x8500), Acceptance::Discarded, "INIT level de-assert");
    assert_eq!(take(0x4699), Acceptance::Startup(0x99));
    assert_eq!(take(0x4700), Acceptance::Discarded);
}

#[test]
fn software_disable_masks_the_lvt_and_refuses_vectors() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x370, 0xfe);
    assert_eq!(lapic.deliver_local(LocalSource::Error), Acceptance::Requested);
    set(&mut lapic, &mut clock, 0xf0, 0xff);
    assert_eq!(read(&lapic, &clock, 0x370), 0x1_00fe);
    set(&mut lapic, &mut clock, 0x370, 0xfe);
    assert_eq!(read(&lapic, &clock, 0x370), 0x1_00fe, "cannot be unmasked");
    assert_eq!(
        lapic.accept(&fixed(0x30, TriggerMode::Edge)),
        Acceptance::Discarded
    );
    assert_eq!(
        lapic.accept(&ApicMessage::from_icr(0x4400, 0)),
        Acceptance::Nmi,
        "NMI still passes"
    );
}

#[test]
fn performance_entry_masks_itself() {
    let (mut lapic, mut clock) = enabled(0);
    lapic.set_features(features() | Features::PERFORMANCE_MASKS_ITSELF);
    set(&mut lapic, &mut clock, 0x340, 0x400);
    assert_eq!(lapic.deliver_local(LocalSource::Performance), Acceptance::Nmi);
    assert_eq!(read(&lapic, &clock, 0x340), 0x1_0400);
    assert_eq!(
        lapic.deliver_local(LocalSource::Performance),
        Acceptance::Discarded
    );
}

#[test]
fn lint0_modes() {
    let (mut lapic, mut clock) = enabled(0);
    set(&mut lapic, &mut clock, 0x350, 0x400);
    assert!(lapic.lint0_is_nmi() && !lapic.accepts_extint());
    assert_eq!(lapic.deliver_local(LocalSource::Lint0), Acceptance::Nmi);
    set(&mut lapic, &mut clock, 0x350, 0x700);
    assert!(lapic.accepts_extint());
    set(&mut lapic, &mut clock, 0x350, 0x1_0700);
    assert!(!lapic.accepts_extint());
    assert_eq!(lapic.set_base(BASE, 0, Writer::Guest), Ok(()));
    assert!(lapic.accepts_extint(), "a disabled APIC is transparent");
}
