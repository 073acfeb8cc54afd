//! The configuration of tiles, as LDTILECFG reads it from memory.

use super::{ROW_BYTES, ROWS, TILES};

/// Bytes of a configuration in memory.
const SIZE: usize = 64;
/// Where the bytes per row (two bytes for each tile) and the rows (one byte) are; both have room for 16 tiles.
const COLUMNS_AT: usize = 16;
const ROWS_AT: usize = 48;
const ROOM: usize = 16;

/// The palette in which there are tiles.
const PALETTE: u8 = 1;

/// A tile's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub rows: usize,
    /// Bytes of a row.
    pub columns: usize,
}

/// LDTILECFG answers it with #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidConfig;

/// TILECFG, the register. Its initial state has no tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileConfig {
    bytes: [u8; SIZE],
}

impl Default for TileConfig {
    fn default() -> TileConfig {
        TileConfig { bytes: [0; SIZE] }
    }
}

impl TileConfig {
    /// What these bytes configure. With palette 0 the others do not matter.
    pub fn new(bytes: [u8; SIZE]) -> Result<TileConfig, InvalidConfig> {
        let config = TileConfig { bytes };
        match bytes[0] {
            0 => Ok(TileConfig::default()),
            PALETTE if config.is_valid() => Ok(config),
            _ => Err(InvalidConfig),
        }
    }

    /// What XRSTOR makes of these bytes, which raises nothing: no tiles, where they are invalid.
    pub fn restored(bytes: [u8; SIZE]) -> TileConfig {
        TileConfig::new(bytes).unwrap_or_default()
    }

    fn is_valid(&self) -> bool {
        let absent = TILES..ROOM;
        let reserved = self.bytes[2..COLUMNS_AT]
            .iter()
            .chain(&self.bytes[COLUMNS_AT + 2 * absent.start..COLUMNS_AT + 2 * absent.end])
            .chain(&self.bytes[ROWS_AT + absent.start..ROWS_AT + absent.end]);
        let fits = |tile| {
            let Shape { rows, columns } = self.raw_shape(tile);
            rows <= ROWS && columns <= ROW_BYTES && (rows == 0) == (columns == 0)
        };
        reserved.into_iter().all(|byte| *byte == 0) && (0..TILES).all(fits)
    }

    /// As STTILECFG stores it.
    pub fn bytes(&self) -> [u8; SIZE] {
        self.bytes
    }

    /// Whether it is the initial one.
    pub fn is_initial(&self) -> bool {
        self.bytes[0] == 0
    }

    /// The row at which an interrupted TILELOADD or TILESTORED goes on.
    pub fn start_row(&self) -> usize {
        self.bytes[1].into()
    }

    pub fn set_start_row(&mut self, row: usize) {
        self.bytes[1] = row as u8;
    }

    /// A tile's shape, if it has one.
    pub fn shape(&self, tile: usize) -> Option<Shape> {
        let shape = (tile < TILES).then(|| self.raw_shape(tile))?;
        (shape.rows != 0).then_some(shape)
    }

    fn raw_shape(&self, tile: usize) -> Shape {
        let at = COLUMNS_AT + 2 * tile;
        Shape {
            rows: self.bytes[ROWS_AT + tile].into(),
            columns: u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]).into(),
        }
    }
}
