//! Messages and tools as a template sees them: lists and mappings that print as Python's do.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr};
use serde_json::Value as Json;

use super::python;

/// Returns JSON as a template's value.
pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Array(items) => list(items.iter().map(from_json).collect()),
        Json::Object(entries) => {
            let entry = |(name, value): (&String, &Json)| (name.as_str().into(), from_json(value));
            Value::from_object(Mapping(entries.iter().map(entry).collect()))
        }
        other => Value::from_serialize(other),
    }
}

/// Returns a list of values.
pub(super) fn list(values: Vec<Value>) -> Value {
    Value::from_object(List(values))
}

/// A list.
#[derive(Debug)]
struct List(Vec<Value>);

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(out, Value::from_dyn_object(self.clone()))
    }
}

/// A mapping, in the order of its file.
#[derive(Debug)]
struct Mapping(Vec<(Value, Value)>);

impl Object for Mapping {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(name, _)| name.clone()).collect())
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(out, Value::from_dyn_object(self.clone()))
    }
}

fn write(out: &mut fmt::Formatter<'_>, value: Value) -> fmt::Result {
    let mut text = String::new();
    match python::write_repr(&mut text, &value, 0) {
        Ok(()) => out.write_str(&text),
        // Messages come from parsed JSON, which is not nested as deep as that.
        Err(_) => out.write_str("..."),
    }
}
