//! `refrain cache verify`: every artifact hashed, every line of the logs and row memos checked.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use refrain_cache::{Cache, Corrupt, Damage, Digest, Listing};
use refrain_engine::language::explain::ErrorClass;

use crate::cli::Format;
use crate::command_error::CommandError;
use crate::human::time;
use crate::{human, output, progress_line};

use super::{Opened, within};

/// Hashes the whole cache; what is damaged is set aside and named.
pub fn verify(opened: &Opened, format: Format) -> Result<ExitCode, CommandError> {
    let begin = Instant::now();
    let cache = &opened.cache;
    let mut damages = cache.verify_logs()?;
    let (_, listing) = opened.list()?;
    let total: u64 = listing.objects.iter().map(|object| object.bytes).sum();
    damages.extend(hash(cache, &listing, total)?);
    let elapsed = begin.elapsed();
    let missing = missing(&listing);
    let code = if damages.is_empty() { 0 } else { ErrorClass::Difference.exit_code() };
    if format == Format::Json {
        output::json(&json!({
            "refrain": 1,
            "exit_code": code,
            "artifacts": listing.objects.len(),
            "bytes": total,
            "seconds": elapsed.as_secs_f64(),
            "missing": missing,
            "damaged": damages.iter().map(|damage| to_json(cache, damage)).collect::<Vec<_>>(),
        }));
        return Ok(ExitCode::from(code));
    }
    for damage in &damages {
        let (path, fault, aside) = damage_parts(cache, damage);
        let aside = match aside {
            Some(aside) => format!("set aside as `{aside}`"),
            None => "left, because another process works with the cache".into(),
        };
        output::line(&format!("damaged  `{path}` {fault}; {aside}"));
    }
    if missing > 0 {
        let artifacts = output::count(missing, "artifact");
        let them = if missing == 1 { "it" } else { "them" };
        output::line(&format!(
            "missing  {artifacts} that records name; a run that needs {them} will recompute {them}"
        ));
    }
    let rate = total as f64 / elapsed.as_secs_f64().max(1e-9);
    output::line(&format!(
        "{} hashed, {}, {}, {}/s; {}",
        output::count(listing.objects.len(), "artifact"),
        human::size(total),
        time(elapsed),
        human::size(rate as u64),
        match damages.len() {
            0 => "nothing is damaged".into(),
            1 => "1 damaged; a run that needs it will recompute it".into(),
            n => format!("{n} damaged; a run that needs them will recompute them"),
        }
    ));
    Ok(ExitCode::from(code))
}

/// How many artifacts of records the cache does not hold.
fn missing(listing: &Listing) -> usize {
    let there: BTreeSet<Digest> = listing.objects.iter().map(|object| object.digest).collect();
    let named: BTreeSet<Digest> =
        listing.records.iter().flat_map(|r| r.outputs.iter().map(|(digest, _)| *digest)).collect();
    named.difference(&there).count()
}

/// Returns the path in the cache folder, the fault, and where the file is now.
fn damage_parts(cache: &Cache, damage: &Damage) -> (String, String, Option<String>) {
    match damage {
        Damage::Object { digest, fault, aside } => {
            let fault = match fault {
                Corrupt::Digest { found, .. } => {
                    format!("has the digest {found}, which is not its name")
                }
                Corrupt::Unreadable { source, .. } => format!("could not be read: {source}"),
                other => other.to_string(),
            };
            (within(cache, &cache.object_path(digest)), fault, Some(within(cache, aside)))
        }
        Damage::Log { path, places, aside } => {
            let part = if path.extension().is_some_and(|e| e == "rows") { "row" } else { "line" };
            let fault = format!("has {}", output::count(*places, &format!("damaged {part}")));
            (within(cache, path), fault, aside.as_ref().map(|aside| within(cache, aside)))
        }
    }
}

fn to_json(cache: &Cache, damage: &Damage) -> Value {
    let (path, fault, aside) = damage_parts(cache, damage);
    json!({ "path": path, "message": fault, "aside": aside })
}

/// Hashes, with a line on stderr that says how far it is, should it take long.
fn hash(cache: &Cache, listing: &Listing, total: u64) -> Result<Vec<Damage>, CommandError> {
    let done = AtomicU64::new(0);
    let so_far = || (done.load(Ordering::Relaxed), total);
    Ok(progress_line::beside(&so_far, || cache.verify_objects(listing, &done))?)
}
