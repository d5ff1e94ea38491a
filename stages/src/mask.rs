//! The kind `mask`: marks which tokens of a scored table are trained on.
//!
//! A token's perplexity is `exp(-logprob)`, in f64. What is masked is a token of the response whose
//! perplexity is above (or below) a threshold, strictly: "Selective Token Masking", arXiv
//! 2501.14315. The prompt is never trained on; a token of the response without a prediction always
//! is. See [`rule`] for the other ways to choose, and `relative` for the difference of two models.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, ListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};
use serde_json::{Map, Value};

use refrain_cache::{ArtifactKind, Metric};
use refrain_engine::kind::{
    Bounds, Check, Columns, Context, Kind, MetricContext, MetricDecl, NodeResult, OutputDecl,
    Parameters, Problem, StageError, Table, choices, one_of, parameters,
};

use crate::canonical::{self, FindModel};
use crate::components;
use crate::draw::RowDraws;
use crate::quantile::quantile;
use crate::tables::{self, arrow_bug, list_of, metric, share};

mod relative;
mod rows;
pub mod rule;
mod scored;
mod statistics;

use rows::Rows;
use rule::MaskRule;
use statistics::{Histogram, HistogramParams, RowStatistics};

/// The metrics of `mask`.
const METRICS: &[MetricDecl] = &[
    MetricDecl::always("response_tokens", "Tokens of the responses"),
    MetricDecl::always("masked", "Response tokens that are masked"),
    MetricDecl::always("masked_share", "Share of all response tokens that are masked"),
    MetricDecl::always("mean_row_masked_share", "Mean of the rows' masked shares"),
    MetricDecl::always("rows_without_kept_token", "Rows whose response is masked as a whole"),
    MetricDecl::given("threshold", "Perplexity that `quantile` or `budget` came to", |context| {
        let found = ["quantile", "budget"].into_iter().any(|way| context.params.contains_key(way));
        found.then(|| "threshold".to_owned()).into_iter().collect()
    }),
    MetricDecl::given("histogram_tokens", "Tokens that `histogram` counts", |context| {
        histogram_metric(context, |name| name == "histogram_tokens")
    }),
    MetricDecl::given("histogram_mean", "Mean of their perplexities", |context| {
        histogram_metric(context, |name| name == "histogram_mean")
    }),
    MetricDecl::given("histogram_max", "Highest of their perplexities", |context| {
        histogram_metric(context, |name| name == "histogram_max")
    }),
    MetricDecl::given("histogram_mean_nll", "Mean of their negative log-likelihoods", |context| {
        histogram_metric(context, |name| name == "histogram_mean_nll")
    }),
    MetricDecl::given("histogram_perplexity", "exp of `histogram_mean_nll`", |context| {
        histogram_metric(context, |name| name == "histogram_perplexity")
    }),
    MetricDecl::given("histogram_qN", "Quantile of their perplexities, in per cent", |context| {
        histogram_metric(context, |name| name.starts_with("histogram_q"))
    }),
];

fn histogram_metric(context: MetricContext<'_>, wanted: fn(&str) -> bool) -> Vec<String> {
    let names = histogram(context.params).map(|histogram| histogram.metric_names());
    names.into_iter().flatten().filter(|name| wanted(name)).collect()
}

/// Reads the parameter `histogram`, if it is given.
fn histogram(params: &Map<String, Value>) -> Option<HistogramParams> {
    serde_json::from_value(params.get("histogram")?.clone()).ok()
}

/// The kind `mask`.
pub const MASK: Kind = Kind {
    name: "mask",
    about: "Marks which tokens of a scored table are trained on",
    components: &[components::MASK, components::TABLE],
    versions: None,
    params: MaskParams::PARAMS,
    adds: &["loss_mask"],
    outputs,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: Some(canonicalize),
    close_elsewhere: true,
    retryable: false,
    tokens: None,
    over: None,
    served: &[],
    requests: None,
    memory: None,
    run,
};

