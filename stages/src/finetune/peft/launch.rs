//! Starts a trainer, and explains its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use refrain_engine::kind::{Context, StageError};

use crate::process::{self, Ended, Ending, Job};

use super::cards::Cards;
use super::job::{SCRIPT, SETTINGS};
use super::watch::{Finished, Watcher};
use super::{PeftTraining, script};

/// Time in which a trainer that is asked to stop writes its checkpoint.
const GRACE: Duration = Duration::from_secs(60);
/// Variables of the environment that are passed on.
const PASSED: [&str; 5] = ["PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"];
/// The list of cards that the user allows, and that the trainer is given.
const CARDS: &str = "CUDA_VISIBLE_DEVICES";
/// Variables that every trainer sees: nothing is fetched, and sums have one order.
const FIXED: [(&str, &str); 8] = [
    ("HF_HUB_OFFLINE", "1"),
    ("TRANSFORMERS_OFFLINE", "1"),
    ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ("TRANSFORMERS_VERBOSITY", "error"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("PYTHONHASHSEED", "0"),
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
    ("REFRAIN_HOLDS_STDIN", "1"),
];
/// Where the configuration is explained.
const CONFIGURE: &str = "`[python] path` in the configuration names the Python that has torch, \
     transformers, peft and accelerate (docs/machine.md)";

/// Runs the trainer to its end.
pub(super) fn run(
    training: &PeftTraining<'_>,
    folder: &Path,
    watcher: &mut Watcher<'_>,
) -> Result<Finished, StageError> {
    let context = training.context;
    let cards = Cards::take(context.resources.gpus, (context.environment)(CARDS).as_deref());
    let job = Job {
        command: &command(context),
        folder,
        environment: &environment(context, &cards),
        secrets: &[],
        // A card's driver maps far more than it uses.
        memory: None,
        ending: Ending::Asked(GRACE),
    };
    let ended = process::run_watched(&job, context.cancel, &mut || watcher.read());
    // Its last reports may not have been read.
    let read = watcher.read();
    let ended = match ended {
        // It could not be started.
        Err(StageError::Environment { message, .. }) => {
            return Err(StageError::Environment { message, hint: Some(CONFIGURE.into()) });
        }
        other => other?,
    };
    read?;
    if let Some(error) = watcher.error() {
        return Err(explained(context, error));
    }
    if context.cancel.is_cancelled() && !watcher.is_done() {
        return Err(StageError::Cancelled);
    }
    match ended {
        Ended::Success => watcher.finished(),
        Ended::Failure { how, tail } => {
            let printed = match tail.trim_end() {
                "" => "and printed nothing".to_owned(),
                tail => format!("the end of what it printed:\n{tail}"),
            };
            Err(StageError::failed(format!("the trainer {how}; {printed}")))
        }
    }
}

/// The words of the command: the launcher of the configuration, or what fits the number of cards.
fn command(context: &Context<'_>) -> Vec<String> {
    let python = context.machine.python.program().display().to_string();
    let processes = context.resources.gpus.max(1).to_string();
    let launcher = &context.machine.python.launcher;
    let mut words: Vec<String> = match launcher.as_slice() {
        [] if context.resources.gpus > 1 => {
            let rest = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"];
            let words = std::iter::once(python.as_str()).chain(rest).chain([processes.as_str()]);
            words.map(str::to_owned).collect()
        }
        [] => vec![python],
        launcher => launcher
            .iter()
            .map(|word| word.replace("{python}", &python).replace("{processes}", &processes))
            .collect(),
    };
    words.extend([SCRIPT.to_owned(), SETTINGS.to_owned()]);
    words
}

fn environment(context: &Context<'_>, cards: &Cards) -> BTreeMap<String, String> {
    let passed =
        PASSED.iter().filter_map(|name| Some(((*name).to_owned(), (context.environment)(name)?)));
    let fixed = FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let processes = context.resources.gpus.max(1);
    let threads = (context.resources.threads / processes).max(1).to_string();
    let own = [(CARDS.to_owned(), cards.names.clone()), ("OMP_NUM_THREADS".to_owned(), threads)];
    passed.chain(fixed).chain(own).collect()
}

/// The trainer's own error; where no Python is configured it may be the wrong one.
fn explained(context: &Context<'_>, error: StageError) -> StageError {
    match error {
        StageError::Environment { message, hint } if context.machine.python.path.is_none() => {
            let lacks = script(context).is_none();
            let hint = match hint {
                Some(hint) if lacks => Some(format!("{hint}; or {CONFIGURE}")),
                hint => hint,
            };
            StageError::Environment { message, hint }
        }
        other => other,
    }
}
