//! `mix`: rows of several tables in given numbers or shares.

use std::collections::HashSet;

use serde_json::Value;

use refrain_cache::{Artifact, Metric};
use refrain_engine::kind::{Check, Columns, Context, Problem, StageError, Table, parameters};

use crate::tables::metric;

use super::combine::{self, Part};
use super::rows_of;

parameters! {
    /// An entry of `mix`.
    pub(super) struct MixPart {
        /// The table
        data: &Table,
        /// Its share of the rows of the mixture
        #[range(0.0..=1.0)]
        share: Option<f64>,
        /// Its number of rows
        #[range(0..)]
        rows: Option<u64>,
        /// The value of the column `origin` in its rows (`mix[0]` of the first, and so on)
        name: Option<String>,
    }
}

/// By how much shares that are to fill a mixture may differ from 1.
const SLACK: f64 = 1e-9;

/// The path of an entry's table.
fn input(place: usize) -> String {
    format!("mix[{place}].data")
}

/// Why the entries do not say how large the mixture is.
struct Misfit {
    at: String,
    message: String,
    hint: &'static str,
}

/// Gives the rows of each entry.
fn sizes(parts: &[MixPart], total: Option<u64>) -> Result<Vec<u64>, Misfit> {
    let misfit = |at: &str, message: String, hint| Err(Misfit { at: at.into(), message, hint });
    for (i, part) in parts.iter().enumerate() {
        if part.share.is_some() == part.rows.is_some() {
            let message = "an entry has a `share` or a number of `rows`".into();
            return misfit(&format!("mix[{i}]"), message, "give one of the two");
        }
    }
    let fixed: u64 = parts.iter().filter_map(|part| part.rows).fold(0, u64::saturating_add);
    let has_rows = parts.iter().any(|part| part.rows.is_some());
    let shares: Vec<f64> = parts.iter().map(|part| part.share.unwrap_or(0.0)).collect();
    let sum: f64 = shares.iter().sum();
    let has_shares = parts.iter().any(|part| part.share.is_some());

    let shared = match (has_rows, has_shares, total) {
        (_, false, None) => 0,
        (true, _, Some(_)) => {
            let hint = "with `total` give a `share` to every entry, or leave `total` out";
            return misfit("total", "`total` cannot stand beside `rows`".into(), hint);
        }
        (false, _, None) => {
            let hint = "give `total`, or `rows` to the entry whose rows stay as many";
            return misfit("mix", "shares alone do not say how many rows there are".into(), hint);
        }
        (false, _, Some(_)) if (sum - 1.0).abs() > SLACK => {
            let message = format!("the shares add up to {sum}, not to 1");
            return misfit("mix", message, "give shares that add up to 1");
        }
        (false, _, Some(total)) => total,
        (true, true, None) if sum >= 1.0 - SLACK => {
            let message = format!("the shares add up to {sum}, which leaves nothing to the rows");
            return misfit("mix", message, "beside `rows` the shares add up to less than 1");
        }
        (true, true, None) => (fixed as f64 * sum / (1.0 - sum)).round() as u64,
    };
    let rounded = apportioned(&shares, sum, shared);
    Ok(parts.iter().zip(rounded).map(|(part, of_share)| part.rows.unwrap_or(of_share)).collect())
}

/// Divides rows by shares: the largest remainders are rounded up, of equal ones the first.
fn apportioned(shares: &[f64], sum: f64, rows: u64) -> Vec<u64> {
    let exact: Vec<f64> = shares
        .iter()
        .map(|share| if sum > 0.0 { share / sum * rows as f64 } else { 0.0 })
        .collect();
    let mut whole: Vec<u64> = exact.iter().map(|exact| (exact + SLACK).floor() as u64).collect();
    let mut order: Vec<usize> = (0..shares.len()).filter(|i| shares[*i] > 0.0).collect();
    order.sort_by(|a, b| {
        let rest = |i: usize| exact[i] - whole[i] as f64;
        rest(*b).total_cmp(&rest(*a))
    });
    let left = rows.saturating_sub(whole.iter().sum());
    order.iter().take(left as usize).for_each(|i| whole[*i] += 1);
    whole
}

