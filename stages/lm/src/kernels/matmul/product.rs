//! A product in parallel: tiles of the left operand by panels of the right one.

use std::ops::Range;

use pulp::Simd;
use rayon::prelude::*;

use super::sides::{Left, Right, Tiles};
use super::{Operand, Put, WORTH};
use crate::kernels::buffer::Buffer;
use crate::kernels::tile::{Columns, DEPTH, Kernel, MOST_ROWS, WIDTH, run};

/// Tiles of a task: with a block of terms they fill half of a core's second cache.
const TILES: usize = 16;
/// Tasks from which on a product keeps every core busy.
const TASKS: usize = 16;
/// Rows of a result that one task puts away.
const PUT: usize = 16;

/// Values of the left operand that one task reads again for every panel: half of a core's second
/// cache.
const LEFT: usize = 1 << 16;
/// Tasks a thread from which on each may own whole rows of a result.
const TASKS_OF_ROWS: usize = 4;

/// Tiles of a task that puts its sums into rows of its own; `None` where such tasks would be too
/// few for the threads.
pub(super) fn tiles_of_rows(tiles: usize, left: &Operand) -> Option<usize> {
    let threads = rayon::current_num_threads();
    let most = (LEFT / (left.tile * left.terms).max(1)).clamp(4, TILES);
    let groups = tiles.div_ceil(most).next_multiple_of(threads);
    (TASKS_OF_ROWS * threads..=tiles).contains(&groups).then(|| tiles.div_ceil(groups))
}

/// Sums products straight into rows `[rows of the left operand, width]`, so many tiles a task.
pub(super) fn put_product<L: Left, R: Right>(
    products: &[(L, R)],
    tiles: Range<usize>,
    of_task: usize,
    y: &mut [f32],
    (width, put): (usize, Put),
) {
    let Some((left, _)) = products.first() else { return };
    let rows = y.par_chunks_mut(of_task * left.tile_rows() * width).enumerate();
    rows.for_each(|(task, y)| {
        let first = tiles.start + task * of_task;
        let tiles = first..tiles.end.min(first + of_task);
        run(RowsTask { products, tiles, y, width, put });
    });
}

/// Some tiles of a sum of products in all panels, put into rows.
struct RowsTask<'a, L, R> {
    products: &'a [(L, R)],
    tiles: Range<usize>,
    y: &'a mut [f32],
    width: usize,
    put: Put,
}

impl<L: Left, R: Right> Kernel for RowsTask<'_, L, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let RowsTask { products, tiles, y, width, put } = self;
        let mut sums = [[0.0; WIDTH]; TILES * MOST_ROWS];
        let rows = products.first().map_or(0, |(left, _)| left.tile_rows());
        let mut tile_scratch = Vec::new();
        for panel in 0..width.div_ceil(WIDTH) {
            let sums = &mut sums[..tiles.len() * rows];
            let panels = panel..panel + 1;
            add_products::<S, V, L, R>(simd, products, &tiles, panels, sums, &mut tile_scratch);
            let columns = panel * WIDTH..width.min((panel + 1) * WIDTH);
            for (sums, y) in sums.iter().zip(y.chunks_exact_mut(width)) {
                put_values(sums, &mut y[columns.clone()], put);
            }
        }
    }
}

/// A product: `[groups of tiles, panels, rows of the group, 16]`.
pub(super) struct Product {
    sums: Buffer,
    panels: usize,
    /// Rows of a group.
    group: usize,
}

impl Product {
    /// Sums the products of some tiles of the left operands, which have equally many rows, and some
    /// panels of the right ones.
    pub fn of<L: Left, R: Right>(
        products: &[(L, R)],
        tiles: Range<usize>,
        panels: Range<usize>,
    ) -> Product {
        let Some((left, _)) = products.first() else {
            return Product { sums: Buffer::any(0), panels: 0, group: 1 };
        };
        let terms: usize = products.iter().map(|(left, _)| left.terms()).sum();
        let count = panels.len();
        let groups = tiles.len().div_ceil(TILES).max(TASKS.div_ceil(count)).min(tiles.len());
        let of_group = tiles.len().div_ceil(groups.max(1));
        let group = of_group * left.tile_rows();
        let groups = tiles.len().div_ceil(of_group.max(1));
        let mut sums = Buffer::any(groups * count * group * WIDTH);

        let at_once = left.panels_at_once();
        let fewest = WORTH / (group * at_once * terms * WIDTH).max(1) + 1;
        let (columns, _) = sums.as_chunks_mut::<WIDTH>();
        let mut tasks = Vec::with_capacity(groups * count.div_ceil(at_once));
        for (number, sums) in columns.chunks_exact_mut((count * group).max(1)).enumerate() {
            let first = tiles.start + number * of_group;
            let tiles = first..tiles.end.min(first + of_group);
            for (number, sums) in sums.chunks_mut(at_once * group).enumerate() {
                let first = panels.start + number * at_once;
                let panels = first..panels.end.min(first + at_once);
                tasks.push(Task { products, tiles: tiles.clone(), panels, sums });
            }
        }
        tasks.into_par_iter().with_min_len(fewest).for_each(run);
        Product { sums, panels: count, group }
    }

