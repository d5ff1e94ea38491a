//! Errors of servers: what one says, where, and what to do.

use std::time::Duration;

use serde_json::Value;

use refrain_engine::kind::StageError;

use super::Served;
use super::client::CallError;

/// Limit on the time of a question about the server itself.
pub(super) const QUICK: Duration = Duration::from_secs(10);
/// Names that a message lists.
const LISTED: usize = 20;

impl Served {
    /// Names the model and its server.
    pub(super) fn label(&self) -> String {
        format!("`{}` at `{}`", self.name, self.client.address)
    }

    /// The error of a server that does not answer a request.
    pub(super) fn refused(&self, error: CallError) -> StageError {
        let address = &self.client.address;
        let environment = |message: String, hint: &str| StageError::Environment {
            message,
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        };
        match error {
            CallError::Stopped => StageError::Cancelled,
            CallError::Refused { status: 401 | 403, why } => environment(
                format!("`{address}` refuses the key: {why}"),
                "give the model `key: \"${env:NAME}\"`, and the variable the server's key",
            ),
            CallError::Refused { status: 404, why } => {
                let offered = self.client.get(&format!("{address}/models"), QUICK);
                let offered = offered.map(|offered| names(&offered)).unwrap_or_default();
                let hint = match offered.as_slice() {
                    [] => {
                        "an address mostly ends in `/v1`; `name` is what the server calls the model"
                            .to_owned()
                    }
                    names => format!("it offers {}", listed(names)),
                };
                environment(format!("{} is not there: {why}", self.label()), &hint)
            }
            CallError::Refused { why, .. } => {
                environment(format!("{} refuses the request: {why}", self.label()), "")
            }
            CallError::Temporary { why, .. } => environment(
                format!("{} does not answer: {why}", self.label()),
                "what has arrived is kept: run again once the server answers",
            ),
            CallError::Unreachable(why) => environment(
                format!("`{address}` cannot be reached: {why}"),
                "is the server started, and is this its address, up to `/v1`?",
            ),
        }
    }

    /// The error of an answer that is none.
    pub(super) fn wrong(&self, why: &str) -> StageError {
        StageError::Environment {
            message: format!("the answer of {} cannot be used: {why}", self.label()),
            hint: None,
        }
    }

    /// As [`Served::refused`], of a row.
    pub(super) fn row_refused(&self, error: CallError, row: &str) -> StageError {
        match error {
            CallError::Refused { status: 400 | 413 | 422, why } if is_about_length(&why) => {
                StageError::with_hint(
                    format!("{row} is too long for {}: {why}", self.label()),
                    "shorten the row, or serve the model with a longer context",
                )
            }
            CallError::Refused { status: 400 | 413 | 422, why } => {
                StageError::failed(format!("{row}: {} refuses it: {why}", self.label()))
            }
            error => self.refused(error),
        }
    }

    /// As [`Served::wrong`], of a row.
    pub(super) fn row_wrong(&self, why: &str, row: &str) -> StageError {
        StageError::failed(format!("{row}: the answer of {} cannot be used: {why}", self.label()))
    }
}

/// Whether a server's words are about a context that is too short.
fn is_about_length(why: &str) -> bool {
    let why = why.to_lowercase();
    let about = ["length", "size", "window", "exceed", "too long", "too large"];
    why.contains("context") && about.iter().any(|word| why.contains(word))
}

/// The names of the models that a server offers.
pub(super) fn names(offered: &Value) -> Vec<String> {
    let models = offered.get("data").and_then(Value::as_array).into_iter().flatten();
    let name = |model: &Value| Some(model.get("id")?.as_str()?.to_owned());
    models.filter_map(name).collect()
}

/// Lists names, as many as a reader takes in.
pub(super) fn listed(names: &[String]) -> String {
    let mut listed: Vec<String> =
        names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    if names.len() > LISTED {
        listed.push("…".into());
    }
    listed.join(", ")
}
