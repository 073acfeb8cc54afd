//! Instructions that the host CPU executes: the checks before, the memory operand's way in and out, the faults
//! after.

use crate::mmu::Class;
use crate::mmu::access::size_mask;
use crate::op::{Handler, Op};
use crate::state::{CR0_EM, CR0_MP, CR0_NE, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE, CS, RIP_SLOT};
use crate::world::Access;
use crate::{Core, Fault, Step, Stop, World};
use ring3_host::native::{EnvLayout, MemoryOperand, NativeStep, Outcome, StateClass, StepInfo, X87Pointers};

/// AMD's misaligned SSE mode.
const MXCSR_MM: u32 = 1 << 17;
/// XCR0: SSE and AVX; with the three AVX-512 components.
const XCR0_AVX: u64 = 0b110;
const XCR0_AVX512: u64 = 0b1110_0110;

/// What the host does for an operation, if the host does it.
pub fn step_info<'a>(core: &'a Core, op: &Op) -> Option<&'a StepInfo> {
    let handlers = [registers_only as Handler, with_memory];
    let is_native = handlers
        .iter()
        .any(|handler| std::ptr::fn_addr_eq(op.run, *handler));
    let step = core.native.get(op.imm as usize).filter(|_| is_native)?;
    Some(step.info())
}

impl Core {
    /// #UD and #NM as the class of state demands.
    #[inline(always)]
    pub fn check_state_class(&self, class: StateClass, vex: bool) -> Step {
        let state = &self.state;
        if vex && self.mode.real_segments {
            return Err(Fault::UD.into());
        }
        let emulated = state.cr0 & CR0_EM != 0;
        let no_sse = state.cr4 & CR4_OSFXSR == 0;
        let undefined = match class {
            StateClass::General => return Ok(()),
            StateClass::X87 => {
                if emulated {
                    return Err(Fault::NM.into());
                }
                false
            }
            StateClass::Mmx => emulated,
            StateClass::MmxSse | StateClass::Sse => emulated || no_sse,
            StateClass::Avx => state.cr4 & CR4_OSXSAVE == 0 || state.xcr0 & XCR0_AVX != XCR0_AVX,
            StateClass::Avx512 => state.cr4 & CR4_OSXSAVE == 0 || state.xcr0 & XCR0_AVX512 != XCR0_AVX512,
        };
        if undefined {
            return Err(Fault::UD.into());
        }
        if state.cr0 & CR0_TS != 0 {
            return Err(Fault::NM.into());
        }
        Ok(())
    }

    /// #MF, if an unmasked x87 exception is pending and the guest wants it that way. With CR0.NE clear the
    /// processor would assert FERR#, which no chipset here is wired to; the exception is reported all the same.
    fn check_pending_x87(&self) -> Step {
        let _ = CR0_NE;
        if self.state.vector.x87.exception_pending() {
            Err(Fault::MF.into())
        } else {
            Ok(())
        }
    }
}

/// The checks common to both handlers; the step, cheaply cloned out of the core.
#[inline(always)]
fn begin(core: &mut Core, op: &Op) -> Step<NativeStep> {
    let Some(step) = core.native.get(op.imm as usize) else {
        return Err(Stop::Unsupported);
    };
    let info = step.info();
    core.check_state_class(info.class, info.vex)?;
    if info.checks_pending_x87 {
        core.check_pending_x87()?;
    }
    Ok(step.clone())
}

/// Runs the step on the guest's state and turns its outcome into a fault.
#[inline(always)]
fn run(core: &mut Core, op: &Op, step: &NativeStep) -> Step<bool> {
    let info = step.info();
    if info.flags_read | info.flags_written != 0 {
        core.frame.rflags = core.state.flags.arithmetic();
    }
    if info.class == StateClass::X87 {
        core.frame.env_layout = if core.mode.real_segments {
            EnvLayout::Real
        } else {
            EnvLayout::Protected
        };
        let rip = core.state.gpr[usize::from(RIP_SLOT)].wrapping_add(u64::from(op.start));
        core.frame.x87_pointers = X87Pointers {
            fip: rip,
            fcs: core.state.seg[CS].selector,
            fdp: core.offset(op) & size_mask(op.address_size),
            fds: core.state.seg[usize::from(op.seg).min(5)].selector,
            fop: u16::from(op.dst) << 8 | u16::from(op.src),
        };
    }
    let Some(gpr) = core.state.gpr.first_chunk_mut::<16>() else {
        return Err(Stop::Unsupported);
    };
    let outcome = step.run(&mut core.frame, &mut core.state.vector, gpr);
    match outcome {
        Outcome::Done | Outcome::DoneWithoutStore => {
            if info.flags_written != 0 {
                let mask = u64::from(info.flags_written) & crate::state::flags::ARITHMETIC;
                core.state.flags.update(mask, core.frame.rflags);
            }
            Ok(outcome == Outcome::Done)
        }
        Outcome::SimdException if core.state.cr4 & CR4_OSXMMEXCPT == 0 => Err(Fault::UD.into()),
        Outcome::SimdException => Err(Fault::XM.into()),
        Outcome::GeneralProtection => Err(Fault::GP0.into()),
        Outcome::X87Exception => Err(Fault::MF.into()),
    }
}

