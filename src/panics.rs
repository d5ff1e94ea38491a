//! Reports a panic in one line with its place, and asks for a bug report.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use crate::output;

/// Installs the report. A panic that a library contains becomes an error there, and is not reported.
pub fn install() {
    std::panic::set_hook(Box::new(|panic| {
        if !refrain_cache::panic_is_contained() {
            report(panic);
        }
    }));
}

fn report(panic: &PanicHookInfo<'_>) {
    let place =
        panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
    output::remark(&message(&place, panic.payload_as_str()));

    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        output::remark(&backtrace.to_string());
    }
}

fn message(place: &str, text: Option<&str>) -> String {
    let text = text.unwrap_or("no reason was given");
    format!(
        "error: internal error{place}: {text}\n  = help: please report this bug, with the workflow; \
         RUST_BACKTRACE=1 shows more"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_asks_for_a_report() {
        let said = message(" at src/main.rs:7", Some("index out of bounds"));
        assert!(said.starts_with("error: internal error at src/main.rs:7: index out of bounds\n"));
        assert!(said.contains("please report this bug") && message("", None).contains("no reason"));
    }
}
