//! Threads that live as long as a run: making one takes longer than most nodes of a large sweep.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use tracing::Dispatch;
use tracing::dispatcher;

type PoolTask<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// A pool of as many threads as were ever busy at once.
pub(super) struct Pool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    tasks: Sender<PoolTask<'scope>>,
    waiting: Arc<Mutex<Receiver<PoolTask<'scope>>>>,
    threads: usize,
}

impl<'scope, 'env> Pool<'scope, 'env> {
    /// A pool without threads.
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Pool<'scope, 'env> {
        let (tasks, waiting) = mpsc::channel();
        Pool { scope, tasks, waiting: Arc::new(Mutex::new(waiting)), threads: 0 }
    }

    /// Runs a task that must not panic, while `busy` others have not ended yet.
    pub fn run(&mut self, busy: usize, task: impl FnOnce() + Send + 'scope) {
        if self.threads <= busy {
            self.threads += 1;
            let waiting = self.waiting.clone();
            let events = dispatcher::get_default(Dispatch::clone);
            self.scope.spawn(move || {
                let _events = dispatcher::set_default(&events);
                // The lock is given back before the task begins; the pool's end closes the channel.
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(task) = next() {
                    task();
                }
            });
        }
        // The receiver lives in the pool, so there is always one.
        let _ = self.tasks.send(Box::new(task));
    }
}
