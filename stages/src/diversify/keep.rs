//! `keep`: of each group of rows the ones with the lowest, highest, median or random rank.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use serde_json::{Map, Value};

use refrain_cache::columns::optional_column;
use refrain_engine::kind::{
    Check, Context, Problem, StageError, choices, one_of, parameters, type_name,
};
use refrain_engine::source::Filter;

use super::groups::Groups;
use crate::canonical;
use crate::draw::RowDraws;
use crate::tables;

const NUMBERS: [DataType; 4] =
    [DataType::Float64, DataType::Float32, DataType::Int64, DataType::Int32];

parameters! {
    /// The parameter `keep`.
    pub(super) struct KeepRule {
        /// The column whose equal values make a group; without it all rows are one
        per: Option<String>,
        /// Only rows where this bool column is true, or whose columns meet conditions: a value,
        /// `not_null`, `null`, or a mapping of `=`, `!=`, `>`, `>=`, `<`, `<=` and `in`
        r#where: Option<Where>,
        /// Of each group the rows with the lowest values of this column
        lowest: Option<String>,
        /// Of each group the rows with the highest values of this column
        highest: Option<String>,
        /// Of each group the row with the lower median of this column
        median: Option<String>,
        /// Of each group rows drawn without replacement
        random: Option<bool>,
        /// Rows kept of each group, all of a smaller one (1; with `where` alone all, in their order)
        #[range(1..)]
        count: Option<usize>,
        /// Adds the columns `rank`, from 0 in the order of the group's candidates, and `candidates`,
        /// the number of rows among which was chosen
        ranks: Option<bool>,
        /// With `where`: keeps of a group without a candidate its first row, with the `reference` as
        /// its response, marked in the column `from_reference`. What belonged to the old response is
        /// left out
        fallback: Option<Fallback>,
    }
}

choices! {
    /// A response in place of none.
    pub(super) enum Fallback {
        /// The reference.
        Reference = "reference",
    }
}

one_of! {
    /// A condition on rows.
    pub(super) enum Where {
        Column(String),
        Values(Map<String, Value>),
    }
}

/// The column whose values rank the rows of a group.
fn ranking(keep: &KeepRule) -> Option<&String> {
    keep.lowest.as_ref().or(keep.highest.as_ref()).or(keep.median.as_ref())
}

impl KeepRule {
    /// Number of rows to keep of a group.
    fn count(&self) -> usize {
        self.count.unwrap_or(if self.only_filters() { usize::MAX } else { 1 })
    }

    /// The condition on rows.
    fn condition(&self) -> Result<Option<Filter>, StageError> {
        let written = match &self.r#where {
            None => return Ok(None),
            Some(Where::Column(column)) => Value::String(column.clone()),
            Some(Where::Values(values)) => Value::Object(values.clone()),
        };
        let filter = Filter::parse(&written);
        filter.map(Some).map_err(|(message, _)| StageError::failed(message))
    }

    /// Whether all rows that meet the condition are kept, as they stand in the table.
    fn only_filters(&self) -> bool {
        let ranks = ranking(self).is_some() || self.random == Some(true);
        self.per.is_none() && !ranks && self.count.is_none()
    }
}

pub(super) fn check(check: &Check<'_>, keep: &Map<String, Value>, problems: &mut Vec<Problem>) {
    let text = |name: &str| keep.get(name).and_then(Value::as_str);
    let ways = ["lowest", "highest", "median", "random"];
    let given: Vec<_> = ways
        .iter()
        .filter(|way| keep.get(**way).is_some_and(|value| *value != Value::Bool(false)))
        .collect();
    if let [first, second, ..] = given.as_slice() {
        let problem = Problem::at(
            format!("keep.{second}"),
            format!("`{second}` cannot stand beside `{first}`"),
        );
        problems.push(problem.hint("give one of `lowest`, `highest`, `median` and `random`"));
    }
    if keep.is_empty() {
        let problem = Problem::at("keep", "it does not say which rows to keep");
        problems.push(
            problem.hint("for example `keep: { per: id, where: correct, lowest: perplexity }`"),
        );
    }
    if keep.contains_key("median")
        && keep.get("count").and_then(Value::as_u64).is_some_and(|count| count > 1)
    {
        problems.push(Problem::at("keep.count", "`median` is one row: `count` cannot be above 1"));
    }
    if let Some(per) = text("per") {
        check.need(problems, "data", per, &[]);
    }
    if keep.contains_key("fallback") {
        check.need(problems, "data", "response", &[DataType::Utf8]);
        check.need(problems, "data", "reference", &[DataType::Utf8]);
        if !keep.contains_key("where") || !keep.contains_key("per") {
            let problem = Problem::at("keep.fallback", "`fallback` needs `per` and `where`");
            problems.push(problem.hint("only then can a group be without a candidate"));
        }
    }
    for column in ["lowest", "highest", "median"].into_iter().filter_map(text) {
        check.need(problems, "data", column, &NUMBERS);
    }
    if let Some(condition) = keep.get("where") {
        check_condition(check, condition, problems);
    }
}

