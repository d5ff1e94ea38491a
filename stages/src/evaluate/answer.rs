//! Judges a response by its answer: finds it and compares it with that of the reference.

use std::borrow::Cow;

use arrow::array::{RecordBatch, StringArray};

use refrain_cache::columns::column;
use refrain_engine::kind::StageError;

use super::compare::{Compare, Normalization};
use super::extract::Extract;
use super::verdict::{Verdict, reason};
use crate::options::{Choices, Options};
use crate::prompts::cell;
use crate::tables::row_name;

/// A way to find an answer and to compare it.
pub(super) struct AnswerRule {
    /// Ways to find the answer, tried in their order.
    pub extract: Vec<Extract>,
    /// `None`: the answer is found and compared with nothing.
    pub compare: Option<Compare>,
    pub normal: Normalization,
    /// The column with the options of each row, where an answer is one of them.
    pub options: Option<String>,
}

impl AnswerRule {
    /// The verdicts on the rows of a batch.
    pub fn batch<'r>(
        &self,
        batch: &'r RecordBatch,
        first_row: u64,
    ) -> Result<Vec<Verdict<'r>>, StageError> {
        let responses = column::<StringArray>(batch, "response")?;
        let references = match self.compare {
            Some(_) => Some(column::<StringArray>(batch, "reference")?),
            None => None,
        };
        let choices = match &self.options {
            Some(name) => Some(Choices::of_batch(batch, name)?),
            None => None,
        };
        let mut verdicts = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let reference = references.map(|references| cell(references, row));
            if reference == Some(None) {
                let message = format!("{} has no `reference`", row_name(batch, first_row, row));
                return Err(StageError::with_hint(
                    message,
                    "it cannot be judged: leave it out, or add its reference",
                ));
            }
            let options = choices.as_ref().map(|choices| choices.row(row)).unwrap_or_default();
            verdicts.push(self.judge(cell(responses, row), reference.flatten(), &options));
        }
        Ok(verdicts)
    }

    /// Judges a response.
    ///
    /// The reference's answer is found by the same rule; a reference in which it finds none is the
    /// answer as a whole.
    fn judge<'t>(
        &self,
        response: Option<&'t str>,
        reference: Option<&'t str>,
        options: &Options<'t>,
    ) -> Verdict<'t> {
        let compares = self.compare.is_some();
        let Some(answer) = response.and_then(|response| self.find(response, options)) else {
            let correct = compares.then_some(false);
            return Verdict { prediction: None, correct, reason: "no answer found" };
        };
        let (Some(compare), Some(reference)) = (self.compare, reference) else {
            return Verdict { prediction: Some(answer), correct: None, reason: reason(None) };
        };
        let wanted = self.find(reference, options).unwrap_or(Cow::Borrowed(reference));
        let correct = Some(compare.equal(&answer, &wanted, self.normal));
        Verdict { prediction: Some(compare.form(answer)), correct, reason: reason(correct) }
    }

    fn find<'t>(&self, text: &'t str, options: &Options<'t>) -> Option<Cow<'t, str>> {
        self.extract.iter().find_map(|extract| extract.find(text, options))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_mark_is_the_answer_as_a_whole() {
        let rule = AnswerRule {
            extract: vec![Extract::After("Answer:".into())],
            compare: Some(Compare::Text),
            normal: Normalization { trim: true, ignore_case: false },
            options: None,
        };
        let judge = |response, reference| {
            let verdict = rule.judge(Some(response), Some(reference), &Options::default());
            (verdict.prediction.map(Cow::into_owned), verdict.correct, verdict.reason)
        };
        assert_eq!(judge("So.\nAnswer: blue", "blue"), (Some("blue".into()), Some(true), "equal"));
        assert_eq!(
            judge("Answer: red", "Answer: blue"),
            (Some("red".into()), Some(false), "different")
        );
        assert_eq!(judge("blue", "blue"), (None, Some(false), "no answer found"));
    }
}
