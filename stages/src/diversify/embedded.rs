//! The embeddings of a table's responses, and what is measured or chosen by them.

use std::path::Path;

use arrow::array::StringArray;

use refrain_cache::columns::column;
use refrain_cache::{Metric, TableReader};
use refrain_engine::kind::{Context, Input, StageError};
use refrain_lm::embed::{EmbedError, Embedder};
use refrain_lm::model::ModelPath;

use crate::models::{self, failed, model_failed};
use crate::tables::{self, metric};

use super::Measure;
use super::similarity::Vectors;

/// The measures that need embeddings.
pub(super) const MEASURES: [&str; 3] = ["vendi", "dcscore", "cosine_distance"];

/// The vectors of a table's responses.
struct Embedded {
    vectors: Vectors,
    /// For each vector the number of its row; rows without a response have none.
    rows: Vec<u64>,
    /// Number of rows of the table.
    all: u64,
}

/// The metrics of a table's responses, in the order of `measures`; rows without one do not count.
pub(super) fn measure(
    ctx: &Context<'_>,
    measures: &[Measure],
    table: &Path,
) -> Result<Vec<Metric>, StageError> {
    models::on_threads(ctx.resources.threads, || {
        let Embedded { vectors, rows, .. } = embed(ctx, table)?;
        let value = |measure: &Measure| match measure {
            Measure::Vendi => Some(("vendi", vectors.vendi())),
            Measure::Dcscore => Some(("dcscore", vectors.dcscore())),
            Measure::CosineDistance => Some(("cosine_distance", vectors.mean_distance())),
            _ => None,
        };
        let values = measures.iter().filter_map(value);
        Ok(values.map(|(name, value)| metric(name, value, rows.len() as u64)).collect())
    })
}

/// The numbers of the rows to keep: the first of those whose responses have a cosine of at least
/// `threshold`, and all that have no response.
pub(super) fn unlike(ctx: &Context<'_>, threshold: f64) -> Result<Vec<u64>, StageError> {
    models::on_threads(ctx.resources.threads, || {
        let Embedded { vectors, rows, all } = embed(ctx, ctx.table("data")?)?;
        let mut keep = vec![true; all as usize];
        rows.iter().for_each(|row| keep[*row as usize] = false);
        vectors.unlike(threshold).into_iter().for_each(|i| keep[rows[i] as usize] = true);
        Ok((0..all).filter(|row| keep[*row as usize]).collect())
    })
}

/// Reads a table batch by batch; its vectors alone are held together.
fn embed(ctx: &Context<'_>, table: &Path) -> Result<Embedded, StageError> {
    let embedder = load(ctx.input("embeddings")?)?;
    let reader = TableReader::open(table)?;
    let (mut values, mut rows, mut all) = (Vec::new(), Vec::new(), 0);
    for batch in reader.batches(Some(&["response"]), tables::BATCH_ROWS)? {
        let batch = batch?;
        let responses = column::<StringArray>(&batch, "response")?;
        let (numbers, texts): (Vec<u64>, Vec<&str>) =
            (all..).zip(responses).filter_map(|(row, text)| Some((row, text?))).unzip();
        // In pieces, so that a stop is heard.
        for (numbers, texts) in numbers.chunks(PIECE).zip(texts.chunks(PIECE)) {
            ctx.cancel.check()?;
            let vectors = embedder.embed(texts, ctx.resources.batch);
            values.extend(vectors.map_err(|error| embed_failed(error, numbers))?);
        }
        rows.extend(numbers);
        all += batch.num_rows() as u64;
        ctx.progress.set(all, Some(reader.rows()), "texts");
    }
    let vectors = Vectors::new(values, embedder.width());
    let vectors =
        vectors.ok_or_else(|| StageError::failed("the embeddings of some texts are not finite"))?;
    Ok(Embedded { vectors, rows, all })
}

/// Texts that are embedded between two looks at whether to stop.
const PIECE: usize = 128;

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
