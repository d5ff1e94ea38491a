//! The options of a multiple-choice question, from a column of the table.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field};

use refrain_engine::kind::{StageError, type_name};

use crate::prompts::cell;
use crate::tables::list_of;

/// The column that is taken where the workflow names none.
pub(crate) const COLUMN: &str = "choices";

/// The types that a column of options may have: a list of texts, whose labels are A, B and so on;
/// lists of texts and labels; a list of texts with their labels.
pub(crate) fn types() -> [DataType; 5] {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let list = |name: &str| Field::new(name, list_of(DataType::Utf8), true);
    let [a, b] = [["text", "label"], ["label", "text"]];
    [
        list_of(DataType::Utf8),
        DataType::Struct(a.map(list).into_iter().collect()),
        DataType::Struct(b.map(list).into_iter().collect()),
        list_of(DataType::Struct(a.map(text).into_iter().collect())),
        list_of(DataType::Struct(b.map(text).into_iter().collect())),
    ]
}

/// The options of the rows of a batch.
pub(crate) struct Choices<'b>(&'b ArrayRef);

impl<'b> Choices<'b> {
    pub fn of_batch(batch: &'b RecordBatch, name: &str) -> Result<Choices<'b>, StageError> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| StageError::failed(format!("the table has no column `{name}`")))?;
        if types().iter().any(|ty| refrain_engine::kind::same_type(ty, column.data_type())) {
            Ok(Choices(column))
        } else {
            let ty = type_name(column.data_type());
            Err(StageError::with_hint(
                format!("column `{name}` holds no options: it is {ty}"),
                "options are a list of texts, or texts with a `text` and a `label`",
            ))
        }
    }

    /// The options of a row; none where the cell is null.
    pub fn row(&self, row: usize) -> Options<'b> {
        if self.0.is_null(row) {
            return Options::default();
        }
        if let Some(both) = self.0.as_struct_opt() {
            let list = |name| both.column_by_name(name).and_then(|list| items(list, row));
            return Options::new(
                list("label").into_iter().flatten().map(Cow::Borrowed).collect(),
                list("text").unwrap_or_default(),
            );
        }
        let Some(lists) = self.0.as_list_opt::<i32>() else { return Options::default() };
        let (start, end) =
            (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
        match lists.values().as_struct_opt() {
            Some(both) => Options::new(
                texts(both, "label", start..end).into_iter().map(Cow::Borrowed).collect(),
                texts(both, "text", start..end),
            ),
            None => {
                let texts = items(self.0, row).unwrap_or_default();
                Options::new((0..texts.len()).map(letter).collect(), texts)
            }
        }
    }
}

/// The texts of a row of a column of lists; a null item is empty.
fn items(lists: &ArrayRef, row: usize) -> Option<Vec<&str>> {
    let lists = lists.as_list_opt::<i32>().filter(|lists| lists.is_valid(row))?;
    let values = lists.values().as_string_opt::<i32>()?;
    let range = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
    Some(range.map(|at| cell(values, at).unwrap_or_default()).collect())
}

fn texts<'b>(both: &'b StructArray, name: &str, range: std::ops::Range<usize>) -> Vec<&'b str> {
    let values: Option<&StringArray> =
        both.column_by_name(name).and_then(|column| column.as_string_opt());
    values.map_or_else(Vec::new, |values| {
        range.map(|at| cell(values, at).unwrap_or_default()).collect()
    })
}

/// The label of an option that has none of its own.
fn letter(number: usize) -> Cow<'static, str> {
    match u8::try_from(number) {
        Ok(number @ 0..26) => char::from(b'A' + number).to_string().into(),
        _ => (number + 1).to_string().into(),
    }
}

/// The options of one question; none where they are not known.
#[derive(Debug, Default)]
pub(crate) struct Options<'r> {
    pub labels: Vec<Cow<'r, str>>,
    pub texts: Vec<&'r str>,
}

impl<'r> Options<'r> {
    pub fn new(labels: Vec<Cow<'r, str>>, texts: Vec<&'r str>) -> Options<'r> {
        Options { labels, texts }
    }

    /// The label that is written as this word.
    pub fn label(&self, word: &str) -> Option<Cow<'r, str>> {
        self.labels.iter().find(|label| *label == word).cloned()
    }

    /// The label of an option by its number from 0. Where no options are known it is the letter, or
    /// the numeral that was written.
    pub fn label_number(&self, number: usize, numeral: bool) -> Option<Cow<'r, str>> {
        match (self.labels.is_empty(), numeral) {
            (false, _) => self.labels.get(number).cloned(),
            (true, false) => Some(letter(number)),
            (true, true) => Some((number + 1).to_string().into()),
        }
    }

    /// The label of the one option that has this text; case and a full stop do not count.
    pub fn label_of_text(&self, text: &str) -> Option<Cow<'r, str>> {
        let plain = |text: &str| {
            text.trim_matches(|c: char| c.is_whitespace() || "*_$.\"'“”".contains(c)).to_lowercase()
        };
        let wanted = plain(text);
        let mut same = (0..self.texts.len())
            .filter(|&at| !wanted.is_empty() && plain(self.texts[at]) == wanted);
        let (first, None) = (same.next()?, same.next()) else { return None };
        self.labels.get(first).cloned()
    }
}
