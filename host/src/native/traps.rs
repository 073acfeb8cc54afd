//! SIMD floating-point exceptions of steps: real ones, since only the processor knows exactly what a tiny result is.
//!
//! A thunk whose instruction may raise one has a long NOP before it, whose displacement says where to continue. The
//! chunks of thunks are listed here, so that the handler looks at the bytes before an instruction only where they are
//! ours.

use crate::signal::{Fault, Handled, add_fault_hook};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// NOP with a 32-bit displacement, as in `nop dword ptr [rax+disp32]`.
pub(super) const MARK: [u8; 7] = [0x0f, 0x1f, 0x80, 0, 0, 0, 0];
const DISPLACEMENT: usize = 4;
/// The exception's number.
const XM: u64 = 19;

/// Where chunks begin; zero for free places.
static CHUNKS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
/// All places in use are before this one.
static USED: AtomicU64 = AtomicU64::new(0);

/// More thunks than can be kept track of.
pub(super) struct Full;

impl From<Full> for super::Unsupported {
    fn from(_: Full) -> Self {
        Self
    }
}

/// Writes into the mark before the instruction at `step` that its traps continue at `target`, both offsets in `code`.
pub(super) fn set_target(code: &mut [u8], step: usize, target: usize) -> Result<(), Full> {
    let relative = (target as i32).wrapping_sub(step as i32);
    let place = step
        .checked_sub(DISPLACEMENT)
        .and_then(|from| code.get_mut(from..step))
        .ok_or(Full)?;
    place.copy_from_slice(&relative.to_le_bytes());
    Ok(())
}

/// From now on traps in the chunk at `start` are caught.
pub(super) fn register(start: NonNull<u8>) -> Result<(), Full> {
    add_fault_hook(on_fault).map_err(|_| Full)?;
    for (n, place) in CHUNKS.iter().enumerate() {
        let address = start.as_ptr() as u64;
        if place.compare_exchange(0, address, AcqRel, Relaxed).is_ok() {
            USED.fetch_max(n as u64 + 1, Release);
            return Ok(());
        }
    }
    Err(Full)
}

/// The chunk is about to be unmapped; nothing in it runs.
pub(super) fn forget(start: NonNull<u8>) {
    let address = start.as_ptr() as u64;
    for place in &CHUNKS {
        if place.compare_exchange(address, 0, AcqRel, Relaxed).is_ok() {
            return;
        }
    }
}

fn on_fault(fault: &mut Fault<'_>) -> Handled {
    if fault.signal() != libc::SIGFPE || fault.vector() != XM {
        return Handled::No;
    }
    let rip = fault.rip();
    let used = USED.load(Acquire) as usize;
    let ours = CHUNKS.iter().take(used).any(|place| {
        let start = place.load(Acquire);
        let inside = rip.wrapping_sub(start);
        start != 0 && (MARK.len() as u64..super::arena::CHUNK as u64).contains(&inside)
    });
    if !ours {
        return Handled::No;
    }
    // SAFETY: the bytes are in a chunk that is mapped, because this thread is executing it, and that nobody writes.
    let mark = unsafe { (rip as *const u8).sub(MARK.len()).cast::<[u8; 7]>().read() };
    let [a, b, c, d, e, f, g] = mark;
    if [a, b, c] != MARK[..3] {
        return Handled::No;
    }
    let relative = i32::from_le_bytes([d, e, f, g]);
    fault.set_rip(rip.wrapping_add_signed(relative.into()));
    Handled::Yes
}
