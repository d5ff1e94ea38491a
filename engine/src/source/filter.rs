//! Conditions on rows: `where` of a source's `rows` and of `keep`.

use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, UInt64Type};
use serde_json::{Map, Value, json};

use crate::kind::type_name;
use crate::language::diagnostic::suggest;

/// Conditions, all of which a row must meet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Sorted by column.
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    column: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Null,
    NotNull,
    Compare(Comparison, Value),
    OneOf(Vec<Value>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// The comparisons as they are written.
const WORDS: [(&str, Comparison); 6] = [
    ("=", Comparison::Equal),
    ("!=", Comparison::Unequal),
    (">", Comparison::Above),
    (">=", Comparison::AtLeast),
    ("<", Comparison::Below),
    ("<=", Comparison::AtMost),
];
const ONE_OF: &str = "in";

impl Comparison {
    fn word(self) -> &'static str {
        WORDS.iter().find(|(_, comparison)| *comparison == self).map_or("=", |(word, _)| word)
    }

    fn is_order(self) -> bool {
        !matches!(self, Comparison::Equal | Comparison::Unequal)
    }

    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::Unequal => order != Some(Ordering::Equal),
            Comparison::Above => order == Some(Ordering::Greater),
            Comparison::AtLeast => order.is_some_and(Ordering::is_ge),
            Comparison::Below => order == Some(Ordering::Less),
            Comparison::AtMost => order.is_some_and(Ordering::is_le),
        }
    }
}

/// A fault of a condition, and the remedy.
pub type Wrong = (String, Option<String>);

const HOW: &str = "write `COLUMN: VALUE`, `COLUMN: not_null`, `COLUMN: null`, `COLUMN: { \">\": 1 }` or \
                   `COLUMN: { in: [a, b] }`";

impl Filter {
    /// Reads what a workflow says: the name of a column of truths, or conditions by column.
    ///
    /// # Errors
    /// `Wrong`.
    pub fn parse(written: &Value) -> Result<Filter, Wrong> {
        let conditions = match written {
            Value::String(column) => vec![Condition {
                column: column.clone(),
                test: Test::Compare(Comparison::Equal, Value::Bool(true)),
            }],
            Value::Object(map) => {
                let mut conditions = Vec::new();
                for (column, value) in map {
                    let tests = tests(value)
                        .map_err(|fault| (format!("`{column}`: {fault}"), Some(HOW.into())))?;
                    let condition = |test| Condition { column: column.clone(), test };
                    conditions.extend(tests.into_iter().map(condition));
                }
                conditions.sort_by(|a, b| a.column.cmp(&b.column));
                conditions
            }
            _ => return Err(("`where` is not a mapping of conditions".into(), Some(HOW.into()))),
        };
        Ok(Filter { conditions })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Returns the conditions as they enter the key.
    pub(super) fn options(&self) -> Value {
        let options = self.conditions.iter().map(|Condition { column, test }| match test {
            Test::Null => json!([column, "null"]),
            Test::NotNull => json!([column, "not_null"]),
            Test::Compare(comparison, value) => json!([column, comparison.word(), value]),
            Test::OneOf(values) => json!([column, ONE_OF, values]),
        });
        options.collect()
    }

    /// The columns that the conditions name.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.conditions.iter().map(|condition| condition.column.as_str())
    }

    /// Checks that a table has the columns, of types that can be compared.
    ///
    /// # Errors
    /// `Wrong`.
    pub fn check(&self, schema: &Schema) -> Result<(), Wrong> {
        for Condition { column, test } in &self.conditions {
            let Ok(field) = schema.field_with_name(column) else {
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let hint = suggest(column, names, "its columns are");
                return Err((format!("`where` names `{column}`, which is no column"), hint));
            };
            test.check(field.data_type()).map_err(|fault| {
                let found = type_name(field.data_type());
                (format!("`where`: `{column}` is {found}, {fault}"), None)
            })?;
        }
        Ok(())
    }

