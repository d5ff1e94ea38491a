//! Summaries of tables: distributions over all rows, and the first rows.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use rayon::prelude::*;

use refrain_cache::columns::optional_column;
use refrain_cache::{Digest, TableError, TableReader};

use crate::graph::{Graph, NodeId};
use crate::kind::{ArtifactKind, MAIN};
use crate::plan::state::NodeState;
use crate::store::Store;

use super::nodes::Stages;
use super::samples::{self, Sample};

/// Nodes of a stage whose tables are read.
pub(super) const NODES: usize = 60;
/// Rows that are read at once.
const BATCH_ROWS: usize = 4096;
/// Bins per octave of perplexity.
pub(super) const PER_OCTAVE: f64 = 4.0;
/// Bins of perplexity, from 1.
const PERPLEXITIES: usize = 64;
/// Bins of a share.
pub(super) const SHARES: usize = 20;
/// The output in which a training writes its steps.
pub(super) const LOG: &str = "log";
/// The output with a node's metrics, which are shown as such.
const METRICS: &str = "metrics";

/// The summaries of artifacts, which never change: a later report reads only what is new.
#[derive(Debug, Default)]
pub struct Tables {
    read: HashMap<Digest, Option<Arc<TableSummary>>>,
    /// The outputs by node number, of the last report.
    of_node: Vec<Vec<(String, Arc<TableSummary>)>>,
    missing: usize,
}

/// A table in figures.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TableSummary {
    pub rows: u64,
    pub columns: Vec<(String, String)>,
    /// Perplexities of the response's tokens.
    pub perplexity: Option<Counts>,
    /// Shares of the response's tokens that are masked, by row.
    pub masked: Option<Counts>,
    /// Lengths of responses, by row.
    pub lengths: Option<Lengths>,
    pub samples: Vec<Sample>,
    pub steps: Option<Steps>,
}

/// Values in bins of fixed ends.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Counts {
    pub bins: Vec<u64>,
    pub n: u64,
    /// The sum of the values, or of their logarithms.
    sum: f64,
    is_log: bool,
}

/// Lengths, each with its number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lengths {
    pub unit: &'static str,
    pub counts: BTreeMap<u32, u64>,
}

/// The steps of a training.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Steps {
    pub loss: Vec<(f64, f64)>,
    pub evaluated: Vec<(f64, f64)>,
}

impl Counts {
    fn shares() -> Counts {
        Counts { bins: vec![0; SHARES], ..Counts::default() }
    }

    fn perplexities() -> Counts {
        Counts { bins: vec![0; PERPLEXITIES], is_log: true, ..Counts::default() }
    }

    /// Adds a share.
    fn add_share(&mut self, share: f64) {
        self.count(share * SHARES as f64, share);
    }

    /// Adds a perplexity by its logarithm.
    fn add_log(&mut self, log: f64) {
        self.count(log * std::f64::consts::LOG2_E * PER_OCTAVE, log);
    }

    fn count(&mut self, bin: f64, value: f64) {
        if value.is_finite() {
            let last = self.bins.len() - 1;
            self.bins[(bin.max(0.0) as usize).min(last)] += 1;
            self.n += 1;
            self.sum += value;
        }
    }

    /// The mean of the values, of perplexities the geometric one.
    pub fn mean(&self) -> f64 {
        let mean = self.sum / self.n as f64;
        if self.is_log { mean.exp() } else { mean }
    }

    /// Adds the counts of another table.
    pub fn merge(&mut self, other: &Counts) {
        self.bins.iter_mut().zip(&other.bins).for_each(|(a, b)| *a += b);
        self.n += other.n;
        self.sum += other.sum;
    }
}

