//! The description of a kind: one table from which parsing, checks, keys, help and schema come.
//!
//! The engine knows no kind by name. The stages crate describes each with a [`Kind`]: its parameters with
//! types and defaults, the versions of the components that determine its bytes, the columns it needs and
//! adds, and the function that runs it. A parameter whose type is an artifact makes an edge of the graph.

mod context;
mod declare;
mod describe;
pub mod machine;
mod memory;
mod metrics;
pub(crate) mod metrics_table;
mod pins;
mod placeholders;
mod requests;
mod served;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use context::{Cancel, Context, Input, Progress, Resources, StageError};
pub use declare::{
    Anything, Bounds, CommandText, File, FileContent, Folder, InFile, MetricName, Model, Number,
    Numbers, Parameter, Parameters, Referent, SecretText, Table, choices, one_of, parameters,
    trimmed,
};
pub use describe::describe;
pub use memory::{MemoryContext, MemoryNeed};
pub use metrics::{MetricContext, MetricDecl};
pub use pins::{Pinned, Pins, pin_name};
pub use placeholders::placeholders;
pub use requests::{RequestContext, Requests};
pub use served::{ServedApi, ServedSpec};
pub(crate) use values::written_as_placeholder;
pub use values::{Reference, Resolved, check_keys, coerce, coerce_param};

pub use crate::language::scalar::{canonical, check_name};

/// A component whose bytes a kind's results depend on, with the version of those bytes.
///
/// The version is raised when the output changes for some input, and only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Short name, for example `render`.
    pub name: &'static str,
    /// Version, from 1.
    pub version: u32,
}

use refrain_cache::Cache;
/// The kind of an artifact.
pub use refrain_cache::{ArtifactKind, MAIN, NodeResult};

/// The type of a parameter's value.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// `true` or `false`.
    Bool,
    /// A whole number within the closed range.
    Int {
        /// Smallest allowed value.
        min: i64,
        /// Largest allowed value.
        max: i64,
    },
    /// A finite number within the range; the bounds belong to it unless `open` says otherwise.
    Float {
        /// Lower bound.
        min: f64,
        /// Upper bound.
        max: f64,
        /// Whether the lower bound itself is excluded.
        open: bool,
    },
    /// Any text.
    Text,
    /// Text in which `${in.NAME}` and `${out.NAME}` stay as written until the node runs.
    Command,
    /// Text that may hold `${env:NAME}`, which stays as written and is never kept.
    Secret,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A name of a stage or source that gives an artifact of the given kind; `None` = any kind.
    Reference(Option<ArtifactKind>),
    /// A metric of a stage, `STAGE.METRIC`: a reference to the stage's metrics, and the metric's
    /// name as the value.
    Metric,
    /// A list whose elements all have one type.
    List(&'static Type),
    /// A mapping with fixed keys.
    Record(&'static [Param]),
    /// A mapping from free names to values of one type.
    Map(&'static Type),
    /// The first of several types that fits.
    OneOf(&'static [Type]),
    /// The path of a YAML file of another tool, read with the workflow: its content is the value, a
    /// mapping with fixed keys.
    YamlFile {
        /// Its keys.
        params: &'static [Param],
        /// Keys that the other tool reads and we do not, each with a hint.
        refused: &'static [(&'static str, &'static str)],
    },
    /// Any value.
    Any,
}

/// The value of a parameter that the workflow does not give.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// The workflow must give it.
    Required,
    /// It stays absent.
    Absent,
    /// A JSON text with the value.
    Json(&'static str),
}

/// One parameter of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Param {
    /// Its key in the workflow.
    pub name: &'static str,
    /// The type of its value.
    pub ty: Type,
    /// Its value where it is not given.
    pub default: Default,
    /// Whether it can change a result. A knob cannot, and stays out of the key; it stands at the top of its kind's
    /// table, not in a record.
    pub semantic: bool,
    /// One sentence for help and schema.
    pub about: &'static str,
    /// Its names in other tools, for hints alone.
    pub aliases: &'static [&'static str],
}

impl Param {
    /// A parameter that the workflow must give.
    pub const fn required(name: &'static str, ty: Type, about: &'static str) -> Param {
        Param { name, ty, default: Default::Required, semantic: true, about, aliases: &[] }
    }

    /// A parameter that may be absent.
    pub const fn optional(name: &'static str, ty: Type, about: &'static str) -> Param {
        Param { name, ty, default: Default::Absent, semantic: true, about, aliases: &[] }
    }

    /// A parameter with a default, given as JSON text.
    pub const fn default(
        name: &'static str,
        ty: Type,
        json: &'static str,
        about: &'static str,
    ) -> Param {
        Param { name, ty, default: Default::Json(json), semantic: true, about, aliases: &[] }
    }
}

/// An output of a node: the main one is called [`MAIN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDecl {
    /// Name, as in `NAME.metrics`; [`MAIN`] for the output that the bare name means.
    pub name: String,
    /// The kind of artifact.
    pub kind: ArtifactKind,
}

