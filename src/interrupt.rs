//! Ctrl-C: the first asks everything to stop at the next safe point, the second ends the process.

use std::time::Duration;

use tracing::warn;

use refrain_engine::kind::Cancel;
use refrain_engine::language::explain::ErrorClass;

use crate::command_error::CommandError;

/// How long commands have to end once they were asked to; left alone they would live on.
const GRACE: Duration = Duration::from_millis(200);

/// Cancels a run when this process is interrupted or asked to terminate.
#[expect(clippy::exit, reason = "a second interruption must end a stage that does not stop")]
pub fn cancels(cancel: &Cancel) -> Result<(), CommandError> {
    let cancel = cancel.clone();
    let handler = move || {
        if cancel.is_cancelled() {
            refrain_stages::kill_servers();
            std::thread::sleep(GRACE);
            std::process::exit(i32::from(ErrorClass::Interrupted.exit_code()));
        }
        warn!(name: "stopping", "stopping; finished results are kept (again to stop at once)");
        cancel.cancel();
    };
    ctrlc::set_handler(handler)
        .map_err(|e| CommandError::new(ErrorClass::Environment, e.to_string()))
}
