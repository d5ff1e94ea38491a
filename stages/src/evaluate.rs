//! The kind `evaluate`: judges responses against references, or sums up their perplexities.
//!
//! With a model the stage is planned as two: `NAME/answers` generates (or scores), and this one
//! judges what it made, so that another rule of judging generates nothing again. A task is a preset
//! of how the answer is found in the response ([`extract`]) and how it is compared with the
//! reference ([`compare`]).

use arrow::datatypes::DataType;
use regex::Regex;
use serde_json::{Map, Value};

use refrain_engine::kind::{
    Check, Columns, Context, Expansion, Kind, MetricContext, MetricDecl, Model, NodeResult,
    Parameters, Problem, StageError, Table, choices, one_of, parameters,
};

use crate::canonical::{self, FindModel};
use crate::components;
use crate::tables::{self, list_of};

pub mod bootstrap;
pub mod compare;
pub mod extract;
mod judge;
pub mod number;
mod perplexity;
mod prompts;

use compare::{Compare, Normalization};
use extract::Extract;

/// The metrics of `evaluate`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::given("accuracy", "Share of responses that are correct", |context| {
        judged(context, "accuracy")
    }),
    MetricDecl::given("correct", "Responses that are correct", |context| {
        judged(context, "correct")
    }),
    MetricDecl::given("no_answer", "Share of responses in which no answer was found", |context| {
        judged(context, "no_answer")
    }),
    MetricDecl::given(
        "pass_at_K",
        "Probability that one of K samples of a prompt is correct",
        |context| {
            let ks = context.params.get("pass_at").and_then(Value::as_array).into_iter().flatten();
            ks.map(|k| format!("pass_at_{k}")).collect()
        },
    ),
    MetricDecl::given("perplexity", "Perplexity over all response tokens", |context| {
        scored(context, "perplexity")
    }),
    MetricDecl::given("mean_perplexity", "Mean of the rows' perplexities", |context| {
        scored(context, "mean_perplexity")
    }),
];

fn judged(context: MetricContext<'_>, name: &str) -> Vec<String> {
    if judges_perplexity(context) { Vec::new() } else { vec![name.to_owned()] }
}

fn scored(context: MetricContext<'_>, name: &str) -> Vec<String> {
    if judges_perplexity(context) { vec![name.to_owned()] } else { Vec::new() }
}

fn judges_perplexity(context: MetricContext<'_>) -> bool {
    context.params.get("task").is_some_and(|task| task == "perplexity")
}

/// The kind `evaluate`.
pub const EVALUATE: Kind = Kind {
    name: "evaluate",
    about: "Judges responses against references, or sums up their perplexities",
    components: &[components::EVALUATE, components::TABLE],
    params: EvaluateParams::PARAMS,
    adds: &["prediction", "correct", "reason"],
    outputs: tables::table_and_metrics,
    metrics: METRICS,
    check,
    expand: Some(expand),
    canonicalize: Some(canonicalize),
    close_elsewhere: true,
    retryable: false,
    tokens: None,
    run,
};

parameters! {
    /// The parameters of `evaluate`.
    struct EvaluateParams {
        /// Generates (or scores) the responses first, with the parameters of `generate` (or
        /// `score`)
        model: Option<&Model>,
        /// The table; without `model` with responses
        #[alias("dataset")]
        data: &Table,
        /// The preset: whole texts, the final number, a pattern, or the perplexity
        #[alias("metric")]
        task: Task,
        /// The pattern of `task: regex`; its first group is the answer
        pattern: Option<String>,
        /// Finds the answer in another way than the task does
        extract: Option<ExtractParam>,
        /// Compares the answer in another way than the task does
        compare: Option<CompareParam>,
        /// White space around texts does not count
        trim: bool = true,
        /// Upper and lower case do not count
        ignore_case: bool = false,
        /// The k of each wanted pass@k
        #[each(1..)]
        #[alias("k")]
        pass_at: Vec<u64> = [],
        /// Bootstrap resamples for the 95 % intervals; 0 turns them off
        #[range(0..=1_000_000)]
        #[alias("bootstrap_iters")]
        bootstrap: u64 = 1000,
    }
}

