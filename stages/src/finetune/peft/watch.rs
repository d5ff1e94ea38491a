//! Follows a trainer: its steps become the log, its checkpoints and models are stored as they come.

use refrain_engine::kind::StageError;
use refrain_lm::train::StepLog;

use super::super::kept::KeptModels;
use super::PeftTraining;
use super::checkpoint::Checkpoints;
use super::events::{CONTRACT, Event, Events, Start, plain, wrong};
use super::outputs::Outputs;

/// A training that came to its end.
pub(super) struct Finished {
    pub log: Vec<StepLog>,
    pub best_step: Option<u64>,
    pub trainable: u64,
    pub profile: String,
}

/// A trainer that is watched.
pub(super) struct Watcher<'a> {
    training: &'a PeftTraining<'a>,
    outputs: &'a Outputs<'a>,
    kept: Option<&'a KeptModels<'a>>,
    checkpoints: Checkpoints<'a>,
    events: Events,
    start: Option<Start>,
    log: Vec<StepLog>,
    end: Option<Option<u64>>,
    error: Option<StageError>,
}

impl<'a> Watcher<'a> {
    /// Watches a trainer that was given a checkpoint after the steps of `log`.
    pub fn new(
        training: &'a PeftTraining<'a>,
        outputs: &'a Outputs<'a>,
        kept: Option<&'a KeptModels<'a>>,
        checkpoints: Checkpoints<'a>,
        log: Vec<StepLog>,
    ) -> Watcher<'a> {
        let events = Events::new(outputs.folder.join("report.jsonl"));
        let (start, end, error) = (None, None, None);
        Watcher { training, outputs, kept, checkpoints, events, start, log, end, error }
    }

    /// Reads what the trainer reported since the last call.
    pub fn read(&mut self) -> Result<(), StageError> {
        for event in self.events.read()? {
            self.event(event)?;
        }
        Ok(())
    }

    /// The error that the trainer reported.
    pub fn error(&mut self) -> Option<StageError> {
        self.error.take()
    }

    /// Whether the training came to its end.
    pub fn is_done(&self) -> bool {
        self.end.is_some()
    }

    /// The outputs of a trainer that ended without an error.
    pub fn finished(&mut self) -> Result<Finished, StageError> {
        let (Some(start), Some(best_step)) = (&self.start, self.end) else {
            return Err(wrong("the trainer ended without reporting the end of the training"));
        };
        let planned = self.training.plan.len();
        if self.log.len() != planned && best_step.is_none() {
            let done = self.log.len();
            return Err(wrong(format!("the trainer ended after {done} of {planned} steps")));
        }
        if best_step.is_some_and(|step| step >= self.log.len() as u64) {
            return Err(wrong("the trainer's best step is none that it made"));
        }
        Ok(Finished {
            log: std::mem::take(&mut self.log),
            best_step,
            trainable: start.trainable,
            profile: start.profile(),
        })
    }

    fn event(&mut self, event: Event) -> Result<(), StageError> {
        let context = self.training.context;
        match event {
            Event::Start(start) => self.begin(start)?,
            Event::Step { step, loss, grad_norm } => self.step(step, loss, grad_norm)?,
            Event::Evaluate { step, loss } => {
                let last = self.log.last_mut().filter(|last| last.step == step);
                let last = last.ok_or_else(|| {
                    wrong(format!("the trainer evaluates after step {step}, which is not the last"))
                })?;
                last.eval_loss = Some(loss);
            }
            Event::Keep { step } => {
                let wanted = self.training.wanted.iter().any(|(wanted, _)| *wanted == step);
                let kept = self.kept.filter(|_| wanted).ok_or_else(|| {
                    wrong(format!(
                        "the trainer kept the model of step {step}, which is not asked for"
                    ))
                })?;
                kept.put(step, self.outputs.store(&format!("out/step_{step}"))?)?;
            }
            Event::Checkpoint { step, folder } => {
                if step != self.log.len() as u64 {
                    return Err(wrong(format!(
                        "the trainer's checkpoint is of step {step}, not the last"
                    )));
                }
                self.checkpoints.keep(&folder, &self.log, &|text| context.progress.note(text))?;
            }
            Event::Note { text } => context.progress.note(plain(&text)),
            Event::End { best_step } => self.end = Some(best_step),
            Event::Error { message, hint, environment } => {
                let (message, hint) = (plain(&message), hint.map(|hint| plain(&hint)));
                self.error = Some(match environment {
                    true => StageError::Environment { message, hint },
                    false => StageError::Failed { message, hint },
                });
            }
            Event::Stopped {} | Event::Unknown => {}
        }
        Ok(())
    }

    /// The trainer goes on from its checkpoint, or begins anew.
    fn begin(&mut self, start: Start) -> Result<(), StageError> {
        let done = self.log.len() as u64;
        let total = self.training.plan.len();
        match start.step {
            0 => self.log.clear(),
            step if step == done => self.training.context.progress.note(format!(
                "goes on after step {step} of {total}, where an earlier run was interrupted"
            )),
            step => return Err(wrong(format!("the trainer begins with step {step} of its own"))),
        }
        self.start = Some(start);
        Ok(())
    }

    fn step(&mut self, step: u64, loss: f64, grad_norm: f64) -> Result<(), StageError> {
        let PeftTraining { context, rows, plan, .. } = self.training;
        let planned = plan.get(self.log.len()).filter(|_| step == self.log.len() as u64);
        let (Some(planned), Some(_)) = (planned, &self.start) else {
            return Err(StageError::with_hint(
                format!("the trainer reports step {step} after {} steps", self.log.len()),
                CONTRACT,
            ));
        };
        let of_step = || planned.micro_batches.iter().flatten().map(|row| &rows[*row]);
        let log = StepLog {
            step,
            epoch: planned.epoch,
            learning_rate: planned.learning_rate,
            loss,
            kl: None,
            grad_norm,
            active_tokens: of_step().map(|row| row.targets()).sum(),
            tokens: of_step().map(|row| row.ids.len() as u64).sum(),
            eval_loss: None,
        };
        log.emit();
        self.log.push(log);
        context.progress.set(self.log.len() as u64, Some(plan.len() as u64), "steps");
        Ok(())
    }
}
