//! Reductions over vectors in f64, each in eight lanes that are added in one order.

use rayon::prelude::*;

use crate::kernels::{INVERSE_FACTORIALS, LAST_FACTORIAL};

/// Lanes of a reduction, whatever the registers are.
const LANES: usize = 8;
/// Rows whose dot products one task computes.
const ROWS: usize = 256;

/// The dot products of all rows of `rows`, `[rows, width]`, with one vector.
pub fn dots(rows: &[f32], vector: &[f32]) -> Vec<f64> {
    let width = vector.len().max(1);
    let mut products = vec![0.0; rows.len() / width];
    let tasks = products.par_chunks_mut(ROWS).zip(rows.par_chunks(ROWS * width));
    tasks.for_each(|(products, rows)| row_dots(rows, vector, products));
    products
}

vectorized! {
    /// Subtracts a multiple of a vector from another.
    pub(super) fn subtract<'a, 'b>(values: &'a mut [f64], others: &'b [f64], factor: f64) -> () = subtract_body
}

#[inline(always)]
fn subtract_body(values: &mut [f64], others: &[f64], factor: f64) {
    let pairs = values.iter_mut().zip(others);
    pairs.for_each(|(value, other)| *value = (-factor).mul_add(*other, *value));
}

vectorized! {
    /// Adds a vector to another.
    pub fn add<'a, 'b>(values: &'a mut [f64], others: &'b [f64]) -> () = add_body
}

#[inline(always)]
fn add_body(values: &mut [f64], others: &[f64]) {
    values.iter_mut().zip(others).for_each(|(value, other)| *value += other);
}

vectorized! {
    /// The dot product of two vectors.
    pub(super) fn dot<'a, 'b>(a: &'a [f64], b: &'b [f64]) -> f64 = dot_body
}

#[inline(always)]
fn dot_body(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
        *lane = a.mul_add(*b, *lane);
    }
    sum(lanes)
}

vectorized! {
    fn row_dots<'a, 'b, 'c>(rows: &'a [f32], vector: &'b [f32], products: &'c mut [f64]) -> () = row_dots_body
}

#[inline(always)]
fn row_dots_body(rows: &[f32], vector: &[f32], products: &mut [f64]) {
    for (row, product) in rows.chunks_exact(vector.len().max(1)).zip(products) {
        let mut lanes = [0.0; LANES];
        let ((a, rest_a), (b, rest_b)) = (row.as_chunks::<LANES>(), vector.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..LANES {
                lanes[i] = f64::from(a[i]).mul_add(f64::from(b[i]), lanes[i]);
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(rest_a.iter().zip(rest_b)) {
            *lane = f64::from(*a).mul_add(f64::from(*b), *lane);
        }
        *product = sum(lanes);
    }
}

vectorized! {
    /// The sum of `e^((value - shift) * factor)` over values.
    pub fn sum_exp<'a>(values: &'a [f64], shift: f64, factor: f64) -> f64 = sum_exp_body
}

#[inline(always)]
fn sum_exp_body(values: &[f64], shift: f64, factor: f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += exp((chunk[i] - shift) * factor);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += exp((value - shift) * factor);
    }
    sum(lanes)
}

vectorized! {
    /// Turns each value into `e^((value - shift) * factor)`.
    pub fn exp_all<'a>(values: &'a mut [f64], shift: f64, factor: f64) -> () = exp_all_body
}

#[inline(always)]
fn exp_all_body(values: &mut [f64], shift: f64, factor: f64) {
    values.iter_mut().for_each(|value| *value = exp((*value - shift) * factor));
}

#[inline(always)]
fn sum(lanes: [f64; LANES]) -> f64 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// e^x to the last bits, without branches so that loops over it are vectorised; the argument is
/// held to [-700, 700].
///
/// The argument is reduced by a multiple of ln 2, and the series of the rest is summed to its
/// thirteenth term, which is below half a unit in the last place.
#[inline(always)]
fn exp(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = x.clamp(-700.0, 700.0);
    let shifted = x.mul_add(std::f64::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(1.908_214_929_270_587_7e-10, (-n).mul_add(0.693_147_180_369_123_8, x));
    let mut series: f64 = LAST_FACTORIAL;
    for term in INVERSE_FACTORIALS {
        series = series.mul_add(r, term);
    }
    let e = series.mul_add(r, 1.0);
    // The low bits of `shifted` hold n; moved to the exponent they scale by 2^n.
    f64::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 52))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_library() {
        for i in -6990..6990 {
            let x = f64::from(i) * 0.1 + 0.003;
            assert!((exp(x) / libm::exp(x) - 1.0).abs() < 4e-16, "exp({x})");
        }
    }
}
