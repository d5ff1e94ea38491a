//! Diversity against accuracy: each measure of a table's diversity beside each accuracy at the same
//! point.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::graph::{Graph, Node, NodeId, Work};
use crate::kind::MetricContext;
use crate::plan::state::NodeState;

use super::nodes::Stages;

/// Pictures that are made.
const PICTURES: usize = 6;

/// One measure of diversity against one accuracy.
#[derive(Debug, Clone, PartialEq)]
pub struct Tradeoff {
    /// The measure, `stage.metric`.
    pub diversity: String,
    /// The accuracy, `stage.metric`.
    pub accuracy: String,
    /// Its points.
    pub points: Vec<TradeoffPoint>,
}

/// A point.
#[derive(Debug, Clone, PartialEq)]
pub struct TradeoffPoint {
    /// The arm.
    pub label: String,
    /// The diversity.
    pub diversity: f64,
    /// The accuracy.
    pub accuracy: f64,
}

impl Tradeoff {
    /// Whether it sets anything against anything: points of one arm are its noise.
    fn has_arms(&self) -> bool {
        let first = self.points.first();
        self.points.iter().any(|point| first.is_some_and(|first| first.label != point.label))
    }
}

/// A metric of a stage at its points.
struct Measured<'a> {
    name: String,
    at: Vec<(&'a Node, f64)>,
}

/// Pairs every measure of diversity with every accuracy of which points agree on the axes that both
/// have.
pub(super) fn tradeoffs<'d>(
    graph: &Graph,
    stages: &Stages,
    of: &impl Fn(NodeId) -> Option<&'d NodeState>,
) -> Vec<Tradeoff> {
    let (mut diversities, mut accuracies) = (BTreeMap::new(), BTreeMap::new());
    for id in graph.ids() {
        let node = graph.node(id);
        let (Work::Stage { kind, params }, Some(done)) = (&node.work, of(id)) else { continue };
        // Without an axis there is nothing to set against anything.
        if node.point.is_empty() {
            continue;
        }
        let inputs: Vec<String> = node.inputs.iter().map(|edge| edge.path.clone()).collect();
        let params = params.to_map();
        let measures = kind.diversity_names(MetricContext { params: &params, inputs: &inputs });
        for metric in done.result.metrics.iter().filter(|metric| metric.value.is_finite()) {
            let is_accuracy = kind.mean_of(&metric.metric) == Some("correct");
            let found = match measures.contains(&metric.metric) {
                true => &mut diversities,
                false if is_accuracy => &mut accuracies,
                false => continue,
            };
            let name = format!("{}.{}", node.stage, metric.metric);
            let measured = found.entry(name.clone());
            let measured = measured.or_insert(Measured { name, at: Vec::new() });
            measured.at.push((node, metric.value));
        }
    }
    let pairs = diversities.values().flat_map(|d| accuracies.values().map(move |a| (d, a)));
    let found = pairs.map(|(diversity, accuracy)| pair(stages, diversity, accuracy));
    found.filter(Tradeoff::has_arms).take(PICTURES).collect()
}

fn pair(stages: &Stages, diversity: &Measured<'_>, accuracy: &Measured<'_>) -> Tradeoff {
    // Nodes of one stage may have different axes: a seed need not touch every arm.
    let axes = |measured: &Measured<'_>| -> BTreeSet<String> {
        measured
            .at
            .iter()
            .flat_map(|(node, _)| node.point.iter().map(|(axis, _)| axis.clone()))
            .collect()
    };
    let (ours, theirs) = (axes(diversity), axes(accuracy));
    let labels = |point: &[(String, String)]| -> Vec<String> {
        let is_shared = |axis: &String| ours.contains(axis) && theirs.contains(axis);
        let entries = point.iter().filter(|(axis, _)| is_shared(axis));
        entries.map(|(axis, label)| format!("{axis}={label}")).collect()
    };

    // A table without an axis, as one that no seed touches, is that of every label of it.
    let mut found: HashMap<Vec<String>, Vec<f64>> = HashMap::new();
    for (node, value) in &diversity.at {
        found.entry(labels(&node.point)).or_default().push(*value);
    }
    let points = accuracy.at.iter().flat_map(|(node, value)| {
        let own = labels(&node.point);
        let beside = (1..=own.len()).rev().find_map(|n| found.get(&own[..n]));
        beside.into_iter().flatten().map(|measure| TradeoffPoint {
            label: stages.arm(node).to_owned(),
            diversity: *measure,
            accuracy: *value,
        })
    });
    Tradeoff {
        diversity: diversity.name.clone(),
        accuracy: accuracy.name.clone(),
        points: points.collect(),
    }
}
