//! The `refrain` command: arguments, terminal and exit codes. All logic is in the libraries.

mod cli;
mod commands;
mod failure;
mod machine;
mod output;
mod panics;
mod progress;
mod session;

use std::process::ExitCode;

use clap::Parser;

/// The tensors of a training step are tens of megabytes, made and dropped at every layer. The system's allocator
/// gives each back to the kernel and has it cleared again: a fifth of the time of the quickstart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    panics::install();
    let arguments = cli::Arguments::parse();
    #[cfg(feature = "mistralrs")]
    refrain_stages::backend::register_mistralrs(&refrain_mistralrs::Mistralrs);
    match commands::dispatch(&arguments) {
        Ok(code) => code,
        Err(failure) => failure.report(arguments.format),
    }
}
