//! The task `code`: runs the program in each response with the tests of its row, in the sandbox.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;

use refrain_cache::columns::column;
use refrain_engine::kind::{Cancel, Context, StageError};
use refrain_sandbox as sandbox;
use refrain_sandbox::{Interpreter, JudgeError, Launch, Limits, SandboxError, Strictness};

use super::EvaluateParams;
use super::extract::Extract;
use super::task;
use super::verdict::Verdict;
use crate::options::Options;
use crate::prompts::cell;
use crate::tables::{list_of, row_name};

/// The column of the tests unless the workflow names another.
pub(super) const TESTS: &str = "tests";
/// Seconds that a program may run unless the workflow says otherwise.
pub(super) const SECONDS: u64 = 10;
/// The parameter that only the command line sets.
pub(super) const SANDBOX: &str = "sandbox";
/// Its value where missing layers are tolerated.
pub(super) const WEAKER: &str = "weaker";

/// The types of a column of tests.
pub(super) fn types() -> [DataType; 2] {
    [DataType::Utf8, list_of(DataType::Utf8)]
}

/// A way to run the programs in responses.
pub(super) struct CodeRule {
    extract: Vec<Extract>,
    tests: String,
    entry_point: Option<String>,
    prefix: Option<String>,
    launch: Launch,
    threads: usize,
    cancel: Cancel,
    /// Judges that wait for work.
    idle: Mutex<Vec<sandbox::Judge>>,
}

/// A program with its tests.
struct Trial {
    program: String,
    tests: String,
}

impl CodeRule {
    /// Finds the interpreter; a sandbox is started with the first program.
    pub fn new(ctx: &Context<'_>, params: &EvaluateParams) -> Result<CodeRule, StageError> {
        let path = (ctx.environment)("PATH");
        let interpreter =
            Interpreter::on_path(path.as_deref().map(OsStr::new)).map_err(|error| {
                StageError::Environment {
                    message: error.to_string(),
                    hint: Some(
                        "`task: code` runs Python: install it, or add its folder to PATH".into(),
                    ),
                }
            })?;
        let Some(supervisor) = ctx.own_program else {
            return Err(StageError::bug(
                "a sandbox is wanted, and no program is known that starts it",
            ));
        };
        let weaker = ctx.params.get(SANDBOX).is_some_and(|word| word == WEAKER);
        let time = Duration::from_secs(params.time_limit.unwrap_or(SECONDS));
        Ok(CodeRule {
            extract: task::ways(params)?,
            tests: params.tests.clone().unwrap_or_else(|| TESTS.to_owned()),
            entry_point: params.entry_point.clone(),
            prefix: params.prefix.clone(),
            launch: Launch {
                supervisor: supervisor.to_owned(),
                interpreter,
                limits: Limits { time, ..Limits::default() },
                strictness: if weaker { Strictness::Weaker } else { Strictness::Strict },
            },
            threads: ctx.resources.threads,
            cancel: ctx.cancel.clone(),
            idle: Mutex::default(),
        })
    }

    /// Names what can change a verdict beside the programs: the interpreter, and a sandbox that lacks layers.
    pub fn profile(&self) -> String {
        let version = &self.launch.interpreter.version;
        match self.launch.strictness {
            Strictness::Weaker => format!("{version}, weaker sandbox"),
            Strictness::Strict | Strictness::Probe => version.clone(),
        }
    }

