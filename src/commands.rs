//! The commands, one file each.

mod check;
mod explain;
mod graph;
mod plan;
mod results;
mod run;
mod show;
mod verify;

use std::process::ExitCode;

use crate::cli::{Arguments, Command};
use crate::failure::Failure;

/// Runs the command of the command line.
pub fn dispatch(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let format = arguments.format;
    match &arguments.command {
        Command::Run(run) => run::run(run, format),
        Command::Plan(plan) => plan::plan(plan, format),
        Command::Check(workflow) => check::check(workflow, format),
        Command::Explain(node) => explain::explain(node, format),
        Command::Show(show) => show::show(show, format),
        Command::Results(workflow) => results::results(workflow, format),
        Command::Graph(workflow) => graph::graph(workflow, format),
        Command::Verify(verify) => verify::verify(verify, format),
    }
}