parameters! {
    /// The parameters of `mask`.
    struct MaskParams {
        /// The scored table
        data: &Table,
        /// Masks response tokens whose perplexity is above this; `off`, 0 and less mask none
        above: Option<Above>,
        /// Masks response tokens whose perplexity is below this
        #[range(above 0.0)]
        below: Option<f64>,
        /// Masks above this quantile of the table's response perplexities
        #[range(0.0..=1.0)]
        quantile: Option<f64>,
        /// Masks this share of the table's response tokens, the most perplexing ones
        #[range(0.0..=1.0)]
        budget: Option<f64>,
        /// Masks other tokens in place of those that `above` would mask: of each row as many of the
        /// lowest or as many drawn ones, or drawn as the paper did, from the whole text and with
        /// replacement
        control: Option<Control>,
        /// The same table scored by a second model, such as one that was tuned on it. In place of
        /// perplexities their differences are compared, second minus first (DPF, for which every
        /// threshold counts)
        relative_to: Option<&Table>,
        /// Beside `relative_to`: compares the first model's perplexities, and masks every token
        /// whose perplexity the second one raises
        hybrid: Option<bool>,
        /// Adds columns with each row's statistics: `response_tokens`, `masked_share`, mean, median
        /// and highest perplexity, the response's negative log-likelihood, and the perplexities of
        /// response and whole text
        statistics: Option<bool>,
        /// Counts perplexities into bins: a second table `NAME.histogram`, and metrics
        histogram: Option<HistogramParams>,
        /// The seed of `control: random` and `random_paper`
        #[range(0..)]
        seed: u64 = 0,
    }
}

/// Any number.
const ANY: Bounds<f64> = Bounds { min: f64::NEG_INFINITY, max: f64::INFINITY, open: false };

one_of! {
    /// A threshold, or none.
    #[derive(Copy)]
    enum Above {
        Word(Off),
        #[range(ANY)]
        Value(f64),
    }
}

choices! {
    /// No threshold.
    enum Off {
        /// Nothing is masked.
        Off = "off",
    }
}

choices! {
    /// Which tokens are masked in place of those above the threshold.
    enum Control {
        /// The least perplexing ones.
        Lowest = "lowest",
        /// Drawn ones.
        Random = "random",
        /// Drawn ones of the whole text, with replacement.
        RandomPaper = "random_paper",
    }
}

/// Removes what is given as it is by default.
fn canonicalize(params: &mut Map<String, Value>, _: FindModel<'_>) {
    canonical::remove_default(params, "hybrid", &Value::Bool(false));
    canonical::remove_default(params, "statistics", &Value::Bool(false));
}

fn outputs(params: &Map<String, Value>) -> Vec<OutputDecl> {
    let mut outputs = tables::table_and_metrics(params);
    if params.contains_key("histogram") {
        outputs.push(OutputDecl { name: "histogram".into(), kind: ArtifactKind::Table });
    }
    outputs
}

fn check(check: &Check<'_>, problems: &mut Vec<Problem>) -> Columns {
    let ways = ["above", "below", "quantile", "budget"];
    let given: Vec<_> = ways.iter().filter(|way| check.params.contains_key(**way)).collect();
    match given.as_slice() {
        [_] => {}
        [] => problems.push(
            Problem::at("", "it does not say which tokens to mask")
                .hint("give one of `above`, `below`, `quantile` and `budget`"),
        ),
        [first, second, ..] => problems.push(
            Problem::at(**second, format!("`{second}` cannot stand beside `{first}`"))
                .hint("give one of `above`, `below`, `quantile` and `budget`"),
        ),
    }
    if check.params.contains_key("control") && !check.params.contains_key("above") {
        problems.push(
            Problem::at("control", "`control` needs `above`")
                .hint("it masks as many tokens of each row as `above` would"),
        );
    }
    let relative = check.inputs.iter().any(|input| input == relative::INPUT);
    if check.params.get("hybrid") == Some(&Value::Bool(true)) && !relative {
        problems.push(
            Problem::at("hybrid", "`hybrid` needs `relative_to`")
                .hint("name the same table, scored by the second model"),
        );
    }
    if let Some(histogram) = histogram(check.params) {
        histogram.check(problems);
    }
    need_scores(check, "data", problems);
    if relative {
        need_scores(check, relative::INPUT, problems);
    }

    let statistics = check.params.get("statistics") == Some(&Value::Bool(true));
    let schema = (check.columns)("data")?;
    Some(tables::with_fields(&schema, &added(statistics)))
}

