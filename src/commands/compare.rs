//! `refrain compare`: the comparisons of a workflow, and the rows behind a difference.

pub mod table;

use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_engine::graph::NodeId;
use refrain_engine::language::diagnostic::suggest;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::ledger::lock::{Compared, ComparedTest, IntervalMethod, Lock, TestMethod};
use refrain_engine::plan;
use refrain_engine::plan::state::NodeState;
use refrain_engine::report::comparison::{
    self, ComparedRow, FlippedRow, Flips, NoResult, Pairing, Side,
};
use refrain_engine::report::{expect, results};
use refrain_engine::store::Store;

use crate::cli::{self, Format};
use crate::command_error::CommandError;
use crate::output;
use crate::session::Session;

use table::{number, p_value, row_json, signed};

/// Characters of a text that are shown to people.
const TEXT: usize = 300;

/// Prints the comparisons, or one of them with the rows that flipped.
pub fn compare(arguments: &cli::CompareArgs, format: Format) -> Result<ExitCode, CommandError> {
    let session = Session::open(&arguments.workflow)?;
    let position = match &arguments.name {
        Some(name) => Some(find(&session, name)?),
        None => None,
    };
    let Known { store, done, rows } = Known::of(&session)?;

    let Some(position) = position else {
        print_all(&rows, format);
        return Ok(ExitCode::SUCCESS);
    };
    let pairing = &session.comparisons.pairings[position];
    let flips = match &store {
        Some(store) => {
            let of = |id: NodeId| done[id.index()].as_ref();
            comparison::flips(&session.graph, pairing, store, arguments.rows, of)
        }
        None => Err(NoResult::NoTable(pairing.comparison.name.clone())),
    };
    match format {
        Format::Json => {
            let (flips, reason) = match flips {
                Ok(flips) => (Some(flips_json(&flips)), None),
                Err(reason) => (None, Some(reason.to_string())),
            };
            let document = json!({
                "refrain": 1,
                "comparison": row_json(&rows[position]),
                "flipped": flips,
                "flipped_reason": reason,
            });
            output::json(&document);
        }
        _ => {
            show(&rows[position], pairing);
            show_flips(pairing, flips);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find(session: &Session, name: &str) -> Result<usize, CommandError> {
    if let Some(position) = session.comparisons.position(name) {
        return Ok(position);
    }
    let names = session.comparisons.pairings.iter().map(|pairing| pairing.comparison.name.as_str());
    let hint = suggest(name, names, "comparisons are")
        .unwrap_or_else(|| "comparisons stand under `compare`: docs/comparisons.md".into());
    let message = format!("the workflow has no comparison `{name}`");
    Err(CommandError::with_hint(ErrorClass::Input, message, hint))
}

/// The state of a workflow as cache and lock know it.
pub struct Known {
    /// The cache, where there is one.
    pub store: Option<Store>,
    /// The outputs of each node that is known.
    pub done: Vec<Option<NodeState>>,
    /// The comparisons.
    pub rows: Vec<ComparedRow>,
}

impl Known {
    /// Looks the nodes up.
    pub fn of(session: &Session) -> Result<Known, CommandError> {
        let (lock, store) = (session.lock()?, session.existing_store()?);
        let graph = &session.graph;
        let plan = store.as_ref().map(|store| plan::look_up(graph, store)).transpose()?;
        let done = results::known(graph, &lock, plan.as_ref());
        let rows = known_rows(session, &lock, store.as_ref(), |id| done[id.index()].as_ref());
        Ok(Known { store, done, rows })
    }
}

/// The table of what the lock or the cache gives without a run.
pub fn known_rows<'d>(
    session: &Session,
    lock: &Lock,
    store: Option<&Store>,
    done: impl Fn(NodeId) -> Option<&'d NodeState> + Sync,
) -> Vec<ComparedRow> {
    let comparisons = &session.comparisons;
    if comparisons.pairings.is_empty() {
        return Vec::new();
    }
    let found = comparison::known(&session.graph, comparisons, lock, store, &done);
    let found: Vec<Result<&Compared, &NoResult>> = found.iter().map(Result::as_ref).collect();
    let mut verdicts = expect::check(&session.expects, &session.graph, &done);
    verdicts.extend(comparisons.check(&found));
    comparisons.rows(&found, &verdicts)
}

fn print_all(rows: &[ComparedRow], format: Format) {
    if format == Format::Json {
        return output::json(&json!({ "refrain": 1, "comparisons": table::to_json(rows) }));
    }
    match rows.is_empty() {
        true => output::line("the workflow has no comparisons: they stand under `compare`"),
        false => output::text(&table::text(rows, format)),
    }
    table::reasons(rows);
}

/// Prints all that is known of one comparison.
fn show(row: &ComparedRow, pairing: &Pairing) {
    let [first, second] = &row.arms;
    output::line(&format!("{}: {first} - {second} of {}", row.name, row.of));
    let Some(result) = &row.result else {
        let reason = row.reason.as_deref().unwrap_or("not run");
        return output::line(&format!("no result: {reason}"));
    };
    let line = |name: &str, text: &str| output::line(&format!("  {name:22}{text}"));
    for (name, arm) in row.arms.iter().zip(&result.arms) {
        let interval = arm.low.zip(arm.high);
        let interval =
            interval.map(|(low, high)| format!(" ({} to {}, Wilson)", number(low), number(high)));
        line(name, &format!("{}{}", number(arm.value), interval.unwrap_or_default()));
    }
    line("difference", &signed(result.estimate));
    for interval in &result.intervals {
        let by = match interval.by {
            IntervalMethod::Bootstrap => "two-way bootstrap",
            IntervalMethod::Student => "Student's t over seeds",
            IntervalMethod::Newcombe => "Newcombe, since no draw differs",
        };
        let ends = format!("{} to {} ({by})", signed(interval.low), signed(interval.high));
        line(&format!("{} % interval", 100.0 * interval.confidence), &ends);
    }
    for (i, test) in result.tests.iter().enumerate() {
        let corrected = row.corrected.as_ref().and_then(|corrected| corrected.get(i));
        line(&format!("p against {}", test.above), &test_words(test, corrected.copied(), pairing));
    }
    if let Some(wilcoxon) = &result.wilcoxon {
        let how = if wilcoxon.exact { "exact" } else { "asymptotic" };
        line("Wilcoxon", &format!("{} (W {}, {how})", p_value(wilcoxon.p), wilcoxon.statistic));
    }
    if let Some(effect) = result.effect {
        line("effect size", &signed(effect));
    }
    line("detectable", &number(result.detectable));
    if result.ids > 0 {
        line("ids", &format!("{}, {} dropped", result.ids, result.dropped));
    }
    for claim in &row.claims {
        line("claim", claim.words());
    }
    seeds(row, result);
}

fn test_words(test: &ComparedTest, corrected: Option<f64>, pairing: &Pairing) -> String {
    let by = match test.by {
        TestMethod::SignFlip => "sign flips",
        TestMethod::Student => "Student's t over seeds",
        TestMethod::Bootstrap => "share of draws",
    };
    let group = pairing.comparison.group.as_ref();
    let corrected = corrected.map(|p| match group {
        Some(group) => format!(", corrected in `{group}` {}", p_value(p)),
        None => format!(", corrected {}", p_value(p)),
    });
    format!("{} ({by}){}", p_value(test.p), corrected.unwrap_or_default())
}

/// Prints a row per seed.
fn seeds(row: &ComparedRow, result: &Compared) {
    let rows: Vec<Vec<String>> = result
        .differences
        .iter()
        .enumerate()
        .map(|(i, difference)| {
            let mut cells =
                vec![row.seeds.get(i).cloned().unwrap_or_default(), signed(*difference)];
            cells.extend(result.mcnemar.get(i).into_iter().flat_map(|test| {
                [test.first.to_string(), test.second.to_string(), p_value(test.p)]
            }));
            cells
        })
        .collect();
    let only = row.arms.each_ref().map(|arm| format!("only {arm}"));
    let mut headings = vec!["seed", "difference"];
    if !result.mcnemar.is_empty() {
        headings.extend([only[0].as_str(), only[1].as_str(), "McNemar p"]);
    }
    output::line("");
    output::table(&headings, &rows);
}

fn show_flips(pairing: &Pairing, flips: Result<Flips, NoResult>) {
    output::line("");
    let flips = match flips {
        Ok(flips) => flips,
        Err(reason) => return output::line(&format!("no rows to show: {reason}")),
    };
    output::line(&format!("{} differ, {} shown", output::count(flips.of, "row"), flips.rows.len()));
    let seeded = pairing.comparison.over.as_ref().map(|(over, _)| over.as_str());
    let several = pairing.figures.len() > 1;
    for row in &flips.rows {
        let seed = seeded.map(|over| format!(", {over} {}", row.seed)).unwrap_or_default();
        let figure = if several { format!(", {}", row.figure) } else { String::new() };
        let often = match pairing.seeds.len() {
            1 => String::new(),
            seeds => format!(" ({} of {seeds})", row.at_seeds),
        };
        output::line(&format!("\n{}{seed}{often}{figure}", row.id));
        let line = |name: &str, text: &Option<String>| {
            if let Some(text) = text {
                output::line(&format!("  {name:10}  {}", cut(text)));
            }
        };
        line("prompt", &row.prompt);
        line("reference", &row.reference);
        for (arm, side) in pairing.comparison.arms.iter().zip(&row.sides) {
            output::line(&format!("  {arm}: {}", side_words(side)));
            line("  response", &side.response);
        }
    }
}

/// The verdict of an arm: its value, the answer that was found, and the reason.
fn side_words(side: &Side) -> String {
    let mut words = number(side.value);
    if let Some(prediction) = &side.prediction {
        words.push_str(&format!(", found `{}`", cut(prediction)));
    }
    if let Some(reason) = &side.reason {
        words.push_str(&format!(", {}", cut(reason)));
    }
    words
}

fn cut(text: &str) -> String {
    let text = text.replace('\n', "\\n");
    let short: String = text.chars().take(TEXT).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{short}{more}")
}

fn flips_json(flips: &Flips) -> Value {
    let side = |side: &Side| {
        json!({
            "value": side.value,
            "response": side.response,
            "prediction": side.prediction,
            "reason": side.reason,
        })
    };
    let row = |row: &FlippedRow| {
        json!({
            "figure": row.figure,
            "seed": row.seed,
            "id": row.id,
            "at_seeds": row.at_seeds,
            "prompt": row.prompt,
            "reference": row.reference,
            "sides": row.sides.iter().map(side).collect::<Vec<_>>(),
        })
    };
    json!({ "of": flips.of, "rows": flips.rows.iter().map(row).collect::<Vec<_>>() })
}
