//! Products of all rows of one matrix with all rows of another, over packed operands.
//!
//! A sum runs over its terms in ascending order, one fused multiply-add a term, in blocks of
//! [`DEPTH`] terms whose sums are added in ascending order. Lanes hold columns, never terms.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows of a panel: three registers of AVX-512, six of AVX2.
pub const PANEL: usize = 24;
/// Terms of a block: two panels of so many stay in a core's first cache.
const DEPTH: usize = 64;
/// Panels of the right operand that are multiplied in one task.
const RIGHT: usize = 4;

/// The products of a panel with a panel.
type Tile = [[f64; PANEL]; PANEL];

/// A matrix `[rows, terms]` as products read it: `[blocks of terms, panels, terms of the block,
/// 24]`, the last panel filled up with zeros.
#[derive(Debug)]
pub struct Packed {
    values: Vec<f64>,
    rows: usize,
    terms: usize,
}

impl Packed {
    /// Packs rows `[rows, terms]`.
    pub fn of_rows<T: Copy + Into<f64> + Sync>(x: &[T], terms: usize) -> Packed {
        let rows = x.len().checked_div(terms).unwrap_or(0);
        Packed::filled(rows, terms, |first, block, columns| {
            let wanted = &x[first * terms..rows.min(first + PANEL) * terms];
            for (lane, row) in wanted.chunks_exact(terms).enumerate() {
                for (columns, value) in columns.iter_mut().zip(&row[block.clone()]) {
                    columns[lane] = (*value).into();
                }
            }
        })
    }

    /// Packs columns: x `[terms, rows]`.
    pub fn of_columns<T: Copy + Into<f64> + Sync>(x: &[T], rows: usize) -> Packed {
        let terms = x.len().checked_div(rows).unwrap_or(0);
        Packed::filled(rows, terms, |first, block, columns| {
            let wanted = first..rows.min(first + PANEL);
            for (term, columns) in block.zip(columns) {
                let row = &x[term * rows..(term + 1) * rows][wanted.clone()];
                columns.iter_mut().zip(row).for_each(|(column, value)| *column = (*value).into());
            }
        })
    }

