//! The kind `mask`: marks which tokens of a scored table are trained on.
//!
//! A token's perplexity is `exp(-logprob)`, in f64. What is masked is a token of the response whose
//! perplexity is above (or below) a threshold, strictly: "Selective Token Masking", arXiv
//! 2501.14315. The prompt is never trained on; a token of the response without a prediction always
//! is. See [`rule`] for the other ways to choose.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int32Array, ListArray, RecordBatch,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};

use refrain_cache::Metric;
use refrain_cache::columns::column;
use refrain_engine::kind::{
    Check, Columns, Context, Kind, MetricDecl, NodeResult, Parameters, Problem, StageError, Table,
    choices, parameters,
};

use crate::components;
use crate::draw::RowDraws;
use crate::quantile::quantile;
use crate::scores::{check_logprob, check_perplexity};
use crate::tables::{self, arrow_bug, list_of, metric, row_name, share};

pub mod rule;

use rule::MaskRule;

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
];

/// The kind `mask`.
pub const MASK: Kind = Kind {
    name: "mask",
    about: "Marks which tokens of a scored table are trained on",
    components: &[components::MASK, components::TABLE],
    params: MaskParams::PARAMS,
    adds: &["loss_mask"],
    outputs: tables::table_and_metrics,
    metrics: METRICS,
    check,
    expand: None,
    canonicalize: None,
    close_elsewhere: true,
    retryable: false,
    tokens: None,
    run,
};

parameters! {
    /// The parameters of `mask`.
    ///
    /// A perplexity is never below 1, so that no threshold of the authors' "-1 switches it off" is
    /// taken: it would mask all tokens.
    struct MaskParams {
        /// The scored table
        data: &Table,
        /// Masks response tokens whose perplexity is above this
        #[range(above 0.0)]
        above: Option<f64>,
        /// Masks response tokens whose perplexity is below this
        #[range(above 0.0)]
        below: Option<f64>,
        /// Masks above this quantile of the table's response perplexities
        #[range(0.0..=1.0)]
        quantile: Option<f64>,
        /// Masks this share of the table's response tokens, the most perplexing ones
        #[range(0.0..=1.0)]
        budget: Option<f64>,
        /// Masks as many response tokens of each row as `above` would, but others
        control: Option<Control>,
        /// The seed of `control: random`
        #[range(0..)]
        seed: u64 = 0,
    }
}

choices! {
    /// Which tokens are masked in place of those above the threshold.
    enum Control {
        /// The least perplexing ones.
        Lowest = "lowest",
        /// Drawn ones.
        Random = "random",
    }
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
    check.need(problems, "data", "token_ids", &[list_of(DataType::Int32)]);
    check.need(problems, "data", "prompt_tokens", &[DataType::Int32]);
    let scores = [list_of(DataType::Float32), list_of(DataType::Float64)];
    if check.has("data", "logprobs") == Some(false)
        && check.has("data", "perplexities") == Some(true)
    {
        check.need(problems, "data", "perplexities", &scores);
    } else {
        check.need(problems, "data", "logprobs", &scores);
    }
    let schema = (check.columns)("data")?;
    Some(tables::with_fields(&schema, &[("loss_mask", list_of(DataType::Boolean))]))
}

fn run(ctx: &Context<'_>) -> Result<NodeResult, StageError> {
    let params: MaskParams = ctx.parameters()?;
    let mut rule = choose_rule(ctx, &params)?;
    let found = rule.threshold().filter(|_| params.quantile.or(params.budget).is_some());
    let mut counts = Counts::default();
    let added = [("loss_mask", list_of(DataType::Boolean))];
    let table = tables::add_columns(ctx, "data", &added, |batch, first_row| {
        let scored = Scored::new(batch, first_row)?;
        let draws = RowDraws::new("mask", params.seed, batch, first_row)?;
        let mut kept: Vec<bool> = Vec::with_capacity(scored.values.len());
        let mut ends: Vec<i32> = vec![0];
        let mut perplexities = Vec::new();
        for row in 0..batch.num_rows() {
            let prompt = scored.response(row, &mut perplexities)?;
            kept.resize(kept.len() + prompt, false);
            let response = kept.len();
            kept.resize(response + perplexities.len(), true);
            let masked = rule.mark(&perplexities, || draws.of(row), &mut kept[response..]);
            counts.add(masked, perplexities.len());
            ends.push(kept.len() as i32);
        }
        Ok(vec![list_of_bools(kept, ends)?])
    })?;
    if counts.rows_without_kept_token > 0 {
        let (count, rows) = (counts.rows_without_kept_token, counts.rows);
        ctx.progress
            .note(format!("no response token is left to train on in {count} of {rows} rows"));
    }
    Ok(NodeResult { metrics: counts.metrics(found), ..NodeResult::main(table) })
}

