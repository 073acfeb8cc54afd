//! Lookups: from a guest address to where it is in the host.

use super::{Emitted, NotHere, Spot, Touch, Translator};
use crate::context::{self, STACK_PAGE, STACK_TAG, STREAMS, home};
use crate::emit::{A, At, Forward, R13, R14, R15, Reg};
use crate::flags::Scratch;
use crate::stubs;
use ring3_x86_cpu::mmu::Entry;
use std::mem::offset_of;

/// A stack access that is not on the page looked up last.
pub(super) struct StackMiss {
    pub from: Forward,
    /// How far from RSP it is, and its size.
    pub displacement: i32,
    pub size: usize,
    pub back: At,
}

/// An access of a loop that is not on the page it was on last; R15 is how far from that page's tag.
pub(super) struct StreamMiss {
    pub from: Forward,
    pub number: usize,
    pub size: usize,
    pub tag: usize,
    pub back: At,
}

/// Where an access is off the stack pointer, if it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct OffStack(pub Option<i32>);

impl Translator<'_> {
    /// Brings an access within reach: by its group, or by a lookup of its own, for which `address` leaves its address
    /// in R15.
    pub(super) fn reach(
        &mut self,
        size: usize,
        touch: Touch,
        stack: OffStack,
        address: impl FnOnce(&mut Self) -> Emitted,
    ) -> Result<Spot, NotHere> {
        let Some(member) = self.member else {
            match stack.0 {
                Some(displacement) => self.look_up_stack(size, displacement)?,
                None => {
                    address(self)?;
                    let steady = self.is_steady();
                    self.look_up_steady(size, touch, steady)?;
                }
            }
            return Ok(Spot::Sum);
        };
        let slot = context::group(member.group);
        if self.in_r15 == Some(member.group) {
            // It is still there.
        } else if self.known[member.group] {
            self.e.load(R15, slot);
        } else {
            let group = self.groups[member.group];
            match member.base {
                4 => self.look_up_stack(group.span, member.from_base)?,
                base => {
                    let host = self.host_of(base.into());
                    let from = host.unwrap_or_else(|| {
                        self.e.load(R15, home(Reg(base)));
                        R15
                    });
                    self.e.lea(R15, from, member.from_base);
                    let steady = !self.wild[usize::from(base)];
                    self.look_up_steady(group.span, group.touch, steady)?;
                }
            }
            self.join();
            self.e.store(slot, R15);
            self.known[member.group] = true;
            self.leads = true;
        }
        self.in_r15 = Some(member.group);
        Ok(Spot::At(member.offset))
    }

    /// As `reach`, for eight bytes and with R14 free in any case; returns how far from R15 the access is.
    pub(super) fn reach_from_r15(
        &mut self,
        touch: Touch,
        stack: OffStack,
        address: impl FnOnce(&mut Self) -> Emitted,
    ) -> Result<i32, NotHere> {
        match self.reach(8, touch, stack, address)? {
            Spot::At(offset) => Ok(offset),
            Spot::Sum => {
                self.join();
                Ok(0)
            }
        }
    }

    /// Whether the address of the instruction's memory operand changes by a constant in every round of the loop.
    fn is_steady(&self) -> bool {
        let instr = &self.source.trace.steps[self.now].instr;
        [instr.memory_base(), instr.memory_index()]
            .into_iter()
            .filter(|register| register.is_gpr())
            .all(|register| !self.wild[register.full_register().number()])
            && !instr.is_stack_instruction()
            && matches!(self.source.trace.end, crate::trace::End::Loop(_))
    }

    /// As `look_up`; a steady access of a loop is most often on the page it was on the last time.
    fn look_up_steady(&mut self, size: usize, touch: Touch, steady: bool) -> Emitted {
        let kind = usize::from(touch == Touch::Write);
        let taken = self.streams[kind];
        if !steady || taken == STREAMS {
            return self.look_up(size, touch);
        }
        self.streams[kind] += 1;
        let number = kind * STREAMS + taken;
        let (tag_word, page_word) = context::stream(number);
        self.before_lookup()?;
        let e = &mut self.e;
        e.subtract_from(R15, tag_word);
        e.compare_constant(R15, 4096 - size as i32);
        let from = e.jump_if(A);
        e.load(R14, page_word);
        let back = e.here();
        let tag = match touch {
            Touch::Read => offset_of!(Entry, read),
            Touch::Write => offset_of!(Entry, write),
        };
        self.trouble.streams.push(StreamMiss {
            from,
            number,
            size,
            tag,
            back,
        });
        self.after_lookup()
    }

    /// Looks up the access of `size` bytes at the address in R15. Then R14 + R15 is where it is in the host.
    pub(super) fn look_up(&mut self, size: usize, touch: Touch) -> Emitted {
        let tag = match touch {
            Touch::Read => offset_of!(Entry, read),
            Touch::Write => offset_of!(Entry, write),
        };
        self.before_lookup()?;
        let e = &mut self.e;
        stubs::find_entry(e);
        // sub r15, [r14 + tag]
        e.raw(&[0x4d, 0x2b, 0x7e, tag as u8]);
        e.compare_constant(R15, 4096 - size as i32);
        let miss = e.jump_if(A);
        self.trouble.missed.push(miss);
        self.e.load_at(R14, R14, offset_of!(Entry, page) as i32);
        self.after_lookup()
    }

    /// The same for an access off RSP: its page is most often that of the last one.
    fn look_up_stack(&mut self, size: usize, displacement: i32) -> Emitted {
        self.before_lookup()?;
        let e = &mut self.e;
        e.lea(R15, R13, displacement);
        e.subtract_from(R15, STACK_TAG);
        e.compare_constant(R15, 4096 - size as i32);
        let from = e.jump_if(A);
        let back = e.here();
        self.trouble.stack.push(StackMiss {
            from,
            displacement,
            size,
            back,
        });
        self.e.load(R14, STACK_PAGE);
        self.after_lookup()
    }

    /// Flags out of the way; R14 is not free.
    pub(super) fn before_lookup(&mut self) -> Emitted {
        self.in_r15 = None;
        self.clobber()?;
        if self.trouble.flags.is_none() {
            self.trouble.flags = Some(self.flags);
        }
        Ok(())
    }

    fn after_lookup(&mut self) -> Emitted {
        if self.uses == crate::flags::Use::Needs {
            self.check_lost();
            self.flags.need_host(&mut self.e, Scratch::Taken)?;
        }
        Ok(())
    }
}
