//! The Vendi score: the effective number of different rows, from the eigenvalues of their
//! similarities.

use refrain_lm::linear::eigenvalues;

/// The order of the entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Order {
    /// Shannon's.
    One,
    /// Rényi's of order 2.
    Two,
    /// The smallest: by the largest eigenvalue alone.
    Infinite,
}

/// Eigenvalues of a matrix of similarities whose sum is 1.
#[derive(Debug)]
pub(super) struct Spectrum(Vec<f64>);

impl Spectrum {
    /// Takes a symmetric matrix `[size, size]`, of which the lower triangle counts, divided by the
    /// number of rows.
    pub(super) fn of(mut matrix: Vec<f64>, size: usize, rows: usize) -> Spectrum {
        let values = eigenvalues(&mut matrix, size).into_iter();
        Spectrum(values.map(|value| value / rows as f64).collect())
    }

    /// The Vendi score (Friedman and Dieng 2023; orders: Pasarkar and Dieng 2024): e to the entropy
    /// of the eigenvalues. From 1, all alike, to their number; NaN for no rows.
    pub(super) fn vendi(&self, order: Order) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        // Similarities have no negative eigenvalues but by rounding; their order is ascending.
        let values = || self.0.iter().filter(|value| **value > 0.0 || value.is_nan());
        match order {
            Order::One => libm::exp(-values().map(|value| value * libm::log(*value)).sum::<f64>()),
            Order::Two => 1.0 / values().map(|value| value * value).sum::<f64>(),
            Order::Infinite => 1.0 / values().next_back().copied().unwrap_or(f64::NAN),
        }
    }
}
