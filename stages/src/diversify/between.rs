//! Distances between two sets of embeddings, and between the words of two sets of texts.

use rayon::prelude::*;

use refrain_lm::linear::{Packed, add_lower, eigenvalues, map_lower, map_panels, sum_exp};

use super::words::{Texts, Vocabulary, Words};

/// Rows that are packed together where they are the terms of a sum.
const TERMS: usize = 4096;

/// Embeddings as the model gives them, `[rows, width]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Points<'a> {
    pub values: &'a [f32],
    pub width: usize,
}

impl Points<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    fn mean(&self) -> Vec<f64> {
        let mut mean = vec![0.0; self.width];
        for point in self.values.chunks_exact(self.width) {
            mean.iter_mut().zip(point).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        mean.iter_mut().for_each(|sum| *sum /= self.rows() as f64);
        mean
    }

    /// The points less their mean, divided by the root of n - 1.
    fn centred(&self, mean: &[f64]) -> Vec<f64> {
        let scale = 1.0 / ((self.rows() - 1) as f64).sqrt();
        let rows = self.values.par_chunks_exact(self.width);
        rows.flat_map_iter(|row| row.iter().zip(mean).map(|(v, m)| (f64::from(*v) - m) * scale))
            .collect()
    }
}

/// The covariance of centred points, `[width, width]`.
fn covariance(centred: &[f64], width: usize) -> Vec<f64> {
    let mut covariance = vec![0.0; width * width];
    for rows in centred.chunks(TERMS * width) {
        let packed = Packed::of_columns(rows, width);
        add_lower(&packed, &packed, 1.0, &mut covariance, width);
    }
    for i in 0..width {
        for j in 0..i {
            covariance[j * width + i] = covariance[i * width + j];
        }
    }
    covariance
}

/// The Fréchet distance of two normal distributions with the sets' means and covariances (Dowson
/// and Landau 1982; Heusel and others 2017), squared as usual, covariances with n - 1: `|m1 - m2|^2
/// + tr(S1 + S2 - 2 (S1 S2)^(1/2))`. NaN where a set has fewer than two points.
///
/// With S1 = L Lᵀ the product S1 S2 has the eigenvalues of the symmetric matrix Lᵀ S2 L.
pub(super) fn frechet(a: Points<'_>, b: Points<'_>) -> f64 {
    if a.rows() < 2 || b.rows() < 2 {
        return f64::NAN;
    }
    // The set of fewer points gives L: no more columns than points are needed.
    let (few, many) = if a.rows() <= b.rows() { (a, b) } else { (b, a) };
    let width = few.width;
    let (mean, other_mean) = (few.mean(), many.mean());
    let centred = few.centred(&mean);
    let other = covariance(&many.centred(&other_mean), width);
    let trace = |matrix: &[f64]| (0..width).map(|i| matrix[i * width + i]).sum::<f64>();
    // The columns of L as rows.
    let (columns, own_trace) = if few.rows() <= width {
        let trace = centred.iter().map(|v| v * v).sum::<f64>();
        (centred, trace)
    } else {
        let mut own = covariance(&centred, width);
        let trace = trace(&own);
        factor(&mut own, width);
        (own, trace)
    };

    let size = columns.len() / width;
    let (packed, other_packed) = (Packed::of_rows(&columns, width), Packed::of_rows(&other, width));
    let half = map_panels(&packed, &other_packed, |_, rows| rows.to_vec()).concat();
    let mut product = vec![0.0; size * size];
    add_lower(&Packed::of_rows(&half, width), &packed, 1.0, &mut product, size);
    let roots = eigenvalues(&mut product, size).into_iter().map(|value| value.max(0.0).sqrt());
    let roots: f64 = roots.sum();
    let means = mean.iter().zip(&other_mean).map(|(a, b)| (a - b) * (a - b));
    means.sum::<f64>() + (own_trace + trace(&other) - 2.0 * roots)
}

/// Cholesky's factor of a matrix without negative eigenvalues: turns S into Lᵀ with S = L Lᵀ.
///
/// A pivot that is nothing but rounding leaves its column empty.
fn factor(matrix: &mut [f64], width: usize) {
    let largest = (0..width).map(|i| matrix[i * width + i]).fold(0.0, f64::max);
    let least = largest * f64::EPSILON * width as f64;
    for j in 0..width {
        let (row, below) = matrix[j * width..].split_at_mut(width);
        row[..j].fill(0.0);
        if row[j] <= least {
            row[j..].fill(0.0);
            continue;
        }
        let scale = 1.0 / row[j].sqrt();
        row[j..].iter_mut().for_each(|value| *value *= scale);
        let row = &*row;
        below.par_chunks_exact_mut(width).enumerate().for_each(|(i, other)| {
            let i = j + 1 + i;
            let by = row[i];
            other[i..].iter_mut().zip(&row[i..]).for_each(|(value, own)| *value -= by * own);
        });
    }
}

/// The squared maximum mean discrepancy, unbiased, with the kernel e^(-d^2 / 2 s^2) and s the
/// median distance of two points of both sets (Gretton and others 2012). NaN where a set has fewer
/// than two points, or where the median is zero.
pub(super) fn mmd(a: Points<'_>, b: Points<'_>) -> f64 {
    let (n, m) = (a.rows(), b.rows());
    if n < 2 || m < 2 {
        return f64::NAN;
    }
    let rows = squared_distances(&[a.values, b.values].concat(), a.width);
    let all: Vec<f64> = rows.concat();
    let Some(median) = median_root(all) else { return f64::NAN };
    let factor = -0.5 / (median * median);
    let sums = rows.par_iter().enumerate().map(|(i, row)| {
        let (first, second) = row.split_at(row.len().min(n));
        let sum = |values| sum_exp(values, 0.0, factor);
        if i < n { [sum(first), 0.0, 0.0] } else { [0.0, sum(first), sum(second)] }
    });
    let sums: Vec<[f64; 3]> = sums.collect();
    let total = |which: usize| sums.iter().map(|sums| sums[which]).sum::<f64>();
    let pairs = |n: usize| n as f64 * (n - 1) as f64 / 2.0;
    total(0) / pairs(n) + total(2) / pairs(m) - 2.0 * total(1) / (n as f64 * m as f64)
}

