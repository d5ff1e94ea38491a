//! The two sides of a product: tiles of the left one by panels of the right one, block by block.

use std::ops::Range;

use pulp::Simd;

use super::Operand;
use crate::kernels::panels::{Panels, Stored};
use crate::kernels::tile::{Columns, WIDTH, add_product, add_turned_product, tile_rows};

/// The left operand of a product, read in tiles of rows by blocks of terms.
pub(super) trait Left: Sync {
    /// Some tiles of a block of terms.
    type Block<'s>: Tiles
    where
        Self: 's;

    /// Counts the terms.
    fn terms(&self) -> usize;

    /// Rows of a tile.
    fn tile_rows(&self) -> usize;

    /// Panels of the right operand that a task multiplies with tiles that it has prepared.
    fn panels_at_once(&self) -> usize;

    /// Some tiles of a block of terms, as they lie or written to `scratch`.
    fn block<'s>(
        &'s self,
        tiles: Range<usize>,
        terms: Range<usize>,
        scratch: &'s mut Vec<f32>,
    ) -> Self::Block<'s>;
}

/// Some tiles of a block of terms.
pub(super) trait Tiles {
    /// Adds the product of one of the tiles and a block of the right operand to `sums`, or sets
    /// these where `first`.
    fn add_product<S: Simd, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        right: &[f32],
        sums: &mut [Columns],
        first: bool,
    );
}

impl Left for &Operand {
    type Block<'s>
        = Packed<'s>
    where
        Self: 's;

    fn terms(&self) -> usize {
        self.terms
    }

    fn tile_rows(&self) -> usize {
        self.tile
    }

    fn panels_at_once(&self) -> usize {
        1
    }

    #[inline(always)]
    fn block<'s>(
        &'s self,
        tiles: Range<usize>,
        terms: Range<usize>,
        _: &'s mut Vec<f32>,
    ) -> Packed<'s> {
        Packed { values: self.tiles_of(tiles, &terms), size: terms.len() * self.tile }
    }
}

/// Tiles of an operand, one after another.
pub(super) struct Packed<'a> {
    values: &'a [f32],
    /// Values of a tile.
    size: usize,
}

impl Tiles for Packed<'_> {
    #[inline(always)]
    fn add_product<S: Simd, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        right: &[f32],
        sums: &mut [Columns],
        first: bool,
    ) {
        let left = &self.values[tile * self.size..(tile + 1) * self.size];
        add_product::<S, V>(simd, left, right, sums, first);
    }
}

/// Weights whose terms are their outputs, and whose rows are their inputs.
pub(super) struct Turned<'a> {
    weights: Panels<'a>,
    /// Rows of a tile.
    tile: usize,
}

impl<'a> Turned<'a> {
    pub fn new(weights: Panels<'a>) -> Turned<'a> {
        Turned { weights, tile: tile_rows(weights.inputs) }
    }

    pub fn tiles(&self) -> usize {
        self.weights.inputs.div_ceil(self.tile)
    }
}

impl Left for Turned<'_> {
    type Block<'s>
        = Squares<'s>
    where
        Self: 's;

    fn terms(&self) -> usize {
        self.weights.outputs
    }

    fn tile_rows(&self) -> usize {
        self.tile
    }

    fn panels_at_once(&self) -> usize {
        // Widening is worth several panels.
        if self.weights.values.f32().is_some() { 1 } else { 4 }
    }

    #[inline(always)]
    fn block<'s>(
        &'s self,
        tiles: Range<usize>,
        terms: Range<usize>,
        scratch: &'s mut Vec<f32>,
    ) -> Squares<'s> {
        let Panels { inputs, values, .. } = self.weights;
        let (first, size) = (tiles.start * self.tile, tiles.len() * self.tile * WIDTH);
        let (panels, start) = (terms.len().div_ceil(WIDTH), terms.start / WIDTH * inputs + first);
        let wanted = size.min((inputs - first) * WIDTH);
        if let Stored::F32(values) = values
            && wanted == size
        {
            let values = &values[start * WIDTH..];
            return Squares { values, step: inputs * WIDTH, tile: self.tile };
        }
        // Rows behind the last one hold anything: nobody reads what becomes of them.
        scratch.resize(scratch.len().max(panels * size), 0.0);
        for (panel, wide) in scratch.chunks_exact_mut(size).take(panels).enumerate() {
            let start = (start + panel * inputs) * WIDTH;
            values.widen(start..start + wanted, &mut wide[..wanted]);
        }
        Squares { values: scratch, step: size, tile: self.tile }
    }
}

/// Tiles of weights: of each sixteen terms a square `[rows, 16]`.
pub(super) struct Squares<'a> {
    values: &'a [f32],
    /// Values from the squares of sixteen terms to those of the next.
    step: usize,
    /// Rows of a tile.
    tile: usize,
}

impl Tiles for Squares<'_> {
    #[inline(always)]
    fn add_product<S: Simd, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        right: &[f32],
        sums: &mut [Columns],
        first: bool,
    ) {
        let left = &self.values[tile * self.tile * WIDTH..];
        add_turned_product::<S, V>(simd, left, self.step, right, sums, first);
    }
}

/// The right operand of a product, read in blocks of terms by sixteen columns.
pub(super) trait Right: Sync {
    /// A block `[terms, 16]` of one panel of columns, as it lies or written to `scratch`.
    fn block<'s>(
        &'s self,
        panel: usize,
        terms: Range<usize>,
        scratch: &'s mut [Columns],
    ) -> &'s [f32];
}

impl Right for Panels<'_> {
    #[inline(always)]
    fn block<'s>(
        &'s self,
        panel: usize,
        terms: Range<usize>,
        scratch: &'s mut [Columns],
    ) -> &'s [f32] {
        let range =
            (panel * self.inputs + terms.start) * WIDTH..(panel * self.inputs + terms.end) * WIDTH;
        if let Stored::F32(values) = self.values {
            return &values[range];
        }
        let scratch = scratch[..terms.len()].as_flattened_mut();
        self.values.widen(range, scratch);
        scratch
    }
}

impl Right for &Operand {
    /// A tile of sixteen rows: they lie in the lanes.
    #[inline(always)]
    fn block<'s>(&'s self, panel: usize, terms: Range<usize>, _: &'s mut [Columns]) -> &'s [f32] {
        self.tiles_of(panel..panel + 1, &terms)
    }
}

/// A matrix `[terms, width]` as it lies.
pub(super) struct Rows<'a> {
    /// The matrix.
    pub matrix: &'a [f32],
    /// Its columns.
    pub width: usize,
}

impl Right for Rows<'_> {
    #[inline(always)]
    fn block<'s>(
        &'s self,
        panel: usize,
        terms: Range<usize>,
        scratch: &'s mut [Columns],
    ) -> &'s [f32] {
        let first = panel * WIDTH;
        let wanted = WIDTH.min(self.width - first);
        for (term, columns) in terms.clone().zip(scratch.iter_mut()) {
            let row = &self.matrix[term * self.width + first..][..wanted];
            // A copy of known length is two moves, any other a call.
            match row.first_chunk() {
                Some(row) => *columns = *row,
                None => columns[..wanted].copy_from_slice(row),
            }
        }
        scratch[..terms.len()].as_flattened()
    }
}
