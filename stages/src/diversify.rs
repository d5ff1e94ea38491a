//! The kind `diversify`: keeps some rows of a table, and measures how diverse its responses are.
//!
//! At most one way to choose rows or columns (`keep`, `dedupe`, `join`, `mix` or `replace`), then
//! any metrics (`measure`). Without a way to choose the table passes unchanged, and is only measured.

use std::path::{Path, PathBuf};

use arrow::array::StringArray;
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_cache::columns::column;
use refrain_cache::{Artifact, ArtifactKind, Metric, TableReader};
use refrain_engine::kind::{
    Check, Columns, Context, Kind, MetricContext, MetricDecl, Model, NodeResult, OutputDecl,
    Parameters, Problem, StageError, Table, choices, one_of, parameters,
};

use crate::canonical::FindModel;
use crate::components;
use crate::models;
use crate::tables::{self, metric, share};

mod chosen;
mod column_statistics;
mod combine;
mod dedupe;
mod distinct;
mod embedded;
mod groups;
mod join;
mod keep;
mod mix;
mod replace;
mod similarity;

use column_statistics::{ColumnMeasure, ColumnValues, of_measure};
use dedupe::Dedupe;
use distinct::Distinct;
use join::Join;
use keep::KeepRule;
use mix::MixPart;
use replace::Replace;

