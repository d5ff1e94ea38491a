//! Hashing large files on worker threads, so that other nodes, interruptions and progress do not wait.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tracing::Span;

use crate::graph::NodeId;
use crate::kind::{Cancel, Progress};
use crate::plan::state::{HashTask, Hashed, StateError};
use crate::store::Store;

/// The limit of tasks at once: one large file keeps all cores busy, but a slow disk does not.
const TASKS: usize = 4;
/// The shortest time between two progress events of a task.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// The hash tasks that run, and those that wait.
#[derive(Default)]
pub(super) struct Hashing {
    waiting: VecDeque<(NodeId, HashTask)>,
    running: usize,
    /// Ends the tasks that run.
    stop: Arc<AtomicBool>,
}

impl Hashing {
    /// Adds a task of a node.
    pub fn wait(&mut self, id: NodeId, task: HashTask) {
        self.waiting.push_back((id, task));
    }

    /// Returns the next task, if one may start.
    pub fn start(&mut self) -> Option<(NodeId, HashTask, Arc<AtomicBool>)> {
        if self.running >= TASKS {
            return None;
        }
        let (id, task) = self.waiting.pop_front()?;
        self.running += 1;
        Some((id, task, self.stop.clone()))
    }

    /// Notes that a task has ended.
    pub fn ended(&mut self) {
        self.running -= 1;
    }

    /// Ends the tasks that run, and starts no others.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waiting.clear();
    }

    /// The number of tasks that run.
    pub fn running(&self) -> usize {
        self.running
    }
}

/// Runs a task on a worker's thread, with progress in bytes.
pub(super) fn hash(
    task: &HashTask,
    span: &Span,
    store: &Store,
    (cancel, stop): (&Cancel, &AtomicBool),
) -> Result<Hashed, StateError> {
    let _hash = span.enter();
    let progress = Progress::new(span.clone(), PROGRESS_EVERY);
    let done = AtomicU64::new(0);
    let on_hashed = |bytes: u64| {
        if cancel.is_cancelled() || stop.load(Ordering::Acquire) {
            return Err(io::Error::other("interrupted"));
        }
        if bytes == 0 {
            return Ok(());
        }
        let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        progress.set(done, Some(task.bytes), "bytes");
        Ok(())
    };
    task.run(store, &on_hashed)
}
