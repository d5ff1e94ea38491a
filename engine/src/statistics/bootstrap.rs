//! The two-way bootstrap: rows and seeds are drawn with replacement, independently of each other.

use rayon::prelude::*;

use super::Draws;

/// Sums of a column that are added side by side, so that they can be computed in vectors; their
/// number is part of the result's bits.
const LANES: usize = 8;

/// Rows that are drawn together: columns of values on the same rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Population {
    /// The number of rows.
    pub rows: usize,
    /// The columns, each with a value per row.
    pub columns: Vec<Vec<f64>>,
}

/// One draw.
#[derive(Debug)]
pub struct Draw<'d> {
    /// For each population the mean of each of its columns over the drawn rows.
    pub means: &'d [Vec<f64>],
    /// The drawn seeds, as many as there are.
    pub seeds: &'d [usize],
}

/// Draws rows of each population and seeds, each as many as there are, and computes a statistic of
/// each draw.
///
/// The number of a row or seed is a function of the draw and its place in it alone, so that neither
/// threads nor the order of the draws can change a result. The rows of population `k` come from the
/// stream `compare rows` of seed `k`, the seeds from the stream `compare seeds`.
///
/// # Errors
/// That of the first draw whose statistic is an error.
pub fn two_way<E: Send>(
    populations: &[Population],
    seeds: usize,
    draws: usize,
    statistic: impl Fn(&Draw<'_>) -> Result<f64, E> + Sync,
) -> Result<Vec<f64>, E> {
    let streams: Vec<Draws> =
        (0..populations.len()).map(|k| Draws::new("compare rows", k as u64, &[])).collect();
    let of_seeds = Draws::new("compare seeds", 0, &[]);

    let scratch = || Scratch::new(populations, seeds);
    let one = |scratch: &mut Scratch, draw: usize| {
        for ((population, stream), (weights, means)) in
            populations.iter().zip(&streams).zip(scratch.weights.iter_mut().zip(&mut scratch.means))
        {
            draw_rows(population.rows, stream, draw, weights);
            for (mean, column) in means.iter_mut().zip(&population.columns) {
                *mean = weighted(weights, column) / population.rows as f64;
            }
        }
        for (place, seed) in scratch.seeds.iter_mut().enumerate() {
            *seed = of_seeds.below((draw * seeds + place) as u64, seeds as u64) as usize;
        }
        statistic(&Draw { means: &scratch.means, seeds: &scratch.seeds })
    };
    // Collected before the first error is sought, which then is the same at any number of threads.
    let all: Vec<Result<f64, E>> = (0..draws).into_par_iter().map_init(scratch, one).collect();
    all.into_iter().collect()
}

/// The memory of one thread.
struct Scratch {
    /// For each population how often each row is drawn.
    weights: Vec<Vec<f64>>,
    means: Vec<Vec<f64>>,
    seeds: Vec<usize>,
}

impl Scratch {
    fn new(populations: &[Population], seeds: usize) -> Scratch {
        Scratch {
            weights: populations.iter().map(|population| vec![0.0; population.rows]).collect(),
            means: populations
                .iter()
                .map(|population| vec![0.0; population.columns.len()])
                .collect(),
            seeds: vec![0; seeds],
        }
    }
}

fn draw_rows(rows: usize, stream: &Draws, draw: usize, weights: &mut [f64]) {
    weights.fill(0.0);
    let first = (draw * rows) as u64;
    for place in 0..rows as u64 {
        weights[stream.below(first + place, rows as u64) as usize] += 1.0;
    }
}

/// The sum of a column's values, each times its weight, in one order.
fn weighted(weights: &[f64], column: &[f64]) -> f64 {
    let (weights, last_weights) = weights.as_chunks::<LANES>();
    let (column, last_column) = column.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (weights, values) in weights.iter().zip(column) {
        for lane in 0..LANES {
            sums[lane] += weights[lane] * values[lane];
        }
    }
    let last: f64 = last_weights.iter().zip(last_column).map(|(w, value)| w * value).sum();
    sums.iter().sum::<f64>() + last
}
