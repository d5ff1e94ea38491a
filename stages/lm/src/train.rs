//! Training: batches in a fixed order, one normalisation over all active tokens of a step, AdamW.
//!
//! Which rows a step sees and every random number are functions of the seed and the step, so what
//! must be kept to go on later is the step, the trained tensors, the optimizer's moments and what
//! early stopping remembers ([`CheckpointOptions`]).

mod checkpoint;
mod evaluation;
mod optimizer;
mod order;
mod schedule;

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use tracing::{debug, trace_span};

use crate::backward::{Base, Gradients, Pass, Sums, Targets};
use crate::forward::{Dropout, Packed};
use crate::model::{LanguageModel, ModelError};

pub use checkpoint::CheckpointOptions;
pub use evaluation::{EarlyStopping, Evaluation};
pub use order::Order;
pub use schedule::Schedule;

use checkpoint::Checkpointer;
use evaluation::Best;
use optimizer::AdamW;

/// A row to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainRow {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether each token is a target; the first never is, since nothing predicts it.
    pub active: Vec<bool>,
}

impl TrainRow {
    /// Counts the tokens that are targets.
    pub fn targets(&self) -> u64 {
        self.active.iter().skip(1).filter(|active| **active).count() as u64
    }
}

/// Length of a training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Number of epochs.
    Epochs(u64),
    /// Number of steps.
    Steps(u64),
}

/// Settings of a training.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Its length.
    pub length: Length,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// The order of the rows.
    pub order: Order,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Its course after the warm-up.
    pub schedule: Schedule,
    /// Steps over which it rises from zero.
    pub warmup: u64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// AdamW epsilon, added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub clip: Option<f64>,
    /// Weight of the divergence from the model as it was given, without an adapter that is trained;
    /// `None` = not computed.
    pub kl_weight: Option<f64>,
    /// Seed of order and dropout.
    pub seed: u64,
    /// Whether activations are computed again to save memory; changes no bits.
    pub recompute: bool,
}

impl TrainOptions {
    /// The learning rate of a step of so many.
    fn rate(&self, step: u64, total: u64) -> f64 {
        self.schedule.rate(self.learning_rate, step, self.warmup, total)
    }
}

/// A training.
#[derive(Clone, Copy)]
pub struct Training<'a> {
    /// The rows to train on.
    pub rows: &'a [TrainRow],
    /// The settings.
    pub options: &'a TrainOptions,
    /// Held-out rows, on which the loss is measured.
    pub evaluation: Option<Evaluation<'a>>,
    /// Checkpoints, for a run that is interrupted.
    pub keep: Option<CheckpointOptions<'a>>,
    /// Models that are handed over on the way.
    pub snapshots: Option<Snapshots<'a>>,
}

/// Steps after which the model is handed on as it is then.
#[derive(Clone, Copy)]
pub struct Snapshots<'a> {
    /// The numbers of steps, ascending.
    pub steps: &'a [u64],
    /// Takes the model; a break ends the training.
    pub take: &'a dyn Fn(u64, &LanguageModel) -> ControlFlow<()>,
}

/// Log entry of one step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepLog {
    /// From 0.
    pub step: u64,
    /// Epoch in which the step began, from 0.
    pub epoch: u64,
    /// Learning rate that was used.
    pub learning_rate: f64,
    /// Mean of -log p over the active tokens, before the step; zero without active tokens.
    pub loss: f64,
    /// Mean over the active tokens of the estimate k3 of the divergence from the base, before the
    /// step; not part of `loss`.
    pub kl: Option<f64>,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Targets of the step.
    pub active_tokens: u64,
    /// Tokens that were computed.
    pub tokens: u64,
    /// Mean of -log p over the active tokens of the rows to evaluate on, after the step, where it
    /// was measured.
    pub eval_loss: Option<f64>,
}

/// Result of a training beside the trained tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Every step that was made.
    pub log: Vec<StepLog>,
    /// With early stopping the step after which the tensors were as they are now.
    pub best_step: Option<u64>,
}

/// An error of training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A row does not fit the model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// There is nothing to train on.
    #[error("there are no rows to train on")]
    NoRows,
    /// No row has a token to learn.
    #[error("no row has an active token: there is nothing to learn")]
    NothingActive,
    /// No row to evaluate on has a token that counts.
    #[error("no row of `evaluate_on` has an active token: there is nothing to measure")]
    NothingToEvaluate,
    /// The loss or the gradient is not a number any more.
    #[error("the loss is not finite in step {0}; a smaller learning rate or clipping may help")]
    NotFinite(u64),
    /// The loss on the rows to evaluate on is not a number any more.
    #[error(
        "the loss on `evaluate_on` is not finite after step {0}; a smaller learning rate may help"
    )]
    EvaluationNotFinite(u64),
    /// A checkpoint whose checksum holds could not be read to its end.
    #[error("cannot read the checkpoint of an earlier run: {0}")]
    Checkpoint(std::io::Error),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl StepLog {
    /// Emits what happened in the step.
    pub fn emit(&self) {
        let StepLog { step, epoch, learning_rate, loss, kl, grad_norm, tokens, .. } = *self;
        debug!(name: "step", step, epoch, loss, kl, learning_rate, grad_norm, tokens, "step");
    }
}

