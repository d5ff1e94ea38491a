//! `refrain cache gc`: removes what no lock and no logged run names.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use refrain_cache::gc::{self, Amount, KeepReason, Limits, Removal, RemovalPlan, RemovalTarget};
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock;
use refrain_engine::ledger::roots::{self, FoundRoots};

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::human::time;
use crate::{human, output, session};

use super::Opened;

/// Plans, shows, and, unless it is a dry run, removes.
pub fn gc(
    opened: &Opened,
    arguments: &cli::GcArgs,
    format: Format,
) -> Result<ExitCode, CommandError> {
    // Between the plan and the removal no process may begin to rely on anything.
    let gate = if arguments.dry_run { None } else { Some(opened.cache.lock_for_removal()?) };
    let named: Vec<PathBuf> = arguments
        .folder
        .workflows
        .iter()
        .map(|workflow| session::absolute(&lock::path_of(workflow)))
        .collect::<Result<_, _>>()?;
    let forget: Vec<PathBuf> = arguments
        .forget
        .iter()
        .map(|workflow| session::absolute(workflow))
        .collect::<Result<_, _>>()?;
    let found = roots::find(opened.cache.root(), &named, &forget)?;
    if found.locks.is_empty() && found.runs == 0 {
        return Err(CommandError::with_hint(
            ErrorClass::Input,
            "refusing to empty this cache: no lock or run log says what to keep",
            "name the workflows whose results to keep",
        ));
    }
    let (records, listing) = opened.list()?;
    let limits = Limits { older_than: arguments.older_than, max_size: arguments.max_size };
    let now = SystemTime::now();
    let plan = gc::plan_removal(&listing, &found.roots, &limits, now);
    if let Some(gate) = gate {
        opened.cache.remove(&plan, records, gate)?;
    }
    if format == Format::Json {
        output::json(&to_json(&plan, &found, arguments.dry_run));
    } else {
        show(&plan, &found, arguments.dry_run, now);
    }
    Ok(ExitCode::SUCCESS)
}

fn show(plan: &RemovalPlan, found: &FoundRoots, dry_run: bool, now: SystemTime) {
    if dry_run {
        for Removal { target, bytes, used } in &plan.removals {
            let age = now.duration_since(*used).unwrap_or_default();
            let size = human::size(*bytes);
            output::line(&format!(
                "{:16}  {size:>8}  unused for {:7}  {}",
                word(target),
                time(age),
                name(target)
            ));
        }
        for workflow in &found.gone {
            let workflow = workflow.display();
            output::line(&format!("`{workflow}` is gone; `--forget` it to remove its results"));
        }
    }
    for (why, Amount { count, bytes }) in &plan.kept {
        let why = match why {
            KeepReason::Locked => locked_words(found),
            KeepReason::Used => format!("the last {} used them", output::count(found.runs, "run")),
            KeepReason::Within => "they are within the limits".into(),
            KeepReason::AtWork => format!("{} at work", output::process(plan.sessions.len())),
        };
        output::line(&format!("{count} stay, {}: {why}", human::size(*bytes)));
    }
    let mut artifacts = 0;
    let mut records = 0;
    let mut others = 0;
    for removal in &plan.removals {
        match removal.target {
            RemovalTarget::Object(_) => artifacts += 1,
            RemovalTarget::Record(_) => records += 1,
            _ => others += 1,
        }
    }
    output::line(&format!(
        "{}, {} and {} {}, {}",
        output::count(artifacts, "artifact"),
        output::count(records, "record"),
        output::count(others, "other file"),
        if dry_run { "would go" } else { "removed" },
        human::size(plan.bytes()),
    ));
}

/// Says what keeps results whatever the limits.
fn locked_words(found: &FoundRoots) -> String {
    let locks = output::count(found.locks.len(), "lock");
    match found.gone.len() {
        0 => format!("in {locks}"),
        gone => {
            format!("in {locks}, or of {} that may have moved", output::count(gone, "workflow"))
        }
    }
}

fn word(target: &RemovalTarget) -> &'static str {
    match target {
        RemovalTarget::Record(_) => "record",
        RemovalTarget::Object(_) => "artifact",
        RemovalTarget::Rows(_) => "rows",
        RemovalTarget::Unfinished(_) => "unfinished",
        RemovalTarget::Plan(_) => "plan",
        RemovalTarget::Leftover(_) => "leftover",
        RemovalTarget::Corrupt(_) => "corrupt",
    }
}

fn name(target: &RemovalTarget) -> String {
    match target {
        RemovalTarget::Record(key) => key.to_string(),
        RemovalTarget::Object(digest) => digest.to_string(),
        RemovalTarget::Rows(name)
        | RemovalTarget::Unfinished(name)
        | RemovalTarget::Plan(name)
        | RemovalTarget::Leftover(name)
        | RemovalTarget::Corrupt(name) => name.clone(),
    }
}

fn to_json(plan: &RemovalPlan, found: &FoundRoots, dry_run: bool) -> Value {
    let seconds =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let removals: Vec<Value> = plan
        .removals
        .iter()
        .map(|Removal { target, bytes, used }| {
            json!({ "what": word(target), "name": name(target), "bytes": bytes, "used": seconds(*used) })
        })
        .collect();
    let stays: Vec<Value> = plan
        .kept
        .iter()
        .map(|(why, amount)| {
            let why = match why {
                KeepReason::Locked => "locked",
                KeepReason::Used => "used",
                KeepReason::Within => "within_limits",
                KeepReason::AtWork => "at_work",
            };
            json!({ "why": why, "count": amount.count, "bytes": amount.bytes })
        })
        .collect();
    json!({
        "refrain": 1,
        "dry_run": dry_run,
        "bytes": plan.bytes(),
        "removals": removals,
        "stays": stays,
        "locks": found.locks,
        "runs": found.runs,
        "gone": found.gone,
        "at_work": plan.sessions,
    })
}
