//! The floor: what ring3 asks of the host.
//!
//! Guest memory that may vanish at any moment ([`mem`], [`user`]), pages shared with the client ([`shared`]), file
//! descriptors ([`fd`]), waiting ([`futex`], [`event`]), time ([`time`]), signals ([`signal`]), what memory is in swap or a file only ([`residence`]) and ranked locks
//! ([`lock`]). Nothing here knows KVM, and no crate above needs `unsafe` for what is offered here.
//!
//! System calls are made directly, never through the C library's symbols: inside `libring3.so` those symbols are our
//! own; [`device`], which is for clients, is the exception. The host must be x86-64 Linux; other hosts are not supported.

pub mod addr;
pub mod device;
pub mod event;
pub mod eventfd;
mod extable;
pub mod fd;
pub mod futex;
pub mod jitdump;
pub mod lock;
pub mod machine;
pub mod mem;
pub mod memory_file;
pub mod native;
pub mod process;
pub mod random;
pub mod residence;
pub mod shared;
pub mod shown;
pub mod signal;
mod sys;
#[doc(hidden)]
pub mod testing;
pub mod time;
pub mod user;
pub mod xcomp;
