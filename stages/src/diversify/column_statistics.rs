//! Statistics of columns of numbers: `measure: [{ column: perplexity, of: [mean, q90] }]`, for the
//! whole table and for each group.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use serde_json::Value;

use refrain_cache::{Artifact, Metric, TableReader};
use refrain_engine::kind::{Check, Context, Problem, StageError, parameters};

use super::groups::Groups;
use super::measure::{Figure, GroupOf};
use crate::quantile::quantile;
use crate::tables::{self, arrow_bug, metric};

/// The types that a column may have; truths count as 0 and 1.
const TYPES: [DataType; 5] =
    [DataType::Float64, DataType::Float32, DataType::Int64, DataType::Int32, DataType::Boolean];

const STATISTICS: &str = "there are `mean`, `std`, `population_std`, `median`, `geometric_mean`, \
                          `min`, `max`, `sum`, and quantiles in per cent such as `q90`";

parameters! {
    /// A column whose statistics are measured.
    pub(super) struct ColumnMeasure {
        /// The column, of numbers or truths; missing values do not count
        column: String,
        /// `mean`, `std` (of a sample), `population_std`, `median` (the mean of the middle two),
        /// `geometric_mean`, `min`, `max`, `sum`, and quantiles in per cent such as `q90`
        of: Vec<String>,
    }
}

/// A statistic of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Statistic {
    Mean,
    Std,
    PopulationStd,
    Quantile(f64),
    GeometricMean,
    Min,
    Max,
    Sum,
}

impl Statistic {
    fn parse(word: &str) -> Option<Statistic> {
        Some(match word {
            "mean" => Statistic::Mean,
            "std" => Statistic::Std,
            "population_std" => Statistic::PopulationStd,
            "median" => Statistic::Quantile(0.5),
            "geometric_mean" => Statistic::GeometricMean,
            "min" => Statistic::Min,
            "max" => Statistic::Max,
            "sum" => Statistic::Sum,
            other => {
                let percent: f64 = other.strip_prefix('q')?.parse().ok()?;
                let within = (0.0..=100.0).contains(&percent);
                within.then_some(Statistic::Quantile(percent / 100.0))?
            }
        })
    }

    /// Computes the statistic of some numbers, which may be reordered; `None` where it is not
    /// defined.
    fn of(self, values: &mut [f64]) -> Option<f64> {
        let n = values.len() as f64;
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        if values.is_empty() {
            return (self == Statistic::Sum).then_some(0.0);
        }
        Some(match self {
            Statistic::Sum => sum(values),
            Statistic::Mean => sum(values) / n,
            Statistic::Std if values.len() < 2 => return None,
            Statistic::Std => (squares(values) / (n - 1.0)).sqrt(),
            Statistic::PopulationStd => (squares(values) / n).sqrt(),
            Statistic::Quantile(q) => quantile(values, q)?,
            Statistic::GeometricMean if values.iter().any(|value| *value < 0.0) => return None,
            Statistic::GeometricMean => {
                libm::exp(values.iter().map(|value| libm::log(*value)).sum::<f64>() / n)
            }
            Statistic::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
            Statistic::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// The sum of the squared distances from the mean.
fn squares(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| (value - mean) * (value - mean)).sum()
}

impl ColumnMeasure {
    pub(super) fn check(&self, at: &str, check: &Check<'_>, problems: &mut Vec<Problem>) {
        check.need(problems, "data", &self.column, &TYPES);
        if self.of.is_empty() {
            problems.push(Problem::at(format!("{at}.of"), "it names no statistic"));
        }
        for (i, word) in self.of.iter().enumerate() {
            if Statistic::parse(word).is_none() {
                let problem =
                    Problem::at(format!("{at}.of[{i}]"), format!("unknown statistic `{word}`"));
                problems.push(problem.hint(STATISTICS));
            }
        }
    }

    /// The names of its metrics: `perplexity_mean`.
    pub(super) fn metric_names(&self) -> impl Iterator<Item = String> {
        self.of.iter().map(|word| format!("{}_{word}", self.column))
    }

    fn statistics(&self) -> Vec<Statistic> {
        self.of.iter().filter_map(|word| Statistic::parse(word)).collect()
    }
}

/// The numbers of some columns, by group.
pub(super) struct ColumnValues<'m> {
    measures: &'m [ColumnMeasure],
    per: Vec<&'m str>,
    /// For each measure its values, each with its group.
    values: Vec<Vec<(u32, f64)>>,
    groups: Groups,
    /// The number of rows of each group.
    rows: Vec<u64>,
    /// The group of each row.
    of_rows: Vec<u32>,
    /// The grouping columns of each group's first row.
    labels: Vec<RecordBatch>,
}

impl<'m> ColumnValues<'m> {
    /// Reads the columns of a table.
    pub(super) fn read(
        ctx: &Context<'_>,
        table: &Path,
        measures: &'m [ColumnMeasure],
        per: &'m [String],
    ) -> Result<ColumnValues<'m>, StageError> {
        let per: Vec<&str> = per.iter().map(String::as_str).collect();
        let mut wanted = per.clone();
        wanted.extend(measures.iter().map(|measure| measure.column.as_str()));
        wanted.sort_unstable();
        wanted.dedup();

        let mut all = ColumnValues {
            measures,
            per,
            values: vec![Vec::new(); measures.len()],
            groups: Groups::default(),
            rows: Vec::new(),
            of_rows: Vec::new(),
            labels: Vec::new(),
        };
        let mut first_row = 0;
        for batch in TableReader::open(table)?.batches(Some(&wanted), tables::BATCH_ROWS)? {
            ctx.cancel.check()?;
            let batch = batch?;
            all.add(&batch, first_row)?;
            first_row += batch.num_rows() as u64;
        }
        Ok(all)
    }

    fn add(&mut self, batch: &RecordBatch, first_row: u64) -> Result<(), StageError> {
        let groups = self.groups.of_rows(batch, first_row, &self.per)?;
        let new: UInt32Array = self.groups.first_rows()[self.rows.len()..]
            .iter()
            .map(|row| Some((row - first_row) as u32))
            .collect();
        if !self.per.is_empty() && !new.is_empty() {
            let positions: Vec<usize> =
                self.per.iter().filter_map(|name| batch.schema().index_of(name).ok()).collect();
            let labels = batch.project(&positions).map_err(arrow_bug)?;
            self.labels.push(take_record_batch(&labels, &new).map_err(arrow_bug)?);
        }
        self.rows.resize(self.groups.count() as usize, 0);
        groups.iter().for_each(|group| self.rows[*group as usize] += 1);
        if !self.per.is_empty() {
            self.of_rows.extend(&groups);
        }

        for (measure, values) in self.measures.iter().zip(&mut self.values) {
            let column = batch.column_by_name(&measure.column).ok_or_else(|| {
                StageError::failed(format!("the table has no column `{}`", measure.column))
            })?;
            let column = cast(column, &DataType::Float64).map_err(arrow_bug)?;
            let column = column.as_primitive::<Float64Type>();
            let present = groups.iter().zip(column.iter());
            values.extend(present.filter_map(|(group, value)| {
                value.filter(|value| !value.is_nan()).map(|value| (*group, value))
            }));
        }
        Ok(())
    }

    /// The group of each row.
    pub(super) fn groups(&self) -> GroupOf<'_> {
        GroupOf { of_rows: &self.of_rows, count: self.rows.len() }
    }

