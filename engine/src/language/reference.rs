//! The reference of the language and of every kind, generated from the declarations that also check a workflow.

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::Schema;
use serde::Serialize;
use serde_json::{Map, Value};

use refrain_cache::contained;

use crate::graph::build::{MAX_NODES, MAX_POINTS};
use crate::kind::{Check, Default, Kind, Kinds, MetricDecl, OutputDecl, Param, Type, describe};
use crate::language::interpolate::MAX_AXES;
use crate::language::schema;
use crate::language::workflow::{
    INCLUDE, MAX_INCLUDE_DEPTH, MAX_INCLUDES, REPEAT, RESOURCES, RETRY,
};
use crate::language::yaml::{MAX_BYTES, MAX_DEPTH};
use crate::report::{comparison, expect, results};
use crate::source;

/// The hand-written part, with the places of the tables.
const TEMPLATE: &str = include_str!("reference.md");

/// The page of a kind.
#[derive(Debug, Clone, Serialize)]
pub struct KindPage {
    /// The kind.
    pub name: &'static str,
    /// One sentence on what it does.
    pub about: &'static str,
    /// Its parameters, those of mappings below them.
    pub parameters: Vec<ParameterRow>,
    /// Parameters that it passes on where a stage is planned as two, with the kind that declares them.
    pub passed_on: Vec<PassedOn>,
    /// The columns that it needs with all defaults.
    pub needs: Vec<Needs>,
    /// The columns that it adds to its main table, or replaces there.
    pub adds: &'static [&'static str],
    /// Its outputs with all defaults.
    pub outputs: Vec<Output>,
    /// The metrics that it writes; in `pass_at_K` the capital letter stands for a value among the parameters.
    pub metrics: Vec<Metric>,
}

/// A parameter.
#[derive(Debug, Clone, Serialize)]
pub struct ParameterRow {
    /// Its path: `data`, `lora.rank`, `mix[].data`.
    pub path: String,
    /// The values that it takes.
    pub values: String,
    /// Its default; `None` where it has none.
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// Whether it can change a result, and is in the key.
    pub semantic: bool,
    /// One sentence.
    pub about: &'static str,
}

/// Parameters that go to the first of two stages.
#[derive(Debug, Clone, Serialize)]
pub struct PassedOn {
    /// The kind that declares them.
    pub kind: &'static str,
    /// Their names.
    pub parameters: Vec<&'static str>,
}

/// The columns that an input must have.
#[derive(Debug, Clone, Serialize)]
pub struct Needs {
    /// The parameter that names the table.
    pub input: String,
    /// The columns.
    pub columns: Vec<String>,
}

/// An output.
#[derive(Debug, Clone, Serialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// `table`, `model` or `file`.
    pub kind: Value,
}

/// A metric.
#[derive(Debug, Clone, Serialize)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// The column whose mean over rows it is: it can be compared row by row.
    pub mean_of: Option<&'static str>,
}

/// Returns the reference as Markdown: `docs/language.md`.
pub fn markdown(kinds: &Kinds) -> String {
    let settings = format!(
        "`resources`:\n\n{}\n`retry` is a number of retries, or:\n\n{}",
        table(&rows(RESOURCES)),
        table(&rows(RETRY))
    );
    let pages: Vec<String> = kinds.iter().map(|kind| page(kind, kinds).markdown()).collect();
    let parts = [
        ("{{models}}", table(&rows(source::MODEL_PARAMS))),
        ("{{data}}", table(&rows(source::PARAMS))),
        ("{{include}}", table(&rows(INCLUDE))),
        ("{{repeat}}", table(&rows(REPEAT))),
        ("{{settings}}", settings),
        ("{{compare}}", table(&rows(comparison::PARAMS))),
        ("{{expect}}", table(&rows(expect::PARAMS))),
        ("{{results}}", table(&rows(results::PARAMS))),
        ("{{limits}}", limits()),
        ("{{kinds}}", pages.join("\n")),
    ];
    let fill = |text: String, (place, part): &(&str, String)| text.replace(place, part.trim_end());
    parts.iter().fold(TEMPLATE.to_string(), fill)
}

