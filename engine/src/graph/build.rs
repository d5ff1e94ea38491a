//! Resolves a workflow into its graph: one node for a stage and each point that it depends on.
//!
//! A node is evaluated with a record of the axes that were read. Two points that agree on those axes read the
//! same values, so they share the node: a stage above the sweep exists once, whatever the sweep's size.

mod hint;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::{Map, Value};

use crate::kind::{ArtifactKind, Kind, MAIN, ModelFacts, OutputDecl, Reference, Resolved, coerce};
use crate::language::diagnostic::{Diagnostic, Diagnostics, Span, suggest};
use crate::language::interpolate::{AxisSet, MAX_AXES, Scope};
use crate::language::workflow::{Settings, Stage, Workflow};
use crate::source::recorded::{FindRecorded, RecordedSource};
use crate::source::{self, Located, SourceSpec};

use super::{Edge, Graph, Node, NodeId, Work, columns};

/// Most points of a sweep.
const MAX_POINTS: usize = 1_000_000;
/// Most nodes of a graph.
const MAX_NODES: usize = 1_000_000;

/// What to do about a sweep that is too large.
const SMALLER: &str =
    "axes are multiplied: sweep fewer values, or name the points that are wanted as a list of maps";

pub(super) fn graph(workflow: Workflow, recorded: FindRecorded<'_>) -> Result<Graph, Diagnostics> {
    let mut builder = Builder::new(&workflow, recorded);
    builder.all_points();
    let Builder { nodes, columns, mut problems, absent, .. } = builder;
    if problems.is_empty() {
        problems = columns.problems;
    }
    if !problems.is_empty() {
        return Err(Diagnostics::new(workflow.source, problems));
    }
    let edges = edges(&nodes);
    Ok(Graph { workflow, nodes, edges, absent })
}

/// One edge between two nodes, however many inputs of the one are outputs of the other.
fn edges(nodes: &[Node]) -> DiGraph<NodeId, ()> {
    let mut edges = DiGraph::with_capacity(nodes.len(), nodes.len());
    // For each node the last one that was linked to it. To search its edges would take a time that grows with the
    // square of the nodes that read one source.
    let mut linked = vec![usize::MAX; nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        let here = edges.add_node(NodeId(i as u32));
        for edge in &node.inputs {
            let from = edge.node.index();
            if std::mem::replace(&mut linked[from], i) != i {
                edges.add_edge(NodeIndex::new(from), here, ());
            }
        }
    }
    edges
}

/// A stage or source of the workflow, by its place in one list of both.
type Decl = usize;

/// What is known of one declaration.
#[derive(Default)]
struct Known {
    /// The sets of axes that evaluations depended on, with the nodes by the chosen values of those axes.
    by_axes: Vec<(AxisSet, HashMap<Vec<u32>, NodeId>)>,
    /// The node of the point that is being evaluated; stands in for a cycle.
    under_way: bool,
    /// Whether it failed; its problems are reported once.
    failed: bool,
}

struct Builder<'a> {
    workflow: &'a Workflow,
    /// Of each stage what its nodes share.
    shared: Vec<Shared>,
    names: HashMap<&'a str, Decl>,
    known: Vec<Known>,
    gathers: HashMap<(Decl, String), NodeId>,
    nodes: Vec<Node>,
    columns: columns::Checked,
    axes: Vec<AxisSet>,
    problems: Vec<Diagnostic>,
    recorded: FindRecorded<'a>,
    absent: HashMap<NodeId, RecordedSource>,
}

/// What the nodes of a stage hold in common: there may be hundreds of thousands of them.
struct Shared {
    kind: Arc<Kind>,
    settings: Arc<Settings>,
    /// Those of the last node, which are nearly always those of the next.
    outputs: Arc<[OutputDecl]>,
}

impl Shared {
    fn new(stage: &Stage) -> Shared {
        let settings = Arc::new(stage.settings.clone());
        Shared { kind: Arc::new(stage.kind), settings, outputs: Arc::default() }
    }

