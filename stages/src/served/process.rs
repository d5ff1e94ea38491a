//! Servers that are started for a model, and end with the run.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use refrain_engine::kind::{Context, StageError};

use super::client::Client;

/// Time between two questions whether a server answers.
const EVERY: Duration = Duration::from_millis(200);
/// Limit on the time of such a question.
const QUESTION: Duration = Duration::from_secs(2);
/// Time that a server has to end once it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// Bytes that are kept of what a server prints, for messages.
const TAIL: usize = 2000;

/// A server that was started here; dropped, it ends.
#[derive(Debug)]
pub(super) struct Process {
    /// The words of its command, with model and port left open.
    command: Vec<String>,
    model: PathBuf,
    address: String,
    child: Mutex<Child>,
    /// The end of what it printed.
    tail: Arc<Mutex<Vec<u8>>>,
}

/// The servers that run.
static RUNNING: Mutex<Vec<Arc<Process>>> = Mutex::new(Vec::new());

/// Their groups of processes, also while they start.
static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Ends all servers that were started here, and waits for their end.
pub fn end_servers() {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// Kills all servers that were started here, for a process that ends at once.
pub fn kill_servers() {
    for group in GROUPS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // It may have ended by itself.
        let _ended = kill_process_group(group, Signal::KILL);
    }
}

/// Starts the server of a model, unless it runs. Others that nobody asks end first: cards have room
/// for few models.
///
/// # Errors
/// A command that cannot be started, ends, or does not answer in time.
pub(super) fn started(
    context: &Context<'_>,
    command: &[String],
    timeout: Duration,
    model: &Path,
    key: Option<&str>,
) -> Result<Arc<Process>, StageError> {
    // Held while a server starts, so that two stages of one model start it once.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let same = |process: &&Arc<Process>| process.command == command && process.model == model;
    if let Some(found) = running.iter().find(same).filter(|process| process.is_alive()) {
        return Ok(found.clone());
    }
    running.retain(|process| Arc::strong_count(process) > 1 && process.is_alive());

    let process = Arc::new(Process::start(command, model)?);
    let client = Client::new(process.address.clone(), key.map(str::to_owned), QUESTION, 1);
    context.progress.note(format!("started `{}` for the model", command[0]));
    let begin = Instant::now();
    while client.get(&format!("{}/models", process.address), QUESTION).is_err() {
        context.cancel.check()?;
        if !process.is_alive() || begin.elapsed() > timeout {
            return Err(process.failed(begin.elapsed() > timeout, key));
        }
        thread::sleep(EVERY);
    }
    running.push(process.clone());
    Ok(process)
}

impl Process {
    fn start(command: &[String], model: &Path) -> Result<Process, StageError> {
        let refused = |why: String| StageError::Environment {
            message: format!("cannot start the server `{}`: {why}", command[0]),
            hint: Some("`[[servers]]` of the configuration names its `command`".into()),
        };
        let port = free_port().map_err(|error| refused(format!("no port is free: {error}")))?;
        let model_text =
            model.to_str().ok_or_else(|| refused("the model's path is not UTF-8".into()))?;
        let filled = |word: &String| {
            word.replace("{model}", model_text).replace("{port}", &port.to_string())
        };
        let words: Vec<String> = command.iter().map(filled).collect();
        let (program, arguments) =
            words.split_first().ok_or_else(|| refused("it is empty".into()))?;
        let (read, write) = std::io::pipe().map_err(|error| refused(error.to_string()))?;
        let errors = write.try_clone().map_err(|error| refused(error.to_string()))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(write)
            .stderr(errors)
            // An interruption of the run is not one of the server, which is ended at the run's end.
            .process_group(0)
            .spawn()
            .map_err(|error| refused(error.to_string()))?;

        let group = Pid::from_raw(child.id() as i32);
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).extend(group);
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = tail.clone();
        let drain = move || keep_tail(read, &kept);
        thread::Builder::new()
            .name("server".into())
            .spawn(drain)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Process {
            command: command.to_vec(),
            model: model.to_owned(),
            address: format!("http://127.0.0.1:{port}/v1"),
            child: Mutex::new(child),
            tail,
        })
    }

    /// Its address, up to `/v1`.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn is_alive(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(child.try_wait(), Ok(None))
    }

    fn failed(&self, is_late: bool, key: Option<&str>) -> StageError {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tail = String::from_utf8_lossy(&tail).trim().to_owned();
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            tail = tail.replace(key, "***");
        }
        let how = if is_late { "did not answer in time" } else { "ended" };
        let printed = match tail.as_str() {
            "" => ", and printed nothing".to_owned(),
            tail => format!("; the end of what it printed:\n{tail}"),
        };
        StageError::Environment {
            message: format!("the server `{}` {how}{printed}", self.command[0]),
            hint: is_late.then(|| "`start_timeout` gives it more time".into()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = Pid::from_raw(child.id() as i32) else { return };
        let begin = Instant::now();
        // It may have ended by itself.
        let _ended = kill_process_group(group, Signal::TERM);
        while matches!(child.try_wait(), Ok(None)) && begin.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(20));
        }
        let _ended = kill_process_group(group, Signal::KILL);
        let _ended = child.wait();
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != group);
    }
}

/// A port that nobody listens at.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Reads to the end, and keeps the last bytes.
fn keep_tail(mut from: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(TAIL);
        kept.drain(..surplus);
    }
}
