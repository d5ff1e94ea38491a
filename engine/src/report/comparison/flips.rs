//! The rows behind a difference: those of which the arms' values differ, with what either arm said.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;

use refrain_cache::columns::column;
use refrain_cache::{TableError, TableReader};

use crate::graph::{Graph, NodeId};
use crate::kind::MAIN;
use crate::plan::state::NodeState;
use crate::store::Store;

use super::{NoResult, Pairing, rows};

/// Rows that are read at once.
const BATCH_ROWS: usize = 4096;

/// The rows of a comparison in which the arms differ.
#[derive(Debug, Default)]
pub struct Flips {
    /// The number of all such rows: ids, at each seed and of each metric.
    pub of: usize,
    /// The first ones: one of each id, those first that differ most in the mean over seeds, then a
    /// second one of each.
    pub rows: Vec<FlippedRow>,
}

/// A row in which the arms differ.
#[derive(Debug, Clone, PartialEq)]
pub struct FlippedRow {
    /// The metric.
    pub figure: String,
    /// The label of the seed; empty without seeds.
    pub seed: String,
    /// The id.
    pub id: String,
    /// The number of seeds at which the id's values differ.
    pub at_seeds: usize,
    /// The prompt.
    pub prompt: Option<String>,
    /// The reference.
    pub reference: Option<String>,
    /// Both arms.
    pub sides: [Side; 2],
}

/// An arm's side of a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Side {
    /// The value: 1 where it is right, the mean where there are several samples.
    pub value: f64,
    /// The response, of the first sample.
    pub response: Option<String>,
    /// The answer that was found in it.
    pub prediction: Option<String>,
    /// The reason of the verdict.
    pub reason: Option<String>,
}

/// Finds the rows in which the arms differ, and reads at most `limit` of them.
///
/// # Errors
/// [`NoResult`] where a node has not run, or the cache lacks its table.
pub fn flips<'d>(
    graph: &Graph,
    pairing: &Pairing,
    store: &Store,
    limit: usize,
    done: impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Result<Flips, NoResult> {
    let mut found = Flips::default();
    let mut chosen: Vec<Candidate> = Vec::new();
    for (number, figure) in pairing.figures.iter().enumerate() {
        let Some((column, _)) = &figure.rows else { continue };
        let mut by_id: BTreeMap<String, Vec<(usize, [f64; 2])>> = BTreeMap::new();
        for (seed, nodes) in figure.nodes.iter().enumerate() {
            if nodes[0] == nodes[1] {
                continue;
            }
            let read = |node: NodeId| {
                let table = table(graph, store, node, &done)?;
                rows::read(&table, column).map_err(|error| unusable(graph, node, &error))
            };
            let (first, second) = (read(nodes[0])?, read(nodes[1])?);
            for (id, a) in &first.by_id {
                if let Some(b) = second.by_id.get(id).filter(|b| *b != a) {
                    by_id.entry(id.clone()).or_default().push((seed, [*a, *b]));
                }
            }
        }
        for (id, at) in by_id {
            found.of += at.len();
            let sum: f64 = at.iter().map(|(_, [a, b])| a - b).sum();
            let (mean, at_seeds) = ((sum / pairing.seeds.len() as f64).abs(), at.len());
            chosen.extend(at.into_iter().enumerate().map(|(rank, (seed, values))| Candidate {
                figure: number,
                seed,
                id: id.clone(),
                values,
                mean,
                rank,
                at_seeds,
            }));
        }
    }

    // The sort is stable: of equal ones the first metric, id and seed come first.
    chosen.sort_by(|a, b| a.rank.cmp(&b.rank).then(b.mean.total_cmp(&a.mean)));
    chosen.truncate(limit);
    let mut wanted: BTreeMap<NodeId, BTreeSet<&str>> = BTreeMap::new();
    for row in &chosen {
        for node in pairing.figures[row.figure].nodes[row.seed] {
            wanted.entry(node).or_default().insert(&row.id);
        }
    }
    let mut texts: BTreeMap<NodeId, HashMap<String, Texts>> = BTreeMap::new();
    for (node, ids) in wanted {
        let table = table(graph, store, node, &done)?;
        let read = read_texts(&table, &ids).map_err(|error| unusable(graph, node, &error))?;
        texts.insert(node, read);
    }
    found.rows = chosen.iter().map(|row| flipped(pairing, row, &texts)).collect();
    Ok(found)
}

