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
    /// The column of the main table whose mean over rows it is; `None` of a metric that is no such
    /// mean.
    pub mean_of: Option<&'static str>,
    /// Whether it measures how diverse a table is.
    pub is_diversity: bool,
    /// The names that a node writes.
    names: Names,
}

/// The names under which a node writes a declared metric.
#[derive(Debug, Clone, Copy)]
enum Names {
    /// The name itself, always.
    Always,
    /// Those that follow from the node's parameters.
    Given(fn(MetricContext<'_>) -> Vec<String>),
    /// Those that the node must write; with `None` it may write any.
    Free(fn(MetricContext<'_>) -> Option<Vec<String>>),
}

impl MetricDecl {
    /// A metric that every node of the kind writes.
    pub const fn always(name: &'static str, about: &'static str) -> MetricDecl {
        MetricDecl { name, about, mean_of: None, is_diversity: false, names: Names::Always }
    }

    /// Metrics that depend on the node's parameters: `names` lists those that it writes.
    pub const fn given(
        name: &'static str,
        about: &'static str,
        names: fn(MetricContext<'_>) -> Vec<String>,
    ) -> MetricDecl {
        MetricDecl { name, about, mean_of: None, is_diversity: false, names: Names::Given(names) }
    }

    /// Metrics whose names a node chooses when it runs, but for those that its parameters demand.
    pub const fn free(
        name: &'static str,
        about: &'static str,
        names: fn(MetricContext<'_>) -> Option<Vec<String>>,
    ) -> MetricDecl {
        MetricDecl { name, about, mean_of: None, is_diversity: false, names: Names::Free(names) }
    }

    /// Says that the metric is the mean of a column of the main table, so that it can be compared
    /// row by row.
    pub const fn mean_of(self, column: &'static str) -> MetricDecl {
        MetricDecl { mean_of: Some(column), ..self }
    }

    /// Says that the metric measures how diverse a table is, so that a report can set it against
    /// accuracy.
    pub const fn diversity(self) -> MetricDecl {
        MetricDecl { is_diversity: true, ..self }
    }

    /// Lists the names of the metric that a node writes for certain.
    fn names(&self, context: MetricContext<'_>) -> Vec<String> {
        match self.names {
            Names::Always => vec![self.name.to_owned()],
            Names::Given(names) => names(context),
            Names::Free(names) => names(context).unwrap_or_default(),
        }
    }
}

impl Kind {
    /// Lists the metrics that a node with these parameters writes for certain.
    pub fn metric_names(&self, context: MetricContext<'_>) -> Vec<String> {
        self.metrics.iter().flat_map(|metric| metric.names(context)).collect()
    }

    /// Lists the metrics of a node with these parameters that measure how diverse a table is.
    pub fn diversity_names(&self, context: MetricContext<'_>) -> Vec<String> {
        let measures = self.metrics.iter().filter(|metric| metric.is_diversity);
        measures.flat_map(|metric| metric.names(context)).collect()
    }

    /// Returns the column of the main table whose mean over rows a metric is.
    pub fn mean_of(&self, metric: &str) -> Option<&'static str> {
        self.metrics.iter().find(|decl| decl.name == metric)?.mean_of
    }

    /// Whether a node with these parameters may write metrics of any name.
    pub fn has_free_metrics(&self, context: MetricContext<'_>) -> bool {
        let is_free = |metric: &MetricDecl| matches!(metric.names, Names::Free(names) if names(context).is_none());
        self.metrics.iter().any(is_free)
    }
}
