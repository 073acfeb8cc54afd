//! The guest's x87, MMX, SSE, AVX and AVX-512 state, and the frame of one native step.
//!
//! [`VectorState`] is where that state lives for good: thunks load from it and store to it, the interpreter's own
//! element-wise forms and the XSAVE conversions (`xsave.rs`) use the accessors. [`NativeFrame`] is scratch space.

/// One full vector register, as eight little-endian quadwords. Lane 0 is the low end of the XMM part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Zmm(pub [u64; 8]);

impl Zmm {
    /// The low 128 bits.
    #[inline]
    pub fn low(&self) -> u128 {
        u128::from(self.0[0]) | u128::from(self.0[1]) << 64
    }

    /// Replaces the low 128 bits and leaves the others.
    #[inline]
    pub fn set_low(&mut self, value: u128) {
        self.0[0] = value as u64;
        self.0[1] = (value >> 64) as u64;
    }

    /// The register's bytes, least significant first.
    pub fn to_bytes(&self) -> [u8; 64] {
        let mut out = [0; 64];
        for (part, lane) in out.chunks_exact_mut(8).zip(self.0) {
            part.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }

    /// The register holding these bytes.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut out = Self::default();
        for (lane, part) in out.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *lane = u64::from_le_bytes(part.try_into().unwrap_or_default());
        }
        out
    }

    /// Element `lane` of `size` bytes (1, 2, 4 or 8), zero-extended; 0 outside the register.
    pub fn lane(&self, size: usize, lane: usize) -> u64 {
        let bit = lane * size * 8;
        let Some(word) = self.0.get(bit / 64) else {
            return 0;
        };
        let value = word >> (bit % 64);
        if size >= 8 {
            value
        } else {
            value & ((1 << (size * 8)) - 1)
        }
    }

    /// Replaces element `lane` of `size` bytes (1, 2, 4 or 8).
    pub fn set_lane(&mut self, size: usize, lane: usize, value: u64) {
        let bit = lane * size * 8;
        let Some(word) = self.0.get_mut(bit / 64) else {
            return;
        };
        let mask = if size >= 8 {
            u64::MAX
        } else {
            (1 << (size * 8)) - 1
        };
        *word = *word & !(mask << (bit % 64)) | (value & mask) << (bit % 64);
    }
}

/// The legacy 512-byte FXSAVE image. Only its x87 part (bytes 0..5 and 32..160) is meaningful between steps: thunks
/// spill scratch over the rest, and the pointers live in [`X87`].
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Image {
    pub(super) fcw: u16,
    pub(super) fsw: u16,
    pub(super) ftw: u8,
    reserved: u8,
    fop: u16,
    fip: u64,
    fdp: u64,
    pub(super) mxcsr: u32,
    mxcsr_mask: u32,
    pub(super) st: [[u64; 2]; 8],
    rest: [u64; 44],
}

/// The last x87 instruction and operand pointers, as FNSTENV and FXSAVE show them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct X87Pointers {
    /// Last opcode, 11 bits.
    pub fop: u16,
    /// Last instruction: offset and selector.
    pub fip: u64,
    pub fcs: u16,
    /// Last memory operand: offset and selector.
    pub fdp: u64,
    pub fds: u16,
}

/// The x87 (and MMX) part of the state.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct X87 {
    pub(super) image: Image,
    /// With it, the image is one for XSAVE and XRSTOR, too.
    header: [u64; 8],
    pub pointers: X87Pointers,
}

/// Exception flags, and masks, of FSW/FCW/MXCSR.
pub(super) const EXCEPTIONS: u16 = 0x3f;
/// FSW.ES (error summary) and FSW.B (busy), always equal.
const FSW_ES_B: u16 = 0x8080;

impl X87 {
    /// The control word.
    #[inline]
    pub fn fcw(&self) -> u16 {
        self.image.fcw
    }

    /// Sets the control word as FLDCW does: reserved bits are forced, and ES follows the masks.
    pub fn set_fcw(&mut self, value: u16) {
        self.image.fcw = value & 0x1f3f | 0x40;
        self.update_summary();
    }

