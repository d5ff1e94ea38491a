//! One declaration of a kind's parameters, from which their table, the typed struct and the docs
//! come.
//!
//! ```
//! use refrain_engine::kind::{Model, Parameters, Table, choices, parameters};
//!
//! choices! {
//!     /// What is scored.
//!     pub enum Target {
//!         /// Prompt and response.
//!         Response = "response",
//!         /// The response alone.
//!         Text = "text",
//!     }
//! }
//!
//! parameters! {
//!     /// The parameters of a kind.
//!     pub struct ScoreParams {
//!         /// The model that scores
//!         model: &Model,
//!         /// The table with the responses
//!         data: &Table,
//!         /// What is scored
//!         of: Target = "response",
//!         /// Cuts longer rows
//!         #[range(2..)]
//!         max_tokens: Option<usize>,
//!     }
//! }
//!
//! assert_eq!(ScoreParams::PARAMS.len(), 4);
//! ```
//!
//! The type of a field is the type of its parameter, so that table and struct cannot disagree.
//! `Option` may be absent, `= JSON` is a default, and `&Model` is a reference: it makes an edge of
//! the graph and is no field of the struct. A number without `#[range(…)]` does not compile.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use refrain_cache::ArtifactKind;

use super::{Param, Type};

/// A Rust type whose values a parameter can have.
pub trait Parameter: DeserializeOwned {
    /// The type in the workflow.
    const TYPE: Type;
}

/// A struct that [`parameters!`](crate::kind::parameters) declares.
pub trait Parameters: DeserializeOwned {
    /// The table of its parameters.
    const PARAMS: &'static [Param];
}

/// A number, whose parameter needs a range.
pub trait Number: DeserializeOwned {
    /// The type of its bounds.
    type Bound;
    /// The largest bound.
    const MOST: Self::Bound;
}

/// A list of numbers, whose range holds for each.
pub trait Numbers {
    /// The type of its items.
    type Item: Number;
}

/// The referent of a reference.
pub trait Referent {
    /// The kind of artifact; `None` for any.
    const ARTIFACT: Option<ArtifactKind>;
}

/// A range of numbers.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<T> {
    /// The least value, or the one above which all are.
    pub min: T,
    /// The largest value.
    pub max: T,
    /// Whether `min` itself is excluded.
    pub open: bool,
}

impl Bounds<i64> {
    /// The type of a parameter within the range.
    pub const fn ty(self) -> Type {
        assert!(!self.open, "whole numbers have a least one");
        Type::Int { min: self.min, max: self.max }
    }
}

impl Bounds<f64> {
    /// The type of a parameter within the range.
    pub const fn ty(self) -> Type {
        Type::Float { min: self.min, max: self.max, open: self.open }
    }
}

macro_rules! number {
    ($($ty:ty: $bound:ty = $most:expr),*) => {
        $(impl Number for $ty {
            type Bound = $bound;
            const MOST: $bound = $most;
        })*
    };
}

number!(usize: i64 = i64::MAX, u64: i64 = i64::MAX, i64: i64 = i64::MAX, f64: f64 = f64::INFINITY);

impl<T: Number> Numbers for Vec<T> {
    type Item = T;
}

impl<T: Number, const N: usize> Numbers for [T; N] {
    type Item = T;
}

impl Parameter for bool {
    const TYPE: Type = Type::Bool;
}

impl Parameter for String {
    const TYPE: Type = Type::Text;
}

impl Parameter for Value {
    const TYPE: Type = Type::Any;
}

impl Parameter for ArtifactKind {
    const TYPE: Type = Type::Choice(&["table", "model", "file"]);
}

impl<T: Parameter> Parameter for Vec<T> {
    const TYPE: Type = Type::List(&T::TYPE);
}

impl<T: Parameter> Parameter for BTreeMap<String, T> {
    const TYPE: Type = Type::Map(&T::TYPE);
}

impl Parameter for Map<String, Value> {
    const TYPE: Type = Type::Map(&Type::Any);
}

/// Parameters that a YAML file of another tool holds.
pub trait FileContent: Parameters {
    /// Keys that the other tool reads and we do not, each with a hint.
    const REFUSED: &'static [(&'static str, &'static str)];
}

/// The content of a YAML file with the keys of `T`, of which the workflow gives the path.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct InFile<T>(pub Map<String, Value>, #[serde(skip)] PhantomData<T>);

impl<T: FileContent> Parameter for InFile<T> {
    const TYPE: Type = Type::YamlFile { params: T::PARAMS, refused: T::REFUSED };
}

/// Text in which `${in.NAME}` and `${out.NAME}` stay as written until the node runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct CommandText(pub String);

impl Parameter for CommandText {
    const TYPE: Type = Type::Command;
}

/// Text that may hold `${env:NAME}`, which is never kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl Parameter for SecretText {
    const TYPE: Type = Type::Secret;
}

