//! One block of guest code to host code.
//!
//! An instruction is copied as it is if it touches neither memory nor the registers that translations need for
//! themselves ([`operand`]); its memory operand goes through the software TLB otherwise. The stack and near branches
//! have sequences of their own ([`flow`]). Everything else is done by the interpreter's own handler, in a callout; what
//! ends a block there for other reasons than a branch ends the translation before it.
//!
//! Lookups change the host's flags. They put the guest's aside first, unless they lie there already, and bring them back only
//! where they are live; an instruction that writes all of them ends that. So they are exact wherever code can be left, and
//! cost little where nobody reads them.
//!
//! Each instruction that a lookup can fail in has a slow way out of line: a callout of the whole instruction, which is
//! executed from its beginning, because nothing of it was committed yet.

mod flow;
mod operand;

use crate::context::{self, COUNT, Jumps, KICK, NEED_VECTOR, SAVED_RCX, TABLE, home};
use crate::emit::{A, At, Emitter, Forward, R13, R14, R15, RCX, Reg};
use crate::groups::{self, Group, Member};
use crate::liveness;
use crate::stubs::{self, Stubs};
use crate::{Counting, Site};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory};
use ring3_x86_cpu::op::Op;
use ring3_x86_cpu::{Core, decode};
use std::mem::offset_of;

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
    /// The block's linear address.
    pub linear: u64,
    pub code: &'a [u8],
    pub ops: &'a [Op],
    pub core: &'a Core,
    /// The vector instructions that may be executed.
    pub level: Level,
    pub counting: Counting,
    /// The jump cache of the privilege it runs with.
    pub jumps: u64,
}

/// Which vector instructions the guest has enabled; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    None,
    Sse,
    Avx,
    Avx512,
}

/// A jump to another block of the same page, to be made direct once that is translated.
pub struct NewLink {
    pub site: At,
    pub target: u64,
    /// The target lies behind: entering it must look at the kick word.
    pub backward: bool,
}

/// What came of it. Places count from the code's start.
pub struct Translated {
    pub code: Vec<u8>,
    /// Where the kick word is looked at first.
    pub checked: At,
    pub entry: At,
    pub links: Vec<NewLink>,
    pub sites: Vec<Site>,
    /// Instructions whose access to memory can fault, and where to go then.
    pub faults: Vec<(At, At)>,
}

/// The slow way of one instruction.
struct Slow {
    /// Lookups that failed.
    from: Vec<Forward>,
    /// Host instructions that may fault.
    faults: Vec<At>,
    site: u32,
    /// Whether the flags lie aside.
    aside: bool,
    vector: Vector,
    then: Then,
}

/// Whether an instruction needs the flags that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flags {
    Live,
    Dead,
}

/// Where the guest's flags are between two instructions; always in one of the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    in_host: bool,
    aside: bool,
}

/// Where an access is in the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spot {
    /// At R14 + R15.
    Sum,
    /// So far from R15; R14 is free.
    At(i32),
}

/// Where the slow way of an instruction leads.
#[derive(Clone, Copy, Debug)]
enum Then {
    /// Back to the next instruction's translation.
    Back(At),
    /// Out: others rely on what the instruction would have left.
    Leave(u64),
}

/// Where the guest's vector state is known to be.
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

pub(crate) struct Translator<'a> {
    e: Emitter,
    source: &'a Source<'a>,
    stubs: Stubs,
    info: InstructionInfoFactory,
    /// The number that the first of our sites, and of our links, will have.
    first_site: u32,
    first_link: u32,
    sites: Vec<Site>,
    links: Vec<(Forward, u64)>,
    slow: Vec<Slow>,
    /// Of the instruction being translated.
    pending: Vec<Forward>,
    pending_faults: Vec<At>,
    flags: Flags,
    places: Places,
    vector: Vector,
    groups: Vec<Group>,
    /// Which groups' places in the host are known.
    known: [bool; groups::MOST],
    /// The part that the instruction being translated has in a group, and whether it finds out that place for the others.
    member: Option<Member>,
    leads: bool,
}

