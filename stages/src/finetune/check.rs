//! Checks the parameters and columns of `finetune` before anything runs.

use std::path::Path;

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_engine::kind::{Check, Columns, Problem};
use refrain_engine::source::model_folder::ModelFolder;
use refrain_lm::config::{ConfigError, ModelConfig};
use refrain_lm::tokenizer_training::SPECIAL_TOKENS;
use refrain_lm::weights::weight_files;

use crate::prompts;
use crate::tables::list_of;

use super::params::{Architecture, Keep, ModelShape};
use super::start;

mod backend;

pub(super) use backend::is_peft;

/// Settings of an adapter, which one that is trained further brings along.
const ADAPTER_SETTINGS: [&str; 5] = ["rank", "alpha", "targets", "dora", "rslora"];

/// The result is a model, which has no columns.
pub(super) fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    check_start(check, problems);
    match backend::is_peft(check.params) {
        true => backend::check_peft(check, problems),
        false => {
            backend::check_native(check, problems);
            check_model(check, problems);
        }
    }
    check_method(check, problems);
    check_watching(check, problems);
    check_keep(check, problems);
    let masked = check_table(check, "data", problems);
    let watched = check.inputs.iter().any(|input| input == "evaluate_on");
    if (!watched || check_table(check, "evaluate_on", problems)) && masked {
        check_rendering(check, problems);
    }
    None
}

fn is_true(params: &Map<String, Value>, name: &str) -> bool {
    params.get(name) == Some(&Value::Bool(true))
}

fn check_start(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let model = check.inputs.iter().any(|input| input == "model");
    match (model, check.params.get("from")) {
        (true, None) => {}
        (false, Some(from)) => check_new_model(from, problems),
        (false, None) => {
            let hint = "give `model`, or `from` for a new one with random weights";
            problems.push(Problem::at("", "it does not say which model is trained").hint(hint));
        }
        (true, Some(_)) => {
            let message = "`from` makes a new model, so there is nothing to do for `model`";
            problems.push(Problem::at("from", message).hint("give one of the two"));
        }
    }
}

/// Refuses a model that the native module, the only one that trains, does not compute.
fn check_model(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let Some(path) = (check.models)("model") else { return };
    if let Some(why) = untrainable(&path) {
        let hint = "`docs/models.md` lists the models that can be trained";
        problems.push(Problem::at("model", format!("it cannot be trained: {why}")).hint(hint));
    }
}

/// Says why a model cannot be trained; files that are absent or damaged are for the run to refuse.
fn untrainable(path: &Path) -> Option<String> {
    match ModelConfig::load(path) {
        Err(error @ (ConfigError::Foreign { .. } | ConfigError::Unsupported(_))) => {
            Some(error.to_string())
        }
        Err(ConfigError::Io { .. }) if is_gguf(path) => {
            Some("it is GGUF, which our own module does not read".into())
        }
        _ => None,
    }
}

/// Whether a path is a GGUF file, or a folder that holds one and no other weights.
pub(super) fn is_gguf(path: &Path) -> bool {
    let gguf = ModelFolder::open(path).is_ok_and(|model| model.gguf().next().is_some());
    gguf && weight_files(path).is_err()
}

fn check_new_model(from: &Value, problems: &mut Vec<Problem>) {
    let tokenizer = &from["tokenizer"];
    let vocab_size = tokenizer["vocab_size"].as_u64().unwrap_or(0);
    let extra = tokenizer["special_tokens"].as_array().map_or(0, Vec::len);
    let least = 256 + SPECIAL_TOKENS.len() + extra;
    if vocab_size < least as u64 {
        let message =
            format!("{vocab_size} tokens are too few: bytes and special tokens alone are {least}");
        problems.push(Problem::at("from.tokenizer.vocab_size", message));
    }
    let Ok(shape) = serde_json::from_value::<ModelShape>(from["config"].clone()) else { return };
    if shape.sliding_window.is_some() && shape.model_type != Architecture::Mistral {
        let problem =
            Problem::at("from.config.sliding_window", "only `mistral` has a sliding window");
        problems.push(problem.hint("leave it out, or set `model_type: mistral`"));
    }
    let json = start::config_json(&shape, vocab_size.max(1) as usize);
    if let Err(error) = ModelConfig::from_json(&json) {
        problems.push(Problem::at("from.config", error.to_string()));
    }
}

