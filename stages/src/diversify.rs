//! The kind `diversify`: keeps some rows of a table, and measures how diverse its responses are.
//!
//! At most one way to choose rows or columns (`keep`, `dedupe`, `select`, `join`, `mix` or
//! `replace`), then any metrics (`measure`) and their bounds (`require`). Without a way to choose
//! the table passes unchanged.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use refrain_cache::{Artifact, ArtifactKind, Metric};
use refrain_engine::kind::{
    Context, Kind, Model, NodeResult, OutputDecl, Parameters, StageError, Table, one_of, parameters,
};

use crate::canonical::{self, FindModel};
use crate::components;
use crate::models;
use crate::tables::{self, metric};

mod between;
mod bleu;
mod check;
mod chosen;
mod column_statistics;
mod combine;
mod dcscore;
mod dedupe;
mod distinct;
mod embedded;
mod groups;
mod join;
mod keep;
mod lexical;
mod masks;
mod measure;
mod metrics;
mod minhash;
mod mix;
mod neighbours;
mod overlap;
mod replace;
mod require;
mod sample;
mod select;
mod similarity;
mod spectrum;
mod words;

use column_statistics::{ColumnMeasure, ColumnValues};
use dcscore::DcscoreParams;
use dedupe::Dedupe;
use join::Join;
use keep::KeepRule;
use measure::{Measure, Measures};
use metrics::METRICS;
use mix::MixPart;
use replace::Replace;
use require::{MetricBounds, Search};
use select::SelectRule;
use words::Words;

/// The kind `diversify`.
pub const DIVERSIFY: Kind = Kind {
    name: "diversify",
    about: "Keeps some rows of a table, and measures how diverse its responses are",
    components: &[components::DIVERSIFY, components::EMBED, components::LM, components::TABLE],
    versions: None,
    params: DiversifyParams::PARAMS,
    adds: &[embedded::COLUMN],
    outputs,
    metrics: METRICS,
    check: check::check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: false,
    retryable: false,
    tokens: None,
    over: None,
    served: &[],
    requests: None,
    memory: None,
    run,
};

parameters! {
    /// The parameters of `diversify`.
    struct DiversifyParams {
        /// The table; `mix` has its own
        data: Option<&Table>,
        /// Keeps the best rows of each group
        keep: Option<KeepRule>,
        /// Keeps the first of rows that are equal in prompt and response or in columns, or alike in
        /// their words or in meaning
        dedupe: Option<Dedupe>,
        /// Adds the columns of a second table, row by row of equal keys
        join: Option<Join>,
        /// Rows of several tables, drawn by the seed: a larger share holds the rows of a smaller
        /// one. With `total` the mixture stays as large; where an entry has `rows`, that part does
        mix: Option<Vec<MixPart>>,
        /// Rows of the mixture, where all its entries have shares
        #[range(0..)]
        total: Option<u64>,
        /// Puts paraphrases in the place of as many rows
        replace: Option<Replace>,
        /// Keeps a given number of rows that stand for all
        select: Option<SelectRule>,
        /// Metrics of the kept rows, each described in docs/diversity.md: of the responses' words,
        /// of their embeddings, and between them and those of `against`; and statistics of columns,
        /// `{ column: perplexity, of: [mean, q90] }`
        measure: Vec<MeasureParam> = [],
        /// Bounds of metrics by name: the stage fails where one does not hold, and names the rows
        /// that are most to blame
        require: Option<BTreeMap<String, MetricBounds>>,
        /// Columns whose equal values make a group: all is measured for each too, in a second table
        /// `NAME.groups`
        per: Option<Vec<String>>,
        /// A second table, with which the responses are compared
        against: Option<&Table>,
        /// The words of a text: `whitespace` (split at white space, case kept; the default), or
        /// `lower_words` (lower case; runs of letters, digits and underscores, and single other
        /// characters)
        words: Option<Words>,
        /// The similarities of `dcscore`
        dcscore: Option<DcscoreParams>,
        /// The k of `neighbour_precision` and `neighbour_recall` (3)
        #[range(1..)]
        neighbourhood: Option<usize>,
        /// Rows, drawn by `seed`, on which measures that compare all pairs are computed where there
        /// are more (4000 for `vendi_ngram`, `vendi_unigram` and `mmd`, 20000 for
        /// `jaccard_distance`, `neighbour_precision` and `neighbour_recall`, all for `dcscore`)
        #[range(2..)]
        sample: Option<usize>,
        /// Nearest other rows of each row by the cosine of their embeddings, in a second table
        /// `NAME.neighbours`
        #[range(1..)]
        neighbours: Option<usize>,
        /// The model that embeds responses: a BERT of sentence-transformers, or the mean of a
        /// decoder's last states. Without it the column `embedding` is taken
        embeddings: Option<&Model>,
        /// Adds the column `embedding`, the vector of each response
        embed: Option<bool>,
        /// The seed of `keep: { random: true }`, `select`, `sample`, `mix` and `replace`
        #[range(0..)]
        seed: u64 = 0,
    }
}

one_of! {
    /// An item of `measure`.
    enum MeasureParam {
        Word(Measure),
        Column(ColumnMeasure),
    }
}

fn outputs(params: &Map<String, Value>) -> Vec<OutputDecl> {
    let mut outputs = tables::table_and_metrics(params);
    if params.contains_key("per") {
        outputs.push(OutputDecl { name: "groups".into(), kind: ArtifactKind::Table });
    }
    if params.contains_key("neighbours") {
        outputs.push(OutputDecl { name: "neighbours".into(), kind: ArtifactKind::Table });
    }
    outputs
}

