//! Computes comparisons from the tables and metrics of their nodes.

use std::collections::HashMap;

use rayon::prelude::*;

use refrain_cache::Digest;

use crate::graph::{Graph, NodeId};
use crate::kind::MAIN;
use crate::ledger::lock::{
    Compared, ComparedArm, ComparedInterval, ComparedTest, ComparisonEntry, IntervalMethod,
    McNemar, SignedRank, TestMethod,
};
use crate::plan::state::NodeState;
use crate::statistics::{self, Interval, Population};
use crate::store::Store;

use super::kept::{self, Kept};
use super::rows::{self, Aligned, Values};
use super::{Asked, CONFIDENCE, Comparison, NoResult, Pairing, VERSION};

/// Draws of the bootstrap.
const DRAWS: usize = 10_000;
/// From so many seeds on the bootstrap alone is wide enough.
const ENOUGH_SEEDS: usize = 10;
/// The probability with which the detectable difference is found.
const POWER: f64 = 0.8;
/// Share of a number by which draws may differ in their last bits alone.
const EQUAL: f64 = 1e-12;

/// Computes all comparisons of which the nodes are done, or takes their results from the cache.
pub fn compute<'d>(
    graph: &Graph,
    pairings: &[Pairing],
    asked: &[Asked],
    store: &Store,
    done: impl Fn(NodeId) -> Option<&'d NodeState> + Sync,
) -> Vec<Result<ComparisonEntry, NoResult>> {
    if pairings.is_empty() {
        return Vec::new();
    }
    let kept = Kept::open(store);
    let mut found: Vec<Option<Result<ComparisonEntry, NoResult>>> = vec![None; pairings.len()];
    let mut missing = Vec::new();
    for (i, (pairing, asked)) in pairings.iter().zip(asked).enumerate() {
        match inputs(graph, pairing, &done) {
            Err(reason) => found[i] = Some(Err(reason)),
            Ok(inputs) => {
                let place = kept::place(&inputs, &pairing.comparison, asked);
                match kept.get(&place) {
                    Some(result) => found[i] = Some(Ok(entry(pairing, inputs, result))),
                    None => missing.push((i, place)),
                }
            }
        }
    }

    let of = |i: usize| (&pairings[i], &asked[i]);
    let computed = compute_all(graph, missing.iter().map(|(i, _)| of(*i)).collect(), store, &done);
    let new = missing.iter().zip(&computed);
    kept.put(new.filter_map(|((_, place), one)| Some((*place, &one.as_ref().ok()?.result))));
    for ((i, _), one) in missing.into_iter().zip(computed) {
        found[i] = Some(one);
    }
    found.into_iter().flatten().collect()
}

/// Computes all comparisons of which the nodes are done, whatever the cache has of them.
pub(crate) fn compute_anew<'d>(
    graph: &Graph,
    pairings: &[Pairing],
    asked: &[Asked],
    store: &Store,
    done: impl Fn(NodeId) -> Option<&'d NodeState> + Sync,
) -> Vec<Result<ComparisonEntry, NoResult>> {
    compute_all(graph, pairings.iter().zip(asked).collect(), store, &done)
}

fn compute_all<'d>(
    graph: &Graph,
    wanted: Vec<(&Pairing, &Asked)>,
    store: &Store,
    done: &(impl Fn(NodeId) -> Option<&'d NodeState> + Sync),
) -> Vec<Result<ComparisonEntry, NoResult>> {
    let tables = tables(graph, wanted.iter().map(|(pairing, _)| *pairing), store, done);
    let one = |(pairing, asked): (&Pairing, &Asked)| {
        let inputs = inputs(graph, pairing, done)?;
        let result = Work { graph, pairing, tables: &tables, done }.compared(asked)?;
        if !result.is_finite() {
            return Err(NoResult::Unusable("its numbers are too large".into()));
        }
        Ok(entry(pairing, inputs, result))
    };
    wanted.into_par_iter().map(one).collect()
}

fn entry(pairing: &Pairing, inputs: Digest, result: Compared) -> ComparisonEntry {
    let (compare, other) = (pairing.comparison.name.clone(), Default::default());
    ComparisonEntry { compare, inputs, result, other }
}

