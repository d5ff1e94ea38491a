//! Takes the verdicts of a model that answered with a rubric, and measures how far the order of two
//! texts decides them, and how far people agree with them.

use std::borrow::Cow;

use arrow::array::{RecordBatch, StringArray};
use regex::Regex;
use serde_json::{Map, Value};

use refrain_cache::Metric;
use refrain_cache::columns::column;
use refrain_engine::kind::{Context, StageError};

use super::verdict::Verdict;
use crate::prompts::cell;
use crate::tables::{self, metric, share};
use agreement::Agreement;

mod agreement;

/// The pattern of a judge's verdict where the workflow gives none; its last match counts.
const PATTERN: &str = r"(?i)\bverdict\b\W*(?:is\W+)?(\w+)";

/// The question to a judge where the workflow does not give one.
const RUBRIC: &str =
    "Compare a response with the reference answer of a task. The response is right when it \
gives the same final answer; its form, its length and its style do not matter.

[Task]
{{ prompt }}

[Reference answer]
{{ reference }}

[Response]
{{ response }}

First name the final answer of each in one sentence. Then end with a line of its own, either \
`Verdict: right` or `Verdict: wrong`.";

/// The question to a judge of two texts.
const RUBRIC_OF_PAIRS: &str = "Two assistants were given the same task. Say which of them did it better: first \
whether what they say is right, then whether it is complete and clear. Neither the order nor the \
length of their texts matters.

[Task]
{{ prompt }}

[Text A]
{{ a }}

[Text B]
{{ b }}

First give your reasons in two sentences. Then end with a line of its own: `Verdict: A`, `Verdict: B` \
or `Verdict: tie`.";

/// Whether a stage with these parameters judges pairs.
pub(super) fn of_pairs(params: &Map<String, Value>) -> bool {
    params.get("pairs") == Some(&Value::Bool(true))
}

/// The prompt of a judge of one text, as a parameter.
pub(super) fn prompt(stage: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    vec![("prompt", given(stage).unwrap_or(RUBRIC).into())]
}

/// The prompt of a judge that sees the response first.
pub(super) fn prompt_of_pairs(stage: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    named("response", "reference", stage)
}

/// The same with the reference first.
pub(super) fn prompt_swapped(stage: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    named("reference", "response", stage)
}

fn named(a: &str, b: &str, stage: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let rubric = given(stage).unwrap_or(RUBRIC_OF_PAIRS);
    vec![("prompt", format!("{{% set a = {a} %}}{{% set b = {b} %}}{rubric}").into())]
}

/// The prompt that the workflow gives.
fn given(stage: &Map<String, Value>) -> Option<&str> {
    stage.get("judge")?.get("prompt")?.as_str()
}

/// The verdicts of a model on all rows.
pub(super) struct ModelJudge {
    judged: Vec<Judged>,
    pairs: Option<Pairs>,
    human: Option<Agreement>,
}

struct Judged {
    prediction: Option<Box<str>>,
    correct: bool,
    reason: &'static str,
}

/// Counts over pairs of texts.
#[derive(Default)]
struct Pairs {
    /// Pairs that were judged in both orders.
    both: u64,
    /// Those of which both orders say the same.
    agreed: u64,
    /// Judgements for the text that came first, and for the second.
    first: u64,
    second: u64,
}

impl ModelJudge {
    pub fn new(
        ctx: &Context<'_>,
        pattern: Option<&str>,
        pairs: bool,
        human: Option<String>,
    ) -> Result<ModelJudge, StageError> {
        let human = human.map(|column| Agreement::new(column, pairs));
        let pattern = super::task::compile(pattern.unwrap_or(PATTERN)).map_err(StageError::bug)?;
        let words = |input: &str| words(ctx, input, &pattern);
        let judgements = words("judgements")?;
        if !pairs {
            let judged = judgements.into_iter().map(one).collect();
            return Ok(ModelJudge { judged, pairs: None, human });
        }
        let mut counts = Pairs::default();
        let swapped = words("swapped")?;
        let judged = judgements.into_iter().zip(swapped).map(|(ab, ba)| counts.pair(ab, ba));
        Ok(ModelJudge { judged: judged.collect(), pairs: Some(counts), human })
    }

    /// The verdicts on the rows of a batch.
    pub fn batch<'r>(
        &self,
        batch: &'r RecordBatch,
        first_row: u64,
    ) -> Result<Vec<Verdict<'r>>, StageError> {
        let first = first_row as usize;
        let ours = self.judged.get(first..first + batch.num_rows());
        let ours = ours.ok_or_else(|| StageError::bug("a row was not judged"))?;
        if let Some(human) = &self.human {
            human.add(batch, first_row, ours)?;
        }
        let verdict = |judged: &Judged| Verdict {
            prediction: judged.prediction.as_ref().map(|word| Cow::Owned(word.to_string())),
            correct: Some(judged.correct),
            reason: judged.reason,
        };
        Ok(ours.iter().map(verdict).collect())
    }

    /// The metrics of pairs, and of the verdicts of people.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = self.pairs.as_ref().map(Pairs::metrics).unwrap_or_default();
        metrics.extend(self.human.iter().flat_map(Agreement::metrics));
        metrics
    }
}