    /// The verdicts on the rows of a batch; programs run on all threads of the stage.
    pub fn batch<'r>(
        &self,
        batch: &'r RecordBatch,
        first_row: u64,
    ) -> Result<Vec<Verdict<'r>>, StageError> {
        let responses = column::<StringArray>(batch, "response")?;
        let codes: Vec<Option<Cow<'r, str>>> =
            (0..batch.num_rows()).map(|row| self.find(cell(responses, row)?)).collect();
        let trials = self.trials(batch, first_row, &codes)?;
        let verdicts = self.judge(&trials);
        let mut rows = Vec::with_capacity(trials.len());
        for (row, (code, verdict)) in codes.into_iter().zip(verdicts).enumerate() {
            let (correct, reason) = match verdict {
                None => (false, "no code"),
                Some(Ok(verdict)) => words(&verdict),
                Some(Err(error)) => return Err(stage_error(error, batch, first_row, row)),
            };
            rows.push(Verdict { prediction: code, correct: Some(correct), reason });
        }
        Ok(rows)
    }

    fn find<'t>(&self, response: &'t str) -> Option<Cow<'t, str>> {
        self.extract.iter().find_map(|extract| extract.find(response, &Options::default()))
    }

    /// The program and the tests of each row with code.
    fn trials(
        &self,
        batch: &RecordBatch,
        first_row: u64,
        codes: &[Option<Cow<'_, str>>],
    ) -> Result<Vec<Option<Trial>>, StageError> {
        let tests = batch.column_by_name(&self.tests);
        let tests = tests.ok_or_else(|| StageError::bug("the column of the tests is missing"))?;
        let text_of = |name: &Option<String>| {
            name.as_ref().map(|name| column::<StringArray>(batch, name)).transpose()
        };
        let (prefixes, entries) = (text_of(&self.prefix)?, text_of(&self.entry_point)?);
        let lacks = |row: usize, name: &str| {
            let message = format!("{} has no `{name}`", row_name(batch, first_row, row));
            let hint = "its program cannot be judged: leave the row out, or add what is missing";
            StageError::with_hint(message, hint)
        };
        let mut trials = Vec::with_capacity(codes.len());
        for (row, code) in codes.iter().enumerate() {
            let mut tests = test_text(tests, row).ok_or_else(|| lacks(row, &self.tests))?;
            if let (Some(entries), Some(name)) = (entries, &self.entry_point) {
                let entry = cell(entries, row).ok_or_else(|| lacks(row, name))?;
                tests.push_str(&format!("check({entry})\n"));
            }
            let mut program = String::new();
            if let (Some(prefixes), Some(name)) = (prefixes, &self.prefix) {
                program.push_str(cell(prefixes, row).ok_or_else(|| lacks(row, name))?);
            }
            trials.push(code.as_ref().map(|code| {
                program.push_str(code);
                Trial { program, tests }
            }));
        }
        Ok(trials)
    }

    /// Judges the trials, in any order.
    fn judge(&self, trials: &[Option<Trial>]) -> Vec<Option<Result<sandbox::Verdict, JudgeError>>> {
        let next = AtomicUsize::new(0);
        let done = Mutex::new((0..trials.len()).map(|_| None).collect::<Vec<_>>());
        let work = || {
            loop {
                let row = next.fetch_add(1, Ordering::Relaxed);
                let Some(trial) = trials.get(row) else { return };
                let Some(trial) = trial else { continue };
                let verdict = self.judge_one(trial);
                // After an error the batch fails: those that follow need not run.
                if verdict.is_err() {
                    next.store(trials.len(), Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(PoisonError::into_inner)[row] = Some(verdict);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(trials.len()) {
                scope.spawn(work);
            }
            work();
        });
        done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge_one(&self, trial: &Trial) -> Result<sandbox::Verdict, JudgeError> {
        let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut judge = match waiting {
            Some(judge) => judge,
            None => sandbox::Judge::start(&self.launch)?,
        };
        let stop = || self.cancel.is_cancelled();
        let verdict = judge.judge(&trial.program, &trial.tests, &stop)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(judge);
        Ok(verdict)
    }
}

/// The tests of a row as one text, each on lines of its own; `None` where it has none.
fn test_text(tests: &ArrayRef, row: usize) -> Option<String> {
    if tests.is_null(row) {
        return None;
    }
    let mut text = String::new();
    let mut push = |test: &str| {
        text.push_str(test);
        text.push('\n');
    };
    match tests.as_any().downcast_ref::<ListArray>() {
        Some(lists) => {
            let list = lists.value(row);
            list.as_string_opt::<i32>()?.iter().flatten().for_each(&mut push);
        }
        None => push(tests.as_string_opt::<i32>()?.value(row)),
    }
    Some(text)
}

/// Whether a program counts as correct, and the reason.
fn words(verdict: &sandbox::Verdict) -> (bool, &'static str) {
    match verdict {
        sandbox::Verdict::Passed => (true, "passed"),
        // By the data set's rule it passed.
        sandbox::Verdict::Suspicious => (true, "suspicious"),
        sandbox::Verdict::Wrong => (false, "wrong answer"),
        sandbox::Verdict::Syntax => (false, "syntax error"),
        sandbox::Verdict::Exception(class) => (false, exception(class)),
        sandbox::Verdict::Ended => (false, "ended early"),
        sandbox::Verdict::TimedOut => (false, "time-out"),
        sandbox::Verdict::Memory => (false, "memory"),
        sandbox::Verdict::Crashed => (false, "crash"),
    }
}

/// The reason of an exception; classes that are not Python's own share one.
fn exception(class: &str) -> &'static str {
    macro_rules! reasons {
        ($($class:literal),*) => {
            match class {
                $($class => concat!("exception: ", $class),)*
                _ => "exception",
            }
        };
    }
    reasons!(
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "EOFError",
        "FileNotFoundError",
        "ImportError",
        "IndentationError",
        "IndexError",
        "KeyError",
        "LookupError",
        "ModuleNotFoundError",
        "NameError",
        "NotImplementedError",
        "OSError",
        "OverflowError",
        "PermissionError",
        "RecursionError",
        "RuntimeError",
        "StopIteration",
        "SyntaxError",
        "TypeError",
        "UnboundLocalError",
        "UnicodeError",
        "ValueError",
        "ZeroDivisionError"
    )
}

fn stage_error(error: JudgeError, batch: &RecordBatch, first_row: u64, row: usize) -> StageError {
    match error {
        JudgeError::Stopped => StageError::Cancelled,
        JudgeError::Tests(_) => StageError::with_hint(
            format!("{}: {error}", row_name(batch, first_row, row)),
            "each text of the column must be whole statements of Python",
        ),
        JudgeError::Sandbox(error) => sandbox_error(&error),
    }
}

fn sandbox_error(error: &SandboxError) -> StageError {
    StageError::Environment { message: error.to_string(), hint: error.hint() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ListBuilder, StringBuilder};

    use super::*;

    #[test]
    fn tests_stand_on_lines_of_their_own() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        lists.append_value([Some("assert a"), Some("assert b")]);
        lists.append_null();
        let lists: ArrayRef = Arc::new(lists.finish());
        assert_eq!(test_text(&lists, 0).as_deref(), Some("assert a\nassert b\n"));
        assert_eq!(test_text(&lists, 1), None);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["assert a"]));
        assert_eq!(test_text(&texts, 0).as_deref(), Some("assert a\n"));
    }

    #[test]
    fn exceptions_of_python_are_named_and_others_are_not() {
        assert_eq!(exception("NameError"), "exception: NameError");
        assert_eq!(exception("Surprise"), "exception");
    }
}
