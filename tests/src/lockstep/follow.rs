//! The follower: it goes on until its state is the leader's.
//!
//! It executes whole blocks as long as the place cannot be inside of one, then single instructions. A place is the
//! leader's if all registers are the same, and the worlds have come equally far: code that comes by it twice changes one
//! of them, or, mostly, nothing at all.

use super::flags::{self, Loaded, STATUS};
use super::{Stage, Twin};
use crate::bare::snapshot::{register_differences, registers, vector_differences};
use iced_x86::{Decoder, DecoderOptions};
use ring3_host::addr::GuestPhys;
use ring3_x86_cpu::block::Blocks;
use ring3_x86_cpu::state::{DR7_ENABLES, RSP, flags as rflags};
use ring3_x86_cpu::{Access, Backing, Core, Cpu, Ended, Leave, State, Tier, World};
use std::sync::atomic::AtomicU32;

/// Blocks that are remembered, for the flags that they leave undefined.
const REMEMBERED: usize = 32;
/// Faults without an instruction in between that the way to a place can have: guests may have no handler at all that can be
/// fetched, and fault for ever.
const MOST_DELIVERIES: u32 = 1_000_000;

pub struct Follower<W> {
    pub cpu: Cpu,
    pub world: W,
    /// Flags and images of flags that differed where the architecture lets them.
    pub forgiven: u64,
    /// The last blocks: where they lay, and their code.
    path: Path,
    pub forgives: Forgives,
    /// Flags that were undefined and different when they were saved, as far as that was seen.
    ever: u64,
    /// Whether code was executed that leaves flags undefined, as far as it was looked at.
    pub saw_undefined: bool,
    /// Instructions after which the place will not come any more.
    pub farthest: u64,
    /// What was not alike when the registers were the leader's for the last time, or RIP for the first.
    pub near_miss: Option<String>,
}

/// What may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgives {
    Nothing,
    /// Flags where they are undefined.
    Flags,
    /// And what was saved of them.
    Images,
}

/// How following ended.
#[derive(Debug)]
pub enum Arrival {
    There,
    Elsewhere(Stage),
    Never,
}

/// One block, unless the place lies inside of it.
struct Block<'a> {
    place: u64,
    inside: bool,
    path: Option<&'a mut Path>,
}

impl Tier for Block<'_> {
    fn enter(
        &mut self,
        core: &mut Core,
        blocks: &mut Blocks,
        block: u32,
        _: &mut dyn World,
        _: &AtomicU32,
    ) -> Option<Ended> {
        let block = blocks.get(block);
        let rip = core.code_address();
        self.inside = (1..u64::from(block.len)).contains(&self.place.wrapping_sub(rip));
        if self.inside {
            return Some(Ended::Retired);
        }
        if let Some(path) = &mut self.path {
            path.push(rip, &blocks.code(block).unwrap_or_default());
        }
        None
    }
}

/// A ring of the last blocks.
struct Path {
    blocks: [(u64, Vec<u8>); REMEMBERED],
    next: usize,
}

impl Path {
    fn push(&mut self, rip: u64, code: &[u8]) {
        // Loops and repeated strings would fill it with one block.
        let last = &self.blocks[self.next.wrapping_sub(1) % REMEMBERED];
        if self.next > 0 && last.0 == rip && last.1 == code {
            return;
        }
        let slot = &mut self.blocks[self.next % REMEMBERED];
        slot.0 = rip;
        slot.1.clear();
        slot.1.extend_from_slice(code);
        self.next += 1;
    }

    /// From the oldest on.
    fn iter(&self) -> impl Iterator<Item = &(u64, Vec<u8>)> {
        let (newer, older) = self.blocks.split_at(self.next % REMEMBERED);
        older.iter().chain(newer)
    }
}

impl<W: Twin> Follower<W> {
    pub fn new(cpu: Cpu, world: W) -> Follower<W> {
        Follower {
            cpu,
            world,
            forgiven: 0,
            path: Path {
                blocks: std::array::from_fn(|_| (0, Vec::new())),
                next: 0,
            },
            forgives: Forgives::Nothing,
            ever: 0x10,
            saw_undefined: false,
            farthest: 20_000_000,
            near_miss: None,
        }
    }

