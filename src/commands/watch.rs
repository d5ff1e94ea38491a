//! `refrain watch`: the report on loopback, live.

mod http;
mod state;

use std::process::ExitCode;

use serde_json::json;

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::output;

use http::Server;
use state::Watched;

/// Serves the report until the process is ended.
pub fn watch(arguments: &cli::WatchArgs, format: Format) -> Result<ExitCode, CommandError> {
    let watched = Watched::open(&arguments.workflow)?;
    let server = Server::bind(arguments.port.unwrap_or(0))?;
    // Runs come first; where the system refuses, the page is served all the same.
    let _priority = rustix::process::nice(19);
    match format {
        Format::Json => output::json(&json!({ "refrain": 1, "address": server.address() })),
        _ => output::text(&format!("{}\n", server.address())),
    }
    output::remark("the address is a secret: whoever has it on this machine can read the report");
    server.serve(&watched)
}
