//! A confined, warmed interpreter, seen from outside.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::channel;
use crate::inside::{Entered, Setup};
use crate::interpreter::Interpreter;
use crate::layers::{LayerState, Strictness};
use crate::limits::Limits;

/// Longest time until the interpreter is there: reading it from a cold disk takes seconds.
const START: Duration = Duration::from_secs(60);
/// Longest time until a killed program is gone.
const GONE: Duration = Duration::from_secs(10);

/// The argument with which a program is started that must call [`supervise`](crate::supervise).
pub const SUPERVISE: &str = "supervise-sandbox";

/// The settings with which sandboxes are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program that calls [`supervise`](crate::supervise) when its argument is [`SUPERVISE`].
    pub supervisor: PathBuf,
    /// The interpreter.
    pub interpreter: Interpreter,
    /// The limits of each program.
    pub limits: Limits,
    /// Whether missing layers are tolerated.
    pub strictness: Strictness,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The supervising process could not be started.
    #[error("the sandbox could not be started: {0}")]
    Start(#[from] io::Error),
    /// Layers are missing.
    #[error("this machine does not offer the whole sandbox: {}", describe(.0))]
    Refused(Vec<LayerState>),
    /// The interpreter ended before it was ready.
    #[error("the interpreter did not start in the sandbox{}", if .0.is_empty() { "".into() } else { format!(": {}", .0) })]
    Interpreter(String),
    /// It went while a program ran.
    #[error("the sandbox ended unexpectedly")]
    Gone,
}

fn describe(layers: &[LayerState]) -> String {
    let missing = layers
        .iter()
        .filter_map(|state| Some(format!("{} ({})", state.layer.name(), state.missing.as_ref()?)));
    missing.collect::<Vec<_>>().join(", ")
}

impl SandboxError {
    /// Returns the way to mend it.
    pub fn hint(&self) -> Option<String> {
        match self {
            SandboxError::Refused(layers) => {
                let first = layers.iter().find(|state| state.missing.is_some())?;
                Some(format!(
                    "{}; `refrain doctor` lists the layers, `--sandbox=weaker` runs without the \
                     missing ones",
                    first.layer.remedy()
                ))
            }
            SandboxError::Interpreter(_) => Some(
                "the interpreter's files must be readable by every user; name another one on PATH"
                    .into(),
            ),
            _ => None,
        }
    }
}

/// The parts that a process of the interpreter can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs a program and its tests.
    Judge,
    /// Runs a program, and answers calls of its functions.
    Serve,
    /// Runs tests against a program that is served elsewhere.
    Referee,
    /// Compiles tests.
    Prepare,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::Judge => "judge",
            Role::Serve => "serve",
            Role::Referee => "referee",
            Role::Prepare => "prepare",
        }
    }
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The status as `wait` returns it.
    status: i32,
    /// Time on the processors.
    pub spent: Duration,
}

impl Ending {
    #[cfg(test)]
    pub fn of(status: i32, spent: Duration) -> Ending {
        Ending { status, spent }
    }

    /// The signal that ended it.
    pub fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.status).then(|| libc::WTERMSIG(self.status))
    }

    /// Whether it ended by itself, without an error.
    pub fn is_success(self) -> bool {
        self.status == 0
    }
}

/// A confined, warmed interpreter that runs one process at a time.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
    control: Option<OwnedFd>,
    layers: Vec<LayerState>,
    limits: Limits,
}

impl Sandbox {
    /// Starts the supervising process and waits until its interpreter is ready.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Refused`] where layers are missing and must not be.
    pub fn start(launch: &Launch) -> Result<Sandbox, SandboxError> {
        let (control, theirs) = channel::pair()?;
        let child = Command::new(&launch.supervisor)
            .arg(SUPERVISE)
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let limits = launch.limits;
        let mut sandbox = Sandbox { child, control: Some(control), layers: Vec::new(), limits };
        let setup = Setup {
            interpreter: launch.interpreter.clone(),
            limits,
            strictness: launch.strictness,
        };
        let setup = serde_json::to_vec(&setup).map_err(io::Error::from)?;
        channel::send(sandbox.control()?, &setup, &[])?;
        let Some(text) = sandbox.receive(Instant::now() + START)? else {
            return Err(SandboxError::Interpreter("it took too long".into()));
        };
        let entered: Option<Entered> = text.and_then(|text| serde_json::from_slice(&text).ok());
        match entered {
            None => Err(SandboxError::Interpreter(sandbox.complaint())),
            Some(Entered { layers, refused: Some(_) }) => Err(SandboxError::Refused(layers)),
            Some(Entered { layers, refused: None }) => {
                sandbox.layers = layers;
                Ok(sandbox)
            }
        }
    }

