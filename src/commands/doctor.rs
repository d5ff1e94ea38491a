//! `refrain doctor`: what this machine offers.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_engine::kind::machine::{ExecutorKind, Machine, ServerAccess};
use refrain_engine::language::explain::ErrorClass;
use refrain_sandbox::{Interpreter, InterpreterError, LayerState, Sandbox};
use refrain_stages::python::{PACKAGES, Python, PythonError};

use crate::cli::Format;
use crate::command_error::CommandError;
use crate::config::Config;
use crate::{machine, output};

/// One finding.
struct Found {
    config: Config,
    trainer: Result<Python, PythonError>,
    layers: Vec<LayerState>,
    /// The interpreter of the sandbox.
    interpreter: Result<Interpreter, InterpreterError>,
}

/// Lists the configuration, the Python of trainers, the layers of the sandbox, and the interpreter
/// that runs in it.
pub fn doctor(config: Option<&Path>, format: Format) -> Result<ExitCode, CommandError> {
    let failed = |message: String| CommandError::Plain {
        message,
        hint: None,
        class: ErrorClass::Environment,
    };
    let program = machine::own_program()
        .ok_or_else(|| failed("the system does not say where this program is".into()))?;
    let config = Config::read(config)?;
    let found = Found {
        trainer: Python::inspect(config.machine.python.program()),
        layers: Sandbox::probe(program.to_owned()).map_err(|error| failed(error.to_string()))?,
        interpreter: Interpreter::on_path(std::env::var_os("PATH").as_deref()),
        config,
    };
    match format {
        Format::Json => output::json(&found.to_json()),
        _ => found.print(),
    }
    Ok(ExitCode::SUCCESS)
}

impl Found {
    fn print(&self) {
        let mut rows = self.machine_rows();
        rows.extend(self.trainer_rows());
        rows.extend(self.layers.iter().map(layer_row));
        rows.push(match &self.interpreter {
            Ok(python) => row("sandbox: Python", true, &python.version),
            Err(error) => row("sandbox: Python", false, &error.to_string()),
        });
        output::table(&["", "here", ""], &rows);
        if let Some(line) = self.trainer.as_ref().ok().and_then(Python::remedy) {
            output::remark(&format!("  = help: {line}"));
        }
        remedies(&self.layers);
    }

    fn machine_rows(&self) -> Vec<Vec<String>> {
        let Config { machine, path, origin, is_there } = &self.config;
        let path = path.as_ref().map_or("no folder is known".into(), |p| p.display().to_string());
        let mut rows = vec![
            row("configuration", *is_there, &format!("{path} ({})", origin.words())),
            row("instruction set", true, refrain_stages::instruction_set()),
            row("threads", true, &machine::threads().to_string()),
        ];
        rows.extend(machine.servers.iter().map(|server| {
            let of = server.model.as_ref().map(|model| format!(" of `{}`", model.display()));
            let access = match &server.access {
                ServerAccess::Running { address, .. } => address.clone(),
                ServerAccess::Start { command, .. } => format!("started by `{}`", command[0]),
            };
            row("server", true, &format!("{access}{}", of.unwrap_or_default()))
        }));
        rows.extend(machine.executors.iter().map(|(name, executor)| {
            let program = match executor.kind {
                ExecutorKind::Slurm => Some("sbatch"),
                ExecutorKind::Ssh => (!executor.hosts.is_empty()).then_some("ssh"),
            };
            let found = program.map(machine::find_program);
            let words = match (program, &found) {
                (None, _) => "programs on this machine".to_owned(),
                (Some(_), Some(Some(path))) => path.display().to_string(),
                (Some(program), _) => format!("there is no `{program}` in PATH"),
            };
            row(&format!("executor `{name}`"), found.is_none_or(|found| found.is_some()), &words)
        }));
        rows
    }

    fn trainer_rows(&self) -> Vec<Vec<String>> {
        let launcher = &self.config.machine.python.launcher;
        let python = match &self.trainer {
            Ok(python) => python,
            Err(error) => return vec![row("trainer: Python", false, &error.to_string())],
        };
        let place = format!("{}, {}", python.version, python.executable.display());
        let mut rows = vec![row("trainer: Python", true, &place)];
        for name in PACKAGES {
            let version = python.packages.get(name).cloned().flatten();
            let is_there = version.is_some();
            rows.push(row(&format!("trainer: {name}"), is_there, &version.unwrap_or_default()));
        }
        let devices = match &python.fault {
            Some(fault) => row("trainer: devices", false, fault),
            None => row("trainer: devices", true, &python.devices.join(", ")),
        };
        rows.push(devices);
        if !launcher.is_empty() {
            rows.push(row("trainer: launcher", true, &launcher.join(" ")));
        }
        rows
    }

    fn to_json(&self) -> Value {
        let Config { machine, path, origin, is_there } = &self.config;
        json!({
            "refrain": 1,
            "config": { "path": path, "named_by": origin.words(), "found": is_there },
            "instruction_set": refrain_stages::instruction_set(),
            "servers": servers_json(machine),
            "executors": machine.executors.keys().collect::<Vec<_>>(),
            "trainer": match &self.trainer {
                Ok(python) => json!({
                    "version": python.version,
                    "path": python.executable,
                    "packages": python.packages,
                    "devices": python.devices,
                    "fault": python.fault,
                    "remedy": python.remedy(),
                    "missing": null,
                }),
                Err(error) => json!({
                    "version": null,
                    "path": null,
                    "packages": {},
                    "devices": [],
                    "fault": null,
                    "remedy": null,
                    "missing": error.to_string(),
                }),
            },
            "launcher": machine.python.launcher,
            "sandbox": {
                "complete": self.layers.iter().all(|state| state.missing.is_none()),
                "layers": self.layers.iter().map(layer_json).collect::<Vec<_>>(),
            },
            "python": match &self.interpreter {
                Ok(python) => json!({
                    "version": python.version,
                    "path": python.executable,
                    "missing": null,
                }),
                Err(error) => json!({
                    "version": null,
                    "path": null,
                    "missing": error.to_string(),
                }),
            },
        })
    }
}

fn row(name: &str, is_here: bool, what: &str) -> Vec<String> {
    vec![name.into(), if is_here { "yes" } else { "no" }.into(), what.into()]
}

fn servers_json(machine: &Machine) -> Vec<Value> {
    let server = |server: &refrain_engine::kind::machine::Server| match &server.access {
        ServerAccess::Running { address, name } => {
            json!({ "model": server.model, "address": address, "name": name, "command": null })
        }
        ServerAccess::Start { command, .. } => {
            json!({ "model": server.model, "address": null, "name": null, "command": command })
        }
    };
    machine.servers.iter().map(server).collect()
}

fn layer_row(state: &LayerState) -> Vec<String> {
    let name = format!("sandbox: {}", state.layer.name());
    row(&name, state.missing.is_none(), state.missing.as_deref().unwrap_or_default())
}

fn layer_json(state: &LayerState) -> Value {
    json!({ "layer": state.layer.name(), "missing": state.missing })
}

/// Prints how missing layers are had, each remedy once.
fn remedies(layers: &[LayerState]) {
    let missing = layers.iter().filter(|state| state.missing.is_some());
    let mut remedies: Vec<&str> = missing.map(|state| state.layer.remedy()).collect();
    remedies.dedup();
    for remedy in remedies {
        output::remark(&format!("  = help: {remedy}"));
    }
}
