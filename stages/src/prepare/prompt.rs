//! The prompt of a document: description, examples and question, in the order and with the
//! delimiters of lm-evaluation-harness.

use serde_json::Value;

use super::document::{Choices, Document, Field, Target, digits, python_str};
use crate::lm_eval::{FEWSHOT_DELIMITER, FewshotConfig, TARGET_DELIMITER, TaskFile};

/// A field of the task, for messages.
fn named<T>(name: &'static str, result: Result<T, String>) -> Result<T, Wrong> {
    result.map_err(|why| Wrong { field: name, why })
}

/// A field of a task that cannot be made, or read.
#[derive(Debug)]
pub(super) struct Wrong {
    pub field: &'static str,
    pub why: String,
}

/// The way to write a document, with its answer or without.
pub(super) struct Form {
    text: Field,
    target: Target,
    choices: Option<Choices>,
    prefix: Option<Field>,
    pub target_delimiter: String,
    fewshot_delimiter: String,
}

impl Form {
    /// The form of the question.
    ///
    /// # Errors
    /// A field that is missing or cannot be read.
    pub fn new(task: &TaskFile, is_column: &dyn Fn(&str) -> bool) -> Result<Form, Wrong> {
        Form::of_examples(task, None, is_column)
    }

    /// The form of examples, whose configuration may replace fields.
    pub fn of_examples(
        task: &TaskFile,
        config: Option<&FewshotConfig>,
        is_column: &dyn Fn(&str) -> bool,
    ) -> Result<Form, Wrong> {
        macro_rules! field {
            ($name:ident) => {
                config.and_then(|config| config.$name.as_ref()).or(task.$name.as_ref())
            };
        }
        let missing = || "it is missing".to_owned();
        let text = named("doc_to_text", field!(doc_to_text).ok_or_else(missing))?;
        let target = named("doc_to_target", field!(doc_to_target).ok_or_else(missing))?;
        let choices = field!(doc_to_choice).map(|choices| Choices::new(choices, is_column));
        let prefix = field!(gen_prefix).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.map(|prefix| Field::new(prefix, is_column));
        let delimiter = |given: Option<&String>, preset: &str| {
            given.map_or_else(|| preset.to_owned(), String::clone)
        };
        Ok(Form {
            text: named("doc_to_text", Field::new(text, is_column))?,
            target: named("doc_to_target", Target::new(target, is_column))?,
            choices: named("doc_to_choice", choices.transpose())?,
            prefix: named("gen_prefix", prefix.transpose())?,
            target_delimiter: delimiter(field!(target_delimiter), TARGET_DELIMITER),
            fewshot_delimiter: delimiter(field!(fewshot_delimiter), FEWSHOT_DELIMITER),
        })
    }

    /// The answer of a document.
    pub fn target(&self, document: &Document) -> Result<Value, Wrong> {
        named("doc_to_target", self.target.value(document, self.choices.is_some()))
    }

    /// The options of a document; `None` of a task without any.
    pub fn choices(&self, document: &Document) -> Result<Option<Vec<String>>, Wrong> {
        let list = self.choices.as_ref().map(|choices| choices.list(document));
        named("doc_to_choice", list.transpose())
    }

    fn text(&self, document: &Document) -> Result<String, Wrong> {
        let text = named("doc_to_text", self.text.text(document))?;
        let is_number = matches!(self.text, Field::Template(_)) && digits(&text).is_some();
        if is_number && self.choices.is_some() {
            let why = "it is a number: options that stand in the question are not supported";
            return Err(Wrong { field: "doc_to_text", why: why.into() });
        }
        Ok(text)
    }

    fn prefix(&self, document: &Document) -> Result<Option<String>, Wrong> {
        let prefix = self.prefix.as_ref().map(|prefix| prefix.text(document)).transpose();
        Ok(named("gen_prefix", prefix)?.filter(|prefix| !prefix.is_empty()))
    }

    /// Writes the question.
    pub fn question(&self, document: &Document, out: &mut String) -> Result<(), Wrong> {
        let text = self.text(document)?;
        out.push_str(&text);
        if let Some(prefix) = self.prefix(document)? {
            if needs_delimiter(&text, &prefix) {
                out.push_str(&self.target_delimiter);
            }
            out.push_str(&prefix);
        }
        Ok(())
    }

    /// Writes the document with its answer.
    pub fn example(&self, document: &Document, out: &mut String) -> Result<(), Wrong> {
        let target = self.target(document)?;
        if target.is_null() || target == "" {
            return self.question(document, out);
        }
        let answer = self.answer(document, &target)?;
        let text = self.text(document)?;
        out.push_str(&text);
        match self.prefix(document)? {
            None => {
                out.push_str(&self.target_delimiter);
                out.push_str(&answer);
            }
            Some(prefix) => {
                if needs_delimiter(&text, &prefix) {
                    out.push_str(&self.target_delimiter);
                }
                out.push_str(&prefix);
                if !answer.is_empty() && needs_delimiter(&prefix, &answer) {
                    out.push(' ');
                }
                out.push_str(&answer);
            }
        }
        out.push_str(&self.fewshot_delimiter);
        Ok(())
    }

    /// The text of an answer: an option by its number, the first of several, or itself.
    fn answer(&self, document: &Document, target: &Value) -> Result<String, Wrong> {
        let first = match target {
            Value::Array(items) => items.first().unwrap_or(target),
            other => other,
        };
        let by_number = match target.as_u64() {
            Some(number) => self.choices(document)?.map(|all| all.get(number as usize).cloned()),
            None => None,
        };
        let text = by_number.unwrap_or_else(|| first.as_str().map(str::to_owned));
        let why = || format!("it is {}, and neither a text nor an option", python_str(target));
        text.ok_or_else(|| Wrong { field: "doc_to_target", why: why() })
    }
}

/// Whether two texts have no white space where they meet.
fn needs_delimiter(before: &str, behind: &str) -> bool {
    !before.is_empty()
        && !before.ends_with(char::is_whitespace)
        && !behind.starts_with(char::is_whitespace)
}