    /// Finds out which layers this machine has, and runs nothing in them.
    pub fn probe(supervisor: PathBuf) -> Result<Vec<LayerState>, SandboxError> {
        let (interpreter, limits) = (Interpreter::default(), Limits::default());
        let launch = Launch { supervisor, interpreter, limits, strictness: Strictness::Probe };
        match Sandbox::start(&launch) {
            Err(SandboxError::Refused(layers)) => Ok(layers),
            Err(error) => Err(error),
            Ok(sandbox) => Ok(sandbox.layers.clone()),
        }
    }

    /// Returns the layers, those that are missing among them.
    pub fn layers(&self) -> &[LayerState] {
        &self.layers
    }

    /// The last line that the interpreter printed before it ended.
    fn complaint(&mut self) -> String {
        self.control = None;
        let mut text = String::new();
        if let Some(errors) = self.child.stderr.take() {
            // A text that cannot be read is not shown.
            let _ = errors.take(1 << 16).read_to_string(&mut text);
        }
        text.trim().lines().last().unwrap_or_default().to_owned()
    }

    fn control(&self) -> Result<BorrowedFd<'_>, SandboxError> {
        self.control.as_ref().map(AsFd::as_fd).ok_or(SandboxError::Gone)
    }

    /// Starts a process with these files.
    pub(crate) fn begin(&self, role: Role, files: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        let Limits { memory, scratch, files: open, .. } = self.limits;
        let cpu = self.limits.time.as_secs().max(1);
        let text = format!("{} {cpu} {memory} {scratch} {open}", role.name());
        channel::send(self.control()?, text.as_bytes(), files).map_err(|_| SandboxError::Gone)
    }

    /// Waits for the end of the process, which is killed when the time is over; `true` where it was.
    pub(crate) fn end(&mut self, deadline: Instant) -> Result<(Ending, bool), SandboxError> {
        let ended = |text: Option<Vec<u8>>| {
            let text = String::from_utf8(text?).ok()?;
            let (status, spent) = text.strip_prefix('e')?.split_once(' ')?;
            let spent = Duration::from_millis(spent.parse().ok()?);
            Some(Ending { status: status.parse().ok()?, spent })
        };
        let (text, killed) = match self.receive(deadline)? {
            Some(text) => (text, false),
            None => {
                channel::send(self.control()?, b"kill", &[]).map_err(|_| SandboxError::Gone)?;
                let text = self.receive(Instant::now() + GONE)?;
                (text.ok_or(SandboxError::Gone)?, true)
            }
        };
        ended(text).map(|ending| (ending, killed)).ok_or(SandboxError::Gone)
    }

    /// A message; the outer `None` where the time is over, the inner one where the other side has gone.
    fn receive(&self, deadline: Instant) -> Result<Option<Option<Vec<u8>>>, SandboxError> {
        let control = self.control()?;
        if !wait(control, PollFlags::IN, deadline)? {
            return Ok(None);
        }
        let message = channel::receive(control)?;
        Ok(Some(message.map(|(text, _)| text)))
    }
}

impl Drop for Sandbox {
    /// The warden ends when it is left alone, and the kernel ends everything inside with it.
    fn drop(&mut self) {
        self.control = None;
        let _ = self.child.wait();
    }
}

/// Waits until a file is ready; `false` where the time is over.
pub(crate) fn wait(file: BorrowedFd<'_>, what: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut waiting = [PollFd::from_borrowed_fd(file, what)];
        match poll(&mut waiting, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
