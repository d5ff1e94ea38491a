//! Brings parameters that mean the same to one form, so that a default written out makes the key of
//! an absent one.
//!
//! Defaults that are constants are in a kind's table. Here are those that depend on other values:
//! on a second parameter, or on the files of the model. The form that stays is the one that a
//! workflow without the parameter has.

use serde_json::{Map, Value};

use refrain_engine::kind::ModelFacts;

/// Finds the facts of the source model from which the model at an input descends.
pub(crate) type FindModel<'a> = &'a dyn Fn(&str) -> Option<ModelFacts>;

/// Removes a parameter that is given as its default.
pub(crate) fn remove_default(params: &mut Map<String, Value>, name: &str, default: &Value) {
    if params.get(name).is_some_and(|given| same(given, default)) {
        params.shift_remove(name);
    }
}

/// Numbers are compared by value.
fn same(given: &Value, default: &Value) -> bool {
    match (given.as_f64(), default.as_f64()) {
        (Some(given), Some(default)) => given == default,
        _ => given == default,
    }
}

/// Writes `auto` where `chat` is given as what `auto` comes to: `has_template`, if that is known.
pub(crate) fn chat(params: &mut Map<String, Value>, has_template: Option<bool>) {
    let given = params.get("chat").and_then(Value::as_bool);
    if given.is_some() && given == has_template {
        params.insert("chat".into(), "auto".into());
    }
}

/// Removes `bos` where it is given as its default.
pub(crate) fn bos(params: &mut Map<String, Value>) {
    remove_default(params, "bos", &"auto".into());
}

/// Whether the tokenizer of the input `model` has a chat template, where its files tell.
pub(crate) fn has_template(model: FindModel<'_>) -> Option<bool> {
    model_fact(model, "chat_template")
}

/// Returns a fact of the source from which the input `model` descends; `None` where it is unknown.
pub(crate) fn model_fact(model: FindModel<'_>, name: &str) -> Option<bool> {
    model("model")?.get(name)?.as_bool()
}
