//! The points of an expression: the nodes of its stages that belong together in the sweep.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::graph::{Graph, Node, NodeId};
use crate::language::diagnostic::listed;
use crate::language::workflow::Axis;
use crate::plan::state::NodeState;
use crate::report::expression::Expression;

/// Per axis of the workflow the number of a value, from 1; 0 where nothing depends on the axis.
pub(super) type Place = Vec<u32>;

/// A node of each stage of an expression, all at one point of the sweep.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    /// The nodes, in the order of the stages.
    pub nodes: Vec<NodeId>,
    /// The values of all axes that one of them depends on.
    pub place: Place,
}

/// The nodes of some stages, ready to be joined.
pub(super) struct Stages<'g> {
    graph: &'g Graph,
    numbers: HashMap<(&'g str, &'g str), (usize, u32)>,
    nodes: HashMap<&'g str, Vec<NodeId>>,
}

/// A node's result, or why there is none.
#[derive(Debug, Clone, Copy)]
pub enum NodeStatus<'d> {
    /// Its result is known.
    NodeState(&'d NodeState),
    /// It failed.
    Failed,
    /// It has not run.
    Missing,
    /// The run was asked for other nodes; it makes no row.
    Unwanted,
}

/// Why an expression has no value at a point.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Absent {
    /// A node failed.
    Failed,
    /// A node has not run.
    Missing,
    /// A node ran and has no metric of the name.
    NoMetric(String),
    /// The value is not finite.
    NotFinite(String),
}

impl<'g> Stages<'g> {
    /// Collects the nodes of the stages that these expressions name, but for those that are not `wanted`.
    pub fn new<'e>(
        graph: &'g Graph,
        expressions: impl Iterator<Item = &'e Expression>,
        wanted: impl Fn(NodeId) -> bool,
    ) -> Stages<'g> {
        let named: HashSet<&str> = expressions.flat_map(Expression::stages).collect();
        let mut nodes: HashMap<&str, Vec<NodeId>> = HashMap::new();
        for id in graph.ids() {
            let stage = graph.node(id).stage.as_str();
            if named.contains(stage) && wanted(id) {
                nodes.entry(stage).or_default().push(id);
            }
        }

        let number = |(i, axis): (usize, &'g Axis)| {
            let label = move |(n, (label, _)): (usize, &'g (String, _))| {
                ((axis.name.as_str(), label.as_str()), (i, n as u32 + 1))
            };
            axis.values.iter().enumerate().map(label).collect::<Vec<_>>()
        };
        let numbers = graph.workflow.axes.iter().enumerate().flat_map(number).collect();
        Stages { graph, numbers, nodes }
    }

    /// Returns the points of an expression, in the order of the graph: every set of nodes, one of each of its stages, that
    /// agree on the axes that they share.
    pub fn points(&self, expression: &Expression) -> Vec<Point> {
        let axes = self.graph.workflow.axes.len();
        let mut points = vec![Point { nodes: Vec::new(), place: vec![0; axes] }];
        for stage in expression.stages() {
            points = self.joined(points, self.nodes.get(stage).map_or(&[], Vec::as_slice));
        }
        points.sort_unstable_by(|a, b| a.nodes.cmp(&b.nodes));
        points
    }

    /// Adds to each point the nodes of a further stage that agree with it.
    fn joined(&self, points: Vec<Point>, nodes: &[NodeId]) -> Vec<Point> {
        let mut shapes: BTreeMap<Vec<usize>, Vec<(NodeId, Place)>> = BTreeMap::new();
        for id in nodes {
            let place = self.place(self.graph.node(*id));
            shapes.entry(axes_of(&place)).or_default().push((*id, place));
        }

        // The nodes of each shape by their values on the axes that they share with a point.
        let mut found: HashMap<(&[usize], Vec<usize>), ByValues> = HashMap::new();
        let mut joined = Vec::with_capacity(points.len().max(nodes.len()));
        for point in &points {
            let axes = axes_of(&point.place);
            for (shape, nodes) in &shapes {
                let shared = shape.iter().filter(|axis| axes.contains(axis));
                let shared: Vec<usize> = shared.copied().collect();
                let values = values_at(&point.place, &shared);
                let by_values = found
                    .entry((shape, shared))
                    .or_insert_with_key(|(_, shared)| by_values(nodes, shared));
                for i in by_values.get(&values).into_iter().flatten() {
                    let (node, place) = &nodes[*i];
                    joined.push(point.with(*node, place));
                }
            }
        }
        joined
    }

    fn place(&self, node: &Node) -> Place {
        let mut place = vec![0; self.graph.workflow.axes.len()];
        for (axis, label) in &node.point {
            if let Some((i, number)) = self.numbers.get(&(axis.as_str(), label.as_str())) {
                place[*i] = *number;
            }
        }
        place
    }

    /// Whether a point has these values on axes, or does not depend on them.
    pub fn is_at(&self, point: &Point, at: &[(String, String)]) -> bool {
        let is_chosen = |id: &NodeId| {
            let point = &self.graph.node(*id).point;
            let holds = |chosen: &(String, String)| {
                point.contains(chosen) || !point.iter().any(|(axis, _)| *axis == chosen.0)
            };
            at.iter().all(holds)
        };
        point.nodes.iter().all(is_chosen)
    }

    /// Computes an expression at one of its points.
    pub fn value<'d>(
        &self,
        expression: &Expression,
        point: &Point,
        status: &impl Fn(NodeId) -> NodeStatus<'d>,
    ) -> Result<f64, Absent> {
        let mut known: Vec<(NodeId, &NodeState)> = Vec::with_capacity(point.nodes.len());
        let mut missing = false;
        for id in &point.nodes {
            match status(*id) {
                NodeStatus::NodeState(done) => known.push((*id, done)),
                NodeStatus::Failed => return Err(Absent::Failed),
                NodeStatus::Missing | NodeStatus::Unwanted => missing = true,
            }
        }
        if missing {
            return Err(Absent::Missing);
        }

        let stages = expression.stages();
        let mut values = Vec::with_capacity(expression.metrics.len());
        for metric in &expression.metrics {
            let number = stages.iter().position(|stage| *stage == metric.stage);
            let Some((id, done)) = number.and_then(|number| known.get(number)) else { continue };
            values.push(metric_of(done, &metric.metric).ok_or_else(|| {
                let name = &self.graph.node(*id).name;
                Absent::NoMetric(format!("`{name}` has no metric `{}`", metric.metric))
            })?);
        }
        expression.value(&values).map_err(|reason| {
            let names = point.nodes.iter().map(|id| self.graph.node(*id).name.as_str());
            let names = listed(names);
            Absent::NotFinite(format!("{reason} (nodes {names})"))
        })
    }
}

