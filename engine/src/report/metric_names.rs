//! Checks that the metrics that `expect` and `results` name are metrics that their stages write.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use crate::graph::{Graph, NodeId, Work};
use crate::kind::MetricContext;
use crate::language::diagnostic::{Diagnostic, Span, suggest};
use crate::report::expression::minus_hint;

/// A metric that a workflow names, and where. In the expression of a comparison it may be a name
/// that is bound to one: it then stands in the place of the stage, and the metric is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricReference {
    /// The stage.
    pub stage: String,
    /// The metric.
    pub metric: String,
    /// Its place in the workflow.
    pub span: Span,
}

impl fmt::Display for MetricReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.metric.is_empty() {
            true => f.write_str(&self.stage),
            false => write!(f, "{}.{}", self.stage, self.metric),
        }
    }
}

/// Reports references to metrics that no node of the stage writes.
pub fn check<'r>(
    graph: &Graph,
    references: impl IntoIterator<Item = &'r MetricReference>,
) -> Vec<Diagnostic> {
    let references: Vec<&MetricReference> = references.into_iter().collect();
    let mut nodes: HashMap<&str, Vec<NodeId>> =
        references.iter().map(|reference| (reference.stage.as_str(), Vec::new())).collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    for id in graph.ids() {
        if let Some(nodes) = nodes.get_mut(graph.node(id).stage.as_str()) {
            nodes.push(id);
        }
    }

    let names: HashMap<&str, Option<BTreeSet<String>>> =
        nodes.into_iter().map(|(stage, ids)| (stage, of_stage(graph, &ids))).collect();
    references.iter().filter_map(|reference| problem(reference, &names)).collect()
}

fn problem(
    MetricReference { stage, metric, span }: &MetricReference,
    names: &HashMap<&str, Option<BTreeSet<String>>>,
) -> Option<Diagnostic> {
    let names = names.get(stage.as_str())?.as_ref()?;
    if names.contains(metric) {
        return None;
    }
    if names.is_empty() {
        return Some(Diagnostic::at(span.clone(), format!("stage `{stage}` has no metrics")));
    }
    let known = names.iter().map(String::as_str);
    let hint =
        minus_hint(metric, known.clone()).or_else(|| suggest(metric, known, "its metrics are"));
    let message = format!("stage `{stage}` has no metric `{metric}`");
    Some(Diagnostic::at(span.clone(), message).maybe_hint(hint))
}

/// The metrics that some node of a stage writes; `None` where one may write any.
fn of_stage(graph: &Graph, ids: &[NodeId]) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for id in ids {
        let node = graph.node(*id);
        let Work::Stage { kind, params } = &node.work else { continue };
        let inputs: Vec<String> = node.inputs.iter().map(|edge| edge.path.clone()).collect();
        let params = params.to_map();
        let context = MetricContext { params: &params, inputs: &inputs };
        if kind.has_free_metrics(context) {
            return None;
        }
        names.extend(kind.metric_names(context));
    }
    Some(names)
}
