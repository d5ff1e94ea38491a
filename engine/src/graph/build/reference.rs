//! Resolves references to nodes: an output of a stage at the same point, or of all its nodes gathered.

use std::borrow::Cow;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Map;

use crate::graph::{Edge, Node, NodeId, Work};
use crate::kind::{
    ArtifactKind, MAIN, MetricContext, OutputDecl, Reference, written_as_placeholder,
};
use crate::language::diagnostic::{Diagnostic, suggest};
use crate::language::interpolate::{AxisSet, Point};
use crate::language::scalar::label_text;

use super::by_axes::advance;
use super::rounds::Named;
use super::{Builder, Decl};

/// Why there is no node for a reference.
pub(super) enum Unresolved {
    /// This declaration must be evaluated at this point first.
    Missing(Decl, Rc<Point>),
    /// It failed, and its problem is reported.
    Failed,
}

/// A gather node, or the members that were found for it so far.
pub(super) enum GatherProgress {
    Done(NodeId),
    Members {
        /// The next point to look at.
        point: Vec<u32>,
        members: Vec<NodeId>,
        seen: HashSet<NodeId>,
    },
}

impl Builder<'_> {
    /// Makes the edge of a reference, and returns the axes that the node it reads depends on.
    pub(super) fn reference(
        &mut self,
        reference: &Reference,
        point: &Point,
        over_rounds: bool,
    ) -> Result<(Edge, AxisSet), Unresolved> {
        let written = reference.name.as_str();
        let gather = written.contains("[*]");
        let plain: Cow<'_, str> =
            if gather { written.replacen("[*]", "", 1).into() } else { written.into() };
        let named = match self.named(reference, &plain, point, over_rounds) {
            Ok(named) => named,
            Err(name) => {
                let hint = written_as_placeholder(written)
                    .unwrap_or_else(|| self.hint(name, reference.scope, reference.kind));
                let message = format!("there is no stage or source `{name}`");
                self.problems.push(Diagnostic::at(reference.span.clone(), message).hint(hint));
                return Err(Unresolved::Failed);
            }
        };
        if gather && !self.check_gathered(reference, &named) {
            return Err(Unresolved::Failed);
        }

        let Named { decl, output, point: there, axes, hidden } = named;
        let output = output.as_deref().unwrap_or(MAIN);
        let id = match gather {
            true => self.gather(decl, output, reference)?,
            false => self.node_at(decl, there.as_deref().unwrap_or(point))?,
        };
        let output = if gather { MAIN } else { output };
        self.check_output(id, output, reference)?;
        self.check_metric(id, reference)?;
        let edge = Edge { path: reference.path.clone(), node: id, output: output.to_string() };
        Ok((edge, self.axes[id.index()] & !hidden | axes))
    }

    fn check_output(
        &mut self,
        id: NodeId,
        output: &str,
        reference: &Reference,
    ) -> Result<(), Unresolved> {
        let node = &self.nodes[id.index()];
        let problem = match (node.output_kind(output), reference.kind) {
            (None, _) => {
                let known = node.outputs.iter().map(|o| o.name.as_str());
                let message = format!("`{}` has no output `{output}`", node.stage);
                Diagnostic::at(reference.span.clone(), message).maybe_hint(suggest(
                    output,
                    known,
                    "its outputs are",
                ))
            }
            (Some(found), Some(wanted)) if found != wanted => {
                let (path, stage) = (&reference.path, &node.stage);
                let (wanted, found) = (with_article(wanted), with_article(found));
                let message = format!("`{path}` must be {wanted}, but `{stage}` is {found}");
                let hint = self.hint("", reference.scope, reference.kind);
                Diagnostic::at(reference.span.clone(), message).hint(hint)
            }
            _ => return Ok(()),
        };
        self.problems.push(problem);
        Err(Unresolved::Failed)
    }

    /// Checks that a node writes the metric that is read of it.
    fn check_metric(&mut self, id: NodeId, reference: &Reference) -> Result<(), Unresolved> {
        let Node { work: Work::Stage { kind, params }, inputs, stage, .. } =
            &self.nodes[id.index()]
        else {
            return Ok(());
        };
        let Some(metric) = &reference.metric else { return Ok(()) };
        let inputs: Vec<String> = inputs.iter().map(|edge| edge.path.clone()).collect();
        let params = params.to_map();
        let context = MetricContext { params: &params, inputs: &inputs };
        let names = kind.metric_names(context);
        if names.contains(metric) || kind.has_free_metrics(context) {
            return Ok(());
        }
        let message = format!("stage `{stage}` has no metric `{metric}`");
        let hint = suggest(metric, names.iter().map(String::as_str), "its metrics are");
        self.problems.push(Diagnostic::at(reference.span.clone(), message).maybe_hint(hint));
        Err(Unresolved::Failed)
    }

    /// Returns the node that gathers an output of all nodes of a stage.
    ///
    /// A member that is missing is evaluated by the caller, who then asks again: the search goes on where it was.
    fn gather(
        &mut self,
        decl: Decl,
        output: &str,
        reference: &Reference,
    ) -> Result<NodeId, Unresolved> {
        let key = (decl, output.to_string());
        let (mut point, mut members, mut seen) = match self.gathers.remove(&key) {
            Some(GatherProgress::Done(id)) => {
                self.gathers.insert(key, GatherProgress::Done(id));
                return Ok(id);
            }
            Some(GatherProgress::Members { point, members, seen }) => (point, members, seen),
            None => (vec![0; self.sizes.len()], Vec::new(), HashSet::new()),
        };
        loop {
            match self.node_at(decl, &point) {
                _ if !self.has_round(decl, &point) => {}
                Ok(id) if seen.insert(id) => members.push(id),
                Ok(_) => {}
                Err(unresolved) => {
                    self.gathers.insert(key, GatherProgress::Members { point, members, seen });
                    return Err(unresolved);
                }
            }
            if !advance(&mut point, &self.sizes) {
                break;
            }
        }

        for member in &members {
            let wanted = Reference { kind: Some(ArtifactKind::Table), ..reference.clone() };
            self.check_output(*member, output, &wanted)?;
        }
        let node = self.gather_node(decl, output, reference, &members);
        let id = self.push(node, 0, &Map::new(), &|_| None);
        self.gathers.insert(key, GatherProgress::Done(id));
        Ok(id)
    }

    fn gather_node(
        &self,
        decl: Decl,
        output: &str,
        reference: &Reference,
        members: &[NodeId],
    ) -> Node {
        let point = |member: &NodeId| &self.nodes[member.index()].point;
        let used: HashSet<&str> =
            members.iter().flat_map(point).map(|(axis, _)| axis.as_str()).collect();
        let axes = self.workflow.axes.iter().map(|axis| &axis.name);
        let axes: Vec<String> = axes.filter(|name| used.contains(name.as_str())).cloned().collect();
        let label = |member: &NodeId, axis: &String| {
            let label =
                point(member).iter().find(|(name, _)| name == axis).map(|(_, l)| l.as_str());
            label_text(label.unwrap_or_default())
        };
        let rows = members.iter().map(|m| axes.iter().map(|a| label(m, a)).collect()).collect();
        let inputs = members.iter().enumerate().map(|(i, member)| Edge {
            path: format!("tables[{i}]"),
            node: *member,
            output: output.to_string(),
        });

        let suffix = if output == MAIN { String::new() } else { format!(".{output}") };
        let name = format!("{}{suffix}[*]", self.declared[decl].name);
        Node {
            name: name.clone(),
            stage: name,
            point: Vec::new(),
            work: Work::Gather { axes, rows },
            inputs: inputs.collect(),
            outputs: [OutputDecl { name: MAIN.into(), kind: ArtifactKind::Table }].into(),
            settings: Arc::default(),
            span: reference.span.clone(),
        }
    }
}

fn with_article(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Table => "a table",
        ArtifactKind::Model => "a model",
        ArtifactKind::File => "a file",
        ArtifactKind::Folder => "a folder",
    }
}
