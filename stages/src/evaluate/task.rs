//! The tasks: each a preset of how an answer is found and how it is compared.

use regex::Regex;
use serde_json::{Map, Value};

use refrain_engine::kind::{Context, StageError, choices, one_of, parameters};

use super::EvaluateParams;
use super::answer::AnswerRule;
use super::code::{self, CodeRule};
use super::compare::{Compare, Normalization};
use super::extract::Extract;
use super::judge::ModelJudge;
use super::logprob::By;
use super::sql::{self, SqlRule};
use super::verdict::Judge;
use crate::canonical;
use crate::lm_eval::TaskInFile;
use crate::options;

/// The first block of code: white space must follow the fence, and the third backtick of its end may
/// be missing.
const FENCED: &str = r"(?s)```(?:python)?\s+(.*?)\s*``";

choices! {
    /// A preset of how responses are judged.
    pub(super) enum Task {
        ExactMatch = "exact_match",
        Number = "number",
        Gsm8k = "gsm8k",
        Math = "math",
        Choice = "choice",
        Arc = "arc",
        Code = "code",
        ChoiceLogprob = "choice_logprob",
        Sql = "sql",
        Judge = "judge",
        Regex = "regex",
        Given = "given",
        Perplexity = "perplexity",
    }
}

one_of! {
    /// A preset, or a task file.
    pub(super) enum TaskParam {
        Word(Task),
        File(TaskInFile),
    }
}

impl EvaluateParams {
    /// The preset; `None` of a task file.
    pub(super) fn word(&self) -> Option<Task> {
        match self.task {
            TaskParam::Word(task) => Some(task),
            TaskParam::File(_) => None,
        }
    }
}

one_of! {
    /// A way to find the answer, or several that are tried in their order.
    pub(super) enum ExtractParam {
        Way(ExtractWay),
        Place(ExtractPlace),
        Ways(Vec<ExtractOne>),
    }
}

one_of! {
    /// One of several ways to find the answer.
    pub(super) enum ExtractOne {
        Way(ExtractWay),
        Place(ExtractPlace),
    }
}

choices! {
    /// A way to find the answer that needs no more words.
    pub(super) enum ExtractWay {
        Whole = "whole",
        LastNumber = "last_number",
        Gsm8k = "gsm8k",
        LastLine = "gsm8k_last_line",
        Boxed = "boxed",
        CodeBlock = "code_block",
        Choice = "choice",
        Arc = "arc",
        Code = "code",
    }
}

parameters! {
    /// Where the answer is; exactly one of `after` and `regex`.
    pub(super) struct ExtractPlace {
        /// Takes the rest of the line behind the last occurrence of this text
        after: Option<String>,
        /// Takes the first group of the first match of this pattern, which may be empty
        regex: Option<String>,
        /// Removes white space around what `regex` finds
        trim: Option<bool>,
    }
}

choices! {
    /// The comparison of two results' rows.
    pub(super) enum As {
        /// Each row as often.
        Multiset = "multiset",
        /// Each row at all.
        Set = "set",
    }
}

choices! {
    /// A way to compare an answer.
    pub(super) enum CompareParam {
        Text = "text",
        Number = "number",
        Math = "math",
        Gsm8k = "gsm8k",
        None = "none",
    }
}

impl Task {
    /// Every task by its word.
    pub fn of(params: &Map<String, Value>) -> Option<Task> {
        params.get("task").and_then(|task| serde_json::from_value(task.clone()).ok())
    }

    /// Returns the ways to find and to compare answers unless the workflow gives others; `None` of a task that
    /// finds no answers. `regex` finds them by its `pattern`.
    pub fn preset(self) -> Option<(Option<ExtractWay>, CompareParam)> {
        Some(match self {
            Task::ExactMatch => (Some(ExtractWay::Whole), CompareParam::Text),
            Task::Number => (Some(ExtractWay::Gsm8k), CompareParam::Number),
            Task::Gsm8k => (Some(ExtractWay::LastLine), CompareParam::Gsm8k),
            Task::Math => (Some(ExtractWay::Boxed), CompareParam::Math),
            Task::Choice => (Some(ExtractWay::Choice), CompareParam::Text),
            Task::Arc => (Some(ExtractWay::Arc), CompareParam::Text),
            Task::Code => (Some(ExtractWay::Code), CompareParam::Text),
            Task::Regex => (None, CompareParam::Text),
            Task::ChoiceLogprob | Task::Judge | Task::Sql | Task::Given | Task::Perplexity => {
                return None;
            }
        })
    }
}

/// Removes the parts of a preset that are written out.
pub(super) fn canonicalize(params: &mut Map<String, Value>) {
    canonical::remove_default(params, "by", &By::Sum.word().into());
    canonical::remove_default(params, "pairs", &false.into());
    canonical::remove_default(params, "as", &As::Multiset.word().into());
    if let Some(Value::Object(limits)) = params.get_mut("limits") {
        canonical::remove_default(limits, "steps", &sql::STEPS.into());
        canonical::remove_default(limits, "rows", &sql::ROWS.into());
        if limits.is_empty() {
            params.shift_remove("limits");
        }
    }
    let Some((extract, compare)) = Task::of(params).and_then(Task::preset) else { return };
    if let Some(extract) = extract {
        canonical::remove_default(params, "extract", &extract.word().into());
    }
    if Task::of(params) == Some(Task::Code) {
        canonical::remove_default(params, "tests", &code::TESTS.into());
        canonical::remove_default(params, "time_limit", &code::SECONDS.into());
    } else {
        canonical::remove_default(params, "compare", &compare.word().into());
    }
    if let Some(Value::Object(place)) = params.get_mut("extract") {
        canonical::remove_default(place, "trim", &false.into());
    }
}

