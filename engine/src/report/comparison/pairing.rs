//! Finds the nodes of a comparison: for each metric and each seed one of either arm.

use std::collections::{BTreeSet, HashMap};

use crate::graph::{Graph, Node, NodeId, Work};
use crate::kind::{ArtifactKind, OutputDecl};
use crate::language::diagnostic::{Diagnostic, listed};

use super::{Comparison, Figure, PairedFigure, Pairing};

/// Pairs the nodes of all comparisons.
pub fn pair(
    graph: &Graph,
    comparisons: Vec<Comparison>,
    problems: &mut Vec<Diagnostic>,
) -> Vec<Pairing> {
    let named: BTreeSet<&str> = comparisons
        .iter()
        .flat_map(|comparison| comparison.figures.iter().map(|figure| figure.stage.as_str()))
        .collect();
    let mut nodes: HashMap<&str, Vec<NodeId>> = HashMap::new();
    for id in graph.ids() {
        let stage = graph.node(id).stage.as_str();
        if named.contains(stage) {
            nodes.entry(stage).or_default().push(id);
        }
    }

    let one = |comparison: &Comparison| {
        let pairing = pairing(graph, &nodes, comparison);
        pairing.map_err(|problem| problems.push(*problem)).ok()
    };
    comparisons.iter().filter_map(one).collect()
}

type Problem = Box<Diagnostic>;

fn pairing(
    graph: &Graph,
    nodes: &HashMap<&str, Vec<NodeId>>,
    comparison: &Comparison,
) -> Result<Pairing, Problem> {
    let seeds: Vec<String> = match &comparison.over {
        None => vec![String::new()],
        Some((over, _)) => {
            let axis = graph.workflow.axes.iter().find(|axis| axis.name == *over);
            axis.into_iter().flat_map(|axis| &axis.values).map(|(label, _)| label.clone()).collect()
        }
    };

    let mut figures = Vec::with_capacity(comparison.figures.len());
    let mut tasks: Vec<BTreeSet<String>> = Vec::new();
    for figure in &comparison.figures {
        let of_stage = nodes.get(figure.stage.as_str()).map_or(&[][..], Vec::as_slice);
        let pair = |seed: &String| {
            let [first, second] = &comparison.arms;
            let of = |arm| find(graph, of_stage, comparison, figure, arm, seed);
            Ok([of(first)?, of(second)?])
        };
        let pairs: Vec<[NodeId; 2]> = seeds.iter().map(pair).collect::<Result<_, Problem>>()?;
        let column = column(graph.node(pairs[0][0]), &figure.metric);
        let rows = column.map(|column| {
            let task = roots(graph, &pairs, comparison);
            let known = tasks.iter().position(|known| *known == task);
            (
                column,
                known.unwrap_or_else(|| {
                    tasks.push(task);
                    tasks.len() - 1
                }),
            )
        });
        figures.push(PairedFigure { rows, nodes: pairs });
    }

    check(graph, comparison, &figures)?;
    let tasks = tasks.len();
    Ok(Pairing { comparison: comparison.clone(), seeds, figures, tasks })
}

