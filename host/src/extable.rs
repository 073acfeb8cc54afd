//! The exception table: where to go on when an access to client memory faults.
//!
//! Each such access is one instruction in an `asm!` block that also adds a pair of PC-relative words (address of the
//! instruction, address to continue at) to the section `ring3_extable`. The handler in [`crate::signal`] looks up the
//! faulting instruction here. The table is read linearly: faults are rare, and a search needs nothing prepared.

/// One pair, each word relative to its own address.
#[repr(C)]
struct Entry {
    insn: i32,
    fixup: i32,
}

// An empty contribution, so that the linker defines the two symbols whatever else is linked in.
std::arch::global_asm!(".pushsection ring3_extable,\"aR\"", ".balign 4", ".popsection");

unsafe extern "C" {
    #[link_name = "__start_ring3_extable"]
    static START: [Entry; 0];
    #[link_name = "__stop_ring3_extable"]
    static STOP: [Entry; 0];
}

/// The address at which to continue after a fault of the instruction at `rip`, if it is one of ours.
///
/// Safe to call from a signal handler.
pub(crate) fn fixup(rip: u64) -> Option<u64> {
    // SAFETY: only the addresses of the two symbols are taken.
    let (mut at, end) = unsafe { (START.as_ptr(), STOP.as_ptr()) };
    while at < end {
        // SAFETY: the linker puts nothing but whole entries between the two symbols; see the `asm!` blocks.
        let entry = unsafe { &*at };
        let relative = |word: &i32| (std::ptr::from_ref(word) as u64).wrapping_add_signed(i64::from(*word));
        if relative(&entry.insn) == rip {
            return Some(relative(&entry.fixup));
        }
        at = at.wrapping_add(1);
    }
    None
}

/// The assembler lines that record "if the instruction at local label 2 faults, continue at `$target`".
macro_rules! on_fault {
    ($target:literal) => {
        concat!(
            ".pushsection ring3_extable,\"aR\"\n",
            ".balign 4\n",
            ".long 2b - .\n",
            ".long ",
            $target,
            " - .\n",
            ".popsection"
        )
    };
}
pub(crate) use on_fault;
