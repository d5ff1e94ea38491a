//! Layer: writes a trace for Chrome's tracing page or Perfetto, an event a line.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use refrain_cache::write::{LineFile, remove_file};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::run::event::Fields;

use crate::command_error::CommandError;

/// A trace that is being written. Clones write to one file.
#[derive(Clone)]
pub struct ChromeTrace {
    path: PathBuf,
    begin: Instant,
    file: Arc<Mutex<Written>>,
}

struct Written {
    /// `None` once it is complete, or a line could not be written.
    file: Option<LineFile>,
    failed: Option<std::io::Error>,
}

thread_local! {
    /// The number of this thread, 0 until it is first asked for.
    static THREAD: Cell<u64> = const { Cell::new(0) };
    /// The spans that this thread is in, the innermost last, and the time at which it entered each.
    static ENTERED: RefCell<Vec<(u64, f64)>> = const { RefCell::new(Vec::new()) };
}

impl ChromeTrace {
    /// Creates the file, in place of an earlier one.
    pub fn create(path: &Path) -> Result<ChromeTrace, CommandError> {
        if path.is_file() {
            remove_file(path).map_err(|error| cannot_write(path, &error))?;
        }
        let file = LineFile::create(path).map_err(|error| cannot_write(path, &error))?;
        let file = Written { file: Some(file), failed: None };
        let trace = ChromeTrace {
            path: path.to_path_buf(),
            begin: Instant::now(),
            file: Arc::new(Mutex::new(file)),
        };
        let process = json!({
            "name": "process_name", "ph": "M", "pid": 1, "args": { "name": "refrain" },
        });
        trace.push("[");
        trace.push(&process.to_string());
        Ok(trace)
    }

    /// Ends the file, or says why it is not whole.
    pub fn finish(&self) -> Result<(), CommandError> {
        self.push("]");
        let mut written = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = written.file.take().map_or(Ok(()), |mut file| file.flush());
        match written.failed.take().or(flushed.err()) {
            Some(error) => Err(cannot_write(&self.path, &error)),
            None => Ok(()),
        }
    }

    /// Adds an event, which never is the first line.
    fn add(&self, event: &Value) {
        self.push(&format!(",{event}"));
    }

    fn push(&self, line: &str) {
        let mut written = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = written.file.as_mut().map(|file| file.push(line)) {
            written.file = None;
            written.failed = Some(error);
        }
    }

    /// Returns the microseconds since the trace began.
    fn now(&self) -> f64 {
        self.begin.elapsed().as_secs_f64() * 1e6
    }

    /// Returns the number of this thread, whose name is written when it is first seen.
    fn thread(&self) -> u64 {
        static THREADS: AtomicU64 = AtomicU64::new(1);

        let known = THREAD.get();
        if known > 0 {
            return known;
        }
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        THREAD.set(number);
        let name = thread::current().name().map_or(format!("thread {number}"), String::from);
        self.add(&json!({
            "name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": { "name": name },
        }));
        number
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::new(
        ErrorClass::Environment,
        format!("cannot write the trace `{}`: {error}", path.display()),
    )
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for ChromeTrace {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        span.extensions_mut().replace(Fields::of_span(attributes));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            fields.add(values);
        }
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        let now = self.now();
        ENTERED.with_borrow_mut(|entered| entered.push((id.into_u64(), now)));
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let since = ENTERED.with_borrow_mut(|entered| {
            let place = entered.iter().rposition(|(span, _)| *span == id.into_u64())?;
            Some(entered.remove(place).1)
        });
        let (Some(since), Some(span)) = (since, context.span(id)) else { return };

        let kind = span.name();
        let extensions = span.extensions();
        let fields = extensions.get::<Fields>();
        let name = match fields.and_then(|fields| fields.text("name")) {
            Some(name) if kind == "node" => name,
            _ => kind,
        };
        self.add(&json!({
            "name": name, "cat": kind, "ph": "X", "ts": since, "dur": self.now() - since,
            "pid": 1, "tid": self.thread(), "args": fields,
        }));
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        self.add(&json!({
            "name": metadata.name(), "cat": metadata.level().as_str(), "ph": "i", "s": "t",
            "ts": self.now(), "pid": 1, "tid": self.thread(), "args": Fields::of_event(event),
        }));
    }
}
