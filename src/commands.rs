//! The commands, one file each.

mod bundle;
mod cache;
mod check;
mod compare;
mod completions;
mod diff;
mod doctor;
mod explain;
mod export;
mod fetch;
mod graph;
mod init;
mod kind;
mod log;
mod man;
mod node;
mod plan;
mod report;
mod results;
mod run;
mod schema;
mod show;
mod verify;
mod watch;

use std::process::ExitCode;

use crate::cli::{Arguments, Command};
use crate::command_error::CommandError;
use crate::events::Observers;

/// Runs the command of the command line.
pub fn dispatch(arguments: &Arguments, observers: &Observers) -> Result<ExitCode, CommandError> {
    let (format, config) = (arguments.format, arguments.config.as_deref());
    match &arguments.command {
        Command::Run(run) => run::run(run, config, format, observers),
        Command::Plan(plan) => plan::plan(plan, config, format),
        Command::Check(workflow) => check::check(workflow, format),
        Command::Fetch(arguments) => fetch::fetch(arguments, config, format),
        Command::Explain(node) => explain::explain(node, format),
        Command::Show(show) => show::show(show, format),
        Command::Results(arguments) => results::results(arguments, format),
        Command::Compare(arguments) => compare::compare(arguments, format),
        Command::Report(arguments) => report::report(arguments, format),
        Command::Init(arguments) => init::init(arguments, format),
        Command::Log(arguments) => log::log(arguments, format),
        Command::Watch(arguments) => watch::watch(arguments, format),
        Command::Graph(arguments) => graph::graph(arguments, format),
        Command::Export(arguments) => export::export(arguments, format),
        Command::Bundle(arguments) => bundle::bundle(arguments, format),
        Command::Verify(verify) => verify::verify(verify, config, format),
        Command::Cache(command) => cache::cache(command, format),
        Command::Kind(arguments) => kind::kind(arguments, format),
        Command::Diff(arguments) => diff::diff(arguments, format),
        Command::Doctor => doctor::doctor(config, format),
        Command::Schema => schema::schema(),
        Command::Completions(completions) => completions::completions(completions, format),
        Command::Man(man) => man::man(man, format),
        Command::Node(node) => node::node(node, config, format, observers),
    }
}