    /// The status word; TOP is bits 13:11.
    #[inline]
    pub fn fsw(&self) -> u16 {
        self.image.fsw
    }

    /// Sets the status word; ES and B are computed from the flags and the control word's masks. The registers keep
    /// their places relative to the new TOP, as FXRSTOR means it.
    pub fn set_fsw(&mut self, value: u16) {
        self.image.fsw = value;
        self.update_summary();
    }

    /// The tag word in its abridged form: bit n set = physical register n is not empty.
    #[inline]
    pub fn abridged_tags(&self) -> u8 {
        self.image.ftw
    }

    /// Sets the abridged tag word.
    pub fn set_abridged_tags(&mut self, value: u8) {
        self.image.ftw = value;
    }

    /// Register ST(i): ten bytes.
    pub fn st(&self, i: usize) -> [u8; 10] {
        let mut out = [0; 10];
        let register = &self.image.st[i & 7];
        out[..8].copy_from_slice(&register[0].to_le_bytes());
        out[8..].copy_from_slice(&(register[1] as u16).to_le_bytes());
        out
    }

    /// Sets the contents of register ST(i) and not its tag.
    pub fn set_st(&mut self, i: usize, value: [u8; 10]) {
        let (low, high) = value.split_at(8);
        self.image.st[i & 7] = [
            u64::from_le_bytes(low.try_into().unwrap_or_default()),
            u64::from(u16::from_le_bytes(high.try_into().unwrap_or_default())),
        ];
    }

    /// Is an unmasked exception pending (FSW.ES), so that the next waiting x87 or MMX instruction faults with #MF?
    #[inline]
    pub fn exception_pending(&self) -> bool {
        self.image.fsw & 0x80 != 0
    }

    pub(super) fn top(&self) -> usize {
        usize::from(self.image.fsw >> 11 & 7)
    }

    /// Moves TOP, leaving the physical registers where they are.
    pub(super) fn set_top(&mut self, top: usize) {
        let turn = (top + 8 - self.top()) & 7;
        self.image.st.rotate_left(turn);
        self.image.fsw = self.image.fsw & !0x3800 | (top as u16 & 7) << 11;
    }

    pub(super) fn update_summary(&mut self) {
        if self.image.fsw & !self.image.fcw & EXCEPTIONS != 0 {
            self.image.fsw |= FSW_ES_B;
        } else {
            self.image.fsw &= !FSW_ES_B;
        }
    }
}

impl PartialEq for X87 {
    fn eq(&self, other: &Self) -> bool {
        (self.fcw(), self.fsw(), self.image.ftw, self.pointers)
            == (other.fcw(), other.fsw(), other.image.ftw, other.pointers)
            && (0..8).all(|i| self.st(i) == other.st(i))
    }
}

impl Default for X87 {
    /// The state after FNINIT.
    fn default() -> Self {
        let image = Image {
            fcw: 0x37f,
            fsw: 0,
            ftw: 0,
            reserved: 0,
            fop: 0,
            fip: 0,
            fdp: 0,
            mxcsr: MXCSR_DEFAULT,
            mxcsr_mask: 0,
            st: [[0; 2]; 8],
            rest: [0; 44],
        };
        Self {
            image,
            header: [0; 8],
            pointers: X87Pointers::default(),
        }
    }
}

/// MXCSR after reset.
pub const MXCSR_DEFAULT: u32 = 0x1f80;

// What XSAVE demands.
const _: () = assert!(VectorState::X87_OFFSET.is_multiple_of(64));
const _: () = assert!(VectorState::X87_HEADER_OFFSET == VectorState::X87_OFFSET + 512);

/// The persistent vector and x87 state of one guest CPU.
#[derive(Clone, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct VectorState {
    pub zmm: [Zmm; 32],
    /// The AVX-512 opmask registers.
    pub k: [u64; 8],
    pub x87: X87,
    pub(super) mxcsr: u32,
}

impl Default for VectorState {
    fn default() -> Self {
        Self {
            zmm: [Zmm::default(); 32],
            k: [0; 8],
            x87: X87::default(),
            mxcsr: MXCSR_DEFAULT,
        }
    }
}

