//! `refrain completions`: the completions for a shell.

use std::process::ExitCode;

use clap::CommandFactory;
use serde_json::json;

use crate::cli::{Arguments, CompletionsArgs, Format};
use crate::command_error::CommandError;
use crate::output;

/// Prints the script.
pub fn completions(arguments: &CompletionsArgs, format: Format) -> Result<ExitCode, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "refrain", &mut script);
    let script = String::from_utf8_lossy(&script);
    if format == Format::Json {
        output::json(
            &json!({ "refrain": 1, "shell": arguments.shell.to_string(), "script": script }),
        );
    } else {
        output::text(&script);
    }
    Ok(ExitCode::SUCCESS)
}
