//! What executes a program: the interpreter, the translator at once, or the translator as it is used.

use ring3_x86_cpu::block::Blocks;
use ring3_x86_cpu::run::Interpreted;
use ring3_x86_cpu::{Core, Ended, Tier, World};
use ring3_x86_jit::Jit;
use std::sync::Once;
use std::sync::atomic::AtomicU32;

/// A tier chosen at run time.
pub enum AnyTier {
    Interpreter,
    /// Translates every block before it runs.
    Eager(Box<Jit>),
    /// Translates what is hot.
    Usual(Box<Jit>),
}

impl AnyTier {
    /// The interpreter first, since the others are compared with it.
    pub fn all() -> Vec<AnyTier> {
        let mut all = vec![AnyTier::Interpreter];
        match (Jit::eager(), Jit::new()) {
            (Some(eager), Some(usual)) => {
                all.push(AnyTier::Eager(Box::new(eager)));
                all.push(AnyTier::Usual(Box::new(usual)));
            }
            _ => tell_once(),
        }
        all
    }

    pub fn name(&self) -> &'static str {
        match self {
            AnyTier::Interpreter => "interpreter",
            AnyTier::Eager(_) => "eager translator",
            AnyTier::Usual(_) => "translator",
        }
    }
}

fn tell_once() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| eprintln!("skipped: the translator, which needs more of the host"));
}

impl Tier for AnyTier {
    fn enter(
        &mut self,
        core: &mut Core,
        blocks: &mut Blocks,
        block: u32,
        world: &mut dyn World,
        kick: &AtomicU32,
    ) -> Option<Ended> {
        match self {
            AnyTier::Interpreter => Interpreted.enter(core, blocks, block, world, kick),
            AnyTier::Eager(jit) | AnyTier::Usual(jit) => jit.enter(core, blocks, block, world, kick),
        }
    }
}