/// The condition must be readable, and its columns there and of types that can be compared.
fn check_condition(check: &Check<'_>, condition: &Value, problems: &mut Vec<Problem>) {
    if let Some(column) = condition.as_str() {
        return check.need(problems, "data", column, &[DataType::Boolean]);
    }
    let checked = Filter::parse(condition).and_then(|filter| {
        let known = problems.len();
        filter.columns().for_each(|column| check.need(problems, "data", column, &[]));
        match (check.columns)("data").filter(|_| problems.len() == known) {
            Some(schema) => filter.check(&schema),
            None => Ok(()),
        }
    });
    if let Err((message, hint)) = checked {
        let problem = Problem::at("keep.where", message);
        problems.push(match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    }
}

/// Removes what is given as it is by default. Of a condition alone all rows are kept, so that a
/// count of 1 then counts.
pub(super) fn canonicalize(keep: &mut Map<String, Value>) {
    canonical::remove_default(keep, "random", &Value::Bool(false));
    canonical::remove_default(keep, "ranks", &Value::Bool(false));
    if ["per", "lowest", "highest", "median", "random"]
        .into_iter()
        .any(|name| keep.contains_key(name))
    {
        canonical::remove_default(keep, "count", &Value::from(1));
    }
}

/// The rows to keep.
pub(super) struct Chosen {
    /// Their numbers: groups in the order of their first rows, within a group by rank; with `where`
    /// alone in order.
    pub order: Vec<u64>,
    /// The place of each among the candidates of its group, and their number. A row that falls back
    /// to its reference is among none.
    pub ranks: Vec<(u32, u32)>,
    /// Rows of the table.
    pub rows: u64,
    /// Groups of the table.
    pub groups: u64,
    /// Groups of which a row is kept.
    pub groups_kept: u64,
}

/// A row that may be kept.
struct Candidate {
    group: u32,
    /// Low ranks win.
    rank: u64,
    /// The number of its `id` in `Ids::texts`.
    id: u32,
    sample: i32,
    row: u64,
}

/// Reads what decides, and nothing else, and chooses.
pub(super) fn choose(ctx: &Context<'_>, keep: &KeepRule, seed: u64) -> Result<Chosen, StageError> {
    let mut wanted = tables::present(ctx, "data", &["id", "sample"])?;
    wanted.extend(keep.per.as_deref());
    wanted.extend(ranking(keep).map(String::as_str));
    let condition = keep.condition()?;
    wanted.extend(condition.iter().flat_map(Filter::columns));
    wanted.sort_unstable();
    wanted.dedup();

    let (mut groups, mut ids, mut candidates) = (Groups::default(), Ids::default(), Vec::new());
    let rows = tables::scan(ctx, "data", Some(&wanted), |batch, first_row| {
        let per: Vec<&str> = keep.per.iter().map(String::as_str).collect();
        let group_of = groups.of_rows(batch, first_row, &per)?;
        if let Some(condition) = &condition {
            let checked = condition.check(&batch.schema());
            checked.map_err(|(message, _)| StageError::failed(message))?;
        }
        let allowed = condition
            .as_ref()
            .map(|condition| condition.mask(batch.num_rows(), |name| batch.column_by_name(name)));
        let ranks = Ranks::new(batch, first_row, keep, seed)?;
        let id_column = optional_column::<StringArray>(batch, "id")?;
        let samples = optional_column::<Int32Array>(batch, "sample")?;
        for (i, group) in group_of.into_iter().enumerate() {
            if allowed.as_ref().is_some_and(|allowed| !allowed.value(i)) {
                continue;
            }
            let Some(rank) = ranks.of(i) else { continue };
            let id = id_column.map_or("", |ids| if ids.is_valid(i) { ids.value(i) } else { "" });
            let sample =
                samples.map_or(0, |samples| if samples.is_valid(i) { samples.value(i) } else { 0 });
            candidates.push(Candidate {
                group,
                rank,
                id: ids.number(id),
                sample,
                row: first_row + i as u64,
            });
        }
        Ok(())
    })?;
    if !keep.only_filters() {
        candidates.sort_unstable_by(|a, b| order(a, b, &ids));
    }
    let mut chosen = Chosen {
        order: Vec::new(),
        ranks: Vec::new(),
        rows,
        groups: groups.count(),
        groups_kept: 0,
    };
    let first_rows = groups.first_rows();
    let mut next_group = 0;
    let mut fall_back = |chosen: &mut Chosen, until: usize| {
        if keep.fallback.is_some() {
            chosen.order.extend(&first_rows[next_group..until]);
            chosen.ranks.resize(chosen.order.len(), (0, 0));
        }
        next_group = until + 1;
    };
    for group in candidates.chunk_by(|a, b| a.group == b.group) {
        if !keep.only_filters() {
            fall_back(&mut chosen, group[0].group as usize);
        }
        let first = if keep.median.is_some() { (group.len() - 1) / 2 } else { 0 };
        for (rank, candidate) in group.iter().enumerate().skip(first).take(keep.count()) {
            chosen.order.push(candidate.row);
            chosen.ranks.push((rank as u32, group.len() as u32));
        }
        chosen.groups_kept += 1;
    }
    if !keep.only_filters() {
        fall_back(&mut chosen, first_rows.len());
    }
    // Of groups some are small; of a whole table a number is what was expected.
    if let (None, Some(count)) = (&keep.per, keep.count)
        && candidates.len() < count
    {
        let there = candidates.len();
        ctx.progress.note(format!("`keep` takes {count} rows, and {there} can be kept"));
    }
    Ok(chosen)
}

fn order(a: &Candidate, b: &Candidate, ids: &Ids) -> Ordering {
    (a.group, a.rank)
        .cmp(&(b.group, b.rank))
        .then_with(
            || if a.id == b.id { Ordering::Equal } else { ids.text(a.id).cmp(ids.text(b.id)) },
        )
        .then_with(|| (a.sample, a.row).cmp(&(b.sample, b.row)))
}

/// The ids met so far, each held once.
#[derive(Default)]
struct Ids {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
}

impl Ids {
    fn number(&mut self, id: &str) -> u32 {
        if let Some(number) = self.numbers.get(id) {
            return *number;
        }
        let (number, text): (u32, Arc<str>) = (self.texts.len() as u32, id.into());
        self.texts.push(text.clone());
        self.numbers.insert(text, number);
        number
    }

    fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }
}