/// FWAIT, which minds CR0.MP and not CR0.EM.
pub fn wait(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    let monitored = CR0_MP | CR0_TS;
    if core.state.cr0 & monitored == monitored {
        return Err(Fault::NM.into());
    }
    core.check_pending_x87()
}

pub fn registers_only(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    let step = begin(core, op)?;
    run(core, op, &step).map(|_| ())
}

pub fn with_memory(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let step = begin(core, op)?;
    let Some(memory) = step.info().memory else {
        return Err(Stop::Unsupported);
    };
    if memory.is_masked() {
        return with_masked_memory(core, op, world, &step, &memory);
    }
    let size = usize::from(memory.size);
    let linear = core.address(op, u64::from(memory.extent), access(&memory))?;
    check_alignment(core, &memory, linear, op.seg)?;
    if memory.direction.writes() {
        core.probe_run(world, linear, size, op.seg)?;
    }
    if memory.direction.reads() {
        load_operand(core, world, linear, size, op.seg)?;
    }
    let store = run(core, op, &step)?;
    if memory.direction.writes() && store {
        store_operand(core, world, linear, size, op.seg)?;
    }
    Ok(())
}

fn access(memory: &MemoryOperand) -> Access {
    if memory.direction.writes() {
        Access::Write
    } else {
        Access::Read
    }
}

/// Only the bytes that the mask selects are looked at, by segment limits and paging alike.
fn with_masked_memory(
    core: &mut Core,
    op: &Op,
    world: &mut dyn World,
    step: &NativeStep,
    memory: &MemoryOperand,
) -> Step {
    let touched = step.touched(&core.state.vector);
    let address = |core: &Core, start: usize, len: usize| {
        let mut part = *op;
        part.disp = op.disp.wrapping_add(start as u64);
        core.address(&part, len as u64, access(memory))
    };
    if let Some((start, len)) = runs(touched).next() {
        // Of the first element alone: the others' turn comes later.
        let element = len.min(usize::from(memory.checked.max(1)));
        let linear = address(core, start, element)?.wrapping_sub(start as u64);
        check_alignment(core, memory, linear, op.seg)?;
    }
    for (start, len) in runs(touched) {
        let at = address(core, start, len)?;
        if memory.direction.writes() {
            core.probe_run(world, at, len, op.seg)?;
        }
        if memory.direction.reads() {
            let mut bytes = [0; 64];
            core.read_run(world, at, &mut bytes[..len], op.seg)?;
            core.frame.mem[start..start + len].copy_from_slice(&bytes[..len]);
        }
    }
    let store = run(core, op, step)?;
    if !memory.direction.writes() || !store {
        return Ok(());
    }
    for (start, len) in runs(touched) {
        let mut bytes = [0; 64];
        bytes[..len].copy_from_slice(&core.frame.mem[start..start + len]);
        let at = address(core, start, len)?;
        core.write_run(world, at, &bytes[..len], op.seg)?;
    }
    Ok(())
}

/// What the operand itself demands, and then what RFLAGS.AC does.
#[inline(always)]
fn check_alignment(core: &Core, memory: &MemoryOperand, linear: u64, seg: u8) -> Step {
    let misaligned = |by: u8| linear & (u64::from(by).max(1) - 1) != 0;
    if misaligned(memory.alignment) && !(memory.relaxed && core.state.vector.mxcsr() & MXCSR_MM != 0) {
        return Err(Fault::GP0.into());
    }
    if core.mmu.class() == Class::Checked && misaligned(memory.checked) {
        core.check_canonical(linear, memory.size.into(), seg)?;
        return Err(Fault::AC0.into());
    }
    Ok(())
}

