//! AMX: the configuration of tiles, their transfers, and their products.
//!
//! CR0.TS does not matter to these instructions. A transfer that faults keeps the rows before the one that did, whose number
//! is in the configuration then: executed again, it goes on there.

use crate::op::Op;
use crate::state::{CR4_OSXSAVE, Tiles, ZERO_SLOT};
use crate::world::Access;
use crate::{Core, Fault, Step, Stop, World};
use ring3_host::native::tile::{Dimensions, Product, ROW_BYTES, Shape, Sign, TILES, Tile, TileConfig};
use ring3_host::native::xsave::{XFEATURE_XTILECFG, XFEATURE_XTILEDATA};

const CONFIG_SIZE: usize = 64;

/// What [`Op::imm`] of a dot product indexes.
pub const PRODUCTS: [Product; 5] = [
    Product::Bytes(Sign::Signed, Sign::Signed),
    Product::Bytes(Sign::Signed, Sign::Unsigned),
    Product::Bytes(Sign::Unsigned, Sign::Signed),
    Product::Bytes(Sign::Unsigned, Sign::Unsigned),
    Product::Bf16,
];

/// #UD unless the operating system has tiles switched on.
fn check_enabled(core: &Core) -> Step {
    const TILES_ON: u64 = XFEATURE_XTILECFG | XFEATURE_XTILEDATA;
    if core.state.cr4 & CR4_OSXSAVE == 0 || core.state.xcr0 & TILES_ON != TILES_ON {
        return Err(Fault::UD.into());
    }
    Ok(())
}

/// The like, and #NM if the data of tiles is disabled.
fn check_data(core: &mut Core) -> Step {
    check_enabled(core)?;
    core.check_disabled(XFEATURE_XTILEDATA)
}

fn shape(core: &Core, tile: u8) -> Step<Shape> {
    let shape = core.state.tiles.shape(tile.into());
    shape.ok_or(Fault::UD.into())
}

/// Whether rows consist of elements of four bytes.
fn has_elements(shape: Shape) -> bool {
    shape.columns.is_multiple_of(4)
}

pub fn ldtilecfg(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_enabled(core)?;
    let linear = core.address(op, CONFIG_SIZE as u64, Access::Read)?;
    let mut bytes = [0; CONFIG_SIZE];
    core.read_run(world, linear, &mut bytes, op.seg)?;
    let config = TileConfig::new(bytes).map_err(|_| Fault::GP0)?;
    core.state.tiles.configure(config);
    Ok(())
}

pub fn sttilecfg(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    check_enabled(core)?;
    let linear = core.address(op, CONFIG_SIZE as u64, Access::Write)?;
    let bytes = core.state.tiles.config().bytes();
    core.write_run(world, linear, &bytes, op.seg)
}

pub fn tilerelease(core: &mut Core, _: &Op, _: &mut dyn World) -> Step {
    check_enabled(core)?;
    core.state.tiles = Tiles::default();
    Ok(())
}

/// `dst` is the tile.
pub fn tilezero(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    check_data(core)?;
    shape(core, op.dst)?;
    *core.state.tiles.tile_mut(op.dst.into()) = Tile::default();
    core.state.tiles.set_start_row(0);
    Ok(())
}

/// A row's part of a transfer: the index register is the distance between rows.
fn row_operand(core: &Core, op: &Op, row: usize) -> Op {
    let stride = core.state.gpr[usize::from(op.index & 31)] << (op.scale & 3);
    Op {
        index: ZERO_SLOT,
        disp: op.disp.wrapping_add(stride.wrapping_mul(row as u64)),
        ..*op
    }
}

/// The shape of a transfer's tile, `dst`, and the row to begin at.
fn transfer(core: &mut Core, op: &Op) -> Step<(Shape, usize)> {
    check_data(core)?;
    let shape = shape(core, op.dst)?;
    let start = core.state.tiles.config().start_row();
    if !has_elements(shape) || start >= shape.rows {
        return Err(Fault::UD.into());
    }
    Ok((shape, start))
}

fn row_address(core: &Core, op: &Op, row: usize, size: usize, access: Access) -> Step<(Op, u64)> {
    let operand = row_operand(core, op, row);
    let linear = core.address(&operand, size as u64, access)?;
    Ok((operand, linear))
}

/// TILELOADD and TILELOADDT1.
pub fn tileload(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let (shape, start) = transfer(core, op)?;
    let tile = usize::from(op.dst);
    let mut loaded = Tile::default();
    for row in 0..start {
        loaded.0[row] = core.state.tiles.row(tile, row);
    }
    let mut next = start;
    let outcome = (start..shape.rows).try_for_each(|row| {
        let (operand, linear) = row_address(core, op, row, shape.columns, Access::Read)?;
        let mut bytes = [0; ROW_BYTES];
        core.read_run(world, linear, &mut bytes[..shape.columns], operand.seg)?;
        loaded.0[row] = bytes;
        next = row + 1;
        Ok(())
    });
    if matches!(outcome, Ok(()) | Err(Stop::Fault(_))) {
        *core.state.tiles.tile_mut(tile) = loaded;
        core.state.tiles.set_start_row(next % shape.rows);
    }
    outcome
}

pub fn tilestored(core: &mut Core, op: &Op, world: &mut dyn World) -> Step {
    let (shape, start) = transfer(core, op)?;
    let tile = usize::from(op.dst);
    let mut next = start;
    let outcome = (start..shape.rows).try_for_each(|row| {
        let (operand, linear) = row_address(core, op, row, shape.columns, Access::Write)?;
        let bytes = core.state.tiles.row(tile, row);
        core.write_run(world, linear, &bytes[..shape.columns], operand.seg)?;
        next = row + 1;
        Ok(())
    });
    if matches!(outcome, Ok(()) | Err(Stop::Fault(_))) {
        core.state.tiles.set_start_row(next % shape.rows);
    }
    outcome
}

/// TDPBSSD and its kin: `dst` is the tile added to, `src` the first factor and `size` the second; `imm` says what is multiplied.
pub fn dot_product(core: &mut Core, op: &Op, _: &mut dyn World) -> Step {
    check_data(core)?;
    let Some(product) = PRODUCTS.get(op.imm as usize) else {
        return Err(Stop::Unsupported);
    };
    let (c, a, b) = (shape(core, op.dst)?, shape(core, op.src)?, shape(core, op.size)?);
    let fits = [c, a, b].into_iter().all(has_elements)
        && c.rows == a.rows
        && c.columns == b.columns
        && a.columns / 4 == b.rows;
    if !fits || op.dst == op.src || op.dst == op.size || op.src == op.size {
        return Err(Fault::UD.into());
    }
    let dimensions = Dimensions {
        rows: c.rows,
        columns: c.columns / 4,
        depth: b.rows,
    };
    let [c, a, b] = [op.dst, op.src, op.size].map(|tile| usize::from(tile) % TILES);
    core.state.tiles.multiply(*product, c, a, b, dimensions);
    core.state.tiles.set_start_row(0);
    Ok(())
}
