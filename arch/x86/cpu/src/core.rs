//! The processor's working state: what operations act on.

use crate::event::{Event, Undeliverable};
use crate::exec::spin::Spin;
use crate::features::Features;
use crate::mmu::Mmu;
use crate::state::{CR0_AM, CR4_SMAP, CS, SS, State, flags};
use ring3_host::addr::GuestPhys;
use ring3_host::native::gather::Indexed;
use ring3_host::native::{NativeFrame, NativeStep};

/// Reasons to leave the running block after the current operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attention(pub u32);

impl Attention {
    /// The world posted an exit to its client.
    pub const POSTED: u32 = 1;
    /// HLT retired.
    pub const HALT: u32 = 2;
    /// Translations were dropped, or the mode or address space changed: look the next block up anew.
    pub const RESYNC: u32 = 4;
    /// A debug trap is to be delivered after this instruction: its DR6 bits are in `Core::debug_status`.
    pub const DEBUG: u32 = 8;
    /// An event window may have opened.
    pub const WINDOW: u32 = 16;
    /// The operation used answers of the client that are now spent.
    pub const RETIRED: u32 = 32;
    /// The meter's alarm is due.
    pub const METERED: u32 = 256;
    /// System management mode was left.
    pub const RESUMED: u32 = 128;
    /// A block was decoded: others may have posted something while the world marked its pages, so the kick word
    /// comes before the block.
    pub const DECODED: u32 = 64;
    /// A locked operand was in two cache lines, and the caller asked to be told.
    pub const BUS_LOCK: u32 = 512;
}

/// What the mode of operation means to decoding and execution; derived from the state by [`Core::refresh`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// Size of code in bits: 16, 32 or 64.
    pub code_bits: u8,
    /// Size of a stack address in bytes: 2, 4 or 8.
    pub stack_size: u8,
    pub cpl: u8,
    pub long: bool,
    /// Segment loads do not read descriptors: real or virtual-8086 mode.
    pub real_segments: bool,
    /// System management mode, whose guest-physical addresses are its own.
    pub smm: bool,
}

impl Mode {
    /// The part of the mode that a block depends on: how it is decoded, and which memory it was read from.
    pub fn key(&self) -> u8 {
        (self.code_bits / 16) | u8::from(self.smm) << 3 | (self.stack_size << 4)
    }
}

/// Which event windows the caller wants to be told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    pub interrupt: bool,
    pub nmi: bool,
}

/// What a debugger of the client's wants; see KVM_SET_GUEST_DEBUG.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugControl {
    pub single_step: bool,
    /// #BP goes to the client.
    pub intercept_bp: bool,
    /// #DB goes to the client.
    pub intercept_db: bool,
    /// These registers take the place of the guest's DR0-3 and DR7.
    pub hardware: Option<([u64; 4], u64)>,
}

/// What the prefix for forced emulation means, UD2 followed by "kvm".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefix {
    /// The two bytes are an instruction that raises #UD.
    #[default]
    Undefined,
    /// It is skipped: the instruction behind it is executed.
    Skipped,
}

