//! `select`: a given number of rows that stand for all, by their embeddings or at random.
//!
//! Rows are taken in the order of `id` and `sample`, and of equal ones the first wins.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use arrow::array::{Array, Int32Array, StringArray};
use rayon::prelude::*;

use refrain_cache::columns::optional_column;
use refrain_engine::kind::{Context, StageError, choices, parameters};
use refrain_lm::linear::dots;

use crate::draw::Draws;
use crate::models;
use crate::tables;

use super::embedded;
use super::sample;
use super::similarity::Vectors;

/// Steps after which clusters count as found.
const STEPS: usize = 30;
/// The share of a row that the chosen ones must leave unexplained for the volume to grow.
const REST: f64 = 1e-10;

parameters! {
    /// The parameter `select`.
    pub(super) struct SelectRule {
        /// The way to choose: `k_center`, each time the row farthest from those chosen;
        /// `facility_location`, each time the row that brings all rows nearest to a chosen one;
        /// `dpp`, each time the row that enlarges the volume of the chosen ones most; `cluster`, of
        /// each of `count` clusters the row nearest its centre; `random`
        method: SelectMethod,
        /// The number of rows; a table with fewer is an error
        #[range(1..)]
        count: usize,
    }
}

choices! {
    /// A way to choose rows.
    pub(super) enum SelectMethod {
        /// Gonzalez 1985.
        KCenter = "k_center",
        /// Greedy, with lazy gains (Minoux 1978).
        FacilityLocation = "facility_location",
        /// The greedy mode of a determinantal point process (Chen and others 2018).
        Dpp = "dpp",
        /// Without embeddings.
        Random = "random",
        /// Spherical k-means (Dhillon and Modha 2001).
        Cluster = "cluster",
    }
}

/// The numbers of the rows to keep, in the order of the table.
pub(super) fn choose(
    ctx: &Context<'_>,
    select: &SelectRule,
    seed: u64,
) -> Result<Vec<u64>, StageError> {
    let table = ctx.table("data")?;
    if select.method == SelectMethod::Random {
        let draws = sample::draws(ctx, table, "select", seed)?;
        enough(select.count, draws.len(), "")?;
        let chosen = sample::lowest(&draws, select.count);
        return Ok(chosen.into_iter().map(|row| row as u64).collect());
    }
    models::on_threads(ctx.resources.threads, || {
        let embedded = embedded::embed(ctx, table)?;
        enough(select.count, embedded.rows.len(), " with an embedding")?;
        let places = in_order(ctx, &embedded.rows)?;
        let embedded = embedded.some(&places);
        let vectors = embedded.vectors();
        let count = select.count;
        let mut chosen = match select.method {
            SelectMethod::FacilityLocation => facility_location(&vectors, count, ctx)?,
            SelectMethod::Dpp => dpp(&vectors, count, ctx)?,
            SelectMethod::Cluster => clusters(&vectors, count, seed, ctx)?,
            _ => k_center(&vectors, count, ctx)?,
        };
        fill(&mut chosen, count, vectors.rows());
        let mut rows: Vec<u64> = chosen.into_iter().map(|place| embedded.rows[place]).collect();
        rows.sort_unstable();
        Ok(rows)
    })
}

/// Refuses to choose more rows than there are: what reads them counts on their number.
fn enough(count: usize, rows: usize, which: &str) -> Result<(), StageError> {
    if count <= rows {
        return Ok(());
    }
    Err(StageError::with_hint(
        format!("`select` takes {count} rows, and the table has {rows}{which}"),
        "lower `count`, or give a table with more rows",
    ))
}

/// The places of rows in the order of their `id`, `sample` and number.
fn in_order(ctx: &Context<'_>, rows: &[u64]) -> Result<Vec<usize>, StageError> {
    let known = tables::present(ctx, "data", &["id", "sample"])?;
    if known.is_empty() {
        return Ok((0..rows.len()).collect());
    }
    let mut keys: Vec<(String, i32)> = Vec::new();
    tables::scan(ctx, "data", Some(&known), |batch, _| {
        let ids = optional_column::<StringArray>(batch, "id")?;
        let samples = optional_column::<Int32Array>(batch, "sample")?;
        keys.extend((0..batch.num_rows()).map(|row| {
            let id = ids.filter(|ids| ids.is_valid(row)).map_or("", |ids| ids.value(row));
            let sample = samples.filter(|samples| samples.is_valid(row));
            (id.to_owned(), sample.map_or(0, |samples| samples.value(row)))
        }));
        Ok(())
    })?;
    let mut places: Vec<usize> = (0..rows.len()).collect();
    places.sort_by(|a, b| keys[rows[*a] as usize].cmp(&keys[rows[*b] as usize]));
    Ok(places)
}

/// Adds the first rows that are not chosen.
fn fill(chosen: &mut Vec<usize>, count: usize, rows: usize) {
    let mut taken = vec![false; rows];
    chosen.iter().for_each(|place| taken[*place] = true);
    let missing = count - chosen.len().min(count);
    chosen.extend((0..rows).filter(|place| !taken[*place]).take(missing));
}

/// The place of the largest value, of equal ones the first; `None` for no values.
fn largest(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b]).then(b.cmp(a)))
}

/// Each time the row farthest from those chosen, beginning with the first.
fn k_center(vectors: &Vectors, count: usize, ctx: &Context<'_>) -> Result<Vec<usize>, StageError> {
    let mut distances = vec![f64::INFINITY; vectors.rows()];
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        ctx.cancel.check()?;
        let Some(next) = largest(&distances) else { break };
        chosen.push(next);
        ctx.progress.set(chosen.len() as u64, Some(count as u64), "rows");
        let cosines = dots(vectors.values(), vectors.row(next));
        for (distance, cosine) in distances.iter_mut().zip(cosines) {
            *distance = distance.min(1.0 - cosine);
        }
        chosen.iter().for_each(|place| distances[*place] = f64::NEG_INFINITY);
    }
    Ok(chosen)
}