/// The metrics of `diversify`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("rows_in", "Rows of the input"),
    MetricDecl::always("rows_out", "Rows kept"),
    MetricDecl::given("groups", "Groups of `keep`", |context| with_keep(context, "groups")),
    MetricDecl::given("groups_kept", "Groups of which a row is kept", |context| {
        with_keep(context, "groups_kept")
    }),
    MetricDecl::given("from_reference", "Rows whose response is the reference", |context| {
        let keep = context.params.get("keep");
        let fallback = keep.is_some_and(|keep| keep.get("fallback").is_some());
        fallback.then(|| "from_reference".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("unmatched", "Rows that the second table has not", |context| {
        context.params.get("join").map(|_| "unmatched".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("mixed_N", "Rows of the entries of `mix`, by place", |context| {
        let parts = context.params.get("mix").and_then(Value::as_array).map_or(0, Vec::len);
        (0..parts).map(|place| format!("mixed_{place}")).collect()
    }),
    MetricDecl::given("replaced", "Rows that paraphrases took the place of", |context| {
        context.params.get("replace").map(|_| "replaced".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("originals", "Originals whose paraphrases were taken", |context| {
        context.params.get("replace").map(|_| "originals".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("COLUMN_STATISTIC", "Statistics of columns", |context| {
        let columns = of_measure(context.params.get("measure"));
        columns.iter().flat_map(|(_, column)| column.metric_names()).collect()
    }),
    MetricDecl::given("distinct_N", "Distinct n-grams of the responses per n-gram", |context| {
        measured(context, |name| name.starts_with("distinct_"))
    }),
    MetricDecl::given("vendi", "Vendi score of the responses' embeddings", |context| {
        measured(context, |name| name == "vendi")
    }),
    MetricDecl::given("dcscore", "DCScore of the responses' embeddings", |context| {
        measured(context, |name| name == "dcscore")
    }),
    MetricDecl::given("cosine_distance", "Mean distance of two responses' embeddings", |context| {
        measured(context, |name| name == "cosine_distance")
    }),
];

fn with_keep(context: MetricContext<'_>, name: &str) -> Vec<String> {
    context.params.get("keep").map(|_| name.to_owned()).into_iter().collect()
}

fn measured(context: MetricContext<'_>, wanted: fn(&str) -> bool) -> Vec<String> {
    let measures = context.params.get("measure").and_then(Value::as_array).into_iter().flatten();
    measures.filter_map(Value::as_str).filter(|name| wanted(name)).map(str::to_owned).collect()
}

/// The kind `diversify`.
pub const DIVERSIFY: Kind = Kind {
    name: "diversify",
    about: "Keeps some rows of a table, and measures how diverse its responses are",
    components: &[components::DIVERSIFY, components::EMBED, components::LM, components::TABLE],
    params: DiversifyParams::PARAMS,
    adds: &[],
    outputs,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: false,
    retryable: false,
    tokens: None,
    over: None,
    run,
};

parameters! {
    /// The parameters of `diversify`.
    struct DiversifyParams {
        /// The table; `mix` has its own
        data: Option<&Table>,
        /// Keeps the best rows of each group
        keep: Option<KeepRule>,
        /// Keeps the first of equal rows: equal in prompt and response, in columns, or in meaning
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
        /// Metrics of the kept rows: different n-grams by all n-grams of the responses, split at
        /// white space; by the cosines of their embeddings the Vendi score, DCScore and the mean
        /// distance of two; and statistics of columns, `{ column: perplexity, of: [mean, q90] }`
        measure: Vec<MeasureParam> = [],
        /// Columns whose equal values make a group: the statistics of columns are measured for each
        /// too, in a second table `NAME.groups`
        per: Option<Vec<String>>,
        /// The model that embeds responses: a BERT of sentence-transformers, or the mean of a
        /// decoder's last states
        embeddings: Option<&Model>,
        /// The seed of `keep: { random: true }`, `mix` and `replace`
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

choices! {
    /// A measure of diversity.
    enum Measure {
        Distinct1 = "distinct_1",
        Distinct2 = "distinct_2",
        Distinct3 = "distinct_3",
        Distinct4 = "distinct_4",
        Vendi = "vendi",
        Dcscore = "dcscore",
        CosineDistance = "cosine_distance",
    }
}

fn outputs(params: &Map<String, Value>) -> Vec<OutputDecl> {
    let mut outputs = tables::table_and_metrics(params);
    if params.contains_key("per") {
        outputs.push(OutputDecl { name: "groups".into(), kind: ArtifactKind::Table });
    }
    outputs
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    if !check_data(check, problems) {
        return None;
    }
    let record = |name: &str| check.params.get(name).and_then(Value::as_object);
    let ways: Vec<&str> = ["keep", "dedupe", "join", "mix", "replace"]
        .into_iter()
        .filter(|name| check.params.contains_key(*name))
        .collect();
    if let [first, second, ..] = ways.as_slice() {
        let problem = Problem::at(*second, format!("`{second}` cannot stand beside `{first}`"));
        problems.push(problem.hint("make two stages, one reading the other"));
    }
    if let Some(keep) = record("keep") {
        keep::check(check, keep, problems);
    }
    if let Some(dedupe) = check.params.get("dedupe") {
        dedupe::check(check, dedupe, problems);
    }
    check_measure(check, ways.is_empty(), problems);
    check_embeddings(check, problems);

    match ways.as_slice() {
        ["mix", ..] => {
            let total = check.params.get("total").and_then(Value::as_u64);
            mix::check(check, check.params.get("mix")?, total, problems)
        }
        ["replace", ..] => replace::check(check, record("replace")?, problems),
        ["join", ..] => join::check(check, record("join")?, problems),
        ["keep", ..] => {
            let keep = record("keep")?;
            let ranks = keep.get("ranks") == Some(&Value::Bool(true));
            let schema = (check.columns)("data")?;
            Some(chosen::schema(&schema, ranks, keep.contains_key("fallback")))
        }
        _ => (check.columns)("data"),
    }
}

/// Checks that the table is named in one place; whether there is one.
fn check_data(check: &Check<'_>, problems: &mut Vec<Problem>) -> bool {
    let given = check.inputs.iter().any(|input| input == "data");
    match check.params.contains_key("mix") {
        true if given => {
            let problem = Problem::at("data", "`mix` names its tables itself");
            problems.push(problem.hint("leave `data` out, or make it an entry of `mix`"));
        }
        false if !given => {
            let problem = Problem::at("", "`diversify` needs `data`");
            problems.push(problem.hint("`data`: the table"));
            return false;
        }
        _ => {}
    }
    if check.params.contains_key("total") && !check.params.contains_key("mix") {
        let problem = Problem::at("total", "`total` is the size of a mixture");
        problems.push(problem.hint("leave it out, or give `mix`"));
    }
    true
}

fn check_measure(check: &Check<'_>, alone: bool, problems: &mut Vec<Problem>) {
    let measures = check.params.get("measure").and_then(Value::as_array);
    let measures = measures.map(Vec::as_slice).unwrap_or_default();
    if alone && measures.is_empty() {
        let problem = Problem::at("", "it has nothing to do");
        problems.push(problem.hint("give `keep`, `dedupe`, `join`, `mix`, `replace` or `measure`"));
    }
    if measures.iter().any(Value::is_string) {
        check.need(problems, "data", "response", &[DataType::Utf8]);
    }
    let columns = of_measure(check.params.get("measure"));
    for (i, column) in &columns {
        column.check(&format!("measure[{i}]"), check, problems);
    }
    let per = check.params.get("per").and_then(Value::as_array).into_iter().flatten();
    per.filter_map(Value::as_str).for_each(|name| check.need(problems, "data", name, &[]));
    if check.params.contains_key("per") && columns.is_empty() {
        let problem = Problem::at("per", "`per` needs a column in `measure`");
        problems.push(problem.hint("for example `measure: [{ column: perplexity, of: [mean] }]`"));
    }
}

fn canonicalize(params: &mut Map<String, Value>, _: FindModel<'_>) {
    if let Some(Value::Object(keep)) = params.get_mut("keep") {
        keep::canonicalize(keep);
    }
}

/// Checks that `embeddings` is given where something needs it, and only there.
fn check_embeddings(check: &Check<'_>, problems: &mut Vec<Problem>) {
    let measure = check.params.get("measure").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&str> = measure.filter_map(Value::as_str).collect();
    let semantic = check.params.get("dedupe").and_then(|dedupe| dedupe.get("semantic")).is_some();
    let place = match names.iter().position(|name| embedded::MEASURES.contains(name)) {
        _ if semantic => Some("dedupe.semantic".to_owned()),
        place => place.map(|place| format!("measure[{place}]")),
    };
    let given = check.inputs.iter().any(|input| input == "embeddings");
    match place {
        Some(at) if !given => {
            let problem = Problem::at(at, "it needs a model for `embeddings`");
            problems
                .push(problem.hint(
                    "add `embeddings: MODEL`, for example of a sentence-transformers folder",
                ));
        }
        None if given => {
            let problem = Problem::at("embeddings", "nothing here uses embeddings");
            let uses = embedded::MEASURES.map(|name| format!("`{name}`")).join(", ");
            problems.push(
                problem.hint(format!("measure one of {uses}, or `dedupe: {{ semantic: 0.9 }}`")),
            );
        }
        _ => {}
    }
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: DiversifyParams = ctx.parameters()?;
    let mut metrics = Vec::new();
    if let Some(parts) = &params.mix {
        let (table, rows_in, counts) = mix::mix(ctx, parts, params.total, params.seed)?;
        let path = ctx.cache.object_path(&table.digest);
        return finish(ctx, params, Made { table, path, rows_in, metrics: counts });
    }
    let data = ctx.input("data")?.artifact();
    let table = match &params {
        DiversifyParams { keep: Some(keep), .. } => kept(ctx, keep, params.seed, &mut metrics)?,
        DiversifyParams { dedupe: Some(dedupe), .. } => {
            tables::pick_rows(ctx, "data", &dedupe::choose(ctx, dedupe)?)?
        }
        DiversifyParams { join: Some(join), .. } => {
            let joined = join::join(ctx, join)?;
            metrics.push(metric("unmatched", joined.unmatched as f64, rows_of(data)?));
            joined.table
        }
        DiversifyParams { replace: Some(replace), .. } => {
            let (table, counts) = replace::replace(ctx, replace, params.seed)?;
            metrics.extend(counts);
            table
        }
        _ => data.clone(),
    };
    let path = match table.digest == data.digest {
        true => ctx.table("data")?.clone(),
        false => ctx.cache.object_path(&table.digest),
    };
    finish(ctx, params, Made { table, path, rows_in: rows_of(data)?, metrics })
}

/// The table that a way to choose made.
struct Made {
    table: Artifact,
    path: PathBuf,
    rows_in: u64,
    metrics: Vec<Metric>,
}

/// Measures the table.
fn finish(
    ctx: &Context<'_>,
    params: DiversifyParams,
    made: Made,
) -> Result<NodeResult, StageError> {
    let Made { table, path, rows_in, mut metrics } = made;
    let rows_out = rows_of(&table)?;
    metrics.insert(0, metric("rows_in", rows_in as f64, rows_in));
    metrics.insert(1, metric("rows_out", rows_out as f64, rows_in));

    let (mut words, mut columns) = (Vec::new(), Vec::new());
    for item in params.measure {
        match item {
            MeasureParam::Word(word) => words.push(word),
            MeasureParam::Column(column) => columns.push(column),
        }
    }
    metrics.extend(measure(ctx, &words, &path)?);
    let profile =
        if ctx.inputs.contains_key("embeddings") { models::profile() } else { String::new() };
    let mut result = NodeResult { profile, ..NodeResult::main(table) };
    if !columns.is_empty() {
        let per = params.per.unwrap_or_default();
        let values = ColumnValues::read(ctx, &path, &columns, &per)?;
        metrics.extend(values.metrics());
        if !per.is_empty() {
            result.artifacts.insert("groups".into(), values.store_groups(ctx)?);
        }
    }
    result.metrics = metrics;
    Ok(result)
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

/// The metrics of a table's responses; rows without one do not count.
fn measure(
    ctx: &Context<'_>,
    measures: &[Measure],
    path: &Path,
) -> Result<Vec<Metric>, StageError> {
    if measures.is_empty() {
        return Ok(Vec::new());
    }

    let mut distinct = Distinct::new(measures.iter().filter_map(|measure| measure.length()));
    for batch in TableReader::open(path)?.batches(Some(&["response"]), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        column::<StringArray>(&batch, "response")?
            .iter()
            .flatten()
            .for_each(|text| distinct.add(text));
    }
    let counts = distinct.counts();
    let mut metrics: Vec<Metric> = counts
        .map(|(n, different, all)| metric(&format!("distinct_{n}"), share(different, all), all))
        .collect();

    let embedded: Vec<Measure> =
        measures.iter().copied().filter(|measure| measure.length().is_none()).collect();
    if !embedded.is_empty() {
        metrics.extend(embedded::measure(ctx, &embedded, path)?);
    }
    Ok(metrics)
}

impl Measure {
    /// Returns the length of the n-grams that it counts; `None` where it needs embeddings.
    fn length(self) -> Option<usize> {
        match self {
            Measure::Distinct1 => Some(1),
            Measure::Distinct2 => Some(2),
            Measure::Distinct3 => Some(3),
            Measure::Distinct4 => Some(4),
            Measure::Vendi | Measure::Dcscore | Measure::CosineDistance => None,
        }
    }
}