/// Computes the digest of all that decides a comparison: its definition, and the tables and metrics
/// of its nodes.
pub(crate) fn inputs<'d>(
    graph: &Graph,
    pairing: &Pairing,
    done: impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Result<Digest, NoResult> {
    let Pairing { comparison, figures, .. } = pairing;
    let of = comparison.of.as_ref().map_or("", |of| of.canonical.as_str());
    let mut text = format!("compare {VERSION}\n{of}\n");
    for (figure, paired) in comparison.figures.iter().zip(figures) {
        match &paired.rows {
            Some((column, task)) => {
                text.push_str(&format!("{} column {column} {task}\n", figure.name))
            }
            None => text.push_str(&format!("{} metric\n", figure.name)),
        }
        for id in paired.nodes.iter().flatten() {
            let state = done(*id).ok_or_else(|| missing(graph, *id))?;
            let line = match (&paired.rows, state.result.artifacts.get(MAIN)) {
                (Some(_), Some(table)) => table.digest.to_string(),
                (Some(_), None) => return Err(NoResult::NoTable(graph.node(*id).name.clone())),
                // The bits, so that no spelling of a number counts.
                (None, _) => {
                    format!("{:016x}", metric(graph, *id, state, &figure.metric)?.to_bits())
                }
            };
            text.push_str(&line);
            text.push('\n');
        }
    }
    Ok(Digest::of_bytes(text.as_bytes()))
}

fn missing(graph: &Graph, id: NodeId) -> NoResult {
    NoResult::Missing(graph.node(id).name.clone())
}

fn metric(graph: &Graph, id: NodeId, state: &NodeState, name: &str) -> Result<f64, NoResult> {
    let found = state.result.metrics.iter().find(|metric| metric.metric == name);
    let node = &graph.node(id).name;
    match found {
        Some(metric) if metric.value.is_finite() => Ok(metric.value),
        Some(_) => Err(NoResult::Unusable(format!("`{name}` of `{node}` is not defined"))),
        None => Err(NoResult::Unusable(format!("`{node}` has no metric `{name}`"))),
    }
}

/// The values of the tables' columns, each read once.
type Tables = HashMap<(NodeId, String), Result<Values, NoResult>>;

fn tables<'d, 'p>(
    graph: &Graph,
    pairings: impl Iterator<Item = &'p Pairing>,
    store: &Store,
    done: &(impl Fn(NodeId) -> Option<&'d NodeState> + Sync),
) -> Tables {
    let figures = pairings.flat_map(|pairing| &pairing.figures);
    let mut wanted: Vec<(NodeId, String)> = figures
        .filter_map(|figure| Some((figure, figure.rows.as_ref()?)))
        .flat_map(|(figure, (column, _))| {
            figure.nodes.iter().flatten().map(|id| (*id, column.clone()))
        })
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let read = |(id, column): (NodeId, String)| {
        let values = values(graph, store, id, &column, done);
        ((id, column), values)
    };
    wanted.into_par_iter().map(read).collect()
}

fn values<'d>(
    graph: &Graph,
    store: &Store,
    id: NodeId,
    column: &str,
    done: &impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Result<Values, NoResult> {
    let state = done(id).ok_or_else(|| missing(graph, id))?;
    let name = &graph.node(id).name;
    let no_table = || NoResult::NoTable(name.clone());
    let table = state.result.artifacts.get(MAIN).ok_or_else(no_table)?;
    let path = store.object_path(&table.digest);
    if !path.exists() {
        return Err(no_table());
    }
    let values = rows::read(&path, column)
        .map_err(|error| NoResult::Unusable(format!("the table of `{name}`: {error}")))?;
    match values.by_id.iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(values),
        Some((row, _)) => {
            let message = format!("`{column}` of `{row}` in the table of `{name}` is not finite");
            Err(NoResult::Unusable(message))
        }
    }
}

/// The computation of one comparison.
struct Work<'a, D> {
    graph: &'a Graph,
    pairing: &'a Pairing,
    tables: &'a Tables,
    done: &'a D,
}

/// Where the value of a figure comes from, at one arm and seed.
#[derive(Clone, Copy)]
enum Cell {
    /// The mean of a column of a task.
    Column(usize, usize),
    /// A metric, which has no rows.
    Metric(f64),
}

/// All values of a comparison, ready to be drawn from.
struct Cells<'a> {
    comparison: &'a Comparison,
    tasks: Vec<Aligned>,
    populations: Vec<Population>,
    /// For each figure and seed both arms.
    cells: Vec<Vec<[Cell; 2]>>,
    seeds: usize,
}

