//! `refrain explain`: what differs between a node of the last run and of now.

use std::process::ExitCode;

use serde_json::json;

use refrain_engine::plan;
use refrain_engine::verify::difference;

use crate::cli::{self, Format};
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

/// Explains one node.
pub fn explain(arguments: &cli::Node, format: Format) -> Result<ExitCode, Failure> {
    let session = Session::open(&arguments.workflow)?;
    let store = session.store()?;
    let id = session.node(&arguments.node)?;
    let explanation = plan::explain(&session.graph, &store, &session.lock()?.keys(), id)?;
    if format == Format::Json {
        let differences: Vec<_> = explanation
            .differences
            .iter()
            .map(|d| json!({ "path": d.path, "before": d.before, "after": d.after }))
            .collect();
        output::json(&json!({
            "refrain": 1,
            "node": explanation.node,
            "before": explanation.before.map(|k| k.to_string()),
            "now": explanation.now.map(|k| k.to_string()),
            "cached": explanation.cached,
            "waits": explanation.waits,
            "differences": differences,
            "manifest": explanation.manifest,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!("`{}`", explanation.node));
    let words = match (explanation.before, explanation.now) {
        (_, None) => {
            let on: Vec<String> = explanation.waits.iter().map(|n| format!("`{n}`")).collect();
            format!("its key is not known before {} ran", on.join(", "))
        }
        (None, Some(_)) => "it is not in the lock: no run has made it yet".into(),
        (Some(a), Some(b)) if a == b => "nothing differs from the last run".into(),
        (Some(_), Some(_)) if explanation.differences.is_empty() => {
            "its key differs from the last run's, whose record the cache does not hold".into()
        }
        _ => "differs from the last run:".into(),
    };
    output::line(&words);
    for d in &explanation.differences {
        output::line(&format!("  {}", difference(d)));
    }
    if explanation.now.is_some() {
        output::line(if explanation.cached { "its result is in the cache" } else { "it would be computed" });
    }
    if let Some(manifest) = &explanation.manifest {
        output::line("its key is made of:");
        for (path, value) in manifest.leaves() {
            output::line(&format!("  {path}: {value}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