/// For each point its squared distances from those before it.
fn squared_distances(points: &[f32], width: usize) -> Vec<Vec<f64>> {
    let squares = squares(points, width);
    let packed = Packed::of_rows(points, width);
    let count = squares.len();
    let panels = map_lower(&packed, 0..packed.panels(), |first, products| {
        let rows = products.chunks_exact(count).enumerate();
        let distances = rows.map(|(i, row)| {
            let own = squares[first + i];
            let pairs = row[..first + i].iter().zip(&squares);
            pairs.map(|(product, other)| (own + other - 2.0 * product).max(0.0)).collect()
        });
        distances.collect::<Vec<Vec<f64>>>()
    });
    panels.into_iter().flatten().collect()
}

fn squares(points: &[f32], width: usize) -> Vec<f64> {
    let rows = points.par_chunks_exact(width);
    rows.map(|row| row.iter().map(|v| f64::from(*v).powi(2)).sum()).collect()
}

/// The median of the roots, the mean of the middle two of an even number; `None` where it is zero.
fn median_root(mut values: Vec<f64>) -> Option<f64> {
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = upper.sqrt();
    let median = match even {
        true => {
            let lower = below.iter().copied().fold(0.0, f64::max).sqrt();
            (lower + upper) / 2.0
        }
        false => upper,
    };
    (median > 0.0).then_some(median)
}

/// The share of the points of `a` that lie within the ball of some point of `b` around it and its
/// k-th nearest other point: the precision of `a` as samples of `b`, and the recall of `b`
/// (Kynkäänniemi and others 2019). NaN where `a` is empty, or `b` has no more than k points.
pub(super) fn share_within(a: Points<'_>, b: Points<'_>, k: usize) -> f64 {
    if a.rows() == 0 || b.rows() <= k {
        return f64::NAN;
    }
    let (of_a, of_b) = (squares(a.values, a.width), squares(b.values, b.width));
    let (packed_a, packed_b) =
        (Packed::of_rows(a.values, a.width), Packed::of_rows(b.values, b.width));
    let radii = map_panels(&packed_b, &packed_b, |first, products| {
        let rows = products.chunks_exact_mut(of_b.len()).enumerate();
        let radius = |(i, row): (usize, &mut [f64])| {
            let own = of_b[first + i];
            row.iter_mut()
                .zip(&of_b)
                .for_each(|(value, other)| *value = (own + other - 2.0 * *value).max(0.0));
            // Its distance from itself is not one of another point.
            row[first + i] = f64::INFINITY;
            *row.select_nth_unstable_by(k - 1, f64::total_cmp).1
        };
        rows.map(radius).collect::<Vec<f64>>()
    });
    let radii = radii.concat();
    let counts = map_panels(&packed_a, &packed_b, |first, products| {
        let rows = products.chunks_exact(of_b.len()).enumerate();
        let inside = |(i, row): &(usize, &[f64])| {
            let own = of_a[first + i];
            let mut others = row.iter().zip(&of_b).zip(&radii);
            others
                .any(|((product, other), radius)| (own + other - 2.0 * product).max(0.0) <= *radius)
        };
        rows.filter(inside).count() as u64
    });
    counts.iter().sum::<u64>() as f64 / a.rows() as f64
}

/// The shift between the words of two sets of texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct VocabularyShift {
    /// The Jensen-Shannon divergence of their frequencies in bits (Lin 1991): 0 where they are the
    /// same, 1 where no word is shared.
    pub divergence: f64,
    /// The share of the words of the first set that the second does not have.
    pub new_words: f64,
    /// The number of words of the first set.
    pub words: u64,
}

/// Compares the words of two sets of texts.
pub(super) fn vocabulary_shift(a: &[&str], b: &[&str], words: Words) -> VocabularyShift {
    let mut vocabulary = Vocabulary::default();
    let texts = [a, b].map(|texts| Texts::of(texts, words, &mut vocabulary));
    let mut counts = vec![[0_u64; 2]; vocabulary.len()];
    for (set, texts) in texts.iter().enumerate() {
        texts.words().iter().for_each(|word| counts[*word as usize][set] += 1);
    }
    let totals = texts.each_ref().map(|texts| texts.words().len() as f64);
    let part = |share: f64, mean: f64| {
        if share > 0.0 { share * libm::log2(share / mean) } else { 0.0 }
    };
    let divergence = counts.iter().map(|of_sets| {
        let [p, q] = [0, 1].map(|set| of_sets[set] as f64 / totals[set]);
        0.5 * (part(p, (p + q) / 2.0) + part(q, (p + q) / 2.0))
    });
    let new = counts.iter().filter(|of_sets| of_sets[1] == 0).map(|of_sets| of_sets[0]);
    let any = totals[0] > 0.0 && totals[1] > 0.0;
    VocabularyShift {
        divergence: if any { divergence.sum() } else { f64::NAN },
        new_words: new.sum::<u64>() as f64 / totals[0],
        words: totals[0] as u64,
    }
}