    fn outputs(&mut self, outputs: Vec<OutputDecl>) -> Arc<[OutputDecl]> {
        if *self.outputs != *outputs {
            self.outputs = outputs.into();
        }
        self.outputs.clone()
    }
}

/// One declaration under evaluation, its references not yet all resolved.
struct Frame {
    decl: Decl,
    resolved: Resolved,
    axes: AxisSet,
    next: usize,
    edges: Vec<Edge>,
}

enum Found {
    Node(NodeId),
    /// It must be evaluated first.
    Missing,
    Failed,
}

impl<'a> Builder<'a> {
    fn new(workflow: &'a Workflow, recorded: FindRecorded<'a>) -> Builder<'a> {
        let names: HashMap<&str, Decl> =
            workflow.artifact_names().enumerate().map(|(i, n)| (n, i)).collect();
        let known =
            (0..workflow.sources.len() + workflow.stages.len()).map(|_| Known::default()).collect();
        Builder {
            workflow,
            shared: workflow.stages.iter().map(Shared::new).collect(),
            names,
            known,
            gathers: HashMap::new(),
            nodes: Vec::new(),
            columns: columns::Checked::default(),
            axes: Vec::new(),
            problems: Vec::new(),
            recorded,
            absent: HashMap::new(),
        }
    }

    fn all_points(&mut self) {
        let sizes: Vec<u32> = self.workflow.axes.iter().map(|a| a.values.len() as u32).collect();
        let points = sizes.iter().try_fold(1usize, |n, s| n.checked_mul(*s as usize));
        if sizes.len() > MAX_AXES || points.is_none_or(|n| n > MAX_POINTS) {
            let message = format!("the sweep has more than {MAX_AXES} axes or {MAX_POINTS} points");
            return self.problems.push(Diagnostic::general(message).hint(SMALLER));
        }
        let mut point = vec![0u32; sizes.len()];
        loop {
            // Sources that nothing reads are left out, so that they need not be there.
            for stage in 0..self.workflow.stages.len() {
                self.evaluate(self.workflow.sources.len() + stage, &point);
            }
            if self.nodes.len() > MAX_NODES {
                let message = format!("the workflow has more than {MAX_NODES} nodes");
                return self.problems.push(Diagnostic::general(message).hint(SMALLER));
            }
            let Some(axis) = (0..sizes.len()).rev().find(|a| point[*a] + 1 < sizes[*a]) else {
                break;
            };
            point[axis] += 1;
            point[axis + 1..].fill(0);
        }
    }

    fn found(&self, decl: Decl, point: &[u32]) -> Found {
        let known = &self.known[decl];
        if known.failed {
            return Found::Failed;
        }
        let hit = known.by_axes.iter().find_map(|(axes, nodes)| nodes.get(&project(*axes, point)));
        hit.map_or(Found::Missing, |id| Found::Node(*id))
    }

    /// Evaluates a declaration at a point and whatever it refers to, without recursion: a workflow may be
    /// a chain of many thousand stages.
    fn evaluate(&mut self, decl: Decl, point: &[u32]) {
        if !matches!(self.found(decl, point), Found::Missing) {
            return;
        }
        let mut stack = vec![self.open(decl, point)];
        while let Some(frame) = stack.last_mut() {
            let Some(reference) = frame.resolved.references.get(frame.next) else {
                let frame = stack.pop().expect("the stack was not empty");
                self.close(frame, point);
                continue;
            };
            match self.reference(reference, point) {
                Ok((edge, axes)) => {
                    frame.edges.push(edge);
                    frame.axes |= axes;
                    frame.next += 1;
                }
                Err(Some(missing)) if self.known[missing].under_way => {
                    let span = reference.span.clone();
                    let cycle: Vec<Decl> =
                        stack.iter().map(|f| f.decl).skip_while(|d| *d != missing).collect();
                    self.cycle(&cycle, &span);
                    stack.last_mut().expect("the stack was not empty").next += 1;
                }
                Err(Some(missing)) => {
                    let frame = self.open(missing, point);
                    stack.push(frame);
                }
                Err(None) => {
                    self.known[frame.decl].failed = true;
                    frame.next += 1;
                }
            }
        }
    }

    fn cycle(&mut self, decls: &[Decl], span: &Span) {
        let mut names: Vec<&str> = decls.iter().map(|d| self.decl_name(*d)).collect();
        names.extend(names.first().copied());
        self.problems.push(
            Diagnostic::at(
                span.clone(),
                format!("these stages refer to each other in a circle: {}", names.join(" -> ")),
            )
            .hint("each stage reads what it is made from, so that something must come first"),
        );
        for decl in decls {
            self.known[*decl].failed = true;
        }
    }

    fn decl_name(&self, decl: Decl) -> &'a str {
        let sources = &self.workflow.sources;
        match sources.get(decl) {
            Some(source) => &source.name.text,
            None => &self.workflow.stages[decl - sources.len()].name.text,
        }
    }

    /// Begins the evaluation: puts in the point's values and checks them against the table.
    fn open(&mut self, decl: Decl, point: &[u32]) -> Frame {
        self.known[decl].under_way = true;
        let sources = &self.workflow.sources;
        let (params, table, owner) = match sources.get(decl) {
            Some(s) if s.model => {
                (&s.node, source::MODEL_PARAMS, format!("model `{}`", s.name.text))
            }
            Some(s) => (&s.node, source::PARAMS, format!("source `{}`", s.name.text)),
            None => {
                let stage = &self.workflow.stages[decl - sources.len()];
                (&stage.params, stage.kind.params, format!("`{}`", stage.kind.name))
            }
        };
        let mut axes = 0;
        let before = self.problems.len();
        let resolved = match Scope::new(self.workflow, point).resolve(params, &mut axes) {
            Ok(node) => coerce(table, &node, &owner, &mut self.problems),
            Err(problem) => {
                self.problems.push(problem);
                Resolved::default()
            }
        };
        if self.problems.len() > before {
            self.known[decl].failed = true;
        }
        let edges = Vec::with_capacity(resolved.references.len());
        Frame { decl, resolved, axes, next: 0, edges }
    }

    /// The edge of a reference; `Err(Some)` names a declaration that must be evaluated first.
    fn reference(
        &mut self,
        reference: &Reference,
        point: &[u32],
    ) -> Result<(Edge, AxisSet), Option<Decl>> {
        let written = reference.name.as_str();
        let gather = written.contains("[*]");
        let plain: Cow<'_, str> =
            if gather { written.replacen("[*]", "", 1).into() } else { written.into() };
        let (name, output) = match self.names.contains_key(&*plain) {
            true => (&*plain, MAIN),
            false => plain.split_once('.').unwrap_or((&*plain, MAIN)),
        };
        let Some(&decl) = self.names.get(name) else {
            let hint = self.hint(name, reference.kind);
            let message = format!("there is no stage or source `{name}`");
            self.problems.push(Diagnostic::at(reference.span.clone(), message).hint(hint));
            return Err(None);
        };
        let id = if gather {
            self.gather(decl, output, reference)?
        } else {
            match self.found(decl, point) {
                Found::Node(id) => id,
                Found::Missing => return Err(Some(decl)),
                Found::Failed => return Err(None),
            }
        };
        let output = if gather { MAIN } else { output };
        self.check_output(id, output, reference)?;
        let edge = Edge { path: reference.path.clone(), node: id, output: output.to_string() };
        Ok((edge, self.axes[id.index()]))
    }

    fn check_output(
        &mut self,
        id: NodeId,
        output: &str,
        reference: &Reference,
    ) -> Result<(), Option<Decl>> {
        let node = &self.nodes[id.index()];
        let problem = match (node.output_kind(output), reference.kind) {
            (None, _) => {
                let known = node.outputs.iter().map(|o| o.name.as_str());
                Diagnostic::at(
                    reference.span.clone(),
                    format!("`{}` has no output `{output}`", node.stage),
                )
                .maybe_hint(suggest(output, known, "its outputs are"))
            }
            (Some(found), Some(wanted)) if found != wanted => Diagnostic::at(
                reference.span.clone(),
                format!(
                    "`{}` must be {}, but `{}` is {}",
                    reference.path,
                    a(wanted),
                    node.stage,
                    a(found)
                ),
            )
            .hint(self.hint("", reference.kind)),
            _ => return Ok(()),
        };
        self.problems.push(problem);
        Err(None)
    }

    /// The node that gathers an output of all nodes of a stage.
    fn gather(
        &mut self,
        decl: Decl,
        output: &str,
        reference: &Reference,
    ) -> Result<NodeId, Option<Decl>> {
        if let Some(id) = self.gathers.get(&(decl, output.to_string())) {
            return Ok(*id);
        }
        let sizes: Vec<u32> = self.workflow.axes.iter().map(|a| a.values.len() as u32).collect();
        let mut members: Vec<NodeId> = Vec::new();
        let mut seen: HashSet<NodeId> = HashSet::new();
        let mut point = vec![0u32; sizes.len()];
        loop {
            match self.found(decl, &point) {
                Found::Node(id) => {
                    if seen.insert(id) {
                        members.push(id);
                    }
                }
                // Evaluated on a stack of its own: the caller's point is not this one.
                Found::Missing if self.known[decl].under_way => return Err(Some(decl)),
                Found::Missing => {
                    self.evaluate(decl, &point);
                    continue;
                }
                Found::Failed => return Err(None),
            }
            let Some(axis) = (0..sizes.len()).rev().find(|a| point[*a] + 1 < sizes[*a]) else {
                break;
            };
            point[axis] += 1;
            point[axis + 1..].fill(0);
        }
        let mut axes: Vec<String> = Vec::new();
        for axis in &self.workflow.axes {
            if members
                .iter()
                .any(|m| self.nodes[m.index()].point.iter().any(|(n, _)| *n == axis.name))
            {
                axes.push(axis.name.clone());
            }
        }
        let label = |id: &NodeId, axis: &String| {
            let point = &self.nodes[id.index()].point;
            point.iter().find(|(n, _)| n == axis).map(|(_, l)| l.clone()).unwrap_or_default()
        };
        let rows = members.iter().map(|m| axes.iter().map(|a| label(m, a)).collect()).collect();
        for member in &members {
            let wanted = Reference { kind: Some(ArtifactKind::Table), ..reference.clone() };
            self.check_output(*member, output, &wanted)?;
        }
        let suffix = if output == MAIN { String::new() } else { format!(".{output}") };
        let stage = self.decl_name(decl).to_string();
        let edges = members
            .iter()
            .enumerate()
            .map(|(i, m)| Edge {
                path: format!("tables[{i}]"),
                node: *m,
                output: output.to_string(),
            })
            .collect();
        let id = self.push(
            Node {
                name: format!("{stage}{suffix}[*]"),
                stage: format!("{stage}{suffix}[*]"),
                point: Vec::new(),
                work: Work::Gather { axes, rows },
                inputs: edges,
                outputs: [OutputDecl { name: MAIN.into(), kind: ArtifactKind::Table }].into(),
                settings: Arc::default(),
                span: reference.span.clone(),
            },
            0,
            &Resolved::default(),
        );
        self.gathers.insert((decl, output.to_string()), id);
        Ok(id)
    }

    fn push(&mut self, node: Node, axes: AxisSet, resolved: &Resolved) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        // Where something else is wrong, columns are not reported: their problems may follow from it.
        let checked = self.problems.is_empty();
        let recorded = self.absent.get(&id);
        self.columns.node(&node, resolved, &self.nodes, &self.workflow.kinds, recorded, checked);
        self.nodes.push(node);
        self.axes.push(axes);
        id
    }

    /// Ends the evaluation: makes the node.
    fn close(&mut self, mut frame: Frame, point: &[u32]) {
        self.known[frame.decl].under_way = false;
        if self.known[frame.decl].failed {
            return;
        }
        let sources = &self.workflow.sources;
        let mut values = std::mem::take(&mut frame.resolved.values);
        let name = node_name(self.decl_name(frame.decl), &self.labels(frame.axes, point));
        let absent = sources.get(frame.decl).and_then(|_| self.absent(&name, &values));
        let (work, outputs, settings, span) = match sources.get(frame.decl) {
            Some(source) => {
                let span = source.name.span.clone();
                let other = frame.edges.iter().find(|edge| !self.is_model_source(edge));
                let work = match (other, &absent) {
                    (Some(edge), _) => Err(self.not_a_model(edge, &frame.resolved)),
                    (None, Some(recorded)) => {
                        absent_work(self.workflow, recorded, &values, &frame.resolved)
                    }
                    (None, None) => {
                        source_work(self.workflow, source.model, &values, &frame.resolved)
                    }
                };
                match work {
                    Ok((work, kind)) => {
                        let outputs = [OutputDecl { name: MAIN.into(), kind }].into();
                        (work, outputs, Arc::default(), span)
                    }
                    Err(problem) => {
                        self.problems.push(problem);
                        self.known[frame.decl].failed = true;
                        return;
                    }
                }
            }
            None => {
                let stage = &self.workflow.stages[frame.decl - sources.len()];
                if let Some(canonicalize) = stage.kind.canonicalize {
                    canonicalize(&mut values, &|path| {
                        Some(self.model_facts(&self.model_source(&frame.edges, path)?))
                    });
                }
                let shared = &mut self.shared[frame.decl - sources.len()];
                let outputs = shared.outputs((stage.kind.outputs)(&values));
                let work =
                    Work::Stage { kind: shared.kind.clone(), params: std::mem::take(&mut values) };
                (work, outputs, shared.settings.clone(), stage.name.span.clone())
            }
        };
        let stage = self.decl_name(frame.decl).to_string();
        let point_labels = self.labels(frame.axes, point);
        if let Some(recorded) = absent {
            self.absent.insert(NodeId(self.nodes.len() as u32), recorded);
        }
        let node = Node {
            name,
            stage,
            point: point_labels,
            work,
            inputs: frame.edges,
            outputs,
            settings,
            span,
        };
        let id = self.push(node, frame.axes, &frame.resolved);
        let known = &mut self.known[frame.decl];
        let place = match known.by_axes.iter().position(|(axes, _)| *axes == frame.axes) {
            Some(place) => place,
            None => {
                known.by_axes.push((frame.axes, HashMap::new()));
                known.by_axes.len() - 1
            }
        };
        known.by_axes[place].1.insert(project(frame.axes, point), id);
    }

    fn is_model_source(&self, edge: &Edge) -> bool {
        matches!(self.nodes[edge.node.index()].work, Work::Model(_))
    }

    /// The problem of a model whose base is made by a stage.
    fn not_a_model(&self, edge: &Edge, resolved: &Resolved) -> Diagnostic {
        let base = &self.nodes[edge.node.index()].stage;
        let span = resolved.place(&edge.path).unwrap_or(0..0);
        Diagnostic::at(
            span,
            format!("`base` must be an entry of `models`, but `{base}` is a stage"),
        )
        .hint("the adapter that a stage trains knows its base: use that stage as the model")
    }

    /// Finds the source from which the model at an input descends: itself, its base where it is an adapter, or the one at
    /// the same input of the stage that makes it, and so on.
    fn model_source(&self, edges: &[Edge], path: &str) -> Option<PathBuf> {
        let mut edge = edges.iter().find(|edge| edge.path == path)?;
        loop {
            let node = &self.nodes[edge.node.index()];
            edge = match (&node.work, node.inputs.first()) {
                (Work::Model(_), Some(base)) => base,
                (Work::Model(path), None) => return Some(path.clone()),
                (Work::Stage { .. }, _) => node.inputs.iter().find(|edge| edge.path == path)?,
                _ => return None,
            };
        }
    }

    /// The facts of the model at a path: from its files, or as they were recorded.
    fn model_facts(&self, path: &Path) -> ModelFacts {
        let is_there =
            |id: &NodeId| matches!(&self.nodes[id.index()].work, Work::Model(p) if p == path);
        match self.absent.iter().find(|(id, _)| is_there(id)) {
            Some((_, recorded)) => recorded.facts.clone(),
            None => self.workflow.kinds.model_facts(path),
        }
    }

    /// What was recorded of a source whose file or folder is absent.
    fn absent(&self, name: &str, values: &Map<String, Value>) -> Option<RecordedSource> {
        let path = values.get("path").and_then(Value::as_str)?;
        if self.workflow.source.folder().join(path).exists() {
            return None;
        }
        (self.recorded)(name)
    }

    fn labels(&self, axes: AxisSet, point: &[u32]) -> Vec<(String, String)> {
        let chosen = self.workflow.axes.iter().enumerate().filter(|(i, _)| axes & (1 << i) != 0);
        chosen
            .map(|(i, axis)| (axis.name.clone(), axis.values[point[i] as usize].0.clone()))
            .collect()
    }
}

