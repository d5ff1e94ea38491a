//! Distributions of tokens' perplexities, of masked shares and of response lengths, by stage and
//! arm.

use std::collections::BTreeMap;

use crate::graph::{Graph, NodeId, Work};

use super::nodes::Stages;
use super::tables::{self, Counts, Lengths, TableSummary, Tables};

/// Bins of lengths that are shown, or a few more.
const LENGTHS: u32 = 24;

/// A quantity that rows or tokens have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// The perplexity of a response's token.
    Perplexity,
    /// The share of a response's tokens that are masked.
    MaskedShare,
    /// The length of a response.
    Length,
}

/// The distribution of a quantity in a stage's tables.
#[derive(Debug, Clone, PartialEq)]
pub struct DistributionPanel {
    /// The number of the stage.
    pub stage: usize,
    /// The quantity.
    pub quantity: Quantity,
    /// The unit of a length.
    pub unit: &'static str,
    /// A distribution per arm.
    pub series: Vec<Series>,
    /// A threshold that the stage's parameters name.
    pub threshold: Option<f64>,
    /// Nodes of the stage that are not counted.
    pub left_out: usize,
}

/// The distribution of an arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The arm; empty without one.
    pub label: String,
    /// The distribution.
    pub distribution: Distribution,
}

/// Counts in bins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// The bins, without empty ones at either end.
    pub bins: Vec<Bin>,
    /// The number of values.
    pub n: u64,
    /// Their mean; of perplexities the geometric one, which is the perplexity of all tokens.
    pub mean: f64,
}

/// A bin.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The number of values in it.
    pub count: u64,
}

/// Collects the distributions. One that is that of an input, passed on, is shown once.
pub(super) fn distributions(
    graph: &Graph,
    stages: &Stages,
    tables: &Tables,
) -> Vec<DistributionPanel> {
    let mut panels = Vec::new();
    for quantity in [Quantity::Perplexity, Quantity::MaskedShare, Quantity::Length] {
        for (stage, ids) in stages.nodes.iter().enumerate() {
            panels.extend(panel(graph, stages, tables, (stage, ids), quantity));
        }
    }
    panels
}

/// Counts of one quantity.
enum Counted<'t> {
    Binned(&'t Counts),
    Exact(&'t Lengths),
}

fn counted(table: &TableSummary, quantity: Quantity) -> Option<Counted<'_>> {
    match quantity {
        Quantity::Perplexity => table.perplexity.as_ref().map(Counted::Binned),
        Quantity::MaskedShare => table.masked.as_ref().map(Counted::Binned),
        Quantity::Length => table.lengths.as_ref().map(Counted::Exact),
    }
}

/// Whether an input of the node has the same distribution.
fn is_passed_on(graph: &Graph, tables: &Tables, id: NodeId, quantity: Quantity) -> bool {
    let same = |own: &TableSummary, other: &TableSummary| match quantity {
        Quantity::Perplexity => own.perplexity == other.perplexity,
        Quantity::MaskedShare => own.masked == other.masked,
        Quantity::Length => {
            // Tokens of a scored table count what characters counted before.
            let unit = |table: &TableSummary| table.lengths.as_ref().map(|lengths| lengths.unit);
            own.lengths == other.lengths
                || unit(own) != unit(other) && unit(other).is_some() && own.rows == other.rows
        }
    };
    let Some(own) = tables.of(id) else { return false };
    let mut inputs = graph.node(id).inputs.iter().filter_map(|edge| tables.of(edge.node));
    inputs.any(|input| same(own, input))
}

