//! Retries failed nodes whose stage allows it, and ends attempts that exceed their time limit.

use tracing::{debug_span, warn};

use crate::kind::StageError;
use crate::language::units;
use crate::plan::state::{NodeState, PendingNode};

use super::node::{NodeError, NodeJob};

/// Computes a node, in as many attempts as its stage allows.
pub(super) fn attempts(job: &NodeJob<'_>, pending: &PendingNode) -> Result<NodeState, NodeError> {
    let _node = job.span.enter();
    let mut attempt = 1;
    loop {
        let number = attempt;
        let error = match debug_span!("attempt", number).in_scope(|| once(job, pending)) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        // A fault of the machine or of Refrain stays.
        let chance = matches!(error, NodeError::Stage(StageError::Failed { .. }));
        let retry = job.node.settings.retry.filter(|_| chance);
        let Some((retry, pause)) = retry.and_then(|retry| Some((retry, retry.pause(attempt)?)))
        else {
            return Err(error);
        };

        let (of, wait) = (retry.times + 1, units::show(pause));
        warn!(
            name: "retry",
            attempt,
            of,
            "attempt {attempt} of {of} failed; the next begins in {wait}: {error}"
        );
        job.cancel.pause(pause)?;
        attempt += 1;
    }
}

/// Makes one attempt within the stage's time limit.
fn once(job: &NodeJob<'_>, pending: &PendingNode) -> Result<NodeState, NodeError> {
    let Some(limit) = job.node.settings.timeout else { return job.run(pending, job.cancel) };
    let cancel = job.cancel.within(limit);
    let result = job.run(pending, &cancel);
    // A stage that is asked to stop ends with one of these two errors.
    let why = match &result {
        Err(NodeError::Stage(StageError::Cancelled)) => String::new(),
        Err(NodeError::Stage(StageError::Failed { message, .. })) => format!(": {message}"),
        _ => return result,
    };
    if job.cancel.is_cancelled() || !cancel.is_late() {
        return result;
    }
    let message = format!("it was stopped after its `timeout` of {}{why}", units::show(limit));
    Err(StageError::with_hint(message, "raise `timeout`, or reduce the work").into())
}
