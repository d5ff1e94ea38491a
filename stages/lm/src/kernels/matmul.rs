//! Matrix products over packed operands, parallel over tiles of the result.
//!
//! Every product is the one of [`tile`](super::tile): the left operand is packed so that the rows of
//! a tile lie together, the right one is read as sixteen columns a term. Both the weights' panels and
//! what is packed on the way are read in the order in which they lie.

use std::cell::Cell;
use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::panels::{Panels, Stored};
use super::tile::{Columns, DEPTH, Kernel, WIDTH, add_product, run, tile_rows};

/// Rows that are multiplied before their results are put away: those stay in the cache.
const ROWS: usize = 384;
/// Tiles of a task: with a block of terms they fill half of a core's second cache.
const TILES: usize = 16;
/// Tasks from which on a product keeps every core busy.
const TASKS: usize = 16;
/// Multiplications from which on a task is worth another thread.
const WORTH: usize = 1 << 18;
/// Rows of a result that one task puts away.
const PUT: usize = 16;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Put {
    /// It is the result.
    Set,
    /// It is added to what is there.
    Add,
    /// It is added times a factor.
    AddTimes(f32),
}

/// `y = x wᵀ`, or as `put` says: x `[rows, inputs]`, y `[rows, outputs]`.
///
/// A row of `y` depends on its row of `x` alone, to the bit.
pub fn forward(x: &[f32], w: Panels<'_>, y: &mut [f32], put: Put) {
    let blocks = y.chunks_mut(ROWS * w.outputs).zip(x.chunks(ROWS * w.inputs));
    for (y, x) in blocks {
        let left = Left::of_rows(x, w.inputs);
        Product::of(left, &w, w.count()).put_rows(y, w.outputs, put);
    }
}

/// `dx += dy w`, the gradient of the input, or as `put` says: dy `[rows, outputs]`, dx `[rows,
/// inputs]`.
///
/// A row of `dx` depends on its rows of `dx` and `dy` alone, to the bit.
pub fn backward_input(dy: &[f32], w: Panels<'_>, dx: &mut [f32], put: Put) {
    let blocks = dx.chunks_mut(ROWS * w.inputs).zip(dy.chunks(ROWS * w.outputs));
    for (dx, dy) in blocks {
        let left = Left::of_rows(dy, w.outputs);
        Product::of(left, &Turned(w), w.inputs.div_ceil(WIDTH)).put_rows(dx, w.inputs, put);
    }
}

/// `dw += factor * dyᵀ x`, the gradient of weights in panels: dy `[rows, outputs]`, x `[rows,
/// inputs]`. The terms are the rows, in blocks from the first one.
pub fn backward_weight(dy: &[f32], x: &[f32], dw: &mut [f32], outputs: usize, factor: f32) {
    let rows = dy.len() / outputs;
    let Some(inputs) = x.len().checked_div(rows) else { return };
    let left = Left::of_columns(x, inputs);
    let right = Rows { matrix: dy, width: outputs };
    let product = Product::of(left, &right, outputs.div_ceil(WIDTH));
    dw.par_chunks_mut(WIDTH * inputs).enumerate().for_each(|(panel, dw)| {
        for (input, dw) in dw.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let sums = product.sums(input, panel);
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += factor * sum);
        }
    });
    product.give_back();
}

/// A change of a weight by an adapter: `w + scale * b a`, then each row times its factor.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// `[rank, inputs]`.
    pub a: Panels<'a>,
    /// `[outputs, rank]`.
    pub b: Panels<'a>,
    /// Factor of the product.
    pub scale: f32,
    /// DoRA's factors `[outputs]`.
    pub factors: Option<Vec<f32>>,
}