fn no_column(name: &str) -> StageError {
    StageError::failed(format!("the table has no column `{name}`"))
}

/// The ranks of a batch's rows.
enum Ranks {
    /// No ranking: all rows are equal.
    Equal,
    /// By the values of a column, which are missing or not a number where a row cannot win.
    Values(Vec<Option<u64>>),
}

impl Ranks {
    fn new(
        batch: &RecordBatch,
        first_row: u64,
        keep: &KeepRule,
        seed: u64,
    ) -> Result<Ranks, StageError> {
        if let Some(name) = ranking(keep) {
            let column = batch.column_by_name(name).ok_or_else(|| no_column(name))?;
            let mut ranks = ranks(column).ok_or_else(|| {
                let found = type_name(column.data_type());
                StageError::failed(format!("column `{name}` is {found}, expected numbers"))
            })?;
            if keep.highest.is_some() {
                ranks.iter_mut().flatten().for_each(|rank| *rank = !*rank);
            }
            return Ok(Ranks::Values(ranks));
        }
        if keep.random == Some(true) {
            let draws = RowDraws::new("keep", seed, batch, first_row)?;
            return Ok(Ranks::Values(
                (0..batch.num_rows()).map(|row| Some(draws.of(row).at(0))).collect(),
            ));
        }
        Ok(Ranks::Equal)
    }

    fn of(&self, row: usize) -> Option<u64> {
        match self {
            Ranks::Equal => Some(0),
            Ranks::Values(values) => values[row],
        }
    }
}

/// For each row a number that orders as its value does, none where it is missing or not a number;
/// `None` for a column that holds no numbers.
fn ranks(column: &ArrayRef) -> Option<Vec<Option<u64>>> {
    // Whole numbers are ranked as such: f64 cannot tell large ones apart.
    if *column.data_type() == DataType::Int64 {
        let values = column.as_primitive::<Int64Type>().iter();
        return Some(values.map(|value| value.map(|v| v as u64 ^ 1 << 63)).collect());
    }
    let values = if column.data_type().is_numeric() {
        cast(column, &DataType::Float64).ok()?
    } else {
        return None;
    };
    let values = values.as_primitive::<Float64Type>().iter();
    Some(values.map(|value| value.filter(|v| !v.is_nan()).map(ascending)).collect())
}

/// A number that orders as the value does; both zeros are one.
fn ascending(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn ranks_order_as_values_do() {
        let values = [f64::NEG_INFINITY, -2.0, -1e-300, 0.0, 1e-300, 1.0, f64::INFINITY];
        assert!(values.windows(2).all(|pair| ascending(pair[0]) < ascending(pair[1])));
        assert_eq!(ascending(-0.0), ascending(0.0));
    }

    #[test]
    fn whole_numbers_are_ranked_exactly() {
        let values =
            vec![Some(i64::MIN), Some(-1), Some(0), Some((1 << 53) + 1), Some((1 << 53) + 2), None];
        let ranks = ranks(&(Arc::new(Int64Array::from(values)) as ArrayRef)).unwrap();
        assert!(ranks[..5].windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ranks[5], None);
    }
}
