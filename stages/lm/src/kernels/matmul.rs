//! Matrix products over packed operands, parallel over tiles of the result.
//!
//! Every product is the one of [`tile`](super::tile): the left operand is packed so that the rows of
//! a tile lie together, the right one is read as sixteen columns a term. Both the weights' panels and
//! what is packed on the way are read in the order in which they lie.

mod operand;

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::buffer::Buffer;
use super::panels::{Panels, Stored};
use super::tile::{Columns, DEPTH, Kernel, WIDTH, add_product, run};

pub use operand::Operand;

/// Rows that are multiplied before their results are put away: those stay in the cache.
const ROWS: usize = 768;
/// Tiles of a task: with a block of terms they fill half of a core's second cache.
const TILES: usize = 16;
/// Tasks from which on a product keeps every core busy.
const TASKS: usize = 16;
/// Multiplications from which on a task is worth another thread.
const WORTH: usize = 1 << 18;
/// Rows of a result that one task puts away.
const PUT: usize = 16;

/// Destination of a product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Put {
    /// It is the result.
    Set,
    /// It is added to what is there.
    Add,
}

/// A product `x wᵀ` or `dy w`, one of a sum: the packed left operand and the weights.
pub type Factors<'a> = (&'a Operand, Panels<'a>);

/// The sum of products `x wᵀ` in their order, put as `put` says: x `[rows, inputs]` each, y `[rows,
/// outputs]`.
///
/// A row of `y` depends on its rows of `x` alone, to the bit.
pub fn forward(products: &[Factors<'_>], y: &mut [f32], put: Put) {
    let Some((_, w)) = products.first() else { return };
    multiply(products, w.count(), y, w.outputs, put);
}

/// The sum of products `dy w`, the gradient of the input, put as `put` says: dy `[rows, outputs]`
/// each, dx `[rows, inputs]`.
///
/// A row of `dx` depends on its rows of `dx` and `dy` alone, to the bit.
pub fn backward_input(products: &[Factors<'_>], dx: &mut [f32], put: Put) {
    let turned: Vec<_> = products.iter().map(|(dy, w)| (*dy, Turned(*w))).collect();
    let Some((_, w)) = products.first() else { return };
    multiply(&turned, w.inputs.div_ceil(WIDTH), dx, w.inputs, put);
}

/// Multiplies, some rows after others, and puts the sums into y `[rows, width]`.
fn multiply<R: Right>(
    products: &[(&Operand, R)],
    panels: usize,
    y: &mut [f32],
    width: usize,
    put: Put,
) {
    let Some((left, _)) = products.first() else { return };
    let tiles = ROWS / left.tile;
    for (number, y) in y.chunks_mut(tiles * left.tile * width).enumerate() {
        let tiles = number * tiles..left.tiles().min((number + 1) * tiles);
        Product::of(products, tiles, panels).put_rows(y, width, put);
    }
}

/// `dw += factor * dyᵀ x`, the gradient of weights in panels: dy `[rows, outputs]`, x the columns of
/// `[rows, inputs]`. The terms are the rows, in blocks from the first one.
pub fn backward_weight(dy: &[f32], x: &Operand, dw: &mut [f32], outputs: usize, factor: f32) {
    if dy.is_empty() {
        return;
    }
    let right = Rows { matrix: dy, width: outputs };
    let product = Product::of(&[(x, right)], 0..x.tiles(), outputs.div_ceil(WIDTH));
    dw.par_chunks_mut(WIDTH * x.rows).enumerate().for_each(|(panel, dw)| {
        for (input, dw) in dw.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let sums = product.sums(input, panel);
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += factor * sum);
        }
    });
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
    let lefts: Vec<Operand> =
        changes.iter().map(|change| Operand::of_columns(&change.a.to_rows(), w.inputs)).collect();
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
    fn apply(&self, left: &Operand, panel: usize, values: &mut [Columns]) {
        let mut products = vec![[0.0; WIDTH]; left.padded_rows()];
        let (tiles, sums) = (0..left.tiles(), &mut products[..]);
        run(Task { products: &[(left, self.b)], tiles, panel, sums });
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
            // A copy of known length is two moves, any other a call.
            match row.first_chunk() {
                Some(row) => *columns = *row,
                None => columns[..wanted].copy_from_slice(row),
            }
        }
        scratch[..terms.len()].as_flattened()
    }
}

