//! A minimal bundled VMM.
#![forbid(unsafe_code)]
