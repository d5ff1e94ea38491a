//! Measures how far a judge agrees with people who judged the same rows.

use std::cell::RefCell;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;

use refrain_cache::Metric;
use refrain_engine::kind::StageError;

use crate::prompts::row_error;
use crate::tables::{metric, share};

use super::{Judged, truth};

/// The verdicts that a person or a judge gives.
const LABELS: usize = 4;
/// A judge's answer without a verdict, which no person gives.
const NOTHING: usize = LABELS - 1;
/// The verdicts on pairs.
const OF_PAIRS: [&str; NOTHING] = ["response", "reference", "tie"];

/// Verdicts of people, and how often a judge gave which beside them.
#[derive(Debug)]
pub(super) struct Agreement {
    column: String,
    of_pairs: bool,
    /// The number of rows by the judge's verdict and the person's.
    counts: RefCell<[[u64; LABELS]; LABELS]>,
}

impl Agreement {
    pub fn new(column: String, of_pairs: bool) -> Agreement {
        Agreement { column, of_pairs, counts: RefCell::default() }
    }

    /// Counts the rows of a batch that a person judged.
    pub fn add(
        &self,
        batch: &RecordBatch,
        first_row: u64,
        judged: &[Judged],
    ) -> Result<(), StageError> {
        let Some(column) = batch.column_by_name(&self.column) else {
            return Err(StageError::bug("the column of verdicts of people is not there"));
        };
        let truths = column.as_boolean_opt();
        let words = column.as_string_opt::<i32>();
        let mut counts = self.counts.borrow_mut();
        for (row, judged) in judged.iter().enumerate().filter(|(row, _)| column.is_valid(*row)) {
            let by_judge = self.label(judged, column.data_type());
            let by_person = match (truths, words) {
                (Some(truths), _) => Some(of_truth(truths.value(row))),
                (_, Some(words)) => self.of_word(words.value(row)),
                (None, None) => None,
            };
            let by_person = by_person.ok_or_else(|| self.not_a_verdict(batch, row, first_row))?;
            counts[by_judge][by_person] += 1;
        }
        Ok(())
    }

    /// The judge's verdict, in the words of people.
    fn label(&self, judged: &Judged, of_people: &DataType) -> usize {
        match &judged.prediction {
            None => NOTHING,
            Some(word) if self.of_pairs && *of_people == DataType::Utf8 => {
                OF_PAIRS.iter().position(|known| **known == **word).unwrap_or(NOTHING)
            }
            Some(_) => of_truth(judged.correct),
        }
    }

    fn of_word(&self, word: &str) -> Option<usize> {
        let word = word.trim().to_lowercase();
        match self.of_pairs {
            true => OF_PAIRS.iter().position(|known| *known == word),
            false => truth(&word).map(of_truth),
        }
    }

    fn not_a_verdict(&self, batch: &RecordBatch, row: usize, first_row: u64) -> StageError {
        let what = format!("its `{}` is not a verdict", self.column);
        let hint = match self.of_pairs {
            true => "verdicts on pairs are `response`, `reference` and `tie`",
            false => "verdicts are `right` and `wrong`, or `true` and `false`",
        };
        StageError::with_hint(
            row_error(batch, row, first_row, &what).to_string(),
            format!("{hint}; leave it empty where nobody judged"),
        )
    }

    /// The share of rows with the same verdict, and Cohen's kappa: how far that is above what two
    /// who give their verdicts without looking would reach.
    pub fn metrics(&self) -> Vec<Metric> {
        let counts = self.counts.borrow();
        let rows: u64 = counts.iter().flatten().sum();
        let same: u64 = (0..LABELS).map(|label| counts[label][label]).sum();
        let by_judge = |label: usize| counts[label].iter().sum::<u64>();
        let by_person = |label: usize| counts.iter().map(|row| row[label]).sum::<u64>();
        let by_chance: u128 = (0..LABELS)
            .map(|label| u128::from(by_judge(label)) * u128::from(by_person(label)))
            .sum();
        // Of whole numbers, so that nothing is lost: (observed − expected) / (1 − expected), each
        // times the square of the rows. It is undefined where all verdicts are one.
        let square = u128::from(rows) * u128::from(rows);
        let observed = u128::from(rows) * u128::from(same);
        let kappa = (observed as f64 - by_chance as f64) / (square - by_chance) as f64;
        vec![metric("human_agreement", share(same, rows), rows), metric("human_kappa", kappa, rows)]
    }
}

fn of_truth(truth: bool) -> usize {
    usize::from(!truth)
}
