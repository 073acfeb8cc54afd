//! Tests of the assembled chips: a VM of two vCPUs with the default routes.

use super::*;
use crate::lapic::{
    Acceptance, ApicMessage, BroadcastRule, Effect, Features, Lapic, LapicView, LocalSource, Role,
    for_each_target,
};
use crate::pit::ReinjectMode;
use crate::ports::{Delivery, IrqSource, Level, LineStatus, Monotonic, TimerPort, TscTimerPort};
use ring3_host::event::EventLoop;
use ring3_uapi::x86::KvmIrqchip;
use std::sync::{Arc, Mutex, OnceLock};

/// A timer that is never armed.
struct NoTimer;

impl TimerPort for NoTimer {
    fn now(&self) -> Monotonic {
        Monotonic(0)
    }
    fn arm(&mut self, _: Monotonic) {}
    fn disarm(&mut self) {}
}

impl TscTimerPort for NoTimer {
    fn ns_until_tsc(&self, _: u64) -> Option<u64> {
        None
    }
}

#[derive(Default)]
struct Apics {
    lapics: Mutex<Vec<Lapic>>,
    woken: Mutex<Vec<usize>>,
    nmis: Mutex<Vec<usize>>,
}

impl LocalApics for Apics {
    fn send(&self, message: &ApicMessage, accepted: &mut dyn FnMut(usize)) -> Delivery {
        let mut lapics = self.lapics.lock().unwrap();
        let views: Vec<LapicView> = lapics.iter().map(Lapic::view).collect();
        let mut count = 0;
        let any = for_each_target(
            message,
            None,
            views.len(),
            |i| views[i],
            self.broadcast_rule(),
            |vcpu| {
                if lapics[vcpu].accept(message) != Acceptance::Discarded {
                    accepted(vcpu);
                    count += 1;
                }
            },
        );
        if any {
            Delivery::Accepted(count)
        } else {
            Delivery::NoTarget
        }
    }

    fn each(&self, visit: &mut dyn FnMut(usize, &mut Lapic)) {
        let mut lapics = self.lapics.lock().unwrap();
        lapics
            .iter_mut()
            .enumerate()
            .for_each(|(vcpu, lapic)| visit(vcpu, lapic));
    }

    fn wake(&self, vcpu: usize) {
        self.woken.lock().unwrap().push(vcpu);
    }

    fn fire(&self, vcpu: usize, source: LocalSource) {
        if self.lapics.lock().unwrap()[vcpu].deliver_local(source) == Acceptance::Nmi {
            self.nmis.lock().unwrap().push(vcpu);
        }
    }

    fn broadcast_rule(&self) -> BroadcastRule {
        BroadcastRule::Quirk
    }
}

#[derive(Default)]
struct Routes {
    chips: OnceLock<Arc<Chips>>,
    listeners: Mutex<Vec<(u64, u32, OnAcknowledge)>>,
}

impl Gsis for Routes {
    fn gsi_of(&self, pin: ChipPin) -> Option<u32> {
        default_routes().find(|route| route.1 == pin).map(|route| route.0)
    }

    fn drive(&self, gsi: u32, source: IrqSource, level: Level) -> LineStatus {
        let chips = self.chips.get().expect("chips");
        let pins = default_routes().filter(|route| route.0 == gsi);
        let each = pins.map(|(_, pin)| chips.set_pin(pin, source, level));
        each.fold(LineStatus::Ignored, LineStatus::merge)
    }

    fn acknowledged(&self, gsi: u32) {
        let calls: Vec<_> = self
            .listeners
            .lock()
            .unwrap()
            .iter()
            .filter(|l| l.1 == gsi)
            .map(|l| l.2.clone())
            .collect();
        calls.iter().for_each(|call| call());
    }

    fn is_listened_to(&self, gsi: u32) -> bool {
        self.listeners.lock().unwrap().iter().any(|l| l.1 == gsi)
    }

    fn listen(&self, gsi: u32, call: OnAcknowledge) -> u64 {
        let mut listeners = self.listeners.lock().unwrap();
        let id = listeners.len() as u64;
        listeners.push((id, gsi, call));
        id
    }

    fn unlisten(&self, listener: u64) {
        self.listeners.lock().unwrap().retain(|l| l.0 != listener);
    }
}