/// Calls `each` with every panel of a weight after its changes in turn, in f32, `[inputs, 16]`.
pub fn adapted<T: Send>(
    w: Panels<'_>,
    changes: &[Change<'_>],
    each: impl Fn(usize, &mut [Columns]) -> T + Sync,
) -> Vec<T> {
    let lefts: Vec<Left> =
        changes.iter().map(|change| Left::of_columns(&change.a.to_rows(), w.inputs)).collect();
    let one = |panel: usize| {
        let mut values = vec![[0.0; WIDTH]; w.inputs];
        let range = panel * w.inputs * WIDTH..(panel + 1) * w.inputs * WIDTH;
        w.values.widen(range, values.as_flattened_mut());
        for (change, left) in changes.iter().zip(&lefts) {
            change.apply(left, panel, &mut values);
        }
        each(panel, &mut values)
    };
    (0..w.count()).into_par_iter().map(one).collect()
}

impl Change<'_> {
    fn apply(&self, left: &Left, panel: usize, values: &mut [Columns]) {
        let mut products = vec![[0.0; WIDTH]; left.padded_rows()];
        let (tiles, sums) = (0..left.tiles(), &mut products[..]);
        run(Task { left, right: &self.b, tiles, panel, sums });
        let factor = |lane: usize| {
            let factors = self.factors.as_ref();
            factors.map_or(1.0, |f| f.get(panel * WIDTH + lane).copied().unwrap_or(1.0))
        };
        let factors: Columns = std::array::from_fn(factor);
        for (values, products) in values.iter_mut().zip(&products) {
            for ((value, product), factor) in values.iter_mut().zip(products).zip(&factors) {
                *value = (*value + self.scale * product) * factor;
            }
        }
    }
}

/// The right operand of a product, read in blocks of at most [`DEPTH`] terms by sixteen columns.
trait Right: Sync {
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

/// Weights whose terms are their outputs.
struct Turned<'a>(Panels<'a>);

impl Right for Turned<'_> {
    #[inline(always)]
    fn block<'s>(
        &'s self,
        panel: usize,
        terms: Range<usize>,
        scratch: &'s mut [Columns],
    ) -> &'s [f32] {
        let Panels { inputs, values, .. } = self.0;
        let first = panel * WIDTH;
        let wanted = WIDTH.min(inputs - first);
        let mut square = [[0.0; WIDTH]; WIDTH];
        for (number, turned) in scratch[..terms.len()].chunks_mut(WIDTH).enumerate() {
            let start = ((terms.start / WIDTH + number) * inputs + first) * WIDTH;
            let part = square[..wanted].as_flattened_mut();
            values.widen(start..start + part.len(), part);
            for (output, turned) in turned.iter_mut().enumerate() {
                *turned = std::array::from_fn(|input| square[input][output]);
            }
        }
        scratch[..terms.len()].as_flattened()
    }
}

/// A matrix `[terms, width]` as it lies.
struct Rows<'a> {
    matrix: &'a [f32],
    width: usize,
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
            columns[..wanted].copy_from_slice(row);
        }
        scratch[..terms.len()].as_flattened()
    }
}

/// The left operand of a product: `[blocks of terms, tiles, terms of the block, rows of a tile]`.
pub(super) struct Left {
    values: Vec<f32>,
    rows: usize,
    terms: usize,
    /// Rows of a tile.
    tile: usize,
}

impl Left {
    /// Packs rows `[rows, terms]`.
    fn of_rows(x: &[f32], terms: usize) -> Left {
        let left = Left::empty(x.len() / terms, terms);
        left.pack(|tile, block, out| {
            let end = (tile.start + tile.len()).min(x.len() / terms);
            for (r, row) in x[tile.start * terms..end * terms].chunks_exact(terms).enumerate() {
                let row = &row[block.clone()];
                let out = out[r..].iter_mut().step_by(tile.len());
                out.zip(row).for_each(|(out, x)| *out = *x);
            }
        })
    }

    /// Packs columns: x `[terms, rows]`.
    fn of_columns(x: &[f32], rows: usize) -> Left {
        let left = Left::empty(rows, x.len() / rows);
        left.pack(|tile, block, out| {
            let wanted = tile.len().min(rows - tile.start);
            for (term, out) in block.zip(out.chunks_exact_mut(tile.len())) {
                out[..wanted].copy_from_slice(&x[term * rows + tile.start..][..wanted]);
            }
        })
    }

    fn empty(rows: usize, terms: usize) -> Left {
        Left { values: LEFT.take(), rows, terms, tile: tile_rows(rows) }
    }

