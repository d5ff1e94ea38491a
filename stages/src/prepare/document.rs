//! Documents, and the fields of a task that are made of them.

use arrow::array::RecordBatch;
use arrow::json::writer::{JsonArray, WriterBuilder};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};

use refrain_engine::kind::StageError;
use refrain_lm::chat::{python_environment, str_of, to_template, translate};

use super::literal;
use crate::lm_eval::{ChoiceField, TargetField};
use crate::python_regex::PythonRegex;
use crate::tables::arrow_bug;

/// Steps that one rendering may take.
const FUEL: u64 = 1_000_000;

/// A document: a row as JSON.
pub(super) type Document = Map<String, Value>;

/// Reads the rows of a batch as documents.
pub(super) fn documents(batch: &RecordBatch) -> Result<Vec<Document>, StageError> {
    if batch.num_rows() == 0 {
        return Ok(Vec::new());
    }
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, JsonArray>(Vec::new());
    writer.write(batch).map_err(arrow_bug)?;
    writer.finish().map_err(arrow_bug)?;
    serde_json::from_slice(&writer.into_inner())
        .map_err(|error| StageError::bug(format!("rows are not JSON: {error}")))
}

/// A field of a task that is made of a document.
#[derive(Debug)]
pub(super) enum Field {
    /// The value of a column.
    Column(String),
    /// The text of a template.
    Template(Box<Environment<'static>>),
}

/// The name of the one template of an environment.
const NAME: &str = "field";

impl Field {
    /// A column where a document has it, else a template.
    ///
    /// # Errors
    /// What is wrong with the template, as a fragment.
    pub fn new(source: &str, is_column: &dyn Fn(&str) -> bool) -> Result<Field, String> {
        if is_column(source) {
            return Ok(Field::Column(source.to_owned()));
        }
        let mut environment = python_environment();
        environment.set_trim_blocks(false);
        environment.set_lstrip_blocks(false);
        environment.set_keep_trailing_newline(true);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("regex_replace", regex_replace);
        let added = environment.add_template_owned(NAME, translate(source));
        added.map_err(|error| fragment(&error))?;
        Ok(Field::Template(Box::new(environment)))
    }

    /// The value of the field: a template's is a text.
    ///
    /// # Errors
    /// What went wrong, as a fragment.
    pub fn value(&self, document: &Document) -> Result<Value, String> {
        match self {
            Field::Column(name) => {
                document.get(name).cloned().ok_or_else(|| format!("the document has no `{name}`"))
            }
            Field::Template(environment) => {
                let template = environment.get_template(NAME).map_err(|e| fragment(&e))?;
                let text = template.render(to_template(&Value::Object(document.clone())));
                text.map(Value::String).map_err(|error| fragment(&error))
            }
        }
    }

    /// The text of the field.
    ///
    /// # Errors
    /// What went wrong, as a fragment; a value that is not a text.
    pub fn text(&self, document: &Document) -> Result<String, String> {
        match self.value(document)? {
            Value::String(text) => Ok(text),
            other => Err(format!("it is not a text but {}", python_str(&other))),
        }
    }
}

/// The answer of a document, or the way to it.
pub(super) enum Target {
    /// Always this option.
    Option(u64),
    /// Always these texts.
    Texts(Vec<String>),
    Field(Field),
}

impl Target {
    pub fn new(given: &TargetField, is_column: &dyn Fn(&str) -> bool) -> Result<Target, String> {
        Ok(match given {
            TargetField::Option(number) => Target::Option(*number),
            TargetField::Texts(texts) => Target::Texts(texts.clone()),
            TargetField::Text(source) => Target::Field(Field::new(source, is_column)?),
        })
    }

    /// The answer: a text, a number of an option, or a list; `has_choices` where digits are a
    /// number.
    pub fn value(&self, document: &Document, has_choices: bool) -> Result<Value, String> {
        let field = match self {
            Target::Option(number) => return Ok((*number).into()),
            Target::Texts(texts) => return Ok(texts.clone().into()),
            Target::Field(field) => field,
        };
        let text = match (field, field.value(document)?) {
            (Field::Template(_), Value::String(text)) => text,
            (_, Value::Bool(truth)) if has_choices => return Ok(u8::from(truth).into()),
            (_, other) => return Ok(other),
        };
        if has_choices && let Some(number) = digits(&text) {
            return Ok(number.into());
        }
        let list = (text.starts_with('[') && text.ends_with(']')).then(|| literal::read(&text));
        Ok(list.flatten().unwrap_or(Value::String(text)))
    }
}

/// The options of a document, or the way to them.
pub(super) enum Choices {
    /// Always these.
    Texts(Vec<String>),
    Field(Field),
}

impl Choices {
    pub fn new(given: &ChoiceField, is_column: &dyn Fn(&str) -> bool) -> Result<Choices, String> {
        Ok(match given {
            ChoiceField::Texts(texts) => Choices::Texts(texts.clone()),
            ChoiceField::Text(source) => Choices::Field(Field::new(source, is_column)?),
        })
    }

    /// The options.
    pub fn list(&self, document: &Document) -> Result<Vec<String>, String> {
        let field = match self {
            Choices::Texts(texts) => return Ok(texts.clone()),
            Choices::Field(field) => field,
        };
        let value = field.value(document)?;
        let list = match (field, &value) {
            (Field::Template(_), Value::String(text)) => literal::read(text),
            _ => Some(value.clone()),
        };
        let Some(Value::Array(items)) = list else {
            return Err(format!("it is not a list but {}", start(&python_str(&value))));
        };
        let text = |item: Value| match item {
            Value::String(text) if !text.is_empty() => Ok(text),
            other => Err(format!("an option is not a text but {}", start(&python_str(&other)))),
        };
        let texts: Vec<String> = items.into_iter().map(text).collect::<Result<_, _>>()?;
        if texts.is_empty() { Err("it is an empty list".to_owned()) } else { Ok(texts) }
    }
}

/// Python's `str` of a value.
pub(super) fn python_str(value: &Value) -> String {
    str_of(&to_template(value)).unwrap_or_default()
}

/// The number that a text of digits alone is.
pub(super) fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if all { text.parse().ok() } else { None }
}

/// The beginning of a text, in backticks.
fn start(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("`{}`", cut.escape_debug())
}

fn regex_replace(
    text: &str,
    pattern: &str,
    new: &str,
    count: Option<usize>,
) -> Result<String, Error> {
    let pattern = PythonRegex::new(pattern)
        .map_err(|why| Error::new(ErrorKind::InvalidOperation, format!("`{pattern}`: {why}")))?;
    Ok(pattern.replace(text, new, count.unwrap_or(0)).into_owned())
}

fn fragment(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) if line > 1 => format!("line {line}: {what}"),
        _ => what,
    }
}
