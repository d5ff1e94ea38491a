//! The kind `evaluate`: judges responses against references, or sums up their perplexities.
//!
//! With a model the stage is planned as two: `NAME/answers` generates (or scores), and this one
//! judges what it made, so that another rule of judging generates nothing again. A task is a preset
//! of how the answer is found in the response ([`extract`]) and how it is compared with the
//! reference ([`compare`]).

use serde_json::{Map, Value};

use refrain_engine::kind::{
    Context, Expansion, File, Kind, MetricContext, MetricDecl, Model, NodeResult, Parameters,
    StageError, Table, Taker, Write, parameters,
};

use crate::canonical::FindModel;
use crate::components;
use crate::lm_eval::OutputType;
use crate::options;
use crate::tables;

mod answer;
pub mod bootstrap;
mod boxed;
mod check;
mod choice;
mod code;
pub mod compare;
pub mod extract;
mod judge;
mod lm_eval;
mod logprob;
mod math;
pub mod number;
mod perplexity;
mod prompts;
mod sql;
mod task;
mod verdict;

use logprob::By;
use sql::{Databases, SqlLimits};
use task::{As, CompareParam, ExtractParam, Task, TaskParam};

/// The metrics of `evaluate`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::given("accuracy", "Share of responses that are correct", |context| {
        given("accuracy", is_judged(context))
    })
    .mean_of("correct"),
    MetricDecl::given("correct", "Responses that are correct", |context| {
        given("correct", is_judged(context))
    }),
    MetricDecl::given("no_answer", "Share of responses in which no answer was found", |context| {
        let no_answers = [Task::ChoiceLogprob, Task::Given, Task::Perplexity];
        let finds = match Task::of(context.params) {
            Some(task) => !no_answers.contains(&task),
            None => lm_eval::finds(context.params),
        };
        given("no_answer", finds)
    }),
    MetricDecl::given(
        "pass_at_K",
        "Probability that one of K samples of a prompt is correct",
        |context| {
            let ks = context.params.get("pass_at").and_then(Value::as_array).into_iter().flatten();
            ks.map(|k| format!("pass_at_{k}")).collect()
        },
    ),
    MetricDecl::given("agreement", "Share of pairs of which both orders say the same", |context| {
        given("agreement", judge::of_pairs(context.params))
    }),
    MetricDecl::given(
        "position_bias",
        "Judgements for the text that comes first minus those for the second, by their sum",
        |context| given("position_bias", judge::of_pairs(context.params)),
    ),
    MetricDecl::given(
        "human_agreement",
        "Share of the rows with a verdict of `human` on which the judge says the same",
        |context| given("human_agreement", context.params.contains_key("human")),
    ),
    MetricDecl::given(
        "human_kappa",
        "Cohen's kappa of the verdicts of the judge and of `human`",
        |context| given("human_kappa", context.params.contains_key("human")),
    ),
    MetricDecl::given("perplexity", "Perplexity over all response tokens", |context| {
        given("perplexity", is(context, Task::Perplexity))
    }),
    MetricDecl::given("mean_perplexity", "Mean of the rows' perplexities", |context| {
        given("mean_perplexity", is(context, Task::Perplexity))
    })
    .mean_of("perplexity"),
    MetricDecl::given(
        "METRIC_FILTER",
        "Of a task file: one of its metrics, under one of its filters where it has any",
        |context| lm_eval::metric_names(context.params),
    ),
];

/// Whether the rows of a stage are right or wrong.
fn is_judged(context: MetricContext<'_>) -> bool {
    task::compares(context.params) || is(context, Task::Given) || lm_eval::judges(context.params)
}

fn given(name: &str, is_given: bool) -> Vec<String> {
    if is_given { vec![name.to_owned()] } else { Vec::new() }
}

fn is(context: MetricContext<'_>, task: Task) -> bool {
    Task::of(context.params) == Some(task)
}

