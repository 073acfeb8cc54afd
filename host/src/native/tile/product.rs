//! The dot-product instructions: C += A * B, each element of A and B being several narrow ones.

use super::{ROW_BYTES, ROWS, Tile};

/// Elements of a row, four bytes each.
const ELEMENTS: usize = ROW_BYTES / 4;

/// How the bytes of a factor are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Signed,
    Unsigned,
}

/// What is multiplied and added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Four bytes of A with four of B, to a 32-bit integer.
    Bytes(Sign, Sign),
    /// Two BF16 numbers with two, to a single: rounded to nearest even, denormals being zeros, without exceptions. MXCSR does
    /// not matter.
    Bf16,
}

/// C has `rows` by `columns` elements, A `rows` by `depth`, B `depth` by `columns`; none is more than 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
}

impl Product {
    /// Adds the product of `a` and `b` to `c`, and clears what of `c` is beyond its shape.
    pub fn add(self, c: &mut Tile, a: &Tile, b: &Tile, dimensions: Dimensions) {
        let dimensions = Dimensions {
            rows: dimensions.rows.min(ROWS),
            columns: dimensions.columns.min(ELEMENTS),
            depth: dimensions.depth.min(ROWS),
        };
        if std::arch::is_x86_feature_detected!("avx512bw") {
            // SAFETY: the processor has the feature, which is all that the function wants.
            unsafe { add_wide(self, c, a, b, dimensions) };
        } else {
            add(self, c, a, b, dimensions);
        }
        for (m, row) in c.0.iter_mut().enumerate() {
            let used = if m < dimensions.rows {
                4 * dimensions.columns
            } else {
                0
            };
            row[used..].fill(0);
        }
    }
}

/// [`add`], compiled for wider vectors and for fused multiplication.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn add_wide(product: Product, c: &mut Tile, a: &Tile, b: &Tile, dimensions: Dimensions) {
    add(product, c, a, b, dimensions);
}

#[inline(always)]
pub(super) fn add(product: Product, c: &mut Tile, a: &Tile, b: &Tile, dimensions: Dimensions) {
    match product {
        Product::Bytes(x, y) => add_bytes(c, &widened(a, x), &widened(b, y), dimensions),
        Product::Bf16 => add_bf16(c, a, b, dimensions),
    }
}

type Wide = [[i16; ROW_BYTES]; ROWS];

#[inline(always)]
fn widened(tile: &Tile, sign: Sign) -> Wide {
    tile.0.map(|row| {
        row.map(|byte| match sign {
            Sign::Signed => i16::from(byte as i8),
            Sign::Unsigned => i16::from(byte),
        })
    })
}

#[inline(always)]
fn add_bytes(c: &mut Tile, a: &Wide, b: &Wide, dimensions: Dimensions) {
    for (row, a) in c.0[..dimensions.rows].iter_mut().zip(a) {
        // Two sums for each element, of the first and the last two bytes.
        let mut sums = [0i32; 2 * ELEMENTS];
        for (a, b) in a.as_chunks::<4>().0[..dimensions.depth].iter().zip(b) {
            for (n, sum) in sums.iter_mut().enumerate() {
                let half = 2 * (n & 1);
                let (b0, b1) = (b[2 * n], b[2 * n + 1]);
                let pair = i32::from(a[half]) * i32::from(b0) + i32::from(a[half + 1]) * i32::from(b1);
                *sum = sum.wrapping_add(pair);
            }
        }
        for (element, [first, last]) in row.as_chunks_mut().0.iter_mut().zip(sums.as_chunks().0) {
            let sum = i32::from_le_bytes(*element)
                .wrapping_add(*first)
                .wrapping_add(*last);
            *element = sum.to_le_bytes();
        }
    }
}

type Singles = [f32; ELEMENTS];

/// The two BF16 numbers of each element, as singles.
#[inline(always)]
fn halves(row: &[u8; ROW_BYTES]) -> [Singles; 2] {
    let mut halves = [[0.0; ELEMENTS]; 2];
    for (n, bytes) in row.as_chunks::<4>().0.iter().enumerate() {
        let word = u32::from_le_bytes(*bytes);
        halves[0][n] = flushed(f32::from_bits(word << 16));
        halves[1][n] = flushed(f32::from_bits(word & 0xffff_0000));
    }
    halves
}

#[inline(always)]
fn add_bf16(c: &mut Tile, a: &Tile, b: &Tile, dimensions: Dimensions) {
    let b = b.0.each_ref().map(halves);
    for (row, a) in c.0[..dimensions.rows].iter_mut().zip(&a.0) {
        let a = halves(a);
        let mut sums = [[0.0; ELEMENTS]; 2];
        for (k, b) in b[..dimensions.depth].iter().enumerate() {
            for half in 0..2 {
                multiply_add(&mut sums[half], a[half][k], &b[half]);
            }
        }
        for (n, element) in row.as_chunks_mut().0.iter_mut().enumerate() {
            let before = flushed(f32::from_le_bytes(*element));
            let sum = plus(before, plus(sums[0][n], sums[1][n]));
            *element = sum.to_le_bytes();
        }
    }
}

/// Zero, with its sign, in place of a denormal.
#[inline(always)]
fn flushed(x: f32) -> f32 {
    const SIGN: u32 = 1 << 31;
    const EXPONENT: u32 = 0x7f80_0000;
    let bits = x.to_bits();
    f32::from_bits(if bits & EXPONENT == 0 { bits & SIGN } else { bits })
}

/// Multiplies a number by each of a row and adds to each sum, with one rounding.
#[inline(always)]
fn multiply_add(sums: &mut Singles, x: f32, row: &Singles) {
    let mut results = [0.0; ELEMENTS];
    let mut special = false;
    for n in 0..ELEMENTS {
        results[n] = x.mul_add(row[n], sums[n]);
        special |= is_special(results[n]);
    }
    for n in 0..ELEMENTS {
        sums[n] = if special {
            multiply_add_one(x, row[n], sums[n])
        } else {
            flushed(results[n])
        };
    }
}

/// Whether more than [`flushed`] is due to a sum: a NaN, and what may have been rounded up to the least normal number.
#[inline(always)]
fn is_special(x: f32) -> bool {
    x.is_nan() | (x.abs() == f32::MIN_POSITIVE)
}

#[cold]
#[inline(never)]
fn multiply_add_one(x: f32, y: f32, sum: f32) -> f32 {
    let result = x.mul_add(y, sum);
    if result.is_nan() {
        return first_nan(&[x, y, sum]);
    }
    // What is tiny after rounding to as many digits as a normal number has is zero. Scaled up, it is seen.
    const SCALE: f32 = (1u128 << 64) as f32;
    let is_tiny = || (x * SCALE).mul_add(y, sum * SCALE).abs() < f32::MIN_POSITIVE * SCALE;
    if result.abs() == f32::MIN_POSITIVE && is_tiny() {
        return 0f32.copysign(result);
    }
    flushed(result)
}

#[inline(always)]
fn plus(x: f32, y: f32) -> f32 {
    let sum = x + y;
    if sum.is_nan() {
        first_nan(&[x, y])
    } else {
        flushed(sum)
    }
}

/// The first operand that is a NaN, made quiet; if none is, the operation was invalid.
#[cold]
#[inline(never)]
fn first_nan(operands: &[f32]) -> f32 {
    const QUIET: u32 = 1 << 22;
    const INVALID: u32 = 0xffc0_0000;
    let nan = operands.iter().find(|x| x.is_nan());
    f32::from_bits(nan.map_or(INVALID, |x| x.to_bits() | QUIET))
}
