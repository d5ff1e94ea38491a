//! Examples that stand before each prompt, drawn once for the node from a table of their own.

use arrow::array::StringArray;

use refrain_cache::TableReader;
use refrain_cache::columns::column;
use refrain_engine::kind::{Context, StageError, Table, parameters};
use refrain_lm::random::{Stream, permutation};

use crate::tables::scan;

use super::{Prompt, PromptRenderer, cell, row_error};

parameters! {
    /// The parameter `shots`.
    pub(crate) struct Shots {
        /// The table with the examples: prompts and responses
        data: &Table,
        /// Examples before each prompt
        #[range(1..=1000)]
        count: u64,
        /// Which examples, and in which order
        #[range(0..)]
        seed: u64 = 0,
    }
}

impl Shots {
    /// The first `count` rows of a random order, with their answers.
    pub fn draw(
        &self,
        context: &Context<'_>,
        prompts: &PromptRenderer,
    ) -> Result<Vec<(Prompt, String)>, StageError> {
        let table = TableReader::open(context.table("shots.data")?)?;
        if self.count > table.rows() {
            return Err(StageError::with_hint(
                format!(
                    "`shots.count` is {}, but the table of examples has {} rows",
                    self.count,
                    table.rows()
                ),
                "lower `count`, or give a table with more rows",
            ));
        }
        let mut order = permutation(&Stream::named(self.seed, "shots", &[]), table.rows() as usize);
        order.truncate(self.count as usize);
        let mut found: Vec<Option<(Prompt, String)>> = vec![None; order.len()];
        scan(context, "shots.data", None, |batch, first| {
            for (place, &row) in order.iter().enumerate() {
                let Some(row) =
                    row.checked_sub(first as usize).filter(|&row| row < batch.num_rows())
                else {
                    continue;
                };
                let (one, number) = (batch.slice(row, 1), first + row as u64);
                let Some(answer) = cell(column::<StringArray>(&one, "response")?, 0) else {
                    return Err(row_error(
                        &one,
                        0,
                        number,
                        "an example of `shots` has no `response`",
                    ));
                };
                let asked = prompts.asked(&one, number)?.pop();
                found[place] = asked.map(|asked| (asked, answer.to_owned()));
            }
            Ok(())
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}
