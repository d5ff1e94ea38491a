//! DCScore: a set of embeddings as a task of classification in which each is a class of its own.

use serde_json::{Value, json};

use refrain_engine::kind::{choices, parameters};
use refrain_lm::linear::{add, exp_all, map_lower, sum_exp};

use super::similarity::Vectors;

/// Panels of rows whose sums are held at once.
const PANELS: usize = 64;

parameters! {
    /// The parameter `dcscore`.
    pub(super) struct DcscoreParams {
        /// The similarity k of two rows: their cosine; `rbf`, e^(-gamma d^2); `laplacian`,
        /// e^(-gamma d) with d the sum of absolute differences; `polynomial`, (gamma cosine +
        /// offset)^degree
        kernel: SimilarityKernel = "cosine",
        /// Similarities are divided by it before the softmax
        #[range(above 0.0)]
        temperature: f64 = 1.0,
        /// The factor `gamma` of `rbf`, `laplacian` and `polynomial` (1 / width)
        #[range(above 0.0)]
        gamma: Option<f64>,
        /// The offset of `polynomial`
        #[range(0.0..)]
        offset: f64 = 1.0,
        /// The degree of `polynomial`
        #[range(1..=16)]
        degree: usize = 3,
    }
}

choices! {
    /// A similarity of two embeddings.
    pub(super) enum SimilarityKernel {
        Cosine = "cosine",
        Rbf = "rbf",
        Laplacian = "laplacian",
        Polynomial = "polynomial",
    }
}

impl DcscoreParams {
    /// The settings of a stage that gives none.
    pub(super) fn default_value() -> Value {
        json!({ "kernel": "cosine", "temperature": 1.0, "offset": 1.0, "degree": 3 })
    }
}

impl Default for DcscoreParams {
    fn default() -> DcscoreParams {
        let kernel = SimilarityKernel::Cosine;
        DcscoreParams { kernel, temperature: 1.0, gamma: None, offset: 1.0, degree: 3 }
    }
}

impl Vectors {
    /// DCScore (Zhu and others 2025): the trace of the row-wise softmax of the similarities, which
    /// takes each row for a class of its own. 1 where all are alike; NaN for no rows.
    pub(super) fn dcscore(&self, params: &DcscoreParams) -> f64 {
        if self.rows() == 0 {
            return f64::NAN;
        }
        let (packed, factor) = (self.packed(), 1.0 / params.temperature);
        // Similarities are symmetric: each is computed once, and counts in its row and its column.
        // Less the largest, none overflows; all of a row's are less by the same.
        let own = self.own_similarities(params);
        let largest = own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sums = vec![0.0; self.rows()];
        for first in (0..packed.panels()).step_by(PANELS) {
            let panels = first..packed.panels().min(first + PANELS);
            let parts = map_lower(&packed, panels, |first, cosines| {
                let mut part = vec![0.0; self.rows()];
                for (i, row) in cosines.chunks_exact_mut(self.rows()).enumerate() {
                    let (row, i) = (&mut row[..first + i], first + i);
                    self.similarities(i, row, params);
                    exp_all(row, largest, factor);
                    part[i] += row.iter().sum::<f64>();
                    add(&mut part[..i], row);
                }
                part
            });
            parts.iter().for_each(|part| add(&mut sums, part));
        }
        let share = |(own, others): (&f64, &f64)| {
            let own = sum_exp(&[*own], largest, factor);
            own / (own + others)
        };
        own.iter().zip(&sums).map(share).sum()
    }

    /// The similarity of each row with itself.
    fn own_similarities(&self, params: &DcscoreParams) -> Vec<f64> {
        let mut squares = self.squares();
        for (row, square) in squares.iter_mut().enumerate() {
            let own = std::slice::from_mut(square);
            match params.kernel {
                SimilarityKernel::Rbf | SimilarityKernel::Laplacian => own[0] = 1.0,
                _ => self.similarities(row, own, params),
            }
        }
        squares
    }

    /// Turns the cosines of a row with the first rows into similarities.
    fn similarities(&self, row: usize, cosines: &mut [f64], params: &DcscoreParams) {
        let gamma = params.gamma.unwrap_or(1.0 / self.width() as f64);
        match params.kernel {
            SimilarityKernel::Cosine => {}
            SimilarityKernel::Rbf => {
                let squares =
                    |values: &[f32]| -> f64 { values.iter().map(|v| f64::from(*v).powi(2)).sum() };
                let own = squares(self.row(row));
                for (other, cosine) in cosines.iter_mut().enumerate() {
                    let distance = own + squares(self.row(other)) - 2.0 * *cosine;
                    *cosine = libm::exp(-gamma * distance.max(0.0));
                }
            }
            SimilarityKernel::Laplacian => {
                for (other, cosine) in cosines.iter_mut().enumerate() {
                    let pairs = self.row(row).iter().zip(self.row(other));
                    let distance: f64 =
                        pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).sum();
                    *cosine = libm::exp(-gamma * distance);
                }
            }
            SimilarityKernel::Polynomial => {
                for cosine in cosines {
                    // The library's power has no promised order of products.
                    let base = gamma * *cosine + params.offset;
                    *cosine = (0..params.degree).fold(1.0, |product, _| product * base);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against plain sums over all pairs.
    #[test]
    fn kernels_of_dcscore_are_those_of_their_formulas() {
        let values: Vec<f32> =
            (0..40 * 7).map(|i| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect();
        let vectors = Vectors::new(&values, 7);
        let pair = |i: usize, j: usize| vectors.row(i).iter().zip(vectors.row(j));
        let dot = |i, j| pair(i, j).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let apart = |i, j, power| {
            pair(i, j).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs().powi(power)).sum::<f64>()
        };
        let (gamma, temperature) = (0.7, 0.25);
        let check = |kernel, similarity: &dyn Fn(usize, usize) -> f64| {
            let params =
                DcscoreParams { kernel, temperature, gamma: Some(gamma), offset: 0.5, degree: 2 };
            let softmax = |i: usize| {
                let of = |j| (similarity(i, j) / temperature).exp();
                of(i) / (0..40).map(of).sum::<f64>()
            };
            let expected: f64 = (0..40).map(softmax).sum();
            let found = vectors.dcscore(&params);
            assert!((found / expected - 1.0).abs() < 1e-9, "{found}, not {expected}");
        };
        check(SimilarityKernel::Cosine, &dot);
        check(SimilarityKernel::Rbf, &|i, j| (-gamma * apart(i, j, 2)).exp());
        check(SimilarityKernel::Laplacian, &|i, j| (-gamma * apart(i, j, 1)).exp());
        check(SimilarityKernel::Polynomial, &|i, j| (gamma * dot(i, j) + 0.5).powi(2));
    }
}
