//! The loss on rows that are not trained on, early stopping by it, and the base's
//! log-probabilities.

use std::ops::ControlFlow;

use crate::model::LanguageModel;
use crate::score::score;

use super::{TrainError, TrainRow, Trainer, order};

/// Rows between two questions whether to go on.
const ROWS: usize = 32;

/// Held-out rows, on which the loss is measured while training.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation<'a> {
    /// The rows.
    pub rows: &'a [TrainRow],
    /// Steps between two evaluations, at least 1; `None` = at the end of each epoch. The last step
    /// is always followed by one.
    pub every: Option<u64>,
    /// Whether training ends when it does not help any more.
    pub early_stopping: Option<EarlyStopping>,
}

/// Early stopping: ends training when the held-out loss stops falling, and keeps the tensors of its
/// lowest value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    /// Evaluations without improvement after which training ends, at least 1.
    pub patience: u64,
    /// By how much the loss must be below the lowest so far to be an improvement, at least 0.
    pub min_delta: f64,
}

/// Trained tensors at the lowest loss so far.
pub(super) struct Best {
    /// The last step before it.
    pub step: u64,
    pub loss: f64,
    /// Evaluations since the last improvement.
    pub stale: u64,
    /// The trainable tensors, in the order of their names.
    pub tensors: Vec<Vec<f32>>,
}

impl Best {
    /// Puts the tensors back; gives the step after which they were so.
    pub fn restore(self, model: &mut LanguageModel) -> u64 {
        for (id, values) in model.trainable().into_iter().zip(self.tensors) {
            model.tensors[id].values_mut().copy_from_slice(&values);
        }
        model.refresh();
        self.step
    }
}

impl Trainer<'_> {
    /// Measures the loss where it is due and not known yet.
    pub(super) fn evaluate(
        &mut self,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let Some(evaluation) = self.training.evaluation else { return Ok(()) };
        let every = evaluation.every.unwrap_or_else(|| {
            order::windows_per_epoch(self.training.rows.len(), self.training.options)
        });
        let due = self.step == self.total || self.step.is_multiple_of(every);
        let Some(step) = self.log.last().filter(|step| due && step.eval_loss.is_none()) else {
            return Ok(());
        };
        let step = step.step;
        let (mut sum, mut targets) = (0.0, 0u64);
        let done = self.step;
        active_logprobs(self.model, evaluation.rows, &mut || progress(done), &mut |logprobs| {
            sum -= logprobs.iter().map(|logprob| f64::from(*logprob)).sum::<f64>();
            targets += logprobs.len() as u64;
        })?;
        let loss = sum / targets as f64;
        if !loss.is_finite() {
            return Err(TrainError::EvaluationNotFinite(step));
        }
        self.log.last_mut().expect("an evaluation follows a step").eval_loss = Some(loss);
        if let Some(stopping) = evaluation.early_stopping {
            self.remember(step, loss, stopping.min_delta);
        }
        Ok(())
    }

    /// Keeps the tensors where they are the best so far, and counts evaluations without
    /// improvement.
    fn remember(&mut self, step: u64, loss: f64, min_delta: f64) {
        let improved = self.best.as_ref().is_none_or(|best| loss < best.loss - min_delta);
        let stale = if improved { 0 } else { self.best.as_ref().map_or(0, |best| best.stale + 1) };
        match &mut self.best {
            Some(best) if loss >= best.loss => best.stale = stale,
            _ => {
                let tensors = self
                    .model
                    .trainable()
                    .into_iter()
                    .map(|id| self.model.values(id).to_vec())
                    .collect();
                self.best = Some(Best { step, loss, stale, tensors });
            }
        }
    }

    /// Whether early stopping ends training here.
    pub(super) fn is_enough(&self) -> bool {
        let stopping = self.training.evaluation.and_then(|evaluation| evaluation.early_stopping);
        match (stopping, &self.best) {
            (Some(stopping), Some(best)) => best.stale >= stopping.patience,
            _ => false,
        }
    }
}

/// For each row the log-probabilities of its active tokens under the model without its adapter: 4
/// bytes an active token.
pub(super) fn base_logprobs(
    model: &mut LanguageModel,
    rows: &[TrainRow],
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let mut all = Vec::with_capacity(rows.len());
    model.without_trained(|base| {
        active_logprobs(base, rows, go_on, &mut |logprobs| all.push(logprobs))
    })?;
    Ok(all)
}

/// Calls `on_row` with the log-probabilities of each row's active tokens, row by row.
fn active_logprobs(
    model: &LanguageModel,
    rows: &[TrainRow],
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
    on_row: &mut dyn FnMut(Vec<f32>),
) -> Result<(), TrainError> {
    for rows in rows.chunks(ROWS) {
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        score(model, &ids, None, &mut |row, logprobs| {
            let counted = logprobs.iter().zip(rows[row].active.iter().skip(1));
            on_row(counted.filter(|(_, active)| **active).map(|(logprob, _)| *logprob).collect());
        })?;
        if go_on().is_break() {
            return Err(TrainError::Interrupted);
        }
    }
    Ok(())
}
