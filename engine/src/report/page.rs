//! The content of a report: a value made from a workflow's graph, lock, cache and run log. Nothing
//! is rendered here.

mod claims;
mod curves;
mod distributions;
mod lineage;
mod nodes;
mod samples;
mod spread;
mod tables;
mod tradeoff;

use std::collections::HashMap;

use refrain_cache::Digest;

use crate::graph::{Graph, NodeId};
use crate::ledger::lock::{Compared, Lock};
use crate::ledger::run_log::{LastRuns, NodeOutcome, RunCourse};
use crate::plan;
use crate::plan::state::{NodeState, StateError};
use crate::report::comparison::{self, ComparedRow, Comparisons, NoResult};
use crate::report::expect::{self, Expect};
use crate::report::results::{self, NodeStatus, ResultColumns, Results};
use crate::store::Store;

pub use claims::{Claim, Published};
pub use curves::{Curve, CurvePanel};
pub use distributions::{Bin, Distribution, DistributionPanel, Quantity, Series};
pub use lineage::{FigureLineage, SourceFile};
pub use nodes::{Edge, PageNode, PageStage, Status, StatusCounts};
pub use samples::{Sample, SampleTable, Token};
pub use spread::{SpreadColumn, SpreadRow};
pub use tables::Tables;
pub use tradeoff::{Tradeoff, TradeoffPoint};

/// Everything that a report is made from.
pub struct PageInput<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The conditions on metrics.
    pub expects: &'a [Expect],
    /// The comparisons, and the conditions on them.
    pub comparisons: &'a Comparisons,
    /// The metrics that the table of results shows.
    pub columns: &'a ResultColumns,
    /// The lock.
    pub lock: &'a Lock,
    /// The digest of the lock's file.
    pub lock_digest: Option<Digest>,
    /// The cache, where there is one.
    pub store: Option<&'a Store>,
    /// The last run, where a log tells it.
    pub course: Option<RunCourse>,
    /// Why nodes ran, by the logs.
    pub last: LastRuns,
}

/// A report.
#[derive(Debug, Clone)]
pub struct Page {
    /// The workflow's name.
    pub name: String,
    /// The question that it asks.
    pub description: Option<String>,
    /// The name of its file.
    pub file: String,
    /// The digest of its text.
    pub text_digest: Digest,
    /// The digest of the lock's file.
    pub lock_digest: Option<Digest>,
    /// The version of Refrain that wrote the lock.
    pub version: String,
    /// The parts that are absent, each with the reason.
    pub absent: Vec<Absence>,
    /// The stages and sources, in the order of the graph.
    pub stages: Vec<PageStage>,
    /// The nodes, inputs before their readers.
    pub nodes: Vec<PageNode>,
    /// The edges between stages.
    pub edges: Vec<Edge>,
    /// The conditions, in the order of the file.
    pub claims: Vec<Claim>,
    /// The table of results.
    pub results: Results,
    /// The points behind its means.
    pub spread: Vec<SpreadColumn>,
    /// The comparisons.
    pub comparisons: Vec<ComparedRow>,
    /// The last run.
    pub course: Option<RunCourse>,
    /// Training curves by stage.
    pub curves: Vec<CurvePanel>,
    /// Distributions by quantity and stage.
    pub distributions: Vec<DistributionPanel>,
    /// Diversity against accuracy.
    pub tradeoffs: Vec<Tradeoff>,
    /// Rows of each stage's table.
    pub samples: Vec<SampleTable>,
    /// The files that are read.
    pub sources: Vec<SourceFile>,
    /// The stages and files that each figure rests on.
    pub lineages: Vec<FigureLineage>,
}

/// A part that a report lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absence {
    /// The parts.
    pub parts: &'static str,
    /// The reason.
    pub because: String,
    /// The remedy.
    pub remedy: &'static str,
}