fn panel(
    graph: &Graph,
    stages: &Stages,
    tables: &Tables,
    (stage, ids): (usize, &[NodeId]),
    quantity: Quantity,
) -> Option<DistributionPanel> {
    let mut unit = "";
    let mut binned: Vec<(String, Counts)> = Vec::new();
    let mut exact: Vec<(String, BTreeMap<u32, u64>)> = Vec::new();
    let mut seen = 0;
    for id in ids {
        let Some(found) = tables.of(*id).and_then(|table| counted(table, quantity)) else {
            continue;
        };
        seen += 1;
        if is_passed_on(graph, tables, *id, quantity) {
            continue;
        }
        let label = stages.arm(graph.node(*id));
        match found {
            Counted::Binned(counts) => match binned.iter_mut().find(|(known, _)| known == label) {
                Some((_, sum)) => sum.merge(counts),
                None => binned.push((label.to_owned(), counts.clone())),
            },
            Counted::Exact(lengths) => {
                unit = lengths.unit;
                let place = exact.iter().position(|(known, _)| known == label);
                let place = place.unwrap_or_else(|| {
                    exact.push((label.to_owned(), BTreeMap::new()));
                    exact.len() - 1
                });
                for (length, count) in &lengths.counts {
                    *exact[place].1.entry(*length).or_default() += count;
                }
            }
        }
    }

    let ends = |bin: usize| match quantity {
        Quantity::Perplexity => {
            let end = |bin: usize| (bin as f64 / tables::PER_OCTAVE).exp2();
            (end(bin), end(bin + 1))
        }
        _ => (bin as f64 / tables::SHARES as f64, (bin + 1) as f64 / tables::SHARES as f64),
    };
    let mut series: Vec<Series> = binned
        .into_iter()
        .map(|(label, counts)| Series { label, distribution: of_counts(&counts, ends) })
        .collect();
    let longest = exact.iter().filter_map(|(_, counts)| counts.keys().next_back()).max().copied();
    let width = width(longest.unwrap_or(0));
    series.extend(
        exact
            .into_iter()
            .map(|(label, counts)| Series { label, distribution: of_lengths(&counts, width) }),
    );
    series.retain(|series| series.distribution.n > 0);
    let left_out = ids.len().saturating_sub(seen.max(1));
    let threshold = threshold(graph, ids, quantity);
    (!series.is_empty()).then_some(DistributionPanel {
        stage,
        quantity,
        unit,
        series,
        threshold,
        left_out,
    })
}

/// The perplexity above which a stage masks, where all its nodes have the same.
fn threshold(graph: &Graph, ids: &[NodeId], quantity: Quantity) -> Option<f64> {
    if quantity != Quantity::Perplexity {
        return None;
    }
    // It is that of the one stage that reads this one and has such a parameter.
    let readers = ids.iter().flat_map(|id| graph.dependents(*id));
    let mut found = readers.filter_map(|id| match &graph.node(id).work {
        Work::Stage { params, .. } => params.get("above")?.as_f64(),
        _ => None,
    });
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

fn of_counts(counts: &Counts, ends: impl Fn(usize) -> (f64, f64)) -> Distribution {
    let full = |bin: &usize| counts.bins[*bin] > 0;
    let first = (0..counts.bins.len()).find(full);
    let last = (0..counts.bins.len()).rev().find(full);
    let (Some(first), Some(last)) = (first, last) else { return Distribution::default() };
    let bin = |bin: usize| {
        let (low, high) = ends(bin);
        Bin { low, high, count: counts.bins[bin] }
    };
    let bins = (first..=last).map(bin).collect();
    Distribution { bins, n: counts.n, mean: counts.mean() }
}

/// The width of bins of lengths up to `longest`: 1, 2 or 5 times a power of ten.
fn width(longest: u32) -> u32 {
    let widths = (0..9).flat_map(|power| [1, 2, 5].map(|step| step * 10_u32.pow(power)));
    widths.into_iter().find(|width| longest / width < LENGTHS).unwrap_or(u32::MAX)
}

fn of_lengths(counts: &BTreeMap<u32, u64>, width: u32) -> Distribution {
    let (Some(first), Some(last)) = (counts.keys().next(), counts.keys().next_back()) else {
        return Distribution::default();
    };
    let (first, last) = (first / width, last / width);
    let n: u64 = counts.values().sum();
    let sum: f64 = counts.iter().map(|(length, count)| f64::from(*length) * *count as f64).sum();
    let bin = |bin: u32| {
        let (low, high) =
            (u64::from(bin) * u64::from(width), u64::from(bin + 1) * u64::from(width));
        let within = |length: u32| low <= u64::from(length) && u64::from(length) < high;
        let count = counts.iter().filter(|(length, _)| within(**length)).map(|(_, c)| c).sum();
        Bin { low: low as f64, high: high as f64, count }
    };
    Distribution { bins: (first..=last).map(bin).collect(), n, mean: sum / n.max(1) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_fall_into_bins_of_round_ends() {
        assert_eq!([0, 23, 24, 47, 48, 119, 1000].map(width), [1, 1, 2, 2, 5, 5, 50]);
        let counts: BTreeMap<u32, u64> = [(3, 2), (4, 1), (9, 5)].into();
        let found = of_lengths(&counts, 2);
        let bin = |low: f64, count: u64| Bin { low, high: low + 2.0, count };
        assert_eq!(found.bins, [bin(2.0, 2), bin(4.0, 1), bin(6.0, 0), bin(8.0, 5)]);
        assert_eq!((found.n, found.mean), (8, 55.0 / 8.0));
    }
}