impl<'d, D: Fn(NodeId) -> Option<&'d NodeState> + Sync> Work<'_, D> {
    fn compared(&self, asked: &Asked) -> Result<Compared, NoResult> {
        let cells = self.cells()?;
        let whole: Vec<Vec<f64>> = cells
            .populations
            .iter()
            .map(|population| {
                population.columns.iter().map(|column| statistics::mean(column)).collect()
            })
            .collect();
        let arms = [0, 1].map(|arm| {
            (0..cells.seeds)
                .map(|seed| cells.value(&whole, seed, arm))
                .collect::<Result<Vec<f64>, _>>()
        });
        let [first, second] = arms;
        let (first, second) = (first?, second?);
        let differences: Vec<f64> = first.iter().zip(&second).map(|(a, b)| a - b).collect();
        let mut draws = cells.draws()?;

        // Before an interval reorders the draws: the order of a sum is a part of its bits.
        let detectable = detectable(&draws);
        let by_id = cells.differences_by_id();
        let shares = cells
            .is_of_shares()
            .then_some([&first, &second])
            .map(|arms| arms.map(|arm| statistics::mean(arm)));
        let ids = cells.populations.iter().map(|population| population.rows).sum();
        let confidences = asked.confidences();
        let mut intervals = Vec::with_capacity(confidences.len());
        for confidence in confidences {
            intervals.extend(interval(confidence, &mut draws, &differences, shares, ids));
        }

        let tests = asked
            .tests(&self.pairing.comparison)
            .iter()
            .map(|above| cells.test(*above, by_id.as_deref(), &differences, &draws))
            .collect();
        let wilcoxon =
            by_id.as_deref().filter(|_| !cells.is_of_shares()).and_then(statistics::wilcoxon);
        let arm = |values: &[f64]| {
            let value = statistics::mean(values);
            let interval = shares.map(|_| statistics::wilson(value, ids as f64, CONFIDENCE));
            ComparedArm { value, low: interval.map(|i| i.low), high: interval.map(|i| i.high) }
        };
        Ok(Compared {
            estimate: statistics::mean(&differences),
            intervals,
            tests,
            arms: [arm(&first), arm(&second)],
            ids,
            dropped: cells.tasks.iter().map(|task| task.dropped).sum(),
            mcnemar: cells.mcnemar(),
            wilcoxon: wilcoxon.map(|w| SignedRank {
                statistic: w.statistic,
                p: w.p,
                exact: w.exact,
            }),
            effect: by_id.as_deref().and_then(effect),
            detectable,
            differences,
        })
    }

    /// Reads and aligns the tables of each task.
    fn cells(&self) -> Result<Cells<'_>, NoResult> {
        let Pairing { comparison, figures, seeds, tasks } = self.pairing;
        let mut columns: Vec<Vec<(NodeId, &str)>> = vec![Vec::new(); *tasks];
        let mut cells = Vec::with_capacity(figures.len());
        for (paired, figure) in figures.iter().zip(&comparison.figures) {
            let mut cell = |id: NodeId| match &paired.rows {
                Some((column, task)) => {
                    let known =
                        columns[*task].iter().position(|known| *known == (id, column.as_str()));
                    let place = known.unwrap_or_else(|| {
                        columns[*task].push((id, column));
                        columns[*task].len() - 1
                    });
                    Ok(Cell::Column(*task, place))
                }
                None => {
                    let state = (self.done)(id).ok_or_else(|| missing(self.graph, id))?;
                    metric(self.graph, id, state, &figure.metric).map(Cell::Metric)
                }
            };
            let of_seed = |[first, second]: &[NodeId; 2]| Ok([cell(*first)?, cell(*second)?]);
            cells.push(paired.nodes.iter().map(of_seed).collect::<Result<Vec<_>, NoResult>>()?);
        }

        let mut aligned = Vec::with_capacity(*tasks);
        for columns in &columns {
            let mut values = Vec::with_capacity(columns.len());
            for (id, column) in columns {
                let table = &self.tables[&(*id, (*column).to_string())];
                values.push(table.as_ref().map_err(Clone::clone)?);
            }
            let task = rows::align(&values);
            if task.ids.is_empty() {
                let names = columns.iter().map(|(id, _)| self.graph.node(*id).name.as_str());
                let names = crate::language::diagnostic::listed(names);
                return Err(NoResult::Unusable(format!(
                    "no id is in all of the tables of {names}"
                )));
            }
            aligned.push(task);
        }
        let populations = aligned.iter().map(|task| task.population.clone()).collect();
        Ok(Cells { comparison, tasks: aligned, populations, cells, seeds: seeds.len() })
    }
}

