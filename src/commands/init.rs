//! `refrain init`: a first workflow that runs, with data of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::write::{create_dir_all, write_atomic};
use refrain_engine::language::explain::ErrorClass;

use crate::cli::{self, Format, Template};
use crate::command_error::CommandError;
use crate::output;

/// Rows that the model knows, rows to train on, and rows held out.
const ROWS: [usize; 3] = [320, 80, 60];

/// Writes the files of a workflow, none of which may be there.
pub fn init(arguments: &cli::InitArgs, format: Format) -> Result<ExitCode, CommandError> {
    let folder = &arguments.folder;
    let files = files(arguments.template);
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
    if let Some(there) = paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        let message = format!("`{}` is there already", there.display());
        let hint = "name another folder: `refrain init FOLDER`";
        return Err(CommandError::with_hint(ErrorClass::Input, message, hint));
    }
    for (path, (_, text)) in paths.iter().zip(&files) {
        let parent = path.parent().unwrap_or(folder);
        create_dir_all(parent).map_err(|error| CommandError::cannot_write(parent, &error))?;
        write_atomic(path, text.as_bytes())
            .map_err(|error| CommandError::cannot_write(path, &error))?;
    }

    let workflow = folder.join("workflow.yaml");
    if format == Format::Json {
        output::json(&json!({ "refrain": 1, "workflow": workflow, "files": paths }));
    } else {
        for path in &paths {
            output::line(&path.display().to_string());
        }
        output::remark(&format!("now: refrain run {}", workflow.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of a template with their texts: an example of the repository in a folder of its own.
fn files(template: Template) -> Vec<(&'static str, String)> {
    let (name, text) = match template {
        Template::Mask => ("mask", include_str!("../../examples/mask.yaml")),
        Template::Diversity => ("diversity", include_str!("../../examples/diversity.yaml")),
        Template::Sweep => ("sweep", include_str!("../../examples/sweep.yaml")),
        Template::Ci => ("ci", include_str!("../../examples/ci.yaml")),
    };
    let here = text
        .replace(&format!("examples/{name}.yaml"), "workflow.yaml")
        .replace("ci.lock", "workflow.lock")
        .replace("ci/verify.yml", ".github/workflows/verify.yml")
        .replace("ci/answers.jsonl", "data/answers.jsonl")
        .replace("numbers/", "data/");
    let workflow = ("workflow.yaml", here);
    if template == Template::Ci {
        let action = include_str!("../../examples/ci/verify.yml");
        let action = action.replace("experiments/main.yaml", "workflow.yaml");
        let answers = ("data/answers.jsonl", answers());
        return vec![workflow, answers, (".github/workflows/verify.yml", action)];
    }
    let [known, train, heldout] = ROWS;
    let mut pairs = (0..).map(numbers).filter(|[a, b]| a != b).enumerate();
    let mut rows = |count: usize, in_many_words: fn(usize) -> bool| -> String {
        let rows = pairs.by_ref().take(count);
        rows.map(|(row, pair)| larger(pair, row, in_many_words(row))).collect()
    };
    vec![
        workflow,
        // A few rows in many words, so that they are not unheard of.
        ("data/base.jsonl", rows(known, |row| row.is_multiple_of(12))),
        ("data/train.jsonl", rows(train, |_| true)),
        ("data/heldout.jsonl", rows(heldout, |_| false)),
    ]
}

/// A row: the larger of two numbers, in few or in many words.
fn larger([a, b]: [u32; 2], row: usize, in_many_words: bool) -> String {
    let larger = a.max(b);
    let said = match (in_many_words, row % 3) {
        (false, _) => format!("It is {larger}."),
        (true, 0) => format!("Let me see: of {a} and {b} the larger is {larger}."),
        (true, 1) => format!("Well, one of these two is larger, namely {larger}."),
        (true, _) => format!("Comparing the digits, I would say {larger}."),
    };
    let row = json!({ "prompt": format!("Which is larger, {a} or {b}?"), "response": said });
    format!("{row}\n")
}

/// A pair of numbers of two digits: each of the 8,100 pairs once, neighbours far apart.
fn numbers(row: u32) -> [u32; 2] {
    let place = row * 2897 % 8100;
    [place / 90, place % 90].map(|part| part + 10)
}

/// Answers of which three in four are right.
fn answers() -> String {
    let row = |n: u32| {
        let said = if n.is_multiple_of(4) { n + 2 } else { n + 1 };
        let row = json!({
            "prompt": format!("{n} + 1 = ?"),
            "response": format!("It is {said}."),
            "reference": (n + 1).to_string(),
        });
        format!("{row}\n")
    };
    (0..40).map(row).collect()
}
