//! `refrain export`: the figures of a workflow as a store that a tracker of experiments opens.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::write::{create_dir_all, write_plain};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::report::export::{Export, ExportInput};

use crate::cli::{self, Format, Tracker};
use crate::command_error::CommandError;
use crate::output;
use crate::session::Session;
use crate::trackers::{ExportError, csv, mlflow, tensorboard, trackio};

/// Writes the store into a folder in which there is nothing yet.
pub fn export(arguments: &cli::ExportArgs, format: Format) -> Result<ExitCode, CommandError> {
    let folder = &arguments.folder;
    if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CommandError::with_hint(
            ErrorClass::Input,
            format!("`{}` is not empty", folder.display()),
            "name a new folder: runs of another export would stay in it",
        ));
    }
    let session = Session::open(&arguments.workflow)?;
    let (lock, store) = (session.lock()?, session.existing_store()?);
    let courses = session.courses();
    let input = ExportInput { graph: &session.graph, lock: &lock, store: store.as_ref(), courses };
    let export = Export::collect(&input)?;

    let (mut files, mut bytes) = (0, 0);
    let mut put = |name: &str, content: &[u8]| {
        (files, bytes) = (files + 1, bytes + content.len() as u64);
        write(folder, name, content)
    };
    let written = match arguments.to {
        Tracker::Mlflow => mlflow::write(&export, &mut put),
        Tracker::Trackio => trackio::write(&export, &mut put),
        Tracker::Tensorboard => tensorboard::write(&export, &mut put),
        Tracker::Csv => csv::write(&export, &mut put),
    };
    written.map_err(|error| match error {
        ExportError::Table(error) => error.into(),
        other => {
            let message = format!("cannot write `{}`: {other}", folder.display());
            CommandError::new(ErrorClass::Environment, message)
        }
    })?;

    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "folder": folder,
            "runs": export.runs.len(),
            "files": files,
            "bytes": bytes,
            "missing": export.missing,
            "without_curves": export.without_curves,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    let (runs, files) = (output::count(export.runs.len(), "run"), output::count(files, "file"));
    output::line(&format!("{runs} in {files}; open them with: {}", opens(arguments.to, folder)));
    if export.missing > 0 {
        let nodes = output::count(export.missing, "node");
        output::remark(&format!("{nodes} without a result left out; `refrain run` computes them"));
    }
    if export.without_curves > 0 {
        let trainings = output::count(export.without_curves, "training");
        output::remark(&format!("{trainings} without curves: the cache lacks their logs"));
    }
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), ExportError> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        create_dir_all(parent)?;
    }
    Ok(write_plain(&path, content)?)
}

/// The command that opens a store.
fn opens(tracker: Tracker, folder: &Path) -> String {
    let folder = folder.display();
    match tracker {
        Tracker::Mlflow => format!("mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db"),
        Tracker::Trackio => format!("TRACKIO_DIR={folder} trackio show"),
        Tracker::Tensorboard => format!("tensorboard --logdir {folder}"),
        Tracker::Csv => format!("pandas.read_csv(\"{folder}/runs.csv\")"),
    }
}