/// A step as it is planned.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// Epoch in which it begins, from 0.
    pub epoch: u64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// The numbers of the rows of each micro-batch.
    pub micro_batches: Vec<Vec<usize>>,
}

/// Plans all steps over rows of these lengths.
pub fn plan<'a>(
    options: &'a TrainOptions,
    lengths: &'a [usize],
) -> impl Iterator<Item = PlannedStep> + 'a {
    let total = steps(options, lengths.len());
    let mut order = order::BatchPlan::at(lengths, options, 0);
    (0..total).map(move |step| {
        let (epoch, micro_batches) = order.next_window();
        let learning_rate = options.rate(step, total);
        PlannedStep { epoch, learning_rate, micro_batches }
    })
}

/// Counts the steps over `rows` rows.
pub fn steps(options: &TrainOptions, rows: usize) -> u64 {
    match options.length {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => epochs * order::windows_per_epoch(rows, options),
    }
}

/// Trains the model's trainable tensors, from where an earlier run was interrupted if
/// [`Training::keep`] has its state.
///
/// `progress` hears how many steps are done, after each and between the batches of an evaluation.
///
/// # Errors
/// Rows that cannot be trained on, a loss that is not finite, and `Interrupted` where `progress`
/// breaks.
pub fn train(
    model: &mut LanguageModel,
    training: &Training<'_>,
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Trained, TrainError> {
    check(model, training)?;
    let base = match training.options.kl_weight {
        Some(_) => Some(evaluation::base_logprobs(model, training.rows, &mut || progress(0))?),
        None => None,
    };
    let mut checkpointer = training.keep.map(Checkpointer::new);
    let mut trainer = Trainer::new(model, training, base);
    if let Some(checkpointer) = &checkpointer {
        checkpointer.restore(&mut trainer)?;
    }
    let done = trainer.all(checkpointer.as_mut(), progress);
    if let (Err(TrainError::Interrupted), Some(checkpointer)) = (&done, &mut checkpointer) {
        checkpointer.save(&trainer);
    }
    done?;
    if !trainer.is_finite() {
        return Err(TrainError::NotFinite(trainer.step));
    }
    let best_step = trainer.best.take().map(|best| best.restore(trainer.model));
    Ok(Trained { log: trainer.log, best_step })
}

fn check(model: &LanguageModel, training: &Training<'_>) -> Result<(), TrainError> {
    let watched = training.evaluation.map(|evaluation| evaluation.rows);
    let of_watched = watched.unwrap_or_default().iter().enumerate();
    for (i, row) in training.rows.iter().enumerate().chain(of_watched) {
        model.check_ids(i, &row.ids)?;
    }
    check_rows(training.rows, watched)
}

/// Checks that there is something to learn, and something to measure on the rows to evaluate on.
///
/// # Errors
/// [`TrainError::NoRows`], [`TrainError::NothingActive`], [`TrainError::NothingToEvaluate`].
pub fn check_rows(rows: &[TrainRow], watched: Option<&[TrainRow]>) -> Result<(), TrainError> {
    if rows.is_empty() {
        return Err(TrainError::NoRows);
    }
    if !rows.iter().any(|row| row.targets() > 0) {
        return Err(TrainError::NothingActive);
    }
    if watched.is_some_and(|watched| !watched.iter().any(|row| row.targets() > 0)) {
        return Err(TrainError::NothingToEvaluate);
    }
    Ok(())
}

/// A training under way.
struct Trainer<'a> {
    model: &'a mut LanguageModel,
    training: &'a Training<'a>,
    /// For each row the log-probabilities of its active tokens under the base.
    base: Option<Vec<Vec<f32>>>,
    total: u64,
    gradients: Gradients,
    optimizer: AdamW,
    /// The next step.
    step: u64,
    log: Vec<StepLog>,
    best: Option<Best>,
}

