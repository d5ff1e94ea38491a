//! Panics of mistralrs and what it is built on: kept off the terminal, and told as errors.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};
use std::sync::{Mutex, Once, PoisonError};

/// Crates whose sources may panic on files that they should refuse.
const CRATES: [&str; 6] =
    ["/mistralrs-", "/candle-", "/gemm-", "/tokenizers-", "/llguidance-", "/toktrie"];

/// The text of the last panic.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// Runs `work`; the text of a panic as the error.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    install();
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| last())
}

/// Returns the message of the last panic, which may have been on a thread of the engine.
pub fn last() -> String {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    last.unwrap_or_else(|| "it gave no reason".into())
}

/// Puts a hook before the process's own that takes the panics of these crates, on whatever thread
/// they are: the engine has threads of its own, whose panics nobody can catch.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if is_theirs(info) {
                *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(text(info));
            } else {
                before(info);
            }
        }));
    });
}

fn is_theirs(info: &PanicHookInfo<'_>) -> bool {
    let file = info.location().map_or("", |location| location.file());
    CRATES.iter().any(|name| file.contains(name))
}

/// The first line of what the panic says.
fn text(info: &PanicHookInfo<'_>) -> String {
    let text = info.payload_as_str().unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}