/// Finds the one node of a figure at an arm and a seed.
fn find(
    graph: &Graph,
    of_stage: &[NodeId],
    comparison: &Comparison,
    figure: &Figure,
    arm: &str,
    seed: &str,
) -> Result<NodeId, Problem> {
    let over = comparison.over.as_ref().map(|(over, _)| over.as_str());
    let wanted = |axis: &str| -> Option<&str> {
        let of = |at: &'_ [(String, String)]| at.iter().position(|(known, _)| known == axis);
        match () {
            () if axis == comparison.axis => Some(arm),
            () if Some(axis) == over => Some(seed),
            () => of(&figure.at)
                .map(|i| figure.at[i].1.as_str())
                .or_else(|| of(&comparison.at).map(|i| comparison.at[i].1.as_str())),
        }
    };
    let fits = |id: &&NodeId| {
        let point = &graph.node(**id).point;
        point.iter().all(|(axis, label)| wanted(axis).is_none_or(|wanted| wanted == label))
    };
    let found: Vec<NodeId> = of_stage.iter().filter(fits).copied().collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            let of_seed = over.map(|over| format!(" at {over}={seed}")).unwrap_or_default();
            let message = format!(
                "stage `{}` has no node of arm `{arm}`{of_seed}: each needs its partner",
                figure.stage
            );
            Err(Box::new(Diagnostic::at(comparison.between.clone(), message)))
        }
        [one, ..] => {
            let free = graph.node(*one).point.iter().map(|(axis, _)| axis.as_str());
            let free = listed(free.filter(|axis| wanted(axis).is_none()));
            let message =
                format!("stage `{}` has {} nodes of arm `{arm}`", figure.stage, found.len());
            let hint =
                format!("name the value of {free} in `at`, or the axis of the seeds in `over`");
            Err(Box::new(Diagnostic::at(comparison.span.clone(), message).hint(hint)))
        }
    }
}

/// Checks that the arms differ, and that the seeds do.
fn check(graph: &Graph, comparison: &Comparison, figures: &[PairedFigure]) -> Result<(), Problem> {
    let depends = |axis: &str| {
        let mut nodes = figures.iter().flat_map(|figure| figure.nodes.iter().flatten());
        nodes.any(|id| graph.node(*id).point.iter().any(|(known, _)| known == axis))
    };
    let stages = || listed(comparison.figures.iter().map(|figure| figure.stage.as_str()));
    if !depends(&comparison.axis) {
        let message = format!(
            "{} does not depend on axis `{}`: both arms are one",
            stages(),
            comparison.axis
        );
        return Err(Box::new(Diagnostic::at(comparison.between.clone(), message)));
    }
    match &comparison.over {
        Some((over, span)) if !depends(over) => {
            let message = format!("{} does not depend on axis `{over}`", stages());
            Err(Box::new(Diagnostic::at(span.clone(), message)))
        }
        None if figures.iter().all(|figure| figure.rows.is_none()) => {
            let metric = comparison.figures.first().map_or("", |figure| figure.name.as_str());
            let message = format!("`{metric}` is not the mean of a column, and there is no `over`");
            let hint = "such a metric is compared by seeds: name their axis in `over`";
            Err(Box::new(Diagnostic::at(comparison.span.clone(), message).hint(hint)))
        }
        _ => Ok(()),
    }
}

/// The column of which a node's metric is the mean.
fn column(node: &Node, metric: &str) -> Option<String> {
    let Work::Stage { kind, .. } = &node.work else { return None };
    kind.mean_of(metric).map(String::from)
}

/// Names the tables from which those of the nodes descend: where two metrics have the same, their
/// rows are those of one task. The axes of arms and seeds do not tell tasks apart.
fn roots(graph: &Graph, pairs: &[[NodeId; 2]], comparison: &Comparison) -> BTreeSet<String> {
    let over = comparison.over.as_ref().map(|(over, _)| over);
    let mut seen: BTreeSet<NodeId> = BTreeSet::new();
    let mut open: Vec<NodeId> = pairs.iter().flatten().copied().collect();
    let mut roots = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = graph.node(id);
        let is_table = |output: &OutputDecl| output.kind == ArtifactKind::Table;
        let tables = node.inputs.iter().filter(|edge| {
            let outputs = &graph.node(edge.node).outputs;
            outputs.iter().any(|output| output.name == edge.output && is_table(output))
        });
        let before = open.len();
        open.extend(tables.map(|edge| edge.node));
        if open.len() == before {
            let tells =
                |(axis, _): &&(String, String)| *axis != comparison.axis && Some(axis) != over;
            let point: Vec<(String, String)> = node.point.iter().filter(tells).cloned().collect();
            roots.insert(crate::graph::build::node_name(&node.stage, &point));
        }
    }
    roots
}
