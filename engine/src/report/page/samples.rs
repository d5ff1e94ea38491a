//! The first rows of tables, with the tokens of responses: their perplexities and masks.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type};
use arrow::util::display::array_value_to_string;

use refrain_cache::{TableError, TableReader};

use crate::graph::Graph;
use crate::kind::MAIN;

use super::nodes::Stages;
use super::tables::{LOG, Tables, floats};

/// Rows of a table that are shown.
const ROWS: usize = 3;
/// Nodes of a stage of which rows are shown: one for each arm.
const NODES: usize = 3;
/// Characters of a text that are shown.
const TEXT: usize = 700;
/// Characters of another column's value that are shown.
const CELL: usize = 80;
/// Tokens of a response that are shown.
const TOKENS: usize = 160;

/// Rows of a stage's table.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleTable {
    /// The number of the stage.
    pub stage: usize,
    /// The number of the node.
    pub node: u32,
    /// The output, unless it is the main one.
    pub output: Option<String>,
    /// The rows of the whole table.
    pub rows: u64,
    /// Its columns with their types.
    pub columns: Vec<(String, String)>,
    /// The first rows.
    pub samples: Vec<Sample>,
}

/// A row of a table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    /// Texts by column, cut: `prompt`, `messages`, `response`, `reference`, `prediction`, `reason`.
    pub texts: Vec<(&'static str, String)>,
    /// The response's tokens, where the table has them.
    pub tokens: Vec<Token>,
    /// Whether the response has more tokens than these.
    pub is_cut: bool,
    /// Whether it is correct.
    pub correct: Option<bool>,
    /// The other columns' values, short.
    pub others: Vec<(String, String)>,
}

/// A token of a response.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its text; bytes that are no text of their own are replaced.
    pub text: String,
    /// Its perplexity.
    pub perplexity: Option<f64>,
    /// Whether it is trained on, where there is a mask.
    pub is_trained: Option<bool>,
}

/// Columns of which the whole text is shown.
const TEXTS: [&str; 6] = ["prompt", "messages", "response", "reference", "prediction", "reason"];
/// Columns that tokens are made of, or that say nothing to people.
const HIDDEN: [&str; 9] = [
    "text",
    "token_ids",
    "logprobs",
    "perplexities",
    "offsets",
    "loss_mask",
    "response_token_ids",
    "response_logprobs",
    "correct",
];

/// Reads the first rows of a table.
pub(super) fn read(table: &TableReader) -> Result<Vec<Sample>, TableError> {
    let Some(batch) = table.batches(None, ROWS)?.next() else { return Ok(Vec::new()) };
    let batch = batch?;
    (0..batch.num_rows().min(ROWS)).map(|row| sample(&batch, row)).collect()
}

fn sample(batch: &RecordBatch, row: usize) -> Result<Sample, TableError> {
    let mut sample = Sample::default();
    for name in TEXTS {
        let array = batch.column_by_name(name).filter(|array| array.is_valid(row));
        if let Some(array) = array {
            let text = match name {
                "messages" => conversation(array, row),
                _ => None,
            };
            let text = text.map_or_else(|| array_value_to_string(array, row), Ok)?;
            sample.texts.push((name, cut(&text, TEXT)));
        }
    }
    let correct = batch.column_by_name("correct").and_then(|array| array.as_boolean_opt());
    sample.correct = correct.filter(|array| array.is_valid(row)).map(|array| array.value(row));
    (sample.tokens, sample.is_cut) = tokens(batch, row).unwrap_or_default();

    let schema = batch.schema();
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        let name = field.name().as_str();
        if TEXTS.contains(&name) || HIDDEN.contains(&name) || array.is_null(row) {
            continue;
        }
        let text = match array.data_type() {
            DataType::Float64 | DataType::Float32 => short_number(array, row),
            _ => None,
        };
        let text = text.map_or_else(|| array_value_to_string(array, row), Ok)?;
        sample.others.push((name.to_owned(), cut(&text, CELL)));
    }
    Ok(sample)
}

