//! Checks what the types of `score`'s parameters cannot say.

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_engine::kind::{Check, Columns, Problem};

use super::columns::{Further, output_schema};
use crate::backend;
use crate::options;
use crate::prompts::{self, Template};
use crate::served::Purpose;

pub(super) fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    backend::check_served(check, Purpose::Score, problems);
    check_choices(check, problems);
    check_window(check.params, problems);
    check_continuation(check.params, problems);
    if of_text(check.params) {
        for name in ["prompt", "system", "prior"] {
            if check.params.contains_key(name) {
                let message = format!(
                    "`{name}` does nothing beside `of: text`, which scores the response alone"
                );
                problems.push(
                    Problem::at(name, message)
                        .hint(format!("leave `{name}` out, or take `of: response`")),
                );
            }
        }
        if check.params.get("chat").is_some_and(|chat| chat == &Value::Bool(true)) {
            let message =
                "`chat: true` does nothing beside `of: text`, which scores the response alone";
            problems.push(
                Problem::at("chat", message).hint("leave `chat` out, or take `of: response`"),
            );
        }
    } else {
        prompts::check(check, "data", problems);
    }
    let given = |name: &str| check.params.contains_key(name);
    let further = Further {
        choices: given("choices"),
        turns: of_turns(check.params),
        prior: given("prior"),
        greedy: of_continuation(check.params),
    };
    (check.columns)("data").map(|schema| output_schema(&schema, further))
}

/// The column of the options, and the templates that are read beside it.
fn check_choices(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let text = |name: &str| check.params.get(name).and_then(Value::as_str);
    match text("choices") {
        Some(column) => check.need(problems, "data", column, &options::types()),
        None => check.need(problems, "data", "response", &[DataType::Utf8]),
    }
    if text("continuation").is_some() && text("choices").is_none() {
        problems.push(
            Problem::at("continuation", "`continuation` needs `choices`")
                .hint("name the column of the options, for example `choices: choices`"),
        );
    }
    if of_turns(check.params) && text("choices").is_some() {
        problems.push(
            Problem::at(
                "choices",
                "`choices` beside `of: turns`: an option is the last turn alone",
            )
            .hint("take `of: response`"),
        );
    }
    for name in ["continuation", "prior"] {
        if let Some(Err(why)) = text(name).map(Template::new) {
            problems.push(Problem::at(name, format!("the template cannot be read: {why}")));
        }
    }
}

fn check_window(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let number = |name: &str| {
        params.get("window").and_then(|window| window.get(name)).and_then(Value::as_u64)
    };
    if let (Some(length), Some(stride)) = (number("length"), number("stride"))
        && stride >= length
    {
        let message = format!(
            "a stride of {stride} leaves no token before the first of a window of {length}"
        );
        problems.push(
            Problem::at("window.stride", message)
                .hint("take a smaller one, such as half the length"),
        );
    }
}

pub(super) fn of_text(params: &Map<String, Value>) -> bool {
    params.get("of").is_some_and(|of| of == "text")
}

pub(super) fn of_continuation(params: &Map<String, Value>) -> bool {
    params.get("of").is_some_and(|of| of == "continuation")
}

/// Parameters that mean nothing where prompt and response are taken as they are.
fn check_continuation(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    if !of_continuation(params) {
        return;
    }
    let names = ["system", "choices", "continuation", "prior", "window", "max_tokens"];
    let given = names.into_iter().filter(|name| params.contains_key(*name));
    let chat = params.get("chat").is_some_and(|chat| chat == &Value::Bool(true));
    for name in given.chain(chat.then_some("chat")) {
        let message = format!("`{name}` does nothing beside `of: continuation`");
        let hint = format!("leave `{name}` out, or take `of: response`");
        problems.push(Problem::at(name, message).hint(hint));
    }
}

fn of_turns(params: &Map<String, Value>) -> bool {
    params.get("of").is_some_and(|of| of == "turns")
}