impl Tables {
    /// Reads the tables of the first nodes of each stage.
    pub(super) fn read<'d>(
        &mut self,
        graph: &Graph,
        store: Option<&Store>,
        stages: &Stages,
        of: &impl Fn(NodeId) -> Option<&'d NodeState>,
    ) {
        self.of_node = vec![Vec::new(); graph.nodes.len()];
        self.missing = 0;
        let Some(store) = store else { return };

        let mut wanted: Vec<(NodeId, &str, Digest)> = Vec::new();
        for id in stages.nodes.iter().flat_map(|ids| ids.iter().take(NODES)) {
            let outputs = of(*id).into_iter().flat_map(|done| done.result.artifacts.iter());
            for (name, artifact) in outputs {
                if artifact.kind == ArtifactKind::Table && name != METRICS {
                    wanted.push((*id, name, artifact.digest));
                }
            }
        }
        let mut new: Vec<(Digest, PathBuf)> = wanted
            .iter()
            .filter(|(_, _, digest)| !self.read.contains_key(digest))
            .map(|(_, _, digest)| (*digest, store.object_path(digest)))
            .filter(|(_, path)| path.exists())
            .collect();
        new.sort();
        new.dedup();
        let read: Vec<(Digest, Option<Arc<TableSummary>>)> = new
            .par_iter()
            .map(|(digest, path)| (*digest, summary(path).ok().map(Arc::new)))
            .collect();
        self.read.extend(read);

        for (id, name, digest) in wanted {
            match self.read.get(&digest).cloned().flatten() {
                Some(found) => self.of_node[id.index()].push((name.to_owned(), found)),
                None => self.missing += 1,
            }
        }
    }

    /// The number of tables that the cache lacks, or that cannot be read.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    /// The tables of a node that were read, by output.
    pub(super) fn outputs(&self, id: NodeId) -> &[(String, Arc<TableSummary>)] {
        self.of_node.get(id.index()).map_or(&[], Vec::as_slice)
    }

    /// The main table of a node, or its only one.
    pub(super) fn of(&self, id: NodeId) -> Option<&TableSummary> {
        let outputs = self.outputs(id);
        let main = outputs.iter().find(|(name, _)| name == MAIN);
        let only = outputs.first().filter(|(name, _)| outputs.len() == 1 && name != LOG);
        main.or(only).map(|(_, table)| table.as_ref())
    }

    /// The steps of a node's training.
    pub(super) fn steps_of(&self, id: NodeId) -> Option<&Steps> {
        let log = self.outputs(id).iter().find(|(name, _)| name == LOG);
        log?.1.steps.as_ref()
    }
}

/// The columns that distributions and curves are made of.
const COLUMNS: [&str; 11] = [
    "logprobs",
    "perplexities",
    "perplexity",
    "loss_mask",
    "prompt_tokens",
    "token_ids",
    "response_token_ids",
    "response",
    "step",
    "loss",
    "eval_loss",
];

fn summary(path: &Path) -> Result<TableSummary, TableError> {
    let table = TableReader::open(path)?;
    let fields = table.schema().fields();
    let type_name = |data_type: &DataType| refrain_cache::type_name(data_type);
    let mut summary = TableSummary {
        rows: table.rows(),
        columns: fields.iter().map(|f| (f.name().clone(), type_name(f.data_type()))).collect(),
        samples: samples::read(&table)?,
        ..TableSummary::default()
    };

    let has = |name: &&&str| fields.find(name).is_some();
    let columns: Vec<&str> = COLUMNS.iter().filter(has).copied().collect();
    if columns.is_empty() {
        return Ok(summary);
    }
    for batch in table.batches(Some(&columns), BATCH_ROWS)? {
        let batch = batch?;
        add_tokens(&mut summary, &batch)?;
        add_lengths(&mut summary, &batch)?;
        add_steps(&mut summary, &batch)?;
    }
    Ok(summary)
}

/// Adds the perplexities and the masks of the responses' tokens.
fn add_tokens(summary: &mut TableSummary, batch: &RecordBatch) -> Result<(), TableError> {
    let prompts = optional_column::<Int32Array>(batch, "prompt_tokens")?;
    let begin = |row: usize| match prompts {
        Some(prompts) if prompts.is_valid(row) => prompts.value(row).max(0) as usize,
        _ => 0,
    };
    let (logprobs, direct) =
        (batch.column_by_name("logprobs"), batch.column_by_name("perplexities"));
    if let Some(lists) = logprobs.or(direct) {
        let counts = summary.perplexity.get_or_insert_with(Counts::perplexities);
        for row in 0..batch.num_rows() {
            for value in floats(lists, row).into_iter().skip(begin(row)).flatten() {
                counts.add_log(if logprobs.is_some() { -value } else { value.ln() });
            }
        }
    } else if let Some(values) = optional_column::<Float64Array>(batch, "perplexity").ok().flatten()
    {
        let counts = summary.perplexity.get_or_insert_with(Counts::perplexities);
        for value in values.iter().flatten() {
            counts.add_log(value.ln());
        }
    }

    let Some(masks) = batch.column_by_name("loss_mask").and_then(|a| a.as_list_opt::<i32>()) else {
        return Ok(());
    };
    let counts = summary.masked.get_or_insert_with(Counts::shares);
    for row in (0..batch.num_rows()).filter(|row| masks.is_valid(*row)) {
        let mask = masks.value(row);
        let Some(mask) = mask.as_boolean_opt() else { continue };
        let response = mask.len().saturating_sub(begin(row));
        if response == 0 {
            continue;
        }
        let trained = mask.iter().skip(begin(row)).filter(|token| *token == Some(true)).count();
        counts.add_share((response - trained) as f64 / response as f64);
    }
    Ok(())
}

