//! Whole guests for tests and benchmarks: what they boot from, and the QEMU process they boot in.
//!
//! [`assets`] fetches Debian's kernel and builds the initramfs, [`machine`] writes a QEMU command line
//! for one accelerator, [`guest`] runs it with a watched [`console`] and, where asked, a [`qmp`] monitor.
//! The same calls serve the end-to-end tests, the benchmarks and `cargo xtask demo`.
//!
//! Not here: anything that knows ring3's API. A guest meets ring3 only through the `ring3` command.

#![forbid(unsafe_code)]

pub mod assets;
pub mod console;
pub mod cpio;
pub mod debian;
pub mod firecracker;
pub mod firmware;
pub mod grub;
pub mod guest;
pub mod initramfs;
pub mod keeper;
pub mod kernels;
pub mod machine;
pub mod mirror;
pub mod modules;
pub mod noise;
pub mod places;
pub mod programs;
pub mod qmp;
pub mod tap;
pub mod userland;
pub mod vmlinux;

pub use assets::Assets;
pub use console::Console;
pub use guest::{Guest, Process};
pub use machine::{Accel, Machine};