/// Brings the memory operand into the frame; straight from the page when the TLB has it.
#[inline(always)]
fn load_operand(core: &mut Core, world: &mut dyn World, linear: u64, size: usize, seg: u8) -> Step {
    let entry = core.mmu.entry(linear);
    let offset = linear.wrapping_sub(entry.read);
    if offset <= 4096 - size as u64 {
        let page = entry.page;
        let offset = offset as usize;
        let done = match size {
            4 => page
                .load::<u32>(offset)
                .map(|v| core.frame.mem[..4].copy_from_slice(&v.to_le_bytes())),
            8 => page
                .load::<u64>(offset)
                .map(|v| core.frame.mem[..8].copy_from_slice(&v.to_le_bytes())),
            16 => page
                .load::<u128>(offset)
                .map(|v| core.frame.mem[..16].copy_from_slice(&v.to_le_bytes())),
            _ => page.read(offset, &mut core.frame.mem[..size]),
        };
        if done.is_ok() {
            return Ok(());
        }
    }
    let mut bytes = [0; 128];
    core.read_run(world, linear, &mut bytes[..size], seg)?;
    core.frame.mem[..size].copy_from_slice(&bytes[..size]);
    Ok(())
}

#[inline(always)]
fn store_operand(core: &mut Core, world: &mut dyn World, linear: u64, size: usize, seg: u8) -> Step {
    let entry = core.mmu.entry(linear);
    let offset = linear.wrapping_sub(entry.write);
    if offset <= 4096 - size as u64 {
        let page = entry.page;
        let offset = offset as usize;
        let word = |n: usize| {
            core.frame.mem[..n]
                .iter()
                .rev()
                .fold(0u128, |v, b| v << 8 | u128::from(*b))
        };
        let done = match size {
            4 => page.store::<u32>(offset, word(4) as u32),
            8 => page.store::<u64>(offset, word(8) as u64),
            16 => page.store::<u128>(offset, word(16)),
            _ => page.write(offset, &core.frame.mem[..size]),
        };
        if done.is_ok() {
            return Ok(());
        }
    }
    let bytes = core.frame.mem;
    core.write_run(world, linear, &bytes[..size], seg)
}

/// The runs of set bits: where each begins and how long it is.
fn runs(bits: u64) -> impl Iterator<Item = (usize, usize)> {
    let mut left = bits;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let start = left.trailing_zeros() as usize;
        let len = (left >> start).trailing_ones() as usize;
        let mask = if len == 64 {
            u64::MAX
        } else {
            ((1 << len) - 1) << start
        };
        left &= !mask;
        Some((start, len))
    })
}

/// Gathers and scatters, an element at a time; each finished element clears its mask bit, so that a fault leaves
/// the instruction restartable.
pub fn indexed(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let Some(&form) = core.indexed.get(op.imm as usize) else {
        return Err(Stop::Unsupported);
    };
    let wide = matches!(core.indexed_class(op), StateClass::Avx512);
    core.check_state_class(if wide { StateClass::Avx512 } else { StateClass::Avx }, true)?;
    let mut pending = form.pending(&core.state.vector);
    while pending != 0 {
        let lane = pending.trailing_zeros() as usize;
        pending &= pending - 1;
        let mut element = *op;
        let index = (form.index(&core.state.vector, lane) as u64) << (op.scale & 3);
        element.disp = op.disp.wrapping_add(index);
        let size = u64::from(form.element);
        let access = if form.scatter { Access::Write } else { Access::Read };
        form.reach(&mut core.state.vector, lane);
        let linear = core.address(&element, size, access)?;
        // Alignment is not checked.
        if form.scatter {
            let value = form.element(&core.state.vector, lane).to_le_bytes();
            core.write_run(world, linear, &value[..size as usize], op.seg)?;
            form.done(&mut core.state.vector, lane);
        } else {
            let mut value = [0; 8];
            core.read_run(world, linear, &mut value[..size as usize], op.seg)?;
            form.loaded(&mut core.state.vector, lane, u64::from_le_bytes(value));
        }
    }
    form.finish(&mut core.state.vector);
    Ok(())
}

impl Core {
    fn indexed_class(&self, op: &Op) -> StateClass {
        let code = op.code().op_code();
        if code.encoding() == iced_x86::EncodingKind::EVEX {
            StateClass::Avx512
        } else {
            StateClass::Avx
        }
    }
}
