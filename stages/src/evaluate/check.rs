//! Checks what the types of `evaluate`'s parameters cannot say.

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_engine::kind::{Check, Columns, Problem};

use super::code;
use super::judge;
use super::lm_eval;
use super::logprob::{self, By};
use super::task::{self, Task, compile};
use super::verdict;
use crate::options;
use crate::tables::{self, list_of};

/// Parameters that say how answers are found and compared.
const OF_ANSWERS: [&str; 3] = ["extract", "compare", "choices"];

pub(super) fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    check_pattern(check.params, problems);
    check_extract(check.params, problems);
    check_pass_at(check.params, problems);
    of_one_task(check, problems);
    if crate::lm_eval::content(check.params).is_some() {
        return lm_eval::check(check, problems);
    }
    let task = Task::of(check.params);
    let schema = (check.columns)("data");
    match task {
        Some(Task::Perplexity) => {
            refuse(check.params, &OF_ANSWERS, "it judges no answers", problems);
            refuse(check.params, &["pass_at"], "it judges no answers", problems);
            check.need(problems, "data", "perplexity", &[DataType::Float64]);
            check.need(problems, "data", "logprobs", &[list_of(DataType::Float32)]);
            check.need(problems, "data", "prompt_tokens", &[DataType::Int32]);
            return schema;
        }
        Some(Task::Given) => {
            refuse(check.params, &OF_ANSWERS, "it takes the verdicts of `correct`", problems);
            check.need(problems, "data", "correct", &[DataType::Boolean]);
            return schema;
        }
        Some(Task::Code) => {
            refuse(check.params, &["compare", "choices"], "it runs tests", problems);
            check.need(problems, "data", "response", &[DataType::Utf8]);
            let named = |name: &str| check.params.get(name).and_then(Value::as_str);
            check.need(problems, "data", named("tests").unwrap_or(code::TESTS), &code::types());
            for column in ["entry_point", "prefix"].into_iter().filter_map(named) {
                check.need(problems, "data", column, &[DataType::Utf8]);
            }
            return schema.map(|schema| tables::with_fields(&schema, &verdict::columns(true)));
        }
        Some(Task::ChoiceLogprob) => return check_scored_options(check, problems),
        Some(Task::Judge) => {
            check_judge(check, problems);
            return schema.map(|schema| tables::with_fields(&schema, &verdict::columns(true)));
        }
        _ => {}
    }

    let compares = task::compares(check.params);
    check.need(problems, "data", "response", &[DataType::Utf8]);
    if compares {
        let before = problems.len();
        check.need(problems, "data", "reference", &[DataType::Utf8]);
        if let Some(problem) = problems.get_mut(before).filter(|problem| !problem.lacks.is_empty())
        {
            let others = problem.hint.take().unwrap_or_default();
            problem.hint = Some(format!("`compare: none` finds answers alone; {others}"));
        }
    } else {
        let message = "without verdicts there is no pass@k";
        problems.extend(gives(check.params, "pass_at").then(|| Problem::at("pass_at", message)));
    }
    check_options(check, problems);
    schema.map(|schema| tables::with_fields(&schema, &verdict::columns(compares)))
}

/// Parameters that one task alone reads.
const OF_TASKS: [(Task, &[&str], &str); 4] = [
    (Task::ChoiceLogprob, &["by"], "it scores no options"),
    (Task::Code, &["tests", "entry_point", "prefix", "time_limit"], "it runs no programs"),
    (Task::Sql, &["database", "databases", "as", "limits"], "it runs no queries"),
    (Task::Judge, &["judge", "pairs", "judgements", "swapped", "human"], "no model judges"),
];

/// Parameters of one task beside another, and the databases.
fn of_one_task(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let is_input = |name: &str| check.inputs.iter().any(|input| input == name);
    for (task, names, why) in OF_TASKS {
        if Task::of(check.params) == Some(task) {
            continue;
        }
        let given = names.iter().filter(|name| gives(check.params, name) || is_input(name));
        problems.extend(given.map(|name| takes_no(check.params, name, why)));
    }
    if Task::of(check.params) != Some(Task::Sql) {
        return;
    }

    refuse(check.params, &["compare", "choices"], "it compares results of queries", problems);
    let has_files = check.inputs.iter().any(|input| input.starts_with("databases.files."));
    let given = [is_input("database"), has_files, is_input("databases.folder")];
    if given.into_iter().filter(|given| *given).count() != 1 {
        let message =
            "`task: sql` needs one of `database`, `databases.files` and `databases.folder`";
        problems.push(Problem::at("", message).hint(
            "declare the file as a source, `data: { shop: { path: shop.sqlite, type: file } }`, and \
             name it: `database: shop`",
        ));
    }
    let databases = check.params.get("databases");
    if let Some(column) = databases.and_then(|named| named.get("column")?.as_str()) {
        check.need(problems, "data", column, &[DataType::Utf8]);
    }
}

/// The answers of a judge.
fn check_judge(check: &Check<'_>, problems: &mut Vec<Problem>) {
    refuse(check.params, &OF_ANSWERS, "it takes the verdicts of a model", problems);
    if !check.inputs.iter().any(|input| input == "judgements") {
        problems.push(
            Problem::at("", "`task: judge` needs `judge`")
                .hint("name the model that judges: `judge: { model: MODEL }`"),
        );
        return;
    }
    check.need(problems, "judgements", "response", &[DataType::Utf8]);
    if let Some(column) = check.params.get("human").and_then(Value::as_str) {
        check.need(problems, "data", column, &[DataType::Boolean, DataType::Utf8]);
    }
    if judge::of_pairs(check.params) {
        check.need(problems, "swapped", "response", &[DataType::Utf8]);
        if !check.inputs.iter().any(|input| input == "swapped") {
            problems.push(Problem::at("pairs", "`pairs` needs `swapped` beside `judgements`"));
        }
    }
}

