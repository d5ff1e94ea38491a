//! The `refrain` command: arguments, terminal and exit codes. All logic is in the libraries.

mod cli;
mod commands;
mod failure;
mod output;
mod panics;
mod progress;
mod session;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    panics::install();
    let arguments = cli::Arguments::parse();
    match commands::dispatch(&arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(arguments.format),
    }
}
