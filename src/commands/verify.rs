//! `refrain verify`: the workflow, its sources, the cache and every `expect` against the lock.

use std::mem::ManuallyDrop;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::FileDigests;
use refrain_engine::lock::{self, Lock};
use refrain_engine::verify::{self, Options};

use crate::cli::{self, Format};
use crate::failure::{DIFFERENT, ENVIRONMENT, Failure};
use crate::output;
use crate::session::Session;

/// Verifies and computes nothing.
pub fn verify(arguments: &cli::Verify, format: Format) -> Result<ExitCode, Failure> {
    // The two take about as long.
    let (session, lock) = std::thread::scope(|scope| {
        let lock = scope.spawn(|| Lock::read(&lock::path_of(&arguments.workflow.workflow)));
        let session = Session::open(&arguments.workflow);
        (session, lock.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let session = session?;
    let lock = ManuallyDrop::new(lock?);
    let store = session.existing_store()?;
    let options = Options { no_data: arguments.no_data, complete: arguments.complete };
    // Without a cache nothing is remembered, and nothing is written either.
    let forgetful;
    let digests = match &store {
        Some(store) => store.digests(),
        None => {
            forgetful = FileDigests::open(&session.lock.with_extension("no-cache"))
                .map_err(|e| Failure::new(ENVIRONMENT, e.to_string()))?;
            &forgetful
        }
    };
    let found = verify::verify(&session.graph, &lock, digests, store.as_ref(), &session.expects, options);
    if let Some(store) = &store {
        store.sync().map_err(|e| Failure::new(ENVIRONMENT, e.to_string()))?;
    }
    let code = if found.mismatches.is_empty() { 0 } else { DIFFERENT };
    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "exit_code": code,
            "mismatches": found.mismatches,
            "keys": found.keys,
            "sources": { "hashed": found.sources.0, "absent": found.sources.1 },
            "artifacts": { "hashed": found.artifacts.0, "absent": found.artifacts.1 },
            "expects": found.expects,
        }));
        return Ok(ExitCode::from(code));
    }
    for mismatch in &found.mismatches {
        output::line(&format!("{:8}  `{}`: {}", mismatch.what, mismatch.node, mismatch.message));
    }
    output::line(&format!(
        "{} checked; {} hashed, {} absent; {} hashed, {} not in the cache; {}",
        output::count(found.keys, "key"),
        output::count(found.sources.0, "source"),
        found.sources.1,
        output::count(found.artifacts.0, "artifact"),
        found.artifacts.1,
        output::count(found.expects, "expect"),
    ));
    if code == 0 {
        output::line("everything is as the lock says");
    } else {
        output::line(&format!(
            "{}; a plain `refrain run` accepts the change and writes the lock",
            output::count(found.mismatches.len(), "difference")
        ));
    }
    Ok(ExitCode::from(code))
}