/// The columns of scored options.
fn check_scored_options(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    refuse(check.params, &["extract", "choices"], "it takes the likeliest option", problems);
    let compares = task::compares(check.params);
    let types = |name: &str| match name {
        "option" | "prompt_tokens" => DataType::Int32,
        "offsets" => list_of(DataType::Int32),
        "logprobs" => list_of(DataType::Float32),
        _ => DataType::Utf8,
    };
    for name in logprob::READ {
        check.need(problems, "data", name, &[types(name)]);
    }
    if compares {
        check.need(problems, "data", "reference", &[DataType::Utf8]);
        refuse(check.params, &["compare"], "it takes the likeliest option", problems);
    } else {
        refuse(check.params, &["pass_at"], "without verdicts there is no pass@k", problems);
    }
    if check.params.get("by").is_some_and(|by| by == By::Prior.word())
        && check.has("data", "prior_logprob") == Some(false)
    {
        problems.push(
            Problem::at("by", "`by: prior` needs the column `prior_logprob`").hint(
                "give `prior`, the prompt without the question, for example `prior: 'Answer:'`",
            ),
        );
    }
    let schema = (check.columns)("data");
    schema.map(|schema| tables::with_fields(&schema, &verdict::columns(compares)))
}

/// Whether a parameter is given, and not as an empty list.
fn gives(params: &Map<String, Value>, name: &str) -> bool {
    params.get(name).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty()))
}

fn refuse(params: &Map<String, Value>, names: &[&str], why: &str, problems: &mut Vec<Problem>) {
    let given = names.iter().filter(|name| gives(params, name));
    problems.extend(given.map(|name| takes_no(params, name, why)));
}

fn takes_no(params: &Map<String, Value>, name: &str, why: &str) -> Problem {
    let task = params.get("task").and_then(Value::as_str);
    let owner = task.map_or("a task file".to_owned(), |task| format!("`task: {task}`"));
    Problem::at(name, format!("{owner} takes no `{name}`: {why}"))
}

fn check_pattern(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let Some(task) = params.get("task").and_then(Value::as_str) else { return };
    let given = |name: &str| params.contains_key(name);
    if task == "judge" {
        check_regex("pattern", params.get("pattern"), problems);
        return;
    }
    match (task == "regex", given("pattern"), given("extract")) {
        (true, false, false) => problems.push(
            Problem::at("", "`task: regex` needs `pattern`")
                .hint("for example `pattern: 'answer is (\\S+)'`"),
        ),
        (true, true, true) => {
            problems.push(Problem::at("extract", "`extract` cannot stand beside `pattern`"))
        }
        (false, true, _) => problems.push(
            Problem::at("pattern", format!("`task: {task}` takes no `pattern`"))
                .hint("use `task: regex`, or `extract: { regex: … }`"),
        ),
        _ => {}
    }
    check_regex("pattern", params.get("pattern"), problems);
}

fn check_extract(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    match params.get("extract") {
        Some(Value::Object(place)) => check_place("extract", place, problems),
        Some(Value::Array(ways)) if ways.is_empty() => problems
            .push(Problem::at("extract", "it names no way").hint("for example `extract: [boxed]`")),
        Some(Value::Array(ways)) => {
            for (number, way) in ways.iter().enumerate() {
                if let Value::Object(place) = way {
                    check_place(&format!("extract[{number}]"), place, problems);
                }
            }
        }
        _ => {}
    }
}

/// Exactly one way to extract, and a pattern that is one.
fn check_place(at: &str, place: &Map<String, Value>, problems: &mut Vec<Problem>) {
    if place.contains_key("after") == place.contains_key("regex") {
        let problem = Problem::at(at, "it needs one of `after` and `regex`");
        problems.push(problem.hint("for example `extract: { after: 'Answer: ' }`"));
    } else if place.contains_key("after") && place.contains_key("trim") {
        let message = "`after` takes no `trim`: white space around its answer is removed";
        problems.push(Problem::at(format!("{at}.trim"), message));
    }
    if place.get("after").and_then(Value::as_str) == Some("") {
        problems.push(
            Problem::at(format!("{at}.after"), "`after` is empty").hint("use `extract: whole`"),
        );
    }
    check_regex(&format!("{at}.regex"), place.get("regex"), problems);
}

fn check_regex(at: &str, pattern: Option<&Value>, problems: &mut Vec<Problem>) {
    if let Some(Err(reason)) = pattern.and_then(Value::as_str).map(compile) {
        problems.push(Problem::at(at, format!("it is not a regular expression: {reason}")));
    }
}

/// Each k once, because a metric's name is its k.
fn check_pass_at(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let ks = params.get("pass_at").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some((_, k)) = ks.iter().enumerate().find(|(i, k)| ks[..*i].contains(k)) {
        problems.push(Problem::at("pass_at", format!("`pass_at` names {k} twice")));
    }
}

/// The column of the options: the named one, or `choices` where the table has it.
fn check_options(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let named = check.params.get("choices").and_then(Value::as_str);
    match (task::chooses(check.params), named) {
        (false, Some(_)) => problems.push(
            Problem::at("choices", "nothing here looks for the label of an option")
                .hint("use `task: choice`, or `extract: choice`"),
        ),
        (true, Some(name)) => check.need(problems, "data", name, &options::types()),
        (true, None) if check.has("data", options::COLUMN) == Some(true) => {
            check.need(problems, "data", options::COLUMN, &options::types());
        }
        _ => {}
    }
}
