//! Two processors in lockstep: the translator leads, the interpreter follows, instruction by instruction, to where the
//! other stopped, and both must be the same there.
//!
//! Each has a world of its own, which must be deterministic: the same sequence of requests gets the same answers.
//! [`Lockstep::advance`] has the leader go to one of its boundaries and the follower after it; what the world does by itself
//! (time, interrupts) is done to both in between. [`follow`] is how the follower finds the place, [`flags`] forgives what the
//! architecture leaves undefined, [`kernel`] and [`program`] make random guests.

pub mod board;
pub mod flags;
pub mod follow;
pub mod kernel;
pub mod program;

use crate::bare::snapshot::{self, register_differences, vector_differences};
use follow::{Arrival, Follower};
use iced_x86::{Decoder, DecoderOptions};
use ring3_x86_cpu::block::Blocks;
use ring3_x86_cpu::{Core, Cpu, Ended, Leave, Tier, World};
use ring3_x86_jit::Jit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::thread::JoinHandle;
use std::time::Duration;

/// How far the leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// To the first place where translations look at the kick word.
    Short,
    /// To where translations end, or where the kick word was set.
    Long,
}

/// A thread that sets a kick word every now and then, so that no stay of the leader's is endless.
pub struct Metronome {
    word: Arc<AtomicU32>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Metronome {
    pub fn new(interval: Duration) -> Metronome {
        let (word, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (theirs, stop) = (Arc::clone(&word), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                std::thread::sleep(interval);
                theirs.store(1, Release);
            }
        });
        Metronome {
            word,
            done,
            thread: Some(thread),
        }
    }

    pub fn word(&self) -> &AtomicU32 {
        &self.word
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the leader came to; the follower has come to the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Boundary,
    Left(Leave),
}

/// A world whose like another processor has.
pub trait Twin: World {
    /// Whether both have come equally far, as far as that is quickly told: code may come by a place twice with nothing
    /// changed but memory.
    fn alike(&self, leaders: &Self) -> bool;

    /// Whether the processor is to ask again where it writes, as it sets out.
    fn wants_writes_told(&mut self) -> bool {
        false
    }

    /// What is not alike, for a failure's account.
    fn differences(&self, leaders: &Self) -> Vec<String>;
}

pub struct Lockstep<W> {
    pub leader: Cpu,
    pub leaders_world: W,
    jit: Box<Jit>,
    pub follower: Follower<W>,
    /// Boundaries at which both were compared.
    pub boundaries: u64,
}

/// The translator, once: then the run loop is left, whatever it was that happened.
struct Once<'a> {
    jit: &'a mut Jit,
    pace: Pace,
}

impl Tier for Once<'_> {
    fn enter(
        &mut self,
        core: &mut Core,
        blocks: &mut Blocks,
        block: u32,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Option<Ended> {
        let hurry = AtomicU32::new(1);
        let word = match self.pace {
            Pace::Short => &hurry,
            Pace::Long => kick,
        };
        let ended = self.jit.enter(core, blocks, block, world, word);
        kick.store(1, Release);
        ended
    }
}

/// Whether a repeated string instruction is to be executed, perhaps the rest of it. In which pieces that is done depends on
/// which code in the pages it writes was translated, and is nobody else's affair.
fn is_repeated(cpu: &Cpu, world: &mut impl World) -> bool {
    let code = follow::instruction(cpu, world);
    let instr = Decoder::new(64, &code, DecoderOptions::NONE).decode();
    instr.is_string_instruction() && (instr.has_rep_prefix() || instr.has_repne_prefix())
}

impl<W: Twin> Lockstep<W> {
    /// `prepare` makes a processor and its world, the same each time; `None` where the translator is not to be had.
    pub fn new(prepare: impl Fn() -> (Cpu, W)) -> Option<Lockstep<W>> {
        let jit = Box::new(Jit::eager()?);
        let (leader, leaders_world) = prepare();
        let (cpu, world) = prepare();
        Some(Lockstep {
            leader,
            leaders_world,
            jit,
            follower: Follower::new(cpu, world),
            boundaries: 0,
        })
    }

    /// Instructions that both executed, as the interpreter counts them.
    pub fn instructions(&self) -> u64 {
        self.follower.cpu.core.instructions
    }

    /// Has the leader go on to its next boundary, which `kick` may bring nearer, and the follower to the same place. Says
    /// what was not alike there.
    pub fn advance(&mut self, pace: Pace, kick: &AtomicU32) -> Result<Stage, String> {
        kick.store(0, Release);
        if self.leaders_world.wants_writes_told() {
            self.leader.core.mmu.protect_all();
        }
        let mut tier = Once {
            jit: &mut self.jit,
            pace,
        };
        let stage = loop {
            match self.leader.run_with(&mut tier, &mut self.leaders_world, kick) {
                Leave::Kicked if is_repeated(&self.leader, &mut self.leaders_world) => {
                    kick.store(0, Release);
                }
                Leave::Kicked => break Stage::Boundary,
                other => break Stage::Left(other),
            }
        };
        let arrival = self
            .follower
            .follow(&self.leader.core.state, &self.leaders_world, stage);
        self.boundaries += 1;
        match arrival {
            Arrival::There => self.compare().map(|()| stage),
            Arrival::Elsewhere(found) => Err(self.lost(&format!("{found:?}"), stage)),
            Arrival::Never => Err(self.lost("no such place", stage)),
        }
    }

    /// Memory was not alike though everything else was: the place may have been passed before. Has the follower look for it
    /// further on, until `alike` says that it is the leader's.
    pub fn search_on(&mut self, alike: impl Fn(&W, &W) -> bool) -> bool {
        const TRIES: usize = 600;
        (0..TRIES).any(|_| {
            self.follower.step();
            let arrival = self
                .follower
                .follow(&self.leader.core.state, &self.leaders_world, Stage::Boundary);
            let there = matches!(arrival, Arrival::There) && self.compare().is_ok();
            there && alike(&self.leaders_world, &self.follower.world)
        })
    }

    fn lost(&self, found: &str, stage: Stage) -> String {
        let near = match &self.follower.near_miss {
            Some(differences) => format!("where RIP was the same: {differences}; in the end: "),
            None => String::new(),
        };
        format!(
            "the leader came to {stage:?}, the follower to {found}; {near}{}",
            self.state_differences().join("; ")
        )
    }

    /// What is not alike in the registers, from the leader's point of view.
    fn state_differences(&self) -> Vec<String> {
        let (leader, follower) = (&self.leader.core.state, &self.follower.cpu.core.state);
        let mut told = register_differences(&snapshot::registers(leader), &snapshot::registers(follower));
        if leader.interruptibility != follower.interruptibility {
            told.push(format!(
                "interrupts: {:?}, not {:?}",
                leader.interruptibility, follower.interruptibility
            ));
        }
        told.extend(vector_differences(&leader.vector, &follower.vector));
        told
    }

    fn compare(&mut self) -> Result<(), String> {
        let told = self.state_differences();
        if told.is_empty() {
            return Ok(());
        }
        Err(told.join("; "))
    }
}
