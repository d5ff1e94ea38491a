//! Statistics of the scores of each row, and a histogram of the table.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};

use refrain_cache::{Artifact, Metric};
use refrain_engine::kind::{Context, Problem, StageError, choices, parameters};

use super::scored::{Place, Scored};
use crate::quantile::quantile;
use crate::tables::{arrow_bug, metric, share};

/// The columns of `statistics`, with their types.
pub(super) const COLUMNS: [(&str, DataType); 8] = [
    ("response_tokens", DataType::Int32),
    ("masked_share", DataType::Float64),
    ("mean_perplexity", DataType::Float64),
    ("median_perplexity", DataType::Float64),
    ("max_perplexity", DataType::Float64),
    ("response_nll", DataType::Float64),
    ("response_perplexity", DataType::Float64),
    ("text_perplexity", DataType::Float64),
];

/// The statistics of a batch's rows; a value is missing where a row has no predicted token.
#[derive(Default)]
pub(super) struct RowStatistics {
    tokens: Vec<i32>,
    values: [Vec<Option<f64>>; 7],
}

impl RowStatistics {
    /// Adds a row of whose response tokens some are masked. `perplexities` are those of the response;
    /// they are reordered.
    pub(super) fn add(
        &mut self,
        scored: &Scored<'_>,
        place: Place,
        (masked, tokens): (usize, usize),
        perplexities: &mut Vec<f64>,
    ) {
        perplexities.retain(|value| !value.is_nan());
        let predicted = perplexities.len();
        let of_some = |value: f64| (predicted > 0).then_some(value);
        let nll: f64 = scored.nlls(place, place.prompt).sum();
        let row = [
            (tokens > 0).then(|| masked as f64 / tokens as f64),
            of_some(perplexities.iter().sum::<f64>() / predicted as f64),
            quantile(perplexities, 0.5),
            perplexities.iter().copied().reduce(f64::max),
            of_some(nll),
            of_some(libm::exp(nll / predicted as f64)),
            mean(scored.nlls(place, 1.min(place.tokens))).map(libm::exp),
        ];
        self.tokens.push(tokens as i32);
        self.values.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
    }

    /// The columns, in the order of [`COLUMNS`].
    pub(super) fn finish(self) -> Vec<ArrayRef> {
        let values = self.values.into_iter().map(|v| Arc::new(Float64Array::from(v)) as ArrayRef);
        std::iter::once(Arc::new(Int32Array::from(self.tokens)) as ArrayRef).chain(values).collect()
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

choices! {
    /// The tokens that a histogram counts.
    pub(super) enum Part {
        /// Tokens of the responses.
        Response = "response",
        /// Tokens of the prompts but each first one.
        Prompt = "prompt",
        /// All tokens but each first one.
        Text = "text",
    }
}

parameters! {
    /// The parameter `histogram`.
    pub(super) struct HistogramParams {
        /// Ascending edges; a bin holds its lower edge, not its upper one
        #[each(0.0..)]
        edges: Vec<f64>,
        /// The tokens that are counted: of the response, of the prompt, or of the whole text; a
        /// sequence's first token never is
        of: Part = "response",
        /// Quantiles that are metrics too: 0.9 is `histogram_q90`
        #[each(0.0..=1.0)]
        quantiles: Vec<f64> = [],
    }
}

impl HistogramParams {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let ascending = self.edges.windows(2).all(|pair| pair[0] < pair[1]);
        if self.edges.is_empty() || !ascending {
            let problem = Problem::at("histogram.edges", "the edges do not ascend");
            problems.push(problem.hint("for example `edges: [1, 1.5, 2.5, 10, 100]`"));
        }
    }

    /// The names of its metrics.
    pub(super) fn metric_names(&self) -> Vec<String> {
        let quantiles = self.quantiles.iter().map(|q| name_of_quantile(*q));
        ["tokens", "mean", "max", "mean_nll", "perplexity"]
            .map(|name| format!("histogram_{name}"))
            .into_iter()
            .chain(quantiles)
            .collect()
    }
}

/// Names the metric of a quantile in per cent: `histogram_q90`.
fn name_of_quantile(q: f64) -> String {
    // Shortest text of the rounded product: 0.29 is `q29`, although 0.29 × 100 is a little less.
    format!("histogram_q{}", (q * 1e6).round() / 1e4)
}

/// Counts of perplexities, and what the metrics need.
pub(super) struct Histogram<'p> {
    params: &'p HistogramParams,
    /// Values from one edge on and below the next, the first below all edges.
    bins: Vec<u64>,
    /// Values above one edge and not above the next.
    above: Vec<u64>,
    tokens: u64,
    sum: f64,
    sum_of_nlls: f64,
    max: f64,
    /// All values, where quantiles are wanted.
    values: Vec<f64>,
}

