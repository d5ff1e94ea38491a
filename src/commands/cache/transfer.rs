//! `refrain cache push` and `refrain cache pull`: what locks name, to a remote cache and back.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::{self, Lock};
use refrain_engine::store::Store;
use refrain_remote::{Named, Progress};

use crate::cli::{Format, PushArgs, TransferArgs};
use crate::command_error::CommandError;
use crate::session::{self, sharing};
use crate::{human, output, progress_line, remote};

/// Sends what the locks name.
pub fn push(arguments: &PushArgs, format: Format) -> Result<ExitCode, CommandError> {
    let Prepared { store, named } = Prepared::new(&arguments.transfer)?;
    let remote = remote::open(&arguments.transfer.remote)?;
    let progress = Progress::default();
    let so_far = || (progress.done(), progress.total());
    let (records, known) = (store.records(), store.digests());
    let pushed = progress_line::beside(&so_far, || {
        remote.push(store.cache(), records, known, &named, arguments.again, &progress)
    })?;
    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "exit_code": 0,
            "results": pushed.results,
            "objects": pushed.objects,
            "bytes": pushed.bytes,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    output::line(&format!(
        "{} in `{}`, {} sent, {}",
        output::count(pushed.results, "result"),
        remote.address(),
        output::count(pushed.objects, "object"),
        human::size(pushed.bytes)
    ));
    Ok(ExitCode::SUCCESS)
}

/// Receives what the locks name.
pub fn pull(arguments: &TransferArgs, format: Format) -> Result<ExitCode, CommandError> {
    let Prepared { store, named } = Prepared::new(arguments)?;
    let remote = remote::open(&arguments.remote)?;
    let progress = Progress::default();
    let so_far = || (progress.done(), progress.total());
    let (records, known) = (store.records(), store.digests());
    let pulled = progress_line::beside(&so_far, || {
        remote.pull(store.cache(), records, known, &named, &|_| true, &progress)
    })?;
    store.sync()?;

    let code = if pulled.faults.is_empty() { 0 } else { ErrorClass::Difference.exit_code() };
    if format == Format::Json {
        let fault =
            |fault: &refrain_remote::Fault| json!({ "node": fault.node, "message": fault.reason });
        output::json(&json!({
            "refrain": 1,
            "exit_code": code,
            "received": pulled.received,
            "present": pulled.present,
            "absent": pulled.absent,
            "faults": pulled.faults.iter().map(fault).collect::<Vec<_>>(),
            "bytes": progress.done(),
        }));
        return Ok(ExitCode::from(code));
    }
    remote::faults(&pulled.faults);
    output::line(&format!(
        "{} received, {}; {} in the cache before; {} not in `{}`",
        output::count(pulled.received, "result"),
        human::size(progress.done()),
        pulled.present,
        pulled.absent.len(),
        remote.address(),
    ));
    if let Some(first) = pulled.absent.first() {
        output::remark(&format!(
            "not there: `{first}`{}; a run computes it",
            if pulled.absent.len() > 1 { " and others" } else { "" }
        ));
    }
    Ok(ExitCode::from(code))
}

/// The cache, and what the locks name.
struct Prepared {
    store: Store,
    named: Vec<Named>,
}

impl Prepared {
    fn new(arguments: &TransferArgs) -> Result<Prepared, CommandError> {
        let mut named = Vec::new();
        for workflow in &arguments.workflows {
            named.extend(remote::named(&Lock::read(&lock::path_of(workflow))?));
        }
        let first = arguments.workflows.first().and_then(|workflow| workflow.parent());
        let beside = first.unwrap_or(Path::new("")).join(".refrain");
        let root = session::cache_folder(arguments.cache.as_deref(), beside)?;
        let store = Store::open_for_run(&root, sharing())?;
        Ok(Prepared { store, named })
    }
}
