//! Fault injection: kills a run, or fails it, at any step that touches the disk.
//!
//! Every creation, write, sync, renaming and removal of [`crate::write`] is a step; steps that put
//! bytes into a file are counted as writes too. With the cargo feature `faults` the binary arms the
//! fault that the environment variable `REFRAIN_FAULT` names, for `tests/crash.rs`; without it the
//! steps compile to nothing.
//!
//! | value | what happens |
//! |---|---|
//! | `kill:N` | the process is killed before step N, without a chance to tidy up |
//! | `torn:N` | it is killed in the middle of write N, half of whose bytes are in the file |
//! | `full:N` | from step N on there is no space left; of a write that is step N half of the bytes get through |
//! | `error:N` | step N alone fails with an input/output error |
//! | `count` | nothing; the binary prints how many steps and writes there were |

use std::io;
use std::io::Write;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use super::Needs;

/// Whether a fault is armed: all that is read where none is.
static ARMED: AtomicBool = AtomicBool::new(false);
static FAULT: OnceLock<Fault> = OnceLock::new();
static STEPS: AtomicU64 = AtomicU64::new(0);
static WRITES: AtomicU64 = AtomicU64::new(0);

/// A fault and its place; steps and writes are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before this step.
    Kill(u64),
    /// The process is killed in the middle of this write.
    Torn(u64),
    /// The disk is full from this step on.
    Full(u64),
    /// This step fails.
    Error(u64),
    /// Nothing: steps are only counted.
    Count,
}

/// A text that does not name a fault.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a fault; write `count`, or `kill`, `torn`, `full` or `error` with a number, as in `kill:7`"
)]
pub struct ParseFaultError(String);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Fault, ParseFaultError> {
        let number = |text: &str| text.parse().ok();
        let fault = match text.split_once(':') {
            None if text == "count" => Some(Fault::Count),
            Some(("kill", step)) => number(step).map(Fault::Kill),
            Some(("torn", write)) => number(write).map(Fault::Torn),
            Some(("full", step)) => number(step).map(Fault::Full),
            Some(("error", step)) => number(step).map(Fault::Error),
            _ => None,
        };
        fault.ok_or_else(|| ParseFaultError(text.to_owned()))
    }
}

/// Arms a fault until the process ends; a second one is ignored.
pub fn arm(fault: Fault) {
    FAULT.get_or_init(|| fault);
    ARMED.store(true, Ordering::Release);
}

/// The steps and the writes since a fault was armed.
pub fn counted() -> (u64, u64) {
    (STEPS.load(Ordering::Relaxed), WRITES.load(Ordering::Relaxed))
}

/// The outcome of a step.
enum FaultAction {
    Done,
    /// The disk becomes full with it.
    Fills,
    Full,
    Broken,
}

/// Whether a fault is armed.
pub(super) fn armed() -> bool {
    ARMED.load(Ordering::Relaxed)
}

/// Runs before every step that puts no bytes into a file.
pub(super) fn step(needs: Needs) -> io::Result<()> {
    if !armed() {
        return Ok(());
    }
    match (next_action(), needs) {
        (FaultAction::Broken, _) => Err(Errno::IO.into()),
        (FaultAction::Fills | FaultAction::Full, Needs::Space) => Err(Errno::NOSPC.into()),
        (FaultAction::Done | FaultAction::Fills | FaultAction::Full, _) => Ok(()),
    }
}

/// Puts bytes into a file with one write.
pub(super) fn write(mut file: impl Write, bytes: &[u8]) -> io::Result<usize> {
    if !armed() || bytes.is_empty() {
        return file.write(bytes);
    }
    let half = &bytes[..bytes.len() / 2];
    let write = WRITES.fetch_add(1, Ordering::Relaxed) + 1;
    if FAULT.get() == Some(&Fault::Torn(write)) {
        file.write_all(half)?;
        die();
    }
    match next_action() {
        FaultAction::Done => file.write(bytes),
        // As a disk does that has room for half: the next write finds it full.
        FaultAction::Fills if !half.is_empty() => file.write(half),
        FaultAction::Fills | FaultAction::Full => Err(Errno::NOSPC.into()),
        FaultAction::Broken => Err(Errno::IO.into()),
    }
}

/// Counts a step and returns its outcome, unless the process ends with it.
#[cold]
fn next_action() -> FaultAction {
    let step = STEPS.fetch_add(1, Ordering::Relaxed) + 1;
    match FAULT.get() {
        Some(Fault::Kill(at)) if step == *at => die(),
        Some(Fault::Error(at)) if step == *at => FaultAction::Broken,
        Some(Fault::Full(at)) if step == *at => FaultAction::Fills,
        Some(Fault::Full(at)) if step > *at => FaultAction::Full,
        _ => FaultAction::Done,
    }
}

/// Ends the process as the kernel does when memory runs out: nothing is flushed, dropped or caught.
fn die() -> ! {
    // A process may always end itself; it waits for the signal where it is not instant.
    let _sent = kill_process(getpid(), Signal::KILL);
    loop {
        thread::park();
    }
}
