//! The user's own prompt template: minijinja over the columns of a row.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::array_value_to_string;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, escape_formatter};

/// Steps that one rendering may take: far more than any prompt needs, and an end for a loop without
/// one.
const FUEL: u64 = 1_000_000;

/// A checked template and the columns that it reads.
#[derive(Debug)]
pub(crate) struct Template {
    environment: Environment<'static>,
    columns: Vec<String>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with its syntax, as a fragment.
    pub fn new(source: &str) -> Result<Template, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_keep_trailing_newline(true);
        environment.set_fuel(Some(FUEL));
        // The word `none` in a prompt is never what was meant.
        environment.set_formatter(|out, state, value| match value.is_none() {
            true => Err(Error::new(ErrorKind::InvalidOperation, "an empty value cannot be shown")),
            false => escape_formatter(out, state, value),
        });
        environment
            .add_template_owned("prompt", source.to_owned())
            .map_err(|error| fragment(&error))?;
        let template = environment.get_template("prompt").map_err(|error| fragment(&error))?;
        let mut columns: Vec<String> = template.undeclared_variables(false).into_iter().collect();
        columns.retain(|name| !environment.globals().any(|(global, _)| global == name));
        columns.sort_unstable();
        Ok(Template { environment, columns })
    }

    /// The names that the template takes from the row, sorted.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The prompt of one row of a batch.
    ///
    /// # Errors
    /// What went wrong, as a fragment; a name that is no column is one.
    pub fn render(&self, batch: &RecordBatch, row: usize) -> Result<String, String> {
        let named = self
            .columns
            .iter()
            .filter_map(|name| Some((name.as_str(), batch.column_by_name(name)?)));
        let values: BTreeMap<&str, Value> =
            named.map(|(name, array)| (name, value(array, row))).collect();
        let template = self.environment.get_template("prompt").map_err(|error| fragment(&error))?;
        template.render(values).map_err(|error| fragment(&error))
    }
}

fn fragment(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// A cell as a template sees it; what has no counterpart there is its text.
fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::from(());
    }
    match array.data_type() {
        DataType::Utf8 => Value::from(array.as_string::<i32>().value(row)),
        DataType::Boolean => Value::from(array.as_boolean().value(row)),
        DataType::Int8 => Value::from(array.as_primitive::<Int8Type>().value(row)),
        DataType::Int16 => Value::from(array.as_primitive::<Int16Type>().value(row)),
        DataType::Int32 => Value::from(array.as_primitive::<Int32Type>().value(row)),
        DataType::Int64 => Value::from(array.as_primitive::<Int64Type>().value(row)),
        DataType::UInt8 => Value::from(array.as_primitive::<UInt8Type>().value(row)),
        DataType::UInt16 => Value::from(array.as_primitive::<UInt16Type>().value(row)),
        DataType::UInt32 => Value::from(array.as_primitive::<UInt32Type>().value(row)),
        DataType::UInt64 => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        DataType::Float32 => Value::from(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => Value::from(array.as_primitive::<Float64Type>().value(row)),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Value::from((0..items.len()).map(|item| value(&items, item)).collect::<Vec<Value>>())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            fields
                .iter()
                .zip(columns)
                .map(|(field, column)| (field.name().as_str(), value(column, row)))
                .collect()
        }
        _ => Value::from(array_value_to_string(array, row).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch() -> RecordBatch {
        let choices =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(4), Some(5)]), None]);
        RecordBatch::try_from_iter([
            ("question", Arc::new(StringArray::from(vec![Some("2 < 3?"), None])) as ArrayRef),
            ("level", Arc::new(Int64Array::from(vec![7, 8]))),
            ("share", Arc::new(Float64Array::from(vec![0.5, 1.0]))),
            ("choices", Arc::new(choices)),
        ])
        .unwrap()
    }

    fn render(template: &str, row: usize) -> Result<String, String> {
        Template::new(template)?.render(&batch(), row)
    }

    #[test]
    fn columns_of_every_type_are_seen_and_nothing_is_escaped() {
        let text = "Q: {{ question }}\n{% for c in choices %}({{ c }}){% endfor %} {{ level + 1 }} {{ share }}\n";
        assert_eq!(render(text, 0).unwrap(), "Q: 2 < 3?\n(4)(5) 8 0.5\n");
        assert_eq!(
            Template::new("{{ b }}{{ a.x }}{% set c = 1 %}{{ c }}{{ range(2) }}")
                .unwrap()
                .columns(),
            ["a", "b"]
        );
    }

    #[test]
    fn what_is_missing_is_an_error() {
        assert!(render("{{ answer }}", 0).unwrap_err().contains("undefined"));
        assert!(
            render("{{ question }}", 1).unwrap_err().contains("an empty value cannot be shown")
        );
        assert!(render("{{ question", 0).unwrap_err().contains("syntax error"));
        assert!(
            render(
                "{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}",
                0
            )
            .is_err()
        );
    }
}