/// A number with six significant digits at most.
fn short_number(array: &ArrayRef, row: usize) -> Option<String> {
    let wide = arrow::compute::cast(array, &DataType::Float64).ok()?;
    let value = wide.as_primitive::<arrow::datatypes::Float64Type>().value(row);
    let shown = format!("{value:.6}");
    Some(shown.trim_end_matches('0').trim_end_matches('.').to_owned())
}

/// The messages of a conversation, a line each.
fn conversation(array: &ArrayRef, row: usize) -> Option<String> {
    let messages = array.as_list_opt::<i32>()?.value(row);
    let messages = messages.as_struct_opt()?;
    let text = |name: &str| messages.column_by_name(name)?.as_string_opt::<i32>();
    let (roles, contents) = (text("role")?, text("content")?);
    let value = |array: &arrow::array::StringArray, i: usize| match array.is_valid(i) {
        true => array.value(i).to_owned(),
        false => String::new(),
    };
    let lines = (0..messages.len()).map(|i| format!("{}: {}", value(roles, i), value(contents, i)));
    Some(lines.collect::<Vec<_>>().join("\n"))
}

/// The tokens of a response, and whether there are more.
fn tokens(batch: &RecordBatch, row: usize) -> Option<(Vec<Token>, bool)> {
    let text = batch.column_by_name("text")?.as_string_opt::<i32>()?;
    let offsets = batch.column_by_name("offsets")?.as_list_opt::<i32>()?;
    let text = text.is_valid(row).then(|| text.value(row))?;
    let offsets = offsets.is_valid(row).then(|| offsets.value(row))?;
    let offsets = offsets.as_primitive_opt::<Int32Type>()?;
    let begin = batch.column_by_name("prompt_tokens")?.as_primitive_opt::<Int32Type>()?;
    let begin = usize::try_from(begin.is_valid(row).then(|| begin.value(row))?).ok()?;

    let logprobs = batch.column_by_name("logprobs").map(|lists| floats(lists, row));
    let direct = batch.column_by_name("perplexities").map(|lists| floats(lists, row));
    let masks = batch.column_by_name("loss_mask").and_then(|array| array.as_list_opt::<i32>());
    let mask = masks.filter(|masks| masks.is_valid(row)).map(|masks| masks.value(row));
    let mask = mask.as_ref().and_then(|mask| mask.as_boolean_opt());
    let at = |i: usize| usize::try_from(offsets.value(i)).unwrap_or(0).min(text.len());
    let number = |list: &Option<Vec<Option<f64>>>, i: usize| *list.as_ref()?.get(i)?;
    let token = |i: usize| {
        let end = if i + 1 < offsets.len() { at(i + 1) } else { text.len() };
        let bytes = text.as_bytes().get(at(i)..end).unwrap_or_default();
        let perplexity = number(&logprobs, i).map(|logprob| (-logprob).exp());
        Token {
            text: String::from_utf8_lossy(bytes).into_owned(),
            perplexity: perplexity.or_else(|| number(&direct, i)),
            is_trained: mask.filter(|mask| i < mask.len()).map(|mask| mask.value(i)),
        }
    };
    let end = offsets.len().min(begin.saturating_add(TOKENS));
    Some(((begin..end).map(token).collect(), end < offsets.len()))
}

/// The beginning of a text.
fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Chooses the nodes whose rows are shown: of each stage the first one of each arm.
pub(super) fn samples(graph: &Graph, stages: &Stages, tables: &Tables) -> Vec<SampleTable> {
    let mut found = Vec::new();
    for (stage, ids) in stages.nodes.iter().enumerate() {
        let mut seen: Vec<&str> = Vec::new();
        for id in ids {
            let arm = stages.arm(graph.node(*id));
            if tables.outputs(*id).is_empty() || seen.contains(&arm) {
                continue;
            }
            if seen.len() == NODES {
                break;
            }
            seen.push(arm);
            // The steps of a training are drawn as its curve.
            let outputs = tables.outputs(*id).iter().filter(|(name, _)| name != LOG);
            found.extend(outputs.map(|(name, table)| SampleTable {
                stage,
                node: id.0,
                output: (name != MAIN).then(|| name.clone()),
                rows: table.rows,
                columns: table.columns.clone(),
                samples: table.samples.clone(),
            }));
        }
    }
    found
}