    /// Goes on until the state is `place`, or, if the leader left its run loop there, until the same happens here.
    pub fn follow(&mut self, place: &State, leaders: &W, stage: Stage) -> Arrival {
        self.look_for_undefined();
        let arrival = self.go_on(place, leaders, stage);
        self.look_for_undefined();
        arrival
    }

    /// Whether the last blocks leave flags undefined, which may then have gone anywhere.
    fn look_for_undefined(&mut self) {
        if self.forgives == Forgives::Images {
            self.saw_undefined |= self.path.iter().any(|(rip, code)| flags::leaves_some(code, *rip));
        }
    }

    fn go_on(&mut self, place: &State, leaders: &W, stage: Stage) -> Arrival {
        let end = self.cpu.core.instructions + self.farthest;
        let (mut before, mut deliveries) = (0, 0);
        if self.world.wants_writes_told() {
            self.cpu.core.mmu.protect_all();
        }
        let mut inside = false;
        self.near_miss = None;
        loop {
            let at_place = stage == Stage::Boundary
                && self.is_at(place)
                && self.cpu.core.state.vector.zmm == place.vector.zmm;
            if at_place && self.world.alike(leaders) {
                self.take(place);
                return Arrival::There;
            }
            if self.cpu.core.state.rip == place.rip && (at_place || self.near_miss.is_none()) {
                let mut told = register_differences(&registers(place), &registers(&self.cpu.core.state));
                told.extend(vector_differences(&place.vector, &self.cpu.core.state.vector));
                told.extend(self.world.differences(leaders));
                self.near_miss = Some(told.join("; "));
            }
            if before == self.cpu.core.instructions {
                deliveries += 1;
            }
            before = self.cpu.core.instructions;
            if before > end || deliveries > MOST_DELIVERIES {
                return Arrival::Never;
            }
            let careful = inside || needs_care(&self.cpu.core);
            let (left, now_inside) = if careful {
                (self.one(), false)
            } else {
                self.block(place.rip)
            };
            // Single instructions up to the end of what would be the block.
            inside =
                now_inside || inside && self.cpu.core.state.rip.wrapping_sub(place.rip) > u64::MAX - 0x200;
            match left {
                None | Some(Leave::Kicked) => {}
                Some(left) => {
                    let found = Stage::Left(left);
                    return if found == stage {
                        if self.is_at(place) {
                            self.take(place);
                        }
                        Arrival::There
                    } else {
                        Arrival::Elsewhere(found)
                    };
                }
            }
        }
    }

    /// A single instruction, wherever it leads.
    pub fn step(&mut self) {
        while self.one() == Some(Leave::Kicked) {}
    }

    fn one(&mut self) -> Option<Leave> {
        if self.forgives != Forgives::Nothing {
            let code = instruction(&self.cpu, &mut self.world);
            self.path.push(self.cpu.core.state.rip, &code);
        }
        self.cpu.run_one(&mut self.world)
    }

    fn block(&mut self, place: u64) -> (Option<Leave>, bool) {
        let mut tier = Block {
            place,
            inside: false,
            path: (self.forgives != Forgives::Nothing).then_some(&mut self.path),
        };
        let left = self.cpu.run_turn(&mut tier, &mut self.world, &AtomicU32::new(0));
        (left, tier.inside)
    }

    /// Whether all registers that change often are the place's.
    fn is_at(&self, place: &State) -> bool {
        let state = &self.cpu.core.state;
        if state.rip != place.rip || state.gpr[RSP] != place.gpr[RSP] {
            return false;
        }
        // A loop that counts in memory comes by with nothing else changed than these.
        let vectors = state.vector.zmm.iter().zip(&place.vector.zmm);
        let same = vectors.into_iter().all(|(mine, theirs)| mine.0 == theirs.0)
            && state.vector.x87 == place.vector.x87
            && state.cr2 == place.cr2
            && state.cr3 == place.cr3
            && state.cr0 == place.cr0
            && state.cr4 == place.cr4
            && state.interruptibility == place.interruptibility
            && state.seg[ring3_x86_cpu::state::SS].selector == place.seg[ring3_x86_cpu::state::SS].selector;
        if !same {
            return false;
        }
        if self.forgives == Forgives::Nothing {
            return state.gpr[..16] == place.gpr[..16] && state.rflags() == place.rflags();
        }
        self.forgives(place)
    }