/// Adds the lengths of the responses: in tokens where the table has them, else in characters.
fn add_lengths(summary: &mut TableSummary, batch: &RecordBatch) -> Result<(), TableError> {
    let prompts = optional_column::<Int32Array>(batch, "prompt_tokens")?;
    let tokens = batch.column_by_name("token_ids").and_then(|a| a.as_list_opt::<i32>());
    let own = batch.column_by_name("response_token_ids").and_then(|a| a.as_list_opt::<i32>());
    let texts = batch.column_by_name("response").and_then(|a| a.as_string_opt::<i32>());
    let (unit, length): (_, Box<dyn Fn(usize) -> Option<usize> + '_>) =
        match (own, tokens, prompts, texts) {
            (Some(own), ..) => (
                "tokens",
                Box::new(|row| own.is_valid(row).then(|| own.value_length(row) as usize)),
            ),
            (None, Some(tokens), Some(prompts), _) => (
                "tokens",
                Box::new(|row| {
                    let whole = tokens.is_valid(row).then(|| tokens.value_length(row) as usize)?;
                    let prompt =
                        prompts.is_valid(row).then(|| prompts.value(row).max(0) as usize)?;
                    whole.checked_sub(prompt)
                }),
            ),
            (.., Some(texts)) => (
                "characters",
                Box::new(|row| texts.is_valid(row).then(|| texts.value(row).chars().count())),
            ),
            _ => return Ok(()),
        };
    let lengths = summary.lengths.get_or_insert_with(|| Lengths { unit, counts: BTreeMap::new() });
    for length in (0..batch.num_rows()).filter_map(length) {
        *lengths.counts.entry(u32::try_from(length).unwrap_or(u32::MAX)).or_default() += 1;
    }
    Ok(())
}

/// Adds the steps of a training.
fn add_steps(summary: &mut TableSummary, batch: &RecordBatch) -> Result<(), TableError> {
    let found = (batch.column_by_name("step"), batch.column_by_name("loss"));
    let (Some(steps), Some(losses)) = found else { return Ok(()) };
    let (Some(numbers), Some(losses)) = (
        steps.as_any().downcast_ref::<Int64Array>(),
        losses.as_any().downcast_ref::<Float64Array>(),
    ) else {
        return Ok(());
    };
    let evaluated = optional_column::<Float64Array>(batch, "eval_loss").ok().flatten();
    let steps = summary.steps.get_or_insert_default();
    for row in (0..batch.num_rows()).filter(|row| numbers.is_valid(*row)) {
        let step = numbers.value(row) as f64;
        if losses.is_valid(row) {
            steps.loss.push((step, losses.value(row)));
        }
        if let Some(values) = evaluated.filter(|values| values.is_valid(row)) {
            steps.evaluated.push((step, values.value(row)));
        }
    }
    Ok(())
}

/// The numbers of a row's list; empty where it is none.
pub(super) fn floats(lists: &ArrayRef, row: usize) -> Vec<Option<f64>> {
    let Some(lists) = lists.as_list_opt::<i32>().filter(|lists| lists.is_valid(row)) else {
        return Vec::new();
    };
    let items = lists.value(row);
    if let Some(items) = items.as_primitive_opt::<Float32Type>() {
        return items.iter().map(|item| item.map(f64::from)).collect();
    }
    items.as_primitive_opt::<Float64Type>().map_or(Vec::new(), |items| items.iter().collect())
}
