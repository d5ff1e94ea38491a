//! The kind `evaluate`: judges responses against references, or sums up their perplexities.
//!
//! With a model the stage is planned as two: `NAME/answers` generates (or scores), and this one judges what it made, so
//! that another rule of judging generates nothing again. A task is a preset of how the answer is found in the response
//! ([`extract`]) and how it is compared with the reference ([`compare`]).

use arrow::datatypes::DataType;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

use refrain_cache::ArtifactKind;
use refrain_engine::kind::{
    Check, Columns, Component, Context, Expansion, Kind, Outputs, Param, Problem, StageError, Type,
};

use crate::tables::{self, TABLE, list_of};

pub mod bootstrap;
pub mod compare;
pub mod extract;
mod judge;
mod perplexity;
mod prompts;

use compare::{Compare, Normal};
use extract::Extract;

const EXTRACT: Type = Type::OneOf(&[
    Type::Choice(&["whole", "last_number", "gsm8k"]),
    Type::Record(&[
        Param::optional(
            "after",
            Type::Text,
            "What follows the last occurrence of this text on its line",
        ),
        Param::optional("regex", Type::Text, "The first group of the first match of this pattern"),
    ]),
]);

const PARAMS: &[Param] = &[
    Param::optional(
        "model",
        Type::Reference(Some(ArtifactKind::Model)),
        "Generates (or scores) the responses first, with the parameters of `generate` (or `score`)",
    ),
    Param::required(
        "data",
        Type::Reference(Some(ArtifactKind::Table)),
        "The table; without `model` with responses",
    ),
    Param::required(
        "task",
        Type::Choice(&["exact_match", "number", "regex", "perplexity"]),
        "How responses are judged: as whole texts, by their final number, by a pattern, or by their perplexity",
    ),
    Param::optional(
        "pattern",
        Type::Text,
        "The pattern of `task: regex`; its first group is the answer",
    ),
    Param::optional("extract", EXTRACT, "How the answer is found, in place of the task's own way"),
    Param::optional(
        "compare",
        Type::Choice(&["text", "number"]),
        "How it is compared, in place of the task's own way",
    ),
    Param::default("trim", Type::Bool, "true", "White space around texts does not count"),
    Param::default("ignore_case", Type::Bool, "false", "Upper and lower case do not count"),
    Param::default(
        "pass_at",
        Type::List(&Type::Int { min: 1, max: i64::MAX }),
        "[]",
        "The k of each wanted pass@k",
    ),
    Param::default(
        "bootstrap",
        Type::Int { min: 0, max: 1_000_000 },
        "1000",
        "How often prompts are drawn anew for the 95 % intervals; 0 gives none",
    ),
];