/// A product: `[groups of tiles, panels, rows of the group, 16]`.
struct Product {
    sums: Buffer,
    panels: usize,
    /// Rows of a group.
    group: usize,
}

impl Product {
    /// Multiplies some tiles of rows. The left operands have equally many rows.
    fn of<R: Right>(products: &[(&Operand, R)], rows: Range<usize>, panels: usize) -> Product {
        let tile = products.first().map_or(1, |(left, _)| left.tile);
        let terms: usize = products.iter().map(|(left, _)| left.terms).sum();
        let groups = rows.len().div_ceil(TILES).max(TASKS.div_ceil(panels)).min(rows.len());
        let tiles = rows.len().div_ceil(groups.max(1));
        let group = tiles * tile;
        let groups = rows.len().div_ceil(tiles.max(1));
        let mut sums = Buffer::any(groups * panels * group * WIDTH);

        let fewest = WORTH / (group * terms * WIDTH).max(1) + 1;
        let (columns, _) = sums.as_chunks_mut::<WIDTH>();
        let tasks = columns.par_chunks_exact_mut(group.max(1)).enumerate().with_min_len(fewest);
        tasks.for_each(|(task, sums)| {
            let (first, panel) = (rows.start + task / panels * tiles, task % panels);
            let tiles = first..rows.end.min(first + tiles);
            run(Task { products, tiles, panel, sums });
        });
        Product { sums, panels, group }
    }

    /// Sixteen results of one row.
    #[inline(always)]
    fn sums(&self, row: usize, panel: usize) -> &[f32] {
        let place = (row / self.group * self.panels + panel) * self.group + row % self.group;
        &self.sums[place * WIDTH..(place + 1) * WIDTH]
    }

    /// Puts the results into rows `[rows, width]`.
    fn put_rows(self, y: &mut [f32], width: usize, put: Put) {
        let fewest = WORTH / (PUT * width * WIDTH) + 1;
        let blocks = y.par_chunks_mut(PUT * width).enumerate().with_min_len(fewest);
        blocks.for_each(|(block, y)| {
            for panel in 0..self.panels {
                for (row, y) in y.chunks_exact_mut(width).enumerate() {
                    let columns = panel * WIDTH..width.min((panel + 1) * WIDTH);
                    put_columns(self.sums(block * PUT + row, panel), &mut y[columns], put);
                }
            }
        });
    }
}

#[inline(always)]
fn put_columns(sums: &[f32], y: &mut [f32], put: Put) {
    let pairs = y.iter_mut().zip(sums);
    match put {
        Put::Set => pairs.for_each(|(y, sum)| *y = *sum),
        Put::Add => pairs.for_each(|(y, sum)| *y += sum),
    }
}

/// Some tiles of a sum of products in one panel.
struct Task<'a, R> {
    products: &'a [(&'a Operand, R)],
    tiles: Range<usize>,
    panel: usize,
    /// `[rows of the tiles, 16]`.
    sums: &'a mut [Columns],
}

impl<R: Right> Kernel for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Task { products, tiles, panel, sums } = self;
        let mut scratch = [[0.0; WIDTH]; DEPTH];
        for (number, (left, right)) in products.iter().enumerate() {
            for from in (0..left.terms).step_by(DEPTH) {
                let block = from..left.terms.min(from + DEPTH);
                let right = right.block(panel, block.clone(), &mut scratch);
                let first = number == 0 && from == 0;
                for (tile, sums) in tiles.clone().zip(sums.chunks_exact_mut(left.tile)) {
                    add_product::<S, V>(simd, left.tile(tile, &block), right, sums, first);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
