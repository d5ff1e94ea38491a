//! Reads the command line; what is wrong with it is said in the format that it asks for.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use refrain_engine::language::explain::ErrorClass;

use crate::cli::{Arguments, Command, Format};
use crate::command_error::{CommandError, exit_code};
use crate::escape::no_color;
use crate::output;

/// Reads the arguments; otherwise what had to be said is said, and this is the exit code.
pub fn parse() -> Result<Arguments, ExitCode> {
    let error = match Arguments::try_parse().and_then(check) {
        Ok(arguments) => return Ok(arguments),
        Err(error) => error,
    };
    if !error.use_stderr() {
        let page = error.render();
        let styled = std::io::stdout().is_terminal() && !no_color();
        output::text(&if styled { page.ansi().to_string() } else { page.to_string() });
        return Err(exit_code(ExitCode::SUCCESS, Format::Human));
    }
    if wants_json(std::env::args_os()) {
        return Err(failure(&error).report(Format::Json));
    }
    // Where stderr is gone, nobody can be told.
    let _unread = error.print();
    Err(ExitCode::from(ErrorClass::Input.exit_code()))
}

/// Refuses a format that the command does not have.
fn check(arguments: Arguments) -> Result<Arguments, clap::Error> {
    let has_format = match &arguments.command {
        Command::Results(_) => true,
        // A plan is no table of results.
        Command::Run(run) => !run.dry_run,
        Command::Kind(_) | Command::Report(_) => arguments.format == Format::Markdown,
        _ => false,
    };
    if arguments.format.is_of_tables() && !has_format {
        let message = match arguments.format {
            Format::Csv => "`--format csv` works only with `refrain results` and `refrain run`",
            _ => {
                "`--format markdown` works only with `refrain results`, `refrain run`, `refrain report` \
                 and `refrain kind`"
            }
        };
        return Err(Arguments::command().error(ErrorKind::ArgumentConflict, message));
    }
    Ok(arguments)
}

/// Whether the arguments ask for JSON, which they may though they cannot be read.
fn wants_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<OsString> = arguments.collect();
    let apart = arguments.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
    apart || arguments.iter().any(|argument| argument == "--format=json")
}

/// Turns clap's message, `error: …`, and its paragraphs of advice into a failure.
fn failure(error: &clap::Error) -> CommandError {
    let missing =
        [ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, ErrorKind::MissingSubcommand];
    if missing.contains(&error.kind()) {
        let hint = "`refrain --help` lists the commands";
        return CommandError::with_hint(ErrorClass::Input, "a command is missing", hint);
    }
    let text = error.render().to_string();
    let mut parts = text.split("\n\n").map(one_line).filter(|part| !part.is_empty());
    let message = parts.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let hints: Vec<String> = parts
        .filter(|part| !part.starts_with("For more information"))
        .map(|part| part.strip_prefix("tip: ").unwrap_or(&part).to_owned())
        .collect();
    match hints.is_empty() {
        true => CommandError::new(ErrorClass::Input, message),
        false => CommandError::with_hint(ErrorClass::Input, message, hints.join("; ")),
    }
}

/// Joins the lines of a paragraph.
fn one_line(paragraph: &str) -> String {
    paragraph.split_whitespace().collect::<Vec<_>>().join(" ")
}
