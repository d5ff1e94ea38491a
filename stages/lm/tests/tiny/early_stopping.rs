//! The loss on held-out rows, and the tensors that early stopping keeps.

use refrain_lm::model::LanguageModel;
use refrain_lm::score::score;
use refrain_lm::train::{
    EarlyStopping, Evaluation, Length, Schedule, TrainError, TrainOptions, Training,
};

use crate::*;

fn mean_loss(model: &LanguageModel, rows: &[TrainRow]) -> f64 {
    let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let (mut sum, mut count) = (0.0, 0.0);
    score(model, &ids, None, &mut |row, logprobs| {
        for (logprob, _) in
            logprobs.iter().zip(&rows[row].active[1..]).filter(|(_, active)| **active)
        {
            sum -= f64::from(*logprob);
            count += 1.0;
        }
    })
    .unwrap();
    sum / count
}

fn model() -> LanguageModel {
    let mut model = LanguageModel::random(&config("llama"), 3);
    model.train_all();
    model
}

/// So fast on random rows that the loss on others soon rises.
fn overfitting() -> TrainOptions {
    TrainOptions {
        length: Length::Epochs(20),
        learning_rate: 2e-2,
        schedule: Schedule::Constant,
        ..options()
    }
}

#[test]
fn the_loss_is_measured_when_it_is_due_and_changes_nothing() {
    let (data, watched, options) = (rows(11, 1), rows(50, 2), options());
    let plain =
        Training { rows: &data, options: &options, evaluation: None, keep: None, snapshots: None };
    let mut expected = model();
    let log = trained(&mut expected, &plain).log;
    // Eleven rows are three steps of at most four.
    for (every, due) in [(None, vec![2, 5, 8]), (Some(4), vec![3, 7, 8]), (Some(100), vec![8])] {
        let evaluation = Some(Evaluation { rows: &watched, every, early_stopping: None });
        let mut got = model();
        let done = trained(&mut got, &Training { evaluation, ..plain });
        assert_eq!(bits(&got), bits(&expected));
        assert_eq!(done.best_step, None);
        let measured: Vec<u64> =
            done.log.iter().filter(|s| s.eval_loss.is_some()).map(|s| s.step).collect();
        assert_eq!(measured, due);
        assert_eq!(done.log[8].eval_loss, Some(mean_loss(&expected, &watched)));
        assert!(
            done.log.iter().zip(&log).all(|(a, b)| (a.loss, a.grad_norm) == (b.loss, b.grad_norm))
        );
    }
}

#[test]
fn the_best_tensors_are_kept() {
    let (data, watched, options) = (rows(11, 1), rows(20, 2), overfitting());
    let run = |patience, min_delta| {
        let early_stopping = Some(EarlyStopping { patience, min_delta });
        let evaluation = Some(Evaluation { rows: &watched, every: Some(1), early_stopping });
        let mut model = model();
        let training =
            Training { rows: &data, options: &options, evaluation, keep: None, snapshots: None };
        let done = trained(&mut model, &training);
        (model, done)
    };
    let (model, done) = run(4, 0.0);
    let losses: Vec<f64> = done.log.iter().map(|step| step.eval_loss.unwrap()).collect();
    let best = done.best_step.unwrap() as usize;
    assert!(losses.len() < 60, "the test should be stopped early");
    assert_eq!(losses.len(), best + 1 + 4);
    assert!(losses.iter().all(|loss| *loss >= losses[best]));
    assert_eq!(mean_loss(&model, &watched), losses[best]);
    // The same training, ended where it was best.
    let options = TrainOptions { length: Length::Steps(best as u64 + 1), ..options.clone() };
    let mut short = self::model();
    trained(
        &mut short,
        &Training { rows: &data, options: &options, evaluation: None, keep: None, snapshots: None },
    );
    assert_eq!(bits(&short), bits(&model));
    // Improvements that are too small do not count, but the lowest is kept all the same.
    let (_, strict) = run(4, 1e9);
    assert_eq!(strict.log.len(), 5);
    let lowest = (0..5).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap();
    assert_eq!(strict.best_step, Some(lowest as u64));
}

#[test]
fn rows_that_nothing_can_be_measured_on_are_refused() {
    let (data, options) = (rows(11, 1), options());
    let mut watched = rows(3, 2);
    watched.iter_mut().for_each(|row| row.active.fill(false));
    let evaluation = Some(Evaluation { rows: &watched, every: None, early_stopping: None });
    let training =
        Training { rows: &data, options: &options, evaluation, keep: None, snapshots: None };
    let error = train(&mut model(), &training, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, TrainError::NothingToEvaluate));
}
