//! Instructions of the general registers and one memory operand.

use super::homes::at_home;
use super::x87::is_x87;
use super::{Emitted, Level, NotHere, Spot, Touch, Translator};
use crate::context::{VALUE, home};
use crate::emit::{R14, R15, Reg, Width};
use crate::flags::{Maker, scratch_of};
use crate::registers::{self, is_high_byte, is_written, number, sized};
use iced_x86::{Code, Instruction, MemoryOperand, Mnemonic, OpAccess, OpKind, Register};
use ring3_host::native::{MemoryOperand as MemoryOperandInfo, StateClass};
use ring3_x86_cpu::exec::native;

/// Whether AH or its kin is an operand: it is another register where a register of ours needs a prefix.
fn has_high_byte(instr: &Instruction) -> bool {
    registers::operands(instr).any(is_high_byte)
}

/// Instructions that do the same on the host's registers and memory as on the guest's.
fn is_plain(instr: &Instruction) -> bool {
    use Mnemonic as M;
    let operands = (0..instr.op_count()).all(|n| match instr.op_kind(n) {
        OpKind::Register => instr.op_register(n).is_gpr(),
        OpKind::Memory => instr.memory_size().size() <= 8,
        kind => !matches!(kind, OpKind::FarBranch16 | OpKind::FarBranch32) && !is_implicit_memory(kind),
    });
    let known = matches!(
        instr.mnemonic(),
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Add
            | M::Sub
            | M::And
            | M::Or
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Adc
            | M::Sbb
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Imul
            | M::Mul
            | M::Div
            | M::Idiv
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Bsf
            | M::Bsr
            | M::Tzcnt
            | M::Lzcnt
            | M::Popcnt
            | M::Bswap
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cdq
            | M::Cqo
            | M::Cdqe
            | M::Cwde
            | M::Cbw
            | M::Cwd
            | M::Andn
            | M::Bextr
            | M::Blsi
            | M::Blsmsk
            | M::Blsr
            | M::Bzhi
            | M::Mulx
            | M::Pdep
            | M::Pext
            | M::Rorx
            | M::Sarx
            | M::Shlx
            | M::Shrx
            | M::Movbe
            | M::Crc32
            | M::Adcx
            | M::Adox
            | M::Cmc
            | M::Clc
            | M::Stc
            | M::Lahf
            | M::Sahf
            | M::Lea
    );
    operands && !has_offset_only(instr) && (known || is_conditional(instr))
}

/// MOV with a 64-bit address and nothing else.
fn has_offset_only(instr: &Instruction) -> bool {
    use Code as C;
    matches!(
        instr.code(),
        C::Mov_AL_moffs8
            | C::Mov_AX_moffs16
            | C::Mov_EAX_moffs32
            | C::Mov_RAX_moffs64
            | C::Mov_moffs8_AL
            | C::Mov_moffs16_AX
            | C::Mov_moffs32_EAX
            | C::Mov_moffs64_RAX
    )
}

/// CMOVcc and SETcc.
fn is_conditional(instr: &Instruction) -> bool {
    instr.encoding() == iced_x86::EncodingKind::Legacy
        && instr.condition_code() != iced_x86::ConditionCode::None
        && !instr.is_jcc_short_or_near()
        && !instr.is_loopcc()
}

fn is_implicit_memory(kind: OpKind) -> bool {
    use OpKind as K;
    matches!(
        kind,
        K::MemorySegSI
            | K::MemorySegESI
            | K::MemorySegRSI
            | K::MemorySegDI
            | K::MemorySegEDI
            | K::MemorySegRDI
            | K::MemoryESDI
            | K::MemoryESEDI
            | K::MemoryESRDI
    )
}

/// Instructions on registers that cannot fail.
pub(super) fn is_harmless(instr: &Instruction) -> bool {
    does_nothing(instr)
        || is_plain(instr) && !is_division(instr) && !touches_memory(instr) && !has_high_byte(instr)
}

fn is_division(instr: &Instruction) -> bool {
    matches!(instr.mnemonic(), Mnemonic::Div | Mnemonic::Idiv)
}