pub(super) fn check(
    check: &Check<'_>,
    mix: &Value,
    total: Option<u64>,
    problems: &mut Vec<Problem>,
) -> Columns {
    let parts: Vec<MixPart> = serde_json::from_value(mix.clone()).ok()?;
    if parts.is_empty() {
        problems.push(Problem::at("mix", "`mix` has no entries"));
        return None;
    }
    let mut names = HashSet::new();
    for (i, part) in parts.iter().enumerate() {
        if part.name.as_ref().is_some_and(|name| !names.insert(name)) {
            let at = format!("mix[{i}].name");
            problems.push(Problem::at(at, "two entries have this name"));
        }
    }
    if let Err(Misfit { at, message, hint }) = sizes(&parts, total) {
        problems.push(Problem::at(at, message).hint(hint));
    }
    let inputs: Vec<String> = (0..parts.len()).map(input).collect();
    combine::check(check, &inputs, problems)
}

/// The mixture, the rows of all its tables, and its metrics.
pub(super) fn mix(
    ctx: &Context<'_>,
    parts: &[MixPart],
    total: Option<u64>,
    seed: u64,
) -> Result<(Artifact, u64, Vec<Metric>), StageError> {
    let sizes = sizes(parts, total).map_err(|misfit| StageError::bug(misfit.message))?;
    let (mut drawn, mut all, mut metrics) = (Vec::new(), 0, Vec::new());
    for (place, (part, size)) in parts.iter().zip(sizes).enumerate() {
        let input = input(place);
        let rows = rows_of(ctx.input(&input)?.artifact())?;
        let origin = part.name.clone().unwrap_or_else(|| format!("mix[{place}]"));
        if rows < size {
            return Err(StageError::with_hint(
                format!("the mixture takes {size} rows of `{origin}`, which has {rows}"),
                "take fewer rows of it, or make more",
            ));
        }
        all += rows;
        metrics.push(metric(&format!("mixed_{place}"), size as f64, rows));
        let rows = combine::draw(ctx, "mix", (seed, place), &input, size)?;
        drawn.push(Part { input, origin, rows });
    }
    Ok((combine::store(ctx, &drawn)?, all, metrics))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(share: Option<f64>, rows: Option<u64>) -> MixPart {
        MixPart { share, rows, name: None }
    }

    fn of(parts: &[(Option<f64>, Option<u64>)], total: Option<u64>) -> Result<Vec<u64>, String> {
        let parts: Vec<MixPart> = parts.iter().map(|(share, rows)| part(*share, *rows)).collect();
        sizes(&parts, total).map_err(|misfit| misfit.message)
    }

    #[test]
    fn the_total_or_the_real_part_stays() {
        let shares = |shares: &[f64]| shares.iter().map(|share| (Some(*share), None)).collect();
        let shares = |of_shares: &[f64]| -> Vec<(Option<f64>, Option<u64>)> { shares(of_shares) };
        assert_eq!(of(&shares(&[0.5, 0.5]), Some(7)), Ok(vec![4, 3]));
        assert_eq!(of(&shares(&[0.3, 0.7]), Some(10)), Ok(vec![3, 7]));
        assert_eq!(of(&shares(&[0.0, 1.0]), Some(5)), Ok(vec![0, 5]));
        assert_eq!(of(&shares(&[1.0 / 3.0; 3]), Some(10)), Ok(vec![4, 3, 3]));
        let real = |share| of(&[(None, Some(64)), (Some(share), None)], None);
        assert_eq!(real(0.0), Ok(vec![64, 0]));
        assert_eq!(real(0.5), Ok(vec![64, 64]));
        assert_eq!(real(0.75), Ok(vec![64, 192]));
        assert_eq!(of(&[(None, Some(3)), (None, Some(4))], None), Ok(vec![3, 4]));
    }

    #[test]
    fn a_mixture_without_a_size_is_refused() {
        let half = (Some(0.5), None);
        for (parts, total) in [
            (vec![half, half], None),
            (vec![half, (Some(0.4), None)], Some(10)),
            (vec![(None, Some(3)), (Some(1.0), None)], None),
            (vec![(None, Some(3)), half], Some(10)),
            (vec![(None, Some(3))], Some(3)),
            (vec![(None, None)], None),
            (vec![(Some(0.5), Some(3))], None),
        ] {
            assert!(of(&parts, total).is_err(), "{parts:?} {total:?}");
        }
    }
}
