//! Layer norm, which encoders of the BERT family have in place of RMS norm.

use rayon::prelude::*;

use super::{LANES, sum, sum_lanes};

/// Rows that one task computes; the same whatever the number of threads.
const BLOCK: usize = 16;

/// Layer norm of each row in place: `(x - mean) / sqrt(variance + eps) * weight + bias`; x `[rows,
/// width]`.
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

#[cfg(test)]
mod tests {
    use super::*;

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
