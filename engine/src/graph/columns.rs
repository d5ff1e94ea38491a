//! Follows the columns of every table from the sources' headers to the last stage, before anything runs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};

use crate::diagnostic::Diagnostic;
use crate::kind::{Check, Columns, MAIN, Problem, Resolved};
use crate::metrics;

use super::{Node, Work};

/// Checks all nodes; `places` says where each node's values stand in the workflow.
pub(super) fn check(nodes: &[Node], places: &[Resolved], problems: &mut Vec<Diagnostic>) {
    let mut columns: Vec<Columns> = Vec::with_capacity(nodes.len());
    for (node, places) in nodes.iter().zip(places) {
        columns.push(of_node(node, places, &columns, problems));
    }
}

fn of_node(node: &Node, places: &Resolved, known: &[Columns], problems: &mut Vec<Diagnostic>) -> Columns {
    let of_input = |path: &str| -> Columns {
        let edge = node.inputs.iter().find(|e| e.path == path)?;
        match edge.output.as_str() {
            MAIN => known[edge.node.index()].clone(),
            "metrics" => Some(metrics::schema()),
            _ => None,
        }
    };
    match &node.work {
        Work::Model(_) | Work::File(_) => None,
        Work::Source(spec) => match spec.schema() {
            Ok(schema) => Some(schema),
            Err(error) => {
                let place = places.place("path").unwrap_or(node.span.clone());
                let problem = Diagnostic::at(place, error.to_string());
                problems.push(problem.maybe_hint(error.hint()));
                None
            }
        },
        Work::Gather { axes, .. } => {
            let first = of_input("tables[0]")?;
            let mut fields: Vec<Arc<Field>> =
                axes.iter().map(|a| Arc::new(Field::new(a, DataType::Utf8, false))).collect();
            fields.extend(first.fields().iter().filter(|f| !axes.contains(f.name())).cloned());
            Some(Arc::new(Schema::new(fields)))
        }
        Work::Stage { kind, params } => {
            let inputs: Vec<String> = node.inputs.iter().map(|e| e.path.clone()).collect();
            let mut found: Vec<Problem> = Vec::new();
            let columns = (kind.check)(&Check { params, columns: &of_input, inputs: &inputs }, &mut found);
            for Problem { at, message, hint } in found {
                let message = format!("stage `{}`: {message}", node.stage);
                let place = places.place(&at).unwrap_or(node.span.clone());
                problems.push(Diagnostic::at(place, message).maybe_hint(hint));
            }
            columns
        }
    }
}
