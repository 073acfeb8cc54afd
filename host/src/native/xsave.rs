//! Between [`VectorState`] and XSAVE images in the standard (non-compacted) format.
//!
//! The offsets are those that the host reports in CPUID leaf 0DH. Of the components that are no vector state, only the
//! places are here; those of supervisors are missing.

use super::{ReservedBits, VectorState, X87Pointers, Zmm};

/// XCR0 / XSTATE_BV bits.
pub const XFEATURE_X87: u64 = 1 << 0;
pub const XFEATURE_SSE: u64 = 1 << 1;
pub const XFEATURE_AVX: u64 = 1 << 2;
pub const XFEATURE_OPMASK: u64 = 1 << 5;
pub const XFEATURE_ZMM_HI256: u64 = 1 << 6;
pub const XFEATURE_HI16_ZMM: u64 = 1 << 7;
pub const XFEATURE_PKRU: u64 = 1 << 9;
pub const XFEATURE_XTILECFG: u64 = 1 << 17;
pub const XFEATURE_XTILEDATA: u64 = 1 << 18;
/// All components that a [`VectorState`] holds.
pub const XFEATURES: u64 =
    XFEATURE_X87 | XFEATURE_SSE | XFEATURE_AVX | XFEATURE_OPMASK | XFEATURE_ZMM_HI256 | XFEATURE_HI16_ZMM;

/// Offsets in the standard format.
pub const XSAVE_HEADER: usize = 512;
pub const XSAVE_AVX: usize = 576;
pub const XSAVE_OPMASK: usize = 1088;
pub const XSAVE_ZMM_HI256: usize = 1152;
pub const XSAVE_HI16_ZMM: usize = 1664;
pub const XSAVE_PKRU: usize = 2688;
pub const XSAVE_XTILECFG: usize = 2752;
pub const XSAVE_XTILEDATA: usize = 2816;
/// Size of an image with all of [`XFEATURES`].
pub const XSAVE_SIZE: usize = 2688;
/// Size of an image with all components that are known here.
pub const XSAVE_MOST: usize = XSAVE_XTILEDATA + 8192;

/// Width of the instruction and operand pointers in the legacy area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointerWidth {
    /// FXSAVE, XSAVE: 32-bit offset and selector.
    Selector,
    /// FXSAVE64, XSAVE64: 64-bit offset.
    Quad,
}

/// Offset and size of an extended component in the standard format; `None` for x87, SSE and unknown ones. The offsets are
/// the host's own where it has the component, because clients read them there: processors with MPX leave room for it.
pub fn component(feature: u64) -> Option<(usize, usize)> {
    let (usual, size) = match feature {
        XFEATURE_AVX => (XSAVE_AVX, 256),
        XFEATURE_OPMASK => (XSAVE_OPMASK, 64),
        XFEATURE_ZMM_HI256 => (XSAVE_ZMM_HI256, 512),
        XFEATURE_HI16_ZMM => (XSAVE_HI16_ZMM, 1024),
        XFEATURE_PKRU => (XSAVE_PKRU, 8),
        XFEATURE_XTILECFG => (XSAVE_XTILECFG, 64),
        XFEATURE_XTILEDATA => (XSAVE_XTILEDATA, 8192),
        _ => return None,
    };
    let host = host_offsets().get(feature.trailing_zeros() as usize).copied();
    let end = if feature & XFEATURES != 0 {
        XSAVE_SIZE
    } else {
        XSAVE_MOST
    };
    let fits = |at: &usize| (XSAVE_HEADER + 64..=end - size).contains(at);
    Some((host.filter(fits).unwrap_or(usual), size))
}

/// Whether the compacted format leaves room before a component, so that it begins a line.
pub fn is_aligned(feature: u64) -> bool {
    feature & (XFEATURE_XTILECFG | XFEATURE_XTILEDATA) != 0
}

/// Where the host's processor keeps components; zero for those it does not have.
fn host_offsets() -> &'static [usize; 19] {
    static OFFSETS: std::sync::OnceLock<[usize; 19]> = std::sync::OnceLock::new();
    OFFSETS.get_or_init(|| {
        let has_leaf = core::arch::x86_64::__cpuid(0).eax >= 0xd;
        std::array::from_fn(|n| match n {
            2.. if has_leaf => core::arch::x86_64::__cpuid_count(0xd, n as u32).ebx as usize,
            _ => 0,
        })
    })
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(target) = area.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