/// The chosen values of a set of axes.
fn project(axes: AxisSet, point: &[u32]) -> Vec<u32> {
    point.iter().enumerate().filter(|(i, _)| axes & (1 << i) != 0).map(|(_, v)| *v).collect()
}

/// The name of a node: `masked[threshold=2.5]`.
pub fn node_name(stage: &str, point: &[(String, String)]) -> String {
    if point.is_empty() {
        return stage.to_string();
    }
    let labels: Vec<String> = point.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
    format!("{stage}[{}]", labels.join(","))
}

fn a(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Table => "a table",
        ArtifactKind::Model => "a model",
        ArtifactKind::File => "a file",
    }
}

/// The work of a source whose files are absent.
fn absent_work(
    workflow: &Workflow,
    recorded: &RecordedSource,
    values: &Map<String, Value>,
    resolved: &Resolved,
) -> Result<(Work, ArtifactKind), Diagnostic> {
    let kind = recorded.artifact.kind;
    let written = values.get("path").and_then(Value::as_str).unwrap_or_default();
    let path = workflow.source.folder().join(written);
    let work = match kind {
        ArtifactKind::Model => Work::Model(path),
        ArtifactKind::File => Work::File(path),
        ArtifactKind::Table => {
            let spec = SourceSpec::new(path, values).map_err(|(at, message, hint)| {
                let span = resolved.place(at).unwrap_or(0..0);
                Diagnostic::at(span, message).maybe_hint(hint)
            })?;
            Work::Source(spec)
        }
    };
    Ok((work, kind))
}

fn source_work(
    workflow: &Workflow,
    model: bool,
    values: &Map<String, Value>,
    resolved: &Resolved,
) -> Result<(Work, ArtifactKind), Diagnostic> {
    let based = resolved.references.iter().any(|reference| reference.path == "base");
    let located = source::locate(workflow.source.folder(), model, values, based);
    let located = located.map_err(|(at, message, hint)| {
        let span = resolved.place(at).or(resolved.place("path")).unwrap_or(0..0);
        Diagnostic::at(span, message).maybe_hint(hint)
    })?;
    Ok(match located {
        Located::Table(spec) => (Work::Source(spec), ArtifactKind::Table),
        Located::Model(path) => (Work::Model(path), ArtifactKind::Model),
        Located::File(path) => (Work::File(path), ArtifactKind::File),
    })
}
