//! Lookups: from a guest address to where it is in the host.

use super::{Emitted, NotHere, Spot, Touch, Translator};
use crate::context::{self, LastPage, STREAMS, home};
use crate::emit::{A, At, Forward, R13, R14, R15, Reg};
use crate::flags::Scratch;
use crate::groups::Member;
use crate::stubs;
use ring3_x86_cpu::mmu::Entry;
use std::mem::offset_of;

/// An access that is not on the page that was looked up last; R15 is how far from that page's tag.
pub(super) struct OtherPage {
    pub from: Forward,
    pub page: LastPage,
    pub size: usize,
    pub spot: Spot,
    pub back: At,
}

/// In R15 alone.
const JOINED: Spot = Spot::At(0);

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
        self.reach_as(Spot::Sum, size, touch, stack, address)
    }

    /// The same; `alone` is where it is to be if it has a lookup of its own.
    fn reach_as(
        &mut self,
        alone: Spot,
        size: usize,
        touch: Touch,
        stack: OffStack,
        address: impl FnOnce(&mut Self) -> Emitted,
    ) -> Result<Spot, NotHere> {
        if self.in_r15 != self.member.map(|member| member.group) {
            self.lose_r15();
        }
        let Some(member) = self.member else {
            match stack.0 {
                Some(displacement) => self.look_up_stack(size, displacement, alone)?,
                None => {
                    address(self)?;
                    let steady = self.is_steady();
                    self.look_up_steady(size, touch, steady, alone)?;
                }
            }
            return Ok(alone);
        };
        let slot = context::group(member.group);
        if self.in_r15 == Some(member.group) {
            // It is still there.
        } else if self.known[member.group] {
            self.e.load(R15, slot);
        } else {
            let group = self.groups[member.group];
            match member.base {
                4 => self.look_up_stack(group.span, member.from_base, JOINED)?,
                base => {
                    let host = self.host_of(base.into());
                    let from = host.unwrap_or_else(|| {
                        self.e.load(R15, home(Reg(base)));
                        R15
                    });
                    self.e.lea_as(self.source.width, R15, from, member.from_base);
                    let steady = !self.wild[usize::from(base)];
                    self.look_up_steady(group.span, group.touch, steady, JOINED)?;
                }
            }
            self.unsaved = true;
            self.known[member.group] = true;
            self.leads = true;
        }
        self.in_r15 = Some(member.group);
        Ok(Spot::At(member.offset))
    }

    /// As `reach`, for a slot of the stack's size and with R14 free in any case; returns how far from R15 the access is.
    pub(super) fn reach_from_r15(
        &mut self,
        touch: Touch,
        stack: OffStack,
        address: impl FnOnce(&mut Self) -> Emitted,
    ) -> Result<i32, NotHere> {
        match self.reach_as(JOINED, self.slot() as usize, touch, stack, address)? {
            Spot::At(offset) => Ok(offset),
            Spot::Sum => Err(NotHere),
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
    fn look_up_steady(&mut self, size: usize, touch: Touch, steady: bool, spot: Spot) -> Emitted {
        let taken = &mut self.streams[usize::from(touch == Touch::Write)];
        if !steady || *taken == STREAMS {
            return self.look_up_as(size, touch, spot);
        }
        let page = match touch {
            Touch::Read => LastPage::Loads(*taken),
            Touch::Write => LastPage::Stores(*taken),
        };
        *taken += 1;
        self.before_lookup()?;
        self.look_up_last(size, page, spot)
    }

    /// Looks up the access of `size` bytes at the address in R15, on the page that was looked up last if it is there. Flags are out
    /// of the way.
    fn look_up_last(&mut self, size: usize, page: LastPage, spot: Spot) -> Emitted {
        let e = &mut self.e;
        e.subtract_from(R15, page.tag());
        e.compare_constant(R15, 4096 - size as i32);
        let from = e.jump_if(A);
        match spot {
            Spot::Sum => e.load(R14, page.host()),
            Spot::At(_) => e.add_from(R15, page.host()),
        }
        let back = e.here();
        self.trouble.pages.push(OtherPage {
            from,
            page,
            size,
            spot,
            back,
        });
        self.after_lookup()
    }

    /// Looks up the access of `size` bytes at the address in R15. Then R14 + R15 is where it is in the host.
    pub(super) fn look_up(&mut self, size: usize, touch: Touch) -> Emitted {
        self.look_up_as(size, touch, Spot::Sum)
    }

    fn look_up_as(&mut self, size: usize, touch: Touch, spot: Spot) -> Emitted {
        self.before_lookup()?;
        let e = &mut self.e;
        stubs::find_page(e, touch);
        e.compare_constant(R15, 4096 - size as i32);
        let miss = e.jump_if(A);
        self.trouble.missed.push(miss);
        match spot {
            Spot::Sum => self.e.load_at(R14, R14, offset_of!(Entry, page) as i32),
            // add r15, [r14 + page]
            Spot::At(_) => self.e.raw(&[0x4d, 0x03, 0x7e, offset_of!(Entry, page) as u8]),
        }
        self.after_lookup()
    }

    /// The same for an access off RSP: its page is most often that of the last one.
    fn look_up_stack(&mut self, size: usize, displacement: i32, spot: Spot) -> Emitted {
        self.before_lookup()?;
        self.e.lea_as(self.source.width, R15, R13, displacement);
        self.look_up_last(size, LastPage::Stack, spot)
    }

    /// R15 is about to change. The place of the group that it held is kept if anything comes that wants it.
    pub(super) fn lose_r15(&mut self) {
        let Some(group) = self.in_r15.take() else { return };
        let wants = |member: &Option<Member>| member.is_some_and(|member| member.group == group);
        if std::mem::take(&mut self.unsaved) && self.members[self.now..].iter().any(wants) {
            self.e.store(context::group(group), R15);
        }
    }

    /// Flags out of the way; R14 is not free.
    pub(super) fn before_lookup(&mut self) -> Emitted {
        self.lose_r15();
        self.clobber()?;
        self.note_flags();
        Ok(())
    }

    fn after_lookup(&mut self) -> Emitted {
        if self.uses == crate::flags::Use::Needs {
            self.check_lost();
            self.flags.need_host(&mut self.e, Scratch::Taken)?;
        }
        Ok(())
    }

    /// From here on the instruction may take its slow way.
    pub(super) fn note_flags(&mut self) {
        self.trouble.flags.get_or_insert(self.flags);
    }

    /// The next instruction may fault.
    pub(super) fn may_fault(&mut self) {
        self.note_flags();
        self.trouble.faults.push(self.e.here());
    }

    /// R15 = R14 + R15, to have R14 back.
    pub(super) fn join(&mut self) {
        self.e.lea_scaled(R15, R14, R15, 1);
    }
}
