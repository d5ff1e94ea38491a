//! Training: batches in a fixed order, one normalisation over all active tokens of a step, AdamW.

mod optimizer;
mod order;
mod schedule;

use std::ops::ControlFlow;

use crate::backward::{Gradients, Pass};
use crate::forward::{Dropout, Packed};
use crate::model::{LanguageModel, ModelError};

pub use order::Order;
pub use schedule::Schedule;

use optimizer::AdamW;

/// A row to train on.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainRow {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether each token is a target; the first never is, since nothing predicts it.
    pub active: Vec<bool>,
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// So many times through the rows.
    Epochs(u64),
    /// So many steps.
    Steps(u64),
}

/// How to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// How long.
    pub length: Length,
    /// Rows of a micro-batch.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// The order of the rows.
    pub order: Order,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// What becomes of it after the warm-up.
    pub schedule: Schedule,
    /// Steps over which it rises from zero.
    pub warmup: u64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub clip: Option<f64>,
    /// Seed of order and dropout.
    pub seed: u64,
    /// Whether activations are computed again to save memory; changes no bits.
    pub checkpoint: bool,
}

/// What happened in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLog {
    /// From 0.
    pub step: u64,
    /// How often the rows had been gone through when the step began, from 0.
    pub epoch: u64,
    /// Learning rate that was used.
    pub learning_rate: f64,
    /// Mean of -log p over the active tokens, before the step; zero without active tokens.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Targets of the step.
    pub active_tokens: u64,
    /// Tokens that were computed.
    pub tokens: u64,
}

/// Why training ended early.
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
    /// The loss or the gradient is not a number any more.
    #[error("the loss is not finite in step {0}; a smaller learning rate or clipping may help")]
    NotFinite(u64),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// How many steps `rows` rows take.
pub fn steps(options: &TrainOptions, rows: usize) -> u64 {
    match options.length {
        Length::Steps(steps) => steps,
        Length::Epochs(epochs) => epochs * order::windows_per_epoch(rows, options),
    }
}

/// Trains the model's trainable tensors; `sink` hears of every step.
pub fn train(
    model: &mut LanguageModel,
    rows: &[TrainRow],
    options: &TrainOptions,
    sink: &mut dyn FnMut(&StepLog) -> ControlFlow<()>,
) -> Result<(), TrainError> {
    if rows.is_empty() {
        return Err(TrainError::NoRows);
    }
    for (i, row) in rows.iter().enumerate() {
        model.check_ids(i, &row.ids)?;
    }
    if !rows.iter().any(|r| r.active.iter().skip(1).any(|a| *a)) {
        return Err(TrainError::NothingActive);
    }
    let lengths: Vec<usize> = rows.iter().map(|r| r.ids.len()).collect();
    let total = steps(options, rows.len());
    let mut order = order::Rows::new(&lengths, options);
    let mut optimizer = AdamW::new(model);
    let mut gradients = Gradients::new(model);
    for step in 0..total {
        let (epoch, window) = order.next_window();
        let active_tokens: u64 = window.iter().flatten().map(|row| targets_of(&rows[*row])).sum();
        gradients.clear();
        let mut loss = 0.0;
        let mut tokens = 0;
        for (micro, batch) in window.iter().enumerate() {
            let dropout =
                Dropout { seed: options.seed, step: step * options.accumulate as u64 + micro as u64 };
            let pass = Pass { dropout: Some(dropout), checkpoint: options.checkpoint };
            let batch: Vec<&TrainRow> = batch.iter().map(|row| &rows[*row]).collect();
            tokens += batch.iter().map(|r| r.ids.len() as u64).sum::<u64>();
            loss += micro_batch(model, &batch, active_tokens, pass, &mut gradients);
        }
        loss /= active_tokens.max(1) as f64;
        let grad_norm = optimizer.norm(model, &gradients);
        if !loss.is_finite() || !grad_norm.is_finite() {
            return Err(TrainError::NotFinite(step));
        }
        let learning_rate = options.schedule.rate(options.learning_rate, step, options.warmup, total);
        if active_tokens > 0 {
            let factor = options.clip.map_or(1.0, |clip| (clip / (grad_norm + 1e-6)).min(1.0));
            optimizer.step(model, &gradients, factor, learning_rate, options);
        }
        let log = StepLog { step, epoch, learning_rate, loss, grad_norm, active_tokens, tokens };
        if sink(&log).is_break() {
            return Err(TrainError::Interrupted);
        }
    }
    Ok(())
}

fn targets_of(row: &TrainRow) -> u64 {
    row.active.iter().skip(1).filter(|a| **a).count() as u64
}

/// Adds a micro-batch's share of the step's gradient; gives its summed loss.
fn micro_batch(
    model: &LanguageModel,
    rows: &[&TrainRow],
    active_tokens: u64,
    pass: Pass,
    gradients: &mut Gradients,
) -> f64 {
    if rows.iter().all(|row| targets_of(row) == 0) {
        return 0.0;
    }
    let packed = Packed::new(rows.iter().map(|r| r.ids.as_slice()));
    let mut targets: Vec<Option<u32>> = Vec::with_capacity(packed.ids.len());
    for row in rows {
        let next = row.ids.iter().zip(&row.active).skip(1);
        targets.extend(next.map(|(id, active)| active.then_some(*id)));
        targets.push(None);
    }
    model.loss_and_gradients(&packed, &targets, 1.0 / active_tokens as f32, pass, gradients)
}
