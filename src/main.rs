//! The `refrain` command: arguments, terminal and exit codes. All logic is in the libraries.

mod cli;
mod commands;
mod failure;
mod output;
mod progress;
mod session;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    #[cfg(feature = "mistralrs")]
    refrain_stages::backend::register_mistralrs(&refrain_mistralrs::Mistralrs);
    match commands::dispatch(&arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(arguments.format),
    }
}
