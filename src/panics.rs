//! What is said when Refrain itself is wrong: a line with the place, and the wish for a report.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

/// Makes a panic short. One that a library contains becomes an error there, so nothing is said of it here.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        if !refrain_cache::panic_is_contained() {
            say(panic);
        }
    }));
}

#[expect(clippy::print_stderr, reason = "a panic has no other way to the terminal")]
fn say(panic: &PanicHookInfo<'_>) {
    let place =
        panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    eprintln!("{}", message(&place, panic.payload_as_str()));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        eprintln!("{backtrace}");
    }
}

fn message(place: &str, text: Option<&str>) -> String {
    let text = text.unwrap_or("no reason was given");
    format!(
        "error: a fault of refrain{place}: {text}\n  = help: please report it, with the workflow; RUST_BACKTRACE=1 shows more"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_asks_for_a_report() {
        let said = message(" at src/main.rs:7", Some("index out of bounds"));
        assert!(
            said.starts_with("error: a fault of refrain at src/main.rs:7: index out of bounds\n")
        );
        assert!(said.contains("please report it") && message("", None).contains("no reason"));
    }
}
