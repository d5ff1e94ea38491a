//! `refrain man`: the manual pages.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use serde_json::json;

use refrain_cache::write::{create_dir_all, write_atomic};
use refrain_engine::language::explain::ErrorClass;

use crate::cli::{self, Arguments, Format};
use crate::command_error::CommandError;
use crate::output;

/// Prints the page of `refrain`, or writes one for each command.
pub fn man(arguments: &cli::ManArgs, format: Format) -> Result<ExitCode, CommandError> {
    let mut command = Arguments::command();
    command.build();
    let Some(folder) = &arguments.dir else {
        let page = page(command)?;
        match format {
            Format::Json => output::json(&json!({ "refrain": 1, "page": page })),
            _ => output::text(&page),
        }
        return Ok(ExitCode::SUCCESS);
    };
    create_dir_all(folder).map_err(|e| CommandError::cannot_write(folder, &e))?;
    let mut pages = Vec::new();
    write(command, folder, &mut pages)?;
    match format {
        Format::Json => output::json(&json!({ "refrain": 1, "pages": pages })),
        _ => output::line(&format!(
            "{} in `{}`",
            output::count(pages.len(), "page"),
            folder.display()
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `refrain-cache-gc.1` for `refrain cache gc`, and so for every command.
fn write(command: Command, folder: &Path, pages: &mut Vec<String>) -> Result<(), CommandError> {
    // `help` is about the others, and each of them has a page.
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        write(below.clone(), folder, pages)?;
    }
    let path = folder.join(Man::new(command.clone()).get_filename());
    write_atomic(&path, page(command)?.as_bytes())
        .map_err(|e| CommandError::cannot_write(&path, &e))?;
    pages.push(path.display().to_string());
    Ok(())
}

fn page(command: Command) -> Result<String, CommandError> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page).map_err(|e| {
        CommandError::new(
            ErrorClass::Environment,
            format!("the manual page cannot be written: {e}"),
        )
    })?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