/// One node as the static check of its kind sees it.
pub struct Check<'a> {
    /// The parameters, typed and with defaults; references removed.
    pub params: &'a Map<String, Value>,
    /// The columns of each table input by path (`data`, `mix[0].data`), where they are known.
    pub columns: &'a dyn Fn(&str) -> Option<SchemaRef>,
    /// The paths of all inputs that were given, in order.
    pub inputs: &'a [String],
    /// The folder or file of the source model from which each model input by path descends.
    pub models: &'a dyn Fn(&str) -> Option<PathBuf>,
    /// The interface of the server that computes the model input at a path, if one does.
    pub served: &'a dyn Fn(&str) -> Option<ServedApi>,
}

impl Check<'_> {
    /// Checks that the table at `input` has `column` with one of the `types`; unknown tables pass.
    pub fn need(&self, problems: &mut Vec<Problem>, input: &str, column: &str, types: &[DataType]) {
        let Some(schema) = (self.columns)(input) else { return };
        match schema.field_with_name(column) {
            Err(_) => {
                let names: Vec<_> =
                    schema.fields().iter().map(|f| format!("`{}`", f.name())).collect();
                let message = format!("the table has no column `{column}`");
                let hint = Some(format!("its columns are {}", names.join(", ")));
                problems.push(Problem {
                    at: input.into(),
                    message,
                    hint,
                    lacks: vec![column.into()],
                });
            }
            Ok(field)
                if types.is_empty() || types.iter().any(|t| same_type(t, field.data_type())) => {}
            Ok(field) => {
                let wanted: Vec<_> = types.iter().map(type_name).collect();
                problems.push(Problem::at(
                    input,
                    format!(
                        "column `{column}` is {}, expected {}",
                        type_name(field.data_type()),
                        wanted.join(" or ")
                    ),
                ));
            }
        }
    }

    /// Whether the table at `input` is known to have `column`; `None` when its columns are not known.
    pub fn has(&self, input: &str, column: &str) -> Option<bool> {
        (self.columns)(input).map(|schema| schema.field_with_name(column).is_ok())
    }
}

/// Whether two column types are the same up to the names inside lists.
pub fn same_type(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(x), DataType::List(y)) => same_type(x.data_type(), y.data_type()),
        (DataType::Struct(x), DataType::Struct(y)) => {
            x.len() == y.len()
                && x.iter()
                    .zip(y.iter())
                    .all(|(f, g)| f.name() == g.name() && same_type(f.data_type(), g.data_type()))
        }
        _ => a == b,
    }
}

