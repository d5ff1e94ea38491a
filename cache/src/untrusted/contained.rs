//! Turns panics of parsers of untrusted files into errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a call whose panic becomes an error, which a panic hook need not
/// print.
///
/// The readers of Parquet and of tokenizers panic on some damaged files; a panic hook calls this.
pub fn panic_is_contained() -> bool {
    CONTAINED.get()
}

/// Runs `call`, which reads an untrusted file with a library that may panic on it; a panic is
/// returned as its text. After a panic, nothing that `call` borrows mutably may be used.
pub fn contained<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(before);
    result.map_err(|payload| panic_text(&*payload))
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no reason was given").to_owned()
}
