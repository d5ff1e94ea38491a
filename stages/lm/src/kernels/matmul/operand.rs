//! An operand of matrix products, packed so that the rows of a tile lie together.

use std::ops::Range;

use rayon::prelude::*;

use super::WORTH;
use crate::kernels::buffer::Buffer;
use crate::kernels::tile::{DEPTH, MOST_ROWS, WIDTH, tile_rows};

/// An operand of products, packed once for all that share it: `[blocks of terms, tiles, terms of
/// the block, rows of a tile]`.
pub struct Operand {
    values: Buffer,
    pub(super) rows: usize,
    pub(super) terms: usize,
    /// Rows of a tile.
    pub(super) tile: usize,
}

impl Operand {
    /// Packs rows `[rows, terms]`.
    pub fn of_rows(x: &[f32], terms: usize) -> Operand {
        let rows = x.len() / terms;
        Operand::packed(rows, terms, tile_rows(rows), &Rows { x, rows, terms })
    }

    /// Packs rows `[rows, terms]` for the lanes of a right operand.
    pub fn in_lanes(x: &[f32], terms: usize) -> Operand {
        let rows = x.len() / terms;
        Operand::packed(rows, terms, WIDTH, &Rows { x, rows, terms })
    }

    /// Packs columns: x `[terms, rows]`.
    pub fn of_columns(x: &[f32], rows: usize) -> Operand {
        Operand::packed(rows, x.len() / rows, tile_rows(rows), &Columns { x, rows })
    }

    /// Fills every tile of every block of terms.
    fn packed(rows: usize, terms: usize, tile: usize, source: &impl Source) -> Operand {
        // Rows behind the last one hold anything: nobody reads what becomes of them.
        let padded = rows.div_ceil(tile) * tile;
        let mut operand = Operand { values: Buffer::any(padded * terms), rows, terms, tile };
        let blocks = operand.values.par_chunks_mut((padded * DEPTH).max(1)).enumerate();
        blocks.for_each(|(number, values)| {
            let block = number * DEPTH..terms.min((number + 1) * DEPTH);
            let tiles = values.par_chunks_exact_mut(block.len() * tile).enumerate();
            let fewest = WORTH / (block.len() * tile * WIDTH) + 1;
            tiles.with_min_len(fewest).for_each(|(t, values)| {
                let (first, block) = (t * tile, block.clone());
                match tile {
                    1 => source.fill::<1>(first, block, values),
                    2 => source.fill::<2>(first, block, values),
                    3 => source.fill::<3>(first, block, values),
                    4 => source.fill::<4>(first, block, values),
                    5 => source.fill::<5>(first, block, values),
                    6 => source.fill::<6>(first, block, values),
                    8 => source.fill::<8>(first, block, values),
                    WIDTH => source.fill::<WIDTH>(first, block, values),
                    _ => source.fill::<MOST_ROWS>(first, block, values),
                }
            });
        });
        operand
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    pub(super) fn padded_rows(&self) -> usize {
        self.tiles() * self.tile
    }

    /// Some tiles of a block of terms, one after another.
    #[inline(always)]
    pub(super) fn tiles_of(&self, tiles: Range<usize>, block: &Range<usize>) -> &[f32] {
        let (start, size) = (block.start * self.padded_rows(), block.len() * self.tile);
        &self.values[start + tiles.start * size..start + tiles.end * size]
    }
}

/// The matrix that is packed.
trait Source: Sync {
    /// Writes a block of terms of the R rows from `first` on: out `[terms, R]`.
    fn fill<const R: usize>(&self, first: usize, block: Range<usize>, out: &mut [f32]);
}

/// Rows `[rows, terms]`.
struct Rows<'a> {
    x: &'a [f32],
    rows: usize,
    terms: usize,
}

impl Source for Rows<'_> {
    fn fill<const R: usize>(&self, first: usize, block: Range<usize>, out: &mut [f32]) {
        const AT_ONCE: usize = 8;
        let row = |r: usize| {
            // Behind the last row it stands again.
            let row = (first + r).min(self.rows - 1);
            self.x[row * self.terms..(row + 1) * self.terms][block.clone()].as_chunks::<AT_ONCE>()
        };
        let rows: [_; R] = std::array::from_fn(row);
        let (whole, rest) = out.split_at_mut(rows[0].0.len() * AT_ONCE * R);
        for (n, out) in whole.chunks_exact_mut(AT_ONCE * R).enumerate() {
            let square: [[f32; AT_ONCE]; R] = std::array::from_fn(|r| rows[r].0[n]);
            for (term, out) in out.as_chunks_mut::<R>().0.iter_mut().enumerate() {
                *out = std::array::from_fn(|r| square[r][term]);
            }
        }
        for (term, out) in rest.as_chunks_mut::<R>().0.iter_mut().enumerate() {
            *out = std::array::from_fn(|r| rows[r].1[term]);
        }
    }
}

/// Columns: `[terms, rows]`.
struct Columns<'a> {
    x: &'a [f32],
    rows: usize,
}

impl Source for Columns<'_> {
    fn fill<const R: usize>(&self, first: usize, block: Range<usize>, out: &mut [f32]) {
        let wanted = first..self.rows.min(first + R);
        for (term, out) in block.zip(out.as_chunks_mut::<R>().0) {
            let part = &self.x[term * self.rows..(term + 1) * self.rows][wanted.clone()];
            match part.first_chunk() {
                Some(part) => *out = *part,
                None => out[..part.len()].copy_from_slice(part),
            }
        }
    }
}
