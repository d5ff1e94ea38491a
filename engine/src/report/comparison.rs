//! Comparisons of two arms, paired by row and seed: a difference with its interval and its tests.

mod claim;
mod compute;
mod correct;
mod flips;
mod kept;
mod known;
mod pairing;
mod parse;
mod row;
mod rows;

use crate::graph::{Graph, NodeId};
use crate::language::diagnostic::{Diagnostic, Span};
use crate::language::workflow::{Axis, Workflow};
use crate::ledger::lock::Compared;
use crate::report::expect::ExpectResult;
use crate::report::expression::Expression;
use crate::report::metric_names::MetricReference;

pub use claim::{Claim, ClaimRule};
pub use compute::compute;
pub(crate) use compute::{compute_anew, inputs};
pub use flips::{FlippedRow, Flips, Side, flips};
pub use known::known;
pub(crate) use parse::PARAMS;
pub use row::ComparedRow;

/// Version of the statistics, which is a part of the digest of the inputs: raised when a result
/// changes.
const VERSION: u32 = 1;
/// Below so many seeds no confidence can be demanded.
pub const LEAST_SEEDS: usize = 5;
/// The confidence of the interval that every comparison has.
pub const CONFIDENCE: f64 = 0.95;

/// A comparison as the workflow states it.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// Its name.
    pub name: String,
    /// The place of its name.
    pub span: Span,
    /// The metrics that it compares, each once.
    pub figures: Vec<Figure>,
    /// The expression of them, in their order; `None` of one metric alone.
    pub of: Option<Expression>,
    /// The axis of the two arms.
    pub axis: String,
    /// The place of the arms.
    pub between: Span,
    /// Their labels: the difference is the first minus the second.
    pub arms: [String; 2],
    /// The axis of the seeds, with its place.
    pub over: Option<(String, Span)>,
    /// Values of further axes.
    pub at: Vec<(String, String)>,
    /// By how much the first arm may be below the second at most.
    pub margin: Option<f64>,
    /// The name of the comparisons that are corrected together.
    pub group: Option<String>,
}

impl Comparison {
    /// The difference that a claim exceeds unless it says otherwise.
    pub fn null(&self) -> f64 {
        self.margin.map_or(0.0, |margin| -margin)
    }

    /// The metric or expression that is compared.
    pub fn words(&self) -> String {
        let alone = || self.figures.first().map_or("", |figure| figure.name.as_str());
        self.of.as_ref().map_or_else(alone, |of| of.text.as_str()).to_string()
    }
}

/// A metric in a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its name in the expression: that which is bound to it, or `stage.metric`.
    pub name: String,
    /// The stage.
    pub stage: String,
    /// The metric.
    pub metric: String,
    /// Values of axes, beside those of the whole comparison.
    pub at: Vec<(String, String)>,
    /// Its place in the workflow.
    pub span: Span,
}

/// A comparison with the nodes that it compares.
#[derive(Debug, Clone)]
pub struct Pairing {
    /// The comparison.
    pub comparison: Comparison,
    /// The labels of the seeds; one empty label without an axis of seeds.
    pub seeds: Vec<String>,
    /// Its metrics, in the order of its figures.
    pub figures: Vec<PairedFigure>,
    /// The number of tasks, whose rows are drawn apart.
    pub tasks: usize,
}

/// A metric with its nodes.
#[derive(Debug, Clone)]
pub struct PairedFigure {
    /// The column whose mean over rows it is, and the number of its task; `None` where only the
    /// metric itself is known, which is then compared by seeds alone.
    pub rows: Option<(String, usize)>,
    /// For each seed the nodes of the two arms.
    pub nodes: Vec<[NodeId; 2]>,
}

/// The comparisons of a workflow, and what it claims of them.
#[derive(Debug, Clone, Default)]
pub struct Comparisons {
    /// The comparisons, with their nodes.
    pub pairings: Vec<Pairing>,
    /// The claims.
    pub claims: Vec<Claim>,
    /// The demands of the claims on each comparison.
    pub asked: Vec<Asked>,
}

/// The sections `compare` and `expect` as they are written, before the graph is known.
#[derive(Debug)]
pub struct Stated {
    comparisons: Vec<Comparison>,
    claims: Vec<Claim>,
}

impl Stated {
    /// Reads the comparisons of a workflow and the claims on them; `declared` has its axes with all
    /// their values. What is about points that `--set` leaves out is left out too.
    pub fn parse(workflow: &Workflow, declared: &[Axis], problems: &mut Vec<Diagnostic>) -> Stated {
        let comparisons = parse::parse(workflow, declared, problems);
        let claims = claim::parse(workflow, declared, &comparisons, problems);
        Stated { comparisons, claims }
    }

    /// Iterates over the metrics that are compared.
    pub fn figures(&self) -> impl Iterator<Item = MetricReference> {
        let reference = |figure: &Figure| MetricReference {
            stage: figure.stage.clone(),
            metric: figure.metric.clone(),
            span: figure.span.clone(),
        };
        self.comparisons.iter().flat_map(|comparison| &comparison.figures).map(reference)
    }

    /// Finds the nodes of the comparisons.
    pub fn pair(self, graph: &Graph, problems: &mut Vec<Diagnostic>) -> Comparisons {
        let pairings = pairing::pair(graph, self.comparisons, problems);
        let asked = pairings.iter().map(|pairing| claim::asked(&self.claims, pairing)).collect();
        Comparisons { pairings, claims: self.claims, asked }
    }
}

impl Comparisons {
    /// Checks the claims, given the result of each comparison.
    pub fn check(&self, results: &[Result<&Compared, &NoResult>]) -> Vec<ExpectResult> {
        claim::check(self, results)
    }

    /// Corrects the p-values of the tests of each comparison; `None` where a comparison that is
    /// corrected with it has no result.
    pub fn corrected(&self, results: &[Option<&Compared>]) -> Vec<Option<Vec<f64>>> {
        correct::correct(&self.pairings, results)
    }

    /// Finds a comparison by its name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.pairings.iter().position(|pairing| pairing.comparison.name == name)
    }
}

/// The demands of a workflow's conditions on a comparison.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// The confidences of intervals, beside [`CONFIDENCE`].
    pub confidences: Vec<f64>,
    /// The differences that are tested; the comparison's own where there is none.
    pub above: Vec<f64>,
}

impl Asked {
    /// Returns the confidences of all intervals of a result, ascending.
    pub(crate) fn confidences(&self) -> Vec<f64> {
        let mut confidences = self.confidences.clone();
        confidences.push(CONFIDENCE);
        confidences.sort_by(f64::total_cmp);
        confidences.dedup();
        confidences
    }

    /// Returns the differences that a result's tests are against.
    pub(crate) fn tests(&self, comparison: &Comparison) -> Vec<f64> {
        match self.above.is_empty() {
            true => vec![comparison.null()],
            false => self.above.clone(),
        }
    }
}

/// Why a comparison has no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoResult {
    /// A node has not run, or it failed.
    #[error("`{0}` has not run")]
    Missing(String),
    /// The tables of the nodes are not in the cache.
    #[error("the cache does not hold the table of `{0}`")]
    NoTable(String),
    /// The results of the nodes cannot be compared.
    #[error("{0}")]
    Unusable(String),
}
