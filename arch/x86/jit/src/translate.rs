//! A trace of guest code to host code.
//!
//! An instruction is copied as it is if it touches neither memory nor the registers that translations need for
//! themselves ([`operand`]); its memory operand ([`address`]) goes through the software TLB otherwise ([`access`]). The stack and near branches
//! have sequences of their own ([`flow`]), as have some string and system instructions ([`strings`], [`system`]); [`entries`] and
//! [`exits`] are the ways in and out. Everything else is done by the interpreter's own
//! handler, in a callout.
//!
//! Lookups change the host's flags. They put the guest's aside first, unless what made them can be done again, and they are
//! brought back only where they are needed ([`crate::flags`]). So they are exact wherever code can be left, and cost little where
//! nobody reads them. A translation has an entry for either place.
//!
//! Each instruction that a lookup can fail in has a slow way out of line: a callout of the whole instruction, which is
//! executed from its beginning, because nothing of it was committed yet.

mod access;
mod address;
mod entries;
pub mod exits;
mod flow;
mod homes;
mod keeping;
mod operand;
mod strings;
mod swaps;
mod system;
mod x87;

use crate::Counting;
use crate::callout::{Kind, Site};
use crate::context::{COUNT, NEED_VECTOR};
use crate::emit::{At, Emitter, Forward, R14, Width};
use crate::flags::{Maker, Places, Use};
use crate::groups::{self, Group, Member};
use crate::stubs::Stubs;
use crate::trace::{End, Trace, Way};
use exits::{Links, Slow};
use iced_x86::{Instruction, InstructionInfoFactory};
use operand::touches_memory;
use ring3_host::addr::{GuestPhys, PAGE_SIZE};
use ring3_x86_cpu::Core;
use ring3_x86_cpu::mmu::Entry;
use rustc_hash::FxHashSet;
use std::mem::offset_of;
use swaps::Swaps;

/// Why an instruction is not translated: a callout does it.
#[derive(Debug)]
struct NotHere;

type Emitted = Result<(), NotHere>;

impl From<iced_x86::IcedError> for NotHere {
    fn from(_: iced_x86::IcedError) -> NotHere {
        NotHere
    }
}

/// What is to be translated.
pub struct Source<'a> {
    /// The trace's linear address.
    pub linear: u64,
    pub trace: &'a Trace,
    pub core: &'a Core,
    /// Where its page is, and which instructions no group is to begin with.
    pub physical: GuestPhys,
    pub apart: &'a FxHashSet<GuestPhys>,
    /// The vector instructions that may be executed.
    pub level: Level,
    pub counting: Counting,
    /// Whether it is executed at level 3, or else at level 0.
    pub user: bool,
    /// How wide its addresses are.
    pub width: Width,
    /// Where it will be executed, the rarely executed part of it, and what surrounds it.
    pub base: u64,
    pub cold: u64,
    pub stubs: Stubs,
    /// The numbers that the first of the sites, of the links and of the words will have, and where that word is.
    pub first_site: u32,
    pub first_link: u32,
    pub first_word: u64,
}

impl Source<'_> {
    /// Where an instruction of the trace is.
    fn place(&self, instr: &Instruction) -> GuestPhys {
        GuestPhys(self.physical.0 | instr.ip() & (PAGE_SIZE - 1))
    }
}

/// Which vector instructions the guest has enabled; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    None,
    Sse,
    Avx,
    Avx512,
}

/// Where guest flags are to be for code that is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Host,
    Aside,
    /// Wherever they are: they are overwritten before anything else.
    Any,
}

/// The places of a translation to enter it at: with flags in the host's and aside, and the same where the kick word is to be
/// looked at.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    pub wants: Wants,
    pub host: u64,
    pub aside: u64,
    pub checked_host: u64,
    pub checked_aside: u64,
}

/// What came of it.
pub struct Translated {
    pub code: Vec<u8>,
    pub cold: Vec<u8>,
    pub entries: Entries,
    pub links: Vec<exits::NewLink>,
    /// What the words hold at first.
    pub words: Vec<u64>,
    pub sites: Vec<Site>,
    /// Instructions whose access to memory can fault, and where to go then.
    pub faults: Vec<(u64, u64)>,
}

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Translated,
    Called,
}