/// Whether a stage with these parameters compares answers with references.
pub(super) fn compares(params: &Map<String, Value>) -> bool {
    let none = params.get("compare").is_some_and(|compare| compare == CompareParam::None.word());
    let task = Task::of(params);
    !none && !matches!(task, None | Some(Task::Given | Task::Perplexity))
}

/// Whether a stage with these parameters looks for the label of an option.
pub(super) fn chooses(params: &Map<String, Value>) -> bool {
    let is_choice = |way: &Value| way == ExtractWay::Choice.word();
    match params.get("extract") {
        Some(Value::Array(ways)) => ways.iter().any(is_choice),
        Some(way) => is_choice(way),
        None => Task::of(params) == Some(Task::Choice),
    }
}

/// The rule by which a task's answers are judged.
pub(super) fn judge(
    ctx: &Context<'_>,
    params: &EvaluateParams,
    has_options: bool,
) -> Result<Judge, StageError> {
    if params.word() == Some(Task::Sql) {
        let extract = match params.extract {
            Some(_) => ways(params)?,
            None => vec![Extract::CodeBlock, Extract::Whole { trim: true }],
        };
        let as_set = params.r#as == Some(As::Set);
        let (databases, limits) = (params.databases.as_ref(), params.limits.as_ref());
        return Ok(Judge::Sql(SqlRule::new(ctx, extract, as_set, databases, limits)?));
    }
    if params.word() == Some(Task::Code) {
        return Ok(Judge::Code(CodeRule::new(ctx, params)?));
    }
    if params.word() == Some(Task::Judge) {
        let pairs = params.pairs == Some(true);
        let (pattern, human) = (params.pattern.as_deref(), params.human.clone());
        return Ok(Judge::Model(ModelJudge::new(ctx, pattern, pairs, human)?));
    }
    let Some((_, compare)) = params.word().and_then(Task::preset) else {
        return Err(StageError::bug("a task without answers was judged by them"));
    };
    let compare = match params.compare.unwrap_or(compare) {
        CompareParam::Text => Some(Compare::Text),
        CompareParam::Number => Some(Compare::Number),
        CompareParam::Math => Some(Compare::Math),
        CompareParam::Gsm8k => Some(Compare::Gsm8k),
        CompareParam::None => None,
    };
    let named = params.choices.clone().or_else(|| has_options.then(|| options::COLUMN.to_owned()));
    Ok(Judge::Answer(AnswerRule {
        extract: ways(params)?,
        compare,
        normal: Normalization { trim: params.trim, ignore_case: params.ignore_case },
        options: named,
    }))
}

/// The ways in which a stage finds answers.
pub(super) fn ways(params: &EvaluateParams) -> Result<Vec<Extract>, StageError> {
    let preset = params.word().and_then(Task::preset).and_then(|(extract, _)| extract);
    let one = |way: &ExtractOne| match way {
        ExtractOne::Way(way) => word(*way, params.trim),
        ExtractOne::Place(found) => place(found),
    };
    match (&params.extract, preset, &params.pattern) {
        (Some(ExtractParam::Ways(ways)), ..) => ways.iter().map(one).collect(),
        (Some(ExtractParam::Place(found)), ..) => Ok(vec![place(found)?]),
        (Some(ExtractParam::Way(way)), ..) => Ok(vec![word(*way, params.trim)?]),
        (None, Some(way), _) => Ok(vec![word(way, params.trim)?]),
        (None, None, Some(pattern)) => Ok(vec![regex(pattern, false)?]),
        (None, None, None) => Err(StageError::bug("a task was run without its pattern")),
    }
}

fn word(way: ExtractWay, trim: bool) -> Result<Extract, StageError> {
    Ok(match way {
        ExtractWay::Whole => Extract::Whole { trim },
        ExtractWay::LastNumber => Extract::LastNumber,
        ExtractWay::Gsm8k => Extract::Marked,
        ExtractWay::LastLine => Extract::LastLineMarked,
        ExtractWay::Boxed => Extract::Boxed,
        ExtractWay::CodeBlock => Extract::CodeBlock,
        ExtractWay::Choice => Extract::Choice,
        ExtractWay::Arc => Extract::Arc,
        ExtractWay::Code => return regex(FENCED, false),
    })
}

fn place(place: &ExtractPlace) -> Result<Extract, StageError> {
    match (&place.after, &place.regex) {
        (Some(mark), None) => Ok(Extract::After(mark.clone())),
        (None, Some(pattern)) => regex(pattern, place.trim.unwrap_or(false)),
        _ => Err(StageError::bug("`extract` was run without one place")),
    }
}

fn regex(pattern: &str, trim: bool) -> Result<Extract, StageError> {
    let pattern = compile(pattern).map_err(StageError::bug)?;
    Ok(Extract::Regex { pattern, trim })
}

/// The pattern, or why it is none, in one line.
pub(super) fn compile(pattern: &str) -> Result<Regex, String> {
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