/// The columns that the table gets.
fn added(statistics: bool) -> Vec<(&'static str, DataType)> {
    let mut added = vec![("loss_mask", list_of(DataType::Boolean))];
    if statistics {
        added.extend(statistics::COLUMNS);
    }
    added
}

fn need_scores(check: &Check<'_>, input: &str, problems: &mut Vec<Problem>) {
    check.need(problems, input, "token_ids", &[list_of(DataType::Int32)]);
    check.need(problems, input, "prompt_tokens", &[DataType::Int32]);
    let scores = [list_of(DataType::Float32), list_of(DataType::Float64)];
    let elsewhere = check.has(input, "logprobs") == Some(false)
        && check.has(input, "perplexities") == Some(true);
    check.need(problems, input, if elsewhere { "perplexities" } else { "logprobs" }, &scores);
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: MaskParams = ctx.parameters()?;
    let mut rule = choose_rule(ctx, &params)?;
    let found = rule.threshold().filter(|_| params.quantile.or(params.budget).is_some());
    let mut histogram = params.histogram.as_ref().map(Histogram::new);
    let statistics = params.statistics == Some(true);
    let mut rows = open_rows(ctx, &params)?;
    let mut counts = Counts::default();

    let table = tables::add_columns(ctx, "data", &added(statistics), |batch, first_row| {
        let draws = RowDraws::new("mask", params.seed, batch, first_row)?;
        let mut kept: Vec<bool> = Vec::new();
        let mut ends: Vec<i32> = vec![0];
        let mut row_statistics = RowStatistics::default();
        rows.visit(batch, first_row, |scored, row| {
            let (start, end) = (kept.len(), kept.len() + row.place.tokens);
            kept.resize(start + row.place.prompt, false);
            kept.resize(end, true);
            let response = &mut kept[start + row.place.prompt..];
            let masked = rule.mark(row.values, || draws.of(row.number), response);
            // They have no prediction, so that no rule has masked them.
            row.of_others.iter().for_each(|&i| response[i] = false);
            counts.add(masked, row.response_tokens());
            ends.push(end as i32);
            if let Some(histogram) = &mut histogram {
                histogram.add(scored, row.place, row.perplexities);
            }
            if statistics {
                let mut response = row.of_response(row.perplexities).to_vec();
                let tokens = row.response_tokens();
                row_statistics.add(scored, row.place, (masked, tokens), &mut response);
            }
        })?;
        let mut columns = vec![list_of_bools(kept, ends)?];
        if statistics {
            columns.extend(row_statistics.finish());
        }
        Ok(columns)
    })?;
    rows.finish()?;

    if counts.rows_without_kept_token > 0 {
        let (count, rows) = (counts.rows_without_kept_token, counts.rows);
        ctx.progress
            .note(format!("no response token is left to train on in {count} of {rows} rows"));
    }
    let mut result = NodeResult { metrics: counts.metrics(found), ..NodeResult::main(table) };
    if let Some(mut histogram) = histogram {
        result.metrics.extend(histogram.metrics());
        result.artifacts.insert("histogram".into(), histogram.store(ctx)?);
    }
    Ok(result)
}

/// Opens the rows, with the values of their prompts where something needs them.
fn open_rows(ctx: &Context<'_>, params: &MaskParams) -> Result<Rows, StageError> {
    let whole = params.control == Some(Control::RandomPaper) || params.histogram.is_some();
    Rows::open(ctx, params.hybrid == Some(true), whole)
}