fn metric(decl: &MetricDecl) -> Metric {
    Metric { name: decl.name, about: decl.about, mean_of: decl.mean_of }
}

/// Returns the page of a kind.
pub fn page(kind: &Kind, kinds: &Kinds) -> KindPage {
    let params = defaults(kind.params);
    let outputs = contained(|| (kind.outputs)(&params)).unwrap_or_default();
    let output = |output: OutputDecl| Output {
        name: output.name,
        kind: serde_json::to_value(output.kind).unwrap_or_default(),
    };
    KindPage {
        name: kind.name,
        about: kind.about,
        parameters: rows(kind.params),
        passed_on: passed_on(kind, kinds),
        needs: needs(kind, &params),
        adds: kind.adds,
        outputs: outputs.into_iter().map(output).collect(),
        metrics: kind.metrics.iter().map(metric).collect(),
    }
}

impl KindPage {
    /// Formats the page as a section of Markdown.
    pub fn markdown(&self) -> String {
        let mut out =
            format!("### {}\n\n{}.\n\n{}", self.name, self.about, table(&self.parameters));
        for passed in &self.passed_on {
            let names = ticked(&passed.parameters);
            let _ = writeln!(
                out,
                "\nParameters that go on to a stage of kind `{}`: {names}.",
                passed.kind
            );
        }
        for needed in &self.needs {
            let _ = writeln!(
                out,
                "\nColumns needed in `{}`: {}.",
                needed.input,
                ticked(&needed.columns)
            );
        }
        if !self.adds.is_empty() {
            let _ = writeln!(out, "\nColumns added or replaced: {}.", ticked(self.adds));
        }
        let outputs: Vec<String> = self
            .outputs
            .iter()
            .map(|o| format!("`{}` ({})", o.name, o.kind.as_str().unwrap_or_default()))
            .collect();
        if !outputs.is_empty() {
            let _ = writeln!(out, "\nOutputs: {}.", outputs.join(", "));
        }
        if !self.metrics.is_empty() {
            out.push_str("\n| metric | |\n|---|---|\n");
            for metric in &self.metrics {
                let mean = metric.mean_of.map(|column| format!(", the mean of `{column}`"));
                let mean = mean.unwrap_or_default();
                let _ = writeln!(out, "| `{}` | {}{mean} |", metric.name, cell(metric.about));
            }
        }
        out
    }
}