struct Machine {
    apics: Arc<Apics>,
    routes: Arc<Routes>,
    chips: Arc<Chips>,
    events: EventLoop,
}

const BASE: u64 = 0xfee0_0000;

impl Machine {
    fn new() -> Machine {
        let features = Features::LINT0_REENABLED;
        let lapics = vec![
            Lapic::new(0, Role::Boot, features),
            Lapic::new(1, Role::Application, features),
        ];
        let apics = Arc::new(Apics {
            lapics: Mutex::new(lapics),
            ..Apics::default()
        });
        let routes = Arc::new(Routes::default());
        let events = EventLoop::new();
        let chips = Chips::new(apics.clone(), routes.clone(), &events).expect("chips");
        assert!(routes.chips.set(chips.clone()).is_ok());
        let machine = Machine {
            apics,
            routes,
            chips,
            events,
        };
        machine.apic_write(0, 0xf0, 0x1ff);
        machine.apic_write(1, 0xf0, 0x1ff);
        machine
    }

    fn apic_write(&self, vcpu: usize, offset: u64, value: u32) {
        let effect = {
            let mut lapics = self.apics.lapics.lock().unwrap();
            lapics[vcpu].mmio_write(BASE + offset, &value.to_le_bytes(), &mut NoTimer)
        };
        if let Effect::EndOfInterrupt(eoi) = effect {
            self.chips.end_of_interrupt(vcpu, &eoi);
        }
    }

    fn take(&self, vcpu: usize) -> Option<u8> {
        self.apics.lapics.lock().unwrap()[vcpu].acknowledge()
    }

    fn out(&self, bytes: &[(u16, u8)]) {
        for &(port, value) in bytes {
            assert!(self.chips.port_write(port, &[value]));
        }
    }

    fn ready_pic(&self) {
        self.out(&[(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0x21, 0)]);
        self.out(&[(0xa0, 0x11), (0xa1, 0x38), (0xa1, 2), (0xa1, 1), (0xa1, 0)]);
    }

    fn redirect(&self, pin: u32, entry: u64) {
        for (register, value) in [(0x11, entry >> 32), (0x10, entry)] {
            self.chips.mmio_write(0, &[register + 2 * pin as u8]);
            self.chips.mmio_write(0x10, &(value as u32).to_le_bytes());
        }
    }

    fn set(&self, gsi: u32, level: Level) -> i32 {
        self.routes.drive(gsi, IrqSource::Client, level).code()
    }
}

#[test]
fn default_routes_name_every_pin() {
    let routes: Vec<_> = default_routes().collect();
    assert_eq!(routes.len(), 40);
    for (gsi, pin) in routes {
        let (chip, number) = pin.route();
        assert_eq!(ChipPin::from_route(chip, number), Some(pin));
        assert_eq!(gsi, if chip == 1 { number + 8 } else { number });
    }
    assert_eq!(
        (
            ChipPin::from_route(0, 8),
            ChipPin::from_route(2, 24),
            ChipPin::from_route(3, 0)
        ),
        (None, None, None)
    );
}

#[test]
fn the_pic_interrupts_the_boot_processor() {
    let machine = Machine::new();
    machine.ready_pic();
    assert_eq!(machine.set(4, Level::High), 1);
    assert!(machine.chips.output());
    assert_eq!(*machine.apics.woken.lock().unwrap(), [0]);
    assert_eq!(machine.chips.acknowledge(), 0x34);
    assert!(!machine.chips.output());
    machine.out(&[(0x20, 0x20)]);
    let mut wide = [0xff; 2];
    assert!(machine.chips.port_read(0x20, &mut wide) && wide == [0, 0]);
    assert!(!machine.chips.port_read(0x22, &mut wide[..1]));
}

#[test]
fn both_chips_answer_for_a_gsi() {
    let machine = Machine::new();
    machine.ready_pic();
    machine.redirect(4, 0x44);
    assert_eq!(machine.set(4, Level::High), 2);
    assert_eq!(machine.take(0), Some(0x44));
    machine.out(&[(0x21, 0xff)]);
    machine.set(4, Level::Low);
    assert_eq!(machine.set(4, Level::High), 1);
}

