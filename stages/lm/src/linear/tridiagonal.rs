//! Reduces a symmetric matrix to a tridiagonal one of the same eigenvalues, by Householder's
//! reflections in blocks (Dongarra, Sorensen and Hammarling 1989).
//!
//! Reflections of a block are gathered; the matrix is read once for each, and changed once for all.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::packed::{Packed, add_lower};
use super::vectors::{dot, subtract};

/// Reflections of a block.
const BLOCK: usize = 32;
/// Rows whose products with a vector are summed on their own: the sums are added in their order, so
/// that it does not matter who computes them.
const ROWS: usize = 128;
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

/// Turns a vector into the one of the reflection that leaves its last entry alone; returns that
/// entry and the factor of the reflection.
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
        Arch::new().dispatch(LowerRows { matrix, n, first, v, sums: &mut sums });
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

/// Lanes of a sum along a row.
const LANES: usize = 8;
/// Rows that are read together: what is read and written of the vectors serves all of them.
const AT_ONCE: usize = 4;

/// The products of some rows of the triangle with a vector, and of their transposes.
struct LowerRows<'a> {
    matrix: &'a [f64],
    /// The length of a row.
    n: usize,
    /// The first row; the last one is the last of `sums`.
    first: usize,
    v: &'a [f64],
    /// They are added to it.
    sums: &'a mut [f64],
}

impl WithSimd for LowerRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F64_LANES {
            8 => self.run::<S, 1>(simd),
            4 => self.run::<S, 2>(simd),
            2 => self.run::<S, 4>(simd),
            _ => self.run::<S, 8>(simd),
        }
    }
}

impl LowerRows<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let LowerRows { matrix, n, first, v, sums } = self;
        let end = sums.len();
        let mut row = first;
        while row + AT_ONCE <= end {
            let whole = row / LANES * LANES;
            let own = whole_lanes::<S, V>(
                simd,
                std::array::from_fn(|r| &matrix[(row + r) * n..][..whole]),
                std::array::from_fn(|r| v[row + r]),
                &v[..whole],
                &mut sums[..whole],
            );
            for (r, own) in own.into_iter().enumerate() {
                one_row(&matrix[(row + r) * n..], row + r, whole, own, v, sums);
            }
            row += AT_ONCE;
        }
        (row..end).for_each(|row| one_row(&matrix[row * n..], row, 0, 0.0, v, sums));
    }
}

/// Adds the products of rows with a vector along whole lanes; returns the sums along the rows.
#[inline(always)]
fn whole_lanes<S: Simd, const V: usize>(
    simd: S,
    rows: [&[f64]; AT_ONCE],
    factors: [f64; AT_ONCE],
    v: &[f64],
    sums: &mut [f64],
) -> [f64; AT_ONCE] {
    let [a, b, c, d] = rows.map(|row| S::as_simd_f64s(row).0.as_chunks::<V>().0);
    let factors = factors.map(|factor| simd.splat_f64s(factor));
    let mut lanes = [[simd.splat_f64s(0.0); V]; AT_ONCE];
    let v = S::as_simd_f64s(v).0.as_chunks::<V>().0;
    let sums = S::as_mut_simd_f64s(sums).0.as_chunks_mut::<V>().0;
    for (((((sum, v), a), b), c), d) in sums.iter_mut().zip(v).zip(a).zip(b).zip(c).zip(d) {
        // In registers of its own: the compiler cannot know that nothing else reads it meanwhile.
        let mut own = *sum;
        for (r, row) in [a, b, c, d].into_iter().enumerate() {
            for k in 0..V {
                own[k] = simd.mul_add_f64s(row[k], factors[r], own[k]);
                lanes[r][k] = simd.mul_add_f64s(row[k], v[k], lanes[r][k]);
            }
        }
        *sum = own;
    }
    lanes.map(|lanes| {
        let mut values = [0.0; LANES];
        S::as_mut_simd_f64s(&mut values).0.copy_from_slice(&lanes);
        let [a, b, c, d, e, f, g, h] = values;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    })
}

/// Adds what one row has from a column on, its diagonal included.
#[inline(always)]
fn one_row(values: &[f64], row: usize, from: usize, own: f64, v: &[f64], sums: &mut [f64]) {
    let mut own = own;
    for column in from..row {
        sums[column] = values[column].mul_add(v[row], sums[column]);
        own = values[column].mul_add(v[column], own);
    }
    sums[row] += values[row].mul_add(v[row], own);
}