impl<'a> Trainer<'a> {
    fn new(
        model: &'a mut LanguageModel,
        training: &'a Training<'a>,
        base: Option<Vec<Vec<f32>>>,
    ) -> Trainer<'a> {
        Trainer {
            total: steps(training.options, training.rows.len()),
            gradients: Gradients::new(model),
            optimizer: AdamW::new(model),
            step: 0,
            log: Vec::new(),
            best: None,
            model,
            training,
            base,
        }
    }

    /// Makes the steps that are left.
    fn all(
        &mut self,
        mut checkpointer: Option<&mut Checkpointer<'_>>,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let lengths: Vec<usize> = self.training.rows.iter().map(|r| r.ids.len()).collect();
        let mut order = order::BatchPlan::at(&lengths, self.training.options, self.step);
        loop {
            // Before the next step, not after the last one: so an interrupted evaluation is made up
            // for.
            self.evaluate(progress)?;
            if self.step == self.total || self.is_enough() {
                return Ok(());
            }
            let (epoch, window) = order.next_window();
            let step = self.step;
            let log = trace_span!("step", step).in_scope(|| self.one_step(epoch, &window))?;
            log.emit();
            self.log.push(log);
            self.step += 1;
            // Before the state is kept: what an interrupted training was told is not told again.
            self.snapshot()?;
            if progress(self.step).is_break() {
                return Err(TrainError::Interrupted);
            }
            if let Some(checkpointer) = &mut checkpointer
                && checkpointer.is_due()
            {
                checkpointer.save(self);
            }
        }
    }

    fn snapshot(&self) -> Result<(), TrainError> {
        let Some(Snapshots { steps, take }) = self.training.snapshots else { return Ok(()) };
        if steps.binary_search(&self.step).is_ok() && take(self.step, self.model).is_break() {
            return Err(TrainError::Interrupted);
        }
        Ok(())
    }

    /// Whether the last step left numbers in all trainable tensors: no further loss would tell.
    fn is_finite(&self) -> bool {
        let mut tensors = self.model.tensors.iter().filter(|tensor| tensor.trainable);
        tensors.all(|tensor| tensor.values().iter().all(|value| value.is_finite()))
    }

    fn one_step(&mut self, epoch: u64, window: &[Vec<usize>]) -> Result<StepLog, TrainError> {
        let (rows, options, step) = (self.training.rows, self.training.options, self.step);
        let active_tokens: u64 = window.iter().flatten().map(|row| rows[*row].targets()).sum();
        self.gradients.clear();
        let mut sums = Sums::default();
        for (micro, batch) in window.iter().enumerate() {
            let dropout = Dropout {
                seed: options.seed,
                step: step * options.accumulate as u64 + micro as u64,
            };
            let pass = Pass { dropout: Some(dropout), recompute: options.recompute };
            let Sums { loss, kl } = self.micro_batch(batch, active_tokens, pass);
            sums = Sums { loss: sums.loss + loss, kl: sums.kl + kl };
        }
        let (loss, kl) =
            (sums.loss / active_tokens.max(1) as f64, sums.kl / active_tokens.max(1) as f64);
        let grad_norm = self.optimizer.norm(self.model, &self.gradients);
        if ![loss, kl, grad_norm].iter().all(|value| value.is_finite()) {
            return Err(TrainError::NotFinite(step));
        }
        let learning_rate = options.rate(step, self.total);
        if active_tokens > 0 {
            let factor = options.clip.map_or(1.0, |clip| (clip / (grad_norm + 1e-6)).min(1.0));
            self.optimizer.step(self.model, &self.gradients, factor, learning_rate, options);
        }
        let tokens = window.iter().flatten().map(|row| rows[*row].ids.len() as u64).sum();
        let kl = options.kl_weight.map(|_| kl);
        Ok(StepLog {
            step,
            epoch,
            learning_rate,
            loss,
            kl,
            grad_norm,
            active_tokens,
            tokens,
            eval_loss: None,
        })
    }

    /// Adds a micro-batch's share of the step's gradient; gives its sums.
    fn micro_batch(&mut self, batch: &[usize], active_tokens: u64, pass: Pass) -> Sums {
        let rows: Vec<&TrainRow> = batch.iter().map(|row| &self.training.rows[*row]).collect();
        if rows.iter().all(|row| row.targets() == 0) {
            return Sums::default();
        }
        let packed = Packed::new(rows.iter().map(|r| r.ids.as_slice()));
        let mut tokens: Vec<Option<u32>> = Vec::with_capacity(packed.ids.len());
        for row in rows {
            let next = row.ids.iter().zip(&row.active).skip(1);
            tokens.extend(next.map(|(id, active)| active.then_some(*id)));
            tokens.push(None);
        }
        let base: Option<Vec<f32>> = self
            .base
            .as_ref()
            .map(|base| batch.iter().flat_map(|row| &base[*row]).copied().collect());
        let weight = self.training.options.kl_weight.unwrap_or(0.0);
        let targets = Targets {
            tokens: &tokens,
            base: base.as_deref().map(|logprobs| Base { logprobs, weight }),
            factor: 1.0 / active_tokens as f32,
        };
        self.model.loss_and_gradients(&packed, &targets, pass, &mut self.gradients)
    }
}
