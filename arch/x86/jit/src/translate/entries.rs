//! The ways into a translation, its looks at the kick word, and the loop that it may be.

use super::exits::Slow;
use super::operand::touches_memory;
use super::{Emitted, Entries, Loop, Translator, Vector, Wants};
use crate::context::KICK;
use crate::emit::{Emitter, Forward, NE, R14, R15, RCX};
use crate::flags::Use;
use crate::stubs;
use crate::trace::Trace;
use iced_x86::FlowControl;

/// The place where a trace needs flags first.
pub(super) fn wants(trace: &Trace) -> Wants {
    for step in &trace.steps {
        let memory = touches_memory(&step.instr) || step.instr.flow_control() == FlowControl::IndirectBranch;
        match Use::of(&step.instr) {
            Use::Needs => return Wants::Host,
            _ if memory => return Wants::Aside,
            Use::Writes => return Wants::Any,
            Use::None => {}
        }
    }
    Wants::Host
}

impl Translator<'_> {
    /// The ways in, and the jumps of those that found a kick: with flags in the host's, and aside.
    pub(super) fn write_entries(&mut self, wants: Wants) -> (Entries, [Vec<Forward>; 2]) {
        let mut kicked = [Vec::new(), Vec::new()];
        let at = |e: &Emitter| e.address(e.here());
        let entries = match wants {
            Wants::Aside => {
                let host = at(&self.e);
                stubs::save_flags(&mut self.e);
                let checked_aside = at(&self.e);
                kicked[1].push(self.check_kick());
                let aside = at(&self.e);
                Entries {
                    wants,
                    host,
                    aside,
                    checked_host: host,
                    checked_aside,
                }
            }
            Wants::Host => {
                let checked_aside = at(&self.e);
                kicked[1].push(self.check_kick());
                let aside = at(&self.e);
                stubs::restore_flags(&mut self.e);
                let over = self.e.jump();
                let checked_host = at(&self.e);
                kicked[0].push(self.check_kick_with_flags());
                self.e.bind(over);
                Entries {
                    wants,
                    host: at(&self.e),
                    aside,
                    checked_host,
                    checked_aside,
                }
            }
            Wants::Any => {
                let checked_host = at(&self.e);
                kicked[0].push(self.check_kick_with_flags());
                let over = self.e.jump();
                let checked_aside = at(&self.e);
                kicked[1].push(self.check_kick());
                self.e.bind(over);
                Entries {
                    wants,
                    host: at(&self.e),
                    aside: at(&self.e),
                    checked_host,
                    checked_aside,
                }
            }
        };
        (entries, kicked)
    }

    /// Jumps if the kick word is not zero; changes flags.
    pub(super) fn check_kick(&mut self) -> Forward {
        self.e.load(R14, KICK);
        // cmp dword ptr [r14], 0
        self.e.raw(&[0x41, 0x83, 0x3e, 0]);
        self.e.jump_if(NE)
    }

    /// The same, but flags stay.
    fn check_kick_with_flags(&mut self) -> Forward {
        let e = &mut self.e;
        e.mov(R15, RCX);
        e.load(R14, KICK);
        // mov ecx, [r14]
        e.raw(&[0x41, 0x8b, 0x0e]);
        let calm = e.jump_if_rcx_zero();
        e.mov(RCX, R15);
        let kicked = e.jump();
        e.bind_short(calm);
        e.mov(RCX, R15);
        kicked
    }

    /// Begins the second copy of a loop: what is true here will be true in every round.
    pub(super) fn begin_loop(&mut self) -> Emitted {
        self.settle_stack();
        self.clobber()?;
        if self.flags.aside {
            self.flags.maker = None;
        }
        self.lose_r15();
        let at = self.e.here();
        let kicked = self.check_kick();
        self.slow
            .push(Slow::kicked(kicked, self.flags, self.source.linear));
        self.again = Some(Loop {
            at,
            flags: self.flags,
            vector: self.vector,
            x87: self.x87,
        });
        Ok(())
    }

    /// Whether the instruction is the loop's last, and all is as it is where the second copy begins.
    pub(super) fn closes_loop(&self, n: usize) -> bool {
        let trace = self.source.trace;
        self.again.is_some_and(|again| {
            n + 1 == trace.steps.len()
                && (self.flags.aside || !again.flags.aside)
                && (self.flags.maker == again.flags.maker || again.flags.aside)
                && (self.vector == Vector::InRegisters || again.vector == Vector::Anywhere)
        })
    }

    /// Back to where the second copy begins, with what is true there.
    pub(super) fn end_loop(&mut self) -> Emitted {
        let Some(again) = self.again else {
            // A conditional jump did.
            return Ok(());
        };
        if again.flags.aside {
            self.need_aside()?;
        }
        let other_maker = again.flags.maker != self.flags.maker && !again.flags.aside;
        if other_maker || again.x87 == Vector::InRegisters && self.x87 != again.x87 {
            return self.go(self.source.linear, true);
        }
        if again.vector == Vector::InRegisters {
            self.need_vector();
        }
        self.e.jump_to(again.at);
        Ok(())
    }
}
