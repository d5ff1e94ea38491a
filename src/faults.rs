//! Arms the fault that `REFRAIN_FAULT` names: `tests/crash.rs` kills and refuses runs at every step.

use refrain_cache::write::faults::{self, Fault, ParseFaultError};
use refrain_engine::language::explain::ErrorClass;

use crate::command_error::CommandError;
use crate::output;

/// The fault of this process, if a test named one.
pub struct Armed(Option<Fault>);

/// Arms the fault that the environment names.
pub fn arm() -> Result<Armed, CommandError> {
    let Ok(text) = std::env::var("REFRAIN_FAULT") else { return Ok(Armed(None)) };
    let fault = text.parse().map_err(|error: ParseFaultError| {
        CommandError::new(ErrorClass::Input, error.to_string())
    })?;
    faults::arm(fault);
    Ok(Armed(Some(fault)))
}

impl Armed {
    /// Prints the number of steps and writes, where the test wants to know.
    pub fn report(&self) {
        if self.0 == Some(Fault::Count) {
            let (steps, writes) = faults::counted();
            output::remark(&format!("{steps} steps, {writes} writes"));
        }
    }
}
