//! The guest's x87 and MMX state in the host's x87 unit, and its way there and back.
//!
//! Translated code that needs it looks whether it is there ([`X87_LOADED`]). It is brought there only while all of its exceptions are
//! masked, so that none is pending and none of the host's can be raised. Whatever leaves translated code, a callout too, takes it
//! back to memory first.
//!
//! The pointers to the last instruction and operand are not the host's, which knows other addresses: translated code notes
//! which instruction it was, and [`show_pointers`] enters it in the state.

use crate::callout::Site;
use crate::context::*;
use crate::emit::*;
use ring3_host::native::VectorState;
use ring3_x86_cpu::Core;
use ring3_x86_cpu::op::Op;
use ring3_x86_cpu::state::CS;

/// Whether the host can move the x87 state alone.
pub fn host_suffices() -> bool {
    is_x86_feature_detected!("xsave")
}

/// A function that loads the x87 state, if it may be; whether it did is in R14. Changes flags.
pub fn write_load(e: &mut Emitter) {
    let state = VectorState::X87_OFFSET as i32;
    e.store(SAVED_RAX, RAX);
    e.store(SAVED_RDX, RDX);
    e.load(R14, VECTOR);
    // movzx eax, word ptr [r14 + control word]; not eax; test al, all exceptions
    e.raw(&[0x41, 0x0f, 0xb7, 0x86]);
    e.raw(&(VectorState::FCW_OFFSET as i32).to_le_bytes());
    e.raw(&[0xf7, 0xd0, 0xa8, EXCEPTIONS]);
    let unmasked = e.jump_if(NE);
    // fnstcw gs:[host's control word]
    e.on_gs(&[0xd9], 7, HOST_FCW, &[]);
    e.store_constant_as(
        Width::Eight,
        R14,
        VectorState::X87_HEADER_OFFSET as i32,
        X87_COMPONENT as i32,
    );
    x87_component(e);
    // xrstor64 [r14 + state]
    e.raw(&[0x49, 0x0f, 0xae, 0xae]);
    e.raw(&state.to_le_bytes());
    e.store_constant(X87_LOADED, 1);
    e.store_constant(STATE_LOADED, 1);
    e.constant(R14, 1);
    let done = e.jump();
    e.bind(unmasked);
    e.constant(R14, 0);
    e.bind(done);
    e.load(RAX, SAVED_RAX);
    e.load(RDX, SAVED_RDX);
    e.ret();
}

/// Saves the x87 state if it is loaded, and leaves the unit as the host wants it; changes RAX, RCX and RDX.
pub fn write_save(e: &mut Emitter) {
    e.load(RCX, X87_LOADED);
    let in_memory = e.jump_if_rcx_zero();
    e.load(RCX, VECTOR);
    x87_component(e);
    // xsave64 [rcx + state]
    e.raw(&[0x48, 0x0f, 0xae, 0xa1]);
    e.raw(&(VectorState::X87_OFFSET as i32).to_le_bytes());
    // fnclex; emms
    e.raw(&[0xdb, 0xe2, 0x0f, 0x77]);
    // fldcw gs:[host's control word]
    e.on_gs(&[0xd9], 5, HOST_FCW, &[]);
    e.store_constant(X87_LOADED, 0);
    e.bind_short(in_memory);
}

/// The mask bits of a control word.
pub const EXCEPTIONS: u8 = 0x3f;
/// The x87 state's bit among those of XSAVE's components.
const X87_COMPONENT: u64 = 1;

/// EDX:EAX = the x87 state alone.
fn x87_component(e: &mut Emitter) {
    e.constant(RAX, X87_COMPONENT);
    e.constant(RDX, 0);
}

/// Has the state show which instruction and operand were the last. What they name must still be as it was then: only callouts
/// change segment registers.
#[inline(always)]
pub(crate) fn show_pointers(core: &mut Core, sites: &[Site]) {
    if core.tier[word::X87_LAST] != 0 {
        enter_pointers(core, sites);
    }
}

#[inline(never)]
fn enter_pointers(core: &mut Core, sites: &[Site]) {
    let [last, data] = [word::X87_LAST, word::X87_LAST_DATA].map(|word| {
        let number = std::mem::take(&mut core.tier[word]);
        sites.get((number as usize).wrapping_sub(1))
    });
    let state = &mut core.state;
    let pointers = &mut state.vector.x87.pointers;
    if let Some(site) = last {
        pointers.fip = site.base.wrapping_add(u64::from(site.op.start));
        pointers.fcs = state.seg[CS].selector;
        pointers.fop = opcode(&site.op);
    }
    if let Some(site) = data {
        pointers.fdp = core.tier[word::X87_DATA];
        pointers.fds = state.seg[usize::from(site.op.seg).min(5)].selector;
    }
}

/// As the decoder has left it.
fn opcode(op: &Op) -> u16 {
    u16::from(op.dst) << 8 | u16::from(op.src)
}
