//! The commands, one file each.

mod cache;
mod check;
mod compare;
mod completions;
mod diff;
mod doctor;
mod explain;
mod graph;
mod kind;
mod man;
mod plan;
mod results;
mod run;
mod schema;
mod show;
mod verify;

use std::process::ExitCode;

use crate::cli::{Arguments, Command};
use crate::command_error::CommandError;
use crate::events::Observers;

/// Runs the command of the command line.
pub fn dispatch(arguments: &Arguments, observers: &Observers) -> Result<ExitCode, CommandError> {
    let format = arguments.format;
    match &arguments.command {
        Command::Run(run) => run::run(run, arguments.config.as_deref(), format, observers),
        Command::Plan(plan) => plan::plan(plan, arguments.config.as_deref(), format),
        Command::Check(workflow) => check::check(workflow, format),
        Command::Explain(node) => explain::explain(node, format),
        Command::Show(show) => show::show(show, format),
        Command::Results(arguments) => results::results(arguments, format),
        Command::Compare(arguments) => compare::compare(arguments, format),
        Command::Graph(arguments) => graph::graph(arguments, format),
        Command::Verify(verify) => verify::verify(verify, arguments.config.as_deref(), format),
        Command::Cache(command) => cache::cache(command, format),
        Command::Kind(arguments) => kind::kind(arguments, format),
        Command::Diff(arguments) => diff::diff(arguments, format),
        Command::Doctor => doctor::doctor(arguments.config.as_deref(), format),
        Command::Schema => schema::schema(),
        Command::Completions(completions) => completions::completions(completions, format),
        Command::Man(man) => man::man(man, format),
    }
}
