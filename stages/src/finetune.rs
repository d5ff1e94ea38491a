//! The kind `finetune`: trains a model, or an adapter of one, on the responses of a table.

mod canonical;
mod check;
mod finish;
mod kept;
mod memory;
mod params;
mod peft;
mod rows;
mod start;

use std::ops::ControlFlow;
use std::time::Duration;

use refrain_cache::Artifact;
use refrain_engine::kind::{Context, Kind, MetricDecl, NodeResult, Parameters, StageError};
use refrain_lm::model::LanguageModel;
use refrain_lm::train::{
    CheckpointOptions, Evaluation, Length, Snapshots, TrainError, TrainOptions, TrainRow, Trained,
    Training, steps, train,
};

use crate::components;
use crate::models::{self, failed, model_failed};

use finish::Storing;
use kept::Keeper;
use params::{Backend, FinetuneParams, Warmup};
use rows::{Counts, TrainingRows};
use start::Start;

/// The metrics of `finetune`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("steps", "Steps of the training"),
    MetricDecl::always("final_loss", "Loss of the last step with trained tokens"),
    MetricDecl::always("last_tenth_loss", "Mean loss of the last tenth of the steps"),
    MetricDecl::always("trainable_parameters", "Parameters that are trained"),
    MetricDecl::always("rows", "Rows of the table"),
    MetricDecl::always("tokens", "Tokens of all rows"),
    MetricDecl::always("active_tokens", "Tokens that are trained on in each epoch"),
    MetricDecl::always("masked_share", "Share of the response tokens that are masked"),
    MetricDecl::always("rows_without_active_tokens", "Rows of which no token is trained on"),
    MetricDecl::given(
        "final_kl",
        "Divergence from the model before, in the last step",
        |context| context.params.get("kl").map(|_| "final_kl".to_owned()).into_iter().collect(),
    ),
    MetricDecl::given("eval_loss", "Loss of the result on `evaluate_on`", |context| {
        let watched = context.inputs.iter().any(|input| input == "evaluate_on");
        watched.then(|| "eval_loss".to_owned()).into_iter().collect()
    }),
    MetricDecl::given(
        "best_step",
        "Step after which the loss on `evaluate_on` was lowest",
        |context| {
            context
                .params
                .get("early_stopping")
                .map(|_| "best_step".to_owned())
                .into_iter()
                .collect()
        },
    ),
];

/// The kind `finetune`.
pub const FINETUNE: Kind = Kind {
    name: "finetune",
    about: "Trains a model, or an adapter of one, on the responses of a table",
    components: &[
        components::FINETUNE,
        components::LM,
        components::RENDER,
        components::TRAIN,
        components::TABLE,
    ],
    versions: Some(peft::versions),
    params: FinetuneParams::PARAMS,
    adds: &[],
    outputs: finish::outputs,
    metrics: METRICS,
    check: check::check,
    expand: None,
    canonicalize: Some(canonical::canonicalize),
    close_elsewhere: true,
    retryable: false,
    tokens: Some("active_tokens"),
    over: None,
    served: &[],
    requests: None,
    memory: Some(memory::need),
    run,
};

fn run(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: FinetuneParams = context.parameters()?;
    if params.backend == Some(Backend::Peft) {
        return peft::run(context, &params);
    }
    models::on_threads(context.resources.threads, || {
        crate::memory::check(context, memory::need)?;
        let mut start = start::start(context, &params)?;
        let sizes = (start.model.config.max_positions, start.model.config.vocab);
        let read = |input| rows::rows(context, &params, input, &start.tokenizer, sizes);
        let data = read("data")?;
        let watched = match context.inputs.contains_key("evaluate_on") {
            true => Some(read("evaluate_on").map_err(of_evaluate_on)?),
            false => None,
        };
        let counts =
            Counted { data: data.counts, watched: watched.as_ref().map(|rows| rows.counts) };
        let (trained, kept) = learn(context, &params, &mut start, &data, watched.as_ref())?;
        let mut result = finish::finish(context, &params, start, &counts, &trained)?;
        for (name, artifact) in kept {
            result.artifacts.insert(name, artifact);
        }
        Ok(result)
    })
}

/// Counts of the tables that were read.
struct Counted {
    data: Counts,
    /// Of `evaluate_on`.
    watched: Option<Counts>,
}

/// Says of an error in the rows that it is about the other table.
fn of_evaluate_on(error: StageError) -> StageError {
    match error {
        StageError::Failed { message, hint } => {
            StageError::Failed { message: format!("`evaluate_on`: {message}"), hint }
        }
        other => other,
    }
}