/// The gain of a row: an upper bound once others have been chosen.
struct Gain {
    value: f64,
    place: usize,
    /// The number of rows that were chosen when it was computed.
    chosen: usize,
}

impl Ord for Gain {
    fn cmp(&self, other: &Gain) -> Ordering {
        let order = self.value.total_cmp(&other.value);
        order.then(Reverse(self.place).cmp(&Reverse(other.place)))
    }
}

impl PartialOrd for Gain {
    fn partial_cmp(&self, other: &Gain) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Gain {
    fn eq(&self, other: &Gain) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Gain {}

/// Enlarges the sum over all rows of their cosine with the nearest chosen row, cosines below zero
/// counting as zero.
fn facility_location(
    vectors: &Vectors,
    count: usize,
    ctx: &Context<'_>,
) -> Result<Vec<usize>, StageError> {
    let mut best = vec![0.0; vectors.rows()];
    let first = vectors.positive_sums().into_iter().enumerate();
    let mut gains: BinaryHeap<Gain> =
        first.map(|(place, value)| Gain { value, place, chosen: 0 }).collect();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        ctx.cancel.check()?;
        let Some(gain) = gains.pop() else { break };
        let cosines = dots(vectors.values(), vectors.row(gain.place));
        let pairs = cosines.iter().zip(&best);
        if gain.chosen < chosen.len() {
            let value = pairs.map(|(cosine, best): (&f64, &f64)| (cosine - best).max(0.0)).sum();
            gains.push(Gain { value, chosen: chosen.len(), ..gain });
            continue;
        }
        chosen.push(gain.place);
        ctx.progress.set(chosen.len() as u64, Some(count as u64), "rows");
        for (best, cosine) in best.iter_mut().zip(cosines) {
            *best = best.max(cosine);
        }
    }
    Ok(chosen)
}

/// Enlarges the determinant of the cosines of the chosen rows, as long as it can be.
fn dpp(vectors: &Vectors, count: usize, ctx: &Context<'_>) -> Result<Vec<usize>, StageError> {
    let rows = vectors.rows();
    // For each row its part along each chosen one, and the square of what is left of it.
    let mut parts = vec![0.0; rows * count];
    let mut rest: Vec<f64> = vectors.squares();
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count {
        ctx.cancel.check()?;
        let Some(next) = largest(&rest).filter(|next| rest[*next] > REST) else { break };
        let step = chosen.len();
        let own = parts[next * count..][..step].to_vec();
        let scale = 1.0 / rest[next].sqrt();
        let cosines = dots(vectors.values(), vectors.row(next));
        let all = parts.par_chunks_exact_mut(count).zip(rest.par_iter_mut()).zip(cosines);
        all.for_each(|((parts, rest), cosine)| {
            let shared: f64 = parts[..step].iter().zip(&own).map(|(a, b)| a * b).sum();
            let part = (cosine - shared) * scale;
            parts[step] = part;
            *rest -= part * part;
        });
        rest[next] = f64::NEG_INFINITY;
        chosen.push(next);
        ctx.progress.set(chosen.len() as u64, Some(count as u64), "rows");
    }
    Ok(chosen)
}

/// Of each cluster the row nearest its centre.
fn clusters(
    vectors: &Vectors,
    count: usize,
    seed: u64,
    ctx: &Context<'_>,
) -> Result<Vec<usize>, StageError> {
    let mut centres = first_centres(vectors, count, seed, ctx)?;
    let mut before = Vec::new();
    for step in 0..STEPS {
        ctx.cancel.check()?;
        let nearest = vectors.nearest_of(&centres);
        let of_rows: Vec<usize> = nearest.iter().map(|(centre, _)| *centre).collect();
        if of_rows == before {
            break;
        }
        centres = vectors.centres(&of_rows, &centres);
        before = of_rows;
        ctx.progress.set(step as u64 + 1, Some(STEPS as u64), "steps");
    }
    let mut best: Vec<Option<(usize, f64)>> = vec![None; centres.rows()];
    for (place, (centre, cosine)) in vectors.nearest_of(&centres).into_iter().enumerate() {
        if best[centre].is_none_or(|(_, known)| cosine > known) {
            best[centre] = Some((place, cosine));
        }
    }
    Ok(best.into_iter().flatten().map(|(place, _)| place).collect())
}

/// The first centres: each time a row drawn by its squared distance from those before (Arthur and
/// Vassilvitskii 2007).
fn first_centres(
    vectors: &Vectors,
    count: usize,
    seed: u64,
    ctx: &Context<'_>,
) -> Result<Vectors, StageError> {
    let draws = Draws::new("cluster", seed, &[]);
    let mut distances = vec![1.0; vectors.rows()];
    let mut chosen = Vec::with_capacity(count);
    for step in 0..count {
        ctx.cancel.check()?;
        let all: f64 = distances.iter().sum();
        let mut left = draws.at(step as u64) as f64 / 2.0_f64.powi(64) * all;
        let place = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        // Where all are at centres already, any row is as good.
        let place = place.or_else(|| largest(&distances)).unwrap_or_default();
        chosen.push(place);
        for (distance, cosine) in
            distances.iter_mut().zip(dots(vectors.values(), vectors.row(place)))
        {
            *distance = distance.min((2.0 - 2.0 * cosine).max(0.0));
        }
    }
    Ok(vectors.some(&chosen))
}

#[cfg(test)]
mod tests;
