//! The requests of `generate` and `score` to a server, by rows and parameters.

use serde_json::Value;

use refrain_engine::kind::{RequestContext, Requests};

/// A request per sample of each row.
pub(crate) fn generate(context: &RequestContext<'_>) -> Requests {
    let number = |name: &str| context.params.get(name).and_then(Value::as_u64).unwrap_or(1);
    of_rows(context, number("samples"), number("max_new_tokens"))
}

/// A request per row, which generates one token; how many a question's options or a long row's
/// windows make is not known.
pub(crate) fn score(context: &RequestContext<'_>) -> Requests {
    let more = ["choices", "window"].iter().any(|name| context.params.contains_key(*name));
    match of_rows(context, 1, 1) {
        Requests::AtMost { .. } if more => Requests::Unknown,
        requests => requests,
    }
}

fn of_rows(context: &RequestContext<'_>, each: u64, tokens: u64) -> Requests {
    let backend = context.params.get("backend").and_then(Value::as_str);
    if !context.is_served && backend != Some("server") {
        return Requests::None;
    }
    match (context.rows)("data") {
        Some(rows) => {
            let requests = rows.saturating_mul(each);
            Requests::AtMost { requests, tokens_out: requests.saturating_mul(tokens) }
        }
        None => Requests::Unknown,
    }
}