/// Translates for execution at `base`; `None` if the block begins with something that is not translated.
pub fn translate(
    source: &Source<'_>,
    base: u64,
    stubs: Stubs,
    first_site: u32,
    first_link: u32,
) -> Option<Translated> {
    let block = decode_block(source);
    if block.is_empty() {
        return None;
    }
    let translator = Translator {
        e: Emitter::new(base),
        source,
        stubs,
        info: InstructionInfoFactory::new(),
        first_site,
        first_link,
        sites: Vec::new(),
        links: Vec::new(),
        slow: Vec::new(),
        pending: Vec::new(),
        pending_faults: Vec::new(),
        flags: Flags::Live,
        places: Places {
            in_host: true,
            aside: false,
        },
        vector: Vector::Anywhere,
        groups: Vec::new(),
        known: [false; groups::MOST],
        member: None,
        leads: false,
    };
    Some(translator.block(&block))
}

/// The instructions that are translated: all up to the first that must be the interpreter's.
fn decode_block(source: &Source<'_>) -> Vec<Instruction> {
    let mut decoder = Decoder::with_ip(64, source.code, source.linear, DecoderOptions::NONE);
    let mut block = Vec::new();
    for _ in 0..source.ops.len() {
        let instr = decoder.decode();
        if instr.is_invalid() || !source.core.features.include(&instr) || is_interpreters(&instr) {
            break;
        }
        block.push(instr);
    }
    block
}

/// Whether an instruction ends blocks for another reason than that it is a near branch.
fn is_interpreters(instr: &Instruction) -> bool {
    let branch = matches!(
        instr.flow_control(),
        FlowControl::UnconditionalBranch
            | FlowControl::IndirectBranch
            | FlowControl::ConditionalBranch
            | FlowControl::Return
            | FlowControl::Call
            | FlowControl::IndirectCall
    );
    decode::ends_block(instr) && !(branch && flow::is_near(instr))
}

