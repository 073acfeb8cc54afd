//! The PIT of a VM, with its host timer, its interrupt line, and the acknowledgements it counts.

use super::{Chips, OnAcknowledge};
use crate::lapic::LocalSource;
use crate::locks;
use crate::pit::{self, Pit, Port, ReinjectMode, Tick};
use crate::ports::{IrqSource, Level, Monotonic, TimerPort};
use ring3_host::event::{EventLoop, Timer};
use ring3_host::lock::RankedMutex;
use ring3_host::time::monotonic_now;
use ring3_uapi::x86::{KvmPitState, KvmPitState2};
use std::io;
use std::sync::{Arc, OnceLock, Weak};

/// Whether the PIT answers port 61h too (KVM_PIT_SPEAKER_DUMMY).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speaker {
    Dummy,
    Absent,
}

struct HostTimer(Timer);

impl TimerPort for HostTimer {
    fn now(&self) -> Monotonic {
        monotonic_now()
    }

    fn arm(&mut self, deadline: Monotonic) {
        self.0.arm(deadline);
    }

    fn disarm(&mut self) {
        self.0.disarm();
    }
}

struct Inner {
    pit: Pit,
    timer: HostTimer,
    /// The number of our entry among the listeners, while ticks are reinjected.
    listener: Option<u64>,
}

/// The PIT.
pub struct PitTimer {
    inner: RankedMutex<Inner>,
    chips: Arc<Chips>,
    speaker: Speaker,
    /// What the listeners' list holds; it does not keep the PIT.
    on_acknowledge: OnAcknowledge,
}

impl PitTimer {
    pub fn new(chips: &Arc<Chips>, speaker: Speaker, events: &EventLoop) -> io::Result<Arc<PitTimer>> {
        let slot: Arc<OnceLock<Weak<PitTimer>>> = Arc::default();
        let [fired, acknowledged] = [Arc::clone(&slot), Arc::clone(&slot)];
        let timer = events.timer(Arc::new(move || {
            if let Some(pit) = fired.get().and_then(Weak::upgrade) {
                pit.with(|pit, timer| pit.timer_fired(timer));
            }
        }))?;
        let on_acknowledge: OnAcknowledge = Arc::new(move || {
            if let Some(pit) = acknowledged.get().and_then(Weak::upgrade) {
                pit.with(|pit, _| pit.acknowledged());
            }
        });
        let inner = Inner {
            pit: Pit::new(monotonic_now()),
            timer: HostTimer(timer),
            listener: None,
        };
        let pit = Arc::new(PitTimer {
            inner: RankedMutex::new(locks::IRQCHIP, inner),
            chips: Arc::clone(chips),
            speaker,
            on_acknowledge,
        });
        // Nobody else sets it.
        let _ = slot.set(Arc::downgrade(&pit));
        chips.attach(&pit);
        pit.follow_listening();
        Ok(pit)
    }

    /// Do something with the model, then pulse the line if it says so.
    fn with(&self, act: impl FnOnce(&mut Pit, &mut HostTimer) -> Tick) {
        let tick = {
            let inner = &mut *self.inner.lock();
            act(&mut inner.pit, &mut inner.timer)
        };
        if tick == Tick::Pulse {
            self.pulse();
        }
    }

    fn pulse(&self) {
        self.chips.gsis.drive(pit::GSI, IrqSource::Timer, Level::High);
        self.chips.gsis.drive(pit::GSI, IrqSource::Timer, Level::Low);
        self.kick_watchdogs();
    }

    /// A guest that set LINT0 to NMI uses the PIT as its watchdog: every vCPU gets the tick there.
    fn kick_watchdogs(&self) {
        let (mut vcpus, mut used) = (0, false);
        self.chips.apics.each(&mut |_, lapic| {
            vcpus += 1;
            used |= lapic.lint0_is_nmi();
        });
        if used {
            (0..vcpus).for_each(|vcpu| self.chips.apics.fire(vcpu, LocalSource::Lint0));
        }
    }

    pub(super) fn unmasked(&self) {
        self.inner.lock().pit.unmasked();
    }

    /// KVM_REINJECT_CONTROL.
    pub fn set_reinject(&self, mode: ReinjectMode) {
        self.inner.lock().pit.set_reinject(mode);
        self.follow_listening();
    }

    /// Listen for acknowledgements while they count.
    fn follow_listening(&self) {
        let mut inner = self.inner.lock();
        let gsis = &self.chips.gsis;
        match (inner.pit.wants_acknowledgements(), inner.listener) {
            (true, None) => inner.listener = Some(gsis.listen(pit::GSI, Arc::clone(&self.on_acknowledge))),
            (false, Some(listener)) => {
                gsis.unlisten(listener);
                inner.listener = None;
            }
            _ => return,
        }
        drop(inner);
        self.chips.refresh_eoi_vectors();
    }

    fn decode(&self, port: u16) -> Option<Port> {
        let port = Port::decode(port)?;
        (port != Port::Speaker || self.speaker == Speaker::Dummy).then_some(port)
    }

    /// A read of a port; false if it is not the PIT's.
    pub fn port_read(&self, port: u16, data: &mut [u8]) -> bool {
        let Some(port) = self.decode(port) else {
            return false;
        };
        data.fill(0);
        if let Some(byte) = data.first_mut() {
            *byte = self.inner.lock().pit.read(port, monotonic_now());
        }
        true
    }

    /// A write to a port; false if it is not the PIT's.
    pub fn port_write(&self, port: u16, data: &[u8]) -> bool {
        let Some(port) = self.decode(port) else {
            return false;
        };
        if let Some(&byte) = data.first() {
            let inner = &mut *self.inner.lock();
            inner.pit.write(port, byte, &mut inner.timer);
        }
        true
    }

    /// KVM_GET_PIT2.
    pub fn state2(&self) -> KvmPitState2 {
        self.inner.lock().pit.state2()
    }

    /// KVM_SET_PIT2.
    pub fn set_state2(&self, state: &KvmPitState2) {
        let inner = &mut *self.inner.lock();
        inner.pit.set_state2(state, &mut inner.timer);
    }

    /// KVM_GET_PIT.
    pub fn state(&self) -> KvmPitState {
        self.inner.lock().pit.state()
    }

    /// KVM_SET_PIT.
    pub fn set_state(&self, state: &KvmPitState) {
        let inner = &mut *self.inner.lock();
        inner.pit.set_state(state, &mut inner.timer);
    }

    /// The VM goes: stop ticking and listening.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.timer.disarm();
        if let Some(listener) = inner.listener.take() {
            self.chips.gsis.unlisten(listener);
        }
    }
}

impl Drop for PitTimer {
    fn drop(&mut self) {
        if let Some(listener) = self.inner.get_mut().listener.take() {
            self.chips.gsis.unlisten(listener);
        }
    }
}
