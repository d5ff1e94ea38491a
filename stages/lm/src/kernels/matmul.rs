//! Matrix products over packed operands, parallel over tiles of the result.
//!
//! Every product is the one of [`tile`](super::tile): the left operand is packed so that the rows of
//! a tile lie together, the right one is read as sixteen columns a term. Both the weights' panels and
//! what is packed on the way are read in the order in which they lie.

mod operand;
mod product;
mod sides;

use rayon::prelude::*;

use super::panels::Panels;
use super::tile::{Columns, WIDTH, run};

pub use operand::Operand;

use product::{Product, Task, put_product, tiles_of_rows};
use sides::{Rows, Turned};

/// Rows that are multiplied before their results are put away: those stay in the cache.
const ROWS: usize = 768;
/// Multiplications from which on a task is worth another thread.
const WORTH: usize = 1 << 18;

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
    let Some((x, w)) = products.first() else { return };
    if let Some(of_task) = tiles_of_rows(x.tiles(), x) {
        return put_product(products, 0..x.tiles(), of_task, y, (w.outputs, put));
    }
    let at_once = ROWS / x.tile;
    for (number, y) in y.chunks_mut(at_once * x.tile * w.outputs).enumerate() {
        let tiles = number * at_once..x.tiles().min((number + 1) * at_once);
        Product::of(products, tiles, 0..w.count()).put_rows(y, w.outputs, put);
    }
}

/// The sum of products `dy w`, the gradient of the input, put as `put` says: dy `[rows, outputs]`
/// each, packed in lanes, dx `[rows, inputs]`.
///
/// A row of `dx` depends on its rows of `dx` and `dy` alone, to the bit. Lanes hold the rows of
/// `dy`, and the weights are read value by value as they lie: turning panels would take longer than
/// turning the result.
pub fn backward_input(products: &[Factors<'_>], dx: &mut [f32], put: Put) {
    let Some((dy, w)) = products.first() else { return };
    let (lanes, width) = (dy.tiles(), w.inputs);
    let turned: Vec<_> = products.iter().map(|(dy, w)| (Turned::new(*w), *dy)).collect();
    let at_once = ROWS / WIDTH;
    for (number, dx) in dx.chunks_mut(at_once * WIDTH * width).enumerate() {
        let lanes = number * at_once..lanes.min((number + 1) * at_once);
        Product::of(&turned, 0..turned[0].0.tiles(), lanes).put_columns(dx, width, put);
    }
}

/// `dw += factor * dyᵀ x`, the gradient of weights in panels: dy `[rows, outputs]`, x the columns of
/// `[rows, inputs]`. The terms are the rows, in blocks from the first one.
pub fn backward_weight(dy: &[f32], x: &Operand, dw: &mut [f32], outputs: usize, factor: f32) {
    if dy.is_empty() {
        return;
    }
    let right = Rows { matrix: dy, width: outputs };
    let product = Product::of(&[(x, right)], 0..x.tiles(), 0..outputs.div_ceil(WIDTH));
    dw.par_chunks_mut(WIDTH * x.rows).enumerate().for_each(|(panel, dw)| {
        for (input, dw) in dw.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            let sums = product.sums(input, panel);
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += factor * sum);
        }
    });
}

/// `dw += dyᵀ x`, the gradient of weights `[outputs, inputs]` in panels where outputs are few: dy
/// the columns of `[rows, outputs]`, x `[rows, inputs]`, which so is read as it lies.
pub fn backward_narrow_weight(dy: &Operand, x: &[f32], dw: &mut [f32], inputs: usize) {
    if x.is_empty() {
        return;
    }
    let right = Rows { matrix: x, width: inputs };
    let product = Product::of(&[(dy, right)], 0..dy.tiles(), 0..inputs.div_ceil(WIDTH));
    dw.par_chunks_mut(WIDTH * inputs).enumerate().for_each(|(panel, dw)| {
        let outputs = panel * WIDTH..dy.rows.min((panel + 1) * WIDTH);
        for (lane, output) in outputs.enumerate() {
            for (input, dw) in dw[lane..].iter_mut().step_by(WIDTH).enumerate() {
                *dw += product.sums(output, input / WIDTH)[input % WIDTH];
            }
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
        run(Task { products: &[(left, self.b)], tiles, panels: panel..panel + 1, sums });
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

#[cfg(test)]
mod tests;