impl Translator<'_> {
    fn block(mut self, block: &[Instruction]) -> Translated {
        let live = liveness::live_before(block);
        let (groups, members) = groups::plan(block, &mut self.info);
        self.groups = groups;
        let checked = self.e.here();
        let kicked = self.check_kick();
        let entry = self.e.here();
        if self.source.counting == Counting::Yes {
            self.e.load(R14, COUNT);
            self.e.lea(R14, R14, block.len() as i32);
            self.e.store(COUNT, R14);
        }
        let mut ended = false;
        for (n, instr) in block.iter().enumerate() {
            self.member = members[n];
            self.instruction(n, instr, live[n]);
            ended = decode::sets_rip(instr);
        }
        let next = block.last().map_or(self.source.linear, Instruction::next_ip);
        if !ended {
            if block.len() < self.source.ops.len() {
                self.leave_to(next);
            } else {
                self.go(next);
            }
        }
        self.e.bind(kicked);
        self.leave_to(self.source.linear);
        let faults = self.write_slow();
        let links = self.write_links();
        Translated {
            code: self.e.bytes,
            checked,
            entry,
            links,
            sites: self.sites,
            faults,
        }
    }

    /// Leaves if the kick word is not zero. Flags stay.
    fn check_kick(&mut self) -> Forward {
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

    fn instruction(&mut self, n: usize, instr: &Instruction, live: bool) {
        let writes = instr.rflags_modified() & liveness::ARITHMETIC != 0;
        let keeps_some = writes && liveness::written(instr) != liveness::ARITHMETIC;
        self.flags = if live || keeps_some {
            Flags::Live
        } else {
            Flags::Dead
        };
        if self.flags == Flags::Live {
            self.bring_flags_back();
        }
        self.translated_or_called(n, instr);
        if writes {
            self.places = Places {
                in_host: true,
                aside: false,
            };
        }
    }

    fn translated_or_called(&mut self, n: usize, instr: &Instruction) {
        let start = self.e.here();
        let links = self.links.len();
        let (vector, places, known) = (self.vector, self.places, self.known);
        self.leads = false;
        let done = self.flow(instr).unwrap_or_else(|| self.plain(n, instr));
        if done.is_err() {
            self.e.rewind(start);
            self.links.truncate(links);
            self.pending.clear();
            self.pending_faults.clear();
            (self.vector, self.places, self.known) = (vector, places, known);
            self.bring_flags_back();
            let site = self.site(n, instr);
            self.callout(site);
            self.vector = Vector::Anywhere;
            return;
        }
        if self.pending.is_empty() && self.pending_faults.is_empty() {
            return;
        }
        let slow = Slow {
            from: std::mem::take(&mut self.pending),
            faults: std::mem::take(&mut self.pending_faults),
            site: self.site(n, instr),
            aside: self.places.aside,
            vector: self.vector,
            then: if self.leads {
                Then::Leave(instr.next_ip())
            } else {
                Then::Back(self.e.here())
            },
        };
        self.slow.push(slow);
    }

    /// Has the guest's flags in the host's.
    fn bring_flags_back(&mut self) {
        if !self.places.in_host {
            stubs::restore_flags(&mut self.e);
            self.places.in_host = true;
        }
    }

    /// The number of the callout of an instruction.
    fn site(&mut self, n: usize, instr: &Instruction) -> u32 {
        self.sites.push(Site {
            op: self.source.ops[n],
            base: self.source.linear,
            branches: decode::sets_rip(instr),
        });
        self.first_site + self.sites.len() as u32 - 1
    }

    fn callout(&mut self, site: u32) {
        self.e.constant(R14, site.into());
        self.e.call_address(self.stubs.callout);
    }

    /// Out of line, the slow ways of all instructions.
    fn write_slow(&mut self) -> Vec<(At, At)> {
        let mut faults = Vec::new();
        for slow in std::mem::take(&mut self.slow) {
            let here = self.e.here();
            for forward in slow.from {
                self.e.bind(forward);
            }
            faults.extend(slow.faults.into_iter().map(|at| (at, here)));
            if slow.aside {
                stubs::restore_flags(&mut self.e);
            }
            self.callout(slow.site);
            match slow.then {
                Then::Leave(rip) => self.leave_to(rip),
                Then::Back(back) => {
                    if slow.vector == Vector::InRegisters {
                        self.e.call_through(NEED_VECTOR);
                    }
                    self.e.jump_to(back);
                }
            }
        }
        faults.sort_unstable();
        faults
    }

    /// And the ways out to blocks that are not translated yet.
    fn write_links(&mut self) -> Vec<NewLink> {
        let mut links = Vec::new();
        for (n, (forward, target)) in std::mem::take(&mut self.links).into_iter().enumerate() {
            links.push(NewLink {
                site: self.e.site(&forward),
                target,
                backward: target <= self.source.linear,
            });
            self.e.bind(forward);
            self.e.constant(R14, u64::from(self.first_link) + n as u64);
            self.e.jump_address(self.stubs.link);
        }
        links
    }

    /// Gives a place to the interpreter.
    fn leave_to(&mut self, rip: u64) {
        self.e.constant(R14, rip);
        self.e.jump_address(self.stubs.lookup);
    }

    /// Goes on at a known place.
    fn go(&mut self, target: u64) {
        if target >> 12 == self.source.linear >> 12 {
            let forward = self.e.jump();
            self.links.push((forward, target));
            return;
        }
        // Another page, which may be elsewhere by now: the jump cache knows.
        let entry = Jumps::entry(self.source.jumps, target);
        let e = &mut self.e;
        e.store(SAVED_RCX, RCX);
        e.constant(R15, entry);
        e.constant(R14, target);
        e.load_at(RCX, R15, 0);
        e.lea_scaled(RCX, RCX, R14, 1);
        let found = e.jump_if_rcx_zero();
        e.load(RCX, SAVED_RCX);
        e.jump_address(self.stubs.lookup);
        e.bind_short(found);
        e.load(RCX, SAVED_RCX);
        self.jump_to_found();
    }

    /// To the code of the jump cache's entry at R15.
    fn jump_to_found(&mut self) {
        // jmp [r15 + 8]
        self.e.raw(&[0x41, 0xff, 0x67, 0x08]);
    }

    /// Has the guest's flags aside, too.
    fn put_flags_aside(&mut self) {
        if !self.places.aside {
            stubs::save_flags(&mut self.e);
            self.places.aside = true;
        }
    }

    /// The next instruction uses the vector state.
    fn need_vector(&mut self) {
        if self.vector == Vector::Anywhere {
            self.e.call_through(NEED_VECTOR);
            self.vector = Vector::InRegisters;
        }
    }

    /// Brings an access within reach: by its group, or by a lookup of its own, for which `address` leaves its address
    /// in R15.
    fn reach(
        &mut self,
        size: usize,
        touch: Touch,
        address: impl FnOnce(&mut Self) -> Emitted,
    ) -> Result<Spot, NotHere> {
        let Some(member) = self.member else {
            address(self)?;
            self.lookup(size, touch);
            return Ok(Spot::Sum);
        };
        let slot = context::group(member.group);
        if self.known[member.group] {
            self.e.load(R15, slot);
        } else {
            let group = self.groups[member.group];
            match member.base {
                4 => self.e.lea(R15, R13, member.from_base),
                base @ 13.. => {
                    self.e.load(R15, home(Reg(base)));
                    self.e.lea(R15, R15, member.from_base);
                }
                base => self.e.lea(R15, Reg(base), member.from_base),
            }
            self.lookup(group.span, group.touch);
            self.join();
            self.e.store(slot, R15);
            self.known[member.group] = true;
            self.leads = true;
        }
        Ok(Spot::At(member.offset))
    }

    /// As `reach`, with R14 free in any case; returns how far from R15 the access is.
    fn reach_from_r15(
        &mut self,
        touch: Touch,
        address: impl FnOnce(&mut Self) -> Emitted,
    ) -> Result<i32, NotHere> {
        match self.reach(8, touch, address)? {
            Spot::At(offset) => Ok(offset),
            Spot::Sum => {
                self.join();
                Ok(0)
            }
        }
    }

    /// Looks up the access of `size` bytes at the address in R15. Then R14 + R15 is where it is in the host.
    fn lookup(&mut self, size: usize, touch: Touch) {
        use ring3_x86_cpu::mmu::Entry;
        let tag = match touch {
            Touch::Read => offset_of!(Entry, read),
            Touch::Write => offset_of!(Entry, write),
        };
        self.put_flags_aside();
        let e = &mut self.e;
        // mov r14d, r15d; shr r14d, 7; and r14d, 7fe0h
        e.raw(&[
            0x45, 0x89, 0xfe, 0x41, 0xc1, 0xee, 0x07, 0x41, 0x81, 0xe6, 0xe0, 0x7f, 0, 0,
        ]);
        e.add_from(R14, TABLE);
        // sub r15, [r14 + tag]; cmp r15, 4096 - size
        e.raw(&[0x4d, 0x2b, 0x7e, tag as u8, 0x49, 0x81, 0xff]);
        e.raw(&(4096 - size as i32).to_le_bytes());
        let miss = e.jump_if(A);
        self.pending.push(miss);
        e.load_at(R14, R14, offset_of!(Entry, page) as i32);
        self.places.in_host = false;
        if self.flags == Flags::Live {
            self.bring_flags_back();
        }
    }

    /// The next instruction may fault.
    fn may_fault(&mut self) {
        self.pending_faults.push(self.e.here());
    }

    /// R15 = R14 + R15, to have R14 back.
    fn join(&mut self) {
        self.e.lea_scaled(R15, R14, R15, 1);
    }
}

// The lookup is made for entries and tables of these sizes.
const _: () = assert!(size_of::<ring3_x86_cpu::mmu::Entry>() == 32);
const _: () = assert!(ring3_x86_cpu::mmu::tlb::ENTRIES == 1024);
