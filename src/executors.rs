//! The executors of a run, as the command line and the machine's configuration choose them.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use refrain_engine::graph::Node;
use refrain_engine::kind::machine::{ExecutorConfig, ExecutorKind};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::run::executor::{Executor, Placement, Processes, Slurm};

use crate::command_error::CommandError;
use crate::config::Config;
use crate::machine;

/// The word for this machine itself.
const LOCAL: &str = "local";
/// Variables that a job gets, where they are set here.
const VARIABLES: [&str; 10] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "TZ",
    "USER",
    "REFRAIN_TEST_LEASE_MS",
    "REFRAIN_TEST_NO_LOCKS",
];
/// Variables of Slurm that say something of its clusters, not of a job inside of which this runs.
const OF_CLUSTERS: [&str; 2] = ["SLURM_CONF", "SLURM_CLUSTERS"];
/// Limit of the bytes of a file of secrets.
const MAX_BYTES: u64 = 1 << 20;
/// Permissions of the group and of others.
const OTHERS: u32 = 0o077;

/// Makes the executors of a run: the named one for all nodes, or those to which the configuration
/// gives stages or kinds.
pub fn placements(named: Option<&str>, config: &Config) -> Result<Vec<Placement>, CommandError> {
    let configured = &config.machine.executors;
    match named {
        Some(LOCAL) => Ok(Vec::new()),
        Some(name) => {
            let usual = match name {
                "slurm" => Some(ExecutorConfig::new(ExecutorKind::Slurm)),
                "ssh" => Some(ExecutorConfig::new(ExecutorKind::Ssh)),
                _ => None,
            };
            let executor = configured.get(name).cloned().or(usual).ok_or_else(|| {
                let mut names: Vec<&str> = configured.keys().map(String::as_str).collect();
                names.extend([LOCAL, "slurm", "ssh"]);
                names.sort_unstable();
                names.dedup();
                let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
                CommandError::with_hint(
                    ErrorClass::Input,
                    format!("there is no executor `{name}`"),
                    format!(
                        "there are {}; docs/executors.md says how to add one",
                        names.join(", ")
                    ),
                )
            })?;
            Ok(vec![placement(name, executor, config, Box::new(|_| true))?])
        }
        None => {
            let named_ones =
                configured.iter().filter(|(_, e)| !e.stages.is_empty() || !e.kinds.is_empty());
            named_ones
                .map(|(name, executor)| {
                    let stages: HashSet<String> = executor.stages.iter().cloned().collect();
                    let kinds: HashSet<String> = executor.kinds.iter().cloned().collect();
                    let takes = move |node: &Node| {
                        stages.contains(&node.stage) || kinds.contains(node.kind_name())
                    };
                    placement(name, executor.clone(), config, Box::new(takes))
                })
                .collect()
        }
    }
}

fn placement(
    name: &str,
    executor: ExecutorConfig,
    config: &Config,
    takes: Box<dyn Fn(&Node) -> bool + Send + Sync>,
) -> Result<Placement, CommandError> {
    let program = executor.program.as_deref().or(machine::own_program()).ok_or_else(|| {
        CommandError::with_hint(
            ErrorClass::Environment,
            "the system does not tell where this program lies",
            "give `program` of the executor in the configuration",
        )
    })?;
    let mut command: Vec<OsString> = vec![program.into()];
    command.extend(["--log", "info"].map(OsString::from));
    if let Some(path) = config.path.as_deref().filter(|_| config.is_there) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        command.extend(["--config".into(), path.into_os_string()]);
    }
    command.push("node".into());
    if let Some(path) = &executor.environment_file {
        command.extend(["--environment".into(), path.into()]);
    }

    let names = VARIABLES.into_iter().chain(executor.variables.iter().map(String::as_str));
    let mut variables: Vec<(String, OsString)> =
        names.filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?))).collect();
    variables.sort();
    variables.dedup();
    let is_of_a_job = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("SLURM_") && !OF_CLUSTERS.contains(&&*name)
    };
    let hidden = std::env::vars_os().map(|(name, _)| name).filter(is_of_a_job).collect();
    let made: Box<dyn Executor> = match executor.kind {
        ExecutorKind::Slurm => Box::new(Slurm::new(&executor, variables, hidden)),
        ExecutorKind::Ssh => Box::new(Processes::new(&executor, variables)),
    };
    Ok(Placement { executor: made, name: name.to_owned(), config: executor, command, takes })
}

/// Reads the values of `${env:NAME}` from a file, which must be readable for its owner alone.
pub fn read_secrets(path: &Path) -> Result<Vec<(String, String)>, CommandError> {
    let shown = path.display();
    let refused = |error: std::io::Error| {
        let message = format!("cannot read the environment file `{shown}`: {error}");
        CommandError::new(ErrorClass::Environment, message)
    };
    let file = refrain_cache::open_plain(path).map_err(refused)?;
    let metadata: fs::Metadata = file.metadata().map_err(refused)?;
    let user = rustix::process::geteuid().as_raw();
    if metadata.mode() & OTHERS != 0 || metadata.uid() != user {
        return Err(CommandError::with_hint(
            ErrorClass::Environment,
            format!("`{shown}` holds secrets, and others may read it"),
            format!("`chmod 600 {shown}`"),
        ));
    }
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).map_err(refused)?;

    let lines = text.lines().map(str::trim).enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| {
            let (name, value) = line.split_once('=').ok_or_else(|| {
                CommandError::with_hint(
                    ErrorClass::Environment,
                    format!("line {} of `{shown}` has no `=`", number + 1),
                    "write `NAME=VALUE`, one a line",
                )
            })?;
            Ok((name.trim().to_owned(), value.to_owned()))
        })
        .collect()
}
