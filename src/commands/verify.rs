//! `refrain verify`: the workflow, its sources, the cache and every `expect` against the lock.

mod bundled;

use std::collections::HashSet;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_cache::digest_file;
use refrain_engine::kind::Cancel;
use refrain_engine::kind::machine::Machine;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::Lock;
use refrain_engine::report::verify::{
    self, Comparison, Mismatch, Recomputed, Sample, VERSION, VerifyOptions,
};
use refrain_engine::run;
use refrain_remote::{Checked, Fault, Progress};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::config::Config;
use crate::session::{Opened, Session, Sources, existing_store};
use crate::{interrupt, machine, output, progress_line, remote};

use bundled::Unpacked;

/// Verifies; computes nothing but the sample that is asked for.
pub fn verify(
    arguments: &cli::VerifyArgs,
    config: Option<&Path>,
    format: Format,
) -> Result<ExitCode, CommandError> {
    if !bundled::is_bundle(&arguments.workflow.workflow) {
        return verify_workflow(arguments, config, format, None);
    }
    let bundle = Unpacked::new(&arguments.workflow.workflow)?;
    verify_workflow(&bundle.arguments(arguments), config, format, Some(bundle))
}

/// Verifies a workflow, that of a bundle with the tables that are in it.
fn verify_workflow(
    arguments: &cli::VerifyArgs,
    config: Option<&Path>,
    format: Format,
    mut bundle: Option<Unpacked>,
) -> Result<ExitCode, CommandError> {
    let opened = Opened::new(&arguments.workflow)?;
    let (lock, cache) = (opened.lock.clone(), opened.cache.clone());
    // To resolve a workflow takes about as long as to read what is kept of it.
    let (session, (lock, store)) = std::thread::scope(|scope| {
        let kept = scope.spawn(|| (Lock::read(&lock), existing_store(&cache)));
        let session = Session::of(opened, &arguments.workflow, Sources::Recorded);
        (session, kept.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let session = session?;
    let lock = ManuallyDrop::new(lock?);
    let store = match (&mut bundle, store?) {
        (Some(bundle), _) => Some(bundle.store(&session, &lock)?),
        (None, None) if arguments.recompute.is_some() => Some(session.store()?),
        (None, store) => store,
    };
    let options = VerifyOptions {
        no_data: arguments.no_data,
        complete: arguments.complete,
        partial: session.overridden,
    };
    let mut found = verify::verify(
        &session.graph,
        &lock,
        store.as_ref(),
        &session.expects,
        &session.comparisons,
        options,
    );
    if let Some(bundle) = &mut bundle {
        found.mismatches.append(&mut bundle.mismatches);
        verify::sort(&session.graph, &mut found.mismatches);
    }
    let mut again = None;
    if let (Some(sample), Some(store)) = (arguments.recompute, &store) {
        let machine = Config::read(config)?.machine;
        let seed = arguments.seed.as_deref();
        let mut recomputed = recompute(&session, &lock, store, &machine, sample, seed)?;
        found.mismatches.append(&mut recomputed.mismatches);
        verify::sort(&session.graph, &mut found.mismatches);
        again = Some(recomputed);
    }
    let checked = arguments.remote.as_deref().map(|remote| check_remote(&lock, remote));
    let checked = checked.transpose()?;
    if let Some(checked) = &checked {
        found.mismatches.extend(checked.faults.iter().map(remote_mismatch));
        verify::sort(&session.graph, &mut found.mismatches);
    }
    if let Some(store) = &store {
        store.sync().map_err(|e| CommandError::new(ErrorClass::Environment, e.to_string()))?;
    }
    let code = match (&again, found.mismatches.is_empty()) {
        (Some(again), _) if again.interrupted => ErrorClass::Interrupted.exit_code(),
        (_, true) => 0,
        (_, false) => ErrorClass::Difference.exit_code(),
    };
    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "exit_code": code,
            "version": VERSION,
            "lock_version": lock.version,
            "mismatches": found.mismatches.iter().map(mismatch_json).collect::<Vec<_>>(),
            "keys": found.keys,
            "sources": { "hashed": found.sources.0, "absent": found.sources.1 },
            "artifacts": { "hashed": found.artifacts.0, "absent": found.artifacts.1 },
            "comparisons": { "lines": found.comparisons.0, "computed": found.comparisons.1 },
            "expects": found.expects,
            "bundle": bundle.as_ref().map(|bundle| json!({ "files": bundle.files() })),
            "remote": checked.as_ref().map(|checked| json!({
                "results": checked.results,
                "objects": checked.objects,
                "hashed": checked.hashed,
            })),
            "recomputed": again.as_ref().map(recomputed_json),
        }));
        return Ok(ExitCode::from(code));
    }
    for mismatch in &found.mismatches {
        output::line(&mismatch_words(mismatch));
    }
    if let Some(again) = &again {
        show_recomputed(again);
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
    if found.comparisons.0 > 0 {
        let (lines, computed) = found.comparisons;
        let lines = output::count(lines, "comparison");
        output::line(&format!("{lines} checked, {computed} computed again"));
    }
    if let Some(bundle) = &bundle {
        output::line(&format!("{} of the bundle checked", output::count(bundle.files(), "file")));
    }
    if let Some(Checked { results, objects, hashed, .. }) = checked {
        let (results, objects) =
            (output::count(results, "result"), output::count(objects, "object"));
        output::line(&format!("{results} at the remote, with {objects}, {hashed} of them hashed"));
    }
    if found.mismatches.is_empty() {
        output::line("everything is as the lock says");
    } else {
        output::line(&hints(&found.mismatches));
    }
    Ok(ExitCode::from(code))
}

