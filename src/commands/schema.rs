//! `refrain schema`: the JSON Schema of the language.

use std::process::ExitCode;

use refrain_engine::language::schema;

use crate::command_error::CommandError;
use crate::output;

/// Prints the schema, which is JSON in every format.
pub fn schema() -> Result<ExitCode, CommandError> {
    output::json(&schema::schema(&refrain_stages::kinds()));
    Ok(ExitCode::SUCCESS)
}
