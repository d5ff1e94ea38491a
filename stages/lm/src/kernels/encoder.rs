//! What encoders of the BERT family need beside the decoders' kernels: layer norm, and GELU in its exact form.

use rayon::prelude::*;

use super::{LANES, exp, sum, sum_lanes};

/// Rows that one task computes; the same whatever the number of threads.
const BLOCK: usize = 16;
/// Values that one task computes where there are no rows.
const VALUES: usize = 1 << 13;

/// Layer norm of each row in place: `(x - mean) / sqrt(variance + eps) * weight + bias`; x `[rows, width]`.
pub fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f64) {
    x.par_chunks_mut(BLOCK * weight.len()).for_each(|x| norm_rows(x, weight, bias, eps));
}

vectorized! {
    fn norm_rows<'a>(x: &'a mut [f32], weight: &'a [f32], bias: &'a [f32], eps: f64) -> () = norm_rows_body
}

#[inline(always)]
fn norm_rows_body(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f64) {
    let width = weight.len();
    for x in x.chunks_exact_mut(width) {
        let mean = sum(x) / width as f32;
        x.iter_mut().for_each(|x| *x -= mean);
        let variance = f64::from(sum_of_squares(x)) / width as f64;
        let inverse = (1.0 / (variance + eps).sqrt()) as f32;
        for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *x = *x * inverse * w + b;
        }
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            lanes[i] += x[i] * x[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    sum_lanes(lanes)
}

/// GELU of each value in place: `x / 2 * (1 + erf(x / sqrt(2)))`.
pub fn gelu(x: &mut [f32]) {
    x.par_chunks_mut(VALUES).for_each(gelu_values);
}

vectorized! {
    fn gelu_values<'a>(x: &'a mut [f32]) -> () = gelu_body
}

#[inline(always)]
fn gelu_body(x: &mut [f32]) {
    for x in x {
        let tail = 0.5 * erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
        *x *= if *x < 0.0 { tail } else { 1.0 - tail };
    }
}

/// The complementary error function of a value of at least 0, to 2.5e-7: `t exp(-z² + p(t))`, t = 1 / (1 + z / 2),
/// where the polynomial p is our own Chebyshev fit. Without branches, so that loops over it are vectorised.
#[inline(always)]
fn erfc(z: f32) -> f32 {
    const P: [f32; 10] = [
        -1.265_448,
        0.998_632_8,
        0.386_640_4,
        0.034_602_8,
        1.267_588_1e-3,
        -0.080_280_44,
        -0.696_251_9,
        1.156_733_8,
        -0.680_827_2,
        0.144_930_2,
    ];
    let t = 1.0 / (1.0 + 0.5 * z);
    let mut p = P[9];
    for c in P[..9].iter().rev() {
        p = p * t + c;
    }
    t * exp(p - z * z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_is_close_to_the_library() {
        let inputs: Vec<f32> = (-1200..1200).map(|i| i as f32 * 0.01 + 0.003).collect();
        let mut values = inputs.clone();
        gelu(&mut values);
        for (x, y) in inputs.into_iter().zip(values) {
            let wide = f64::from(x);
            let truth = 0.5 * wide * (1.0 + libm::erf(wide / 2f64.sqrt()));
            assert!((f64::from(y) - truth).abs() < 4e-7 * (1.0 + wide.abs()), "gelu({x}) is {y}");
        }
    }

    #[test]
    fn a_normed_row_has_mean_and_deviation_of_its_weights() {
        for width in [1usize, 7, 16, 50] {
            let mut x: Vec<f32> = (0..3 * width).map(|i| (i * i % 11) as f32 + 100.0).collect();
            let plain = x.clone();
            let (weight, bias) = (vec![2.0; width], vec![0.5; width]);
            layer_norm(&mut x, &weight, &bias, 1e-5);
            for (row, plain) in x.chunks_exact(width).zip(plain.chunks_exact(width)) {
                let mean = plain.iter().sum::<f32>() / width as f32;
                let variance = plain.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / width as f32;
                for (y, x) in row.iter().zip(plain) {
                    let truth = (x - mean) / (variance + 1e-5).sqrt() * 2.0 + 0.5;
                    assert!((y - truth).abs() < 1e-4, "{y} {truth}");
                }
            }
        }
    }
}
