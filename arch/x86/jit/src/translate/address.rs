//! Where memory operands are: from registers, displacement and segment to a linear address.

use super::access::OffStack;
use super::{Emitted, NotHere, Translator};
use crate::context::{FS_BASE, GS_BASE, home};
use crate::emit::{A, E, R14, R15, Reg, Width};
use crate::flat::NO_BASE;
use crate::registers::{self, number, sized};
use iced_x86::{Code, Instruction, MemoryOperand, Register};

impl Translator<'_> {
    /// Where the memory operand is off RSP, if it is.
    pub(super) fn off_stack(&self, instr: &Instruction) -> OffStack {
        let pointer = match self.source.width {
            Width::Four => Register::ESP,
            Width::Eight => Register::RSP,
        };
        let plain = instr.memory_base() == pointer
            && instr.memory_index() == Register::None
            && registers::is_in_flat_segment(instr);
        let displacement = i32::try_from(registers::displacement(instr)).ok();
        OffStack(displacement.filter(|_| plain))
    }

    /// R15 = the linear address of the memory operand of `size` bytes.
    pub(super) fn address(&mut self, instr: &Instruction, size: usize) -> Emitted {
        self.offset(instr, R15)?;
        match self.source.width {
            Width::Four => self.add_flat_segment(instr, size),
            Width::Eight => self.add_segment(instr),
        }
    }

    /// to = how far in its segment the memory operand is. R15 may be lost, and R14.
    pub(super) fn offset(&mut self, instr: &Instruction, to: Reg) -> Emitted {
        if instr.is_ip_rel_memory_operand() {
            if instr.memory_base() != Register::RIP {
                return Err(NotHere);
            }
            self.e.constant(to, instr.ip_rel_memory_address());
        } else if instr.memory_base() == Register::None && instr.memory_index() == Register::None {
            self.e.constant(to, instr.memory_displacement64());
        } else {
            let (base, index) = self.address_registers(instr)?;
            let wide = base.size().max(index.size()) != 4;
            if index == Register::None && instr.memory_displacement64() == 0 {
                let width = if wide { Width::Eight } else { Width::Four };
                self.e.mov_as(width, to, Reg(base.number() as u8));
                return Ok(());
            }
            let operand = MemoryOperand::new(
                base,
                index,
                instr.memory_index_scale(),
                instr.memory_displacement64() as i64,
                instr.memory_displ_size(),
                false,
                Register::None,
            );
            let (lea, size) = if wide {
                (Code::Lea_r64_m, 8)
            } else {
                (Code::Lea_r32_m, 4)
            };
            let lea = Instruction::with2(lea, sized(to.0.into(), size), operand)?;
            self.e.instruction(&lea)?;
        }
        Ok(())
    }

    /// Adds the base of the instruction's segment to R15.
    fn add_segment(&mut self, instr: &Instruction) -> Emitted {
        let base = match instr.memory_segment() {
            Register::FS => FS_BASE,
            Register::GS => GS_BASE,
            _ => return Ok(()),
        };
        self.e.load(R14, base);
        self.join();
        Ok(())
    }

    /// The same in 32-bit code, if the segment allows the access: else it has its slow way.
    fn add_flat_segment(&mut self, instr: &Instruction, size: usize) -> Emitted {
        let base = match instr.memory_segment() {
            Register::FS => FS_BASE,
            Register::GS => GS_BASE,
            Register::CS => return Err(NotHere),
            _ => return Ok(()),
        };
        self.before_lookup()?;
        // An operand must not run over the segment's end. cmp r15d, imm32
        self.e.raw(&[0x41, 0x81, 0xff]);
        self.e.raw(&(size as u32).wrapping_neg().to_le_bytes());
        let beyond = self.e.jump_if(A);
        self.e.load(R14, base);
        self.e.compare_constant(R14, NO_BASE);
        let unusable = self.e.jump_if(E);
        self.trouble.missed.extend([beyond, unusable]);
        self.e.lea_scaled_as(Width::Four, R15, R14, R15, 1);
        Ok(())
    }

    /// The host registers that base and index are in, brought to scratch where need be: the base to R15, the index to
    /// R14.
    pub(super) fn address_registers(&mut self, instr: &Instruction) -> Result<(Register, Register), NotHere> {
        let (base, index) = (instr.memory_base(), instr.memory_index());
        for reg in [base, index] {
            if reg != Register::None && !(reg.is_gpr() && reg.size() >= 4) {
                return Err(NotHere);
            }
        }
        let mut bring = |reg: Register, scratch: Reg| {
            if reg == Register::None {
                return reg;
            }
            let guest = number(reg);
            let host = self.swaps.host_of(guest).unwrap_or_else(|| {
                self.e.load(scratch, home(Reg(guest as u8)));
                scratch
            });
            sized(usize::from(host.0), reg.size())
        };
        Ok((bring(base, R15), bring(index, R14)))
    }

    pub(super) fn load_address(&mut self, instr: &Instruction) -> Emitted {
        let guest = number(instr.op0_register());
        let size = instr.op0_register().size();
        let place = self.host_of(guest);
        let base = instr.memory_base();
        if place.is_none() || base.is_gpr() && self.host_of(number(base)).is_none() {
            self.lose_r15();
        }
        let host = usize::from(place.unwrap_or(R15).0);
        if instr.is_ip_rel_memory_operand() {
            if size != 8 || instr.memory_base() != Register::RIP {
                return Err(NotHere);
            }
            self.e.constant(Reg(host as u8), instr.ip_rel_memory_address());
        } else {
            let (base, index) = self.address_registers(instr)?;
            if size == 2 && place.is_none() {
                return Err(NotHere);
            }
            let mut lea = *instr;
            lea.set_segment_prefix(Register::None);
            lea.set_memory_base(base);
            lea.set_memory_index(index);
            lea.set_op0_register(sized(host, size));
            self.e.instruction(&lea)?;
        }
        if place.is_none() {
            self.e.store(home(Reg(guest as u8)), R15);
        }
        Ok(())
    }
}
