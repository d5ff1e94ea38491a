//! The files that a trainer is given: rows and plan as tensors, settings as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use refrain_cache::write::write_plain;
use refrain_engine::kind::{Input, StageError};
use refrain_lm::save::{Column, save_columns};
use refrain_lm::train::TrainRow;

use super::super::finish::not_saved;
use super::super::params::Recompute;
use super::checkpoint::RESUME;
use super::{PeftTraining, TRAINER, script};

/// The version of the contract.
const FORMAT: u32 = 1;
/// The label of a token that is not trained on.
const IGNORED: i32 = -100;
/// The files.
pub(super) const SCRIPT: &str = "trainer.py";
pub(super) const SETTINGS: &str = "settings.json";
const ROWS: &str = "rows.safetensors";

/// Writes the script and all that it reads into its folder.
pub(super) fn write(
    training: &PeftTraining<'_>,
    folder: &Path,
    resumes: bool,
) -> Result<(), StageError> {
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        write_plain(&path, bytes).map_err(|error| StageError::Environment {
            message: format!("cannot write `{}`: {error}", path.display()),
            hint: None,
        })
    };
    match script(training.context) {
        Some(Input::File { path, .. }) => {
            let bytes = std::fs::read(path).map_err(|error| {
                StageError::failed(format!("cannot read `{}`: {error}", path.display()))
            })?;
            put(SCRIPT, &bytes)?;
        }
        Some(_) => return Err(StageError::bug("the input `trainer` is not a file")),
        None => put(SCRIPT, TRAINER.as_bytes())?,
    }
    save_columns(&folder.join(ROWS), &columns(training)).map_err(not_saved)?;
    let settings = format!("{:#}\n", settings(training, resumes));
    put(SETTINGS, settings.as_bytes())
}

/// The tensors: the rows, those to evaluate on, and the plan.
fn columns(training: &PeftTraining<'_>) -> BTreeMap<String, Column> {
    let mut columns = BTreeMap::new();
    add_rows(&mut columns, "", training.rows);
    if let Some(watched) = training.watched {
        add_rows(&mut columns, "evaluate_", watched);
    }
    let (mut order, mut batches, mut steps) = (Vec::new(), vec![0], vec![0]);
    for step in training.plan {
        for batch in &step.micro_batches {
            order.extend(batch.iter().map(|row| *row as i64));
            batches.push(order.len() as i64);
        }
        steps.push(batches.len() as i64 - 1);
    }
    let rates = training.plan.iter().map(|step| step.learning_rate).collect();
    columns.insert("order".into(), Column::I64(order));
    columns.insert("batches".into(), Column::I64(batches));
    columns.insert("steps".into(), Column::I64(steps));
    columns.insert("rates".into(), Column::F64(rates));
    columns
}

fn add_rows(columns: &mut BTreeMap<String, Column>, prefix: &str, rows: &[TrainRow]) {
    let tokens = rows.iter().map(|row| row.ids.len()).sum();
    let (mut ids, mut labels) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
    let mut offsets = vec![0];
    for row in rows {
        let of_row = row.ids.iter().map(|id| *id as i32);
        let active = row.active.iter();
        labels.extend(of_row.clone().zip(active).map(|(id, on)| if *on { id } else { IGNORED }));
        ids.extend(of_row);
        offsets.push(ids.len() as i64);
    }
    columns.insert(format!("{prefix}ids"), Column::I32(ids));
    columns.insert(format!("{prefix}labels"), Column::I32(labels));
    columns.insert(format!("{prefix}offsets"), Column::I64(offsets));
}

fn settings(training: &PeftTraining<'_>, resumes: bool) -> Value {
    let PeftTraining { context, params, start, .. } = training;
    let gpus = context.resources.gpus;
    let processes = gpus.max(1);
    let evaluate = training.watched.map(|_| {
        json!({
            "every": params.evaluate_every.unwrap_or(training.steps_per_epoch),
            "patience": params.early_stopping.map(|stopping| stopping.patience),
            "min_delta": params.early_stopping.map(|stopping| stopping.min_delta),
        })
    });
    let keep: Vec<u64> = training.wanted.iter().map(|(step, _)| *step).collect();
    json!({
        "format": FORMAT,
        "model": start.model,
        "adapters": start.adapters,
        "method": if params.lora.is_some() { "lora" } else { "full" },
        "adapter": start.adapter.as_ref().map(|_| "adapter"),
        "dropout": params.lora.as_ref().map_or(0.0, |lora| lora.dropout),
        "kl": params.kl.map(|kl| kl.weight),
        "merge": params.merge,
        "dtype": params.dtype.map_or("f32", |dtype| dtype.word()),
        "quantization": params.quantization.map(|quantization| quantization.word()),
        "attention": params.attention.map(|attention| attention.word()),
        "packing": params.packing.unwrap_or(false),
        // Slower, but cards have little memory.
        "gradient_checkpointing": match params.gradient_checkpointing {
            Recompute::Given(given) => given,
            Recompute::Word(_) => gpus > 0,
        },
        "batch_size": params.batch_size,
        "betas": params.betas,
        "eps": params.eps,
        "weight_decay": params.weight_decay,
        "clip": (params.clip > 0.0).then_some(params.clip),
        "seed": params.seed,
        "evaluate": evaluate,
        "keep": keep,
        "gpus": gpus,
        "threads": (context.resources.threads / processes).max(1),
        "checkpoint_every": params.checkpoint_every,
        "resume": resumes.then_some(RESUME),
    })
}