choices! {
    /// A preset of how responses are judged.
    enum Task {
        ExactMatch = "exact_match",
        Number = "number",
        Regex = "regex",
        Perplexity = "perplexity",
    }
}

one_of! {
    /// A way to find the answer.
    enum ExtractParam {
        Way(ExtractWay),
        Place(ExtractPlace),
    }
}

choices! {
    /// A way to find the answer that needs no more words.
    enum ExtractWay {
        Whole = "whole",
        LastNumber = "last_number",
        Gsm8k = "gsm8k",
    }
}

parameters! {
    /// Where the answer is; exactly one of the two.
    struct ExtractPlace {
        /// Takes the rest of the line behind the last occurrence of this text
        after: Option<String>,
        /// Takes the first group of the first match of this pattern
        regex: Option<String>,
    }
}

choices! {
    /// A way to compare an answer.
    enum CompareParam {
        Text = "text",
        Number = "number",
    }
}

fn expand(params: &Map<String, Value>) -> Option<Expansion> {
    /// Parameters of the other kind go to the first stage, and so do the inputs.
    fn moved(name: &str) -> bool {
        matches!(name, "model" | "data")
            || !EvaluateParams::PARAMS.iter().any(|param| param.name == name)
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

/// Removes the parts of a preset that are written out.
fn canonicalize(params: &mut Map<String, Value>, _: FindModel<'_>) {
    let (extract, compare) = match params.get("task").and_then(Value::as_str) {
        Some("number") => (Some("gsm8k"), Some("number")),
        Some("exact_match") => (Some("whole"), Some("text")),
        Some("regex") => (None, Some("text")),
        _ => (None, None),
    };
    for (name, default) in [("extract", extract), ("compare", compare)] {
        default
            .into_iter()
            .for_each(|default| canonical::remove_default(params, name, &default.into()));
    }
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
            problems.push(Problem::at(path, format!("it is not a regular expression: {reason}")));
        }
    }
}

/// Each k once, because a metric's name is its k.
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

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: EvaluateParams = ctx.parameters()?;
    if params.task == Task::Perplexity {
        return perplexity::run(ctx, params.bootstrap);
    }
    let rule = judge::JudgeRule {
        extract: extract_of(&params)?,
        compare: match (params.compare, params.task) {
            (Some(CompareParam::Number), _) | (None, Task::Number) => Compare::Number,
            _ => Compare::Text,
        },
        normal: Normalization { trim: params.trim, ignore_case: params.ignore_case },
    };
    judge::run(ctx, &rule, &params.pass_at, params.bootstrap)
}

fn extract_of(params: &EvaluateParams) -> Result<Extract, StageError> {
    let regex = |pattern: &str| compile(pattern).map(Extract::Regex).map_err(StageError::bug);
    match (&params.extract, params.task, &params.pattern) {
        (Some(ExtractParam::Way(ExtractWay::Whole)), ..) => Ok(Extract::Whole),
        (Some(ExtractParam::Way(ExtractWay::LastNumber)), ..) => Ok(Extract::LastNumber),
        (Some(ExtractParam::Way(ExtractWay::Gsm8k)), ..) => Ok(Extract::Marked),
        (Some(ExtractParam::Place(place)), ..) => match place {
            ExtractPlace { after: Some(mark), .. } => Ok(Extract::After(mark.clone())),
            ExtractPlace { regex: Some(pattern), .. } => regex(pattern),
            _ => Err(StageError::bug("`extract` was run without a place")),
        },
        (None, Task::Number, _) => Ok(Extract::Marked),
        (None, Task::Regex, Some(pattern)) => regex(pattern),
        (None, ..) => Ok(Extract::Whole),
    }
}