impl VectorState {
    /// Where MXCSR is, for code that keeps the state in the host's registers for a while.
    pub const MXCSR_OFFSET: usize = std::mem::offset_of!(VectorState, mxcsr);
    /// The same of the x87 state: an image that XSAVE and XRSTOR move that component to and from, its header's first word, and
    /// the control word.
    pub const X87_OFFSET: usize = std::mem::offset_of!(VectorState, x87);
    pub const X87_HEADER_OFFSET: usize = Self::X87_OFFSET + std::mem::offset_of!(X87, header);
    pub const FCW_OFFSET: usize = Self::X87_OFFSET + std::mem::offset_of!(Image, fcw);

    /// The reset state: FNINIT's x87 part, MXCSR 1F80H, all registers zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The MXCSR register.
    #[inline]
    pub fn mxcsr(&self) -> u32 {
        self.mxcsr
    }

    /// Sets MXCSR, unless a bit is set that the processor reserves (LDMXCSR answers that with #GP).
    pub fn set_mxcsr(&mut self, value: u32) -> Result<(), ReservedBits> {
        if value & !mxcsr_mask() != 0 {
            return Err(ReservedBits);
        }
        self.mxcsr = value;
        Ok(())
    }

    /// VZEROUPPER, and what every VEX-encoded write of an XMM register does to that register.
    pub fn zero_upper(&mut self, registers: std::ops::Range<usize>) {
        for register in self.zmm.get_mut(registers).into_iter().flatten() {
            register.0[2..].fill(0);
        }
    }
}

/// A value has bits set that the processor reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedBits;

/// The MXCSR bits that may be set: what FXSAVE calls MXCSR_MASK. It is the host's, because thunks load the guest's value.
pub fn mxcsr_mask() -> u32 {
    static MASK: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *MASK.get_or_init(|| {
        let mut image = X87::default().image;
        // SAFETY: FXSAVE64 writes 512 bytes to a 64-byte aligned `Image`, which is that long and plain data.
        unsafe { core::arch::x86_64::_fxsave64((&raw mut image).cast()) };
        // A zero mask means the one of the first processors, by the manual (section "Checking for the DAZ Flag").
        if image.mxcsr_mask == 0 {
            0xffbf
        } else {
            image.mxcsr_mask
        }
    })
}

/// Scratch of a native step: the memory operand, flags, and what an x87 instruction leaves as its pointers.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct NativeFrame {
    /// Stands for the memory operand: the caller fills it before a step that reads and stores it after one that
    /// writes.
    pub mem: [u8; 128],
    /// RFLAGS, in and out; only [`NativeStep::flags_read`](super::NativeStep::flags_read) need be right on entry,
    /// only [`NativeStep::flags_written`](super::NativeStep::flags_written) change.
    pub rflags: u64,
    pub(super) out_rflags: u64,
    pub(super) host_mxcsr: u32,
    pub(super) run_mxcsr: u32,
    pub(super) out_mxcsr: u32,
    /// Not zero: a SIMD floating-point exception was raised.
    pub(super) trapped: u32,
    pub(super) host_fcw: u16,
    /// What the x87 pointers become when the step is a non-control x87 instruction (without a memory operand FDP and
    /// FDS stay).
    pub x87_pointers: X87Pointers,
    /// Layout of FNSTENV/FLDENV/FNSAVE/FRSTOR images.
    pub env_layout: EnvLayout,
}

/// Which of the two address layouts an x87 environment in memory has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvLayout {
    /// Selector and offset: protected and long mode.
    #[default]
    Protected,
    /// Linear addresses: real-address and virtual-8086 mode.
    Real,
}

impl Default for NativeFrame {
    fn default() -> Self {
        Self {
            mem: [0; 128],
            rflags: 0,
            out_rflags: 0,
            host_mxcsr: 0,
            run_mxcsr: 0,
            out_mxcsr: 0,
            trapped: 0,
            host_fcw: 0,
            x87_pointers: X87Pointers::default(),
            env_layout: EnvLayout::Protected,
        }
    }
}