/// Where an access is in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// At R14 + R15.
    Sum,
    /// So far from R15; R14 is free.
    At(i32),
}

/// Where the guest's vector state, or its x87 state, is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vector {
    Anywhere,
    InRegisters,
}

/// How an access is going to touch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    Read,
    Write,
}

impl Touch {
    /// Where in an entry of the software TLB the tag is that must match.
    pub fn tag(self) -> usize {
        match self {
            Touch::Read => offset_of!(Entry, read),
            Touch::Write => offset_of!(Entry, write),
        }
    }
}

/// What may go wrong in the instruction being translated.
#[derive(Default)]
struct Trouble {
    /// Lookups that failed, and where flags were then.
    missed: Vec<Forward>,
    flags: Option<Places>,
    /// Accesses that are not on the page that was looked up last.
    pages: Vec<access::OtherPage>,
    /// Host instructions that may fault.
    faults: Vec<At>,
    /// A repeated string instruction that may; the size of its elements, and whether it moves.
    repeats: Option<(At, u8, bool)>,
    /// The look for the x87 state, and what follows it.
    x87: Option<(Forward, At)>,
}

impl Trouble {
    fn is_empty(&self) -> bool {
        self.repeats.is_none()
            && self.x87.is_none()
            && self.missed.is_empty()
            && self.faults.is_empty()
            && self.pages.is_empty()
    }
}

/// What is true whenever a loop's second copy begins.
#[derive(Clone, Copy)]
struct Loop {
    at: At,
    flags: Places,
    vector: Vector,
    x87: Vector,
}

pub(crate) struct Translator<'a> {
    e: Emitter,
    /// The code that is not being written now: the cold part, and from the trace's end on the other.
    other: Emitter,
    source: &'a Source<'a>,
    info: InstructionInfoFactory,
    sites: Vec<Site>,
    links: Links,
    /// Words behind the code, and what refers to them.
    literals: Vec<(Forward, u64)>,
    slow: Vec<Slow>,
    trouble: Trouble,
    flags: Places,
    /// What the instruction being translated does with flags.
    uses: Use,
    /// Its number.
    now: usize,
    /// What can make its flags again.
    maker: Option<Maker>,
    vector: Vector,
    x87: Vector,
    swaps: Swaps,
    /// Registers that the loop, if it is one, changes otherwise than by a constant; and how many of its accesses have a page
    /// of their own: loads and stores.
    wild: [bool; 16],
    streams: [usize; 2],
    groups: Vec<Group>,
    members: Vec<Option<Member>>,
    /// Which groups' places in the host are known.
    known: [bool; groups::MOST],
    /// The part that the instruction being translated has in a group, and whether what follows relies on what only its fast way
    /// leaves: the group's place, or a value.
    member: Option<Member>,
    leads: bool,
    /// Where the loop is entered again.
    again: Option<Loop>,
    /// Whether every way through the trace comes by a look at the kick word.
    looked: bool,
    /// Flags were needed although nobody had to care for them.
    lost: bool,
    /// Whether flags are kept also where nothing seems to come that could want them.
    cautious: bool,
    /// The group whose place R15 holds, and whether nothing else does.
    in_r15: Option<usize>,
    unsaved: bool,
    /// How far the guest's RSP is from R13.
    lag: i32,
}

/// `None` if it cannot be translated.
pub fn translate(source: &Source<'_>) -> Option<Translated> {
    let wants = entries::wants(source.trace);
    attempt(source, wants, false).or_else(|| attempt(source, Wants::Aside, true))
}

