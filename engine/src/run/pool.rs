//! Threads that live as long as a run: most nodes of a large sweep take less time than making a thread.

use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use tracing::Dispatch;
use tracing::dispatcher;

type Job<'scope> = Box<dyn FnOnce() + Send + 'scope>;

/// As many threads as were ever busy at once.
pub(super) struct Pool<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    jobs: Sender<Job<'scope>>,
    waiting: Arc<Mutex<Receiver<Job<'scope>>>>,
    threads: usize,
}

impl<'scope, 'env> Pool<'scope, 'env> {
    /// A pool without threads.
    pub fn new(scope: &'scope Scope<'scope, 'env>) -> Pool<'scope, 'env> {
        let (jobs, waiting) = mpsc::channel();
        Pool { scope, jobs, waiting: Arc::new(Mutex::new(waiting)), threads: 0 }
    }

    /// Runs a job that must not panic, while `busy` others have not ended yet.
    pub fn run(&mut self, busy: usize, job: impl FnOnce() + Send + 'scope) {
        if self.threads <= busy {
            self.threads += 1;
            let waiting = self.waiting.clone();
            let events = dispatcher::get_default(Dispatch::clone);
            self.scope.spawn(move || {
                let _events = dispatcher::set_default(&events);
                // The lock is given back before the job begins; the pool's end closes the channel.
                let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(job) = next() {
                    job();
                }
            });
        }
        // The receiver lives in the pool, so there is always one.
        let _ = self.jobs.send(Box::new(job));
    }
}