pub struct Core {
    pub state: State,
    pub mode: Mode,
    /// What a remembered lookup of a block depends on besides the address: the mode's key and the privilege.
    pub context: u8,
    pub mmu: Mmu,
    pub attention: Attention,
    /// RIP of the instruction that retired with a wish for attention last.
    pub attended: u64,
    pub windows: Windows,
    /// What decoding takes for granted; see [`crate::Cpu::set_features`].
    pub features: Features,
    /// Likewise; to be set before any code is run.
    pub forced_emulation: Prefix,
    pub debug: DebugControl,
    /// Whether the caller is to be told of bus locks: locked operands in two cache lines.
    pub reports_bus_locks: bool,
    /// There was one; the caller clears it.
    pub locked_bus: bool,
    /// How long the guest has been waiting for another processor.
    pub spin: Spin,
    /// Linear address of the last page fault raised and not yet delivered.
    pub fault_address: u64,
    /// DR6 bits of the last debug exception raised and not yet delivered.
    pub debug_status: u64,
    /// The guest-physical page the host could not reach.
    pub lost_memory: GuestPhys,
    /// The event that is being delivered.
    pub(crate) delivering: Option<Event>,
    /// What a delivery would have had to ask a device for.
    pub(crate) undeliverable: Undeliverable,
    /// Stamps remembered lookups of code by linear address: what was remembered under another number may no longer
    /// hold. Each address space has its own, and numbers never come again.
    pub epoch: u64,
    /// The like for code in pages that all address spaces share; see [`Core::is_global_code`]. Whenever it changes, so
    /// does `epoch`, of every address space.
    pub global_epoch: u64,
    /// Counts the times that others may have written to code unseen.
    pub turn: u64,
    /// Pages whose translations must go (guest-physical page addresses); emptied by the run loop.
    pub stale_code: Vec<GuestPhys>,
    /// Host thunks of the operations that the host executes; [`crate::op::Op::imm`] indexes them.
    pub native: Vec<NativeStep>,
    /// Gathers and scatters, likewise.
    pub indexed: Vec<Indexed>,
    /// Scratch of the host thunks.
    pub frame: Box<NativeFrame>,
    /// Instructions retired since the processor was made.
    pub instructions: u64,
    /// A further tier's own: what its code wants near the rest of the processor's state.
    pub tier: [u64; TIER_WORDS],
}

/// Words of [`Core::tier`].
pub const TIER_WORDS: usize = 72;

impl Core {
    pub fn new() -> Core {
        let mut core = Core {
            state: State::power_up(),
            mode: Mode::default(),
            context: 0,
            mmu: Mmu::new(),
            attention: Attention::default(),
            attended: 0,
            windows: Windows::default(),
            features: Features::default(),
            forced_emulation: Prefix::default(),
            spin: Spin::default(),
            debug: DebugControl::default(),
            reports_bus_locks: false,
            locked_bus: false,
            fault_address: 0,
            debug_status: 0,
            lost_memory: GuestPhys(0),
            delivering: None,
            undeliverable: Undeliverable::default(),
            epoch: 0,
            global_epoch: 0,
            turn: 0,
            stale_code: Vec::new(),
            native: Vec::new(),
            indexed: Vec::new(),
            frame: Box::default(),
            instructions: 0,
            tier: [0; TIER_WORDS],
        };
        core.flush_tlb();
        core.refresh();
        core
    }

    /// Derives everything that depends on the mode; to be called after any change to CR0, CR4, EFER, CS, SS,
    /// RFLAGS.VM or RFLAGS.AC.
    pub fn refresh(&mut self) {
        let state = &self.state;
        let code64 = state.code64();
        let mode = Mode {
            code_bits: match (code64, state.seg[CS].attributes.big()) {
                (true, _) => 64,
                (false, true) => 32,
                (false, false) => 16,
            },
            stack_size: match (code64, state.seg[SS].attributes.big()) {
                (true, _) => 8,
                (false, true) => 4,
                (false, false) => 2,
            },
            cpl: state.cpl(),
            long: state.long_mode(),
            real_segments: state.real_segments(),
            smm: state.smm.active,
        };
        if mode != self.mode {
            self.mode = mode;
            self.context = mode.key() | u8::from(mode.cpl == 3) << 4;
            self.attention.0 |= Attention::RESYNC;
        }
        self.refresh_access();
    }

    /// Derives the kind of address translation from CPL, RFLAGS.AC and the control registers.
    #[inline]
    pub fn refresh_access(&mut self) {
        let state = &self.state;
        let ac = state.flags.has(flags::AC);
        let user = self.mode.cpl == 3;
        let checked = user && ac && state.cr0 & CR0_AM != 0;
        let open = !user && (ac || state.cr4 & CR4_SMAP == 0);
        self.mmu.select(user, open, checked);
    }
}

impl Default for Core {
    fn default() -> Core {
        Core::new()
    }
}