fn attempt(source: &Source<'_>, wants: Wants, cautious: bool) -> Option<Translated> {
    let mut info = InstructionInfoFactory::new();
    let apart = |instr: &Instruction| source.apart.contains(&source.place(instr));
    let (groups, members) = groups::plan(source.trace, &mut info, apart);
    let translator = Translator {
        e: Emitter::new(source.base),
        other: Emitter::new(source.cold),
        source,
        sites: Vec::new(),
        links: Links::default(),
        literals: Vec::new(),
        slow: Vec::new(),
        trouble: Trouble::default(),
        flags: Places {
            host: wants == Wants::Host,
            all_but_carry: false,
            aside: wants == Wants::Aside,
            maker: None,
        },
        uses: Use::None,
        now: 0,
        maker: None,
        vector: Vector::Anywhere,
        x87: Vector::Anywhere,
        swaps: Swaps::plan(source.trace, &mut info),
        wild: groups::wild(source.trace),
        streams: [0; 2],
        groups,
        members,
        known: [false; groups::MOST],
        member: None,
        leads: false,
        again: None,
        looked: false,
        lost: false,
        cautious,
        in_r15: None,
        unsaved: false,
        lag: 0,
        info,
    };
    translator.all(wants)
}

impl Translator<'_> {
    fn all(mut self, wants: Wants) -> Option<Translated> {
        let (entries, kicked) = self.write_entries(wants);
        self.swap_in();
        let steps = &self.source.trace.steps;
        for (n, step) in steps.iter().enumerate() {
            if self.source.trace.end == End::Loop(n) {
                self.begin_loop().ok()?;
            }
            if let Some(count) = step.begins.filter(|_| self.source.counting == Counting::Yes) {
                self.e.load(R14, COUNT);
                self.e.lea(R14, R14, count as i32);
                self.e.store(COUNT, R14);
            }
            self.member = self.members[n];
            let shadowed = n > 0 && steps[n - 1].may_shadow();
            let branches = step.kind() == Kind::Branches;
            if shadowed && branches {
                self.end_shadow();
            }
            self.instruction(n).ok()?;
            if shadowed && !branches {
                self.end_shadow();
            }
        }
        self.end().ok()?;
        for (from, word) in std::mem::take(&mut self.literals) {
            self.e.bind(from);
            self.e.raw(&word.to_le_bytes());
        }
        std::mem::swap(&mut self.e, &mut self.other);
        self.write_kicked(kicked);
        let faults = self.write_slow().ok()?;
        let (links, words) = self.write_links().ok()?;
        (!self.lost).then_some(Translated {
            code: self.other.bytes,
            cold: self.e.bytes,
            entries,
            links,
            words,
            sites: self.sites,
            faults,
        })
    }

    fn end(&mut self) -> Emitted {
        self.settle_stack();
        match self.source.trace.end {
            End::Nothing => Ok(()),
            End::Loop(_) => self.end_loop(),
            End::To(next) => {
                let last = self.source.trace.steps.last().map_or(0, |step| step.instr.ip());
                self.go(next, next <= last)
            }
            End::Leave(rip) => self.leave_to(rip),
        }
    }

    /// Translates one instruction; fails only if flags are needed that nobody kept.
    fn instruction(&mut self, n: usize) -> Emitted {
        let step = &self.source.trace.steps[n];
        let instr = step.instr;
        self.uses = Use::of(&instr);
        self.now = n;
        self.maker = None;
        if !self.may_lag(&instr) {
            self.settle_stack();
        }
        if self.flags.carry_is_aside()
            && let Some(maker) = Maker::step(&instr).filter(|_| self.is_kept(instr.op0_register()))
        {
            return self.step_register(n, &instr, maker);
        }
        let maker = self.maker_after(&instr);
        let reaches_memory = touches_memory(&instr);
        if self.uses == Use::Needs && !self.host_suffices(&instr) {
            self.need_host()?;
            if reaches_memory && self.flags.maker.is_some_and(|maker| maker.needs_scratch()) {
                self.need_aside()?;
            }
        }
        let keeps = self.uses != Use::Writes;
        let makes_unmakeable = maker.is_none() && self.flags.maker.is_some();
        if keeps && makes_unmakeable && (!self.flags.host || reaches_memory) && self.flags_matter_behind(n) {
            // What made them cannot be done again after this instruction.
            self.need_aside()?;
        }
        let done = self.translated_or_called(n, &instr)?;
        if step.is_barrier() {
            self.known = [false; groups::MOST];
            self.in_r15 = None;
            self.unsaved = false;
        }
        self.flags.maker = maker;
        if instr.rflags_modified() & crate::flags::ARITHMETIC != 0 {
            self.flags = Places {
                host: true,
                all_but_carry: false,
                aside: done == Done::Called,
                maker: self.maker,
            };
        }
        self.follow(n)
    }

    fn translated_or_called(&mut self, n: usize, instr: &Instruction) -> Result<Done, NotHere> {
        let start = self.e.here();
        let links = self.links.len();
        let (vector, x87, flags) = (self.vector, self.x87, self.flags);
        let (known, streams) = (self.known, self.streams);
        let (r15, lag) = ((self.in_r15, self.unsaved), self.lag);
        self.leads = false;
        let done = match self
            .flow(n, instr)
            .or_else(|| self.string(instr))
            .or_else(|| self.system(instr))
        {
            Some(done) => done,
            None => self.operation(n, instr),
        };
        if done.is_err() {
            self.e.rewind(start);
            self.links.truncate(links);
            self.trouble = Trouble::default();
            self.maker = None;
            (self.vector, self.x87, self.flags) = (vector, x87, flags);
            (self.known, self.streams) = (known, streams);
            ((self.in_r15, self.unsaved), self.lag) = (r15, lag);
            self.settle_stack();
            self.lose_r15();
            self.leads = false;
            let site = self.site(n);
            self.callout(site)?;
            self.swap_in();
            self.vector = Vector::Anywhere;
            self.x87 = Vector::Anywhere;
            return Ok(Done::Called);
        }
        let trouble = std::mem::take(&mut self.trouble);
        if !trouble.is_empty() {
            let site = self.site(n);
            let back = self.e.here();
            let then = if self.leads {
                exits::Then::Leave(instr.next_ip())
            } else {
                exits::Then::Back(back, instr.next_ip())
            };
            let flags = trouble.flags.unwrap_or(flags);
            self.lost |= flags == Places::NOWHERE;
            let held = self.in_r15.map(|group| (group, self.unsaved));
            let state = (self.vector, self.x87);
            let slow = Slow::of(trouble, flags, site, state, then, held);
            self.slow.push(slow.lagging(lag, self.lag));
        }
        Ok(Done::Translated)
    }

    /// Goes on where the trace does, if the instruction was a conditional jump or one that the trace follows.
    fn follow(&mut self, n: usize) -> Emitted {
        let step = &self.source.trace.steps[n];
        let back = step.way == Way::Taken && step.instr.near_branch64() <= step.instr.ip();
        let last = n + 1 == self.source.trace.steps.len();
        let loops = matches!(self.source.trace.end, End::Loop(m) if m == n + 1);
        if back && !last && !loops && !self.looked {
            self.looked = true;
            self.clobber()?;
            let kicked = self.check_kick();
            self.slow
                .push(Slow::kicked(kicked, self.flags, step.instr.near_branch64()));
        }
        Ok(())
    }

    /// The number of the callout of an instruction.
    fn site(&mut self, n: usize) -> u32 {
        let step = &self.source.trace.steps[n];
        self.sites.push(Site {
            op: step.op,
            base: step.block,
            kind: step.kind(),
            leads: self.leads.then(|| self.source.place(&step.instr)),
        });
        self.source.first_site + self.sites.len() as u32 - 1
    }

    /// Executes an operation's handler. Then flags are in both places, and registers where everybody has them.
    fn callout(&mut self, site: u32) -> Emitted {
        if !self.flags.host && !self.flags.aside {
            self.need_host()?;
        }
        self.swap_out();
        self.e.constant(R14, site.into());
        self.e.call_address(if self.flags.aside {
            self.source.stubs.callout_aside
        } else {
            self.source.stubs.callout
        });
        self.flags.host = true;
        self.flags.aside = true;
        Ok(())
    }

    /// The next instruction uses the vector state.
    fn need_vector(&mut self) {
        if self.vector == Vector::Anywhere {
            self.e.call_through(NEED_VECTOR);
            self.vector = Vector::InRegisters;
        }
    }
}
