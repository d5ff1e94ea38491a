//! `backend: peft`: a trainer in a process of its own, over transformers, PEFT and accelerate.
//!
//! Rows are rendered, tokenised, masked, ordered and batched here, and each step's learning rate is
//! computed here; the trainer is given numbers. It reports each step as a line of JSON and leaves
//! an adapter or a model. `docs/trainer.md` is the contract, which a user's own script may keep
//! too.

mod cards;
mod checkpoint;
mod events;
mod job;
mod launch;
mod outputs;
mod start;
mod watch;

use std::sync::LazyLock;

use serde_json::{Map, Value};

use refrain_cache::Digest;
use refrain_engine::kind::{Context, Input, MAIN, NodeResult, StageError};
use refrain_lm::train::{PlannedStep, TrainRow, Trained, check_rows, plan, steps};

use crate::components;
use crate::models::{self, failed};

use super::check::is_peft;
use super::kept::KeptModels;
use super::params::{Dtype, FinetuneParams};
use super::rows::{TrainingRows, rows};
use super::{Counted, finish, of_evaluate_on, options, wanted_steps};

use checkpoint::Checkpoints;
use outputs::Outputs;
use start::PeftStart;
use watch::Watcher;

/// The trainer that a build carries.
const TRAINER: &str = include_str!("peft/trainer.py");
/// The name by which the versions in a key know it.
const COMPONENT: &str = "trainer";

static TRAINER_DIGEST: LazyLock<String> =
    LazyLock::new(|| Digest::of_bytes(TRAINER.as_bytes()).to_string());

/// The versions that a training outside depends on: none of our own module's, and the trainer's
/// content. A script of the user's is an input.
pub(super) fn versions(
    params: &Map<String, Value>,
    has: &dyn Fn(&str) -> bool,
) -> Option<Map<String, Value>> {
    if !is_peft(params) {
        return None;
    }
    let own = [components::FINETUNE, components::RENDER, components::TABLE];
    let mut versions: Map<String, Value> =
        own.iter().map(|c| (c.name.to_owned(), c.version.into())).collect();
    if !has("trainer") {
        versions.insert(COMPONENT.to_owned(), TRAINER_DIGEST.as_str().into());
    }
    Some(versions)
}

/// Everything that a training outside is about.
struct PeftTraining<'a> {
    context: &'a Context<'a>,
    params: &'a FinetuneParams,
    start: &'a PeftStart,
    rows: &'a [TrainRow],
    watched: Option<&'a [TrainRow]>,
    plan: &'a [PlannedStep],
    /// Steps of an epoch, after which `evaluate_on` is measured where nothing else is said.
    steps_per_epoch: u64,
    /// The steps after which the model is kept, each with the name of its output.
    wanted: &'a [(u64, String)],
}

impl PeftTraining<'_> {
    /// The name of the type of the weights of a whole model that is the result.
    fn dtype(&self) -> &'static str {
        match self.params.dtype {
            Some(Dtype::Bf16) => "bfloat16",
            Some(Dtype::F32) | None => "float32",
        }
    }

    /// Whether the result is an adapter.
    fn is_adapter(&self) -> bool {
        self.params.lora.is_some() && !self.params.merge
    }
}

/// Trains.
pub(super) fn run(
    context: &Context<'_>,
    params: &FinetuneParams,
) -> Result<NodeResult, StageError> {
    let scratch = context.cache.scratch_dir()?;
    let folder = scratch.path();
    let (start, data, watched) = models::on_threads(context.resources.threads, || {
        let start = start::start(context, params, folder)?;
        let read = |input| rows(context, params, input, &start.tokenizer, start.sizes);
        let data = read("data")?;
        let watched = match context.inputs.contains_key("evaluate_on") {
            true => Some(read("evaluate_on").map_err(of_evaluate_on)?),
            false => None,
        };
        Ok((start, data, watched))
    })?;
    let counts = Counted { data: data.counts, watched: watched.as_ref().map(|rows| rows.counts) };
    let watched = watched.as_ref().map(|watched| watched.rows.as_slice());
    check_rows(&data.rows, watched).map_err(failed)?;

    let TrainingRows { rows, .. } = &data;
    let options = options(params, rows, false);
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    let plan: Vec<PlannedStep> = plan(&options, &lengths).collect();
    let wanted = wanted_steps(params, &options, rows.len(), steps(&options, rows.len()))?;
    let training = PeftTraining {
        context,
        params,
        start: &start,
        rows,
        watched,
        plan: &plan,
        steps_per_epoch: super::steps_per_epoch(&options, rows.len()),
        wanted: &wanted,
    };
    let outputs = Outputs { training: &training, folder };
    let kept = params.keep.is_some().then(|| KeptModels::new(context)).transpose()?;
    let mut checkpoints = Checkpoints::new(&context.unfinished, folder);
    let earlier = checkpoints.restore(&|text| context.progress.note(text));
    job::write(&training, folder, earlier.is_some())?;

    let mut watcher =
        Watcher::new(&training, &outputs, kept.as_ref(), checkpoints, earlier.unwrap_or_default());
    let finished = launch::run(&training, folder, &mut watcher)?;
    let main = outputs.store("out")?;
    let trained = Trained { log: finished.log, best_step: finished.best_step };
    let mut result = NodeResult::main(main);
    result.artifacts.insert("log".into(), finish::store_log(context, &trained.log)?);
    for (step, name) in &wanted {
        if let Some(kept) = &kept {
            result.artifacts.insert(name.clone(), kept.artifact(*step)?);
        }
    }
    debug_assert!(result.artifacts.contains_key(MAIN));
    result.metrics = finish::metrics(finished.trainable, &counts, &trained);
    result.profile = finished.profile;
    Ok(result)
}

/// The script that trains: the user's, or the one that this build carries.
fn script<'a>(context: &'a Context<'_>) -> Option<&'a Input> {
    context.inputs.get("trainer")
}
