//! Resolves a workflow into its graph: one node for a stage and each point that it depends on.
//!
//! A node is evaluated with a record of the axes that were read. Two points that agree on those axes read the
//! same values, so they share the node: a stage above the sweep exists once, whatever the sweep's size.

mod by_axes;
mod hint;
mod over;
mod reference;
mod rounds;
mod source_work;
mod template;
mod unread;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::{Map, Value};

use crate::graph::params::Params;
use crate::kind::{ArtifactKind, Kind, MAIN, OutputDecl};
use crate::language::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::language::interpolate::{AxisSet, MAX_AXES, Names, Point};
use crate::language::workflow::{Settings, Stage, Workflow};
use crate::source;
use crate::source::fetched::FindFetched;
use crate::source::recorded::{FindRecorded, RecordedSource};

use super::{Edge, FetchedSource, Graph, Node, NodeId, Work, columns, model_source};
use by_axes::{ByAxes, advance};
use over::Wanted;
use reference::{GatherProgress, Unresolved};
use source_work::FoundSource;
use template::{Defaults, Template, Values};

/// The largest number of points of a sweep.
pub(crate) const MAX_POINTS: usize = 1_000_000;

/// The largest number of nodes of a graph.
pub(crate) const MAX_NODES: usize = 1_000_000;

/// The hint at a sweep that is too large.
const SMALLER: &str =
    "axes are multiplied: sweep fewer values, or name the points that are wanted as a list of maps";

pub(super) fn graph(
    workflow: Workflow,
    recorded: FindRecorded<'_>,
    find: &dyn FindFetched,
) -> Result<Graph, Diagnostics> {
    let mut builder = Builder::new(&workflow, recorded, find);
    builder.all_points();
    let mut unread = builder.unread();
    let Builder { nodes, columns, mut problems, absent, fetched, .. } = builder;
    if problems.is_empty() {
        problems = columns.problems;
    }
    if problems.is_empty() {
        problems.extend(unread.extract_if(.., |unread| unread.set).map(|unread| unread.diagnostic));
    }
    if !problems.is_empty() {
        return Err(Diagnostics::new(workflow.source, problems));
    }

    let edges = edges(&nodes);
    let unread = unread.into_iter().map(|unread| unread.diagnostic).collect();
    Ok(Graph { workflow, nodes, edges, unread, absent, fetched })
}

/// Makes one edge between two nodes, however many inputs of the one are outputs of the other.
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

/// One declaration and its evaluations so far.
struct Declared<'a> {
    name: &'a str,
    template: Template<'a>,
    /// Its nodes.
    nodes: ByAxes<NodeId>,
    /// The rounds at which it is on the stack of evaluations; a reference to it at one of them is a
    /// cycle.
    under_way: Vec<u32>,
    /// Whether it failed; its problems are reported once.
    failed: bool,
    /// The kind of a stage's main output, for hints.
    main_output: OnceCell<Option<ArtifactKind>>,
}

/// The state of the evaluation.
struct Builder<'a> {
    workflow: &'a Workflow,
    values: Names<'a>,
    /// The number of values of each axis.
    sizes: Vec<u32>,
    /// For each stage what its nodes share.
    shared: Vec<Shared>,
    names: HashMap<&'a str, Decl>,
    /// The names in order, for hints.
    sorted: OnceCell<Vec<(&'a str, Decl)>>,
    declared: Vec<Declared<'a>>,
    defaults: Defaults,
    gathers: HashMap<(Decl, String), GatherProgress>,
    nodes: Vec<Node>,
    columns: columns::Checked,
    axes: Vec<AxisSet>,
    problems: Vec<Diagnostic>,
    recorded: FindRecorded<'a>,
    absent: HashMap<NodeId, RecordedSource>,
    find: &'a dyn FindFetched,
    fetched: HashMap<NodeId, FetchedSource>,
}

