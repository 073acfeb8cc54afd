//! From a decoded guest instruction to a [`NativeStep`], with a process-wide cache of forms.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use iced_x86::{CodeSize, EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register};

use super::access::memory_operand;
use super::allow::{StateClass, allowed, class, uses_mxcsr};
use super::arena::Arena;
use super::step::{Arithmetic, Body, NativeStep, Step, StepInfo, Thunk};
use super::thunk::{Plan, Uses, Width, assemble};
use super::x87_control::Control;

/// The instruction cannot be executed natively (or not on this host).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsupported;

impl From<iced_x86::IcedError> for Unsupported {
    fn from(_: iced_x86::IcedError) -> Self {
        Self
    }
}

/// RFLAGS' status flags: CF, PF, AF, ZF, SF, OF.
const STATUS: u32 = 0x8d5;
/// Forms remembered before the cache starts over; steps in use keep their code.
const MOST_FORMS: usize = 1 << 16;

#[derive(Default)]
struct Cache {
    /// By form and code size, which comparing instructions leaves out.
    forms: HashMap<(Instruction, CodeSize), NativeStep>,
    arena: Arena,
}

/// Prepares `instr`, decoded from 16-, 32- or 64-bit guest code, for native execution.
pub fn compile(instr: &Instruction) -> Result<NativeStep, Unsupported> {
    static CACHE: OnceLock<Mutex<Cache>> = OnceLock::new();
    if !allowed(instr) {
        return Err(Unsupported);
    }
    let form = normal_form(instr);
    let mut cache = CACHE
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let key = (form, form.code_size());
    if let Some(step) = cache.forms.get(&key) {
        return Ok(step.clone());
    }
    let step = NativeStep(Arc::new(build(&form, &mut cache.arena)?));
    if cache.forms.len() >= MOST_FORMS {
        cache.forms.clear();
    }
    cache.forms.insert(key, step.clone());
    Ok(step)
}

/// The same operation with the address taken out of the memory operand.
fn normal_form(instr: &Instruction) -> Instruction {
    let mut form = *instr;
    // Only these two do something else in other modes.
    if !matches!(form.mnemonic(), Mnemonic::Vzeroall | Mnemonic::Vzeroupper) {
        form.set_code_size(CodeSize::Code64);
    }
    form.set_segment_prefix(Register::None);
    form.set_has_rep_prefix(false);
    form.set_has_repne_prefix(false);
    for op in 0..form.op_count() {
        match form.op_kind(op) {
            OpKind::Memory => {
                form.set_memory_base(Register::RDI);
                form.set_memory_index(Register::None);
                form.set_memory_index_scale(1);
                form.set_memory_displacement64(0);
                form.set_memory_displ_size(0);
            }
            OpKind::MemorySegDI | OpKind::MemorySegEDI => form.set_op_kind(op, OpKind::MemorySegRDI),
            _ => {}
        }
    }
    form
}

fn build(form: &Instruction, arena: &mut Arena) -> Result<Step, Unsupported> {
    let mut factory = InstructionInfoFactory::new();
    let class = class(form);
    let control = Control::of(form);
    let details = factory.info(form);
    let memory = memory_operand(form, details, class).map_err(|()| Unsupported)?;
    let vex = !matches!(form.encoding(), EncodingKind::Legacy | EncodingKind::D3NOW);
    let mut info = StepInfo {
        class,
        vex,
        memory,
        checks_pending_x87: matches!(class, StateClass::X87 | StateClass::Mmx | StateClass::MmxSse),
        sets_x87_pointers: class == StateClass::X87 && control.is_none(),
        simd_exceptions: false,
        gpr_read: 0,
        gpr_written: 0,
        flags_read: arithmetic_flags(form.rflags_read()),
        flags_written: arithmetic_flags(form.rflags_modified()),
        flags_undefined: arithmetic_flags(form.rflags_undefined()),
    };
    if let Some(control) = control {
        info.checks_pending_x87 = control.waits();
        if control == Control::FnstswAx {
            (info.gpr_read, info.gpr_written) = (1, 1);
        }
        return Ok(Step {
            info,
            body: Body::Control(control),
        });
    }
    // CVTPI2PD from memory touches no MMX register, and does not enter MMX mode.
    if form.mnemonic() == Mnemonic::Cvtpi2pd && memory.is_some() {
        info.checks_pending_x87 = false;
    }
    let uses = Uses::of(form, details).ok_or(Unsupported)?;
    info.gpr_read = uses.gpr_read();
    info.gpr_written = uses.gpr_written();
    info.simd_exceptions = uses_mxcsr(form);
    // A shift by zero leaves the flags alone, so they have to be there; vector forms are never that subtle.
    let partial = info.flags_written != STATUS || class == StateClass::General;
    let plan = Plan {
        x87: matches!(class, StateClass::X87 | StateClass::Mmx | StateClass::MmxSse),
        mxcsr: info.simd_exceptions,
        load_flags: info.flags_read != 0 || info.flags_written != 0 && partial,
        store_flags: info.flags_written != 0,
    };
    let code = assemble(form, &uses, plan, vector_width())?;
    let arithmetic = match class {
        StateClass::X87 => Arithmetic::X87,
        _ if info.simd_exceptions => Arithmetic::Simd,
        _ => Arithmetic::None,
    };
    let (entry, chunk) = arena.add(&code).map_err(|_| Unsupported)?;
    Ok(Step {
        info,
        body: Body::Thunk(Thunk {
            entry,
            arithmetic,
            _chunk: chunk,
        }),
    })
}

/// iced's flag bits to RFLAGS bits; only the status flags.
fn arithmetic_flags(iced: u32) -> u32 {
    use iced_x86::RflagsBits as R;
    [
        (R::CF, 0),
        (R::PF, 2),
        (R::AF, 4),
        (R::ZF, 6),
        (R::SF, 7),
        (R::OF, 11),
    ]
    .into_iter()
    .filter(|&(bit, _)| iced & bit != 0)
    .fold(0, |flags, (_, position)| flags | 1 << position)
}

/// How wide this host's vector registers are.
fn vector_width() -> Width {
    if std::arch::is_x86_feature_detected!("avx512f") {
        Width::Zmm
    } else if std::arch::is_x86_feature_detected!("avx") {
        Width::Ymm
    } else {
        Width::Xmm
    }
}
