//! `refrain diff`: what changed between two workflows, locks or runs, and what that did to the
//! metrics.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

use refrain_cache::read_plain;
use refrain_engine::language::diagnostic::listed;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::Lock;
use refrain_engine::plan;
use refrain_engine::report::diff::{self, Change, Diff, MetricChange, NodeChange, Snapshot};
use refrain_engine::store::Store;

use crate::cli::{self, Format, SandboxArg, WorkflowArgs};
use crate::command_error::CommandError;
use crate::output;
use crate::session::{Session, cache_folder, existing_store};

use super::compare::Known;
use super::compare::table::{number, signed};

/// Bytes of the longest log that is read.
const LOG: u64 = 1 << 30;

/// Compares two states of a workflow.
pub fn diff(arguments: &cli::DiffArgs, format: Format) -> Result<ExitCode, CommandError> {
    let before = snapshot(&arguments.before, arguments.cache.as_deref())?;
    let after = snapshot(&arguments.after, arguments.cache.as_deref())?;
    let found = diff::diff(&before, &after);
    match format {
        Format::Json => output::json(&to_json(&found)),
        _ => show(&found),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads what an argument names: a workflow, a lock, the log of a run, or `REVISION:LOCK`.
fn snapshot(argument: &str, cache: Option<&Path>) -> Result<Snapshot, CommandError> {
    let path = Path::new(argument);
    let ending = path.extension().and_then(|ending| ending.to_str());
    match (path.exists(), ending) {
        (true, Some("lock")) => of_lock(&Lock::read(path)?, path, cache),
        (true, Some("jsonl")) => of_log(path, cache),
        (true, _) => of_workflow(path, cache),
        (false, _) => match argument.split_once(':') {
            Some((revision, path)) if !revision.is_empty() && !path.is_empty() => {
                of_revision(revision, path, cache)
            }
            _ => Err(CommandError::with_hint(
                ErrorClass::Input,
                format!("there is no `{argument}`"),
                "name a workflow, a lock, `REVISION:LOCK` of git, or the log of a run in `.refrain/runs`",
            )),
        },
    }
}

fn of_workflow(path: &Path, cache: Option<&Path>) -> Result<Snapshot, CommandError> {
    let workflow = WorkflowArgs {
        workflow: path.into(),
        set: Vec::new(),
        cache: cache.map(PathBuf::from),
        sandbox: SandboxArg::Full,
    };
    let session = Session::open(&workflow)?;
    let Known { done, rows, .. } = Known::of(&session)?;
    let compared = rows.into_iter().filter_map(|row| Some((row.name, row.result?.estimate)));
    let comparisons: BTreeMap<String, f64> = compared.collect();
    Ok(Snapshot::of_graph(&session.graph, &done, comparisons))
}

/// The cache beside a lock, where there is one.
fn store_beside(path: &Path, cache: Option<&Path>) -> Result<Option<Store>, CommandError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    existing_store(&cache_folder(cache, folder.join(".refrain"))?)
}

fn of_lock(lock: &Lock, path: &Path, cache: Option<&Path>) -> Result<Snapshot, CommandError> {
    let store = store_beside(path, cache)?;
    Ok(Snapshot::of_lock(lock, store.as_ref())?)
}

fn of_log(path: &Path, cache: Option<&Path>) -> Result<Snapshot, CommandError> {
    let error = |error: &dyn std::fmt::Display| {
        CommandError::new(ErrorClass::Input, format!("cannot read `{}`: {error}", path.display()))
    };
    let bytes = read_plain(path, LOG).map_err(|e| error(&e))?;
    let text = String::from_utf8(bytes).map_err(|e| error(&e))?;
    // A log lies in the folder `runs` of its cache.
    let folder = path.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let store = existing_store(&cache_folder(cache, folder.into())?)?;
    Ok(Snapshot::of_log(&text, store.as_ref())?)
}

/// Reads a lock, or that of a workflow, as it is in a revision of git.
fn of_revision(revision: &str, path: &str, cache: Option<&Path>) -> Result<Snapshot, CommandError> {
    let path = Path::new(path).with_extension("lock");
    let refused = |reason: &str| {
        CommandError::with_hint(
            ErrorClass::Input,
            format!("cannot read `{}` of revision `{revision}`: {reason}", path.display()),
            "`git log -- LOCK` lists the revisions of a lock",
        )
    };
    // It would be taken for an option.
    if revision.starts_with('-') {
        return Err(refused("a revision does not begin with `-`"));
    }
    // To git a path begins at the root of the repository, unless it says that it begins here.
    let here = if path.is_absolute() { PathBuf::new() } else { PathBuf::from(".") };
    let name = format!("{revision}:{}", here.join(&path).display());
    // It prints the bytes, without a filter, a pager or a remote that a repository could name.
    let mut git = Command::new("git");
    git.args(["cat-file", "blob", &name]).env("GIT_NO_LAZY_FETCH", "1");
    let shown = git.output();
    let shown = shown.map_err(|error| refused(&format!("git did not start: {error}")))?;
    if !shown.status.success() {
        let words = String::from_utf8_lossy(&shown.stderr);
        return Err(refused(words.trim().trim_start_matches("fatal: ")));
    }
    let text = String::from_utf8(shown.stdout).map_err(|_| refused("it is not UTF-8"))?;
    of_lock(&Lock::parse(&path, &text)?, &path, cache)
}

fn show(found: &Diff) {
    if *found == Diff::default() {
        return output::line("nothing differs");
    }
    for change in found.nodes.iter().filter(|change| change.what != Change::Follows) {
        show_node(change);
    }
    let following = found.nodes.iter().filter(|change| change.what == Change::Follows);
    let following: Vec<&str> = following.map(|change| change.node.as_str()).collect();
    if !following.is_empty() {
        let (count, names) =
            (output::count(following.len(), "node"), listed(following.iter().copied()));
        let follow = if following.len() == 1 { "follows" } else { "follow" };
        output::line(&format!("{count} {follow} from what they read: {names}"));
    }

    let value = |value: Option<f64>| value.map_or("none".into(), number);
    let by = |before: Option<f64>, after: Option<f64>| {
        before.zip(after).map(|(before, after)| signed(after - before)).unwrap_or_default()
    };
    if !found.metrics.is_empty() {
        let row = |m: &MetricChange| {
            let (node, metric) = (m.node.clone(), m.metric.clone());
            vec![node, metric, value(m.before), value(m.after), by(m.before, m.after)]
        };
        let rows: Vec<Vec<String>> = found.metrics.iter().map(row).collect();
        output::line("");
        output::table(&["node", "metric", "before", "after", "difference"], &rows);
    }
    if !found.comparisons.is_empty() {
        let row = |c: &diff::ComparisonChange| {
            vec![c.name.clone(), value(c.before), value(c.after), by(c.before, c.after)]
        };
        let rows: Vec<Vec<String>> = found.comparisons.iter().map(row).collect();
        output::line("");
        output::table(&["comparison", "before", "after", "difference"], &rows);
    }
}

fn show_node(change: &NodeChange) {
    let node = &change.node;
    match change.what {
        Change::New => output::line(&format!("`{node}` is new")),
        Change::Gone => output::line(&format!("`{node}` is gone")),
        Change::Renamed => {
            let old = change.inputs.first().map_or("", |(_, old, _)| old.as_str());
            output::line(&format!("`{node}` was called `{old}`"));
        }
        Change::Unknown => {
            output::line(&format!("`{node}` changed; no cache has the records that say how"));
        }
        Change::Changed | Change::Follows => output::line(&format!("`{node}` changed:")),
    }
    for difference in &change.differences {
        output::line(&format!("  {}", plan::difference(difference)));
    }
    if change.what == Change::Changed {
        for (path, old, new) in &change.inputs {
            output::line(&format!("  `{path}` comes from `{new}`, before from `{old}`"));
        }
    }
}

fn to_json(found: &Diff) -> Value {
    let node = |change: &NodeChange| {
        let differences = change
            .differences
            .iter()
            .map(|d| json!({ "path": d.path, "before": d.before, "after": d.after }));
        let inputs = change
            .inputs
            .iter()
            .map(|(path, before, after)| json!({ "path": path, "before": before, "after": after }));
        json!({
            "node": change.node,
            "what": change.what.word(),
            "differences": differences.collect::<Vec<_>>(),
            "inputs": inputs.collect::<Vec<_>>(),
        })
    };
    let metric = |m: &MetricChange| json!({ "node": m.node, "metric": m.metric, "before": m.before, "after": m.after });
    let comparison = |c: &diff::ComparisonChange| json!({ "comparison": c.name, "before": c.before, "after": c.after });
    json!({
        "refrain": 1,
        "nodes": found.nodes.iter().map(node).collect::<Vec<_>>(),
        "metrics": found.metrics.iter().map(metric).collect::<Vec<_>>(),
        "comparisons": found.comparisons.iter().map(comparison).collect::<Vec<_>>(),
    })
}