/// The share of the objects of a remote cache of which the bytes are checked.
const REMOTE_SHARE: f64 = 0.05;

/// Checks that a remote cache has what the lock names.
fn check_remote(lock: &Lock, address: &str) -> Result<Checked, CommandError> {
    let remote = remote::open(address)?;
    let progress = Progress::default();
    let so_far = || (progress.done(), progress.total());
    let checked = progress_line::beside(&so_far, || {
        remote.check(&remote::named(lock), REMOTE_SHARE, &progress)
    });
    Ok(checked?)
}

fn remote_mismatch(fault: &Fault) -> Mismatch {
    Mismatch {
        node: fault.node.clone(),
        what: "remote",
        message: fault.reason.clone(),
        before: None,
        now: None,
        differences: Vec::new(),
        hint: "`refrain cache push --again` sends what is missing there".into(),
    }
}

/// Computes the sample again; what happens is shown as in a run.
fn recompute(
    session: &Session,
    lock: &Lock,
    store: &refrain_engine::store::Store,
    configured: &Machine,
    sample: Sample,
    seed: Option<&str>,
) -> Result<Recomputed, CommandError> {
    let digest = digest_file(&session.lock)
        .map_err(|e| CommandError::new(ErrorClass::Environment, e.to_string()))?
        .0;
    let seed = seed.map_or(digest.to_string(), String::from);
    let threads = machine::threads();
    let options = run::RunOptions {
        jobs: threads,
        threads,
        memory: machine::free_memory(),
        gpus: machine::gpus(),
        keep_going: true,
        only: None,
        force: HashSet::new(),
        budget: None,
        environment: &|name| std::env::var(name).ok(),
        own_program: machine::own_program(),
        machine: configured,
        pins: lock.pins(),
        executors: &[],
    };
    let cancel = Cancel::default();
    interrupt::cancels(&cancel)?;
    let found = verify::recompute(&session.graph, lock, store, sample, &seed, &options, &cancel);
    refrain_stages::end_servers();
    Ok(found?)
}

/// A difference for people.
pub(super) fn mismatch_words(mismatch: &Mismatch) -> String {
    format!("{:9}  `{}`: {}", mismatch.what, mismatch.node, mismatch.message)
}

/// What to do, each remedy once.
pub(super) fn hints(mismatches: &[Mismatch]) -> String {
    let mut hints: Vec<&str> = Vec::new();
    for mismatch in mismatches {
        if !hints.contains(&mismatch.hint.as_str()) {
            hints.push(&mismatch.hint);
        }
    }
    let hints: Vec<String> = hints.iter().map(|hint| format!("\n  = help: {hint}")).collect();
    format!("{}{}", output::count(mismatches.len(), "difference"), hints.concat())
}

/// A difference as docs/json.md describes it.
pub(super) fn mismatch_json(mismatch: &Mismatch) -> Value {
    let differences: Vec<Value> = mismatch
        .differences
        .iter()
        .map(|d| json!({ "path": d.path, "before": d.before, "after": d.after }))
        .collect();
    json!({
        "node": mismatch.node,
        "what": mismatch.what,
        "message": mismatch.message,
        "before": mismatch.before,
        "now": mismatch.now,
        "differences": differences,
        "hint": mismatch.hint,
    })
}

fn word(verdict: &Comparison) -> &'static str {
    match verdict {
        Comparison::Equal => "equal",
        Comparison::Close => "close",
        Comparison::NotComparable(_) => "not_comparable",
        Comparison::Different => "different",
    }
}

fn recomputed_json(again: &Recomputed) -> Value {
    let nodes: Vec<Value> = again
        .nodes
        .iter()
        .map(|(node, verdict)| {
            let reason = match verdict {
                Comparison::NotComparable(reason) => Some(reason),
                _ => None,
            };
            json!({ "node": node, "verdict": word(verdict), "reason": reason })
        })
        .collect();
    json!({ "of": again.of, "interrupted": again.interrupted, "nodes": nodes })
}

fn show_recomputed(again: &Recomputed) {
    for (node, verdict) in &again.nodes {
        if let Comparison::NotComparable(reason) = verdict {
            output::line(&format!("not comparable  `{node}`: {reason}"));
        }
    }
    let count =
        |wanted: &str| again.nodes.iter().filter(|(_, verdict)| word(verdict) == wanted).count();
    output::line(&format!(
        "{} of {} computed again: {} equal, {} close, {} different, {} not comparable",
        again.nodes.len(),
        output::count(again.of, "node"),
        count("equal"),
        count("close"),
        count("different"),
        count("not_comparable"),
    ));
}