impl<'p> Histogram<'p> {
    pub(super) fn new(params: &'p HistogramParams) -> Histogram<'p> {
        let bins = vec![0; params.edges.len() + 1];
        let (sum, sum_of_nlls, max) = (0.0, 0.0, f64::NEG_INFINITY);
        Histogram {
            params,
            above: bins.clone(),
            bins,
            tokens: 0,
            sum,
            sum_of_nlls,
            max,
            values: vec![],
        }
    }

    /// Adds a row; `perplexities` are those of all its tokens.
    pub(super) fn add(&mut self, scored: &Scored<'_>, place: Place, perplexities: &[f64]) {
        let first = 1.min(place.tokens);
        let (from, to) = match self.params.of {
            Part::Response => (place.prompt, place.tokens),
            Part::Prompt => (first, place.prompt.max(first)),
            Part::Text => (first, place.tokens),
        };
        let edges = &self.params.edges;
        for value in perplexities[from..to].iter().copied().filter(|value| !value.is_nan()) {
            self.bins[edges.partition_point(|edge| *edge <= value)] += 1;
            self.above[edges.partition_point(|edge| *edge < value)] += 1;
            self.tokens += 1;
            self.sum += value;
            self.max = self.max.max(value);
            if !self.params.quantiles.is_empty() {
                self.values.push(value);
            }
        }
        let end = Place { tokens: to, ..place };
        self.sum_of_nlls += scored.nlls(end, from).sum::<f64>();
    }

    /// Writes the table: a row per bin, the first below all edges and the last from the highest on.
    pub(super) fn store(&self, ctx: &Context<'_>) -> Result<Artifact, StageError> {
        let edges = self.params.edges.iter().copied();
        let lower: Float64Array = std::iter::once(None).chain(edges.clone().map(Some)).collect();
        let upper: Float64Array = edges.map(Some).chain(std::iter::once(None)).collect();
        let above = (0..self.above.len()).map(|i| match i {
            0 => None,
            i => Some(self.above[i..].iter().sum::<u64>() as i64),
        });
        let tokens: Int64Array = self.bins.iter().map(|count| Some(*count as i64)).collect();
        let shares: Float64Array =
            self.bins.iter().map(|count| Some(share(*count, self.tokens))).collect();
        let columns: [(&str, ArrayRef); 5] = [
            ("lower", Arc::new(lower)),
            ("upper", Arc::new(upper)),
            ("tokens", Arc::new(tokens)),
            ("share", Arc::new(shares)),
            ("above", Arc::new(above.collect::<Int64Array>())),
        ];

        let fields = columns.iter().map(|(name, column)| {
            arrow::datatypes::Field::new(*name, column.data_type().clone(), true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let arrays = columns.into_iter().map(|(_, column)| column).collect();
        let mut writer = ctx.cache.new_table(schema.clone())?;
        writer.write(&RecordBatch::try_new(schema, arrays).map_err(arrow_bug)?)?;
        Ok(ctx.cache.store_table(writer)?)
    }

    /// The metrics, in the order of [`HistogramParams::metric_names`].
    pub(super) fn metrics(&mut self) -> Vec<Metric> {
        let n = self.tokens;
        let of_some = |value: f64| if n == 0 { f64::NAN } else { value };
        let mean_nll = of_some(self.sum_of_nlls / n as f64);
        let mut metrics = vec![
            metric("histogram_tokens", n as f64, n),
            metric("histogram_mean", of_some(self.sum / n as f64), n),
            metric("histogram_max", of_some(self.max), n),
            metric("histogram_mean_nll", mean_nll, n),
            metric("histogram_perplexity", libm::exp(mean_nll), n),
        ];
        for q in &self.params.quantiles {
            let value = quantile(&mut self.values, *q).unwrap_or(f64::NAN);
            metrics.push(metric(&name_of_quantile(*q), value, n));
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_named_in_per_cent() {
        let names = [0.0, 0.1, 0.29, 0.5, 0.999, 1.0].map(name_of_quantile);
        let expected = ["q0", "q10", "q29", "q50", "q99.9", "q100"];
        assert_eq!(names, expected.map(|name| format!("histogram_{name}")));
    }
}
