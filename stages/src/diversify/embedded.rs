//! The embeddings of a table's responses: of a model, by row from the row memo where it knows them,
//! or of the table's own column.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Builder, ListBuilder, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use rayon::prelude::*;
use serde_json::json;

use refrain_cache::columns::column;
use refrain_cache::{Artifact, TableReader};
use refrain_engine::kind::{Component, Context, Input, StageError};
use refrain_lm::embed::{EmbedError, Embedder};
use refrain_lm::model::ModelPath;

use crate::components;
use crate::memo::{self, Memo};
use crate::models::{self, failed, model_failed};
use crate::tables::{self, arrow_bug, list_of, row_name};

use super::between::Points;
use super::similarity::Vectors;

/// The column that holds the vector of each response.
pub(super) const COLUMN: &str = "embedding";

/// The components that a vector depends on.
const ROW: [Component; 2] = [components::EMBED, components::LM];

/// Texts that are embedded between two looks at whether to stop.
const PIECE: usize = 128;

/// The vectors of a table's responses.
pub(super) struct Embedded {
    values: Vec<f32>,
    width: usize,
    /// For each vector the number of its row; rows without a response have none.
    pub rows: Vec<u64>,
    /// Number of rows of the table.
    pub all: u64,
}

impl Embedded {
    /// The length of a vector.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The vectors as they are.
    pub(super) fn points(&self) -> Points<'_> {
        Points { values: &self.values, width: self.width }
    }

    /// The vectors scaled to unit length.
    pub(super) fn vectors(&self) -> Vectors {
        Vectors::new(&self.values, self.width)
    }

    /// Some of the vectors, by their places among them.
    pub(super) fn some(&self, places: &[usize]) -> Embedded {
        let vector = |place: &usize| &self.values[place * self.width..][..self.width];
        Embedded {
            values: places.iter().flat_map(vector).copied().collect(),
            width: self.width,
            rows: places.iter().map(|place| self.rows[*place]).collect(),
            all: self.all,
        }
    }

    /// A column with the vector of each row of the table.
    fn column(&self) -> ArrayRef {
        let mut lists = ListBuilder::new(Float32Builder::new());
        let mut next = 0;
        for row in 0..self.all {
            let known = self.rows.get(next) == Some(&row);
            if known {
                lists.values().append_slice(&self.values[next * self.width..][..self.width]);
                next += 1;
            }
            lists.append(known);
        }
        Arc::new(lists.finish())
    }
}

/// Reads or computes the vectors of a table; they alone are held together.
pub(super) fn embed(ctx: &Context<'_>, table: &Path) -> Result<Embedded, StageError> {
    let embedded = match ctx.inputs.contains_key("embeddings") {
        true => by_model(ctx, table)?,
        false => of_column(ctx, table)?,
    };
    if embedded.values.iter().any(|value| !value.is_finite()) {
        return Err(StageError::failed("the embeddings of some texts are not finite"));
    }
    Ok(embedded)
}

/// Writes a table with the column of vectors.
pub(super) fn store(ctx: &Context<'_>, table: &Path) -> Result<Artifact, StageError> {
    let column = embed(ctx, table)?.column();
    let reader = TableReader::open(table)?;
    let added = [(COLUMN, list_of(DataType::Float32))];
    let mut writer = ctx.cache.new_table(tables::with_fields(reader.schema(), &added))?;
    let mut first = 0;
    for batch in reader.batches(None, tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let vectors = column.slice(first, batch.num_rows());
        first += batch.num_rows();
        writer.write(&refrain_cache::columns::with_column(&batch, COLUMN, vectors)?)?;
    }
    Ok(ctx.cache.store_table(writer)?)
}

fn of_column(ctx: &Context<'_>, table: &Path) -> Result<Embedded, StageError> {
    let reader = TableReader::open(table)?;
    let mut embedded = Embedded { values: Vec::new(), width: 0, rows: Vec::new(), all: 0 };
    let known = |name: &&str| reader.schema().field_with_name(name).is_ok();
    let wanted: Vec<&str> = ["id", COLUMN].into_iter().filter(known).collect();
    for batch in reader.batches(Some(&wanted), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        let lists =
            batch.column_by_name(COLUMN).map(|lists| cast(lists, &list_of(DataType::Float32)));
        let lists = lists.transpose().map_err(arrow_bug)?;
        let lists = lists
            .ok_or_else(|| StageError::failed(format!("the table has no column `{COLUMN}`")))?;
        let lists = lists.as_list::<i32>();
        for row in (0..lists.len()).filter(|row| lists.is_valid(*row)) {
            let vector = lists.value(row);
            let vector = vector.as_primitive::<Float32Type>();
            if embedded.rows.is_empty() {
                embedded.width = vector.len();
            }
            if vector.is_empty() || vector.len() != embedded.width || vector.null_count() > 0 {
                let row = row_name(&batch, embedded.all, row);
                return Err(StageError::failed(format!(
                    "{row}: `{COLUMN}` has the length {}, and those before it have {}",
                    vector.len() - vector.null_count(),
                    embedded.width
                )));
            }
            embedded.values.extend_from_slice(vector.values());
            embedded.rows.push(embedded.all + row as u64);
        }
        embedded.all += batch.num_rows() as u64;
    }
    Ok(embedded)
}

