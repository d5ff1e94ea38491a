//! The kind `finetune`: trains a model, or an adapter of one, on the responses of a table.

mod canonical;
mod check;
mod finish;
mod memory;
mod params;
mod rows;
mod start;

use std::ops::ControlFlow;
use std::time::Duration;

use refrain_engine::kind::{Context, Kind, MetricDecl, NodeResult, Parameters, StageError};
use refrain_lm::model::LanguageModel;
use refrain_lm::train::{
    CheckpointOptions, Evaluation, Length, TrainError, TrainOptions, TrainRow, Trained, Training,
    steps, train,
};

use crate::components;
use crate::models::{self, failed, model_failed};

use params::{FinetuneParams, Warmup};
use rows::{Counts, TrainingRows};

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
    memory: Some(memory::need),
    run,
};

fn run(context: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: FinetuneParams = context.parameters()?;
    models::on_threads(context.resources.threads, || {
        crate::memory::check(context, memory::need)?;
        let mut start = start::start(context, &params)?;
        let read =
            |input| rows::rows(context, &params, input, &start.tokenizer, &start.model.config);
        let data = read("data")?;
        let watched = match context.inputs.contains_key("evaluate_on") {
            true => Some(read("evaluate_on").map_err(of_evaluate_on)?),
            false => None,
        };
        let counts =
            Counted { data: data.counts, watched: watched.as_ref().map(|rows| rows.counts) };
        let trained = learn(context, &params, &mut start.model, &data, watched.as_ref())?;
        finish::finish(context, &params, start, &counts, &trained)
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

/// Trains the model; what happened in each step.
fn learn(
    context: &Context<'_>,
    params: &FinetuneParams,
    model: &mut LanguageModel,
    data: &TrainingRows,
    watched: Option<&TrainingRows>,
) -> Result<Trained, StageError> {
    let longest = data.rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
    let tokens = longest.saturating_mul(params.batch_size.min(data.rows.len()));
    let recompute = memory::check(context, params, &model.config, tokens as u64)?;
    let options = options(params, &data.rows, recompute);
    let total = steps(&options, data.rows.len());
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
    let training = Training { rows: &data.rows, options: &options, evaluation, keep: Some(keep) };
    let done = train(model, &training, &mut |steps| {
        context.progress.set(steps, Some(total), "steps");
        if context.cancel.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    done.map_err(|error| match error {
        TrainError::Interrupted => StageError::Cancelled,
        TrainError::Model(error) => model_failed(error),
        other => failed(other),
    })
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
