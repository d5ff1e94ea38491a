//! A watched workflow: its page, made again when its lock, its cache or its run log changed.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use refrain_cache::{Digest, FileIdentity};
use refrain_engine::report::page::Tables;
use refrain_page::{Mode, html};

use crate::cli::WorkflowArgs;
use crate::command_error::CommandError;
use crate::commands::report::collect;
use crate::session::Session;

/// The longest time for which a question after changes is kept waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(120);
/// The shortest time between two pages: after a result, and while only figures of progress change;
/// by how much the latter exceeds the making of a page. A run must not feel that it is watched.
const AFTER_RESULT: Duration = Duration::from_millis(100);
const BETWEEN: Duration = Duration::from_millis(400);
const FACTOR: u32 = 40;

/// A workflow that is watched.
pub struct Watched {
    arguments: WorkflowArgs,
    files: Files,
    made: Mutex<Made>,
}

/// The files that tell a change.
struct Files {
    workflow: PathBuf,
    lock: PathBuf,
    records: PathBuf,
    runs: PathBuf,
}

/// The last page, and what was read for it.
struct Made {
    session: ManuallyDrop<Session>,
    workflow: Option<FileIdentity>,
    tables: Tables,
    /// When a page was last made, and how long that took.
    at: Option<(Instant, Duration)>,
}

/// The state that a page depends on: finished nodes and files, and the progress of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    results: String,
    progress: String,
}

impl Version {
    fn text(&self) -> String {
        format!("{}-{}", self.results, self.progress)
    }
}

/// The answer to a question after changes.
pub struct Change {
    /// The version that a page would have now.
    pub version: String,
    /// Whether a run is under way.
    pub running: bool,
}

impl Watched {
    /// Reads the workflow.
    pub fn open(arguments: &WorkflowArgs) -> Result<Watched, CommandError> {
        let workflow = identity(&arguments.workflow);
        let session = Session::open(arguments)?;
        let files = Files {
            workflow: arguments.workflow.clone(),
            lock: session.lock.clone(),
            records: session.cache.join("records/records.log"),
            runs: session.cache.join("runs"),
        };
        let made = Made { session, workflow, tables: Tables::default(), at: None };
        let arguments = WorkflowArgs {
            workflow: arguments.workflow.clone(),
            set: arguments.set.clone(),
            cache: arguments.cache.clone(),
            sandbox: arguments.sandbox,
        };
        Ok(Watched { arguments, files, made: Mutex::new(made) })
    }

    /// Makes the page.
    pub fn page(&self) -> Result<String, CommandError> {
        let mut made = self.made();
        let begin = Instant::now();
        let workflow = identity(&self.files.workflow);
        if workflow != made.workflow {
            // One that is being edited and does not read leaves the page as it was.
            if let Ok(session) = Session::open(&self.arguments) {
                made.session = session;
            }
            made.workflow = workflow;
        }
        let Made { session, tables, .. } = &mut *made;
        let page = collect(session, tables)?;
        let text = html(&page, Mode::Live);
        made.at = Some((Instant::now(), begin.elapsed()));
        Ok(text)
    }

    /// Waits until there is something that a page of version `after` does not show.
    pub fn changes(&self, after: &str) -> Change {
        let begin = Instant::now();
        loop {
            let version = self.files.version();
            let is_new = after.is_empty()
                || version.text() != after && self.is_due(!after.starts_with(&version.results));
            if is_new || begin.elapsed() >= LONGEST_WAIT {
                let running = self.made().session.course().is_some_and(|run| run.end.is_none());
                return Change { version: version.text(), running };
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether a new page may be made; `results` says that more than progress changed.
    fn is_due(&self, results: bool) -> bool {
        let Some((at, cost)) = self.made().at else { return true };
        let least = if results { AFTER_RESULT.max(cost) } else { BETWEEN.max(cost * FACTOR) };
        at.elapsed() >= least
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn version(&self) -> Version {
        let results: Vec<String> = [&self.workflow, &self.lock, &self.records]
            .map(|path| format!("{:?}", identity(path)))
            .into();
        let entries = std::fs::read_dir(&self.runs).into_iter().flatten().flatten();
        let mut logs: Vec<String> = entries
            .map(|entry| format!("{:?} {:?}", entry.file_name(), identity(&entry.path())))
            .collect();
        logs.sort_unstable();
        let digest = |texts: &[String]| Digest::of_bytes(texts.join("\n").as_bytes()).short();
        Version { results: digest(&results), progress: digest(&logs) }
    }
}

fn identity(path: &Path) -> Option<FileIdentity> {
    path.metadata().ok().map(|metadata| FileIdentity::of(&metadata))
}