/// The last verdict of each row of a judge's answers, in small letters. There is one row for each of
/// `data`.
fn words(
    ctx: &Context<'_>,
    input: &str,
    pattern: &Regex,
) -> Result<Vec<Option<String>>, StageError> {
    let mut words = Vec::new();
    tables::scan(ctx, input, Some(&["response"]), |batch, _| {
        let answers = column::<StringArray>(batch, "response")?;
        words.extend((0..batch.num_rows()).map(|row| {
            let found = pattern.captures_iter(cell(answers, row)?).last()?;
            let word = found.get(usize::from(pattern.captures_len() > 1))?;
            Some(word.as_str().trim().to_lowercase())
        }));
        Ok(())
    })?;
    let rows = ctx.input("data")?.artifact().rows.unwrap_or_default();
    if words.len() as u64 != rows {
        return Err(StageError::with_hint(
            format!("`{input}` has {} rows, and `data` {rows}", words.len()),
            "a judge answers once about each row: leave `samples` out of `judge`",
        ));
    }
    Ok(words)
}

fn one(word: Option<String>) -> Judged {
    let Some(correct) = word.as_deref().and_then(truth) else { return nothing() };
    let reason = if correct { "judged right" } else { "judged wrong" };
    Judged { prediction: word.map(String::into_boxed_str), correct, reason }
}

/// Whether a word says that a response is right.
fn truth(word: &str) -> Option<bool> {
    match word {
        "right" | "correct" | "yes" | "true" => Some(true),
        "wrong" | "incorrect" | "no" | "false" => Some(false),
        _ => None,
    }
}

fn nothing() -> Judged {
    Judged { prediction: None, correct: false, reason: "no verdict found" }
}

/// The text that a judgement prefers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preferred {
    First,
    Second,
    Neither,
}

impl Preferred {
    fn of(word: Option<String>) -> Option<Preferred> {
        match word.as_deref() {
            Some("a") => Some(Preferred::First),
            Some("b") => Some(Preferred::Second),
            Some("tie") => Some(Preferred::Neither),
            _ => None,
        }
    }
}

impl Pairs {
    /// Judges a pair by the verdicts with the response first and with it second.
    fn pair(&mut self, ab: Option<String>, ba: Option<String>) -> Judged {
        let (ab, ba) = (Preferred::of(ab), Preferred::of(ba));
        for verdict in [ab, ba].into_iter().flatten() {
            self.first += u64::from(verdict == Preferred::First);
            self.second += u64::from(verdict == Preferred::Second);
        }
        let (Some(ab), Some(ba)) = (ab, ba) else { return nothing() };
        let (prediction, reason) = match (ab, ba) {
            (Preferred::First, Preferred::Second) => ("response", "preferred"),
            (Preferred::Second, Preferred::First) => ("reference", "not preferred"),
            (Preferred::Neither, Preferred::Neither) => ("tie", "tie"),
            _ => ("tie", "the order decides"),
        };
        self.both += 1;
        self.agreed += u64::from(reason != "the order decides");
        Judged { prediction: Some(prediction.into()), correct: prediction == "response", reason }
    }

    fn metrics(&self) -> Vec<Metric> {
        let Pairs { both, agreed, first, second } = *self;
        let decided = first + second;
        let bias = (first as f64 - second as f64) / decided as f64;
        vec![metric("agreement", share(agreed, both), both), metric("position_bias", bias, decided)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_must_prefer_the_response() {
        let mut counts = Pairs::default();
        let mut pair = |ab: &str, ba: &str| {
            let judged = counts.pair(Some(ab.into()), Some(ba.into()));
            (judged.correct, judged.reason)
        };
        assert_eq!(pair("a", "b"), (true, "preferred"));
        assert_eq!(pair("b", "a"), (false, "not preferred"));
        assert_eq!(pair("a", "a"), (false, "the order decides"));
        assert_eq!(pair("a", "tie"), (false, "the order decides"));
        assert_eq!(pair("tie", "tie"), (false, "tie"));
        assert_eq!(pair("a", "perhaps"), (false, "no verdict found"));
        let metrics: Vec<(f64, u64)> = counts.metrics().iter().map(|m| (m.value, m.n)).collect();
        // Three of five agree; six judgements are for the first text and two for the second.
        assert_eq!(metrics, [(0.6, 5), (0.5, 8)]);
    }
}