fn ticked(names: &[impl std::fmt::Display]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// Lists the parameters of a table, those of mappings below them.
fn rows(params: &[Param]) -> Vec<ParameterRow> {
    let mut rows = Vec::new();
    add_rows("", params, &mut rows);
    rows
}

fn add_rows(prefix: &str, params: &[Param], rows: &mut Vec<ParameterRow>) {
    for param in params {
        let path = format!("{prefix}{}", param.name);
        let default = match param.default {
            Default::Json(text) => serde_json::from_str(text).ok(),
            Default::Required | Default::Absent => None,
        };
        rows.push(ParameterRow {
            path: path.clone(),
            values: describe(&param.ty),
            default,
            required: matches!(param.default, Default::Required),
            semantic: param.semantic,
            about: param.about,
        });
        add_inner(&path, &param.ty, rows);
    }
}

fn add_inner(path: &str, ty: &Type, rows: &mut Vec<ParameterRow>) {
    match ty {
        Type::Record(params) => add_rows(&format!("{path}."), params, rows),
        Type::List(item) => add_inner(&format!("{path}[]"), item, rows),
        Type::Map(item) => add_inner(&format!("{path}.NAME"), item, rows),
        Type::OneOf(types) => types.iter().for_each(|ty| add_inner(path, ty, rows)),
        _ => {}
    }
}

fn table(rows: &[ParameterRow]) -> String {
    let mut out = String::from("| parameter | values | default | |\n|---|---|---|---|\n");
    for row in rows {
        let default = match &row.default {
            _ if row.required => "required".into(),
            Some(value) => format!("`{value}`"),
            None => String::new(),
        };
        let about = match row.semantic {
            true => row.about.to_string(),
            false => format!("{}; cannot change a result", row.about),
        };
        let (path, values) = (&row.path, cell(&row.values));
        let _ = writeln!(out, "| `{path}` | {values} | {} | {} |", cell(&default), cell(&about));
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The typed parameters of a stage that writes only what it must.
fn defaults(params: &[Param]) -> Map<String, Value> {
    let value = |param: &Param| match param.default {
        Default::Json(text) => serde_json::from_str(text).ok(),
        Default::Required => sample(&param.ty),
        Default::Absent => None,
    };
    params.iter().filter_map(|param| Some((param.name.to_string(), value(param)?))).collect()
}

/// Returns some value of a type; `None` for a reference.
fn sample(ty: &Type) -> Option<Value> {
    Some(match ty {
        Type::Bool => Value::Bool(false),
        Type::Int { min, .. } => Value::from((*min).max(1)),
        Type::Float { min, max, .. } => Value::from(min.max(0.5).min(*max)),
        Type::Text | Type::Command | Type::Secret | Type::Metric | Type::Any => Value::from("x"),
        Type::Choice(words) => Value::from(*words.first()?),
        Type::Reference(_) => return None,
        Type::List(item) => Value::Array(sample(item).into_iter().collect()),
        Type::Record(params) => Value::Object(defaults(params)),
        Type::Map(_) | Type::YamlFile { .. } => Value::Object(Map::new()),
        Type::OneOf(types) => types.iter().find_map(sample)?,
    })
}

/// Asks the kind's own check which columns an empty table lacks.
fn needs(kind: &Kind, params: &Map<String, Value>) -> Vec<Needs> {
    let required = |param: &&Param| {
        matches!((param.ty, param.default), (Type::Reference(_), Default::Required))
    };
    let inputs: Vec<String> =
        kind.params.iter().filter(required).map(|param| param.name.to_string()).collect();
    let empty = Arc::new(Schema::empty());
    let check = Check {
        params,
        columns: &|_| Some(empty.clone()),
        inputs: &inputs,
        models: &|_| None,
        served: &|_| None,
    };
    let mut problems = Vec::new();
    let _columns = contained(|| (kind.check)(&check, &mut problems));

    let mut needs: Vec<Needs> = Vec::new();
    for problem in problems.into_iter().filter(|problem| !problem.lacks.is_empty()) {
        match needs.iter_mut().find(|needed| needed.input == problem.at) {
            Some(needed) => needed.columns.extend(problem.lacks),
            None => needs.push(Needs { input: problem.at, columns: problem.lacks }),
        }
    }
    needs
}

fn passed_on(kind: &Kind, kinds: &Kinds) -> Vec<PassedOn> {
    let mut passed: Vec<PassedOn> = Vec::new();
    for values in schema::probes(kind) {
        let Some(expansion) = kind.expand.and_then(|expand| expand(&values)) else { continue };
        let Some(first) = kinds.get(expansion.kind) else { continue };
        let moved =
            first.params.iter().map(|param| param.name).filter(|n| (expansion.takes)(n).is_first());
        if !passed.iter().any(|known| known.kind == first.name) {
            passed.push(PassedOn { kind: first.name, parameters: moved.collect() });
        }
    }
    passed
}

fn limits() -> String {
    let limits = [
        (
            "size of a workflow, also after params are substituted",
            format!("{} MB", MAX_BYTES >> 20),
        ),
        ("nesting", format!("{MAX_DEPTH} levels")),
        ("axes of a sweep", MAX_AXES.to_string()),
        ("points of a sweep", MAX_POINTS.to_string()),
        ("nodes of a graph", MAX_NODES.to_string()),
        ("depth of includes", MAX_INCLUDE_DEPTH.to_string()),
        ("included files", MAX_INCLUDES.to_string()),
    ];
    limits.map(|(what, limit)| format!("| {what} | {limit} |\n")).concat()
}
