//! The spans and events of a run: their names, and their fields as a layer reads them.
//!
//! Spans: `run` (nodes), `node` (node, name, kind, key), `attempt` (number), `hash` (node, name,
//! path, bytes), `import` (rows), `load` (path), `batch` (rows), `step` (step), `sync` and `gc`.
//!
//! A run begins with an event `stage` (stage, nodes) for each of its stages.
//!
//! Events of a node, which starts with its span: `cached`, `progress`, `note`, `retry`, `damaged`,
//! `waiting`, `taken_over`, `recorded`, `finished`, `failed` and `skipped`; of a training: `step`.
//! An event that the scheduler emits names its node in the fields `node` and `name`; any other one
//! belongs to the node in whose span it was emitted.

use std::fmt::{self, Debug, Write};

use serde::{Serialize, Serializer};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// What the target of every span and event of Refrain begins with.
pub const TARGET: &str = "refrain";

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FieldValue {
    /// A whole number from 0.
    Unsigned(u64),
    /// A whole number.
    Signed(i64),
    /// Any number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Anything else, as text.
    Text(String),
}

/// The fields of a span or event, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields(Vec<(&'static str, FieldValue)>);

impl Fields {
    /// Reads the fields of an event.
    pub fn of_event(event: &Event<'_>) -> Fields {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields
    }

    /// Reads the fields with which a span begins.
    pub fn of_span(attributes: &Attributes<'_>) -> Fields {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        fields
    }

    /// Adds fields that a span was given later.
    pub fn add(&mut self, later: &Record<'_>) {
        later.record(self);
    }

    /// Returns the value of a field.
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// Returns a field that is a whole number from 0.
    pub fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            FieldValue::Unsigned(number) => Some(*number),
            FieldValue::Signed(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Returns a field that is a number.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.get(name)? {
            FieldValue::Float(number) => Some(*number),
            _ => self.number(name).map(|number| number as f64),
        }
    }

    /// Returns a field that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            FieldValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether a field is there and true.
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some(&FieldValue::Bool(true))
    }

    /// Goes over names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &FieldValue)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }

    fn push(&mut self, field: &Field, value: FieldValue) {
        match self.0.iter_mut().find(|(name, _)| *name == field.name()) {
            Some((_, old)) => *old = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, FieldValue::Unsigned(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, FieldValue::Signed(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, FieldValue::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, FieldValue::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, FieldValue::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // Writing to a string fails only where the value itself refuses to be shown.
        let _shown = write!(text, "{value:?}");
        self.push(field, FieldValue::Text(text));
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The node that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOf {
    /// Its number in the graph.
    pub node: u64,
    /// Its name.
    pub name: String,
}

impl fmt::Display for NodeOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Keeps what identifies a node in a span of its own, for [`node_of`]; a layer calls it for every
/// new span.
pub fn keep_node<S>(attributes: &Attributes<'_>, id: &Id, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if !["node", "hash"].contains(&attributes.metadata().name()) {
        return;
    }
    let node = node_in(&Fields::of_span(attributes));
    if let (Some(span), Some(node)) = (context.span(id), node) {
        span.extensions_mut().replace(node);
    }
}

/// Returns the node that an event is about: the one that it names, or else that of the span around
/// it.
pub fn node_of<S>(event: &Event<'_>, fields: &Fields, context: &Context<'_, S>) -> Option<NodeOf>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let around = || {
        let spans = context.event_scope(event)?;
        spans.into_iter().find_map(|span| span.extensions().get::<NodeOf>().cloned())
    };
    node_in(fields).or_else(around)
}

fn node_in(fields: &Fields) -> Option<NodeOf> {
    Some(NodeOf { node: fields.number("node")?, name: fields.text("name")?.to_owned() })
}
