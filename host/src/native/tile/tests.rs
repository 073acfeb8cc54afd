use super::*;
use std::arch::asm;

/// Whether the host executes AMX and lets this process do so.
fn host_has_tiles() -> bool {
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XTILEDATA: u64 = 18;
    let last = core::arch::x86_64::__cpuid(0).eax;
    let edx = if last >= 7 {
        core::arch::x86_64::__cpuid_count(7, 0).edx
    } else {
        0
    };
    // Tiles, and products of BF16 numbers and of bytes.
    let all = 1 << 24 | 1 << 22 | 1 << 25;
    // SAFETY: asks for a permission; nothing but the size of signal frames changes.
    edx & all == all && unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) } == 0
}

/// A configuration that makes the first three tiles C, A and B.
fn config(d: Dimensions) -> TileConfig {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for (tile, (rows, elements)) in [(d.rows, d.columns), (d.rows, d.depth), (d.depth, d.columns)]
        .into_iter()
        .enumerate()
    {
        bytes[48 + tile] = rows as u8;
        bytes[16 + 2 * tile] = 4 * elements as u8;
    }
    TileConfig::new(bytes).unwrap()
}

macro_rules! on_host {
    ($name:literal, $c:expr, $a:expr, $b:expr, $config:expr) => {
        // SAFETY: the tiles are as long as the configuration's rows and their stride reach; the state of AMX is nobody else's
        // in this thread, and is initial again behind it.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tileloadd tmm0, [{c} + {stride}]",
                "tileloadd tmm1, [{a} + {stride}]",
                "tileloadd tmm2, [{b} + {stride}]",
                concat!($name, " tmm0, tmm1, tmm2"),
                "tilestored [{c} + {stride}], tmm0",
                "tilerelease",
                config = in(reg) $config,
                c = in(reg) $c,
                a = in(reg) $a,
                b = in(reg) $b,
                stride = in(reg) ROW_BYTES,
            )
        }
    };
}

fn product_on_host(product: Product, c: &mut Tile, a: &Tile, b: &Tile, dimensions: Dimensions) {
    use Sign::*;
    let config = config(dimensions).bytes();
    let (config, c, a, b) = (config.as_ptr(), c.0.as_mut_ptr(), a.0.as_ptr(), b.0.as_ptr());
    match product {
        Product::Bytes(Signed, Signed) => on_host!("tdpbssd", c, a, b, config),
        Product::Bytes(Signed, Unsigned) => on_host!("tdpbsud", c, a, b, config),
        Product::Bytes(Unsigned, Signed) => on_host!("tdpbusd", c, a, b, config),
        Product::Bytes(Unsigned, Unsigned) => on_host!("tdpbuud", c, a, b, config),
        Product::Bf16 => on_host!("tdpbf16ps", c, a, b, config),
    }
}

const PRODUCTS: [Product; 5] = [
    Product::Bytes(Sign::Signed, Sign::Signed),
    Product::Bytes(Sign::Signed, Sign::Unsigned),
    Product::Bytes(Sign::Unsigned, Sign::Signed),
    Product::Bytes(Sign::Unsigned, Sign::Unsigned),
    Product::Bf16,
];

/// What the numbers of a tile are like.
#[derive(Clone, Copy)]
enum Numbers {
    /// Any bits.
    Any,
    /// Near each other in size, so that sums round and cancel.
    Even,
    /// So small that products are about the least normal number.
    Tiny,
    /// Whose products are the least normal number, and what takes it just below itself.
    Edge,
    /// Zeros, infinities, NaNs, denormals and ones, mostly.
    Odd,
}

fn word(rng: &mut fastrand::Rng, numbers: Numbers) -> u16 {
    let sign = rng.u16(..) & 0x8000;
    match numbers {
        Numbers::Any => rng.u16(..),
        Numbers::Even => sign | (0x3f80 - 0x200 + rng.u16(..0x400)),
        Numbers::Tiny => sign | (0x2000 - 0x200 + rng.u16(..0x400)),
        Numbers::Edge if rng.bool() => sign | 0x2000,
        Numbers::Edge => sign | (0x1300 + rng.u16(..0x180)),
        Numbers::Odd => {
            let odd = [0, 1, 0x7f, 0x80, 0x7f7f, 0x7f80, 0x7f81, 0x7fc3];
            sign | if rng.u8(..) < 16 {
                odd[rng.usize(..odd.len())]
            } else {
                0x3f80
            }
        }
    }
}

/// A tile whose elements beyond the shape are zero, as a tile register's are.
fn tile(rng: &mut fastrand::Rng, numbers: Numbers, rows: usize, columns: usize) -> Tile {
    let mut tile = Tile::default();
    for row in &mut tile.0[..rows] {
        for pair in row[..4 * columns].chunks_mut(2) {
            pair.copy_from_slice(&word(rng, numbers).to_le_bytes());
        }
    }
    tile
}

/// Dwords of C as singles: such as products add to.
fn single(rng: &mut fastrand::Rng, numbers: Numbers) -> u32 {
    match numbers {
        Numbers::Tiny if rng.bool() => rng.u32(..) & 0x80ff_ffff,
        Numbers::Tiny | Numbers::Edge => 0,
        _ => u32::from(word(rng, numbers)) << 16 | rng.u32(..0x1_0000),
    }
}