/// Trains the model; what happened in each step, and the models that were kept on the way.
fn learn(
    context: &Context<'_>,
    params: &FinetuneParams,
    start: &mut Start,
    data: &TrainingRows,
    watched: Option<&TrainingRows>,
) -> Result<(Trained, Vec<(String, Artifact)>), StageError> {
    let Start { model, lora, files, .. } = start;
    let longest = data.rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
    let tokens = longest.saturating_mul(params.batch_size.min(data.rows.len()));
    let recompute = memory::check(context, params, &model.config, tokens as u64)?;
    let options = options(params, &data.rows, recompute);
    let total = steps(&options, data.rows.len());
    let wanted = wanted_steps(params, &options, data.rows.len(), total)?;
    let snapshot_steps: Vec<u64> = wanted.iter().map(|(step, _)| *step).collect();
    let storing = Storing { context, lora: lora.as_ref(), merge: params.merge, files };
    let keeper = params.keep.is_some().then(|| Keeper::new(context, &storing)).transpose()?;
    let take = |step: u64, model: &LanguageModel| match &keeper {
        Some(keeper) => keeper.take(step, model),
        None => ControlFlow::Continue(()),
    };
    let profile = models::profile();
    let evaluation = watched.map(|watched| Evaluation {
        rows: &watched.rows,
        every: params.evaluate_every,
        early_stopping: params.early_stopping.map(Into::into),
    });
    let keep = CheckpointOptions {
        unfinished: &context.unfinished,
        every: Duration::from_secs_f64(params.checkpoint_every),
        profile: &profile,
        note: &|text| context.progress.note(text),
    };
    let snapshots = Some(Snapshots { steps: &snapshot_steps, take: &take });
    let training =
        Training { rows: &data.rows, options: &options, evaluation, keep: Some(keep), snapshots };
    let done = train(model, &training, &mut |steps| {
        context.progress.set(steps, Some(total), "steps");
        if context.cancel.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    if let Some(failure) = keeper.as_ref().and_then(Keeper::failure) {
        return Err(failure);
    }
    let trained = done.map_err(|error| match error {
        TrainError::Interrupted => StageError::Cancelled,
        TrainError::Model(error) => model_failed(error),
        other => failed(other),
    })?;
    let mut kept = Vec::with_capacity(wanted.len());
    for (step, name) in wanted {
        if let Some(keeper) = &keeper {
            kept.push((name, keeper.artifact(step)?));
        }
    }
    Ok((trained, kept))
}

/// The steps after which the model is kept, each with the name of its output.
fn wanted_steps(
    params: &FinetuneParams,
    options: &TrainOptions,
    rows: usize,
    total: u64,
) -> Result<Vec<(u64, String)>, StageError> {
    let Some(keep) = &params.keep else { return Ok(Vec::new()) };
    let wanted = keep.steps(params.epochs.unwrap_or(1), steps_per_epoch(options, rows));
    match wanted.iter().find(|(step, _)| *step > total) {
        Some((step, _)) => Err(StageError::with_hint(
            format!("`keep` names step {step}, but the training has {total}"),
            "leave the step out, or train longer",
        )),
        None => Ok(wanted),
    }
}

/// Counts the steps of an epoch.
fn steps_per_epoch(options: &TrainOptions, rows: usize) -> u64 {
    steps(&TrainOptions { length: Length::Epochs(1), ..options.clone() }, rows)
}

fn options(params: &FinetuneParams, rows: &[TrainRow], recompute: bool) -> TrainOptions {
    let mut options = TrainOptions {
        length: match params.steps {
            Some(steps) => Length::Steps(steps),
            None => Length::Epochs(params.epochs.unwrap_or(1)),
        },
        batch_size: params.batch_size,
        accumulate: params.accumulate,
        order: params.order.into(),
        learning_rate: params.learning_rate,
        schedule: params.schedule.into(),
        warmup: 0,
        betas: (params.betas[0], params.betas[1]),
        eps: params.eps,
        weight_decay: params.weight_decay,
        clip: (params.clip > 0.0).then_some(params.clip),
        seed: params.seed,
        kl_weight: params.kl.map(|kl| kl.weight),
        recompute,
    };
    options.warmup = match params.warmup {
        Warmup::Steps(steps) => steps,
        Warmup::Share(share) => (share * steps(&options, rows.len()) as f64).ceil() as u64,
    };
    options
}
