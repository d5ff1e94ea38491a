//! `refrain cache stat`: what the cache holds.

use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_cache::gc::Amount;
use refrain_cache::{ArtifactKind, Entry};

use crate::cli::Format;
use crate::command_error::CommandError;
use crate::{human, output};

use super::{Opened, length};

/// Counts everything in the cache, and hashes nothing.
pub fn stat(opened: &Opened, format: Format) -> Result<ExitCode, CommandError> {
    let (records, listing) = opened.list()?;
    let root = opened.cache.root();
    let kinds = listing.kinds();
    let mut objects = [Amount::default(); 4];
    for object in &listing.objects {
        let place = match kinds.get(&object.digest) {
            Some(ArtifactKind::Table) => 0,
            Some(ArtifactKind::Model) => 1,
            Some(ArtifactKind::File) => 2,
            // A folder that is only a source is never stored.
            Some(ArtifactKind::Folder) | None => 3,
        };
        objects[place].add(object.bytes);
    }
    let [tables, models, files, unrecorded] = objects;
    let log = Amount {
        count: records.keys().len() as u64,
        bytes: length(&root.join("records/records.log"))?
            + length(&root.join("records/files.log"))?,
    };
    let amounts = [
        ("tables", tables),
        ("models", models),
        ("files", files),
        ("unrecorded", unrecorded),
        ("records", log),
        ("rows", amount(&listing.rows)),
        ("unfinished", amount(&listing.unfinished)),
        ("plans", amount(&listing.plans)),
        ("runs", amount(&listing.runs)),
        ("corrupt", amount(&listing.corrupt)),
        ("leftovers", amount(&listing.leftovers)),
    ];
    let bytes: u64 = amounts.iter().map(|(_, amount)| amount.bytes).sum();
    if format == Format::Json {
        let mut said =
            json!({ "refrain": 1, "cache": root, "bytes": bytes, "at_work": listing.sessions });
        for (name, amount) in amounts {
            said[name] = to_json(amount);
        }
        output::json(&said);
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = amounts
        .iter()
        .filter(|(_, amount)| amount.count > 0)
        .map(|(name, amount)| {
            vec![about(name).into(), amount.count.to_string(), human::size(amount.bytes)]
        })
        .collect();
    output::table(&["", "count", "size"], &rows);
    output::line(&format!("`{}`: {}", root.display(), human::size(bytes)));
    if !listing.sessions.is_empty() {
        output::line(&format!("{} at work", output::process(listing.sessions.len())));
    }
    Ok(ExitCode::SUCCESS)
}

fn about(name: &str) -> &str {
    match name {
        "unrecorded" => "artifacts without a record",
        "rows" => "row memo",
        "unfinished" => "unfinished nodes",
        "plans" => "kept plans",
        "runs" => "logs of runs",
        "corrupt" => "damaged, set aside",
        "leftovers" => "leftovers of killed runs",
        name => name,
    }
}

fn amount(entries: &[Entry]) -> Amount {
    let mut amount = Amount::default();
    entries.iter().for_each(|entry| amount.add(entry.bytes));
    amount
}

fn to_json(amount: Amount) -> Value {
    json!({ "count": amount.count, "bytes": amount.bytes })
}
