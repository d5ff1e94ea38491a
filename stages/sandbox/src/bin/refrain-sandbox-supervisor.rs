//! The supervising process by itself, for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    refrain_sandbox::supervise()
}