fn get<const N: usize>(area: &[u8], at: usize) -> [u8; N] {
    area.get(at..at + N)
        .and_then(|b| b.try_into().ok())
        .unwrap_or([0; N])
}

impl VectorState {
    /// Which components differ from their initial configuration (XINUSE), of [`XFEATURES`].
    pub fn in_use(&self) -> u64 {
        let any = |range: std::ops::Range<usize>, words: std::ops::Range<usize>| {
            self.zmm[range]
                .iter()
                .any(|z| z.0[words.clone()].iter().any(|&w| w != 0))
        };
        let mut used = 0;
        let mut set = |condition: bool, feature: u64| used |= if condition { feature } else { 0 };
        set(!self.x87.is_initial(), XFEATURE_X87);
        set(any(0..16, 0..2), XFEATURE_SSE);
        set(any(0..16, 2..4), XFEATURE_AVX);
        set(self.k.iter().any(|&k| k != 0), XFEATURE_OPMASK);
        set(any(0..16, 4..8), XFEATURE_ZMM_HI256);
        set(any(16..32, 0..8), XFEATURE_HI16_ZMM);
        used
    }

    /// Puts the components in `features` into their initial configuration. MXCSR is not part of one.
    pub fn reset(&mut self, features: u64) {
        if features & XFEATURE_X87 != 0 {
            self.x87 = Default::default();
        }
        let parts = [
            (XFEATURE_SSE, 0..16, 0..2),
            (XFEATURE_AVX, 0..16, 2..4),
            (XFEATURE_ZMM_HI256, 0..16, 4..8),
            (XFEATURE_HI16_ZMM, 16..32, 0..8),
        ];
        for (feature, registers, words) in parts {
            if features & feature != 0 {
                for z in &mut self.zmm[registers] {
                    z.0[words.clone()].fill(0);
                }
            }
        }
        if features & XFEATURE_OPMASK != 0 {
            self.k = [0; 8];
        }
    }

    /// Writes the x87 part of the legacy area: bytes 0..24 and 32..160.
    pub fn save_x87(&self, area: &mut [u8], width: PointerWidth) {
        let p = &self.x87.pointers;
        put(area, 0, &self.x87.fcw().to_le_bytes());
        put(area, 2, &self.x87.fsw().to_le_bytes());
        put(area, 4, &[self.x87.abridged_tags(), 0]);
        put(area, 6, &p.fop.to_le_bytes());
        for (at, offset, selector) in [(8, p.fip, p.fcs), (16, p.fdp, p.fds)] {
            match width {
                PointerWidth::Quad => put(area, at, &offset.to_le_bytes()),
                PointerWidth::Selector => {
                    put(area, at, &(offset as u32).to_le_bytes());
                    put(area, at + 4, &u32::from(selector).to_le_bytes());
                }
            }
        }
        for i in 0..8 {
            put(area, 32 + i * 16, &self.x87.st(i));
            put(area, 42 + i * 16, &[0; 6]);
        }
    }

    /// Writes MXCSR and MXCSR_MASK: bytes 24..32.
    pub fn save_mxcsr(&self, area: &mut [u8]) {
        put(area, 24, &self.mxcsr().to_le_bytes());
        put(area, 28, &super::mxcsr_mask().to_le_bytes());
    }

    /// Writes XMM0-15 of the legacy area: bytes 160..416 (or the first `count` of them).
    pub fn save_xmm(&self, area: &mut [u8], count: usize) {
        for (i, z) in self.zmm.iter().take(count.min(16)).enumerate() {
            put(area, 160 + i * 16, &z.low().to_le_bytes());
        }
    }

    /// Writes one extended component at the start of `area` (its layout there is the same in both formats).
    pub fn save_component(&self, feature: u64, area: &mut [u8]) {
        match feature {
            XFEATURE_OPMASK => {
                for (i, k) in self.k.iter().enumerate() {
                    put(area, i * 8, &k.to_le_bytes());
                }
            }
            _ => {
                let Some((registers, bytes)) = register_part(feature) else {
                    return;
                };
                let size = bytes.len();
                for (i, z) in self.zmm[registers].iter().enumerate() {
                    put(area, i * size, &z.to_bytes()[bytes.clone()]);
                }
            }
        }
    }