#[test]
fn a_level_interrupt_ends_with_its_listener_lowering_the_line() {
    let machine = Machine::new();
    machine.redirect(10, 1 << 56 | 0x805a);
    let routes = Arc::downgrade(&machine.routes);
    machine.routes.listen(
        10,
        Arc::new(move || {
            routes
                .upgrade()
                .expect("routes")
                .drive(10, IrqSource::Resample, Level::Low);
        }),
    );
    machine.routes.drive(10, IrqSource::Resample, Level::High);
    assert_eq!((machine.take(0), machine.take(1)), (None, Some(0x5a)));
    machine.apic_write(1, 0xb0, 0);
    assert_eq!(machine.take(1), None, "lowered before it was looked at again");
    machine.routes.drive(10, IrqSource::Resample, Level::High);
    assert_eq!(machine.take(1), Some(0x5a));
}

#[test]
fn eois_follow_the_redirection_table_and_the_ids() {
    let machine = Machine::new();
    machine.redirect(10, 2 << 56 | 0x885a);
    machine.apic_write(1, 0xd0, 2 << 24);
    machine.chips.refresh_eoi_vectors();
    machine.set(10, Level::High);
    assert_eq!(machine.take(1), Some(0x5a));
    machine.apic_write(1, 0xb0, 0);
    assert_eq!(machine.take(1), Some(0x5a), "still asserted");
    machine.set(10, Level::Low);
    machine.apic_write(1, 0xb0, 0);
    assert_eq!(machine.take(1), None);
}

#[test]
fn chip_states() {
    let machine = Machine::new();
    machine.ready_pic();
    machine.set(12, Level::High);
    machine.redirect(3, 0x8043);
    let other = Machine::new();
    for chip_id in 0..3 {
        let mut state = KvmIrqchip {
            chip_id,
            ..KvmIrqchip::default()
        };
        assert_eq!(machine.chips.get_state(&mut state), Ok(()));
        assert_eq!(other.chips.set_state(&state), Ok(()));
        let mut again = KvmIrqchip {
            chip_id,
            ..KvmIrqchip::default()
        };
        assert_eq!(other.chips.get_state(&mut again), Ok(()));
        assert_eq!(again, state);
    }
    assert!(other.chips.output());
    assert_eq!(other.chips.acknowledge(), 0x3c);
    let mut none = KvmIrqchip {
        chip_id: 3,
        ..KvmIrqchip::default()
    };
    assert_eq!(other.chips.get_state(&mut none), Err(UnknownChip));
    assert_eq!(other.chips.set_state(&none), Err(UnknownChip));
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("timed out: {what}");
}

fn start_pit(pit: &PitTimer) {
    for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
        assert!(pit.port_write(port, &[value]));
    }
}

#[test]
fn the_timer_ticks_and_waits_for_acknowledgements() {
    let machine = Machine::new();
    machine.ready_pic();
    machine.out(&[(0x21, 0xff)]);
    machine.redirect(0, 0x30);
    let pit = PitTimer::new(&machine.chips, Speaker::Absent, &machine.events).expect("a PIT");
    assert!(machine.routes.is_listened_to(0));
    start_pit(&pit);
    for tick in 0..3 {
        wait("a tick", || machine.take(0) == Some(0x30));
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert_eq!(
            machine.apics.lapics.lock().unwrap()[0].highest_request(),
            None,
            "tick {tick} is not ended"
        );
        machine.apic_write(0, 0xb0, 0);
    }
    assert_eq!(machine.take(0), Some(0x30), "reinjected at the EOI");
    pit.set_reinject(ReinjectMode::Discard);
    assert!(!machine.routes.is_listened_to(0));
    pit.close();
}

#[test]
fn the_timer_is_a_watchdog_through_lint0() {
    let machine = Machine::new();
    machine.apic_write(1, 0x350, 0x400);
    let pit = PitTimer::new(&machine.chips, Speaker::Dummy, &machine.events).expect("a PIT");
    start_pit(&pit);
    wait("an NMI", || !machine.apics.nmis.lock().unwrap().is_empty());
    assert_eq!(machine.apics.nmis.lock().unwrap()[0], 1);
    let mut byte = [0];
    assert!(pit.port_read(0x61, &mut byte) && !pit.port_read(0x62, &mut byte));
    drop(pit);
    assert!(!machine.routes.is_listened_to(0));
}
