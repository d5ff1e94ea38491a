//! The verdict on a whole run, which decides its exit code.

use crate::kind::StageError;
use crate::language::explain::{ErrorClass, Explain};
use crate::report::expect::ExpectResult;
use crate::run::{NodeError, Outcome, Report};

/// Returns the class of a run's failure; `None` where all went well. `is_wrong` says that a
/// comparison has no result though its nodes ran, `differs` that the lock would change and may not.
pub fn class(
    report: &Report<'_>,
    results: &[ExpectResult],
    is_wrong: bool,
    differs: bool,
) -> Option<ErrorClass> {
    let failures = report.outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Failed(failure) => Some(failure.class()),
        _ => None,
    });
    // A wrong source explains more than what failed because of it.
    let worst = failures.max_by_key(|class| (*class == ErrorClass::Input, *class));
    match worst {
        _ if report.interrupted => Some(ErrorClass::Interrupted),
        Some(class) => Some(class),
        None if report.over_budget.is_some() => Some(ErrorClass::Stage),
        None if differs => Some(ErrorClass::Difference),
        None if is_wrong => Some(ErrorClass::Stage),
        None if results.iter().any(|result| result.verdict().is_failure()) => {
            Some(ErrorClass::Stage)
        }
        None => None,
    }
}

impl Explain for NodeError {
    fn class(&self) -> ErrorClass {
        match self {
            NodeError::Stage(StageError::Cancelled) => ErrorClass::Stage,
            NodeError::Stage(error) => error.class(),
            NodeError::Source(error) => error.class(),
            NodeError::State(error) => error.class(),
            NodeError::Changed(_) => ErrorClass::Input,
            NodeError::Unfetched => ErrorClass::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        NodeError::hint(self)
    }
}
