//! The `refrain` command: arguments, terminal and exit codes. All logic is in the libraries.

mod cli;
mod commands;
mod failure;
mod machine;
mod output;
mod panics;
mod progress;
mod session;
mod units;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

use refrain_cache::write::faults::{self, Fault, ParseFaultError};

use crate::failure::{Failure, INPUT};

/// The tensors of a training step are tens of megabytes, made and dropped at every layer. The system's allocator
/// gives each back to the kernel and has it cleared again: a fifth of the time of the quickstart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    panics::install();
    let arguments = cli::Arguments::parse();
    let fault = match fault() {
        Ok(fault) => fault,
        Err(failure) => return failure.report(arguments.format),
    };
    #[cfg(feature = "mistralrs")]
    refrain_stages::backend::register_mistralrs(&refrain_mistralrs::Mistralrs);
    let done = catch_unwind(AssertUnwindSafe(|| commands::dispatch(&arguments)));
    let code = match done {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => failure.report(arguments.format),
        // The hook has said where, and asked for a report.
        Err(_) => ExitCode::from(failure::ENVIRONMENT),
    };
    if fault == Some(Fault::Count) {
        say_counted();
    }
    code
}

/// The fault that a test asks for, armed.
fn fault() -> Result<Option<Fault>, Failure> {
    let Ok(text) = std::env::var("REFRAIN_FAULT") else { return Ok(None) };
    let fault =
        text.parse().map_err(|error: ParseFaultError| Failure::new(INPUT, error.to_string()))?;
    faults::arm(fault);
    Ok(Some(fault))
}

#[expect(clippy::print_stderr, reason = "a test asked for it")]
fn say_counted() {
    let (steps, writes) = faults::counted();
    eprintln!("{steps} steps, {writes} writes");
}
