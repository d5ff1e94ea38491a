//! `refrain doctor`: what this machine offers.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use refrain_engine::language::explain::ErrorClass;
use refrain_sandbox::{Interpreter, LayerState, Sandbox};

use crate::cli::Format;
use crate::command_error::CommandError;
use crate::config::Config;
use crate::{machine, output};

/// Lists the layers of the sandbox, and the interpreter that runs in it.
pub fn doctor(config: Option<&Path>, format: Format) -> Result<ExitCode, CommandError> {
    let failed = |message: String| CommandError::Plain {
        message,
        hint: None,
        class: ErrorClass::Environment,
    };
    let program = machine::own_program()
        .ok_or_else(|| failed("the system does not say where this program is".into()))?;
    let layers = Sandbox::probe(program.to_owned()).map_err(|error| failed(error.to_string()))?;
    let config = Config::read(config)?;
    let python = Interpreter::on_path(std::env::var_os("PATH").as_deref());

    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "config": { "path": config.path, "named_by": config.origin.words(), "found": config.is_there },
            "sandbox": {
                "complete": layers.iter().all(|state| state.missing.is_none()),
                "layers": layers.iter().map(layer_json).collect::<Vec<_>>(),
            },
            "python": match &python {
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
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows: Vec<Vec<String>> = layers.iter().map(layer_row).collect();
    rows.push(match python {
        Ok(python) => vec!["Python".into(), "yes".into(), python.version],
        Err(error) => vec!["Python".into(), "no".into(), error.to_string()],
    });
    output::table(&["for model-written code", "here", ""], &rows);
    remedies(&layers);
    Ok(ExitCode::SUCCESS)
}

fn layer_row(state: &LayerState) -> Vec<String> {
    let (here, why) = match &state.missing {
        None => ("yes", String::new()),
        Some(why) => ("no", why.clone()),
    };
    vec![state.layer.name().into(), here.into(), why]
}

fn layer_json(state: &LayerState) -> serde_json::Value {
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
