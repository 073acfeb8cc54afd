//! Gathers and scatters, which no step stands for, taken apart into elements.
//!
//! The interpreter loops over [`Indexed::pending`] in ascending order: address = base + `index(lane)` * scale +
//! displacement, then one element load or store. Each completed lane clears its mask element, so that a fault (or an
//! interrupt) between lanes leaves the architectural state from which the instruction can start again.

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};

use super::{VectorState, Zmm};

/// Which lanes take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mask {
    Opmask(usize),
    /// Sign bits of the elements of a vector register (AVX2 forms).
    Vector(usize),
}

/// A gather or scatter instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// Scatter: elements go to memory.
    pub scatter: bool,
    /// Bytes of an element, 4 or 8.
    pub element: u8,
    /// Elements.
    pub lanes: u8,
    data: usize,
    index: usize,
    index_size: u8,
    mask: Mask,
}

impl Indexed {
    /// Takes apart a VSIB instruction; `None` for others and for the prefetching forms. AVX2 forms whose destination, mask
    /// and index are not three different registers, and EVEX gathers whose destination is the index, are #UD: see
    /// [`Indexed::registers_collide`].
    pub fn of(instr: &Instruction) -> Option<Self> {
        use Mnemonic::*;
        let (scatter, index_size, element) = match instr.mnemonic() {
            Vpgatherdd | Vgatherdps => (false, 4, 4),
            Vpgatherdq | Vgatherdpd => (false, 4, 8),
            Vpgatherqd | Vgatherqps => (false, 8, 4),
            Vpgatherqq | Vgatherqpd => (false, 8, 8),
            Vpscatterdd | Vscatterdps => (true, 4, 4),
            Vpscatterdq | Vscatterdpd => (true, 4, 8),
            Vpscatterqd | Vscatterqps => (true, 8, 4),
            Vpscatterqq | Vscatterqpd => (true, 8, 8),
            _ => return None,
        };
        let data = if scatter {
            instr.op1_register()
        } else {
            instr.op0_register()
        };
        let index = instr.memory_index();
        let mask = match instr.encoding() {
            EncodingKind::EVEX => Mask::Opmask(instr.op_mask().number()),
            _ if instr.op2_kind() == OpKind::Register => Mask::Vector(instr.op2_register().number()),
            _ => return None,
        };
        if !data.is_vector_register() || !index.is_vector_register() || instr.op_mask() == Register::K0 {
            return None;
        }
        let lanes = (data.size() / usize::from(element)).min(index.size() / usize::from(index_size));
        Some(Self {
            scatter,
            element,
            lanes: lanes as u8,
            data: data.number() & 31,
            index: index.number() & 31,
            index_size,
            mask,
        })
    }

    /// Must the instruction be #UD because its registers are not distinct?
    pub fn registers_collide(&self) -> bool {
        match self.mask {
            Mask::Vector(mask) => mask == self.data || mask == self.index || self.data == self.index,
            Mask::Opmask(_) => !self.scatter && self.data == self.index,
        }
    }

    /// A bit for each lane still to be done.
    pub fn pending(&self, vector: &VectorState) -> u64 {
        let lanes = usize::from(self.lanes);
        match self.mask {
            Mask::Opmask(k) => vector.k[k & 7] & ((1 << lanes) - 1),
            Mask::Vector(register) => {
                let size = usize::from(self.element);
                (0..lanes)
                    .filter(|&i| vector.zmm[register & 31].lane(size, i) >> (size * 8 - 1) != 0)
                    .fold(0, |bits, i| bits | 1 << i)
            }
        }
    }

    /// The signed index of a lane.
    pub fn index(&self, vector: &VectorState, lane: usize) -> i64 {
        let value = vector.zmm[self.index].lane(self.index_size.into(), lane);
        if self.index_size == 4 {
            i64::from(value as u32 as i32)
        } else {
            value as i64
        }
    }

    /// A scatter's element to store.
    pub fn element(&self, vector: &VectorState, lane: usize) -> u64 {
        vector.zmm[self.data].lane(self.element.into(), lane)
    }

    /// A gather's element has been loaded.
    pub fn loaded(&self, vector: &mut VectorState, lane: usize, value: u64) {
        vector.zmm[self.data].set_lane(self.element.into(), lane, value);
        if matches!(self.mask, Mask::Opmask(_)) {
            // Until it is complete, as much is written as there are indices.
            self.clear_above(vector, self.element.max(self.index_size));
        }
        self.done(vector, lane);
    }

    /// All lanes before this one are behind: what a fault of this one leaves of the mask.
    pub fn reach(&self, vector: &mut VectorState, lane: usize) {
        if let Mask::Vector(register) = self.mask {
            for done in 0..lane {
                vector.zmm[register & 31].set_lane(self.element.into(), done, 0);
            }
        }
    }

    /// Clears the destination above its lanes, so many bytes wide.
    fn clear_above(&self, vector: &mut VectorState, lane: u8) {
        let mut whole = vector.zmm[self.data].to_bytes();
        whole[usize::from(self.lanes) * usize::from(lane)..].fill(0);
        vector.zmm[self.data] = Zmm::from_bytes(&whole);
    }

    /// A lane is complete: its mask element is cleared.
    pub fn done(&self, vector: &mut VectorState, lane: usize) {
        match self.mask {
            Mask::Opmask(k) => vector.k[k & 7] &= !(1 << (lane & 63)),
            Mask::Vector(register) => {
                vector.zmm[register & 31].set_lane(self.element.into(), lane, 0);
            }
        }
    }

    /// All lanes are complete: the mask is zero throughout, and so is the destination above its lanes.
    pub fn finish(&self, vector: &mut VectorState) {
        match self.mask {
            Mask::Opmask(k) => vector.k[k & 7] = 0,
            Mask::Vector(register) => vector.zmm[register & 31] = Zmm::default(),
        }
        if !self.scatter {
            self.clear_above(vector, self.element);
        }
    }
}
