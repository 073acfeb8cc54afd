//! The components of the XSAVE feature set, wherever the state keeps them.

use super::State;
use ring3_host::native::tile::TileConfig;
use ring3_host::native::xsave::{XFEATURE_PKRU, XFEATURE_XTILECFG, XFEATURE_XTILEDATA, XFEATURES};

impl State {
    /// Which components are not in their initial configuration (XINUSE).
    pub fn components_in_use(&self) -> u64 {
        let mut used = self.vector.in_use();
        if self.pkru != 0 {
            used |= XFEATURE_PKRU;
        }
        if !self.tiles.config().is_initial() {
            used |= XFEATURE_XTILECFG;
        }
        if self.tiles.has_data() {
            used |= XFEATURE_XTILEDATA;
        }
        used
    }

    /// Puts components into their initial configuration.
    pub fn reset_components(&mut self, features: u64) {
        self.vector.reset(features & XFEATURES);
        if features & XFEATURE_PKRU != 0 {
            self.pkru = 0;
        }
        if features & XFEATURE_XTILECFG != 0 {
            self.tiles.restore_config(TileConfig::default());
        }
        if features & XFEATURE_XTILEDATA != 0 {
            self.tiles.clear_data();
        }
    }

    /// Writes one extended component to an area as long as it.
    pub fn save_component(&self, feature: u64, area: &mut [u8]) {
        match feature {
            XFEATURE_PKRU => {
                for (to, from) in area.iter_mut().zip(u64::from(self.pkru).to_le_bytes()) {
                    *to = from;
                }
            }
            XFEATURE_XTILECFG => {
                for (to, from) in area.iter_mut().zip(self.tiles.config().bytes()) {
                    *to = from;
                }
            }
            XFEATURE_XTILEDATA => self.tiles.save_data(area),
            _ => self.vector.save_component(feature, area),
        }
    }

    /// Loads one extended component from an area as long as it.
    pub fn load_component(&mut self, feature: u64, area: &[u8]) {
        match feature {
            XFEATURE_PKRU => {
                let bytes = area.first_chunk().copied().unwrap_or([0; 4]);
                self.pkru = u32::from_le_bytes(bytes);
            }
            XFEATURE_XTILECFG => {
                let bytes = area.first_chunk().copied().unwrap_or([0; 64]);
                self.tiles.restore_config(TileConfig::restored(bytes));
            }
            XFEATURE_XTILEDATA => self.tiles.load_data(area),
            _ => self.vector.load_component(feature, area),
        }
    }
}
