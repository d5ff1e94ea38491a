//! The `refrain` command: arguments, terminal and exit codes. All logic is in the libraries.

mod bundle;
mod cli;
mod command_error;
mod commands;
mod config;
mod escape;
mod events;
mod executors;
#[cfg(feature = "faults")]
mod faults;
mod fetches;
mod hub;
mod human;
mod interrupt;
mod machine;
mod output;
mod panics;
mod progress_line;
mod remote;
mod session;
mod snippet;
mod terminal;
mod trackers;
mod up_to_date;
mod usage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use refrain_engine::language::explain::ErrorClass;

use crate::cli::Arguments;
use crate::command_error::{CommandError, exit_code};
use crate::events::Observers;

/// The tensors of a training step are tens of megabytes, made and dropped at every layer. The
/// system's allocator returns each to the kernel, which clears it again: a fifth of the quickstart.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything that could start a thread.
    if std::env::args_os().nth(1).is_some_and(|word| word == refrain_sandbox::SUPERVISE) {
        return refrain_sandbox::supervise();
    }
    panics::install();
    let arguments = match usage::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    #[cfg(feature = "faults")]
    let armed = match faults::arm() {
        Ok(armed) => armed,
        Err(failure) => return failure.report(arguments.format),
    };
    #[cfg(feature = "mistralrs")]
    refrain_stages::backend::register_mistralrs(&refrain_mistralrs::Mistralrs);

    let done = catch_unwind(AssertUnwindSafe(|| command(&arguments)));
    let code = match done {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => failure.report(arguments.format),
        // The hook has reported it.
        Err(_) => ExitCode::from(ErrorClass::Environment.exit_code()),
    };
    let code = exit_code(code, arguments.format);
    #[cfg(feature = "faults")]
    armed.report();
    code
}

/// Runs the command with its layers installed.
fn command(arguments: &Arguments) -> Result<ExitCode, CommandError> {
    let observers = Observers::install(arguments)?;
    let done = commands::dispatch(arguments, &observers);
    let finished = observers.finish();
    done.and_then(|code| finished.map(|()| code))
}
