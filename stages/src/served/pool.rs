//! Keeps a bounded number of requests under way, and hands over each answer as it arrives.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use refrain_engine::kind::{Cancel, StageError};

use super::client::{CallError, Client};

/// Longest time before an interruption is heard.
const NOTICED: Duration = Duration::from_millis(50);

/// A request.
pub(super) struct Call {
    /// The whole address.
    pub url: Arc<str>,
    /// The JSON text.
    pub body: Vec<u8>,
    /// Limit on its attempts.
    pub attempts: u32,
}

/// A request under way: its number, and what is asked.
type Job = (usize, Call);

/// Asks a server `count` things, up to `in_flight` of them at once.
///
/// `call` makes each request when its turn comes. `on_done` gets the answers as they arrive; when
/// it breaks off, what is under way is still waited for and handed over.
///
/// # Errors
/// [`StageError::Cancelled`] when a stop was asked for; what has arrived by then was handed over.
pub(super) fn ask_all(
    client: &Arc<Client>,
    in_flight: usize,
    count: usize,
    cancel: &Cancel,
    call: &mut dyn FnMut(usize) -> Call,
    on_done: &mut dyn FnMut(usize, Result<Value, CallError>) -> ControlFlow<()>,
) -> Result<(), StageError> {
    let stop = Arc::new(AtomicBool::new(false));
    let (jobs, waiting) = mpsc::channel::<Job>();
    let waiting = Arc::new(Mutex::new(waiting));
    let (done, answers) = mpsc::channel();
    // Not scoped: an interrupted run does not wait for a server that takes its time.
    for _ in 0..in_flight.min(count) {
        let (client, waiting) = (client.clone(), waiting.clone());
        let (done, stop) = (done.clone(), stop.clone());
        let worker = move || {
            while let Some((number, call)) = next(&waiting) {
                let answer = client.ask(&call, number as u64, &stop);
                if done.send((number, answer)).is_err() {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("request".into()).spawn(worker);
        started.map_err(|error| StageError::Environment {
            message: format!("cannot start a thread for a request: {error}"),
            hint: Some("ask less at once: `resources: { requests: 8 }`".into()),
        })?;
    }
    drop(done);

    let (mut sent, mut under_way, mut ended) = (0, 0, false);
    loop {
        while !ended && sent < count && under_way < in_flight {
            // Workers end only when `jobs` is dropped.
            let _ = jobs.send((sent, call(sent)));
            sent += 1;
            under_way += 1;
        }
        if under_way == 0 {
            return Ok(());
        }
        match answers.recv_timeout(NOTICED) {
            Ok((number, answer)) => {
                under_way -= 1;
                ended |= on_done(number, answer).is_break();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(StageError::bug("the threads of the requests ended"));
            }
        }
        if cancel.is_cancelled() {
            stop.store(true, Ordering::Relaxed);
            while let Ok((number, answer)) = answers.try_recv() {
                let _ended = on_done(number, answer);
            }
            return Err(StageError::Cancelled);
        }
    }
}

/// Waits for the next request; `None` when there are no more.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