    /// The metrics of the whole table.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for (measure, values) in self.measures.iter().zip(&self.values) {
            let mut values: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
            let n = values.len() as u64;
            for (name, statistic) in measure.metric_names().zip(measure.statistics()) {
                let value = statistic.of(&mut values).unwrap_or(f64::NAN);
                metrics.push(metric(&name, value, n));
            }
        }
        metrics
    }

    /// Writes the statistics of each group: its columns, its rows, and a column per measure and per
    /// statistic.
    pub(super) fn store_groups(
        mut self,
        ctx: &Context<'_>,
        figures: &[Vec<Figure>],
    ) -> Result<Artifact, StageError> {
        let mut fields = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::new();
        if let [first, ..] = self.labels.as_slice() {
            let labels = concat_batches(&first.schema(), &self.labels).map_err(arrow_bug)?;
            fields.extend(labels.schema().fields().iter().map(|field| field.as_ref().clone()));
            columns.extend(labels.columns().iter().cloned());
        }
        let rows: Int64Array = self.rows.iter().map(|rows| Some(*rows as i64)).collect();
        fields.push(Field::new("rows", DataType::Int64, true));
        columns.push(Arc::new(rows));
        for (place, figure) in figures.first().into_iter().flatten().enumerate() {
            let value = |figures: &Vec<Figure>| Some(figures[place].value).filter(|v| !v.is_nan());
            let column: Float64Array = figures.iter().map(value).collect();
            fields.push(Field::new(figure.name, DataType::Float64, true));
            columns.push(Arc::new(column));
        }

        for (measure, values) in self.measures.iter().zip(&mut self.values) {
            // Stable, so that the values of a group stay in the order of the table.
            values.sort_by_key(|(group, _)| *group);
            let mut of_groups = vec![Vec::new(); self.rows.len()];
            values.iter().for_each(|(group, value)| of_groups[*group as usize].push(*value));
            for (name, statistic) in measure.metric_names().zip(measure.statistics()) {
                let column: Float64Array =
                    of_groups.iter_mut().map(|values| statistic.of(values)).collect();
                fields.push(Field::new(name, DataType::Float64, true));
                columns.push(Arc::new(column));
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let mut writer = ctx.cache.new_table(schema.clone())?;
        writer.write(&RecordBatch::try_new(schema, columns).map_err(arrow_bug)?)?;
        Ok(ctx.cache.store_table(writer)?)
    }
}

/// Reads the columns among the items of `measure`.
pub(super) fn of_measure(measure: Option<&Value>) -> Vec<(usize, ColumnMeasure)> {
    let items = measure.and_then(Value::as_array).into_iter().flatten().enumerate();
    let columns =
        items.filter_map(|(i, item)| Some((i, serde_json::from_value(item.clone()).ok()?)));
    columns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_numpy() {
        let of =
            |word: &str, values: &[f64]| Statistic::parse(word).unwrap().of(&mut values.to_vec());
        let four = [4.0, 1.0, 2.0, 9.0];
        for (word, expected) in [
            ("mean", 4.0),
            ("std", 3.559026084010437),
            ("population_std", 3.082207001484488),
            ("median", 3.0),
            ("geometric_mean", 2.9129506302439405),
            ("min", 1.0),
            ("max", 9.0),
            ("sum", 16.0),
            ("q90", 7.5),
        ] {
            assert!((of(word, &four).unwrap() - expected).abs() < 1e-14, "{word}");
        }
        assert_eq!(of("mean", &[]), None);
        assert_eq!(of("sum", &[]), Some(0.0));
        assert_eq!(of("std", &[1.0]), None);
        assert_eq!(of("geometric_mean", &[-1.0, 2.0]), None);
        assert!(["q101", "q", "avg", "q-1"].iter().all(|word| Statistic::parse(word).is_none()));
    }
}