fn check_method(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let params = check.params;
    let (new, full) = (params.contains_key("from"), is_true(params, "full"));
    match (params.get("lora"), full) {
        (Some(_), true) => {
            problems.push(
                Problem::at("lora", "`lora` and `full: true` exclude each other")
                    .hint("give one of the two"),
            );
        }
        (Some(_), false) if new => {
            let hint = "leave `lora` out: a new model is always trained as a whole";
            problems
                .push(Problem::at("lora", "an adapter of random weights is of no use").hint(hint));
        }
        (Some(lora), false) => check_lora(check, lora, problems),
        (None, false) if !new => {
            let hint = "give `lora: { rank: 16 }` for an adapter, or `full: true` for all weights";
            problems.push(Problem::at("", "it does not say what is trained").hint(hint));
        }
        (None, _) => {}
    }
    if is_true(params, "merge") && !params.contains_key("lora") {
        let problem = Problem::at(
            "merge",
            "`merge` does nothing without `lora`: the result is a whole model anyway",
        );
        problems.push(problem.hint("leave `merge` out"));
    }
    if params.contains_key("epochs") && params.contains_key("steps") {
        problems.push(
            Problem::at("steps", "`epochs` and `steps` exclude each other")
                .hint("give one of the two"),
        );
    }
    let betas = params.get("betas").and_then(|betas| betas.as_array()).map_or(2, Vec::len);
    if betas != 2 {
        let message = format!("`betas` are two numbers, one for each moment; there are {betas}");
        problems.push(Problem::at("betas", message).hint("for example `[0.9, 0.999]`"));
    }
}

fn check_lora(check: &Check<'_>, lora: &Value, problems: &mut Vec<Problem>) {
    if !check.inputs.iter().any(|input| input == "lora.from") {
        if lora.get("rank").is_none() {
            problems.push(Problem::at("lora", "`lora` needs `rank`").hint("8 to 64 are usual"));
        }
        return;
    }
    for name in ADAPTER_SETTINGS.iter().filter(|name| lora.get(**name).is_some()) {
        let message = format!("the adapter of `lora.from` brings its own `{name}`");
        problems
            .push(Problem::at(format!("lora.{name}"), message).hint(format!("leave `{name}` out")));
    }
}

/// `keep` needs a training whose length is known.
fn check_keep(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let params = check.params;
    let Some(keep) = Keep::of(params) else { return };
    if params.contains_key("early_stopping") {
        let message =
            "`keep` cannot stand beside `early_stopping`, which may end the training before";
        let hint = "leave one of the two out: `choose` takes the best of the models that are kept";
        problems.push(Problem::at("keep", message).hint(hint));
    }
    match (&keep, params.get("steps").and_then(Value::as_u64)) {
        (Keep::Epochs(_), Some(_)) => {
            let problem =
                Problem::at("keep", "`keep: each_epoch` needs `epochs` in place of `steps`");
            problems.push(problem.hint("give `epochs`, or name the steps: `keep: [50, 100]`"));
        }
        (Keep::Steps(steps), Some(total)) => {
            if let Some(step) = steps.iter().find(|step| **step > total) {
                let message = format!("step {step} is behind the last one, {total}");
                problems.push(Problem::at("keep", message));
            }
        }
        _ => {}
    }
    if let Keep::Steps(steps) = &keep
        && steps.is_empty()
    {
        problems.push(Problem::at("keep", "`keep` names no step").hint("leave it out"));
    }
}

/// `kl`, and what goes with `evaluate_on`.
fn check_watching(check: &Check<'_>, problems: &mut Vec<Problem>) {
    if check.params.contains_key("kl") && check.params.contains_key("from") {
        let problem =
            Problem::at("kl", "`kl` needs `model`: with `from` there is no base to stay near");
        problems.push(problem.hint("leave `kl` out"));
    }
    if !check.inputs.iter().any(|input| input == "evaluate_on") {
        for name in ["evaluate_every", "early_stopping"] {
            if check.params.contains_key(name) {
                let message = format!("`{name}` needs `evaluate_on`");
                problems
                    .push(Problem::at(name, message).hint("name a table of held-out rows there"));
            }
        }
    }
}

/// Checks the columns of a table of rows; whether it is known to bring its tokens and their mask.
fn check_table(check: &Check<'_>, input: &str, problems: &mut Vec<Problem>) -> bool {
    match check.has(input, "loss_mask") {
        Some(true) => {
            check.need(problems, input, "loss_mask", &[list_of(DataType::Boolean)]);
            check.need(problems, input, "token_ids", &[list_of(DataType::Int32)]);
            if check.params.contains_key("from") {
                let message = "the table's mask belongs to the tokens of another model; `from` makes its own tokenizer";
                problems.push(Problem::at(input, message).hint("give a table without `loss_mask`"));
            }
            true
        }
        Some(false) => {
            check.need(problems, input, "response", &[DataType::Utf8]);
            prompts::check(check, input, problems);
            false
        }
        None => false,
    }
}

/// Rejects rendering options when rows are already tokens.
fn check_rendering(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let chat = check.params.get("chat").filter(|chat| chat.is_boolean()).map(|_| "chat");
    let given = ["prompt", "system", "bos", "train_on"].into_iter();
    let given = given.filter(|name| check.params.contains_key(*name));
    for name in given.chain(chat) {
        let message =
            format!("`{name}` does nothing here: the rows of a masked table are tokens already");
        problems.push(Problem::at(name, message).hint("give it to the `score` stage above"));
    }
}
