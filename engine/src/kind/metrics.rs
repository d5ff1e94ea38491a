//! The metrics that a kind declares, so that a name in `expect` or `results` is checked before
//! anything runs.

use serde_json::{Map, Value};

use super::Kind;

/// The facts that decide which metrics a node writes.
#[derive(Debug, Clone, Copy)]
pub struct MetricContext<'a> {
    /// The parameters, typed and with defaults; references removed.
    pub params: &'a Map<String, Value>,
    /// The paths of all inputs that were given.
    pub inputs: &'a [String],
}

/// A metric that a kind writes.
#[derive(Debug, Clone, Copy)]
pub struct MetricDecl {
    /// Its name; in `pass_at_K` the capital letter stands for a value among the parameters.
    pub name: &'static str,
    /// One sentence for help.
    pub about: &'static str,
    /// The names that a node writes; `None` for the name itself, always.
    pub names: Option<fn(MetricContext<'_>) -> Vec<String>>,
}

impl MetricDecl {
    /// A metric that every node of the kind writes.
    pub const fn always(name: &'static str, about: &'static str) -> MetricDecl {
        MetricDecl { name, about, names: None }
    }

    /// Metrics that depend on the node's parameters: `names` lists those that it writes.
    pub const fn given(
        name: &'static str,
        about: &'static str,
        names: fn(MetricContext<'_>) -> Vec<String>,
    ) -> MetricDecl {
        MetricDecl { name, about, names: Some(names) }
    }
}

impl Kind {
    /// Lists the metrics that a node with these parameters writes.
    pub fn metric_names(&self, context: MetricContext<'_>) -> Vec<String> {
        let names = |metric: &MetricDecl| match metric.names {
            Some(names) => names(context),
            None => vec![metric.name.to_owned()],
        };
        self.metrics.iter().flat_map(names).collect()
    }
}
