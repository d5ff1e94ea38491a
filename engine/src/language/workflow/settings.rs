//! Reads the settings beside a stage's kind: description, resources, retries, a time limit. None can change a result.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::kind::{Param, Type, coerce};
use crate::language::diagnostic::Diagnostic;
use crate::language::units;
use crate::language::yaml::{Key, Node, Yaml};

/// The keys of the settings.
pub const NAMES: [&str; 4] = ["description", "resources", "retry", "timeout"];

/// The parameters of `resources`.
pub static RESOURCES: &[Param] = &[
    Param::optional("threads", Type::Int { min: 1, max: 4096 }, "threads that the stage may use"),
    Param::optional(
        "memory",
        Type::Text,
        "memory that the stage takes, such as `4GB`; a command is held to it",
    ),
    Param::optional("gpus", Type::Int { min: 1, max: 1024 }, "graphics cards that the stage takes"),
    Param::optional("batch", Type::Int { min: 1, max: 1_000_000 }, "rows computed together"),
    Param::optional(
        "requests",
        Type::Int { min: 1, max: 4096 },
        "requests that a server of a model is asked at once; 32 where not given",
    ),
];

/// The parameters of `retry`, if it is not a number.
pub static RETRY: &[Param] = &[
    Param::required(
        "times",
        Type::Int { min: 1, max: 100 },
        "how often a failed stage is tried again",
    ),
    Param::default("wait", Type::Text, "\"1s\"", "the time before it is tried again, such as `2s`"),
    Param::default(
        "factor",
        Type::Float { min: 1.0, max: 100.0, open: false },
        "2.0",
        "by how much longer the wait is each time",
    ),
];

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// The settings beside a stage's kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// A sentence for people.
    pub description: Option<String>,
    /// Threads that the stage may use.
    pub threads: Option<usize>,
    /// Bytes of memory that the stage takes.
    pub memory: Option<u64>,
    /// Graphics cards that the stage takes.
    pub gpus: Option<usize>,
    /// Rows that are computed together.
    pub batch: Option<usize>,
    /// Requests that a server is asked at once.
    pub requests: Option<usize>,
    /// Its retries after a failure.
    pub retry: Option<Retry>,
    /// The longest that one attempt may take.
    pub timeout: Option<Duration>,
}

/// The retries of a failed stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// The largest number of retries.
    pub times: u32,
    /// The wait before the first retry.
    pub wait: Duration,
    /// The factor by which each further wait is longer, at least 1.
    pub factor: f64,
}

impl Retry {
    /// Returns the wait after the failed attempt of that number, from 1; `None` after the last.
    pub fn pause(&self, attempt: u32) -> Option<Duration> {
        let longer = self.factor.powi(attempt.saturating_sub(1) as i32);
        let seconds = (self.wait.as_secs_f64() * longer).min(LONGEST_WAIT.as_secs_f64());
        (attempt <= self.times).then(|| Duration::from_secs_f64(seconds))
    }
}

/// Reads the settings among the entries of a stage.
pub(super) fn read(entries: &[(Key, Node)], problems: &mut Vec<Diagnostic>) -> Settings {
    let mut settings = Settings::default();
    for (key, node) in entries {
        match (key.text.as_str(), &node.value) {
            ("description", Yaml::Text(text)) => settings.description = Some(text.clone()),
            ("description", _) => {
                problems.push(Diagnostic::at(node.span.clone(), "`description` must be text"));
            }
            ("resources", _) => {
                let resolved = coerce(RESOURCES, node, "`resources`", problems);
                let values = &resolved.values;
                let number =
                    |name: &str| values.get(name).and_then(Value::as_u64).map(|v| v as usize);
                (settings.threads, settings.gpus) = (number("threads"), number("gpus"));
                (settings.batch, settings.requests) = (number("batch"), number("requests"));
                let place = resolved.place("memory").unwrap_or(node.span.clone());
                settings.memory = quantity(values, "memory", units::size)
                    .and_then(|read| noted(read, "`memory` is not a size", place, problems));
            }
            ("retry", _) => settings.retry = retry(node, problems),
            ("timeout", Yaml::Text(_) | Yaml::Int(..) | Yaml::Float(..)) => {
                let text = node.text().unwrap_or_default();
                let read = units::duration(&text);
                settings.timeout =
                    noted(read, "`timeout` is not a duration", node.span.clone(), problems);
            }
            ("timeout", _) => problems.push(
                Diagnostic::at(node.span.clone(), "`timeout` is not a duration").hint(
                    "write a whole number above 0 and its unit, such as `90s`, `30m` or `2h`",
                ),
            ),
            _ => {}
        }
    }
    settings
}

/// Reads `retry: 3`, or a mapping.
fn retry(node: &Node, problems: &mut Vec<Diagnostic>) -> Option<Retry> {
    let times = Key { text: "times".into(), span: node.span.clone() };
    let short = Node::new(node.span.clone(), Yaml::Map(vec![(times, node.clone())]));
    let node = if matches!(node.value, Yaml::Map(_)) { node } else { &short };
    let before = problems.len();
    let resolved = coerce(RETRY, node, "`retry`", problems);
    if problems.len() > before {
        return None;
    }
    let values = &resolved.values;
    let place = resolved.place("wait").unwrap_or(node.span.clone());
    let wait = noted(
        quantity(values, "wait", units::duration)?,
        "`wait` is not a duration",
        place,
        problems,
    )?;
    let times = values.get("times").and_then(Value::as_u64)? as u32;
    Some(Retry { times, wait, factor: values.get("factor").and_then(Value::as_f64)? })
}

/// Reads a text of the mapping with `read`; `None` where it is not given.
fn quantity<T>(values: &Map<String, Value>, name: &str, read: fn(&str) -> T) -> Option<T> {
    values.get(name).and_then(Value::as_str).map(read)
}

/// Returns the value that was read, or reports the problem.
fn noted<T>(
    read: Result<T, String>,
    message: &str,
    span: crate::language::diagnostic::Span,
    problems: &mut Vec<Diagnostic>,
) -> Option<T> {
    read.map_err(|hint| problems.push(Diagnostic::at(span, message).hint(hint))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_grows_to_an_hour_and_ends_with_the_last_attempt() {
        let retry = Retry { times: 3, wait: Duration::from_secs(2), factor: 3.0 };
        let waits: Vec<Option<u64>> =
            (1..=4).map(|n| retry.pause(n).map(|w| w.as_secs())).collect();
        assert_eq!(waits, [Some(2), Some(6), Some(18), None]);
        let long = Retry { times: 100, wait: Duration::from_secs(60), factor: 100.0 };
        assert_eq!(long.pause(100), Some(LONGEST_WAIT));
    }
}
