//! The kind `diversify`: keeps some rows of a table, and measures how diverse its responses are.
//!
//! At most one way to choose rows (`keep` or `dedupe`), then any figures (`measure`). Without a way to choose the table
//! passes unchanged, and is only measured.

use arrow::array::StringArray;
use arrow::datatypes::DataType;
use serde::Deserialize;
use serde_json::Value;

use refrain_cache::columns::column;
use refrain_cache::{Artifact, ArtifactKind, Metric, TableReader};
use refrain_engine::kind::{
    Check, Columns, Component, Context, Kind, Outputs, Param, Problem, StageError, Type,
};

use crate::models;
use crate::tables::{self, TABLE, figure, share};

mod dedupe;
mod distinct;
mod embedded;
mod keep;
mod likeness;

use distinct::Distinct;

const KEEP: &[Param] = &[
    Param::optional(
        "per",
        Type::Text,
        "The column whose equal values make a group; without it all rows are one",
    ),
    Param::optional(
        "where",
        Type::OneOf(&[Type::Text, Type::Map(&Type::Any)]),
        "Only rows where this bool column is true, or where columns have these values",
    ),
    Param::optional(
        "lowest",
        Type::Text,
        "Of each group the rows with the lowest values of this column",
    ),
    Param::optional(
        "highest",
        Type::Text,
        "Of each group the rows with the highest values of this column",
    ),
    Param::optional(
        "median",
        Type::Text,
        "Of each group the row with the lower median of this column",
    ),
    Param::optional("random", Type::Bool, "Of each group rows drawn without replacement"),
    Param::optional(
        "count",
        Type::Int { min: 1, max: i64::MAX },
        "Rows kept of each group (1; with `where` alone all, in their order)",
    ),
];

const DEDUPE: Type = Type::OneOf(&[
    Type::Choice(&["exact"]),
    Type::Record(&[
        Param::optional(
            "exact",
            Type::OneOf(&[Type::Text, Type::List(&Type::Text)]),
            "The columns that are compared",
        ),
        Param::optional(
            "semantic",
            Type::Float { min: -1.0, max: 1.0, open: false },
            "Responses are equal from this cosine of their embeddings on",
        ),
    ]),
]);

/// The kind `diversify`.
pub const DIVERSIFY: Kind = Kind {
    name: "diversify",
    about: "Keeps some rows of a table, and measures how diverse its responses are",
    components: &[
        Component { name: "diversify", version: 1 },
        Component { name: "embed", version: 1 },
        Component { name: "lm", version: 1 },
        TABLE,
    ],
    params: &[
        Param::required("data", Type::Reference(Some(ArtifactKind::Table)), "The table"),
        Param::optional("keep", Type::Record(KEEP), "Keeps the best rows of each group"),
        Param::optional(
            "dedupe",
            DEDUPE,
            "Keeps the first of equal rows: equal in prompt and response, in columns, or in meaning",
        ),
        Param::default(
            "measure",
            Type::List(&Type::Choice(&[
                "distinct_1",
                "distinct_2",
                "distinct_3",
                "distinct_4",
                "vendi",
                "dcscore",
                "cosine_distance",
            ])),
            "[]",
            "Figures of the kept rows: different n-grams by all n-grams of the responses, split at white space; and by \
             the cosines of their embeddings the Vendi score, DCScore and the mean distance of two",
        ),
        Param::optional(
            "embeddings",
            Type::Reference(Some(ArtifactKind::Model)),
            "The model that embeds responses: a BERT of sentence-transformers, or the mean of a decoder's last states",
        ),
        Param::default(
            "seed",
            Type::Int { min: 0, max: i64::MAX },
            "0",
            "The seed of `keep: { random: true }`",
        ),
    ],
    adds: &[],
    outputs: tables::table_and_metrics,
    check,
    expand: None,
    settle: None,
    close_elsewhere: false,
    retryable: false,
    tokens: None,
    run,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    keep: Option<keep::Keep>,
    dedupe: Option<dedupe::Dedupe>,
    measure: Vec<String>,
    seed: u64,
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

/// What needs embeddings must have a model for them, and nothing else.
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

fn run(ctx: &Context<'_>) -> Result<Outputs, StageError> {
    let params: Params = ctx.parameters()?;
    let data = ctx.input("data")?.artifact();
    let mut metrics = Vec::new();
    let table = match &params {
        Params { keep: Some(keep), .. } => {
            let chosen = keep::choose(ctx, keep, params.seed)?;
            metrics.push(figure("groups", chosen.groups as f64, chosen.rows));
            metrics.push(figure("groups_kept", chosen.groups_kept as f64, chosen.groups));
            tables::pick_rows(ctx, "data", &chosen.order)?
        }
        Params { dedupe: Some(dedupe), .. } => {
            tables::pick_rows(ctx, "data", &dedupe::choose(ctx, dedupe)?)?
        }
        _ => data.clone(),
    };
    let rows_in = rows_of(data)?;
    let rows_out = rows_of(&table)?;
    metrics.insert(0, figure("rows_in", rows_in as f64, rows_in));
    metrics.insert(1, figure("rows_out", rows_out as f64, rows_in));
    metrics.extend(measure(ctx, &params.measure, &table)?);
    let profile =
        if ctx.inputs.contains_key("embeddings") { models::profile() } else { String::new() };
    Ok(Outputs { metrics, profile, ..Outputs::main(table) })
}

fn rows_of(table: &Artifact) -> Result<u64, StageError> {
    table.rows.ok_or_else(|| StageError::bug("a table's rows were not counted"))
}

/// The figures of a table's responses; rows without one do not count.
fn measure(
    ctx: &Context<'_>,
    names: &[String],
    table: &Artifact,
) -> Result<Vec<Metric>, StageError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let data = ctx.input("data")?.artifact();
    let path = match table.digest == data.digest {
        true => ctx.table("data")?.clone(),
        false => ctx.cache.object_path(&table.digest),
    };
    let lengths = names.iter().filter_map(|name| name.strip_prefix("distinct_")?.parse().ok());
    let mut distinct = Distinct::new(lengths);
    for batch in TableReader::open(&path)?.batches(Some(&["response"]), tables::BATCH_ROWS)? {
        ctx.cancel.check()?;
        let batch = batch?;
        column::<StringArray>(&batch, "response")?
            .iter()
            .flatten()
            .for_each(|text| distinct.add(text));
    }
    let figures = distinct.counts();
    let mut figures: Vec<Metric> = figures
        .map(|(n, different, all)| figure(&format!("distinct_{n}"), share(different, all), all))
        .collect();
    let names: Vec<&str> =
        names.iter().map(String::as_str).filter(|n| embedded::MEASURES.contains(n)).collect();
    if !names.is_empty() {
        figures.extend(embedded::measure(ctx, &names, &path)?);
    }
    Ok(figures)
}