/// Whether an instruction takes a lookup or its like, in which the host's flags are lost: those that read or write memory, not
/// those that only name it; and those that may have to have the x87 state brought.
pub(super) fn touches_memory(instr: &Instruction) -> bool {
    if is_x87(instr) {
        return true;
    }
    let memory = |kind| kind == OpKind::Memory || is_implicit_memory(kind);
    let names = (0..instr.op_count()).any(|k| memory(instr.op_kind(k)));
    names && instr.mnemonic() != Mnemonic::Lea && !does_nothing(instr) || instr.is_stack_instruction()
}

/// Whether the access to memory is locked, which XCHG's always is.
fn is_locked(instr: &Instruction) -> bool {
    let exchanges = instr.mnemonic() == Mnemonic::Xchg && instr.op0_kind() == OpKind::Memory;
    exchanges || instr.has_lock_prefix()
}

/// Instructions that leave no trace.
fn does_nothing(instr: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instr.mnemonic(),
        M::Nop
            | M::Endbr64
            | M::Endbr32
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetchw
    )
}

impl Translator<'_> {
    pub(super) fn operation(&mut self, n: usize, instr: &Instruction) -> Emitted {
        if does_nothing(instr) {
            return Ok(());
        }
        if matches!(
            instr.mnemonic(),
            Mnemonic::Mfence | Mnemonic::Lfence | Mnemonic::Sfence
        ) {
            return self.copy(n);
        }
        if self.source.core.reports_bus_locks && is_locked(instr) {
            return Err(NotHere);
        }
        if !is_plain(instr) {
            return self.host_step(n, instr);
        }
        if instr.mnemonic() == Mnemonic::Lea {
            return self.load_address(instr);
        }
        if (0..instr.op_count()).any(|n| instr.op_kind(n) == OpKind::Memory) {
            return self.with_memory(instr);
        }
        self.registers(n, instr, is_division(instr))
    }

    /// What the interpreter has the host do: the same, without the detour.
    fn host_step(&mut self, n: usize, instr: &Instruction) -> Emitted {
        if is_x87(instr) {
            return self.x87(n, instr);
        }
        let info = native::step_info(self.source.core, &self.source.trace.steps[n].op).ok_or(NotHere)?;
        let level = match info.class {
            StateClass::General => Level::None,
            StateClass::Sse => Level::Sse,
            StateClass::Avx => Level::Avx,
            StateClass::Avx512 => Level::Avx512,
            StateClass::X87 | StateClass::Mmx | StateClass::MmxSse => return Err(NotHere),
        };
        // These clear more registers in 64-bit code.
        let clears = matches!(instr.mnemonic(), Mnemonic::Vzeroall | Mnemonic::Vzeroupper);
        if clears && self.source.width == Width::Four {
            return Err(NotHere);
        }
        let implicit = (0..instr.op_count()).any(|k| is_implicit_memory(instr.op_kind(k)));
        if level > self.source.level || implicit || instr.is_vsib() {
            return Err(NotHere);
        }
        let memory = info.memory;
        if level != Level::None {
            self.need_vector();
        }
        match memory {
            None => self.registers(n, instr, true),
            Some(memory) => self.with_host_operand(instr, &memory),
        }
    }

    /// The instruction, with the memory operand that the host says it has.
    pub(super) fn with_host_operand(&mut self, instr: &Instruction, memory: &MemoryOperandInfo) -> Emitted {
        let touch = if memory.direction.writes() {
            Touch::Write
        } else {
            Touch::Read
        };
        if usize::from(memory.size) != instr.memory_size().size() {
            self.member = None;
        }
        self.with_operand(instr, memory.size.into(), touch)
    }

    /// The instruction as it is: its bytes, unless they say something else in 64-bit code.
    fn copy(&mut self, n: usize) -> Emitted {
        let step = &self.source.trace.steps[n];
        match self.source.width {
            Width::Eight => self.e.raw(step.bytes()),
            Width::Four => self.e.instruction(&step.instr)?,
        }
        Ok(())
    }

    pub(super) fn registers(&mut self, n: usize, instr: &Instruction, faults: bool) -> Emitted {
        let moved = |reg: Register| reg.is_gpr() && !is_high_byte(reg) && !self.is_kept(reg);
        if !registers::operands(instr).any(moved) {
            if faults {
                self.may_fault();
            }
            self.maker = self.keep_maker(instr);
            return self.copy(n);
        }
        if has_high_byte(instr) {
            return Err(NotHere);
        }
        if let Some(host) = self.on_home(instr) {
            if faults {
                self.may_fault();
            }
            self.e.instruction(&host)?;
            self.maker = Maker::of(&host);
            return Ok(());
        }
        self.lose_r15();
        self.substituted(*instr, &[R14, R15], faults)
    }

    /// What can make the flags of a host instruction again. Its operand is kept first, if it takes that and the flags will be
    /// in the way.
    fn keep_maker(&mut self, host: &Instruction) -> Option<Maker> {
        if let Some(on_value) = Maker::on_value(host).filter(|_| self.flags_meet_lookup()) {
            self.e.store(VALUE, Reg(number(host.op0_register()) as u8));
            return Some(Maker::OnValue(on_value));
        }
        Maker::of(host)
    }

    /// The instruction on the home of its one displaced register, if that can be.
    fn on_home(&mut self, instr: &Instruction) -> Option<Instruction> {
        let mut host = *instr;
        let mut displaced = None;
        for k in 0..instr.op_count() {
            if instr.op_kind(k) != OpKind::Register {
                continue;
            }
            let reg = instr.op_register(k);
            if !reg.is_gpr() {
                continue;
            }
            match self.host_of(number(reg)) {
                Some(place) => host.set_op_register(k, sized(usize::from(place.0), reg.size())),
                None if displaced.replace(k).is_some() => return None,
                None => {}
            }
        }
        let k = displaced?;
        let written = is_written(self.info.info(instr).op_access(k));
        at_home(&host, k, number(instr.op_register(k)), written)
    }

    /// The instruction with the registers that are elsewhere replaced: RSP by R13, the displaced ones by scratch.
    fn substituted(&mut self, mut instr: Instruction, scratch: &[Reg], faults: bool) -> Emitted {
        let original = instr;
        let mut held: Vec<(usize, Reg)> = Vec::new();
        let mut written = [false; 16];
        let mut read = [false; 16];
        for k in 0..original.op_count() {
            if original.op_kind(k) != OpKind::Register {
                continue;
            }
            let reg = original.op_register(k);
            if is_high_byte(reg) || !reg.is_gpr() {
                continue;
            }
            let guest = number(reg);
            let host = if let Some(host) = self.host_of(guest) {
                usize::from(host.0)
            } else {
                let known = held
                    .iter()
                    .find(|(other, _)| *other == guest)
                    .map(|(_, host)| *host);
                let host = match known {
                    Some(host) => host,
                    None => {
                        let host = *scratch.get(held.len()).ok_or(NotHere)?;
                        held.push((guest, host));
                        host
                    }
                };
                let access = self.info.info(&original).op_access(k);
                written[guest] |= is_written(access);
                read[guest] |= access != OpAccess::Write || reg.size() < 4;
                usize::from(host.0)
            };
            instr.set_op_register(k, sized(host, reg.size()));
        }
        for (guest, host) in held.iter().filter(|(guest, _)| read[*guest]) {
            self.e.load(*host, home(Reg(*guest as u8)));
        }
        if faults {
            self.may_fault();
        }
        self.maker = if held.is_empty() {
            self.keep_maker(&instr)
        } else {
            None
        };
        self.e.instruction(&instr)?;
        for (guest, host) in &held {
            if written[*guest] {
                self.e.store(home(Reg(*guest as u8)), *host);
            }
        }
        Ok(())
    }

    fn with_memory(&mut self, instr: &Instruction) -> Emitted {
        // The bit may lie outside of the operand.
        let string_of_bits = matches!(
            instr.mnemonic(),
            Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
        ) && instr.op1_kind() == OpKind::Register;
        if string_of_bits {
            return Err(NotHere);
        }
        let size = instr.memory_size().size();
        let info = self.info.info(instr);
        let writes = info
            .used_memory()
            .iter()
            .any(|m| !matches!(m.access(), OpAccess::Read | OpAccess::CondRead));
        let touch = if writes { Touch::Write } else { Touch::Read };
        self.with_operand(instr, size, touch)
    }

    /// The instruction, its memory operand of `size` bytes looked up.
    pub(super) fn with_operand(&mut self, instr: &Instruction, size: usize, touch: Touch) -> Emitted {
        if has_high_byte(instr) {
            return Err(NotHere);
        }
        let stack = self.off_stack(instr);
        let spot = self.reach(size, touch, stack, |t| t.address(instr, size))?;
        let displaced =
            registers::operands(instr).any(|reg| reg.is_gpr() && self.host_of(number(reg)).is_none());
        if self.is_comparison(instr) {
            return self.compare_value(instr, size, spot);
        }
        let mut host = *instr;
        let index = self.place_operand(&mut host, spot, displaced);
        let scratch: &[Reg] = if index == Register::None { &[R14] } else { &[] };
        self.substituted(host, scratch, true)
    }

    /// Puts the place of the access into the host's instruction; R14 is free if there is no index then.
    pub(super) fn place_operand(&mut self, host: &mut Instruction, spot: Spot, join: bool) -> Register {
        host.set_segment_prefix(Register::None);
        host.set_memory_index_scale(1);
        let (base, index, offset) = match spot {
            Spot::At(offset) => (Register::R15, Register::None, offset),
            Spot::Sum if join => {
                self.join();
                (Register::R15, Register::None, 0)
            }
            Spot::Sum => (Register::R14, Register::R15, 0),
        };
        host.set_memory_base(base);
        host.set_memory_index(index);
        host.set_memory_displacement64(i64::from(offset) as u64);
        host.set_memory_displ_size(u32::from(offset != 0));
        index
    }

    /// Whether an instruction only compares memory with a constant or a register, and its flags will be in the way: then they
    /// can be made again if the value is kept.
    fn is_comparison(&self, instr: &Instruction) -> bool {
        let other = match (instr.op0_kind(), instr.op1_kind()) {
            (OpKind::Memory, OpKind::Register) => self.is_kept(instr.op1_register()),
            (OpKind::Register, OpKind::Memory) => self.is_kept(instr.op0_register()),
            (OpKind::Memory, _) => true,
            _ => false,
        };
        other && matches!(instr.mnemonic(), Mnemonic::Cmp | Mnemonic::Test) && self.flags_meet_lookup()
    }

    /// A comparison of the value at that place, which is kept.
    fn compare_value(&mut self, instr: &Instruction, size: usize, spot: Spot) -> Emitted {
        let code = match size {
            8 => Code::Mov_r64_rm64,
            4 => Code::Mov_r32_rm32,
            2 => Code::Movzx_r32_rm16,
            _ => Code::Movzx_r32_rm8,
        };
        let to = if size == 8 { Register::R14 } else { Register::R14D };
        let nowhere = MemoryOperand::with_base(Register::R15);
        let mut load = Instruction::with2(code, to, nowhere)?;
        self.place_operand(&mut load, spot, false);
        // The slow way knows no value that could be kept.
        self.leads = true;
        self.may_fault();
        self.e.instruction(&load)?;
        self.e.store(VALUE, R14);
        let mut compare = *instr;
        compare.set_segment_prefix(Register::None);
        let value = scratch_of(size);
        if instr.op0_kind() == OpKind::Memory {
            compare.set_op0_kind(OpKind::Register);
            compare.set_op0_register(value);
        } else {
            compare.set_op1_kind(OpKind::Register);
            compare.set_op1_register(value);
        }
        compare.set_memory_base(Register::None);
        compare.set_memory_index(Register::None);
        compare.set_memory_displacement64(0);
        self.e.instruction(&compare)?;
        self.maker = Some(Maker::OnValue(compare));
        Ok(())
    }
}