fn flipped(
    pairing: &Pairing,
    row: &Candidate,
    texts: &BTreeMap<NodeId, HashMap<String, Texts>>,
) -> FlippedRow {
    let nodes = pairing.figures[row.figure].nodes[row.seed];
    let [first, second] = nodes.map(|node| texts.get(&node).and_then(|texts| texts.get(&row.id)));
    let take = |of: Option<&Texts>, name: &str| of.and_then(|texts| texts.get(name).cloned());
    let common = |name: &str| take(first, name).or_else(|| take(second, name));
    let side = |of: Option<&Texts>, value: f64| Side {
        value,
        response: take(of, "response"),
        prediction: take(of, "prediction"),
        reason: take(of, "reason"),
    };
    FlippedRow {
        figure: pairing.comparison.figures[row.figure].name.clone(),
        seed: pairing.seeds[row.seed].clone(),
        id: row.id.clone(),
        at_seeds: row.at_seeds,
        prompt: common("prompt").or_else(|| common("messages")),
        reference: common("reference"),
        sides: [side(first, row.values[0]), side(second, row.values[1])],
    }
}

/// A row that may be shown.
struct Candidate {
    figure: usize,
    seed: usize,
    id: String,
    values: [f64; 2],
    /// The size of the id's mean difference.
    mean: f64,
    /// The number of the seed among those at which the id's values differ.
    rank: usize,
    at_seeds: usize,
}

fn unusable(graph: &Graph, node: NodeId, error: &TableError) -> NoResult {
    NoResult::Unusable(format!("the table of `{}`: {error}", graph.node(node).name))
}

fn table<'d>(
    graph: &Graph,
    store: &Store,
    node: NodeId,
    done: &impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Result<PathBuf, NoResult> {
    let name = &graph.node(node).name;
    let state = done(node).ok_or_else(|| NoResult::Missing(name.clone()))?;
    let path = state.result.artifacts.get(MAIN).map(|table| store.object_path(&table.digest));
    path.filter(|path| path.exists()).ok_or_else(|| NoResult::NoTable(name.clone()))
}

/// The texts of a row by column.
type Texts = BTreeMap<&'static str, String>;

/// The columns that are shown of a row, where its table has them.
const COLUMNS: [&str; 6] = ["prompt", "messages", "reference", "response", "prediction", "reason"];

/// Reads the texts of the first row of each id.
fn read_texts(table: &Path, ids: &BTreeSet<&str>) -> Result<HashMap<String, Texts>, TableError> {
    let table = TableReader::open(table)?;
    let has = |name: &&str| table.schema().field_with_name(name).is_ok();
    let wanted: Vec<&'static str> = COLUMNS.into_iter().filter(has).collect();
    let columns: Vec<&str> = wanted.iter().copied().chain(["id"]).collect();

    let mut texts: HashMap<String, Texts> = HashMap::with_capacity(ids.len());
    for batch in table.batches(Some(&columns), BATCH_ROWS)? {
        let batch = batch?;
        let of_rows = column::<StringArray>(&batch, "id")?;
        for row in (0..of_rows.len()).filter(|row| of_rows.is_valid(*row)) {
            let id = of_rows.value(row);
            if !ids.contains(id) || texts.contains_key(id) {
                continue;
            }
            let found = wanted.iter().filter_map(|name| text(&batch, name, row).transpose());
            texts.insert(id.to_string(), found.collect::<Result<_, TableError>>()?);
        }
        if texts.len() == ids.len() {
            break;
        }
    }
    Ok(texts)
}

fn text(
    batch: &RecordBatch,
    name: &'static str,
    row: usize,
) -> Result<Option<(&'static str, String)>, TableError> {
    let array = batch.column_by_name(name).filter(|array| array.is_valid(row));
    let Some(array) = array else { return Ok(None) };
    Ok(Some((name, array_value_to_string(array, row)?)))
}
