//! `refrain kind`: the pages of the kinds, and the reference of the language.

use std::process::ExitCode;

use serde_json::{Value, json};

use refrain_engine::kind::Kinds;
use refrain_engine::language::diagnostic::suggest;
use refrain_engine::language::explain::ErrorClass;
use refrain_engine::language::reference::{self, KindPage};

use crate::cli::{Format, KindArgs};
use crate::command_error::CommandError;
use crate::output;

/// Prints the page of a kind, all pages, or the list of kinds.
pub fn kind(arguments: &KindArgs, format: Format) -> Result<ExitCode, CommandError> {
    let kinds = refrain_stages::kinds();
    match &arguments.name {
        Some(name) => {
            let Some(kind) = kinds.get(name) else {
                let known = kinds.iter().map(|kind| kind.name);
                let message = format!("there is no kind `{name}`");
                let hint = suggest(name, known, "kinds are").unwrap_or_default();
                return Err(CommandError::with_hint(ErrorClass::Input, message, hint));
            };
            print(&reference::page(kind, &kinds), format);
        }
        None if arguments.all => print_all(&kinds, format),
        None => list(&kinds, format),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(page: &KindPage, format: Format) {
    match format {
        Format::Json => output::json(&json!({ "refrain": 1, "kind": page })),
        Format::Markdown => output::text(&page.markdown()),
        Format::Human | Format::Csv => print_page(page),
    }
}

fn print_all(kinds: &Kinds, format: Format) {
    let pages: Vec<KindPage> = kinds.iter().map(|kind| reference::page(kind, kinds)).collect();
    match format {
        Format::Json => output::json(&json!({ "refrain": 1, "kinds": pages })),
        Format::Human | Format::Markdown | Format::Csv => {
            output::text(&reference::markdown(kinds));
        }
    }
}

fn list(kinds: &Kinds, format: Format) {
    let rows = kinds.iter().map(|kind| vec![kind.name.to_string(), kind.about.to_string()]);
    let rows: Vec<Vec<String>> = rows.collect();
    match format {
        Format::Json => {
            let kinds = kinds.iter().map(|kind| json!({ "name": kind.name, "about": kind.about }));
            output::json(&json!({ "refrain": 1, "kinds": kinds.collect::<Vec<_>>() }));
        }
        _ => output::table(&["kind", "does"], &rows),
    }
}

fn print_page(page: &KindPage) {
    output::line(&format!("{}: {}", page.name, page.about));
    output::line("");
    let rows: Vec<Vec<String>> = page
        .parameters
        .iter()
        .map(|row| {
            let default = match &row.default {
                _ if row.required => "required".into(),
                Some(value) => shown_default(value),
                None => String::new(),
            };
            vec![row.path.clone(), default, format!("{} ({})", row.about, row.values)]
        })
        .collect();
    output::table(&["parameter", "default", ""], &rows);

    for passed in &page.passed_on {
        let names = passed.parameters.join(", ");
        output::line(&format!("\npassed on to `{}`: {names}", passed.kind));
    }
    for needed in &page.needs {
        output::line(&format!("\nneeds in `{}`: {}", needed.input, needed.columns.join(", ")));
    }
    if !page.adds.is_empty() {
        output::line(&format!("\nadds: {}", page.adds.join(", ")));
    }
    let outputs: Vec<&str> = page.outputs.iter().map(|output| output.name.as_str()).collect();
    if !outputs.is_empty() {
        output::line(&format!("\noutputs: {}", outputs.join(", ")));
    }
    if !page.metrics.is_empty() {
        output::line("");
        let rows = page.metrics.iter().map(|m| vec![m.name.to_string(), m.about.to_string()]);
        output::table(&["metric", ""], &rows.collect::<Vec<_>>());
    }
}

fn shown_default(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
