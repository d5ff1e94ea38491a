//! The kind `diversify`: keeps some rows of a table, and measures how diverse its responses are.
//!
//! At most one way to choose rows (`keep` or `dedupe`), then any metrics (`measure`). Without a way
//! to choose the table passes unchanged, and is only measured.

use arrow::array::StringArray;
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use refrain_cache::columns::column;
use refrain_cache::{Artifact, Metric, TableReader};
use refrain_engine::kind::{
    Check, Columns, Context, Kind, MetricContext, MetricDecl, Model, NodeResult, Parameters,
    Problem, StageError, Table, choices, parameters,
};

use crate::canonical::FindModel;
use crate::components;
use crate::models;
use crate::tables::{self, metric, share};

mod dedupe;
mod distinct;
mod embedded;
mod keep;
mod similarity;

use dedupe::Dedupe;
use distinct::Distinct;
use keep::KeepRule;

/// The metrics of `diversify`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("rows_in", "Rows of the input"),
    MetricDecl::always("rows_out", "Rows kept"),
    MetricDecl::given("groups", "Groups of `keep`", |context| with_keep(context, "groups")),
    MetricDecl::given("groups_kept", "Groups of which a row is kept", |context| {
        with_keep(context, "groups_kept")
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
    outputs: tables::table_and_metrics,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: false,
    retryable: false,
    tokens: None,
    run,
};

parameters! {
    /// The parameters of `diversify`.
    struct DiversifyParams {
        /// The table
        data: &Table,
        /// Keeps the best rows of each group
        keep: Option<KeepRule>,
        /// Keeps the first of equal rows: equal in prompt and response, in columns, or in meaning
        dedupe: Option<Dedupe>,
        /// Metrics of the kept rows: different n-grams by all n-grams of the responses, split at
        /// white space; and by the cosines of their embeddings the Vendi score, DCScore and the
        /// mean distance of two
        measure: Vec<Measure> = [],
        /// The model that embeds responses: a BERT of sentence-transformers, or the mean of a
        /// decoder's last states
        embeddings: Option<&Model>,
        /// The seed of `keep: { random: true }`
        #[range(0..)]
        seed: u64 = 0,
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

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let given = |name: &str| check.params.contains_key(name);
    let measures =
        check.params.get("measure").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if given("keep") && given("dedupe") {
        let problem = Problem::at("dedupe", "`dedupe` cannot stand beside `keep`");
        problems.push(problem.hint("make two stages, one reading the other"));
    }
    if !given("keep") && !given("dedupe") && !measures {
        problems.push(
            Problem::at("", "it has nothing to do").hint("give `keep`, `dedupe` or `measure`"),
        );
    }
    if let Some(keep) = check.params.get("keep").and_then(Value::as_object) {
        keep::check(check, keep, problems);
    }
    if let Some(dedupe) = check.params.get("dedupe") {
        dedupe::check(check, dedupe, problems);
    }
    if measures {
        check.need(problems, "data", "response", &[DataType::Utf8]);
    }
    check_embeddings(check, problems);
    (check.columns)("data")
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
    let data = ctx.input("data")?.artifact();
    let mut metrics = Vec::new();
    let table = match &params {
        DiversifyParams { keep: Some(keep), .. } => {
            let chosen = keep::choose(ctx, keep, params.seed)?;
            metrics.push(metric("groups", chosen.groups as f64, chosen.rows));
            metrics.push(metric("groups_kept", chosen.groups_kept as f64, chosen.groups));
            tables::pick_rows(ctx, "data", &chosen.order)?
        }
        DiversifyParams { dedupe: Some(dedupe), .. } => {
            tables::pick_rows(ctx, "data", &dedupe::choose(ctx, dedupe)?)?
        }
        _ => data.clone(),
    };
    let rows_in = rows_of(data)?;
    let rows_out = rows_of(&table)?;
    metrics.insert(0, metric("rows_in", rows_in as f64, rows_in));
    metrics.insert(1, metric("rows_out", rows_out as f64, rows_in));
    metrics.extend(measure(ctx, &params.measure, &table)?);
    let profile =
        if ctx.inputs.contains_key("embeddings") { models::profile() } else { String::new() };
    Ok(NodeResult { metrics, profile, ..NodeResult::main(table) })
}

fn rows_of(table: &Artifact) -> Result<u64, StageError> {
    table.rows.ok_or_else(|| StageError::bug("a table's rows were not counted"))
}

/// The metrics of a table's responses; rows without one do not count.
fn measure(
    ctx: &Context<'_>,
    measures: &[Measure],
    table: &Artifact,
) -> Result<Vec<Metric>, StageError> {
    if measures.is_empty() {
        return Ok(Vec::new());
    }
    let data = ctx.input("data")?.artifact();
    let path = match table.digest == data.digest {
        true => ctx.table("data")?.clone(),
        false => ctx.cache.object_path(&table.digest),
    };

    let mut distinct = Distinct::new(measures.iter().filter_map(|measure| measure.length()));
    for batch in TableReader::open(&path)?.batches(Some(&["response"]), tables::BATCH_ROWS)? {
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
        metrics.extend(embedded::measure(ctx, &embedded, &path)?);
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
