//! Diversity of a set of embeddings by their cosines: Vendi score and mean distance; nearest
//! neighbours, and the choice of unlike rows.

use refrain_lm::embed::products;
use refrain_lm::linear::{Packed, add_lower, map_panels};

use super::spectrum::Spectrum;

/// Rows whose cosines with all rows are held at once.
const BLOCK: usize = 256;
/// Rows that are packed together where they are the terms of a sum.
const TERMS: usize = 4096;

/// Vectors of unit length, `[rows, width]`; one of length zero stays so and is unlike all others.
#[derive(Debug)]
pub(super) struct Vectors {
    width: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Scales finite rows `[rows, width]`.
    pub(super) fn new(values: &[f32], width: usize) -> Vectors {
        let mut values = values.to_vec();
        for vector in values.chunks_exact_mut(width.max(1)) {
            let length = vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if length > 0.0 {
                vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
            }
        }
        Vectors { width, values }
    }

    /// Number of vectors.
    pub(super) fn rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// The values of all rows.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }

    /// The length of a vector.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..][..self.width]
    }

    /// Some of the vectors, in the order given.
    pub(super) fn some(&self, rows: &[usize]) -> Vectors {
        let values = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        Vectors { width: self.width, values }
    }

    /// For each vector the square of its length: 1, but for rounding and the zero vector.
    pub(super) fn squares(&self) -> Vec<f64> {
        let rows = self.values.chunks_exact(self.width.max(1));
        rows.map(|row| row.iter().map(|v| f64::from(*v).powi(2)).sum()).collect()
    }

    /// For each row the sum of its cosines with all rows, of those above zero.
    pub(super) fn positive_sums(&self) -> Vec<f64> {
        let packed = self.packed();
        let panels = map_panels(&packed, &packed, |_, cosines| {
            let rows = cosines.chunks_exact(self.rows());
            rows.map(|row| row.iter().map(|c| c.max(0.0)).sum()).collect::<Vec<f64>>()
        });
        panels.concat()
    }

    /// For each row the nearest of some others, of equal ones the first, and their cosine.
    pub(super) fn nearest_of(&self, others: &Vectors) -> Vec<(usize, f64)> {
        let panels = map_panels(&self.packed(), &others.packed(), |_, cosines| {
            let rows = cosines.chunks_exact(others.rows());
            rows.map(first_largest).collect::<Vec<_>>()
        });
        panels.concat()
    }

    /// The directions of the sums of the rows of each group; those of empty ones stay as before.
    pub(super) fn centres(&self, of_rows: &[usize], before: &Vectors) -> Vectors {
        let mut sums = vec![0.0_f64; before.values.len()];
        for (row, group) in of_rows.iter().enumerate() {
            let sum = &mut sums[group * self.width..][..self.width];
            sum.iter_mut().zip(self.row(row)).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        let mut values = before.values.clone();
        for (value, sum) in values.chunks_exact_mut(self.width).zip(sums.chunks_exact(self.width)) {
            let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt();
            if length > 0.0 {
                value.iter_mut().zip(sum).for_each(|(v, sum)| *v = (sum / length) as f32);
            }
        }
        Vectors { width: self.width, values }
    }

    /// For each row its mean cosine with the others; NaN for fewer than two rows.
    pub(super) fn mean_cosines(&self) -> Vec<f64> {
        let mut sum = vec![0.0_f64; self.width];
        for vector in self.values.chunks_exact(self.width.max(1)) {
            sum.iter_mut().zip(vector).for_each(|(sum, v)| *sum += f64::from(*v));
        }
        let others = (self.rows() as f64) - 1.0;
        let rows = self.values.chunks_exact(self.width.max(1)).zip(self.squares());
        rows.map(|(row, own)| {
            let all: f64 = row.iter().zip(&sum).map(|(v, sum)| f64::from(*v) * sum).sum();
            (all - own) / others
        })
        .collect()
    }

    /// The eigenvalues of the cosines.
    ///
    /// The matrix of cosines, rows by rows, and the sum of the outer products, width by width, have
    /// the same ones but for zeros: the smaller of the two is taken.
    pub(super) fn spectrum(&self) -> Spectrum {
        let n = self.rows();
        if n <= self.width {
            Spectrum::of(self.cosines(), n, n)
        } else {
            Spectrum::of(self.moments(), self.width, n)
        }
    }

    /// The lower triangle of the cosines, `[rows, rows]`.
    fn cosines(&self) -> Vec<f64> {
        let (n, packed) = (self.rows(), self.packed());
        let mut cosines = vec![0.0; n * n];
        add_lower(&packed, &packed, 1.0, &mut cosines, n);
        cosines
    }

    /// The lower triangle of the sum of the outer products of the vectors with themselves, `[width,
    /// width]`.
    fn moments(&self) -> Vec<f64> {
        let mut moments = vec![0.0; self.width * self.width];
        for rows in self.values.chunks(TERMS * self.width) {
            let packed = Packed::of_columns(rows, self.width);
            add_lower(&packed, &packed, 1.0, &mut moments, self.width);
        }
        moments
    }

    pub(super) fn packed(&self) -> Packed {
        Packed::of_rows(&self.values, self.width)
    }

    /// For each row its nearest other rows by cosine, the nearest first, ties in the order of the
    /// rows.
    pub(super) fn neighbours(&self, count: usize) -> Vec<Vec<(usize, f64)>> {
        let packed = self.packed();
        let panels = map_panels(&packed, &packed, |first, cosines| {
            let rows = cosines.chunks_exact(self.rows().max(1)).enumerate();
            rows.map(|(i, row)| nearest(row, Some(first + i), count)).collect::<Vec<_>>()
        });
        panels.concat()
    }

    /// 1 less the mean cosine of two different rows; NaN for fewer than two.
    pub(super) fn mean_distance(&self) -> f64 {
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
    pub(super) fn unlike(&self, threshold: f64) -> Vec<usize> {
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

/// The largest of a row's similarities, the row's own left out.
pub(super) fn nearest(row: &[f64], own: Option<usize>, count: usize) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> =
        row.iter().copied().enumerate().filter(|(other, _)| Some(*other) != own).collect();
    let order = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let count = count.min(all.len());
    if count > 0 && count < all.len() {
        all.select_nth_unstable_by(count - 1, order);
    }
    all.truncate(count);
    all.sort_unstable_by(order);
    all
}

/// The largest of some values, of equal ones the first, with its place.
fn first_largest(values: &[f64]) -> (usize, f64) {
    let values = values.iter().copied().enumerate();
    values.fold((0, f64::NEG_INFINITY), |best, one| if one.1 > best.1 { one } else { best })
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Float32Type;

    use super::super::dcscore::DcscoreParams;
    use super::super::spectrum::Order;
    use super::*;

    fn vendi(vectors: &Vectors) -> f64 {
        vectors.spectrum().vendi(Order::One)
    }

    fn dcscore(vectors: &Vectors) -> f64 {
        vectors.dcscore(&DcscoreParams::default())
    }

    /// Vectors without a pattern.
    fn some(rows: usize, width: usize) -> Vectors {
        let values: Vec<f32> =
            (0..rows * width).map(|i| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0).collect();
        Vectors::new(&values, width)
    }

    #[test]
    fn extremes_have_their_known_values() {
        let alike = Vectors::new(&[3.0, 4.0].repeat(10), 2);
        assert!((vendi(&alike) - 1.0).abs() < 1e-6 && (dcscore(&alike) - 1.0).abs() < 1e-6);
        assert!(alike.mean_distance().abs() < 1e-6);
        let axes = Vectors::new(&[2.0, 0.0, 0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0], 3);
        let e = std::f64::consts::E;
        assert!((vendi(&axes) - 3.0).abs() < 1e-9 && (axes.mean_distance() - 1.0).abs() < 1e-12);
        assert!((dcscore(&axes) - 3.0 * e / (e + 2.0)).abs() < 1e-9);
        let none = Vectors::new(&[], 3);
        assert!(vendi(&none).is_nan() && dcscore(&none).is_nan() && none.mean_distance().is_nan());
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
        let vectors = Vectors::new(&values, 384);
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        for (name, value) in [
            ("vendi_cosine", vendi(&vectors)),
            ("mean_pairwise_cosine_distance", vectors.mean_distance()),
        ] {
            let expected = expected[name].as_f64().unwrap();
            assert!((value / expected - 1.0).abs() < 1e-6, "{name}: {value} {expected}");
        }
        let neighbours: Vec<usize> =
            vectors.neighbours(1).iter().map(|nearest| nearest[0].0).collect();
        assert_eq!(serde_json::json!(neighbours), expected["nearest_neighbour"]);
    }

    #[test]
    fn both_matrices_have_the_same_entropy() {
        for vectors in [some(20, 30), some(30, 20), some(50, 50)] {
            let n = vectors.rows();
            let by_rows = Spectrum::of(vectors.cosines(), n, n);
            let by_width = Spectrum::of(vectors.moments(), vectors.width, n);
            for order in [Order::One, Order::Two, Order::Infinite] {
                let (one, other) = (by_rows.vendi(order), by_width.vendi(order));
                assert!((one / other - 1.0).abs() < 1e-9, "{order:?}: {one} {other}");
            }
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
        assert!((dcscore(&vectors) / trace - 1.0).abs() < 1e-6);
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
