//! Lookups: from a guest address to where it is in the host.

use super::{Emitted, NotHere, Spot, Touch, Translator};
use crate::context::{self, STACK_PAGE, STACK_TAG, home};
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
                    self.look_up(size, touch)?;
                }
            }
            return Ok(Spot::Sum);
        };
        let slot = context::group(member.group);
        if self.known[member.group] {
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
                    self.look_up(group.span, group.touch)?;
                }
            }
            self.join();
            self.e.store(slot, R15);
            self.known[member.group] = true;
            self.leads = true;
        }
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

    /// Looks up the access of `size` bytes at the address in R15. Then R14 + R15 is where it is in the host.
    fn look_up(&mut self, size: usize, touch: Touch) -> Emitted {
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
    fn before_lookup(&mut self) -> Emitted {
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