    /// Fills every panel of every block by its first row and the block's terms.
    fn filled(
        rows: usize,
        terms: usize,
        fill: impl Fn(usize, Range<usize>, &mut [[f64; PANEL]]) + Sync,
    ) -> Packed {
        let panels = rows.div_ceil(PANEL);
        let mut values = vec![0.0; panels * PANEL * terms];
        let blocks = values.par_chunks_mut((panels * PANEL * DEPTH).max(1)).enumerate();
        blocks.for_each(|(number, values)| {
            let block = number * DEPTH..terms.min((number + 1) * DEPTH);
            let panels = values.chunks_exact_mut(block.len() * PANEL).enumerate();
            panels.for_each(|(panel, values)| {
                fill(panel * PANEL, block.clone(), values.as_chunks_mut::<PANEL>().0);
            });
        });
        Packed { values, rows, terms }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    #[inline(always)]
    fn panel(&self, block: &Range<usize>, panel: usize) -> &[f64] {
        let size = block.len() * PANEL;
        &self.values[block.start * self.panels() * PANEL + panel * size..][..size]
    }
}

/// Calls `each` for every panel of rows of `left` with the number of its first row and the products
/// of its rows with those of `right`, `[rows of the panel, right rows]`; the results in order.
pub fn map_panels<T: Send>(
    left: &Packed,
    right: &Packed,
    each: impl Fn(usize, &mut [f64]) -> T + Sync,
) -> Vec<T> {
    map_some(left, right, 0..left.panels(), |_| right.panels(), each)
}

/// The same for a matrix with itself and some of its panels; of each row only the columns up to its
/// panel's last row are computed, and the others are zero.
pub fn map_lower<T: Send>(
    matrix: &Packed,
    panels: Range<usize>,
    each: impl Fn(usize, &mut [f64]) -> T + Sync,
) -> Vec<T> {
    map_some(matrix, matrix, panels, |panel| panel + 1, each)
}

fn map_some<T: Send>(
    left: &Packed,
    right: &Packed,
    panels: Range<usize>,
    end: impl Fn(usize) -> usize + Sync,
    each: impl Fn(usize, &mut [f64]) -> T + Sync,
) -> Vec<T> {
    let results = panels.into_par_iter().map_init(Vec::new, |rows, panel| {
        let first = panel * PANEL;
        let wanted = PANEL.min(left.rows - first);
        rows.clear();
        rows.resize(wanted * right.rows, 0.0);
        each_tile(left, right, panel, end(panel), |columns, tile| {
            for (row, sums) in rows.chunks_exact_mut(right.rows).zip(tile) {
                let row = &mut row[columns.clone()];
                row.copy_from_slice(&sums[..row.len()]);
            }
        });
        each(first, rows)
    });
    results.collect()
}

/// Adds `factor` times the products of the rows of `left` with those of `right` to the lower
/// triangle of a symmetric matrix, whose rows are `stride` long.
pub fn add_lower(left: &Packed, right: &Packed, factor: f64, matrix: &mut [f64], stride: usize) {
    let rows = &mut matrix[..left.rows * stride];
    rows.par_chunks_mut((PANEL * stride).max(1)).enumerate().for_each(|(panel, rows)| {
        each_tile(left, right, panel, panel + 1, |columns, tile| {
            for (lane, (row, sums)) in rows.chunks_exact_mut(stride).zip(tile).enumerate() {
                let end = columns.end.min(panel * PANEL + lane + 1);
                let row = &mut row[columns.start..end];
                row.iter_mut().zip(sums).for_each(|(value, sum)| *value += factor * sum);
            }
        });
    });
}

/// Calls `put` with the products of one panel with the first panels of the right operand, and their
/// columns.
fn each_tile(
    left: &Packed,
    right: &Packed,
    panel: usize,
    end: usize,
    mut put: impl FnMut(Range<usize>, &Tile),
) {
    let mut tiles = [[[0.0; PANEL]; PANEL]; RIGHT];
    for first in (0..end).step_by(RIGHT) {
        let panels = first..end.min(first + RIGHT);
        let sums = &mut tiles[..panels.len()];
        Arch::new().dispatch(Task { left, right, panel, panels: panels.clone(), sums });
        for (number, tile) in panels.zip(&tiles) {
            put(number * PANEL..right.rows.min((number + 1) * PANEL), tile);
        }
    }
}

/// The products of one panel with some panels.
struct Task<'a> {
    left: &'a Packed,
    right: &'a Packed,
    panel: usize,
    panels: Range<usize>,
    sums: &'a mut [Tile],
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F64_LANES {
            8 => self.run::<S, 8, 3, 3>(simd),
            4 => self.run::<S, 6, 6, 2>(simd),
            2 => self.run::<S, 6, 12, 2>(simd),
            _ => self.run::<S, 2, 24, 6>(simd),
        }
    }
}

impl Task<'_> {
    /// Multiplies `R` rows at a time with `G` of the `V` registers of a panel.
    #[inline(always)]
    fn run<S: Simd, const R: usize, const V: usize, const G: usize>(self, simd: S) {
        for from in (0..self.left.terms).step_by(DEPTH) {
            let block = from..self.left.terms.min(from + DEPTH);
            let left = self.left.panel(&block, self.panel).as_chunks::<PANEL>().0;
            for (panel, sums) in self.panels.clone().zip(self.sums.iter_mut()) {
                let right = S::as_simd_f64s(self.right.panel(&block, panel)).0;
                add_tile::<S, R, V, G>(simd, left, right.as_chunks::<V>().0, sums, from == 0);
            }
        }
        if self.left.terms == 0 {
            self.sums.iter_mut().for_each(|tile| *tile = [[0.0; PANEL]; PANEL]);
        }
    }
}

#[inline(always)]
fn add_tile<S: Simd, const R: usize, const V: usize, const G: usize>(
    simd: S,
    left: &[[f64; PANEL]],
    right: &[[S::f64s; V]],
    sums: &mut Tile,
    first: bool,
) {
    let zero = simd.splat_f64s(0.0);
    for row in (0..PANEL).step_by(R) {
        for register in (0..V).step_by(G) {
            let mut chains = [[zero; G]; R];
            for (left, right) in left.iter().zip(right) {
                let left = &left[row..row + R];
                let right = &right[register..register + G];
                for r in 0..R {
                    let factor = simd.splat_f64s(left[r]);
                    for g in 0..G {
                        chains[r][g] = simd.mul_add_f64s(factor, right[g], chains[r][g]);
                    }
                }
            }
            for (sums, chains) in sums[row..row + R].iter_mut().zip(chains) {
                let sums = &mut S::as_mut_simd_f64s(sums).0[register..register + G];
                for (sum, chain) in sums.iter_mut().zip(chains) {
                    *sum = simd.add_f64s(if first { zero } else { *sum }, chain);
                }
            }
        }
    }
}
