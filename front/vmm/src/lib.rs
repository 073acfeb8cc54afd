//! A minimal bundled VMM.