    /// As `is_at`, if only such flags differ as the architecture leaves undefined, or what was saved of them.
    fn forgives(&self, place: &State) -> bool {
        let state = &self.cpu.core.state;
        let differ = state.rflags() ^ place.rflags();
        if differ & !STATUS != 0 {
            return false;
        }
        let images = state.gpr[..16].iter().zip(&place.gpr[..16]).all(|(a, b)| {
            a == b || self.forgives == Forgives::Images && are_images(*a, *b) && (a ^ b) & !self.ever == 0
        });
        images && differ & !self.undefined() == 0
    }

    /// Has what was forgiven be as the leader has it.
    fn take(&mut self, place: &State) {
        let state = &mut self.cpu.core.state;
        let differ = state.rflags() ^ place.rflags();
        if differ == 0 && state.gpr[..16] == place.gpr[..16] {
            return;
        }
        state.gpr[..16].copy_from_slice(&place.gpr[..16]);
        state.set_rflags(place.rflags());
        self.forgiven += 1;
        self.ever |= differ;
    }

    /// The flags that the last blocks leave undefined.
    fn undefined(&self) -> u64 {
        let loaded = if self.forgives == Forgives::Images {
            Loaded::Anything
        } else {
            Loaded::Defined
        };
        let (count, place) = (self.path.iter().count(), self.cpu.core.state.rip);
        let blocks = self.path.iter().enumerate();
        blocks.fold(0, |before, (n, (rip, code))| {
            let behind = flags::undefined(code, *rip, before, loaded);
            // The last one may have been left by a fault.
            if n + 1 == count && !flags::leads_to(code, *rip, place) {
                behind | flags::undefined_inside(code, *rip, before, loaded)
            } else {
                behind
            }
        })
    }
}

/// Whether both are what RFLAGS may have been, but for arithmetic flags alike.
pub fn are_images(a: u64, b: u64) -> bool {
    // IF, RF and AC besides the arithmetic ones.
    const NEVER: u64 = !(STATUS | 2 | 0x5_0200);
    // What is left undefined is never the carry alone, which tells many small numbers apart.
    const OPEN: u64 = STATUS & !1;
    (a ^ b) & !OPEN == 0 && a & NEVER == 0 && a & 2 != 0
}

/// As the run loop decides it: what is looked at only with single instructions.
fn needs_care(core: &Core) -> bool {
    let shadows = core.state.interruptibility;
    core.state.flags.system & (rflags::TF | rflags::RF) != 0
        || shadows.sti_shadow
        || shadows.mov_ss_shadow
        || core.state.dr7 & DR7_ENABLES != 0
}

/// The bytes of the instruction at RIP; none if it has no page. Leaves no trace in the page tables.
pub fn instruction(cpu: &Cpu, world: &mut impl World) -> Vec<u8> {
    let rip = cpu.core.state.rip;
    let mut bytes = Vec::new();
    for at in rip..rip.saturating_add(15) {
        // No page is looked at that the instruction is not in.
        if at & 0xfff == 0
            && !Decoder::new(64, &bytes, DecoderOptions::NONE)
                .decode()
                .is_invalid()
        {
            break;
        }
        let byte = look_up(world, cpu.core.state.cr3, at).and_then(|gpa| peek::<1>(world, gpa));
        let Some([byte]) = byte else { break };
        bytes.push(byte);
    }
    let len = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE)
        .decode()
        .len();
    bytes.truncate(len);
    bytes
}

/// Bytes of guest-physical memory that lie in one page.
fn peek<const N: usize>(world: &mut impl World, gpa: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    match world.page(GuestPhys(gpa), Access::Read) {
        Backing::Ram { page, .. } => page.read((gpa & 0xfff) as usize, &mut bytes).ok().map(|()| bytes),
        Backing::Mmio => None,
    }
}

/// Where a linear address leads by four levels of page tables, which stay as they are.
fn look_up(world: &mut impl World, root: u64, linear: u64) -> Option<u64> {
    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    let mut table = root & FRAME;
    for level in (0..4).rev() {
        let shift = 12 + 9 * level;
        let entry = u64::from_le_bytes(peek(world, table + (linear >> shift & 0x1ff) * 8)?);
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 0 || entry & LARGE != 0 {
            let inside = (1 << shift) - 1;
            return Some(entry & FRAME & !inside | linear & inside);
        }
        table = entry & FRAME;
    }
    None
}