/// The kind `evaluate`.
pub const EVALUATE: Kind = Kind {
    name: "evaluate",
    about: "Judges responses against references, or sums up their perplexities",
    components: &[Component { name: "evaluate", version: 1 }, TABLE],
    params: PARAMS,
    adds: &["prediction", "correct", "reason"],
    outputs: tables::table_and_metrics,
    check,
    expand: Some(expand),
    settle: None,
    close_elsewhere: true,
    retryable: false,
    tokens: None,
    run,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    task: Task,
    pattern: Option<String>,
    extract: Option<ExtractParam>,
    compare: Option<CompareParam>,
    trim: bool,
    ignore_case: bool,
    pass_at: Vec<u64>,
    bootstrap: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Task {
    ExactMatch,
    Number,
    Regex,
    Perplexity,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExtractParam {
    Whole,
    LastNumber,
    Gsm8k,
    After(String),
    Regex(String),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum CompareParam {
    Text,
    Number,
}

fn expand(params: &Map<String, Value>) -> Option<Expansion> {
    /// What is not this kind's own goes to the first stage, and so does what both would read.
    fn moved(name: &str) -> bool {
        matches!(name, "model" | "data") || !PARAMS.iter().any(|param| param.name == name)
    }
    params.get("model")?;
    let scores = params.get("task").and_then(Value::as_str) == Some("perplexity");
    let kind = if scores { "score" } else { "generate" };
    Some(Expansion { suffix: "answers", kind, link: "data", moved })
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let schema = (check.columns)("data");
    let given = |name: &str| check.params.contains_key(name);
    let task = check.params.get("task").and_then(Value::as_str).unwrap_or_default();
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
    check_extract(check.params, problems);
    check_pass_at(check.params, problems);
    if task == "perplexity" {
        for name in ["extract", "compare"].into_iter().filter(|name| given(name)) {
            problems.push(Problem::at(
                name,
                format!("`task: perplexity` takes no `{name}`: it judges no answers"),
            ));
        }
        if check
            .params
            .get("pass_at")
            .and_then(Value::as_array)
            .is_some_and(|list| !list.is_empty())
        {
            problems.push(Problem::at(
                "pass_at",
                "`task: perplexity` takes no `pass_at`: it judges no answers",
            ));
        }
        check.need(problems, "data", "perplexity", &[DataType::Float64]);
        check.need(problems, "data", "logprobs", &[list_of(DataType::Float32)]);
        check.need(problems, "data", "prompt_tokens", &[DataType::Int32]);
        return schema;
    }
    check.need(problems, "data", "response", &[DataType::Utf8]);
    check.need(problems, "data", "reference", &[DataType::Utf8]);
    schema.map(|schema| tables::with_fields(&schema, &judge::ADDED))
}

/// Exactly one way to extract, and patterns that are patterns.
fn check_extract(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let mut patterns = vec![("pattern", params.get("pattern"))];
    if let Some(Value::Object(ways)) = params.get("extract") {
        if ways.len() != 1 {
            let problem = Problem::at("extract", "it needs one of `after` and `regex`");
            problems.push(problem.hint("for example `extract: { after: 'Answer: ' }`"));
        }
        if ways.get("after").and_then(Value::as_str) == Some("") {
            problems.push(
                Problem::at("extract.after", "`after` is empty").hint("use `extract: whole`"),
            );
        }
        patterns.push(("extract.regex", ways.get("regex")));
    }
    for (path, pattern) in patterns {
        if let Some(Err(reason)) = pattern.and_then(Value::as_str).map(compile) {
            problems.push(Problem::at(path, format!("it is no regular expression: {reason}")));
        }
    }
}

/// Each k once, because a figure's name is its k.
fn check_pass_at(params: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let ks = params.get("pass_at").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if let Some((_, k)) = ks.iter().enumerate().find(|(i, k)| ks[..*i].contains(k)) {
        problems.push(Problem::at("pass_at", format!("`pass_at` names {k} twice")));
    }
}

/// The pattern, or why it is none, in one line.
fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
        // The last line of a syntax error is what is wrong; those before it draw the place.
        other => other
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    })
}

fn run(ctx: &Context<'_>) -> Result<Outputs, StageError> {
    let params: Params = ctx.parameters()?;
    if params.task == Task::Perplexity {
        return perplexity::run(ctx, params.bootstrap);
    }
    let rule = judge::Rule {
        extract: extract_of(&params)?,
        compare: match (params.compare, params.task) {
            (Some(CompareParam::Number), _) | (None, Task::Number) => Compare::Number,
            _ => Compare::Text,
        },
        normal: Normal { trim: params.trim, ignore_case: params.ignore_case },
    };
    judge::run(ctx, &rule, &params.pass_at, params.bootstrap)
}

fn extract_of(params: &Params) -> Result<Extract, StageError> {
    let regex = |pattern: &str| compile(pattern).map(Extract::Regex).map_err(StageError::bug);
    match (&params.extract, params.task, &params.pattern) {
        (Some(ExtractParam::Whole), ..) => Ok(Extract::Whole),
        (Some(ExtractParam::LastNumber), ..) => Ok(Extract::LastNumber),
        (Some(ExtractParam::Gsm8k), ..) => Ok(Extract::Marked),
        (Some(ExtractParam::After(mark)), ..) => Ok(Extract::After(mark.clone())),
        (Some(ExtractParam::Regex(pattern)), ..) => regex(pattern),
        (None, Task::Number, _) => Ok(Extract::Marked),
        (None, Task::Regex, Some(pattern)) => regex(pattern),
        (None, ..) => Ok(Extract::Whole),
    }
}
