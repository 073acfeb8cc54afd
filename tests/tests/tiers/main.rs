//! Programs that the interpreter and the translator must execute alike, down to the last flag: what a translator gets wrong
//! when it gets something wrong.
//!
//! Most run on [`ring3_tests::bare`], on each tier in turn, and what is left of the machines is compared besides what each
//! test asserts.

mod aliases;
mod calls;
mod devices;
mod faults;
mod flags;
mod flat;
mod forced_emulation;
mod kicks;
mod own_code;
mod page_edits;
mod returns;
mod rights;
mod spaces;
mod stacks;
mod stepping;
mod vm;
mod x87;