    /// Returns which rows meet all conditions; `columns` finds a column.
    pub fn mask<'c>(
        &self,
        rows: usize,
        columns: impl Fn(&str) -> Option<&'c ArrayRef>,
    ) -> BooleanArray {
        let mut kept = vec![true; rows];
        for Condition { column, test } in &self.conditions {
            if let Some(array) = columns(column) {
                test.apply(array, &mut kept);
            }
        }
        BooleanArray::from(kept)
    }
}

/// The tests of one column.
fn tests(written: &Value) -> Result<Vec<Test>, String> {
    let single = |value: &Value| match value {
        Value::Array(_) | Value::Object(_) | Value::Null => {
            Err("a value must be text, a number, `true` or `false`".to_owned())
        }
        value => Ok(value.clone()),
    };
    Ok(match written {
        Value::Null => vec![Test::Null],
        Value::String(word) if word == "null" => vec![Test::Null],
        Value::String(word) if word == "not_null" => vec![Test::NotNull],
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .map(|(word, value)| {
                if let Some((_, comparison)) = WORDS.iter().find(|(known, _)| known == word) {
                    return Ok(Test::Compare(*comparison, single(value)?));
                }
                match (word.as_str(), value) {
                    (ONE_OF, Value::Array(values)) => {
                        Ok(Test::OneOf(values.iter().map(single).collect::<Result<_, _>>()?))
                    }
                    (ONE_OF, _) => Err("`in` takes a list".to_owned()),
                    _ => Err(format!("there is no comparison `{word}`")),
                }
            })
            .collect::<Result<_, _>>()?,
        value => vec![Test::Compare(Comparison::Equal, single(value)?)],
    })
}

impl Test {
    fn check(&self, found: &DataType) -> Result<(), String> {
        let values: Vec<&Value> = match self {
            Test::Null | Test::NotNull => return Ok(()),
            Test::Compare(_, value) => vec![value],
            Test::OneOf(values) => values.iter().collect(),
        };
        let order = matches!(self, Test::Compare(comparison, _) if comparison.is_order());
        let fits = |value: &Value| match found {
            DataType::Utf8 => value.is_string() || (value.is_number() && !order),
            DataType::Boolean => value.is_boolean() && !order,
            ty => ty.is_numeric() && value.is_number(),
        };
        match values.iter().find(|value| !fits(value)) {
            None => Ok(()),
            Some(_) if found.is_nested() => Err("which is compared with `null` alone".into()),
            Some(value) => Err(format!("which cannot be compared with {value}")),
        }
    }

    /// Clears `kept` where the test fails. A null meets no test but the one for it.
    fn apply(&self, array: &ArrayRef, kept: &mut [bool]) {
        let values = match self {
            Test::Null | Test::NotNull => {
                let nulls = array.logical_nulls();
                for (row, kept) in kept.iter_mut().enumerate() {
                    let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                    *kept &= is_null == (*self == Test::Null);
                }
                return;
            }
            Test::Compare(_, value) => std::slice::from_ref(value),
            Test::OneOf(values) => values,
        };
        let comparison = match self {
            Test::Compare(comparison, _) => *comparison,
            _ => Comparison::Equal,
        };
        let orders: Vec<_> = values.iter().map(|value| orders(array, value)).collect();
        for (row, kept) in kept.iter_mut().enumerate() {
            let meets = |order: &Orders<'_>| comparison.holds(order(row));
            *kept &= !array.is_null(row) && orders.iter().any(meets);
        }
    }
}

/// The order of a row's value and the one that it is compared with.
type Orders<'a> = Box<dyn Fn(usize) -> Option<Ordering> + 'a>;

