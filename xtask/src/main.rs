//! The one door: `cargo xtask ci` and its companions.

fn main() {}