impl Cells<'_> {
    /// The value of an arm at a seed, given the means of all columns.
    fn value(&self, means: &[Vec<f64>], seed: usize, arm: usize) -> Result<f64, NoResult> {
        let of = |cell: &Vec<[Cell; 2]>| match cell[seed][arm] {
            Cell::Column(task, column) => means[task][column],
            Cell::Metric(value) => value,
        };
        match &self.comparison.of {
            None => Ok(of(&self.cells[0])),
            Some(expression) => {
                let values: Vec<f64> = self.cells.iter().map(of).collect();
                expression.value(&values).map_err(NoResult::Unusable)
            }
        }
    }

    /// The draws of the difference.
    fn draws(&self) -> Result<Vec<f64>, NoResult> {
        statistics::two_way(&self.populations, self.seeds, DRAWS, |draw| {
            let mut sum = 0.0;
            for seed in draw.seeds {
                sum += self.value(draw.means, *seed, 0)? - self.value(draw.means, *seed, 1)?;
            }
            Ok(sum / self.seeds as f64)
        })
    }

    /// The column of a single figure at a seed and arm, where it has rows.
    fn column(&self, seed: usize, arm: usize) -> Option<&[f64]> {
        match (&self.comparison.of, self.cells[0][seed][arm]) {
            (None, Cell::Column(task, column)) => Some(&self.populations[task].columns[column]),
            _ => None,
        }
    }

    /// For each id the mean over seeds of the difference; `None` of an expression, and of a metric
    /// without rows.
    fn differences_by_id(&self) -> Option<Vec<f64>> {
        let mut sums = vec![0.0; self.column(0, 0)?.len()];
        for seed in 0..self.seeds {
            let (first, second) = (self.column(seed, 0)?, self.column(seed, 1)?);
            for (sum, (a, b)) in sums.iter_mut().zip(first.iter().zip(second)) {
                *sum += a - b;
            }
        }
        sums.iter_mut().for_each(|sum| *sum /= self.seeds as f64);
        Some(sums)
    }

    /// Whether one metric is compared that is the share of right rows.
    fn is_of_shares(&self) -> bool {
        self.comparison.of.is_none() && self.tasks.first().is_some_and(|task| task.is_binary)
    }

    fn mcnemar(&self) -> Vec<McNemar> {
        if !self.is_of_shares() || !self.tasks[0].is_single {
            return Vec::new();
        }
        let of_seed = |seed| {
            let pairs = || {
                self.column(seed, 0)
                    .into_iter()
                    .flatten()
                    .zip(self.column(seed, 1).into_iter().flatten())
            };
            let first = pairs().filter(|(a, b)| a > b).count() as u64;
            let second = pairs().filter(|(a, b)| a < b).count() as u64;
            McNemar { first, second, p: statistics::mcnemar(first, second) }
        };
        (0..self.seeds).map(of_seed).collect()
    }

    /// Tests the difference against a number.
    fn test(
        &self,
        above: f64,
        by_id: Option<&[f64]>,
        differences: &[f64],
        draws: &[f64],
    ) -> ComparedTest {
        let shifted =
            |values: &[f64]| values.iter().map(|value| value - above).collect::<Vec<f64>>();
        let by_seed = || statistics::student_p(&shifted(differences)).unwrap_or(1.0);
        let (p, by) = match by_id {
            Some(by_id) => (statistics::sign_flip(&shifted(by_id)), TestMethod::SignFlip),
            None if self.populations.is_empty() => (by_seed(), TestMethod::Student),
            None => (beyond(draws, above), TestMethod::Bootstrap),
        };
        ComparedTest { above, p, by }
    }
}

/// Twice the smaller share of draws on either side of a number, the number itself counted as one of
/// them.
fn beyond(draws: &[f64], above: f64) -> f64 {
    let below = draws.iter().filter(|draw| **draw <= above).count();
    let over = draws.iter().filter(|draw| **draw >= above).count();
    (2.0 * (below.min(over) + 1) as f64 / (draws.len() + 1) as f64).min(1.0)
}

/// The interval of a confidence: by the draws; below ten seeds Student's where it is wider; and
/// where no draw differs from another, that of the difference of two shares.
fn interval(
    confidence: f64,
    draws: &mut [f64],
    differences: &[f64],
    shares: Option<[f64; 2]>,
    ids: usize,
) -> Option<ComparedInterval> {
    let drawn = statistics::percentile(draws, confidence)?;
    let named =
        |Interval { low, high }: Interval, by| ComparedInterval { confidence, low, high, by };
    let few = differences.len() < ENOUGH_SEEDS;
    let student = statistics::student(differences, confidence).filter(|_| few);
    let wider = |other: &Interval| other.width() > drawn.width();
    let found = match student.filter(wider) {
        Some(student) => named(student, IntervalMethod::Student),
        None => named(drawn, IntervalMethod::Bootstrap),
    };

    let scale = found.low.abs().max(found.high.abs()).max(1.0);
    match shares {
        Some(shares) if found.high - found.low <= EQUAL * scale => Some(named(
            statistics::newcombe(shares, ids as f64, confidence),
            IntervalMethod::Newcombe,
        )),
        _ => Some(found),
    }
}

/// The mean over the standard deviation; `None` where all are equal.
fn effect(differences: &[f64]) -> Option<f64> {
    let mean = statistics::mean(differences);
    let deviation = statistics::deviation(differences)?;
    (deviation > EQUAL * mean.abs()).then(|| mean / deviation)
}

/// The difference that is found in 80 % of cases, by the standard deviation of the draws.
fn detectable(draws: &[f64]) -> f64 {
    let z = statistics::normal_quantile(1.0 - (1.0 - CONFIDENCE) / 2.0)
        + statistics::normal_quantile(POWER);
    z * statistics::deviation(draws).unwrap_or(0.0)
}
