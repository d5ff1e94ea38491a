//! Remarks on the rows of a node, each noted once with how many: empty responses, cut rows, special
//! tokens in the data.

use std::path::Path;

use refrain_engine::kind::{Context, Input, Progress};
use refrain_lm::adapter::own_tokenizer;

/// The remarks on one row.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowRemarks {
    /// Whether its response is empty.
    pub empty: bool,
    /// Whether it is cut to `max_tokens`.
    pub cut: bool,
    /// Whether no token of its response is left.
    pub without_response: bool,
    /// Whether the data begins with the begin token itself, so that none was added.
    pub had_begin: bool,
    /// Whether the data ends with the end token itself, so that none was added.
    pub had_end: bool,
}

/// Notes the files of a model's adapters that would change its tokens, were they not those of its
/// base.
pub(crate) fn note_adapter_files(context: &Context<'_>, input: &Input) {
    let Input::Model { folder, adapters, .. } = input else { return };
    for adapter in adapters {
        note_own_files(context.progress, adapter, folder);
    }
}

/// Notes the files of one adapter's folder that differ from its base's.
pub(crate) fn note_own_files(progress: &Progress, adapter: &Path, base: &Path) {
    for name in own_tokenizer(adapter, base) {
        progress.note(format!("the adapter's `{name}` differs from its base's, which is used"));
    }
}

/// The remarks of all rows.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Remarks {
    rows: u64,
    empty: u64,
    cut: u64,
    without_response: u64,
    had_begin: u64,
    had_end: u64,
    without_trained_token: u64,
}

impl Remarks {
    /// Adds a row.
    pub fn add(&mut self, row: RowRemarks) {
        self.rows += 1;
        self.empty += u64::from(row.empty);
        self.cut += u64::from(row.cut);
        self.without_response += u64::from(row.without_response);
        self.had_begin += u64::from(row.had_begin);
        self.had_end += u64::from(row.had_end);
    }

    /// Adds the number of rows of which no token is trained on.
    pub fn without_trained_token(&mut self, rows: u64) {
        self.without_trained_token = rows;
    }

    /// Notes what there is to say of the table at an input; `data` needs no name.
    pub fn note(&self, progress: &Progress, input: &str) {
        for sentence in self.sentences() {
            match input {
                "data" => progress.note(sentence),
                input => progress.note(format!("`{input}`: {sentence}")),
            }
        }
    }

    fn sentences(&self) -> Vec<String> {
        let rows = self.rows;
        let mut sentences = Vec::new();
        if self.empty > 0 {
            sentences.push(format!("the response is empty in {} of {rows} rows", self.empty));
        }
        if self.cut > 0 {
            let gone = match self.without_response {
                0 => String::new(),
                gone => format!("; no token of the response is left in {gone} of them"),
            };
            sentences.push(format!("{} of {rows} rows are cut to `max_tokens`{gone}", self.cut));
        }
        if self.without_trained_token > 0 {
            let count = self.without_trained_token;
            sentences.push(format!("no token is trained on in {count} of {rows} rows"));
        }
        for (count, what) in
            [(self.had_begin, "begins with the begin"), (self.had_end, "ends with the end")]
        {
            if count > 0 {
                sentences.push(format!(
                    "the data itself {what} token in {count} of {rows} rows: none is added"
                ));
            }
        }
        sentences
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_said_once_with_how_many() {
        let mut remarks = Remarks::default();
        remarks.add(RowRemarks::default());
        assert!(remarks.sentences().is_empty());
        remarks.add(RowRemarks { empty: true, had_end: true, ..RowRemarks::default() });
        remarks.add(RowRemarks { cut: true, without_response: true, ..RowRemarks::default() });
        remarks.add(RowRemarks { cut: true, had_begin: true, ..RowRemarks::default() });
        assert_eq!(
            remarks.sentences(),
            [
                "the response is empty in 1 of 4 rows",
                "2 of 4 rows are cut to `max_tokens`; no token of the response is left in 1 of them",
                "the data itself begins with the begin token in 1 of 4 rows: none is added",
                "the data itself ends with the end token in 1 of 4 rows: none is added",
            ]
        );
    }
}