/// The kind `evaluate`.
pub const EVALUATE: Kind = Kind {
    name: "evaluate",
    about: "Judges responses against references, or sums up their perplexities",
    components: &[components::EVALUATE, components::TABLE],
    versions: None,
    params: EvaluateParams::PARAMS,
    adds: &["prediction", "correct", "reason"],
    outputs: tables::table_and_metrics,
    metrics: METRICS,
    check: check::check,
    expand: Some(expand),
    canonicalize: Some(canonicalize),
    close_elsewhere: true,
    retryable: false,
    tokens: None,
    over: None,
    served: &["model"],
    requests: None,
    memory: None,
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
        /// The preset: whole texts; the final number; the last line behind `####`; the last
        /// `\boxed` of MATH; the label of an option, or the first word behind `Answer:`, or the
        /// option that a model finds likeliest; a program that is run with tests; the result of a
        /// query; a model's judgement; a pattern; the verdicts that the column `correct` brings; the
        /// perplexity; or a task file, whose documents are the rows of `data`
        #[alias("metric")]
        task: TaskParam,
        /// The pattern of `task: regex`, whose first group is the answer, or of the verdict in the
        /// answers of `task: judge`
        pattern: Option<String>,
        /// Finds the answer in another way than the task does
        extract: Option<ExtractParam>,
        /// Compares the answer in another way than the task does; `none` finds answers alone, for
        /// which no reference is needed
        compare: Option<CompareParam>,
        /// The column with the options of `task: choice`: a list of texts, or texts with a `text`
        /// and a `label`; `choices` where the table has it
        choices: Option<String>,
        /// The column with the tests of `task: code`: Python, or a list of Python texts; `tests`
        /// without it
        tests: Option<String>,
        /// The column with the name of the function that `task: code` gives to the `check` of the
        /// tests, as HumanEval has it
        entry_point: Option<String>,
        /// The column with the text that each program of `task: code` begins with, such as
        /// HumanEval's `prompt`
        prefix: Option<String>,
        /// Seconds that each program of `task: code` may run; 10 without it
        #[range(1..=3600)]
        time_limit: Option<u64>,
        /// Takes as the likeliest option of `task: choice_logprob` the one with the highest
        /// log-probability (`sum`), per `token` or `byte` of it, or minus that behind `prior`
        by: Option<By>,
        /// The SQLite database of `task: sql`
        database: Option<&File>,
        /// The databases of `task: sql`, where a column names each row's
        databases: Option<Databases>,
        /// Compares the rows of two results as a `multiset`, or as a `set`, as BIRD does
        r#as: Option<As>,
        /// Where a query of `task: sql` is stopped
        limits: Option<SqlLimits>,
        /// The judge of `task: judge`: its `model`, and further parameters of `generate`; its `prompt`
        /// is a template over the row's columns, and over `a` and `b` where `pairs` is set
        judge: Option<Map<String, Value>>,
        /// Whether a judge compares the response with the reference, once in each order
        pairs: Option<bool>,
        /// The answers of a judge, one for each row, where they exist already
        judgements: Option<&Table>,
        /// The same with the reference first
        swapped: Option<&Table>,
        /// The column with the verdicts of people, with which those of `task: judge` are compared:
        /// `true` and `false`, or their words, or of pairs `response`, `reference` and `tie`
        human: Option<String>,
        /// White space around texts does not count when they are compared
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

/// Parameters of the other kind go to the first stage, and so do the inputs.
fn takes(name: &str) -> Taker {
    let is_own = EvaluateParams::PARAMS.iter().any(|param| param.name == name);
    if matches!(name, "model" | "data") || !is_own { Taker::First } else { Taker::Second }
}

fn expand(params: &Map<String, Value>) -> Option<Expansion> {
    fn takes_options(name: &str) -> Taker {
        if name == "choices" { Taker::First } else { takes(name) }
    }
    fn last_judge(name: &str) -> Taker {
        match name {
            "judge" => Taker::FirstEntries,
            "data" => Taker::Both,
            _ => Taker::Second,
        }
    }
    fn first_judge(name: &str) -> Taker {
        if name == "judge" { Taker::BothEntries } else { last_judge(name) }
    }

    if crate::lm_eval::content(params).is_some() {
        return expand_task_file(params);
    }
    let task = Task::of(params);
    if params.contains_key("model") {
        let (kind, takes): (_, fn(&str) -> Taker) = match task {
            Some(Task::Perplexity) => ("score", takes),
            Some(Task::ChoiceLogprob) => ("score", takes_options),
            _ => ("generate", takes),
        };
        return Some(Expansion { suffix: "answers", kind, link: "data", takes, written: None });
    }
    if task != Some(Task::Judge) || !params.get("judge").is_some_and(Value::is_object) {
        return None;
    }
    let pairs = judge::of_pairs(params);
    let (link, takes, write): (_, fn(&str) -> Taker, Write) =
        match (pairs, params.contains_key("judgements")) {
            (false, false) => ("judgements", last_judge, judge::prompt),
            (true, false) => ("judgements", first_judge, judge::prompt_of_pairs),
            (true, true) => ("swapped", last_judge, judge::prompt_swapped),
            (false, true) => return None,
        };
    Some(Expansion { suffix: link, kind: "generate", link, takes, written: Some(write) })
}

/// A task file is planned as three stages: what is asked, the answers, and the verdicts.
fn expand_task_file(params: &Map<String, Value>) -> Option<Expansion> {
    fn asks(name: &str) -> Taker {
        match name {
            "data" | "fewshot" | "num_fewshot" | "fewshot_seed" => Taker::First,
            "task" => Taker::Both,
            _ => Taker::Second,
        }
    }
    fn answers(name: &str) -> Taker {
        if name == "prompts" { Taker::FirstAs("data") } else { takes(name) }
    }

    if !params.contains_key("model") {
        return None;
    }
    if !params.contains_key("prompts") {
        let (suffix, kind, link) = ("prompts", "prepare", "prompts");
        return Some(Expansion { suffix, kind, link, takes: asks, written: None });
    }
    let kind = match crate::lm_eval::output_type(params) {
        Some(OutputType::GenerateUntil) => "generate",
        _ => "score",
    };
    let written = Some(crate::lm_eval::answering as Write);
    Some(Expansion { suffix: "answers", kind, link: "data", takes: answers, written })
}

fn canonicalize(params: &mut Map<String, Value>, _: FindModel<'_>) {
    task::canonicalize(params);
    crate::lm_eval::keep_verdicts(params);
}

/// As [`EVALUATE`] where the command line tolerates a sandbox that lacks layers.
///
/// It is a parameter that no workflow can give: what was computed so has keys of its own, under
/// which nothing is found without the tolerance.
pub const EVALUATE_WEAKER: Kind = Kind { canonicalize: Some(canonicalize_weaker), ..EVALUATE };

fn canonicalize_weaker(params: &mut Map<String, Value>, _: FindModel<'_>) {
    canonicalize(params, &|_| None);
    if Task::of(params) == Some(Task::Code) {
        params.insert(code::SANDBOX.into(), code::WEAKER.into());
    }
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: EvaluateParams = ctx.parameters()?;
    let Some(word) = params.word() else {
        return lm_eval::run(ctx, &params.pass_at, params.bootstrap);
    };
    match word {
        Task::Perplexity => perplexity::run(ctx, params.bootstrap),
        Task::ChoiceLogprob => {
            let compares = task::compares(ctx.params);
            let by = params.by.unwrap_or(By::Sum);
            verdict::choose(ctx, by, compares, &params.pass_at, params.bootstrap)
        }
        Task::Given => verdict::sum_up(ctx, &params.pass_at, params.bootstrap),
        _ => {
            let chooses = task::chooses(ctx.params);
            let has_options =
                chooses && !tables::present(ctx, "data", &[options::COLUMN])?.is_empty();
            let judge = task::judge(ctx, &params, has_options)?;
            verdict::run(ctx, &judge, &params.pass_at, params.bootstrap)
        }
    }
}