/// The name of a metric, written `STAGE.METRIC`.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct MetricName(pub String);

impl Parameter for MetricName {
    const TYPE: Type = Type::Metric;
}

macro_rules! referent {
    ($($(#[$doc:meta])* $name:ident: $artifact:expr),* $(,)?) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}

        impl Referent for $name {
            const ARTIFACT: Option<ArtifactKind> = $artifact;
        })*
    };
}

referent! {
    /// A reference to a table.
    Table: Some(ArtifactKind::Table),
    /// A reference to a model.
    Model: Some(ArtifactKind::Model),
    /// A reference to a file.
    File: Some(ArtifactKind::File),
    /// A reference to a folder.
    Folder: Some(ArtifactKind::Folder),
    /// A reference to an artifact of any kind.
    Anything: None,
}

/// Drops the space with which the text of a doc comment begins, and the mark of a raw name.
#[doc(hidden)]
pub const fn trimmed(text: &'static str) -> &'static str {
    match text.as_bytes() {
        [b'r', b'#', ..] => text.split_at(2).1,
        _ => text.trim_ascii(),
    }
}

/// Declares a struct of parameters; see the [module](self).
///
/// Each field has, in this order: its doc comment or `#[about(CONSTANT)]`, which is its help;
/// `#[range(…)]`, with `1..`, `0.0..=1.0`, `above 0.0` or a constant [`Bounds`], or `#[each(…)]`
/// for the items of a list; `#[knob]` where it cannot change a result; and `#[alias("NAME")]` for
/// its names in other tools.
#[macro_export]
#[doc(hidden)]
macro_rules! __parameters {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($fields:tt)* }) => {
        $crate::__parameters! { @field [$(#[$meta])* $vis struct $name] [] [] $($fields)* }
    };

    // The fields one by one: references are in the table alone, all others in the struct too.
    (@field $head:tt [$($struct:tt)*] [$($table:tt)*]
        $(#[$($attr:tt)+])+ $field:ident: &$to:ident $(, $($rest:tt)*)?) => {
        $crate::__parameters! { @field $head [$($struct)*] [$($table)*
            $crate::__parameters!(@param $field, $crate::kind::Default::Required,
                $crate::kind::Type::Reference(<$to as $crate::kind::Referent>::ARTIFACT), $([$($attr)+])+),
        ] $($($rest)*)? }
    };
    (@field $head:tt [$($struct:tt)*] [$($table:tt)*]
        $(#[$($attr:tt)+])+ $field:ident: Option<&$to:ident> $(, $($rest:tt)*)?) => {
        $crate::__parameters! { @field $head [$($struct)*] [$($table)*
            $crate::__parameters!(@param $field, $crate::kind::Default::Absent,
                $crate::kind::Type::Reference(<$to as $crate::kind::Referent>::ARTIFACT), $([$($attr)+])+),
        ] $($($rest)*)? }
    };
    (@field $head:tt [$($struct:tt)*] [$($table:tt)*]
        $(#[$($attr:tt)+])+ $field:ident: Map<&$to:ident> $(, $($rest:tt)*)?) => {
        $crate::__parameters! { @field $head [$($struct)*] [$($table)*
            $crate::__parameters!(@param $field, $crate::kind::Default::Json("{}"),
                $crate::kind::Type::Map(&$crate::kind::Type::Reference(<$to as $crate::kind::Referent>::ARTIFACT)),
                $([$($attr)+])+),
        ] $($($rest)*)? }
    };
    (@field $head:tt [$($struct:tt)*] [$($table:tt)*]
        $(#[$($attr:tt)+])+ $field:ident: Option<$ty:ty> $(, $($rest:tt)*)?) => {
        $crate::__parameters! { @field $head [$($struct)* pub $field: Option<$ty>,] [$($table)*
            $crate::__parameters!(@param $field, $crate::kind::Default::Absent,
                $crate::__parameters!(@type $ty, $([$($attr)+])+), $([$($attr)+])+),
        ] $($($rest)*)? }
    };
    (@field $head:tt [$($struct:tt)*] [$($table:tt)*]
        $(#[$($attr:tt)+])+ $field:ident: $ty:ty = $default:tt $(, $($rest:tt)*)?) => {
        $crate::__parameters! { @field $head [$($struct)* pub $field: $ty,] [$($table)*
            $crate::__parameters!(@param $field, $crate::kind::Default::Json(stringify!($default)),
                $crate::__parameters!(@type $ty, $([$($attr)+])+), $([$($attr)+])+),
        ] $($($rest)*)? }
    };
    (@field $head:tt [$($struct:tt)*] [$($table:tt)*]
        $(#[$($attr:tt)+])+ $field:ident: $ty:ty $(, $($rest:tt)*)?) => {
        $crate::__parameters! { @field $head [$($struct)* pub $field: $ty,] [$($table)*
            $crate::__parameters!(@param $field, $crate::kind::Default::Required,
                $crate::__parameters!(@type $ty, $([$($attr)+])+), $([$($attr)+])+),
        ] $($($rest)*)? }
    };
    (@field [$(#[$meta:meta])* $vis:vis struct $name:ident] [$($struct:tt)*] [$($table:tt)*]) => {
        $(#[$meta])*
        #[derive(Debug, Clone, serde::Deserialize)]
        $vis struct $name { $($struct)* }

        impl $crate::kind::Parameters for $name {
            const PARAMS: &'static [$crate::kind::Param] = &[$($table)*];
        }

        impl $crate::kind::Parameter for $name {
            const TYPE: $crate::kind::Type =
                $crate::kind::Type::Record(<$name as $crate::kind::Parameters>::PARAMS);
        }
    };

    // A row of the table.
    (@param $field:ident, $default:expr, $ty:expr, $($attr:tt)+) => {
        $crate::kind::Param {
            name: $crate::kind::trimmed(stringify!($field)),
            ty: $ty,
            default: $default,
            semantic: $crate::__parameters!(@semantic $($attr)+),
            about: $crate::__parameters!(@about [] $($attr)+),
            aliases: $crate::__parameters!(@aliases $($attr)+),
        }
    };
    (@semantic [knob] $($rest:tt)*) => { false };
    (@semantic $first:tt $($rest:tt)*) => { $crate::__parameters!(@semantic $($rest)*) };
    (@semantic) => { true };
    (@about [] [about($text:expr)] $($rest:tt)*) => { $text };
    (@about [$($line:literal)*] [doc = $doc:literal] $($rest:tt)*) => {
        $crate::__parameters!(@about [$($line)* $doc] $($rest)*)
    };
    (@about [$($line:literal)+] $($rest:tt)*) => { $crate::kind::trimmed(concat!($($line),+)) };
    (@aliases [alias($($name:literal),+)] $($rest:tt)*) => { &[$($name),+] };
    (@aliases $first:tt $($rest:tt)*) => { $crate::__parameters!(@aliases $($rest)*) };
    (@aliases) => { &[] };

    // The type of a parameter: its Rust type's own, or a number's within a range.
    (@type $ty:ty, [range($($range:tt)+)] $($rest:tt)*) => {
        $crate::__parameters!(@bounds $ty, $($range)+).ty()
    };
    (@type $ty:ty, [each($($range:tt)+)] $($rest:tt)*) => {
        $crate::kind::Type::List(const {
            &$crate::__parameters!(@bounds <$ty as $crate::kind::Numbers>::Item, $($range)+).ty()
        })
    };
    (@type $ty:ty, $first:tt $($rest:tt)*) => { $crate::__parameters!(@type $ty, $($rest)*) };
    (@type $ty:ty,) => { <$ty as $crate::kind::Parameter>::TYPE };
    (@bounds $ty:ty, above $min:literal) => {
        $crate::kind::Bounds::<<$ty as $crate::kind::Number>::Bound> {
            min: $min, max: <$ty as $crate::kind::Number>::MOST, open: true,
        }
    };
    (@bounds $ty:ty, $min:literal..=$max:expr) => {
        $crate::kind::Bounds::<<$ty as $crate::kind::Number>::Bound> { min: $min, max: $max, open: false }
    };
    (@bounds $ty:ty, $min:literal..) => {
        $crate::kind::Bounds::<<$ty as $crate::kind::Number>::Bound> {
            min: $min, max: <$ty as $crate::kind::Number>::MOST, open: false,
        }
    };
    (@bounds $ty:ty, $bounds:path) => {{
        const BOUNDS: $crate::kind::Bounds<<$ty as $crate::kind::Number>::Bound> = $bounds;
        BOUNDS
    }};
}

/// Declares an enum of words; see the [module](self).
#[macro_export]
#[doc(hidden)]
macro_rules! __choices {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
        $vis enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant),+ }

        impl $name {
            /// Returns its word in the workflow.
            #[allow(dead_code, reason = "a workflow's word is not always needed again")]
            $vis const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl $crate::kind::Parameter for $name {
            const TYPE: $crate::kind::Type = $crate::kind::Type::Choice(&[$($word),+]);
        }
    };
}

/// Declares an enum of the types that a value may have, tried in this order; see the
/// [module](self).
#[macro_export]
#[doc(hidden)]
macro_rules! __one_of {
    ($(#[$meta:meta])* $vis:vis enum $name:ident {
        $($(#[$($attr:tt)+])* $variant:ident($ty:ty)),+ $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, serde::Deserialize)]
        #[serde(untagged)]
        $vis enum $name { $($variant($ty)),+ }

        impl $crate::kind::Parameter for $name {
            const TYPE: $crate::kind::Type =
                $crate::kind::Type::OneOf(&[$($crate::__parameters!(@type $ty, $([$($attr)+])*)),+]);
        }
    };
}

pub use crate::{__choices as choices, __one_of as one_of, __parameters as parameters};
