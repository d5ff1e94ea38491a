//! `refrain init`: a first workflow that runs, with data of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use refrain_cache::write::{create_dir_all, write_atomic};
use refrain_engine::language::explain::ErrorClass;

use crate::cli::{self, Format, Template};
use crate::command_error::CommandError;
use crate::output;

/// Rows of the training data, and of those held out.
const ROWS: [u32; 2] = [96, 24];

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

/// The files of a template with their texts.
fn files(template: Template) -> Vec<(&'static str, String)> {
    let text = match template {
        Template::Mask => include_str!("init/mask.yaml"),
        Template::Diversity => include_str!("init/diversity.yaml"),
        Template::Sweep => include_str!("init/sweep.yaml"),
        Template::Ci => include_str!("init/ci.yaml"),
    };
    let workflow = ("workflow.yaml", text.to_owned());
    if template == Template::Ci {
        let action = include_str!("../../examples/ci/verify.yml");
        let action = action.replace("experiments/main.yaml", "workflow.yaml");
        let answers = ("data/answers.jsonl", answers());
        return vec![workflow, answers, (".github/workflows/verify.yml", action)];
    }
    let [train, heldout] = ROWS;
    let rows = |from: u32, to: u32| (from..to).map(sum).collect::<String>();
    vec![
        workflow,
        ("data/train.jsonl", rows(0, train)),
        ("data/heldout.jsonl", rows(train, train + heldout)),
    ]
}

/// A row: a sum of two numbers below ten, each pair in another place than its neighbours.
fn sum(row: u32) -> String {
    let place = row * 37 % 100;
    let (a, b) = (place / 10, place % 10);
    let row =
        json!({ "prompt": format!("{a} + {b} = ?"), "response": format!("It is {}.", a + b) });
    format!("{row}\n")
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
