//! Compares answers with the texts that count, and reads the likelihood of targets.

use std::borrow::Cow;

use arrow::array::{Array, BooleanArray, RecordBatch, StringArray};

use refrain_cache::columns::{column, list_column};
use refrain_engine::kind::StageError;

use super::filters::{Answer, Pipelines};
use super::{Verdicts, entry, logprob, truths};
use crate::lm_eval::{MetricName, TaskFile};
use crate::prompts::{cell, row_error};
use crate::python_regex::PythonRegex;

/// The comparison `exact_match`: what does not count is removed from both texts.
pub(super) struct ExactMatch {
    ignored: Vec<PythonRegex>,
    case: bool,
    punctuation: bool,
    numbers: bool,
}

impl ExactMatch {
    pub fn of(task: &TaskFile) -> Result<ExactMatch, StageError> {
        let entry = entry(task, MetricName::ExactMatch);
        let patterns = entry.map_or(&[][..], |entry| &entry.regexes_to_ignore);
        let ignored = patterns.iter().map(|pattern| PythonRegex::new(pattern));
        Ok(ExactMatch {
            ignored: ignored.collect::<Result<_, _>>().map_err(StageError::bug)?,
            case: entry.is_some_and(|entry| entry.ignore_case),
            punctuation: entry.is_some_and(|entry| entry.ignore_punctuation),
            numbers: entry.is_some_and(|entry| entry.ignore_numbers),
        })
    }

    fn equal(&self, answer: &str, target: &str) -> bool {
        self.form(answer) == self.form(target)
    }

    fn form<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for pattern in &self.ignored {
            text = Cow::Owned(pattern.replace(&text, "", 0).into_owned());
        }
        if self.case {
            text = Cow::Owned(text.to_lowercase());
        }
        if self.punctuation {
            text = Cow::Owned(text.replace(|c: char| c.is_ascii_punctuation(), ""));
        }
        if self.numbers {
            text = Cow::Owned(text.replace(|c: char| c.is_ascii_digit(), ""));
        }
        text
    }
}

/// Judges the responses of a batch; returns how many of them the first filter finds no answer in.
pub(super) fn judge(
    batch: &RecordBatch,
    first: u64,
    pipelines: &Pipelines,
    rule: &ExactMatch,
    verdicts: &mut Verdicts,
) -> Result<u64, StageError> {
    let responses = column::<StringArray>(batch, "response")?;
    let (lists, targets) = list_column::<StringArray>(batch, "targets")?;
    let mut no_answer = 0;
    for row in 0..batch.num_rows() {
        let response = cell(responses, row).unwrap_or_default();
        let answers = pipelines.answers(response);
        let answers = answers.map_err(|what| row_error(batch, row, first, &what))?;
        let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
        no_answer += u64::from(answers.first().is_some_and(|answer| answer.is_fallback));
        for (at, Answer { text, .. }) in answers.into_iter().enumerate() {
            let equals = |target| rule.equal(&text, cell(targets, target).unwrap_or_default());
            let is_right = range.clone().any(equals);
            verdicts.right.get_mut(at).into_iter().for_each(|rows| rows.push(is_right));
            verdicts.predictions[at].push(Some(text.into_owned()));
        }
    }
    Ok(no_answer)
}

/// Reads the likelihoods of a batch's targets, and whether each is what the model would say.
pub(super) fn likelihoods(
    batch: &RecordBatch,
    first: u64,
    task: &TaskFile,
    verdicts: &mut Verdicts,
) -> Result<(), StageError> {
    let greedy = column::<BooleanArray>(batch, "greedy")?;
    let asks = !truths(task).is_empty();
    for row in 0..batch.num_rows() {
        let value = logprob(batch, row);
        let value = value.map_err(|error| row_error(batch, row, first, &error.to_string()))?;
        if asks && greedy.is_null(row) {
            let what = "the backend does not tell whether the target is the likeliest";
            let error = row_error(batch, row, first, what);
            let hint = "take `backend: native`, or leave `acc` out of `metric_list`";
            return Err(StageError::with_hint(error.to_string(), hint));
        }
        verdicts.predictions[0].push(None);
        verdicts.logprobs.push(value);
        if asks {
            verdicts.right[0].push(greedy.value(row));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_removed_from_both_texts() {
        let patterns = [",", r"\$", r"(?s).*#### ", r"\.$"];
        let rule = ExactMatch {
            ignored: patterns.iter().map(|one| PythonRegex::new(one).unwrap()).collect(),
            case: true,
            punctuation: false,
            numbers: false,
        };
        assert!(rule.equal("$1,200.", "He has 3.\n#### 1200"));
        assert!(rule.equal("A.", "a"));
        assert!(!rule.equal("1200.0", "#### 1200"));
        let rule =
            ExactMatch { ignored: Vec::new(), case: false, punctuation: true, numbers: true };
        assert!(rule.equal("a-b 12", "ab "));
        assert!(!rule.equal("A", "a"));
    }
}
