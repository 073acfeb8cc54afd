//! The ways out of a translation: to other translations, to the interpreter, and the slow ways of instructions.

use super::access::OtherPage;
use super::{Emitted, Spot, Translator, Trouble, Vector};
use crate::context::{NEED_VECTOR, SAVED_RCX, SHADOW_TOP};
use crate::emit::{A, At, Forward, R14, R15, RCX, RSP};
use crate::flags::Places;
use crate::{context, stubs};
use ring3_host::addr::PAGE_SIZE;
use ring3_x86_cpu::mmu::Entry;
use std::mem::offset_of;

/// How a jump to another translation is made to lead there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// Within a page: by the distance in the code, at this address.
    Distance(u64),
    /// To another page, which may be elsewhere by then: by a word, with this number among the translation's.
    Word(usize),
}

/// A jump to another translation, to be made direct once there is one.
pub struct NewLink {
    pub through: Through,
    pub target: u64,
    /// The target lies behind: entering it must look at the kick word.
    pub backward: bool,
    /// Where flags are.
    pub host: bool,
    pub aside: bool,
}

/// Jumps that go to other translations.
#[derive(Default)]
pub(super) struct Links(Vec<Link>);

struct Link {
    from: Source,
    target: u64,
    backward: bool,
    flags: Places,
}

enum Source {
    Jump(Forward),
    /// A jump to a stub that puts things where they belong, and jumps.
    Detour(Forward),
    /// A jump to a stub that jumps through a word; or a call through it.
    Word(Vec<Forward>, usize),
}

impl Links {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }
}

/// Where the slow way of an instruction leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// Back to the translation of the next instruction, which is at that address.
    Back(At, u64),
    /// Out: others rely on what the instruction would have left.
    Leave(u64),
}

/// What is out of line: the slow way of one instruction, or the way out after a kick.
pub(super) struct Slow {
    trouble: Trouble,
    flags: Places,
    /// Where the vector state and the x87 state are to be.
    state: (Vector, Vector),
    /// The group whose place R15 is to hold, and whether nothing else does.
    in_r15: Option<(usize, bool)>,
    /// How far the guest's RSP is from R13 before the instruction, and behind it.
    lag: (i32, i32),
    way: Way,
}

enum Way {
    Callout(u32, Then),
    Kicked(u64),
    /// The shadow stack is full.
    Full(At),
}

impl Slow {
    pub fn of(
        trouble: Trouble,
        flags: Places,
        site: u32,
        state: (Vector, Vector),
        then: Then,
        in_r15: Option<(usize, bool)>,
    ) -> Slow {
        Slow {
            trouble,
            flags,
            state,
            in_r15,
            lag: (0, 0),
            way: Way::Callout(site, then),
        }
    }

    pub fn lagging(self, before: i32, behind: i32) -> Slow {
        let lag = (before, behind);
        Slow { lag, ..self }
    }

    /// The way out to the interpreter, which goes on at `rip`.
    pub fn kicked(from: Forward, flags: Places, rip: u64) -> Slow {
        Slow::plain(from, flags, Way::Kicked(rip))
    }

    /// The way to an empty shadow stack, and back.
    pub fn full(from: Forward, back: At) -> Slow {
        Slow::plain(from, Places::NOWHERE, Way::Full(back))
    }

    fn plain(from: Forward, flags: Places, way: Way) -> Slow {
        let trouble = Trouble {
            missed: vec![from],
            ..Trouble::default()
        };
        Slow {
            trouble,
            flags,
            state: (Vector::Anywhere, Vector::Anywhere),
            in_r15: None,
            lag: (0, 0),
            way,
        }
    }
}

