//! `refrain node`: computes the nodes of a job, where an executor started it.

use std::collections::HashMap;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::Cache;
use refrain_engine::kind::Cancel;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::run::executor::{JobError, JobFile, JobHost, run_job};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::config::Config;
use crate::events::Observers;
use crate::executors::read_secrets;
use crate::session::sharing;
use crate::{interrupt, machine, output};

/// Computes the nodes of a job.
pub fn node(
    arguments: &cli::NodeArgs,
    config: Option<&Path>,
    format: Format,
    observers: &Observers,
) -> Result<ExitCode, CommandError> {
    let config = Config::read(config)?;
    let secrets: HashMap<String, String> = match &arguments.environment {
        Some(path) => read_secrets(path)?.into_iter().collect(),
        None => HashMap::new(),
    };
    let path = std::path::absolute(&arguments.job).unwrap_or_else(|_| arguments.job.clone());
    let file = JobFile::read(&path).map_err(JobError::from)?;
    let cache = Cache::open_apart(&file.cache, sharing()).map_err(JobError::from)?;
    // Nothing that the job reads is removed before its end.
    cache.begin_write().map_err(JobError::from)?;

    let cancel = Cancel::default();
    interrupt::cancels(&cancel)?;
    let kinds = refrain_stages::kinds();
    let host = JobHost {
        kinds: &kinds,
        environment: &|name| secrets.get(name).cloned().or_else(|| std::env::var(name).ok()),
        own_program: machine::own_program(),
        machine: &config.machine,
        memory: machine::free_memory(),
        cancel: &cancel,
    };
    observers.job_events.begin(path.parent().unwrap_or(Path::new(".")));
    let ran = run_job(&path, &cache, &file, &arguments.keys, &host);
    refrain_stages::end_servers();
    let report = ran?;

    let class = match (report.interrupted, report.failures.is_empty()) {
        (true, _) => Some(ErrorClass::Interrupted),
        (false, false) => Some(ErrorClass::Stage),
        (false, true) => None,
    };
    let code = class.map_or(0, ErrorClass::exit_code);
    if format == Format::Json {
        let nodes = file.nodes.len();
        let failed: Vec<&str> =
            report.failures.iter().map(|failure| file.nodes[failure.node].name.as_str()).collect();
        output::json(&json!({ "nodes": nodes, "failed": failed, "exit_code": code }));
    }
    Ok(ExitCode::from(code))
}