impl Absent {
    /// Returns the reason where all nodes ran.
    pub fn reason(self) -> Option<String> {
        match self {
            Absent::Failed | Absent::Missing => None,
            Absent::NoMetric(reason) | Absent::NotFinite(reason) => Some(reason),
        }
    }
}

impl Point {
    fn with(&self, node: NodeId, place: &[u32]) -> Point {
        let nodes = self.nodes.iter().copied().chain([node]).collect();
        let place = self.place.iter().zip(place).map(|(a, b)| *a.max(b)).collect();
        Point { nodes, place }
    }
}

/// Numbers of nodes by values of some axes.
type ByValues = HashMap<Vec<u32>, Vec<usize>>;

fn by_values(nodes: &[(NodeId, Place)], axes: &[usize]) -> ByValues {
    let mut by_values = ByValues::new();
    for (i, (_, place)) in nodes.iter().enumerate() {
        by_values.entry(values_at(place, axes)).or_default().push(i);
    }
    by_values
}

/// Returns a metric of a node by name.
fn metric_of(done: &NodeState, metric: &str) -> Option<f64> {
    done.result.metrics.iter().find(|m| m.metric == metric).map(|m| m.value)
}

/// Lists the axes that something depends on.
pub(super) fn axes_of(place: &[u32]) -> Vec<usize> {
    (0..place.len()).filter(|axis| place[*axis] != 0).collect()
}

/// Returns the values of a place on some axes.
pub(super) fn values_at(place: &[u32], axes: &[usize]) -> Vec<u32> {
    axes.iter().map(|axis| place[*axis]).collect()
}
