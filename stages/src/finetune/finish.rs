//! Stores the results of `finetune`: the adapter or the model, the log of the steps, and the
//! metrics.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use serde_json::{Map, Value};

use refrain_cache::{Artifact, ArtifactKind, FolderWriter, Metric};
use refrain_engine::kind::{Context, Input, MAIN, NodeResult, OutputDecl, StageError};
use refrain_lm::model::{LanguageModel, LoraSettings};
use refrain_lm::save::{SaveError, copy_tokenizer, save_model};
use refrain_lm::train::{StepLog, Trained};

use crate::adapters;
use crate::models;
use crate::tables::{arrow_bug, metric};

use super::Counted;
use super::params::{FinetuneParams, Keep};
use super::start::{Files, Start};

/// The outputs: the model, the log and the metrics, and the models that are kept on the way.
pub(super) fn outputs(params: &Map<String, Value>) -> Vec<OutputDecl> {
    let kinds = [
        (MAIN, ArtifactKind::Model),
        ("log", ArtifactKind::Table),
        ("metrics", ArtifactKind::Table),
    ];
    let output = |(name, kind): (&str, ArtifactKind)| OutputDecl { name: name.into(), kind };
    let mut outputs: Vec<OutputDecl> = kinds.map(output).into();
    let epochs = params.get("epochs").and_then(Value::as_u64).unwrap_or(1);
    let kept = Keep::of(params).map(|keep| keep.outputs(epochs)).unwrap_or_default();
    outputs.extend(kept.iter().map(|name| output((name, ArtifactKind::Model))));
    outputs
}

/// The way in which a model becomes an artifact.
pub(super) struct Storing<'a> {
    pub context: &'a Context<'a>,
    /// The settings of the adapter, where one is trained.
    pub lora: Option<&'a LoraSettings>,
    pub merge: bool,
    pub files: &'a Files,
}

impl Storing<'_> {
    /// Stores a model that is trained further.
    pub fn copy(&self, model: &LanguageModel) -> Result<Artifact, StageError> {
        let files = self.files.copied(self.context)?;
        match (self.lora, &files) {
            (Some(settings), Files::Given(_)) if !self.merge => {
                store_adapter(self.context, model, settings)
            }
            (Some(_), _) => {
                let mut merged = model.clone();
                merged.merge_adapters();
                store_model(self.context, &merged, files)
            }
            (None, _) => store_model(self.context, model, files),
        }
    }
}

impl Files {
    /// The same files, which may be stored more than once.
    pub fn copied(&self, context: &Context<'_>) -> Result<Files, StageError> {
        Ok(match self {
            Files::Given(folder) => Files::Given(folder.clone()),
            Files::New(folder, config) => {
                let copy = context.cache.new_folder()?;
                copy_tokenizer(folder.path(), copy.path()).map_err(not_saved)?;
                Files::New(copy, config.clone())
            }
        })
    }

    /// A folder with all of a model but its weights and its `config.json`, which is returned: it
    /// says of the weights that they are of type `dtype`.
    pub fn into_folder(
        self,
        context: &Context<'_>,
        dtype: &str,
    ) -> Result<(FolderWriter, Value), StageError> {
        let (folder, mut config) = match self {
            Files::New(folder, config) => (folder, config),
            Files::Given(from) => {
                let folder = context.cache.new_folder()?;
                copy_tokenizer(&from, folder.path()).map_err(not_saved)?;
                (folder, read_config(&from)?)
            }
        };
        for name in ["dtype", "torch_dtype"] {
            if let Some(value) = config.get_mut(name) {
                *value = dtype.into();
            }
        }
        Ok((folder, config))
    }
}

/// Stores everything.
pub(super) fn finish(
    context: &Context<'_>,
    params: &FinetuneParams,
    start: Start,
    counts: &Counted,
    trained: &Trained,
) -> Result<NodeResult, StageError> {
    let metrics = metrics(start.model.trainable_parameters(), counts, trained);
    let Start { mut model, lora, files, .. } = start;
    let main = match (&lora, files) {
        (Some(settings), Files::Given(_)) if !params.merge => {
            store_adapter(context, &model, settings)?
        }
        (settings, files) => {
            if settings.is_some() {
                model.merge_adapters();
            }
            store_model(context, &model, files)?
        }
    };
    let mut outputs = NodeResult::main(main);
    outputs.artifacts.insert("log".into(), store_log(context, &trained.log)?);
    outputs.metrics = metrics;
    outputs.profile = models::profile();
    Ok(outputs)
}

/// Stores the adapter alone, in PEFT's format. It names its base by its digest: no name that a user
/// gave is in an artifact.
fn store_adapter(
    context: &Context<'_>,
    model: &LanguageModel,
    settings: &LoraSettings,
) -> Result<Artifact, StageError> {
    let Input::Model { artifact, .. } = context.input("model")? else {
        return Err(StageError::bug("the input `model` is not a model"));
    };
    let adapter = model.adapter(settings, &artifact.digest.to_string());
    adapters::store(context, &adapter, artifact.digest)
}

