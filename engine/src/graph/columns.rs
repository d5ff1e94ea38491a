//! Follows the columns of every table from the sources' headers to the last stage, before anything runs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use serde_json::{Map, Value};

use refrain_cache::contained;

use crate::kind::metrics_table;
use crate::kind::{Check, Columns, Kinds, MAIN, Problem};
use crate::language::diagnostic::{Diagnostic, Span};
use crate::source::recorded::RecordedSource;

use super::{Edge, Node, Work, gather, model_source};

/// The columns of the main tables of the nodes so far, and their problems.
#[derive(Default)]
pub(super) struct Checked {
    columns: Vec<Columns>,
    /// The problems in the order of the nodes.
    pub problems: Vec<Diagnostic>,
}

impl Checked {
    /// Adds the next node unchecked: its columns stay unknown.
    pub fn skip(&mut self) {
        self.columns.push(None);
    }

    /// Adds and checks the next node, after those that it reads; `place` finds a value in the workflow.
    ///
    /// Node by node, so that the places of a hundred thousand nodes need not be held at once.
    pub fn node(
        &mut self,
        node: &Node,
        params: &Map<String, Value>,
        place: &dyn Fn(&str) -> Option<Span>,
        before: &[Node],
        kinds: &Kinds,
        recorded: Option<&RecordedSource>,
    ) {
        let known = &self.columns;
        let (of_node, found) =
            of_node(node, params, place, (before, known), recorded, &mut self.problems);
        self.columns.push(of_node);
        for problem in together(found) {
            let input =
                node.inputs.iter().find(|e| e.path == problem.at).map(|e| &before[e.node.index()]);
            let place = place(&problem.at).unwrap_or(node.span.clone());
            self.problems.push(diagnostic(node, problem, input, kinds, place));
        }
    }
}

/// Joins the problems of all the columns that one table lacks.
fn together(found: Vec<Problem>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for problem in found {
        let same = |p: &&mut Problem| {
            !p.lacks.is_empty() && !problem.lacks.is_empty() && p.at == problem.at
        };
        match problems.iter_mut().find(same) {
            Some(first) => {
                let new: Vec<_> =
                    problem.lacks.into_iter().filter(|c| !first.lacks.contains(c)).collect();
                first.lacks.extend(new);
                if first.lacks.len() > 1 {
                    first.message = format!("the table lacks the columns {}", listed(&first.lacks));
                }
            }
            None => problems.push(problem),
        }
    }
    problems
}

/// Formats the problem of a node, whose table `input` it may be about.
fn diagnostic(
    node: &Node,
    problem: Problem,
    input: Option<&Node>,
    kinds: &Kinds,
    place: Span,
) -> Diagnostic {
    let Problem { message, hint, lacks, .. } = problem;
    let diagnostic = Diagnostic::at(place, format!("stage `{}`: {message}", node.stage));
    let renamed = match (lacks.as_slice(), input.map(|n| &n.work)) {
        ([column], Some(Work::Source(_))) => Some(format!(
            "where the source has it under another name, add `columns: {{ {column}: THEIRS }}` to the source"
        )),
        _ => None,
    };
    diagnostic.maybe_hint(who_adds(kinds, &lacks)).maybe_hint(renamed).maybe_hint(hint)
}

/// Lists the kinds that add the columns.
fn who_adds(kinds: &Kinds, columns: &[String]) -> Option<String> {
    let words: Vec<String> = kinds
        .iter()
        .filter_map(|kind| {
            let added: Vec<&String> =
                columns.iter().filter(|c| kind.adds.contains(&c.as_str())).collect();
            let all = if columns.len() == 1 { "it".into() } else { "them".into() };
            let which = if added.len() == columns.len() { all } else { listed(&added) };
            (!added.is_empty()).then(|| format!("`{}` adds {which}", kind.name))
        })
        .collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Lists names: `a`, `b` and `c`.
fn listed(names: &[impl std::fmt::Display]) -> String {
    let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    match names.as_slice() {
        [first @ .., last] if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

fn has_column(schema: &Schema, name: &str) -> bool {
    schema.fields().iter().any(|field| field.name() == name)
}

/// Returns the columns of a node's main table and the problems that its kind finds; a source that cannot be read is a
/// problem too.
fn of_node(
    node: &Node,
    params: &Map<String, Value>,
    place: &dyn Fn(&str) -> Option<Span>,
    (before, known): (&[Node], &[Columns]),
    recorded: Option<&RecordedSource>,
    problems: &mut Vec<Diagnostic>,
) -> (Columns, Vec<Problem>) {
    let of_input = |path: &str| -> Columns {
        let edge = node.inputs.iter().find(|e| e.path == path)?;
        match edge.output.as_str() {
            MAIN => known[edge.node.index()].clone(),
            "metrics" => Some(metrics_table::schema()),
            _ => None,
        }
    };
    let mut found: Vec<Problem> = Vec::new();
    let columns = match &node.work {
        Work::Model(_) | Work::Served(_) | Work::File(_) | Work::Folder(_) | Work::Unfetched(_) => {
            None
        }
        Work::Source(_) if recorded.is_some() => recorded.and_then(|r| r.columns.clone()),
        Work::Source(spec) => match spec.schema() {
            Ok(schema) => Some(schema),
            Err(error) => {
                let place = place(error.option()).unwrap_or(node.span.clone());
                let problem = Diagnostic::at(place, error.to_string());
                problems.push(problem.maybe_hint(error.hint()));
                None
            }
        },
        Work::Gather { axes, .. } => {
            of_input("tables[0]").map(|first| {
                found.extend(axes.iter().filter(|axis| has_column(&first, axis)).map(|axis| {
                    Problem::at("", gather::collision(axis)).hint(gather::COLLISION_HINT)
                }));
                let axes = axes.iter().map(|a| Arc::new(Field::new(a, DataType::Utf8, false)));
                let mut fields: Vec<Arc<Field>> = axes.collect();
                fields.extend(first.fields().iter().cloned());
                Arc::new(Schema::new(fields))
            })
        }
        Work::Stage { kind, .. } => {
            let inputs: Vec<String> = node.inputs.iter().map(|e| e.path.clone()).collect();
            let source = |path: &str| {
                let id = model_source(before, &node.inputs, path)?;
                Some(&before[id.index()].work)
            };
            let models = |path: &str| match source(path)? {
                Work::Model(path) => Some(path.clone()),
                _ => None,
            };
            let served = |path: &str| match source(path)? {
                Work::Served(spec) => Some(spec.api),
                _ => None,
            };
            let without_weights = |edge: &&Edge| {
                !kind.served.contains(&edge.path.as_str()) && served(&edge.path).is_some()
            };
            // Tables that are only chosen among are not read.
            let read = node.inputs.iter().filter(|_| !node.passes_on());
            found.extend(read.filter(without_weights).map(|edge| {
                let name = &before[edge.node.index()].stage;
                Problem::at(
                    edge.path.as_str(),
                    format!("it needs the weights of `{name}`, which a server holds"),
                )
                .hint(
                    "take a model in a folder: `generate`, `score` and `evaluate` can ask a server",
                )
            }));
            let check = Check {
                params,
                columns: &of_input,
                inputs: &inputs,
                models: &models,
                served: &served,
            };
            // A panic over a stranger's columns is reported like any other problem.
            contained(|| (kind.check)(&check, &mut found)).unwrap_or_else(|panic| {
                let message = format!("internal error ({panic}); please report it");
                problems.push(Diagnostic::at(
                    node.span.clone(),
                    format!("stage `{}`: {message}", node.stage),
                ));
                None
            })
        }
    };
    (columns, found)
}