fn random_case(rng: &mut fastrand::Rng) -> (Dimensions, Tile, Tile, Tile) {
    let d = Dimensions {
        rows: rng.usize(1..=16),
        columns: rng.usize(1..=16),
        depth: rng.usize(1..=16),
    };
    let numbers = [
        Numbers::Any,
        Numbers::Even,
        Numbers::Tiny,
        Numbers::Edge,
        Numbers::Odd,
    ][rng.usize(..5)];
    let mut c = Tile::default();
    for row in &mut c.0[..d.rows] {
        for element in row[..4 * d.columns].chunks_mut(4) {
            element.copy_from_slice(&single(rng, numbers).to_le_bytes());
        }
    }
    let a = tile(rng, numbers, d.rows, d.depth);
    let b = tile(rng, numbers, d.depth, d.columns);
    (d, c, a, b)
}

#[test]
fn products_are_the_hosts() {
    if !host_has_tiles() {
        println!("skipped: the host has no AMX, or its kernel does not let it be used");
        return;
    }
    let mut rng = fastrand::Rng::with_seed(0x1234_5678);
    for case in 0..20_000 {
        let (d, c, a, b) = random_case(&mut rng);
        for product in PRODUCTS {
            let (mut ours, mut hosts) = (c.clone(), c.clone());
            product.add(&mut ours, &a, &b, d);
            product_on_host(product, &mut hosts, &a, &b, d);
            assert_eq!(
                ours, hosts,
                "case {case}, {product:?} with {d:?}: {c:x?} {a:x?} {b:x?}"
            );
        }
    }
}

#[test]
fn wide_and_plain_code_compute_the_same() {
    let mut rng = fastrand::Rng::with_seed(0x5eed);
    for _ in 0..2_000 {
        let (d, c, a, b) = random_case(&mut rng);
        for product in PRODUCTS {
            let (mut one, mut other) = (c.clone(), c.clone());
            product.add(&mut one, &a, &b, d);
            super::product::add(product, &mut other, &a, &b, d);
            for row in 0..d.rows {
                let used = ..4 * d.columns;
                assert_eq!(one.0[row][used], other.0[row][used], "{product:?}");
            }
        }
    }
}

/// What the host's XRSTOR makes of a configuration.
fn restored_on_host(bytes: [u8; 64]) -> [u8; 64] {
    const XTILECFG: u32 = 1 << 17;
    #[repr(C, align(64))]
    struct Area([u8; 640]);
    let mut area = Area([0; 640]);
    // The compacted format: the component comes right after the header.
    let format = 1 << 63 | u64::from(XTILECFG);
    area.0[512..520].copy_from_slice(&u64::from(XTILECFG).to_le_bytes());
    area.0[520..528].copy_from_slice(&format.to_le_bytes());
    area.0[576..].copy_from_slice(&bytes);
    let mut stored = [0; 64];
    // SAFETY: the area is what XRSTOR wants, and names a component that nobody else in this thread uses, initial again behind it.
    unsafe {
        asm!(
            "xrstor [{area}]",
            "sttilecfg [{stored}]",
            "tilerelease",
            area = in(reg) area.0.as_ptr(),
            stored = in(reg) stored.as_mut_ptr(),
            in("eax") XTILECFG,
            in("edx") 0,
        );
    }
    stored
}

#[test]
fn configurations_are_valid_where_the_host_says_so() {
    if !host_has_tiles() {
        println!("skipped: the host has no AMX, or its kernel does not let it be used");
        return;
    }
    let mut rng = fastrand::Rng::with_seed(0xc0f1);
    let mut valid = 0;
    for _ in 0..50_000 {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for tile in 0..TILES {
            if rng.u8(..8) != 0 {
                bytes[16 + 2 * tile] = rng.u8(1..=64);
                bytes[48 + tile] = rng.u8(1..=16);
            }
        }
        if rng.bool() {
            bytes[rng.usize(..64)] = rng.u8(..20);
        }
        if rng.u8(..) < 8 {
            bytes[rng.usize(..64)] = rng.u8(..);
        }
        let ours = TileConfig::restored(bytes);
        valid += usize::from(!ours.is_initial());
        assert_eq!(ours.bytes(), restored_on_host(bytes), "{bytes:x?}");
    }
    assert!(valid > 20_000 && valid < 50_000);
}

#[test]
fn rows_of_a_tile_come_with_its_columns() {
    let mut bytes = config(Dimensions {
        rows: 3,
        columns: 5,
        depth: 2,
    })
    .bytes();
    let config = TileConfig::new(bytes).unwrap();
    assert_eq!(config.shape(0), Some(Shape { rows: 3, columns: 20 }));
    assert_eq!(config.shape(3), None);
    assert_eq!(config.shape(8), None);
    bytes[48] = 0;
    assert_eq!(TileConfig::new(bytes), Err(InvalidConfig));
    assert!(TileConfig::restored(bytes).is_initial());
    bytes[0] = 0;
    assert_eq!(TileConfig::new(bytes), Ok(TileConfig::default()));
}