/// Names a column type for people.
pub fn type_name(ty: &DataType) -> String {
    match ty {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".into(),
        DataType::Boolean => "bool".into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int32".into(),
        DataType::Int64 => "int64".into(),
        DataType::Float32 => "float32".into(),
        DataType::Float64 => "float64".into(),
        DataType::List(item) => format!("list of {}", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let names: Vec<_> = fields.iter().map(|f| f.name().as_str()).collect();
            format!("struct ({})", names.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

/// A problem of a node that its parameters' types cannot express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the parameter, for example `keep.where`; empty for the stage as a whole.
    pub at: String,
    /// The fault, as a lowercase fragment.
    pub message: String,
    /// The way to mend it.
    pub hint: Option<String>,
    /// The columns that the table at `at` lacks, if that is the problem: the engine joins the problems of one
    /// table, and names the kinds that add the columns.
    pub lacks: Vec<String>,
}

impl Problem {
    /// Creates a problem of the parameter at a path.
    pub fn at(at: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { at: at.into(), message: message.into(), hint: None, lacks: Vec::new() }
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

/// The columns of a kind's main table, where its static check knows them.
pub type Columns = Option<SchemaRef>;

/// A stage that is planned as two: the first is named `STAGE/suffix`. The second may be planned as
/// two again.
#[derive(Debug, Clone, Copy)]
pub struct Expansion {
    /// The part of the first stage's name behind the stage's own and a slash.
    pub suffix: &'static str,
    /// Name of the kind of the first stage.
    pub kind: &'static str,
    /// The parameter of the second stage that then refers to the first.
    pub link: &'static str,
    /// Says which stage takes a parameter.
    pub takes: fn(&str) -> Taker,
    /// Makes parameters of the first stage that are written anew.
    pub written: Option<Write>,
}

/// Makes parameters, with their names, of all that the workflow says of a stage.
pub type Write = fn(&Map<String, Value>) -> Vec<(&'static str, Value)>;

/// The one of two stages that takes a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    /// The first.
    First,
    /// The second.
    Second,
    /// Both.
    Both,
    /// The first, under another name.
    FirstAs(&'static str),
    /// The first takes the entries of this mapping as its parameters.
    FirstEntries,
    /// So does the first, and the second the mapping as a whole.
    BothEntries,
}

impl Taker {
    /// Whether a parameter of this name is one of the first stage.
    pub fn is_first(self) -> bool {
        matches!(self, Taker::First | Taker::Both | Taker::FirstAs(_))
    }
}

/// Tells the versions that a node's bytes depend on, given its parameters and whether an input is
/// given; `None` where they are those of the kind's components.
pub type Versions = fn(&Map<String, Value>, &dyn Fn(&str) -> bool) -> Option<Map<String, Value>>;

/// Decides, from the values that the workflow gives as they are written, whether a stage is planned as two.
pub type Expand = fn(&Map<String, Value>) -> Option<Expansion>;

/// Brings typed parameters that mean the same to one form; the callback has the facts of the source model
/// from which the model at an input descends.
pub type Canonicalize = fn(&mut Map<String, Value>, &dyn Fn(&str) -> Option<ModelFacts>);

/// All that defaults depend on in the files of a model. A lock keeps them, for when the files are absent.
pub type ModelFacts = Map<String, Value>;

/// A kind of stage.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its key in a stage's mapping.
    pub name: &'static str,
    /// One sentence on what it does.
    pub about: &'static str,
    /// The components whose versions its bytes depend on, beside its parameters and inputs.
    pub components: &'static [Component],
    /// The versions in the place of those of `components`, where they depend on the parameters.
    pub versions: Option<Versions>,
    /// Its parameters.
    pub params: &'static [Param],
    /// The columns that it adds to its main table, or replaces there.
    pub adds: &'static [&'static str],
    /// Its outputs, given the typed parameters.
    pub outputs: fn(&Map<String, Value>) -> Vec<OutputDecl>,
    /// The metrics that it writes.
    pub metrics: &'static [MetricDecl],
    /// Checks what types cannot express, and tells the columns of the main table where they are known.
    pub check: fn(&Check<'_>, &mut Vec<Problem>) -> Columns,
    /// Whether the stage is planned as two.
    pub expand: Option<Expand>,
    /// Brings parameters that mean the same to one form, before anything is hashed.
    pub canonicalize: Option<Canonicalize>,
    /// Whether under another profile its outputs differ in floating-point values alone, and by little.
    pub close_elsewhere: bool,
    /// Whether a failure may be a matter of chance, so that it makes sense to try again.
    pub retryable: bool,
    /// The figure that counts the tokens it computed.
    pub tokens: Option<&'static str>,
    /// The parameter that names an axis, if the kind chooses among artifacts over one: `PATH[0]`,
    /// `PATH[1]` and so on are then what a reference stands for at the values of the axis. The node
    /// does not depend on the axis, and its main output is one of those artifacts, passed on.
    pub over: Option<&'static str>,
    /// The model inputs, by path, that a server may compute; the others need weights.
    pub served: &'static [&'static str],
    /// Tells the requests of a node to a server of its model, if the kind can ask one.
    pub requests: Option<fn(&RequestContext<'_>) -> Requests>,
    /// Estimates the memory of a node, where that is much.
    pub memory: Option<fn(&MemoryContext<'_>) -> MemoryNeed>,
    /// Runs one node.
    pub run: fn(&Context<'_>) -> Result<NodeResult, StageError>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kind").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All kinds that a workflow may use.
#[derive(Debug, Clone)]
pub struct Kinds {
    all: Arc<[Kind]>,
    model_facts: fn(&Path) -> ModelFacts,
    is_exact: fn(&str) -> bool,
    kept_pin: fn(&Cache, &str) -> Option<Value>,
}

impl Kinds {
    /// Creates a registry of the given kinds.
    pub fn new(kinds: Vec<Kind>) -> Kinds {
        Kinds {
            all: kinds.into(),
            model_facts: |_| Map::new(),
            is_exact: |_| true,
            kept_pin: |_, _| None,
        }
    }

    /// Adds the function that reads a model's facts from its folder.
    pub fn with_model_facts(mut self, read: fn(&Path) -> ModelFacts) -> Kinds {
        self.model_facts = read;
        self
    }

    /// Adds the function that tells from a profile whether results under it are the same to the bit
    /// each time.
    pub fn with_exactness(mut self, is_exact: fn(&str) -> bool) -> Kinds {
        self.is_exact = is_exact;
        self
    }

    /// Whether results under a profile are the same to the bit each time.
    pub fn is_exact(&self, profile: &str) -> bool {
        (self.is_exact)(profile)
    }

    /// Adds the function that finds the pinned fact about a model in a cache, by its name: a lock
    /// may lack it where another run found it out.
    pub fn with_kept_pins(mut self, find: fn(&Cache, &str) -> Option<Value>) -> Kinds {
        self.kept_pin = find;
        self
    }

    /// Finds the pinned fact about a model in a cache.
    pub(crate) fn kept_pin(&self, cache: &Cache, model: &str) -> Option<Value> {
        (self.kept_pin)(cache, model)
    }

    /// Reads the facts of the model in a folder.
    pub fn model_facts(&self, folder: &Path) -> ModelFacts {
        (self.model_facts)(folder)
    }

    /// Finds a kind by its name.
    pub fn get(&self, name: &str) -> Option<&Kind> {
        self.all.iter().find(|k| k.name == name)
    }

    /// Iterates over all kinds, in the order of their registration.
    pub fn iter(&self) -> impl Iterator<Item = &Kind> {
        self.all.iter()
    }
}