fn by_model(ctx: &Context<'_>, table: &Path) -> Result<Embedded, StageError> {
    let embedder = load(ctx.input("embeddings")?)?;
    let memo = Memo::of_model(ctx, "embeddings", models::profile(), &ROW, json!({}))?;
    let reader = TableReader::open(table)?;
    let (mut values, mut rows, mut all) = (Vec::new(), Vec::new(), 0);
    for batch in reader.batches(Some(&["response"]), tables::BATCH_ROWS)? {
        let batch = batch?;
        let responses = column::<StringArray>(&batch, "response")?;
        let (numbers, texts): (Vec<u64>, Vec<&str>) =
            (all..).zip(responses).filter_map(|(row, text)| Some((row, text?))).unzip();
        // In pieces, so that a stop is heard and what is done is kept.
        for (numbers, texts) in numbers.chunks(PIECE).zip(texts.chunks(PIECE)) {
            ctx.cancel.check()?;
            values.extend(piece(ctx, &embedder, &memo, numbers, texts)?);
        }
        rows.extend(numbers);
        all += batch.num_rows() as u64;
        ctx.progress.set(all, Some(reader.rows()), "texts");
    }
    Ok(Embedded { values, width: embedder.width(), rows, all })
}

/// The vectors of a few texts, those that no earlier run computed by the model.
fn piece(
    ctx: &Context<'_>,
    embedder: &Embedder,
    memo: &Memo,
    numbers: &[u64],
    texts: &[&str],
) -> Result<Vec<f32>, StageError> {
    let width = embedder.width();
    let ids: Result<Vec<Vec<u32>>, _> =
        texts.par_iter().map(|text| embedder.tokens(text)).collect();
    let ids = ids.map_err(|error| embed_failed(error, numbers))?;
    let keys: Vec<_> = ids.iter().map(|ids| memo::digest_of_tokens(ids)).collect();
    let known = keys.par_iter().map(|key| {
        let entry = memo.get(key)?;
        Ok(entry.and_then(|bytes| memo::floats(&bytes, width)))
    });
    let known: Result<Vec<Option<Vec<f32>>>, StageError> = known.collect();
    let known = known?;

    let missing: Vec<usize> = (0..known.len()).filter(|place| known[*place].is_none()).collect();
    let (rows, ids): (Vec<u64>, Vec<Vec<u32>>) =
        missing.iter().map(|place| (numbers[*place], ids[*place].clone())).unzip();
    let computed = embedder.embed_tokens(&ids, ctx.resources.batch);
    let computed = computed.map_err(|error| embed_failed(error, &rows))?;
    let mut computed = computed.chunks_exact(width);
    let entries: Vec<_> = missing
        .iter()
        .zip(computed.clone())
        .map(|(place, vector)| (keys[*place], memo::floats_to_bytes(vector)))
        .collect();
    memo.put(&entries)?;

    let mut values = Vec::with_capacity(texts.len() * width);
    for known in &known {
        match known {
            Some(vector) => values.extend_from_slice(vector),
            None => values.extend_from_slice(computed.next().unwrap_or_default()),
        }
    }
    Ok(values)
}

fn load(input: &Input) -> Result<Embedder, StageError> {
    match input {
        Input::Model { folder, adapters, .. } => {
            models::check_layout(folder)?;
            let path = ModelPath { folder: folder.clone(), adapters: adapters.clone() };
            Embedder::load(&path).map_err(|error| embed_failed(error, &[]))
        }
        _ => Err(StageError::bug("an input that should be a model is none")),
    }
}

/// The model code counts the texts that it was given; people know the table's rows.
fn embed_failed(error: EmbedError, rows: &[u64]) -> StageError {
    match error {
        EmbedError::Model(error) => model_failed(error),
        EmbedError::Empty(text) => StageError::with_hint(
            format!(
                "row {}: the response is empty, and the tokenizer of `embeddings` adds no token of its own",
                rows.get(text).copied().unwrap_or_default()
            ),
            "leave empty responses out, or embed with a BERT model",
        ),
        other => failed(other),
    }
}
