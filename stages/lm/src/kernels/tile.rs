//! The one micro-kernel: a tile of a product, rows by sixteen columns, held in registers.
//!
//! A sum runs over its terms in ascending order, one fused multiply-add a term, from +0 in blocks of
//! [`DEPTH`] terms; the sums of the blocks are added in ascending order. Vectors hold outputs, never
//! terms, so the width of the machine's registers, the size of a tile and the order in which tiles
//! are computed move no bit.

use pulp::{Arch, Simd, WithSimd};

/// Columns of a tile: one AVX-512 register, two of AVX2.
pub const WIDTH: usize = 16;
/// Terms of a block.
pub const DEPTH: usize = 256;

/// Most rows of a tile.
pub const MOST_ROWS: usize = 12;

/// Sixteen outputs.
pub type Columns = [f32; WIDTH];

/// Work that is compiled for each instruction set; a row of a tile is `V` registers of `S`.
///
/// `run` must be `#[inline(always)]`, and so must all that it calls: what is not inlined is compiled
/// for the oldest processor.
pub trait Kernel {
    /// Result of the work.
    type Output;

    /// Does the work.
    fn run<S: Simd, const V: usize>(self, simd: S) -> Self::Output;
}

/// Runs a kernel with the widest registers of the processor.
pub fn run<K: Kernel>(kernel: K) -> K::Output {
    Arch::new().dispatch(Widest(kernel))
}

/// Runs a kernel with the registers of `simd`, whatever the processor has.
#[inline(always)]
pub fn run_with<S: Simd, K: Kernel>(simd: S, kernel: K) -> K::Output {
    match S::F32_LANES {
        16 => kernel.run::<S, 1>(simd),
        8 => kernel.run::<S, 2>(simd),
        4 => kernel.run::<S, 4>(simd),
        2 => kernel.run::<S, 8>(simd),
        _ => kernel.run::<S, 16>(simd),
    }
}

struct Widest<K>(K);

impl<K: Kernel> WithSimd for Widest<K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> K::Output {
        run_with(simd, self.0)
    }
}

/// Rows of the tiles of a product of so many rows: as many as registers hold, unless smaller tiles
/// leave less of the last one empty.
pub fn tile_rows(rows: usize) -> usize {
    let registers = WIDTH / lanes().min(WIDTH);
    // The chains that hide a multiply-add's latency, and the loads of a tile that grow less with
    // its rows.
    let cost = |tile: &usize| {
        let chains = 8.0 / (tile * registers).min(8) as f32;
        (rows.div_ceil(*tile) * tile) as f32 * chains * (1.0 + 0.15 / *tile as f32)
    };
    let most = if registers == 1 { MOST_ROWS } else { MOST_ROWS / 2 };
    let sizes = [1, 2, 3, 4, 5, 6, 8, MOST_ROWS].into_iter().filter(|size| *size <= most);
    sizes.min_by(|a, b| cost(a).total_cmp(&cost(b))).unwrap_or(1)
}

/// Values in one register of this processor.
pub fn lanes() -> usize {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = usize;
        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES
        }
    }
    Arch::new().dispatch(Lanes)
}

/// Adds the products of one tile and one block of terms to `sums`, or sets these where `first`.
///
/// left `[terms, rows]` with as many rows as `sums`, right `[terms, WIDTH]`; at most [`DEPTH`]
/// terms, so that each sum is one chain.
#[inline(always)]
pub fn add_product<S: Simd, const V: usize>(
    simd: S,
    left: &[f32],
    right: &[f32],
    sums: &mut [Columns],
    first: bool,
) {
    let right = S::as_simd_f32s(right).0.as_chunks::<V>().0;
    match sums.len() {
        1 => add_rows::<S, 1, V>(simd, left, right, sums, first),
        2 => add_rows::<S, 2, V>(simd, left, right, sums, first),
        3 => add_rows::<S, 3, V>(simd, left, right, sums, first),
        4 => add_rows::<S, 4, V>(simd, left, right, sums, first),
        5 => add_rows::<S, 5, V>(simd, left, right, sums, first),
        6 => add_rows::<S, 6, V>(simd, left, right, sums, first),
        8 => add_rows::<S, 8, V>(simd, left, right, sums, first),
        _ => add_rows::<S, MOST_ROWS, V>(simd, left, right, sums, first),
    }
}

#[inline(always)]
fn add_rows<S: Simd, const R: usize, const V: usize>(
    simd: S,
    left: &[f32],
    right: &[[S::f32s; V]],
    sums: &mut [Columns],
    first: bool,
) {
    let mut chains = [[simd.splat_f32s(0.0); V]; R];
    for (left, right) in left.as_chunks::<R>().0.iter().zip(right) {
        for r in 0..R {
            multiply_add(simd, left[r], right, &mut chains[r]);
        }
    }
    add_chains(simd, &chains, sums, first);
}

/// [`add_product`] of a left operand that lies turned: of each sixteen terms a square `[rows, 16]`,
/// `step` values after that of the sixteen before.
#[inline(always)]
pub fn add_turned_product<S: Simd, const V: usize>(
    simd: S,
    left: &[f32],
    step: usize,
    right: &[f32],
    sums: &mut [Columns],
    first: bool,
) {
    let right = S::as_simd_f32s(right).0.as_chunks::<V>().0;
    match sums.len() {
        1 => add_turned::<S, 1, V>(simd, left, step, right, sums, first),
        2 => add_turned::<S, 2, V>(simd, left, step, right, sums, first),
        3 => add_turned::<S, 3, V>(simd, left, step, right, sums, first),
        4 => add_turned::<S, 4, V>(simd, left, step, right, sums, first),
        5 => add_turned::<S, 5, V>(simd, left, step, right, sums, first),
        6 => add_turned::<S, 6, V>(simd, left, step, right, sums, first),
        8 => add_turned::<S, 8, V>(simd, left, step, right, sums, first),
        _ => add_turned::<S, MOST_ROWS, V>(simd, left, step, right, sums, first),
    }
}

#[inline(always)]
fn add_turned<S: Simd, const R: usize, const V: usize>(
    simd: S,
    left: &[f32],
    step: usize,
    right: &[[S::f32s; V]],
    sums: &mut [Columns],
    first: bool,
) {
    let mut chains = [[simd.splat_f32s(0.0); V]; R];
    for (number, right) in right.chunks(WIDTH).enumerate() {
        let rows = left[number * step..].as_chunks::<WIDTH>().0;
        let Some(square) = rows.first_chunk::<R>() else { return };
        for (term, right) in (0..WIDTH).zip(right) {
            for r in 0..R {
                multiply_add(simd, square[r][term], right, &mut chains[r]);
            }
        }
    }
    add_chains(simd, &chains, sums, first);
}

#[inline(always)]
fn multiply_add<S: Simd, const V: usize>(
    simd: S,
    factor: f32,
    right: &[S::f32s; V],
    chains: &mut [S::f32s; V],
) {
    let factor = simd.splat_f32s(factor);
    for v in 0..V {
        chains[v] = simd.mul_add_f32s(factor, right[v], chains[v]);
    }
}

#[inline(always)]
fn add_chains<S: Simd, const R: usize, const V: usize>(
    simd: S,
    chains: &[[S::f32s; V]; R],
    sums: &mut [Columns],
    first: bool,
) {
    let zero = simd.splat_f32s(0.0);
    for (sums, chains) in sums.iter_mut().zip(chains) {
        for (sum, chain) in S::as_mut_simd_f32s(sums).0.iter_mut().zip(chains) {
            *sum = simd.add_f32s(if first { zero } else { *sum }, *chain);
        }
    }
}
