//! Whose turn it is to run: processors stop for the debugger, and go on when and how it says.
//!
//! A processor's thread asks before it runs the guest, and after every KVM_RUN that was interrupted or ended at something for the
//! debugger. To stop one that runs, its next KVM_RUN is told to return at once, and its thread gets a signal, as every VMM
//! does it: that completes the answer to its last exit, so that registers are those between two instructions. While all are
//! stopped, their state belongs to the debugger.

use super::Event;
use super::points::{Meaning, Points};
use super::target::tid;
use anyhow::{Context, Result};
use gdbstub::common::Signal;
use gdbstub::stub::MultiThreadStopReason;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal;
use ring3_client::{Errno, Vcpu};
use ring3_uapi::x86::{
    KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_USE_HW_BP,
    KVM_GUESTDBG_USE_SW_BP, KvmDebugExitArch, KvmGuestDebug, KvmGuestDebugArch,
};
use ring3_uapi::{KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_SINGLESTEP};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What interrupts KVM_RUN.
const KICK: signal::Signal = signal::Signal::SIGUSR1;
/// When a processor that has not stopped is kicked again: the signal may have come just before its KVM_RUN.
const PATIENCE: Duration = Duration::from_millis(10);

/// What a processor does when the guest is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Run,
    /// One instruction.
    Step,
    Stay,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    Running,
}

struct State {
    phase: Phase,
    /// How often the guest was resumed.
    round: u64,
    turns: Vec<Turn>,
    /// Processors that wait, or are gone.
    parked: Vec<bool>,
    threads: Vec<Option<Pthread>>,
    points: Points,
}

/// The processors of a machine that is debugged.
pub struct Turns {
    vcpus: Vec<Arc<Vcpu>>,
    state: Mutex<State>,
    changed: Condvar,
    events: Sender<Event>,
}

/// A processor's place among them.
pub struct Place {
    pub turns: Arc<Turns>,
    pub index: usize,
}

/// Installs the handler of the signal that interrupts KVM_RUN: before there is a vCPU.
pub fn prepare() -> Result<()> {
    signal_hook::flag::register(KICK as i32, Arc::new(AtomicBool::new(false)))
        .map(drop)
        .context("gdb: handling the signal that stops processors")
}

impl Turns {
    /// All of them wait for the debugger.
    pub fn new(vcpus: Vec<Arc<Vcpu>>, events: Sender<Event>) -> Turns {
        let count = vcpus.len();
        Turns {
            vcpus,
            state: Mutex::new(State {
                phase: Phase::Stopped,
                round: 0,
                turns: vec![Turn::Run; count],
                parked: vec![false; count],
                threads: vec![None; count],
                points: Points::default(),
            }),
            changed: Condvar::new(),
            events,
        }
    }

    pub fn vcpus(&self) -> &[Arc<Vcpu>] {
        &self.vcpus
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breakpoints, for the debugger while the guest is stopped.
    pub fn with_points<R>(&self, work: impl FnOnce(&mut Points) -> R) -> R {
        work(&mut self.state().points)
    }

    pub fn round(&self) -> u64 {
        self.state().round
    }

    /// Stops all processors; returns when they are.
    pub fn stop(&self) {
        let mut state = self.state();
        state.phase = Phase::Stopped;
        self.vcpus.iter().for_each(|vcpu| vcpu.set_immediate_exit(1));
        while !state.parked.iter().all(|parked| *parked) {
            for (thread, _) in state
                .threads
                .iter()
                .zip(&state.parked)
                .filter(|(_, parked)| !**parked)
            {
                if let Some(thread) = thread {
                    let _ = pthread_kill(*thread, KICK);
                }
            }
            let waited = self.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.vcpus.iter().for_each(|vcpu| vcpu.set_immediate_exit(0));
    }

    /// Has processors go on, each as its turn says; all were stopped.
    pub fn resume(&self, turns: &[Turn]) -> Result<()> {
        let mut state = self.state();
        for (vcpu, turn) in self.vcpus.iter().zip(turns) {
            arm(vcpu, &state.points, *turn, 0).context("KVM_SET_GUEST_DEBUG")?;
        }
        state.turns.copy_from_slice(turns);
        state.round += 1;
        state.phase = Phase::Running;
        self.changed.notify_all();
        Ok(())
    }
}

impl Place {
    /// Waits for the processor's turn. By its thread.
    pub fn wait(&self) {
        let mut state = self.turns.state();
        state.threads[self.index] = Some(pthread_self());
        while state.phase == Phase::Stopped || state.turns[self.index] == Turn::Stay {
            state.parked[self.index] = true;
            self.turns.changed.notify_all();
            let waited = self.turns.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.parked[self.index] = false;
    }

    /// The processor came to a KVM_EXIT_DEBUG: the debugger's, who is told, or the guest's own, who gets it.
    pub fn hit(&self, exit: &KvmDebugExitArch) -> Result<()> {
        let vcpu = &self.turns.vcpus[self.index];
        let mut state = self.turns.state();
        let turn = state.turns[self.index];
        let inject = match state.points.meaning(exit, turn) {
            Meaning::Break(stop) => {
                let reason = stop.reason(tid(self.index));
                let round = state.round;
                state.turns[self.index] = Turn::Stay;
                drop(state);
                // Whoever would listen is gone only when the process ends.
                let _ = self.turns.events.send(Event::Stopped { round, reason });
                self.wait();
                return Ok(());
            }
            Meaning::GuestsBreakpoint => KVM_GUESTDBG_INJECT_BP,
            Meaning::GuestsDebugException => KVM_GUESTDBG_INJECT_DB,
        };
        arm(vcpu, &state.points, turn, inject).context("KVM_SET_GUEST_DEBUG")
    }

    /// The processor will not run any more.
    pub fn leave(&self) {
        self.turns.state().parked[self.index] = true;
        self.turns.changed.notify_all();
    }
}

/// Tells KVM what to stop for.
fn arm(vcpu: &Vcpu, points: &Points, turn: Turn, inject: u32) -> Result<(), Errno> {
    let mut control = inject;
    if points.any_software() {
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
    }
    if points.any_hardware() {
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    }
    if turn == Turn::Step {
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    }
    let set = |more| {
        vcpu.set_guest_debug(&KvmGuestDebug {
            control: control | more,
            pad: 0,
            arch: KvmGuestDebugArch {
                debugreg: points.debug_registers(),
            },
        })
    };
    // A step shall not end in an interrupt's handler; older KVMs cannot help it.
    match turn {
        Turn::Step => set(KVM_GUESTDBG_BLOCKIRQ).or_else(|_| set(0)),
        Turn::Run | Turn::Stay => set(0),
    }
}

/// Why a processor stopped for the debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Software,
    Hardware,
    Watch {
        kind: gdbstub::target::ext::breakpoints::WatchKind,
        addr: u64,
    },
    Stepped,
}

impl Stop {
    fn reason(self, tid: gdbstub::common::Tid) -> MultiThreadStopReason<u64> {
        match self {
            Stop::Software => MultiThreadStopReason::SwBreak(tid),
            Stop::Hardware => MultiThreadStopReason::HwBreak(tid),
            Stop::Watch { kind, addr } => MultiThreadStopReason::Watch { tid, kind, addr },
            Stop::Stepped => MultiThreadStopReason::SignalWithThread {
                tid,
                signal: Signal::SIGTRAP,
            },
        }
    }
}