/// A whole model in Hugging Face layout, with the tokenizer that belongs to it.
fn store_model(
    context: &Context<'_>,
    model: &LanguageModel,
    files: Files,
) -> Result<Artifact, StageError> {
    let (folder, config) = files.into_folder(context, "float32")?;
    save_model(folder.path(), &config, &model.stored()).map_err(not_saved)?;
    Ok(context.cache.store_folder(folder, ArtifactKind::Model, None)?)
}

/// The error names the file.
pub(super) fn not_saved(error: SaveError) -> StageError {
    StageError::Environment { message: error.to_string(), hint: None }
}

fn read_config(folder: &Path) -> Result<Value, StageError> {
    let path = folder.join("config.json");
    let unreadable = |error: &dyn std::fmt::Display| {
        StageError::failed(format!("cannot read `{}`: {error}", path.display()))
    };
    let bytes = std::fs::read(&path).map_err(|error| unreadable(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| unreadable(&error))
}

/// One row a step. A step without active tokens has no loss.
pub(super) fn store_log(context: &Context<'_>, log: &[StepLog]) -> Result<Artifact, StageError> {
    let whole = |of: fn(&StepLog) -> u64| -> ArrayRef {
        Arc::new(log.iter().map(|step| Some(of(step) as i64)).collect::<Int64Array>())
    };
    let number = |of: fn(&StepLog) -> Option<f64>| -> ArrayRef {
        Arc::new(log.iter().map(of).collect::<Float64Array>())
    };
    let mut columns = vec![
        ("step", whole(|step| step.step), true),
        ("epoch", whole(|step| step.epoch), true),
        ("learning_rate", number(|step| Some(step.learning_rate)), true),
        ("loss", number(loss), true),
        ("grad_norm", number(|step| loss(step).map(|_| step.grad_norm)), true),
        ("active_tokens", whole(|step| step.active_tokens), true),
        ("tokens", whole(|step| step.tokens), true),
    ];
    if log.iter().any(|step| step.kl.is_some()) {
        columns.push(("kl", number(kl), true));
    }
    if log.iter().any(|step| step.eval_loss.is_some()) {
        columns.push(("eval_loss", number(|step| step.eval_loss), true));
    }
    let batch = RecordBatch::try_from_iter_with_nullable(columns).map_err(arrow_bug)?;
    let mut writer = context.cache.new_table(batch.schema())?;
    writer.write(&batch)?;
    Ok(context.cache.store_table(writer)?)
}

fn loss(step: &StepLog) -> Option<f64> {
    (step.active_tokens > 0).then_some(step.loss)
}

fn kl(step: &StepLog) -> Option<f64> {
    step.kl.filter(|_| step.active_tokens > 0)
}

/// The metrics of a training of so many parameters.
pub(super) fn metrics(parameters: u64, counts: &Counted, trained: &Trained) -> Vec<Metric> {
    let log = &trained.log;
    let losses: Vec<f64> = log.iter().filter_map(loss).collect();
    let last = &losses[losses.len() - losses.len().div_ceil(10)..];
    let mean = last.iter().sum::<f64>() / last.len() as f64;
    let data = &counts.data;
    let of_rows = |name, value: u64| metric(name, value as f64, data.rows);
    let steps = log.len() as u64;
    let response = data.active_tokens + data.masked_tokens;
    let masked_share = data.masked_tokens as f64 / response as f64;
    let mut metrics = vec![
        metric("steps", steps as f64, steps),
        metric("final_loss", losses.last().copied().unwrap_or(f64::NAN), 1),
        metric("last_tenth_loss", mean, last.len() as u64),
        metric("trainable_parameters", parameters as f64, 1),
        of_rows("rows", data.rows),
        of_rows("tokens", data.tokens),
        of_rows("active_tokens", data.active_tokens),
        metric("masked_share", masked_share, response),
        of_rows("rows_without_active_tokens", data.rows_without_active_tokens),
    ];
    if let Some(kl) = log.iter().filter_map(kl).next_back() {
        metrics.push(metric("final_kl", kl, 1));
    }
    if let Some(watched) = &counts.watched {
        // Of the model that is the result: the best one, or else the last.
        let kept = trained.best_step.and_then(|best| log.get(best as usize)).or(log.last());
        let loss = kept.and_then(|step| step.eval_loss).unwrap_or(f64::NAN);
        metrics.push(metric("eval_loss", loss, watched.active_tokens));
    }
    if let Some(best) = trained.best_step {
        metrics.push(metric("best_step", best as f64, 1));
    }
    metrics
}
