//! The parameters of a node, whose values are shared with the other nodes of its stage.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Parameters by name, typed, with defaults, references removed.
///
/// A value that does not depend on the point of the sweep exists once, however many nodes have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(Arc<[(Arc<str>, Arc<Value>)]>);

impl Params {
    /// Returns the value of a parameter.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Iterates over the parameters in the order of their table.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Copies the parameters into a mapping of their own.
    pub fn to_map(&self) -> Map<String, Value> {
        self.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }
}

impl FromIterator<(Arc<str>, Arc<Value>)> for Params {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Arc<Value>)>>(params: I) -> Params {
        Params(params.into_iter().collect())
    }
}

impl From<Map<String, Value>> for Params {
    fn from(params: Map<String, Value>) -> Params {
        params.into_iter().map(|(name, value)| (name.into(), Arc::new(value))).collect()
    }
}