impl Page {
    /// Collects a report. `tables` remembers what earlier reports read of artifacts, which never
    /// change.
    ///
    /// # Errors
    /// [`StateError`] where sources cannot be hashed or the cache cannot be read.
    pub fn collect(input: PageInput<'_>, tables: &mut Tables) -> Result<Page, StateError> {
        let PageInput { graph, lock, store, course, last, .. } = &input;
        let plan = store.map(|store| plan::look_up(graph, store)).transpose()?;
        let known = results::known(graph, lock, plan.as_ref());
        let of = |id: NodeId| known[id.index()].as_ref();
        let failed = failed(graph, course.as_ref(), last);

        let results = results::collect(graph, input.columns, input.expects, |id| {
            match (of(id), failed[id.index()]) {
                (Some(done), _) => NodeStatus::NodeState(done),
                (None, true) => NodeStatus::Failed,
                (None, false) => NodeStatus::Missing,
            }
        });
        let spread = spread::spread(&input, &results, &of);
        let (claims, comparisons) = judged(&input, &of);
        let stages = nodes::Stages::new(graph, &input.columns.mean_over);
        let nodes = nodes::nodes(&input, &stages, &known)?;

        tables.read(graph, *store, &stages, &of);
        let curves = curves::curves(&stages, &nodes, tables, course.as_ref());
        let distributions = distributions::distributions(graph, &stages, tables);
        let samples = samples::samples(graph, &stages, tables);
        let tradeoffs = tradeoff::tradeoffs(graph, &stages, &of);
        let lineages = lineage::lineages(graph, &stages, &results, input.comparisons);
        let absent = absences(&input, &nodes, tables);
        let source = &graph.workflow.source;
        let file = source.path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Page {
            name: graph.workflow.name.clone(),
            description: graph.workflow.about.description.clone(),
            file: file.unwrap_or_default(),
            text_digest: Digest::of_bytes(source.text.as_bytes()),
            lock_digest: input.lock_digest,
            version: lock.version.clone(),
            absent,
            stages: stages.finish(graph, &nodes),
            edges: nodes::edges(graph),
            sources: lineage::sources(graph, &of),
            nodes,
            claims,
            results,
            spread,
            comparisons,
            course: input.course,
            curves,
            distributions,
            tradeoffs,
            samples,
            lineages,
        })
    }
}

/// The nodes that failed in the last run, by number.
fn failed(graph: &Graph, course: Option<&RunCourse>, last: &LastRuns) -> Vec<bool> {
    let of_course = course.into_iter().flat_map(|course| &course.nodes);
    let by_name: HashMap<&str, &NodeOutcome> =
        of_course.map(|node| (node.node.as_str(), &node.outcome)).collect();
    let failed = |name: &str| match by_name.get(name) {
        Some(outcome) => matches!(outcome, NodeOutcome::Failed | NodeOutcome::Skipped { .. }),
        None => last.failed.contains(name),
    };
    graph.nodes.iter().map(|node| failed(&node.name)).collect()
}

/// Checks the conditions and makes the table of comparisons.
fn judged<'d>(
    input: &PageInput<'_>,
    of: &(impl Fn(NodeId) -> Option<&'d NodeState> + Sync),
) -> (Vec<Claim>, Vec<ComparedRow>) {
    let PageInput { graph, comparisons, lock, store, expects, .. } = input;
    let found = comparison::known(graph, comparisons, lock, *store, of);
    let found: Vec<Result<&Compared, &NoResult>> = found.iter().map(Result::as_ref).collect();
    let of_figures = expect::check(expects, graph, of);
    let of_comparisons = comparisons.check(&found);
    let verdicts: Vec<_> = of_figures.iter().chain(&of_comparisons).cloned().collect();
    let rows = comparisons.rows(&found, &verdicts);
    (claims::claims(expects, comparisons, &verdicts), rows)
}

/// Says which parts are absent, and why.
fn absences(input: &PageInput<'_>, nodes: &[PageNode], tables: &Tables) -> Vec<Absence> {
    let mut absent = Vec::new();
    let lock_is_empty = input.lock.entries.is_empty();
    if lock_is_empty {
        absent.push(Absence {
            parts: "the record of a complete run",
            because: "there is no lock beside the workflow".into(),
            remedy: "`refrain run` writes it",
        });
    }
    let missing = nodes.iter().filter(|node| node.key.is_none()).count();
    if missing > 0 {
        let because = match missing {
            1 => "1 node has no result".to_owned(),
            missing => format!("{missing} of {} nodes have no result", nodes.len()),
        };
        let remedy = "`refrain run` computes them";
        absent.push(Absence { parts: "figures of some nodes", because, remedy });
    }
    if input.store.is_none() {
        absent.push(Absence {
            parts: "samples, distributions, training curves",
            because: "there is no cache here: what is shown is the lock's".into(),
            remedy: "`refrain run`, or name the cache with `--cache`",
        });
    } else if tables.missing() > 0 {
        let because = format!("the cache lacks {} of the tables that are shown", tables.missing());
        let remedy = "`refrain run` computes them";
        absent.push(Absence { parts: "some samples, distributions and curves", because, remedy });
    }
    match &input.course {
        None => absent.push(Absence {
            parts: "timeline, and why each node ran",
            because: "there is no log of a run here".into(),
            remedy: "a log is written by `refrain run`, on the machine that runs",
        }),
        Some(course) if course.nodes.iter().all(|node| node.started.is_none()) => {
            let computed = course.nodes.iter().any(|node| node.outcome != NodeOutcome::Cached);
            let because = match computed {
                true => "the log of the run has no times: an earlier version wrote it",
                false => "the logged runs computed nothing",
            };
            let remedy = "a run that computes something writes it";
            absent.push(Absence { parts: "timeline", because: because.into(), remedy });
        }
        Some(_) => {}
    }
    absent
}