    /// Fills every tile of every block of terms.
    fn pack(mut self, fill: impl Fn(Range<usize>, Range<usize>, &mut [f32]) + Sync) -> Left {
        let (tile, terms, padded) = (self.tile, self.terms, self.padded_rows());
        // Rows behind the last one hold what was there: nobody reads what becomes of them.
        self.values.resize(padded * terms, 0.0);
        let blocks = self.values.par_chunks_mut(padded * DEPTH).enumerate();
        blocks.for_each(|(number, values)| {
            let block = number * DEPTH..terms.min((number + 1) * DEPTH);
            let tiles = values.par_chunks_exact_mut(block.len() * tile).enumerate();
            let fewest = WORTH / (block.len() * tile * WIDTH) + 1;
            tiles.with_min_len(fewest).for_each(|(t, values)| {
                fill(t * tile..(t + 1) * tile, block.clone(), values);
            });
        });
        self
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    fn padded_rows(&self) -> usize {
        self.tiles() * self.tile
    }

    /// One tile of the block of terms that begins at `from`.
    #[inline(always)]
    fn tile(&self, tile: usize, block: &Range<usize>) -> &[f32] {
        let size = block.len() * self.tile;
        &self.values[block.start * self.padded_rows() + tile * size..][..size]
    }

    fn give_back(self) {
        LEFT.set(self.values);
    }
}

thread_local! {
    /// Memory of the last operand and of the last product: asking the system anew for each would
    /// cost as much as some of the products.
    static LEFT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static SUMS: Cell<Vec<Columns>> = const { Cell::new(Vec::new()) };
}

/// A product: `[groups of tiles, panels, rows of the group, 16]`.
struct Product {
    sums: Vec<Columns>,
    panels: usize,
    /// Rows of a group.
    group: usize,
}

impl Product {
    /// Multiplies.
    fn of(left: Left, right: &impl Right, panels: usize) -> Product {
        let groups = left.tiles().div_ceil(TILES).max(TASKS.div_ceil(panels)).min(left.tiles());
        let tiles = left.tiles().div_ceil(groups.max(1));
        let group = tiles * left.tile;
        let mut sums = SUMS.take();
        sums.resize(left.tiles().div_ceil(tiles.max(1)) * panels * group, [0.0; WIDTH]);

        let fewest = WORTH / (group * left.terms * WIDTH).max(1) + 1;
        let tasks = sums.par_chunks_exact_mut(group.max(1)).enumerate().with_min_len(fewest);
        tasks.for_each(|(task, sums)| {
            let (first, panel) = (task / panels * tiles, task % panels);
            let tiles = first..left.tiles().min(first + tiles);
            run(Task { left: &left, right, tiles, panel, sums });
        });
        left.give_back();
        Product { sums, panels, group }
    }

    /// Sixteen results of one row.
    #[inline(always)]
    fn sums(&self, row: usize, panel: usize) -> &Columns {
        &self.sums[(row / self.group * self.panels + panel) * self.group + row % self.group]
    }

    /// Puts the results into rows `[rows, width]`.
    fn put_rows(self, y: &mut [f32], width: usize, put: Put) {
        let fewest = WORTH / (PUT * width * WIDTH) + 1;
        let blocks = y.par_chunks_mut(PUT * width).enumerate().with_min_len(fewest);
        blocks.for_each(|(block, y)| {
            for (row, y) in y.chunks_exact_mut(width).enumerate() {
                for (panel, y) in y.chunks_mut(WIDTH).enumerate() {
                    put_columns(self.sums(block * PUT + row, panel), y, put);
                }
            }
        });
        self.give_back();
    }

    fn give_back(self) {
        SUMS.set(self.sums);
    }
}

#[inline(always)]
fn put_columns(sums: &Columns, y: &mut [f32], put: Put) {
    let pairs = y.iter_mut().zip(sums);
    match put {
        Put::Set => pairs.for_each(|(y, sum)| *y = *sum),
        Put::Add => pairs.for_each(|(y, sum)| *y += sum),
        Put::AddTimes(factor) => pairs.for_each(|(y, sum)| *y += factor * sum),
    }
}

/// Some tiles of a product in one panel.
struct Task<'a, R> {
    left: &'a Left,
    right: &'a R,
    tiles: Range<usize>,
    panel: usize,
    /// `[rows of the tiles, 16]`.
    sums: &'a mut [Columns],
}

impl<R: Right> Kernel for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Task { left, right, tiles, panel, sums } = self;
        let mut scratch = [[0.0; WIDTH]; DEPTH];
        for from in (0..left.terms).step_by(DEPTH) {
            let block = from..left.terms.min(from + DEPTH);
            let right = right.block(panel, block.clone(), &mut scratch);
            for (tile, sums) in tiles.clone().zip(sums.chunks_exact_mut(left.tile)) {
                add_product::<S, V>(simd, left.tile(tile, &block), right, sums, from == 0);
            }
        }
    }
}

#[cfg(test)]
mod tests;