/// The rule for the whole table; a quantile and a budget are found in a first pass over its scores.
fn choose_rule(ctx: &Context<'_>, params: &MaskParams) -> Result<MaskRule, StageError> {
    match *params {
        MaskParams { above: Some(threshold), control, .. } => Ok(match control {
            None => MaskRule::Above(threshold),
            Some(Control::Lowest) => MaskRule::Lowest(threshold),
            Some(Control::Random) => MaskRule::Random(threshold),
        }),
        MaskParams { below: Some(threshold), .. } => Ok(MaskRule::Below(threshold)),
        MaskParams { quantile: Some(q), .. } => {
            let (mut predicted, _) = all_perplexities(ctx)?;
            Ok(quantile(&mut predicted, q).map_or(MaskRule::Nothing, MaskRule::Above))
        }
        MaskParams { budget: Some(share), .. } => {
            let (mut predicted, tokens) = all_perplexities(ctx)?;
            Ok(rule::budget(&mut predicted, rule::whole_part(share, tokens)))
        }
        _ => Err(StageError::bug("`mask` was run without a threshold")),
    }
}

/// The perplexities of all predicted response tokens of the table, and the number of all its
/// response tokens.
fn all_perplexities(ctx: &Context<'_>) -> Result<(Vec<f64>, u64), StageError> {
    let columns = tables::present(
        ctx,
        "data",
        &["id", "token_ids", "prompt_tokens", "logprobs", "perplexities"],
    )?;
    let (mut all, mut tokens, mut row_values) = (Vec::new(), 0, Vec::new());
    tables::scan(ctx, "data", Some(&columns), |batch, first_row| {
        let scored = Scored::new(batch, first_row)?;
        for row in 0..batch.num_rows() {
            scored.response(row, &mut row_values)?;
            tokens += row_values.len() as u64;
            all.extend(row_values.iter().filter(|value| !value.is_nan()));
        }
        Ok(())
    })?;
    Ok((all, tokens))
}

/// The scores of a batch.
struct Scored<'a> {
    batch: &'a RecordBatch,
    first_row: u64,
    token_ids: &'a ListArray,
    prompt_tokens: &'a Int32Array,
    scores: &'a ListArray,
    /// The values of `scores`.
    values: Float64Array,
    /// Whether they are log-probabilities rather than perplexities.
    logarithms: bool,
    name: &'static str,
}

impl<'a> Scored<'a> {
    fn new(batch: &'a RecordBatch, first_row: u64) -> Result<Scored<'a>, StageError> {
        let logarithms = batch.column_by_name("logprobs").is_some();
        let name = if logarithms { "logprobs" } else { "perplexities" };
        let scores = column::<ListArray>(batch, name)?;
        if !matches!(scores.value_type(), DataType::Float32 | DataType::Float64) {
            let found = refrain_cache::type_name(scores.data_type());
            return Err(StageError::failed(format!(
                "the column `{name}` is {found}, expected list<float32>"
            )));
        }
        let values = cast(scores.values(), &DataType::Float64).map_err(arrow_bug)?;
        Ok(Scored {
            batch,
            first_row,
            token_ids: column(batch, "token_ids")?,
            prompt_tokens: column(batch, "prompt_tokens")?,
            scores,
            values: values.as_primitive().clone(),
            logarithms,
            name,
        })
    }

    /// Puts the perplexities of a row's response into `out`, NaN where there is no prediction;
    /// returns the length of its prompt in tokens.
    fn response(&self, row: usize, out: &mut Vec<f64>) -> Result<usize, StageError> {
        let name = || row_name(self.batch, self.first_row, row);
        let missing = [
            ("token_ids", self.token_ids.is_null(row)),
            ("prompt_tokens", self.prompt_tokens.is_null(row)),
            (self.name, self.scores.is_null(row)),
        ];
        if let Some((column, _)) = missing.iter().find(|(_, null)| *null) {
            return Err(StageError::failed(format!("{} has no `{column}`", name())));
        }
        let tokens = self.token_ids.value_length(row) as usize;
        let scores = self.scores.value_length(row) as usize;
        if tokens != scores {
            let message =
                format!("{} has {tokens} `token_ids` and {scores} `{}`", name(), self.name);
            return Err(StageError::with_hint(
                message,
                "there must be one score, or null, for each token",
            ));
        }
        let prompt = self.prompt_tokens.value(row);
        let prompt =
            usize::try_from(prompt).ok().filter(|prompt| *prompt <= tokens).ok_or_else(|| {
                StageError::failed(format!(
                    "{} has {tokens} tokens, but `prompt_tokens` is {prompt}",
                    name()
                ))
            })?;
        let start = self.scores.value_offsets()[row] as usize;
        let wrong = |message| {
            let hint =
                "`logprobs` are natural logarithms of probabilities, `perplexities` their inverses";
            StageError::with_hint(format!("{}: {message}", name()), hint)
        };
        for value in (start + prompt..start + tokens)
            .filter(|&i| self.values.is_valid(i))
            .map(|i| self.values.value(i))
        {
            let check = if self.logarithms { check_logprob } else { check_perplexity };
            check(value).map_err(wrong)?;
        }

        out.clear();
        out.extend((start + prompt..start + tokens).map(|i| {
            match (self.values.is_null(i), self.logarithms) {
                (true, _) => f64::NAN,
                (false, true) => libm::exp(-self.values.value(i)),
                (false, false) => self.values.value(i),
            }
        }));
        Ok(prompt)
    }
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
