//! The result of a node, as records keep it.

use serde::{Deserialize, Serialize};

use crate::artifact::{Artifact, Artifacts};

/// Everything that a node produced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeResult {
    /// The artifacts by the names of the outputs.
    pub artifacts: Artifacts,
    /// The metrics of the node, in the order in which the stage reports them.
    pub metrics: Vec<Metric>,
    /// Everything that can move the last bits: backend, device, instruction set.
    pub profile: String,
    /// The requests that were made for it to a server of a model.
    pub usage: Option<Usage>,
}

/// Requests to a server of a model, with their tokens as the server counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The number of requests that were answered.
    pub requests: u64,
    /// Tokens that were sent; `None` where the server does not count them.
    #[serde(default)]
    pub tokens_in: Option<u64>,
    /// Tokens that were generated.
    #[serde(default)]
    pub tokens_out: Option<u64>,
}

/// The name of a node's main output.
pub const MAIN: &str = "main";

impl NodeResult {
    /// A result of one main artifact.
    pub fn main(artifact: Artifact) -> Self {
        let artifacts = [(MAIN.to_owned(), artifact)].into();
        Self { artifacts, ..Self::default() }
    }
}

/// One metric of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name, such as `accuracy`.
    pub metric: String,
    /// The value; NaN where it is not defined. In JSON NaN is `null`, the infinities are `"inf"`
    /// and `"-inf"`.
    #[serde(with = "any_float")]
    pub value: f64,
    /// The number of observations.
    pub n: u64,
    /// The lower end of the confidence interval.
    #[serde(default)]
    pub low: Option<f64>,
    /// The upper end of the confidence interval.
    #[serde(default)]
    pub high: Option<f64>,
}

/// Whether metrics are the same; an undefined one equals itself.
pub fn same_metrics(a: &[Metric], b: &[Metric]) -> bool {
    let undefined = |a: &Metric, b: &Metric| {
        a.value.is_nan()
            && b.value.is_nan()
            && Metric { value: 0.0, ..a.clone() } == Metric { value: 0.0, ..b.clone() }
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || undefined(a, b))
}

/// Floats in JSON, which knows neither NaN nor infinity.
mod any_float {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        match *value {
            value if value.is_nan() => serializer.serialize_none(),
            f64::INFINITY => serializer.serialize_str("inf"),
            f64::NEG_INFINITY => serializer.serialize_str("-inf"),
            value => serializer.serialize_f64(value),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        match Option::<Written>::deserialize(deserializer)? {
            None => Ok(f64::NAN),
            Some(Written::Number(value)) => Ok(value),
            Some(Written::Text(text)) if text == "inf" => Ok(f64::INFINITY),
            Some(Written::Text(text)) if text == "-inf" => Ok(f64::NEG_INFINITY),
            Some(Written::Text(text)) => Err(D::Error::custom(format!("`{text}` is not a number"))),
        }
    }
}
