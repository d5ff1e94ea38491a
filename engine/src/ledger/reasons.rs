//! Why the nodes of a run were computed, for its log.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use arrow::row::{RowConverter, SortField};

use refrain_cache::{Difference, Digest, Key, TableError, TableReader};

use crate::graph::{Graph, NodeId, Work};
use crate::kind::MAIN;
use crate::ledger::run_log::Reason;
use crate::plan;
use crate::plan::state::NodeState;
use crate::run::{Outcome, Report};
use crate::store::{Store, StoreError};

/// Rows that are compared at once.
const BATCH_ROWS: usize = 4096;
/// Largest table whose changed rows are counted.
const MAX_ROWS: u64 = 1 << 20;

/// Finds out why each computed node ran; `last` has the nodes' keys in the run before, `force` those that were forced.
///
/// # Errors
/// [`StoreError`] where records cannot be read.
pub fn reasons(
    graph: &Graph,
    store: &Store,
    last: &BTreeMap<String, Key>,
    force: &HashSet<NodeId>,
    report: &Report<'_>,
) -> Result<Vec<Reason>, StoreError> {
    let ran = graph.ids().filter(|id| matches!(report.outcomes[id.index()], Outcome::Ran(_)));
    let mut reasons = Vec::new();
    for id in ran {
        let Some(done) = report.state.done(id) else { continue };
        let before = last.get(&graph.node(id).name).copied();
        let why = match before {
            _ if force.contains(&id) => "it was forced".into(),
            None => "no earlier result".into(),
            Some(key) if key == done.key => "the cache no longer held its result".into(),
            Some(key) => changed(graph, store, id, &key, done)?,
        };
        let (node, key) = (graph.node(id).name.clone(), done.key);
        reasons.push(Reason { node, key, before, why });
    }
    Ok(reasons)
}

/// The differences between two results of a node.
fn changed(
    graph: &Graph,
    store: &Store,
    id: NodeId,
    before: &Key,
    done: &NodeState,
) -> Result<String, StoreError> {
    let (Some(old), Some(new)) = (store.record(before)?, store.record(&done.key)?) else {
        return Ok("its key changed; the cache no longer has the old record to compare".into());
    };
    let node = graph.node(id);
    let words = |difference: &Difference| match &node.work {
        Work::Source(spec) if difference.path == "inputs.file" => {
            let (before, now) = (&old.result.artifacts, &done.result.artifacts);
            let digests = before.get(MAIN).zip(now.get(MAIN)).map(|(a, b)| (a.digest, b.digest));
            let rows = digests.and_then(|(before, now)| changed_rows(store, &before, &now));
            file_words(&spec.path, rows)
        }
        _ => plan::difference_words(graph, node, difference),
    };
    let differences = old.manifest.differences(&new.manifest);
    Ok(differences.iter().map(words).collect::<Vec<_>>().join("; "))
}

fn file_words(path: &Path, rows: Option<(u64, u64, u64)>) -> String {
    let name = path.file_name().map_or(path.display().to_string(), |n| n.display().to_string());
    match rows {
        None => format!("`{name}` changed"),
        Some((0, 0, _)) => format!("`{name}` changed, but none of its rows"),
        Some((0, gone, _)) => format!("`{name}` changed: {gone} rows are gone"),
        Some((new, _, rows)) => format!("`{name}` changed: {new} of {rows} rows"),
    }
}

/// Counts the rows of a table that an earlier one lacks, those of the earlier one that it lacks, and all of its rows.
/// `None` where that is not known.
fn changed_rows(store: &Store, before: &Digest, now: &Digest) -> Option<(u64, u64, u64)> {
    let open = |digest: &Digest| TableReader::open(&store.object_path(digest)).ok();
    let (before, now) = (open(before)?, open(now)?);
    if before.schema() != now.schema() || before.rows().max(now.rows()) > MAX_ROWS {
        return None;
    }
    let (mut old, mut new) = (row_digests(&before).ok()?, row_digests(&now).ok()?);
    old.sort_unstable();
    new.sort_unstable();

    let (mut added, mut gone) = (0, 0);
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => (i, j) = (i + 1, j + 1),
            (Some(a), Some(b)) if a < b => (gone, i) = (gone + 1, i + 1),
            (Some(_), None) => (gone, i) = (gone + 1, i + 1),
            _ => (added, j) = (added + 1, j + 1),
        }
    }
    Some((added, gone, now.rows()))
}

fn row_digests(table: &TableReader) -> Result<Vec<Digest>, TableError> {
    let fields = table.schema().fields().iter();
    let converter =
        RowConverter::new(fields.map(|f| SortField::new(f.data_type().clone())).collect())?;
    let mut digests = Vec::new();
    for batch in table.batches(None, BATCH_ROWS)? {
        let rows = converter.convert_columns(batch?.columns())?;
        digests.extend(rows.iter().map(|row| Digest::of_bytes(row.as_ref())));
    }
    Ok(digests)
}
