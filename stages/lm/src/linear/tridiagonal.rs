//! Reduces a symmetric matrix to a tridiagonal one of the same eigenvalues, by Householder's
//! reflections in blocks (Dongarra, Sorensen and Hammarling 1989).
//!
//! Reflections of a block are gathered; the matrix is read once for each, and changed once for all.

use rayon::prelude::*;

use super::packed::{Packed, add_lower};
use super::vectors::dot;

/// Reflections of a block.
const BLOCK: usize = 32;
/// Rows whose products with a vector are summed on their own: the sums are added in their order, so
/// that it does not matter who computes them.
const ROWS: usize = 64;
/// Rows from which on several threads are worth their start.
const PARALLEL: usize = 512;

/// Returns the diagonal and the entries beside it.
///
/// matrix `[n, n]`, of which the lower triangle is read and overwritten.
pub(super) fn tridiagonal(matrix: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n.saturating_sub(1)]);
    let (mut vs, mut ws) = (vec![0.0; BLOCK * n], vec![0.0; BLOCK * n]);
    let mut end = n;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK);
        let block = end - begin;
        for (k, i) in (begin..end).rev().enumerate() {
            let (before_v, v) = vs.split_at_mut(k * n);
            let (before_w, w) = ws.split_at_mut(k * n);
            let row = &mut matrix[i * n..i * n + i + 1];
            for (v, w) in before_v.chunks_exact(n).zip(before_w.chunks_exact(n)) {
                subtract(row, &v[..=i], w[i]);
                subtract(row, &w[..=i], v[i]);
            }
            diagonal[i] = row[i];
            if i == 0 {
                break;
            }

            let (v, w) = (&mut v[..i], &mut w[..i]);
            v.copy_from_slice(&row[..i]);
            let (side, tau) = reflect(v);
            beside[i - 1] = side;
            symmetric_product(matrix, n, v, w);
            for (one, other) in before_v.chunks_exact(n).zip(before_w.chunks_exact(n)) {
                let (one, other) = (&one[..i], &other[..i]);
                let (of_one, of_other) = (dot(one, v), dot(other, v));
                subtract(w, one, of_other);
                subtract(w, other, of_one);
            }
            w.iter_mut().for_each(|w| *w *= tau);
            let half = 0.5 * tau * dot(w, v);
            subtract(w, v, half);
        }
        change(matrix, n, begin, &vs[..block * n], &ws[..block * n]);
        end = begin;
    }
    (diagonal, beside)
}

/// Turns a vector into the one of the reflection that leaves its last entry alone; returns that entry
/// and the factor of the reflection.
fn reflect(v: &mut [f64]) -> (f64, f64) {
    let Some((last, others)) = v.split_last_mut() else { return (0.0, 0.0) };
    let rest = dot(others, others);
    let alpha = *last;
    if rest == 0.0 {
        *last = 1.0;
        return (alpha, 0.0);
    }
    let beta = -(alpha * alpha + rest).sqrt().copysign(alpha);
    let scale = 1.0 / (alpha - beta);
    others.iter_mut().for_each(|value| *value *= scale);
    *last = 1.0;
    (beta, (beta - alpha) / beta)
}

fn subtract(values: &mut [f64], others: &[f64], factor: f64) {
    values.iter_mut().zip(others).for_each(|(value, other)| *value -= factor * other);
}

/// Subtracts `v wᵀ + w vᵀ` of all reflections from the first rows and columns.
fn change(matrix: &mut [f64], n: usize, rows: usize, vs: &[f64], ws: &[f64]) {
    if rows == 0 {
        return;
    }
    let cut = |all: &[f64]| -> Vec<f64> {
        all.chunks_exact(n).flat_map(|one| &one[..rows]).copied().collect()
    };
    let (vs, ws) = (cut(vs), cut(ws));
    let left = Packed::of_columns(&[vs.as_slice(), &ws].concat(), rows);
    let right = Packed::of_columns(&[ws.as_slice(), &vs].concat(), rows);
    add_lower(&left, &right, -1.0, matrix, n);
}

/// The product of the first rows and columns of a symmetric matrix with a vector, by its lower
/// triangle alone.
fn symmetric_product(matrix: &[f64], n: usize, v: &[f64], out: &mut [f64]) {
    let part = |first: usize| -> Vec<f64> {
        let mut sums = vec![0.0; v.len().min(first + ROWS)];
        lower_rows(matrix, (n, first), v, &mut sums);
        sums
    };
    let count = v.len().div_ceil(ROWS);
    let parts: Vec<Vec<f64>> = match v.len() < PARALLEL {
        true => (0..count).map(|part_of| part(part_of * ROWS)).collect(),
        false => (0..count).into_par_iter().map(|part_of| part(part_of * ROWS)).collect(),
    };
    out.fill(0.0);
    for part in parts {
        out.iter_mut().zip(part).for_each(|(out, sum)| *out += sum);
    }
}

vectorized! {
    /// Adds the products of some rows of the triangle with a vector, and of their transposes.
    fn lower_rows<'a, 'b, 'c>(matrix: &'a [f64], stride_and_first: (usize, usize), v: &'b [f64], sums: &'c mut [f64])
        -> () = lower_rows_body
}

#[inline(always)]
fn lower_rows_body(matrix: &[f64], (n, first): (usize, usize), v: &[f64], sums: &mut [f64]) {
    const AT_ONCE: usize = 4;
    const LANES: usize = 8;
    let end = sums.len();
    let mut row = first;
    while row + AT_ONCE <= end {
        let rows: [&[f64]; AT_ONCE] = std::array::from_fn(|r| &matrix[(row + r) * n..][..row]);
        let factors: [f64; AT_ONCE] = std::array::from_fn(|r| v[row + r]);
        let chunks = rows.map(|row| row.as_chunks::<LANES>().0);
        let mut lanes = [[0.0; LANES]; AT_ONCE];
        let whole = row / LANES;
        let (sum_chunks, v_chunks) = (sums.as_chunks_mut::<LANES>().0, v.as_chunks::<LANES>().0);
        for (c, (sum, v)) in sum_chunks[..whole].iter_mut().zip(&v_chunks[..whole]).enumerate() {
            for r in 0..AT_ONCE {
                let values = &chunks[r][c];
                for i in 0..LANES {
                    sum[i] = values[i].mul_add(factors[r], sum[i]);
                    lanes[r][i] = values[i].mul_add(v[i], lanes[r][i]);
                }
            }
        }
        for r in 0..AT_ONCE {
            let [a, b, c, d, e, f, g, h] = lanes[r];
            let mut own = ((a + e) + (c + g)) + ((b + f) + (d + h));
            let values = &matrix[(row + r) * n..][..row + r];
            for column in whole * LANES..row + r {
                sums[column] = values[column].mul_add(factors[r], sums[column]);
                own = values[column].mul_add(v[column], own);
            }
            sums[row + r] += matrix[(row + r) * n + row + r].mul_add(factors[r], own);
        }
        row += AT_ONCE;
    }
    for row in row..end {
        let values = &matrix[row * n..][..=row];
        let mut own = values[row] * v[row];
        for column in 0..row {
            sums[column] = values[column].mul_add(v[row], sums[column]);
            own = values[column].mul_add(v[column], own);
        }
        sums[row] += own;
    }
}
