//! The JSON of a record in its log: flat, with the fields of the result among the others.

use serde::{Deserialize, Serialize, Serializer};

use super::records::{Record, RecordSummary};
use crate::artifact::Artifacts;
use crate::manifest::{Key, Manifest};
use crate::result::{Metric, NodeResult, Usage};

/// A record as it is read.
#[derive(Deserialize)]
pub(super) struct RecordLine {
    key: Key,
    kind: String,
    outputs: Artifacts,
    metrics: Vec<Metric>,
    profile: String,
    #[serde(default)]
    usage: Option<Usage>,
    seconds: f64,
    manifest: Manifest,
    version: String,
}

/// The part of a record that makes a summary; reading the manifest would take most of the time.
#[derive(Deserialize)]
pub(super) struct SummaryLine {
    outputs: Artifacts,
    metrics: Vec<Metric>,
    profile: String,
    #[serde(default)]
    usage: Option<Usage>,
    seconds: f64,
}

/// A record as it is written.
#[derive(Serialize)]
struct WrittenLine<'a> {
    key: &'a Key,
    kind: &'a str,
    outputs: &'a Artifacts,
    metrics: &'a [Metric],
    profile: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    seconds: f64,
    manifest: &'a Manifest,
    version: &'a str,
}

impl From<RecordLine> for Record {
    fn from(line: RecordLine) -> Self {
        let RecordLine { key, kind, outputs, metrics, profile, usage, seconds, manifest, version } =
            line;
        let result = NodeResult { artifacts: outputs, metrics, profile, usage };
        Self { key, kind, result, seconds, manifest, version }
    }
}

impl From<SummaryLine> for RecordSummary {
    fn from(line: SummaryLine) -> Self {
        let SummaryLine { outputs, metrics, profile, usage, seconds } = line;
        Self { result: NodeResult { artifacts: outputs, metrics, profile, usage }, seconds }
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = WrittenLine {
            key: &self.key,
            kind: &self.kind,
            outputs: &self.result.artifacts,
            metrics: &self.result.metrics,
            profile: &self.result.profile,
            usage: self.result.usage,
            seconds: self.seconds,
            manifest: &self.manifest,
            version: &self.version,
        };
        line.serialize(serializer)
    }
}
