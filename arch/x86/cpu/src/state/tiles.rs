//! AMX's tiles: the state components XTILECFG and XTILEDATA, and who has XTILEDATA disabled.

use ring3_host::native::tile::{Dimensions, Product, ROW_BYTES, ROWS, Shape, TILES, Tile, TileConfig};

/// Bytes of all tiles, as XTILEDATA has them.
const DATA_SIZE: usize = TILES * ROWS * ROW_BYTES;

/// The tiles of a processor. Their data takes memory only while it is in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiles {
    config: TileConfig,
    /// `None` in the initial state, in which all of them are zero.
    data: Option<Box<[Tile; TILES]>>,
}

impl Tiles {
    pub fn config(&self) -> &TileConfig {
        &self.config
    }

    /// As LDTILECFG does: the tiles become zero.
    pub fn configure(&mut self, config: TileConfig) {
        self.config = config;
        self.data = None;
    }

    /// Loads XTILECFG, which leaves the tiles alone.
    pub fn restore_config(&mut self, config: TileConfig) {
        self.config = config;
    }

    /// The row at which an interrupted transfer goes on.
    pub fn set_start_row(&mut self, row: usize) {
        self.config.set_start_row(row);
    }

    pub fn shape(&self, tile: usize) -> Option<Shape> {
        self.config.shape(tile)
    }

    /// Whether the data is not in its initial configuration.
    pub fn has_data(&self) -> bool {
        self.data.is_some()
    }

    /// Puts the data into its initial configuration.
    pub fn clear_data(&mut self) {
        self.data = None;
    }

    /// A row of a tile.
    pub fn row(&self, tile: usize, row: usize) -> [u8; ROW_BYTES] {
        let tiles = self.data.as_ref();
        tiles
            .and_then(|tiles| tiles.get(tile)?.0.get(row))
            .copied()
            .unwrap_or([0; ROW_BYTES])
    }

    /// A tile, to be changed.
    pub fn tile_mut(&mut self, tile: usize) -> &mut Tile {
        let data = self.data.get_or_insert_default();
        &mut data[tile % TILES]
    }

    /// Adds a product of two tiles to a third.
    pub fn multiply(&mut self, product: Product, c: usize, a: usize, b: usize, dimensions: Dimensions) {
        let data = self.data.get_or_insert_default();
        if let Ok([c, a, b]) = data.get_disjoint_mut([c, a, b]) {
            product.add(c, a, b, dimensions);
        }
    }

    /// Writes XTILEDATA, of which an area too short gets a part.
    pub fn save_data(&self, area: &mut [u8]) {
        area.fill(0);
        let Some(tiles) = &self.data else { return };
        let rows = tiles.iter().flat_map(|tile| &tile.0);
        for (part, row) in area.chunks_exact_mut(ROW_BYTES).zip(rows) {
            part.copy_from_slice(row);
        }
    }

    /// Loads XTILEDATA, which is in use then whatever it is.
    pub fn load_data(&mut self, area: &[u8]) {
        debug_assert!(area.len() <= DATA_SIZE);
        let data = self.data.insert(Box::default());
        let rows = data.iter_mut().flat_map(|tile| &mut tile.0);
        for (part, row) in area.as_chunks().0.iter().zip(rows) {
            *row = *part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_survives_a_round_trip() {
        let mut tiles = Tiles::default();
        tiles.tile_mut(7).0[15][63] = 9;
        tiles.tile_mut(0).0[0][0] = 8;
        let mut area = [1; DATA_SIZE];
        tiles.save_data(&mut area);
        let mut other = Tiles::default();
        other.load_data(&area);
        assert_eq!(other, tiles);
        assert_eq!((area[0], area[DATA_SIZE - 1]), (8, 9));
        other.clear_data();
        other.save_data(&mut area);
        assert_eq!(area, [0; DATA_SIZE]);
        assert_eq!(other.row(7, 15), [0; ROW_BYTES]);
    }

    #[test]
    fn a_new_configuration_clears_the_tiles() {
        let mut tiles = Tiles::default();
        tiles.tile_mut(1).0[2][3] = 4;
        tiles.restore_config(TileConfig::default());
        assert!(tiles.has_data());
        tiles.configure(TileConfig::default());
        assert!(!tiles.has_data());
    }
}
