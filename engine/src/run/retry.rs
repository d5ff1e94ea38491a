//! Tries a failed node again where its stage says so, and ends an attempt that takes too long.

use tracing::{debug_span, warn};

use crate::kind::StageError;
use crate::language::units;
use crate::plan::state::{Done, Todo};

use super::node::{Failure, Job};

/// Computes a node: one attempt, and as many more as its stage allows.
pub(super) fn attempts(job: &Job<'_>, todo: &Todo) -> Result<Done, Failure> {
    let _node = job.span.enter();
    let mut attempt = 1;
    loop {
        let number = attempt;
        let failure = match debug_span!("attempt", number).in_scope(|| once(job, todo)) {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        // What is wrong with the machine or with Refrain stays wrong.
        let again = job
            .node
            .settings
            .retry
            .filter(|_| matches!(failure, Failure::Stage(StageError::Failed { .. })));
        let Some((retry, pause)) = again.and_then(|retry| Some((retry, retry.pause(attempt)?)))
        else {
            return Err(failure);
        };
        let (of, wait) = (retry.times + 1, units::show(pause));
        warn!(
            name: "retry",
            attempt,
            of,
            "attempt {attempt} of {of} failed; the next begins in {wait}: {failure}"
        );
        job.cancel.pause(pause)?;
        attempt += 1;
    }
}

/// One attempt within the stage's time limit.
fn once(job: &Job<'_>, todo: &Todo) -> Result<Done, Failure> {
    let Some(limit) = job.node.settings.timeout else { return job.run(todo, job.cancel) };
    let cancel = job.cancel.within(limit);
    let result = job.run(todo, &cancel);
    // Who is asked to stop says so in one of these two ways; the run's own request is no failure.
    let why = match &result {
        Err(Failure::Stage(StageError::Cancelled)) => String::new(),
        Err(Failure::Stage(StageError::Failed { message, .. })) => format!(": {message}"),
        _ => return result,
    };
    if job.cancel.is_cancelled() || !cancel.is_late() {
        return result;
    }
    let message = format!("it was stopped after its `timeout` of {}{why}", units::show(limit));
    Err(StageError::with_hint(message, "allow it more time, or give it less to do").into())
}