fn orders<'a>(array: &'a ArrayRef, value: &'a Value) -> Orders<'a> {
    let nothing: Orders<'a> = Box::new(|_| None);
    match (array.data_type(), value) {
        (DataType::Utf8, value) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let texts = array.as_string::<i32>();
            Box::new(move |row| Some(texts.value(row).cmp(text.as_str())))
        }
        (DataType::Boolean, Value::Bool(truth)) => {
            let truths = array.as_boolean();
            Box::new(move |row| Some(truths.value(row).cmp(truth)))
        }
        // Exactly, where both are whole.
        (ty, Value::Number(number)) if ty.is_integer() && number.as_i64().is_some() => {
            let number = i128::from(number.as_i64().unwrap_or_default());
            let Ok(wide) = cast(array, if *ty == DataType::UInt64 { ty } else { &DataType::Int64 })
            else {
                return nothing;
            };
            Box::new(move |row| {
                let value = match wide.as_primitive_opt::<UInt64Type>() {
                    Some(values) => i128::from(values.value(row)),
                    None => i128::from(wide.as_primitive::<Int64Type>().value(row)),
                };
                Some(value.cmp(&number))
            })
        }
        (_, Value::Number(number)) => {
            let (Ok(wide), Some(number)) = (cast(array, &DataType::Float64), number.as_f64())
            else {
                return nothing;
            };
            Box::new(move |row| wide.as_primitive::<Float64Type>().value(row).partial_cmp(&number))
        }
        _ => nothing,
    }
}

/// The conditions among the options of `rows`.
pub(super) fn of_rows(rows: Option<&Value>) -> Result<Filter, Wrong> {
    match rows.and_then(Value::as_object).and_then(|map: &Map<String, Value>| map.get("where")) {
        None => Ok(Filter::default()),
        Some(written) => Filter::parse(written),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};

    use super::*;

    fn kept(written: Value) -> Result<Vec<usize>, String> {
        let table = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(3)])) as ArrayRef),
            ("x", Arc::new(Float64Array::from(vec![Some(0.5), None, Some(2.0), Some(-1.0)])) as _),
            ("t", Arc::new(StringArray::from(vec![Some("a"), Some("2"), None, Some("b")])) as _),
            (
                "b",
                Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])) as _,
            ),
        ])
        .unwrap();
        let filter = Filter::parse(&written).map_err(|wrong| wrong.0)?;
        filter.check(table.schema_ref()).map_err(|wrong| wrong.0)?;
        let mask = filter.mask(4, |name| table.column_by_name(name));
        Ok((0..4).filter(|row| mask.value(*row)).collect())
    }

    #[test]
    fn rows_that_meet_all_conditions_are_kept() {
        let cases = [
            (json!("b"), vec![0, 3]),
            (json!({ "b": false }), vec![1]),
            (json!({ "n": 2 }), vec![1]),
            (json!({ "n": { ">": 1 } }), vec![1, 3]),
            (json!({ "n": { ">=": 1.5, "<": 3 } }), vec![1]),
            (json!({ "x": { "<=": 0.5 } }), vec![0, 3]),
            (json!({ "t": "not_null", "b": true }), vec![0, 3]),
            (json!({ "t": "null" }), vec![2]),
            (json!({ "t": 2 }), vec![1]),
            (json!({ "t": { "!=": "a" } }), vec![1, 3]),
            (json!({ "t": { "in": ["a", "b", "c"] } }), vec![0, 3]),
            (json!({ "t": { ">": "a" } }), vec![3]),
        ];
        for (written, expected) in cases {
            assert_eq!(kept(written.clone()), Ok(expected), "{written}");
        }
    }

    #[test]
    fn a_condition_that_cannot_be_meant_is_refused() {
        let cases = [
            (json!({ "y": 1 }), "`where` names `y`, which is no column"),
            (json!({ "n": "1" }), "`n` is int64, which cannot be compared with \"1\""),
            (json!({ "b": { ">": true } }), "`b` is bool, which cannot"),
            (json!({ "n": { "~": 1 } }), "`n`: there is no comparison `~`"),
            (json!({ "n": { "in": 1 } }), "`n`: `in` takes a list"),
            (json!({ "n": [1] }), "`n`: a value must be text"),
        ];
        for (written, expected) in cases {
            let said = kept(written.clone()).unwrap_err();
            assert!(said.contains(expected), "{written}: {said}");
        }
    }
}
