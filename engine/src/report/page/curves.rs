//! Training curves: the loss of each step, and of evaluations on the way.

use std::collections::HashMap;

use crate::graph::NodeId;
use crate::ledger::run_log::RunCourse;

use super::nodes::{PageNode, Stages};
use super::tables::Tables;

/// Points of a curve that are shown.
const POINTS: usize = 160;

/// The curves of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePanel {
    /// The number of the stage.
    pub stage: usize,
    /// Its curves.
    pub curves: Vec<Curve>,
    /// Nodes of the stage that have no curve here.
    pub left_out: usize,
}

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// The number of the node.
    pub node: u32,
    /// Step and loss: means of neighbouring steps where there are many.
    pub loss: Vec<(f64, f64)>,
    /// Step and loss on held-out rows.
    pub evaluated: Vec<(f64, f64)>,
    /// Whether the training is under way.
    pub is_live: bool,
}

/// Collects the curves of all trainings: from their logs, or from the run's while they are under
/// way.
pub(super) fn curves(
    stages: &Stages,
    nodes: &[PageNode],
    tables: &Tables,
    course: Option<&RunCourse>,
) -> Vec<CurvePanel> {
    let of_course = course.into_iter().flat_map(|course| &course.nodes);
    let live: HashMap<&str, &[(u64, f64)]> =
        of_course.map(|node| (node.node.as_str(), node.steps.as_slice())).collect();
    let curve = |id: NodeId| {
        let node = &nodes[id.index()];
        if let Some(steps) = tables.steps_of(id) {
            let (loss, evaluated) = (thinned(&steps.loss), thinned(&steps.evaluated));
            return Some(Curve { node: id.0, loss, evaluated, is_live: false });
        }
        let steps = live.get(node.name.as_str()).filter(|steps| !steps.is_empty())?;
        let loss: Vec<(f64, f64)> =
            steps.iter().map(|(step, loss)| (*step as f64, *loss)).collect();
        let is_live = node.key.is_none();
        Some(Curve { node: id.0, loss: thinned(&loss), evaluated: Vec::new(), is_live })
    };
    let panel = |(stage, ids): (usize, &Vec<NodeId>)| {
        let curves: Vec<Curve> = ids.iter().filter_map(|id| curve(*id)).collect();
        let left_out = ids.len() - curves.len();
        (!curves.is_empty()).then_some(CurvePanel { stage, curves, left_out })
    };
    stages.nodes.iter().enumerate().filter_map(panel).collect()
}

/// The means of neighbouring points, so that no more than [`POINTS`] remain.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let width = points.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / n, y / n)
    };
    points.chunks(width).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_becomes_means_of_neighbours() {
        let points: Vec<(f64, f64)> = (0..321).map(|i| (f64::from(i), f64::from(2 * i))).collect();
        let thin = thinned(&points);
        assert_eq!(thin.len(), 107);
        assert_eq!((thin[0], thin[106]), ((1.0, 2.0), (319.0, 638.0)));
        assert_eq!(thinned(&points[..160]), points[..160]);
    }
}