/// The values that the nodes of a stage hold in common: there may be hundreds of thousands of them.
struct Shared {
    kind: Arc<Kind>,
    settings: Arc<Settings>,
    /// The outputs of the last node, which are nearly always those of the next.
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

/// One declaration under evaluation at a point, its references not yet all resolved.
struct Frame {
    decl: Decl,
    point: Rc<Point>,
    values: Values,
    axes: AxisSet,
    /// The axis that it chooses over, on which it does not depend.
    hidden: AxisSet,
    references: Vec<Wanted>,
    next: usize,
    edges: Vec<Edge>,
}

impl Frame {
    /// Whether it chooses among rounds.
    fn is_over_rounds(&self, workflow: &Workflow) -> bool {
        workflow.rounds.is_some_and(|axis| self.hidden == 1 << axis)
    }
}

impl<'a> Builder<'a> {
    fn new(
        workflow: &'a Workflow,
        recorded: FindRecorded<'a>,
        find: &'a dyn FindFetched,
    ) -> Builder<'a> {
        let declared = |name: &'a str, template| Declared {
            name,
            template,
            nodes: ByAxes::default(),
            under_way: Vec::new(),
            failed: false,
            main_output: OnceCell::new(),
        };
        let sources = workflow.sources.iter().map(|s| {
            let (table, owner) = match s.model {
                true => (source::MODEL_PARAMS, format!("model `{}`", s.name.text)),
                false => (source::PARAMS, format!("source `{}`", s.name.text)),
            };
            declared(&s.name.text, Template::new(table, &s.node, owner))
        });
        let stages = workflow.stages.iter().map(|stage| {
            let owner = format!("`{}`", stage.kind.name);
            declared(&stage.name.text, Template::new(stage.kind.params, &stage.params, owner))
        });
        Builder {
            workflow,
            values: Names::new(workflow),
            sizes: workflow.axes.iter().map(|axis| axis.values.len() as u32).collect(),
            shared: workflow.stages.iter().map(Shared::new).collect(),
            names: workflow.artifact_names().enumerate().map(|(i, name)| (name, i)).collect(),
            sorted: OnceCell::new(),
            declared: sources.chain(stages).collect(),
            defaults: Defaults::default(),
            gathers: HashMap::new(),
            nodes: Vec::new(),
            columns: columns::Checked::default(),
            axes: Vec::new(),
            problems: Vec::new(),
            recorded,
            absent: HashMap::new(),
            find,
            fetched: HashMap::new(),
        }
    }

    fn all_points(&mut self) {
        let points = self.sizes.iter().try_fold(1usize, |n, s| n.checked_mul(*s as usize));
        if self.sizes.len() > MAX_AXES || points.is_none_or(|n| n > MAX_POINTS) {
            let message = format!("the sweep has more than {MAX_AXES} axes or {MAX_POINTS} points");
            return self.problems.push(Diagnostic::general(message).hint(SMALLER));
        }

        let sources = self.workflow.sources.len();
        let mut point = vec![0u32; self.sizes.len()];
        loop {
            // Sources that nothing reads are left out, so that they need not be there.
            for decl in sources..self.declared.len() {
                if self.has_round(decl, &point) {
                    self.evaluate(decl, &point);
                }
            }
            if self.nodes.len() > MAX_NODES {
                let message = format!("the workflow has more than {MAX_NODES} nodes");
                return self.problems.push(Diagnostic::general(message).hint(SMALLER));
            }
            if !advance(&mut point, &self.sizes) {
                break;
            }
        }
    }

    /// Returns the node of a declaration at a point.
    fn node_at(&self, decl: Decl, point: &Point) -> Result<NodeId, Unresolved> {
        let declared = &self.declared[decl];
        if declared.failed {
            return Err(Unresolved::Failed);
        }
        declared.nodes.get(point).copied().ok_or_else(|| Unresolved::Missing(decl, point.into()))
    }

    /// Evaluates a declaration at a point and everything that it refers to, without recursion: a workflow may be
    /// a chain of many thousand stages, and each may gather the one before at all points.
    fn evaluate(&mut self, decl: Decl, point: &Point) {
        let Err(Unresolved::Missing(decl, point)) = self.node_at(decl, point) else { return };
        let mut stack = vec![self.open(decl, point)];
        while let Some(frame) = stack.last_mut() {
            let Some(Wanted { reference, point, value }) = frame.references.get(frame.next) else {
                let frame = stack.pop().expect("the stack was not empty");
                self.close(frame);
                continue;
            };
            match self.reference(reference, point, frame.is_over_rounds(self.workflow)) {
                Ok((mut edge, axes)) => {
                    if let Some(value) = value {
                        edge.path = format!("{}[{value}]", edge.path);
                    }
                    frame.edges.push(edge);
                    frame.axes |= axes & !frame.hidden;
                    frame.next += 1;
                }
                Err(Unresolved::Missing(missing, ref point))
                    if self.declared[missing].under_way.contains(&self.round(point)) =>
                {
                    let span = reference.span.clone();
                    frame.next += 1;
                    let cycle: Vec<Decl> =
                        stack.iter().map(|f| f.decl).skip_while(|d| *d != missing).collect();
                    self.cycle(&cycle, &span);
                }
                Err(Unresolved::Missing(missing, point)) => {
                    let frame = self.open(missing, point);
                    stack.push(frame);
                }
                Err(Unresolved::Failed) => {
                    self.declared[frame.decl].failed = true;
                    frame.next += 1;
                }
            }
        }
    }

    fn cycle(&mut self, decls: &[Decl], span: &Span) {
        let mut names: Vec<&str> = decls.iter().map(|d| self.declared[*d].name).collect();
        names.extend(names.first().copied());
        let message = format!("the stages form a cycle: {}", names.join(" -> "));
        self.problems
            .push(Diagnostic::at(span.clone(), message).hint("remove one of these references"));
        for decl in decls {
            self.declared[*decl].failed = true;
        }
    }

    /// Begins an evaluation: substitutes the point's values and checks them against the table.
    fn open(&mut self, decl: Decl, point: Rc<Point>) -> Frame {
        let round = self.round(&point);
        let declared = &mut self.declared[decl];
        declared.under_way.push(round);
        let before = self.problems.len();
        let mut values =
            declared.template.at(&self.values, &point, &mut self.defaults, &mut self.problems);
        if self.problems.len() > before {
            declared.failed = true;
            self.hint_at_path(decl, before);
        }
        let (mut references, hidden) = self.wanted(decl, &point, &mut values);
        let base = self.only_base(decl, &values);
        references.extend(base.map(|reference| Wanted {
            reference,
            point: point.clone(),
            value: None,
        }));
        let (axes, edges) = (values.axes, Vec::with_capacity(references.len()));
        Frame { decl, point, values, axes, hidden, references, next: 0, edges }
    }

    /// Ends an evaluation: makes the node.
    fn close(&mut self, mut frame: Frame) {
        let declared = &mut self.declared[frame.decl];
        declared.under_way.pop();
        if declared.failed {
            return;
        }
        let stage = declared.name.to_string();
        let point = self.labels(frame.axes, &frame.point);
        let name = node_name(&stage, &point);
        let mut values = frame.values.to_map();
        let Some((found, made)) = self.make(&mut frame, &name, &mut values) else {
            self.declared[frame.decl].failed = true;
            return;
        };

        let id = NodeId(self.nodes.len() as u32);
        self.absent.extend(found.absent.map(|recorded| (id, recorded)));
        self.fetched.extend(found.fetched.map(|source| (id, source)));
        let Made { work, outputs, settings, span } = made;
        let inputs = frame.edges;
        let node = Node { name, stage, point, work, inputs, outputs, settings, span };
        let id = self.push(node, frame.axes, &values, &|path| frame.values.place(path));
        self.declared[frame.decl].nodes.insert(frame.axes, &frame.point, id);
    }

    /// Makes the work of a node from its values; `None` where it has a problem.
    fn make(
        &mut self,
        frame: &mut Frame,
        name: &str,
        values: &mut Map<String, Value>,
    ) -> Option<(FoundSource, Made)> {
        let sources = &self.workflow.sources;
        if let Some(source) = sources.get(frame.decl) {
            let (found, work, kind) = self
                .source_work(source, name, values, &frame.edges, &frame.values)
                .map_err(|problem| self.problems.push(problem))
                .ok()?;
            let outputs = [OutputDecl { name: MAIN.into(), kind }].into();
            let span = source.name.span.clone();
            return Some((found, Made { work, outputs, settings: Arc::default(), span }));
        }

        if !self.check_choice(frame) {
            return None;
        }
        let index = frame.decl - self.workflow.sources.len();
        let stage = &self.workflow.stages[index];
        if let Some(canonicalize) = stage.kind.canonicalize {
            canonicalize(values, &|path| {
                Some(self.model_facts(model_source(&self.nodes, &frame.edges, path)?))
            });
        }
        let outputs = match stage.kind.over {
            None => (stage.kind.outputs)(values),
            // The output is of the kind of the artifacts that it chooses from.
            Some(_) => (stage.kind.outputs)(&frame.values.with_references()),
        };
        let shared = &mut self.shared[index];
        let outputs = shared.outputs(outputs);
        let params: Params = frame.values.shared(values);
        let work = Work::Stage { kind: shared.kind.clone(), params };
        let (settings, span) = (shared.settings.clone(), stage.name.span.clone());
        Some((FoundSource::default(), Made { work, outputs, settings, span }))
    }

    fn push(
        &mut self,
        node: Node,
        axes: AxisSet,
        params: &Map<String, Value>,
        place: &dyn Fn(&str) -> Option<Span>,
    ) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        // Beside other problems columns are not reported: their problems may follow from those.
        if self.problems.is_empty() {
            let kinds = &self.workflow.kinds;
            let recorded = self.absent.get(&id);
            self.columns.node(&node, params, place, &self.nodes, kinds, recorded);
        } else {
            self.columns.skip();
        }
        self.nodes.push(node);
        self.axes.push(axes);
        id
    }

    fn labels(&self, axes: AxisSet, point: &Point) -> Vec<(String, String)> {
        let chosen = self.workflow.axes.iter().enumerate().filter(|(i, _)| axes & (1 << i) != 0);
        chosen
            .map(|(i, axis)| (axis.name.clone(), axis.values[point[i] as usize].0.clone()))
            .collect()
    }
}

/// The parts of a node that its declaration decides.
struct Made {
    work: Work,
    outputs: Arc<[OutputDecl]>,
    settings: Arc<Settings>,
    span: Span,
}

/// Formats a node's name: `masked[threshold=2.5]`.
pub fn node_name(stage: &str, point: &[(String, String)]) -> String {
    if point.is_empty() {
        return stage.to_string();
    }
    let labels: Vec<String> = point.iter().map(|(axis, label)| format!("{axis}={label}")).collect();
    format!("{stage}[{}]", labels.join(","))
}
