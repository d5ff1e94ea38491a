//! The outputs of a command: where each lies in its folder, and how it is stored.

use std::path::{Path, PathBuf};

use refrain_cache::{Artifact, ArtifactKind, TableReader};
use refrain_engine::kind::{Context, Input, StageError, choices};
use refrain_engine::source::model_folder::{CopyError, ModelFolder};
use refrain_lm::adapter::Adapter;

use crate::adapters;
use crate::tables::BATCH_ROWS;

use super::{not_copied, unreadable};

choices! {
    /// The type of an output.
    pub(super) enum OutputType {
        /// A Parquet file.
        Table = "table",
        /// A folder in Hugging Face layout.
        Model = "model",
        /// Any file.
        File = "file",
        /// A file of metrics, which become those of the node.
        Metrics = "metrics",
    }
}

impl OutputType {
    /// Returns the kind of the artifact that is stored.
    pub fn artifact(self) -> ArtifactKind {
        match self {
            OutputType::Table | OutputType::Metrics => ArtifactKind::Table,
            OutputType::Model => ArtifactKind::Model,
            OutputType::File => ArtifactKind::File,
        }
    }
}

/// Returns the path of an output, relative to the command's folder.
pub(super) fn output_path(name: &str, ty: OutputType) -> String {
    match ty {
        OutputType::Table => format!("out.{name}.parquet"),
        OutputType::Model | OutputType::File | OutputType::Metrics => format!("out.{name}"),
    }
}

/// Returns the path of an output that the command must have written.
pub(super) fn written(folder: &Path, name: &str, ty: OutputType) -> Result<PathBuf, StageError> {
    let relative = output_path(name, ty);
    let path = folder.join(&relative);
    let written = path.symlink_metadata().map_err(|_| {
        let message = format!("the command ended without writing its output `{name}`");
        StageError::with_hint(
            message,
            format!("it must write `${{out.{name}}}`, which is `{relative}`"),
        )
    })?;
    let (right, wanted) = match ty {
        OutputType::Model => (written.is_dir(), "a folder"),
        OutputType::Table | OutputType::File | OutputType::Metrics => (written.is_file(), "a file"),
    };
    if !right {
        let message = format!("the command's output `{name}` is not {wanted}");
        return Err(StageError::with_hint(
            message,
            "links are not stored: write the content itself",
        ));
    }
    Ok(path)
}

/// Stores an artifact that the command wrote.
pub(super) fn store(
    ctx: &Context<'_>,
    name: &str,
    ty: OutputType,
    path: &Path,
) -> Result<Artifact, StageError> {
    match ty {
        OutputType::Table | OutputType::Metrics => store_table(ctx, name, path),
        OutputType::Model => store_model(ctx, name, path),
        OutputType::File => Ok(ctx.cache.store_file(path)?),
    }
}

/// Stores an adapter of the model at an input.
pub(super) fn store_adapter(
    ctx: &Context<'_>,
    name: &str,
    base: &str,
    path: &Path,
) -> Result<Artifact, StageError> {
    let Input::Model { artifact, .. } = ctx.input(&format!("inputs.{base}"))? else {
        let message = format!("the base of `{name}`, the input `{base}`, is not a model");
        return Err(StageError::with_hint(message, "`bases` names the model of the adapter"));
    };
    let mut adapter = Adapter::load(path).map_err(|error| {
        StageError::failed(format!("the command's output `{name}` is not an adapter: {error}"))
    })?;
    // The digest, since a path is another one elsewhere.
    adapter.config.base_model_name_or_path = Some(artifact.digest.to_string());
    adapters::store(ctx, &adapter, artifact.digest)
}

fn store_table(ctx: &Context<'_>, name: &str, path: &Path) -> Result<Artifact, StageError> {
    let wrong = |error: refrain_cache::TableError| {
        // The file lies in a scratch folder, whose path tells nobody anything.
        let message = match error {
            refrain_cache::TableError::Unreadable { reason, .. } => {
                format!("the command's output `{name}` is not a readable Parquet file: {reason}")
            }
            other => format!("the command's output `{name}` is not a usable table: {other}"),
        };
        StageError::with_hint(message, format!("`${{out.{name}}}` must become a Parquet file"))
    };
    let reader = TableReader::open(path).map_err(wrong)?;
    let mut writer = ctx.cache.new_table(reader.schema().clone())?;
    for batch in reader.batches(None, BATCH_ROWS)? {
        ctx.cancel.check()?;
        writer.write(&batch.map_err(wrong)?)?;
    }
    Ok(ctx.cache.store_table(writer)?)
}

fn store_model(ctx: &Context<'_>, name: &str, path: &Path) -> Result<Artifact, StageError> {
    let model = ModelFolder::open(path).map_err(unreadable)?;
    // An adapter is a model only together with its base, which a folder does not tell for sure.
    let missing = match model.is_model() && !model.is_adapter() {
        _ if !model.has_weights() => Some("weights"),
        true => None,
        false => Some("`config.json`"),
    };
    if let Some(missing) = missing {
        let message =
            format!("the command's output `{name}` is not a model: it holds no {missing}");
        let hint = match model.is_adapter() {
            true => "for an adapter name its model: `bases: { OUTPUT: INPUT }`",
            false => "a model is a folder with `config.json` and `*.safetensors`",
        };
        return Err(StageError::with_hint(message, hint));
    }

    let folder = ctx.cache.new_folder()?;
    // What does not determine results, such as a README or a pickled file, stays behind.
    model.copy_regular_to(folder.path()).map_err(|error| match error {
        CopyError::NotRegular { name } => StageError::with_hint(
            format!("`{name}` in the command's output is not a regular file"),
            "links are not stored: write the content itself",
        ),
        error => not_copied(error),
    })?;
    Ok(ctx.cache.store_folder(folder, ArtifactKind::Model, None)?)
}