/// The rule for the whole table; a quantile and a budget are found in a first pass over its scores.
fn choose_rule(ctx: &Context<'_>, params: &MaskParams) -> Result<MaskRule, StageError> {
    // Perplexities are never below 1, so that the authors' "-1 switches it off" is unambiguous;
    // differences may be.
    let differences = ctx.inputs.contains_key(relative::INPUT) && params.hybrid != Some(true);
    match *params {
        MaskParams { above: Some(Above::Word(Off::Off)), .. } => Ok(MaskRule::Nothing),
        MaskParams { above: Some(Above::Value(threshold)), .. }
            if threshold <= 0.0 && !differences =>
        {
            Ok(MaskRule::Nothing)
        }
        MaskParams { above: Some(Above::Value(threshold)), control, .. } => Ok(match control {
            None => MaskRule::Above(threshold),
            Some(Control::Lowest) => MaskRule::Lowest(threshold),
            Some(Control::Random) => MaskRule::Random(threshold),
            Some(Control::RandomPaper) => MaskRule::RandomPaper(threshold),
        }),
        MaskParams { below: Some(threshold), .. } => Ok(MaskRule::Below(threshold)),
        MaskParams { quantile: Some(q), .. } => {
            let (mut predicted, _) = all_values(ctx, params)?;
            Ok(quantile(&mut predicted, q).map_or(MaskRule::Nothing, MaskRule::Above))
        }
        MaskParams { budget: Some(share), .. } => {
            let (mut predicted, tokens) = all_values(ctx, params)?;
            Ok(rule::budget(&mut predicted, rule::whole_part(share, tokens)))
        }
        _ => Err(StageError::bug("`mask` was run without a threshold")),
    }
}

/// The values of all predicted response tokens of the table, and the number of all its response
/// tokens.
fn all_values(ctx: &Context<'_>, params: &MaskParams) -> Result<(Vec<f64>, u64), StageError> {
    let columns = tables::present(ctx, "data", &scored::COLUMNS)?;
    let (mut all, mut tokens) = (Vec::new(), 0);
    let mut rows = open_rows(ctx, params)?;
    tables::scan(ctx, "data", Some(&columns), |batch, first_row| {
        rows.visit(batch, first_row, |_, row| {
            tokens += row.response_tokens() as u64;
            all.extend(row.of_response(row.values).iter().filter(|value| !value.is_nan()));
        })
    })?;
    rows.finish()?;
    Ok((all, tokens))
}

fn list_of_bools(values: Vec<bool>, ends: Vec<i32>) -> Result<ArrayRef, StageError> {
    let item = Arc::new(Field::new_list_field(DataType::Boolean, true));
    let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
    let values = Arc::new(BooleanArray::from(values));
    Ok(Arc::new(ListArray::try_new(item, offsets, values, None::<NullBuffer>).map_err(arrow_bug)?))
}

/// Counts over the rows.
#[derive(Debug, Default)]
struct Counts {
    rows: u64,
    rows_with_response: u64,
    rows_without_kept_token: u64,
    response_tokens: u64,
    masked: u64,
    sum_of_row_shares: f64,
}

impl Counts {
    fn add(&mut self, masked: usize, response_tokens: usize) {
        self.rows += 1;
        self.rows_without_kept_token += u64::from(masked == response_tokens);
        self.response_tokens += response_tokens as u64;
        self.masked += masked as u64;
        if response_tokens > 0 {
            self.rows_with_response += 1;
            self.sum_of_row_shares += masked as f64 / response_tokens as f64;
        }
    }

    /// The metrics; `threshold` is one that was found in the table.
    fn metrics(&self, threshold: Option<f64>) -> Vec<Metric> {
        let mean_share = self.sum_of_row_shares / self.rows_with_response as f64;
        let mut metrics = vec![
            metric("response_tokens", self.response_tokens as f64, self.rows),
            metric("masked", self.masked as f64, self.response_tokens),
            metric("masked_share", share(self.masked, self.response_tokens), self.response_tokens),
            metric("mean_row_masked_share", mean_share, self.rows_with_response),
            metric("rows_without_kept_token", self.rows_without_kept_token as f64, self.rows),
        ];
        metrics.extend(
            threshold.map(|threshold| metric("threshold", threshold, self.response_tokens)),
        );
        metrics
    }
}