fn canonicalize(params: &mut Map<String, Value>, _: FindModel<'_>) {
    if let Some(Value::Object(keep)) = params.get_mut("keep") {
        keep::canonicalize(keep);
    }
    if let Some(dedupe) = params.get_mut("dedupe") {
        dedupe::canonicalize(dedupe);
    }
    canonical::remove_default(params, "embed", &Value::Bool(false));
    canonical::remove_default(params, "words", &Words::Whitespace.word().into());
    canonical::remove_default(params, "neighbourhood", &measure::NEIGHBOURHOOD.into());
    canonical::remove_default(params, "dcscore", &DcscoreParams::default_value());
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: DiversifyParams = ctx.parameters()?;
    let mut metrics = Vec::new();
    let (mut table, rows_in) = match &params.mix {
        Some(parts) => {
            let (table, rows_in, counts) = mix::mix(ctx, parts, params.total, params.seed)?;
            metrics.extend(counts);
            (table, rows_in)
        }
        None => {
            let data = ctx.input("data")?.artifact();
            (choose(ctx, &params, data, &mut metrics)?, rows_of(data)?)
        }
    };
    let rows_out = rows_of(&table)?;
    metrics.insert(0, metric("rows_in", rows_in as f64, rows_in));
    metrics.insert(1, metric("rows_out", rows_out as f64, rows_in));

    let path_of = |table: &Artifact| match ctx.inputs.get("data") {
        Some(data) if data.artifact().digest == table.digest => ctx.table("data").cloned(),
        _ => Ok(ctx.cache.object_path(&table.digest)),
    };
    if params.embed == Some(true) {
        let path = path_of(&table)?;
        table = models::on_threads(ctx.resources.threads, || embedded::store(ctx, &path))?;
    }
    let path = path_of(&table)?;
    let (mut words, mut columns) = (Vec::new(), Vec::new());
    for item in &params.measure {
        match item {
            MeasureParam::Word(word) => words.push(*word),
            MeasureParam::Column(column) => columns.push(column.clone()),
        }
    }
    let per = params.per.clone().unwrap_or_default();
    let values = match columns.is_empty() && per.is_empty() {
        true => None,
        false => Some(ColumnValues::read(ctx, &path, &columns, &per)?),
    };
    let groups = values.as_ref().filter(|_| !per.is_empty()).map(ColumnValues::groups);
    let measures = Measures::new(&words, &params);
    let measured = measure::measure(ctx, &measures, &path, groups)?;
    metrics.extend(measured.metrics);
    metrics.extend(values.iter().flat_map(ColumnValues::metrics));
    if let Some(bounds) = &params.require {
        let search = Search { table: &path, words: measures.words, columns: &columns };
        require::hold(ctx, bounds, &metrics, &search)?;
    }

    let profile =
        if ctx.inputs.contains_key("embeddings") { models::profile() } else { String::new() };
    let mut result = NodeResult { profile, metrics, ..NodeResult::main(table) };
    if let Some(values) = values.filter(|_| !per.is_empty()) {
        result.artifacts.insert("groups".into(), values.store_groups(ctx, &measured.of_groups)?);
    }
    if let Some(count) = params.neighbours {
        result.artifacts.insert("neighbours".into(), neighbours::store(ctx, &path, count)?);
    }
    Ok(result)
}

/// Writes the rows or columns that are chosen; the input itself where nothing is.
fn choose(
    ctx: &Context<'_>,
    params: &DiversifyParams,
    data: &Artifact,
    metrics: &mut Vec<Metric>,
) -> Result<Artifact, StageError> {
    let words = params.words.unwrap_or(Words::Whitespace);
    match params {
        DiversifyParams { keep: Some(keep), .. } => kept(ctx, keep, params.seed, metrics),
        DiversifyParams { dedupe: Some(dedupe), .. } => {
            tables::pick_rows(ctx, "data", &dedupe::choose(ctx, dedupe, words)?)
        }
        DiversifyParams { select: Some(select), .. } => {
            tables::pick_rows(ctx, "data", &select::choose(ctx, select, params.seed)?)
        }
        DiversifyParams { join: Some(join), .. } => {
            let joined = join::join(ctx, join)?;
            metrics.push(metric("unmatched", joined.unmatched as f64, rows_of(data)?));
            Ok(joined.table)
        }
        DiversifyParams { replace: Some(replace), .. } => {
            let (table, counts) = replace::replace(ctx, replace, params.seed)?;
            metrics.extend(counts);
            Ok(table)
        }
        _ => Ok(data.clone()),
    }
}

/// Writes the rows that `keep` chooses.
fn kept(
    ctx: &Context<'_>,
    keep: &KeepRule,
    seed: u64,
    metrics: &mut Vec<Metric>,
) -> Result<Artifact, StageError> {
    let chosen = keep::choose(ctx, keep, seed)?;
    let (rows, groups, groups_kept) = (chosen.rows, chosen.groups, chosen.groups_kept);
    metrics.push(metric("groups", groups as f64, rows));
    metrics.push(metric("groups_kept", groups_kept as f64, groups));
    let chosen = chosen::store(ctx, keep, chosen)?;
    if keep.fallback.is_some() {
        metrics.push(metric("from_reference", chosen.from_reference as f64, groups));
    }
    if chosen.left_out > 0 {
        let left_out = chosen.left_out;
        ctx.progress.note(format!("{left_out} groups have neither a candidate nor a reference"));
    }
    Ok(chosen.table)
}

fn rows_of(table: &Artifact) -> Result<u64, StageError> {
    table.rows.ok_or_else(|| StageError::bug("a table's rows were not counted"))
}
