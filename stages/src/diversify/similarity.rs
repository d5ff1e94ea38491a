//! Diversity of a set of embeddings by their cosines: Vendi score, DCScore, mean distance; and the
//! choice of unlike rows.

use nalgebra::DMatrix;
use rayon::prelude::*;

use refrain_lm::embed::products;

/// Rows whose cosines with all rows are held at once.
const BLOCK: usize = 256;

/// Vectors of unit length, `[rows, width]`; one of length zero stays so and is unlike all others.
#[derive(Debug)]
pub struct Vectors {
    width: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Scales the rows of `values`, `[rows, width]`; `None` where one is not finite.
    pub fn new(mut values: Vec<f32>, width: usize) -> Option<Vectors> {
        for vector in values.chunks_exact_mut(width.max(1)) {
            let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if !length.is_finite() {
                return None;
            }
            if length > 0.0 {
                vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
            }
        }
        Some(Vectors { width, values })
    }

    /// Number of vectors.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..][..self.width]
    }

    /// The Vendi score (Friedman and Dieng 2023): e to the entropy of the eigenvalues of the
    /// cosines divided by n. From 1, all alike, to n, all at right angles; NaN for no rows.
    ///
    /// The n x n matrix of cosines and the sum of the outer products have the same eigenvalues but
    /// for zeros: the smaller of the two is taken.
    pub fn vendi(&self) -> f64 {
        let n = self.rows();
        if n == 0 {
            return f64::NAN;
        }
        let small = if n <= self.width { self.cosines() } else { self.moments() };
        let values = (small / n as f64).symmetric_eigenvalues();
        // The library's order of the eigenvalues is not ours to rely on.
        let mut values: Vec<f64> = values.iter().copied().filter(|value| *value > 0.0).collect();
        values.sort_unstable_by(f64::total_cmp);
        libm::exp(-values.iter().map(|value| value * libm::log(*value)).sum::<f64>())
    }

    /// `[rows, rows]`.
    fn cosines(&self) -> DMatrix<f64> {
        let n = self.rows();
        let dot = |i: usize, j: usize| -> f64 {
            let pairs = self.row(i).iter().zip(self.row(j));
            pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let values: Vec<f64> = (0..n * n)
            .into_par_iter()
            .map(|place| dot((place / n).max(place % n), (place / n).min(place % n)))
            .collect();
        DMatrix::from_vec(n, n, values)
    }

    /// The sum of the outer products of the vectors with themselves, `[width, width]`.
    fn moments(&self) -> DMatrix<f64> {
        let width = self.width;
        let mut values = vec![0.0f64; width * width];
        // One task a column, each adding the rows in their order.
        values.par_chunks_exact_mut(width).enumerate().for_each(|(i, column)| {
            for vector in self.values.chunks_exact(width) {
                let factor = f64::from(vector[i]);
                column.iter_mut().zip(vector).for_each(|(sum, v)| *sum += factor * f64::from(*v));
            }
        });
        DMatrix::from_vec(width, width, values)
    }

    /// DCScore (Zhu and others 2025) with the cosine and a temperature of 1: the trace of the
    /// row-wise softmax of the cosines, which takes each row for a class of its own. 1 where all
    /// are alike; NaN for no rows.
    pub fn dcscore(&self) -> f64 {
        if self.rows() == 0 {
            return f64::NAN;
        }
        let mut trace = 0.0;
        for (block, first) in self.values.chunks(BLOCK * self.width).zip((0usize..).step_by(BLOCK))
        {
            let cosines = products(block, &self.values, self.width);
            let own: Vec<f64> = cosines
                .par_chunks_exact(self.rows())
                .enumerate()
                .map(|(i, row)| {
                    let own = f64::from(row[first + i]);
                    1.0 / row.iter().map(|cosine| libm::exp(f64::from(*cosine) - own)).sum::<f64>()
                })
                .collect();
            trace += own.iter().sum::<f64>();
        }
        trace
    }

    /// 1 less the mean cosine of two different rows; NaN for fewer than two.
    pub fn mean_distance(&self) -> f64 {
        let mut sum = vec![0.0f64; self.width];
        let mut own = 0.0;
        for vector in self.values.chunks_exact(self.width.max(1)) {
            for (sum, v) in sum.iter_mut().zip(vector) {
                *sum += f64::from(*v);
                own += f64::from(*v).powi(2);
            }
        }
        // The square of the sum is the sum over all pairs, each row with itself included.
        let n = self.rows() as f64;
        if n < 2.0 {
            f64::NAN
        } else {
            1.0 - (sum.iter().map(|v| v * v).sum::<f64>() - own) / (n * (n - 1.0))
        }
    }

    /// The rows whose cosine with every row that was taken before stays below the threshold, in
    /// their order.
    pub fn unlike(&self, threshold: f64) -> Vec<usize> {
        let alike = |cosines: &[f32]| cosines.iter().any(|cosine| f64::from(*cosine) >= threshold);
        let (mut taken, mut values) = (Vec::new(), Vec::new());
        for (block, first) in
            self.values.chunks(BLOCK * self.width.max(1)).zip((0..).step_by(BLOCK))
        {
            let (rows, before) = (block.len() / self.width, taken.len());
            let cosines = products(block, &values, self.width);
            for i in 0..rows {
                let vector = &block[i * self.width..][..self.width];
                let earlier = &cosines[i * before..][..before];
                let later = products(vector, &values[before * self.width..], self.width);
                if !alike(earlier) && !alike(&later) {
                    taken.push(first + i);
                    values.extend_from_slice(vector);
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;

    use super::*;

    /// Vectors without a pattern.
    fn some(rows: usize, width: usize) -> Vectors {
        let values =
            (0..rows * width).map(|i| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect();
        Vectors::new(values, width).unwrap()
    }

    #[test]
    fn extremes_have_their_known_values() {
        let alike = Vectors::new([3.0, 4.0].repeat(10), 2).unwrap();
        assert!((alike.vendi() - 1.0).abs() < 1e-6 && (alike.dcscore() - 1.0).abs() < 1e-6);
        assert!(alike.mean_distance().abs() < 1e-6);
        let axes = Vectors::new(vec![2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0], 3).unwrap();
        let e = std::f64::consts::E;
        assert!((axes.vendi() - 3.0).abs() < 1e-9 && (axes.mean_distance() - 1.0).abs() < 1e-12);
        assert!((axes.dcscore() - 3.0 * e / (e + 2.0)).abs() < 1e-9);
        let none = Vectors::new(Vec::new(), 3).unwrap();
        assert!(none.vendi().is_nan() && none.dcscore().is_nan() && none.mean_distance().is_nan());
        assert!(Vectors::new(vec![1.0, f32::NAN], 2).is_none());
    }

    #[test]
    fn stored_embeddings_give_the_reference_figures() {
        let folder = std::path::Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../shared/data/diversity-embedding"
        ));
        if !folder.is_dir() {
            println!("skipped: {} is not there", folder.display());
            return;
        }
        let reader = refrain_cache::TableReader::open(&folder.join("cases.parquet")).unwrap();
        let batch = reader.read_all(Some(&["embedding"])).unwrap();
        let values = batch["embedding"]
            .as_list::<i32>()
            .values()
            .as_primitive::<Float32Type>()
            .values()
            .to_vec();
        let vectors = Vectors::new(values, 384).unwrap();
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        for (name, value) in [
            ("vendi_cosine", vectors.vendi()),
            ("mean_pairwise_cosine_distance", vectors.mean_distance()),
        ] {
            let expected = expected[name].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() < 1e-6, "{name}: {value} {expected}");
        }
        let neighbours: Vec<u64> = (0..vectors.rows())
            .map(|row| {
                let cosines = products(vectors.row(row), &vectors.values, 384);
                let others = (0..vectors.rows()).filter(|other| *other != row);
                others.max_by(|a, b| cosines[*a].total_cmp(&cosines[*b])).unwrap() as u64
            })
            .collect();
        assert_eq!(serde_json::json!(neighbours), expected["nearest_neighbour"]);
    }

    #[test]
    fn both_matrices_have_the_same_entropy() {
        let (few, many) = (some(20, 30), some(30, 20));
        for vectors in [few, many] {
            let n = vectors.rows() as f64;
            let entropy = |matrix: DMatrix<f64>| -> f64 {
                let values = (matrix / n).symmetric_eigenvalues();
                values.iter().filter(|v| **v > 1e-15).map(|v| -v * v.ln()).sum::<f64>().exp()
            };
            let (one, other) = (entropy(vectors.cosines()), entropy(vectors.moments()));
            assert!(
                (one - other).abs() < 1e-9 && (one - vectors.vendi()).abs() < 1e-9,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn blocks_change_nothing() {
        let vectors = some(2 * BLOCK + 50, 5);
        let cosine = |i: usize, j: usize| -> f64 {
            vectors
                .row(i)
                .iter()
                .zip(vectors.row(j))
                .map(|(a, b)| f64::from(*a) * f64::from(*b))
                .sum()
        };
        let n = vectors.rows();
        let trace: f64 = (0..n)
            .map(|i| cosine(i, i).exp() / (0..n).map(|j| cosine(i, j).exp()).sum::<f64>())
            .sum();
        assert!((vectors.dcscore() / trace - 1.0).abs() < 1e-6);
        let pairs: f64 =
            (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| 1.0 - cosine(i, j)).sum();
        assert!((vectors.mean_distance() - pairs / (n * (n - 1) / 2) as f64).abs() < 1e-9);
        let mut taken: Vec<usize> = Vec::new();
        for row in 0..n {
            if taken.iter().all(|other| cosine(row, *other) < 0.95) {
                taken.push(row);
            }
        }
        assert_eq!(vectors.unlike(0.95), taken);
        assert!(taken.len() > 5 && taken.len() < n, "{}", taken.len());
    }
}