    /// Writes the components in `features` to a standard-format image, with a header whose XSTATE_BV is `features`. An
    /// image too short for a component does not get it.
    pub fn to_xsave(&self, features: u64, area: &mut [u8], width: PointerWidth) {
        if features & XFEATURE_X87 != 0 {
            self.save_x87(area, width);
        }
        if features & (XFEATURE_SSE | XFEATURE_AVX) != 0 {
            self.save_mxcsr(area);
        }
        if features & XFEATURE_SSE != 0 {
            self.save_xmm(area, 16);
        }
        put(area, XSAVE_HEADER, &(features & XFEATURES).to_le_bytes());
        put(area, XSAVE_HEADER + 8, &[0; 56]);
        for bit in 2..8 {
            let feature = 1 << bit;
            if let Some((at, size)) = component(feature).filter(|_| features & feature != 0)
                && let Some(part) = area.get_mut(at..at + size)
            {
                self.save_component(feature, part);
            }
        }
    }

    /// Reads the x87 part of the legacy area.
    pub fn load_x87(&mut self, area: &[u8], width: PointerWidth) {
        let x87 = &mut self.x87;
        x87.image.fsw = u16::from_le_bytes(get(area, 2));
        x87.set_fcw(u16::from_le_bytes(get(area, 0)));
        x87.set_abridged_tags(get::<1>(area, 4)[0]);
        let pointer = |at: usize| match width {
            PointerWidth::Quad => (u64::from_le_bytes(get(area, at)), 0),
            PointerWidth::Selector => (
                u32::from_le_bytes(get(area, at)).into(),
                u16::from_le_bytes(get(area, at + 4)),
            ),
        };
        let ((fip, fcs), (fdp, fds)) = (pointer(8), pointer(16));
        x87.pointers = X87Pointers {
            fop: u16::from_le_bytes(get(area, 6)) & 0x7ff,
            fip,
            fcs,
            fdp,
            fds,
        };
        for i in 0..8 {
            x87.set_st(i, get(area, 32 + i * 16));
        }
    }

    /// Reads XMM0-15 (or the first `count` of them) of the legacy area.
    pub fn load_xmm(&mut self, area: &[u8], count: usize) {
        for (i, z) in self.zmm.iter_mut().take(count.min(16)).enumerate() {
            z.set_low(u128::from_le_bytes(get(area, 160 + i * 16)));
        }
    }

    /// Reads MXCSR from the legacy area; nothing changes if it has reserved bits.
    pub fn load_mxcsr(&mut self, area: &[u8]) -> Result<(), ReservedBits> {
        self.set_mxcsr(u32::from_le_bytes(get(area, 24)))
    }

    /// Reads one extended component from the start of `area`.
    pub fn load_component(&mut self, feature: u64, area: &[u8]) {
        match feature {
            XFEATURE_OPMASK => {
                for (i, k) in self.k.iter_mut().enumerate() {
                    *k = u64::from_le_bytes(get(area, i * 8));
                }
            }
            _ => {
                let Some((registers, bytes)) = register_part(feature) else {
                    return;
                };
                let size = bytes.len();
                for (i, z) in self.zmm[registers].iter_mut().enumerate() {
                    let mut whole = z.to_bytes();
                    if let Some(part) = area.get(i * size..(i + 1) * size) {
                        whole[bytes.clone()].copy_from_slice(part);
                    }
                    *z = Zmm::from_bytes(&whole);
                }
            }
        }
    }

    /// Reads a standard-format image as XRSTOR does with `features` as its mask: components that XSTATE_BV leaves out take
    /// their initial configuration. Nothing changes if MXCSR has reserved bits. The header itself is not checked.
    pub fn from_xsave(
        &mut self,
        features: u64,
        area: &[u8],
        width: PointerWidth,
    ) -> Result<(), ReservedBits> {
        let present = u64::from_le_bytes(get(area, XSAVE_HEADER));
        if features & (XFEATURE_SSE | XFEATURE_AVX) != 0 {
            self.load_mxcsr(area)?;
        }
        self.reset(features & !present);
        let load = features & present;
        if load & XFEATURE_X87 != 0 {
            self.load_x87(area, width);
        }
        if load & XFEATURE_SSE != 0 {
            self.load_xmm(area, 16);
        }
        for bit in 2..8 {
            let feature = 1 << bit;
            if let Some((at, size)) = component(feature).filter(|_| load & feature != 0) {
                self.load_component(feature, area.get(at..at + size).unwrap_or_default());
            }
        }
        Ok(())
    }
}

/// Which registers, and which of their bytes, a component holds.
fn register_part(feature: u64) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    match feature {
        XFEATURE_AVX => Some((0..16, 16..32)),
        XFEATURE_ZMM_HI256 => Some((0..16, 32..64)),
        XFEATURE_HI16_ZMM => Some((16..32, 0..64)),
        _ => None,
    }
}