    /// Sixteen results of one row of the left operand.
    #[inline(always)]
    pub fn sums(&self, row: usize, panel: usize) -> &Columns {
        let place = (row / self.group * self.panels + panel) * self.group + row % self.group;
        &self.sums.as_chunks().0[place]
    }

    /// Puts the results into rows `[rows of the left operand, width]`.
    pub fn put_rows(self, y: &mut [f32], width: usize, put: Put) {
        let fewest = WORTH / (PUT * width * WIDTH) + 1;
        let blocks = y.par_chunks_mut(PUT * width).enumerate().with_min_len(fewest);
        blocks.for_each(|(block, y)| {
            for panel in 0..self.panels {
                for (row, y) in y.chunks_exact_mut(width).enumerate() {
                    let columns = panel * WIDTH..width.min((panel + 1) * WIDTH);
                    put_values(self.sums(block * PUT + row, panel), &mut y[columns], put);
                }
            }
        });
    }

    /// Puts the results, turned, into rows `[columns of the right operand, width]`.
    pub fn put_columns(self, y: &mut [f32], width: usize, put: Put) {
        let fewest = WORTH / (WIDTH * width * WIDTH) + 1;
        let panels = y.par_chunks_mut(WIDTH * width).enumerate().with_min_len(fewest);
        panels.for_each(|(panel, y)| {
            for first in (0..width).step_by(WIDTH) {
                let columns = first..width.min(first + WIDTH);
                let mut square = [[0.0; WIDTH]; WIDTH];
                for (square, row) in square.iter_mut().zip(columns.clone()) {
                    *square = *self.sums(row, panel);
                }
                for (lane, y) in y.chunks_exact_mut(width).enumerate() {
                    let turned: Columns = std::array::from_fn(|column| square[column][lane]);
                    put_values(&turned, &mut y[columns.clone()], put);
                }
            }
        });
    }
}

#[inline(always)]
fn put_values(sums: &[f32], y: &mut [f32], put: Put) {
    let pairs = y.iter_mut().zip(sums);
    match put {
        Put::Set => pairs.for_each(|(y, sum)| *y = *sum),
        Put::Add => pairs.for_each(|(y, sum)| *y += sum),
    }
}

/// Some tiles of a sum of products in some panels.
pub(super) struct Task<'a, L, R> {
    pub products: &'a [(L, R)],
    pub tiles: Range<usize>,
    pub panels: Range<usize>,
    /// `[panels, rows of the tiles, 16]`; a group of tiles may have room for more.
    pub sums: &'a mut [Columns],
}

impl<L: Left, R: Right> Kernel for Task<'_, L, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Task { products, tiles, panels, sums } = self;
        add_products::<S, V, L, R>(simd, products, &tiles, panels, sums, &mut Vec::new());
    }
}

/// Sums the products of some tiles in some panels.
#[inline(always)]
fn add_products<S: Simd, const V: usize, L: Left, R: Right>(
    simd: S,
    products: &[(L, R)],
    tiles: &Range<usize>,
    panels: Range<usize>,
    sums: &mut [Columns],
    tile_scratch: &mut Vec<f32>,
) {
    let of_panel = sums.len() / panels.len().max(1);
    let mut scratch = [[0.0; WIDTH]; DEPTH];
    for (number, (left, right)) in products.iter().enumerate() {
        let rows = left.tile_rows();
        for from in (0..left.terms()).step_by(DEPTH) {
            let block = from..left.terms().min(from + DEPTH);
            let left = left.block(tiles.clone(), block.clone(), tile_scratch);
            let first = number == 0 && from == 0;
            for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(of_panel)) {
                let right = right.block(panel, block.clone(), &mut scratch);
                for (tile, sums) in (0..tiles.len()).zip(sums.chunks_exact_mut(rows)) {
                    left.add_product::<S, V>(simd, tile, right, sums, first);
                }
            }
        }
    }
}
