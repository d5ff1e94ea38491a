//! `refrain check`: the static errors alone.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::{Format, WorkflowArgs};
use crate::command_error::CommandError;
use crate::output;
use crate::session::{Opened, Session, Sources};

/// Reads and resolves the workflow; what is wrong with it is the failure.
pub fn check(arguments: &WorkflowArgs, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::of(Opened::new(arguments)?, arguments, Sources::Present)?;
    let unread = session.unread();
    if !unread.items.is_empty() {
        return Err(unread.into());
    }
    let (stages, nodes) = (session.graph.workflow.stages.len(), session.graph.nodes.len());
    match format {
        Format::Json => output::json(&json!({
            "refrain": 1,
            "stages": stages,
            "nodes": nodes,
            "unfetched": session.unfetched(),
        })),
        _ => {
            output::line(&format!(
                "`{}` is fine: {}, {}",
                arguments.workflow.display(),
                output::count(stages, "stage"),
                output::count(nodes, "node")
            ));
            session.tell_unfetched();
        }
    }
    Ok(ExitCode::SUCCESS)
}
