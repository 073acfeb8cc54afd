//! The architectural state of one processor.

pub mod control;
pub mod flags;
pub mod meter;
pub mod segment;
pub mod tiles;
mod xstate;

pub use control::*;
pub use flags::Flags;
pub use meter::{Meter, Retired};
pub use segment::{Attributes, CS, DS, ES, FS, GS, SS, Segment, Table};
pub use tiles::Tiles;

use ring3_host::native::VectorState;

pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RBX: usize = 3;
pub const RSP: usize = 4;
pub const RBP: usize = 5;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

/// The slot of [`State::gpr`] that always holds zero: the index or base of an operand that has none.
pub const ZERO_SLOT: u8 = 16;
/// The slot that holds the RIP at which the running block starts, for RIP-relative operands.
pub const RIP_SLOT: u8 = 17;

/// MSRs that instructions use implicitly.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemMsrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub tsc_aux: u64,
    pub xss: u64,
    /// Components of XCR0 whose use faults, and those that the last such fault was about.
    pub xfd: u64,
    pub xfd_err: u64,
}

/// What blocks events at the next instruction boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interruptibility {
    /// The instruction just retired was STI.
    pub sti_shadow: bool,
    /// The instruction just retired loaded SS.
    pub mov_ss_shadow: bool,
    /// An NMI was delivered and no IRET has followed.
    pub nmi_blocked: bool,
}

/// System management mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smm {
    /// The processor is in it.
    pub active: bool,
    /// NMIs were blocked when it was entered, and stay blocked when it is left.
    pub inside_nmi: bool,
    /// SMBASE.
    pub base: u64,
}

impl Default for Smm {
    fn default() -> Smm {
        Smm {
            active: false,
            inside_nmi: false,
            base: 0x3_0000,
        }
    }
}

/// An exception that is still to be delivered, as KVM_GET/SET_VCPU_EVENTS knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    pub vector: u8,
    pub error: Option<u32>,
    /// CR2 for #PF, DR6 bits for #DB; `None` when these registers already hold it.
    pub payload: Option<u64>,
}

pub struct State {
    /// The sixteen registers, then [`ZERO_SLOT`] and [`RIP_SLOT`]; the rest keeps indexing free of checks.
    pub gpr: [u64; 32],
    pub rip: u64,
    pub flags: Flags,
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: Table,
    pub idtr: Table,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    /// What each protection key of user pages bars: two bits each, all accesses and writes.
    pub pkru: u32,
    pub dr: [u64; 4],
    pub dr6: u64,
    pub dr7: u64,
    pub msr: SystemMsrs,
    /// PDPTRs as loaded by the last write to CR3 under PAE paging.
    pub pdptr: [u64; 4],
    pub vector: Box<VectorState>,
    pub tiles: Tiles,
    pub interruptibility: Interruptibility,
    pub smm: Smm,
    pub meter: Meter,
    /// Number of bits of a physical address that this processor has.
    pub physical_bits: u8,
}

impl Default for State {
    fn default() -> State {
        State::power_up()
    }
}

impl State {
    /// The state after power-up or RESET.
    pub fn power_up() -> State {
        let data = Segment::real(0, 0x93);
        let mut seg = [data; 6];
        seg[CS] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            limit: 0xffff,
            attributes: Attributes(0x9b),
        };
        let mut gpr = [0; 32];
        gpr[RDX] = 0x600;
        State {
            gpr,
            rip: 0xfff0,
            flags: Flags::default(),
            seg,
            ldtr: Segment::real(0, 0x82),
            tr: Segment::real(0, 0x8b),
            gdtr: Table {
                base: 0,
                limit: 0xffff,
            },
            idtr: Table {
                base: 0,
                limit: 0xffff,
            },
            cr0: CR0_ET | CR0_CD | CR0_NW,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            pkru: 0,
            dr: [0; 4],
            dr6: DR6_FIXED,
            dr7: DR7_FIXED,
            msr: SystemMsrs::default(),
            pdptr: [0; 4],
            vector: Box::default(),
            tiles: Tiles::default(),
            interruptibility: Interruptibility::default(),
            smm: Smm::default(),
            meter: Meter::default(),
            physical_bits: 48,
        }
    }

    pub fn rflags(&self) -> u64 {
        self.flags.bits()
    }

    pub fn set_rflags(&mut self, bits: u64) {
        self.flags.set_bits(bits);
    }

    /// Current privilege level: SS.DPL, as the processor keeps it (0 in real mode, 3 in virtual-8086 mode).
    pub fn cpl(&self) -> u8 {
        if !self.protected() {
            0
        } else if self.flags.has(flags::VM) {
            3
        } else {
            self.seg[SS].attributes.dpl()
        }
    }

    pub fn protected(&self) -> bool {
        self.cr0 & CR0_PE != 0
    }
    pub fn paging(&self) -> bool {
        self.cr0 & CR0_PG != 0
    }
    /// EFER.LMA: IA-32e mode, compatibility mode included.
    pub fn long_mode(&self) -> bool {
        self.efer & EFER_LMA != 0
    }
    /// Whether user pages have protection keys.
    pub fn has_keys(&self) -> bool {
        self.cr4 & CR4_PKE != 0 && self.long_mode()
    }
    /// 64-bit mode: IA-32e mode with CS.L.
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg[CS].attributes.long()
    }
    pub fn virtual_8086(&self) -> bool {
        self.protected() && self.flags.has(flags::VM)
    }
    /// Real or virtual-8086 mode: segment loads do not read descriptors.
    pub fn real_segments(&self) -> bool {
        !self.protected() || self.flags.has(flags::VM)
    }
}