impl Translator<'_> {
    /// Goes on at a known place.
    pub(super) fn go(&mut self, target: u64, backward: bool) -> Emitted {
        self.need_some()?;
        self.swap_out();
        let from = if self.is_near(target) {
            Source::Jump(self.e.jump())
        } else {
            let number = self.take_word();
            self.e.jump_through_near(self.word(number));
            Source::Word(Vec::new(), number)
        };
        self.link(from, target, backward);
        Ok(())
    }

    /// The same if a condition holds, which the host's flags tell.
    pub(super) fn go_if(&mut self, condition: u8, target: u64, backward: bool) {
        let jump = self.e.jump_if(condition);
        let from = if !self.is_near(target) {
            Source::Word(vec![jump], self.take_word())
        } else if self.flags.host && self.swaps.is_empty() {
            Source::Jump(jump)
        } else {
            Source::Detour(jump)
        };
        self.link(from, target, backward);
    }

    /// Calls what is at a known place.
    pub(super) fn call_to(&mut self, target: u64, backward: bool) {
        self.swap_out();
        let from = if self.is_near(target) {
            Source::Jump(self.e.call())
        } else {
            let number = self.take_word();
            self.e.call_through_near(self.word(number));
            Source::Word(Vec::new(), number)
        };
        self.link(from, target, backward);
    }

    fn link(&mut self, from: Source, target: u64, backward: bool) {
        self.links.0.push(Link {
            from,
            target,
            backward,
            flags: self.flags,
        });
    }

    /// Whether code there is reached by a direct jump: in our page, and not so near its end that it may cross into the next.
    fn is_near(&self, target: u64) -> bool {
        target >> 12 == self.source.linear >> 12 && target & (PAGE_SIZE - 1) < PAGE_SIZE - 15
    }

    fn take_word(&mut self) -> usize {
        let taken = |link: &Link| matches!(link.from, Source::Word(..));
        self.links.0.iter().filter(|link| taken(link)).count()
    }

    fn word(&self, number: usize) -> u64 {
        self.source.first_word + 8 * number as u64
    }

    /// Gives a place to the interpreter.
    pub(super) fn leave_to(&mut self, rip: u64) -> Emitted {
        self.need_aside()?;
        self.swap_out();
        self.e.constant(R14, rip);
        self.e.jump_address(self.source.stubs.lookup);
        Ok(())
    }

    /// Makes jumps of the other part come here.
    pub(super) fn bind_here(&mut self, jumps: impl IntoIterator<Item = Forward>) {
        let here = self.e.address(self.e.here());
        for jump in jumps {
            self.other.bind_to(jump, here);
        }
    }

    /// Jumps to a place of the other part.
    pub(super) fn jump_over(&mut self, to: At) {
        let to = self.other.address(to);
        self.e.jump_address(to);
    }

    /// Out of line, the ways out of entries that found a kick.
    pub(super) fn write_kicked(&mut self, [with_flags, aside]: [Vec<Forward>; 2]) {
        if !with_flags.is_empty() {
            self.bind_here(with_flags);
            stubs::save_flags(&mut self.e);
        }
        self.bind_here(aside);
        self.e.constant(R14, self.source.linear);
        self.e.jump_address(self.source.stubs.lookup);
    }

    /// Out of line, the slow ways of all instructions.
    pub(super) fn write_slow(&mut self) -> Result<Vec<(u64, u64)>, super::NotHere> {
        let mut faults = Vec::new();
        for slow in std::mem::take(&mut self.slow) {
            let mut elsewhere = Vec::new();
            for page in slow.trouble.pages {
                elsewhere.push(self.write_other_page(page));
            }
            if let Some((from, back)) = slow.trouble.x87 {
                elsewhere.push(self.write_bring_x87(from, back));
            }
            if let Some((at, size, moves)) = slow.trouble.repeats {
                faults.push((self.other.address(at), self.e.address(self.e.here())));
                self.write_interrupted(size, moves);
                elsewhere.push(self.e.jump());
            }
            let here = self.e.address(self.e.here());
            for forward in elsewhere {
                self.e.bind(forward);
            }
            self.bind_here(slow.trouble.missed);
            let at = |at| self.other.address(at);
            faults.extend(slow.trouble.faults.into_iter().map(|from| (at(from), here)));
            self.flags = slow.flags;
            match slow.way {
                Way::Kicked(rip) => self.leave_to(rip)?,
                Way::Full(back) => {
                    self.e.load(RSP, SHADOW_TOP);
                    self.jump_over(back);
                }
                Way::Callout(site, then) => {
                    if let (Then::Back(..), Some((group, true))) = (then, slow.in_r15) {
                        self.e.store(context::group(group), R15);
                    }
                    self.lag = slow.lag.0;
                    self.settle_stack();
                    self.callout(site)?;
                    self.write_then(then, slow.state, slow.in_r15.map(|(group, _)| group), slow.lag.1);
                }
            }
        }
        faults.sort_unstable();
        Ok(faults)
    }

    /// Looks an access up, and makes its page the one that was looked up last; the jump that is returned is taken if that is not
    /// the way.
    fn write_other_page(&mut self, other: OtherPage) -> Forward {
        let OtherPage {
            from,
            page,
            size,
            spot,
            back,
        } = other;
        self.bind_here([from]);
        let e = &mut self.e;
        e.add_from(R15, page.tag());
        stubs::find_page(e, page.touch());
        e.compare_constant(R15, 4096 - size as i32);
        let missed = e.jump_if(A);
        e.store(SAVED_RCX, RCX);
        e.load_at(RCX, R14, page.touch().tag() as i32);
        e.store(page.tag(), RCX);
        e.load(RCX, SAVED_RCX);
        e.load_at(R14, R14, offset_of!(Entry, page) as i32);
        e.store(page.host(), R14);
        if spot != Spot::Sum {
            e.lea_scaled(R15, R14, R15, 1);
        }
        self.jump_over(back);
        missed
    }

    /// Looks for the translation of an address.
    pub(super) fn write_dispatch(&mut self, rip: u64) {
        self.e.constant(R14, rip);
        self.e.jump_address(self.source.stubs.dispatch);
    }

    fn write_then(&mut self, then: Then, (vector, x87): (Vector, Vector), in_r15: Option<usize>, lag: i32) {
        match then {
            Then::Leave(rip) => self.write_dispatch(rip),
            Then::Back(back, next) => {
                if x87 == Vector::InRegisters {
                    self.write_bring_x87_again(next);
                }
                self.lag = -lag;
                self.settle_stack();
                self.swap_in();
                if vector == Vector::InRegisters {
                    self.e.call_through(NEED_VECTOR);
                }
                if let Some(group) = in_r15 {
                    self.e.load(R15, context::group(group));
                }
                self.jump_over(back);
            }
        }
    }

    /// And the ways out to blocks that are not translated yet; with the words' first values.
    pub(super) fn write_links(&mut self) -> Result<(Vec<NewLink>, Vec<u64>), super::NotHere> {
        let mut links = Vec::new();
        let mut words = Vec::new();
        for (n, link) in std::mem::take(&mut self.links.0).into_iter().enumerate() {
            self.flags = link.flags;
            let through = match link.from {
                Source::Jump(forward) => {
                    let site = self.other.address(self.other.site(&forward));
                    self.bind_here([forward]);
                    Through::Distance(site)
                }
                Source::Detour(forward) => {
                    self.bind_here([forward]);
                    self.need_some()?;
                    self.swap_out();
                    let jump = self.e.jump();
                    let site = self.e.address(self.e.site(&jump));
                    self.e.bind(jump);
                    Through::Distance(site)
                }
                Source::Word(jumps, number) => {
                    if !jumps.is_empty() {
                        self.bind_here(jumps);
                        self.need_some()?;
                        self.swap_out();
                        self.e.jump_through_near(self.word(number));
                    }
                    words.push(self.e.address(self.e.here()));
                    Through::Word(number)
                }
            };
            links.push(NewLink {
                through,
                target: link.target,
                backward: link.backward,
                host: self.flags.host,
                aside: self.flags.aside,
            });
            self.e.constant(R14, u64::from(self.source.first_link) + n as u64);
            self.e.jump_address(if self.flags.aside {
                self.source.stubs.link_aside
            } else {
                self.source.stubs.link
            });
        }
        Ok((links, words))
    }

    /// Has flags in either place.
    fn need_some(&mut self) -> Emitted {
        if !self.flags.aside {
            self.need_host()?;
        }
        Ok(())
    }
}
