//! Tiles, as AMX has them: their configuration, and the products of them.
//!
//! Executing AMX on the host would take the kernel's permission, which is the process's to ask for and cannot be given back; so
//! the products are computed here, to the bit. There is one palette but the empty one: eight tiles of 16 rows of 64 bytes.
//!
//! Not supported: the products of AMX-FP16, AMX-COMPLEX and what came after them.

mod config;
mod product;

#[cfg(test)]
mod tests;

pub use config::{InvalidConfig, Shape, TileConfig};
pub use product::{Dimensions, Product, Sign};

/// Tiles of the palette.
pub const TILES: usize = 8;
/// Rows of a tile, and bytes of a row.
pub const ROWS: usize = 16;
pub const ROW_BYTES: usize = 64;

/// A tile register. What is beyond its configured shape is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Tile(pub [[u8; ROW_BYTES]; ROWS]);

impl Default for Tile {
    fn default() -> Tile {
        Tile([[0; ROW_BYTES]; ROWS])
    }
}
