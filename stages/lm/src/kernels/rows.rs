//! Matrices row by row: sums, factors, and rows that are taken out.

use std::ops::Range;

use rayon::prelude::*;

use super::buffer::Buffer;

/// Rows that one task computes; the same whatever the number of threads.
const BLOCK: usize = 16;
/// Values that one task computes where there are no rows.
const VALUES: usize = 1 << 13;
/// Columns that one task sums over all rows.
const COLUMNS: usize = 64;

/// The sum of two matrices, value by value.
pub fn sum(a: &[f32], b: &[f32]) -> Buffer {
    let mut sums = Buffer::any(a.len());
    let chunks = sums.par_chunks_mut(VALUES).zip(a.par_chunks(VALUES)).zip(b.par_chunks(VALUES));
    chunks.for_each(|((sums, a), b)| {
        sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum = a + b);
    });
    sums
}

/// Some rows of a matrix, in the order in which they are named: x `[rows, width]`.
pub fn chosen_rows(x: &[f32], width: usize, rows: &[usize]) -> Buffer {
    let mut chosen = Buffer::any(rows.len() * width);
    chosen.par_chunks_exact_mut(width).zip(rows).with_min_len(BLOCK).for_each(|(chosen, row)| {
        chosen.copy_from_slice(&x[row * width..(row + 1) * width]);
    });
    chosen
}

/// Adds values to others.
pub fn add(values: &[f32], sums: &mut [f32]) {
    let chunks = sums.par_chunks_mut(VALUES).zip(values.par_chunks(VALUES));
    chunks.for_each(|(sums, values)| {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    });
}

/// Adds a vector to each row: y `[rows, width]`.
pub fn add_to_rows(y: &mut [f32], vector: &[f32]) {
    y.par_chunks_mut(BLOCK * vector.len()).for_each(|rows| {
        for row in rows.chunks_exact_mut(vector.len()) {
            row.iter_mut().zip(vector).for_each(|(y, v)| *y += v);
        }
    });
}

/// Each row times a vector, value by value: x and the result `[rows, width]`.
pub fn scaled_rows(x: &[f32], vector: &[f32]) -> Buffer {
    let mut y = Buffer::any(x.len());
    let block = BLOCK * vector.len();
    y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
        for (y, x) in y.chunks_exact_mut(vector.len()).zip(x.chunks_exact(vector.len())) {
            y.iter_mut().zip(x).zip(vector).for_each(|((y, x), v)| *y = x * v);
        }
    });
    y
}

/// Adds the rows to `sums`, in their order: x `[rows, width]`, sums `[width]`.
pub fn add_rows(x: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    each_columns(sums, |columns, sums| {
        for x in x.chunks_exact(width) {
            sums.iter_mut().zip(&x[columns.clone()]).for_each(|(sum, x)| *sum += x);
        }
    });
}

/// Adds the products of the values of two matrices to `sums`, row by row: a and b `[rows, width]`,
/// sums `[width]`.
pub fn add_products_of_rows(a: &[f32], b: &[f32], sums: &mut [f32]) {
    let width = sums.len();
    each_columns(sums, |columns, sums| {
        for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
            let pairs = a[columns.clone()].iter().zip(&b[columns.clone()]);
            sums.iter_mut().zip(pairs).for_each(|(sum, (a, b))| *sum += a * b);
        }
    });
}

/// Calls `add` for some columns after others, with their sums over all rows.
pub(super) fn each_columns(sums: &mut [f32], add: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(number, sums)| {
        let first = number * COLUMNS;
        add(first..first + sums.len(), sums);
    });
}
