//! Turns the rows of a table into what a model is given: a prompt or messages, with template, system text and shots.

mod shots;
mod template;

use arrow::array::{Array, AsArray, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Fields};

use refrain_cache::columns::{column, optional_column};
use refrain_engine::kind::{Check, Context, Problem, StageError, choices, one_of};
use refrain_lm::chat::{Message, message};
use refrain_lm::render;
use refrain_lm::tokenizer::Tokenizer;

use crate::tables::{list_of, row_name};

use template::Template;

pub(crate) use shots::Shots;

/// The help of the parameter `prompt`.
pub(crate) const ABOUT_PROMPT: &str = "A minijinja template over the row's columns that makes the prompt; without it the column `prompt`, else `messages`";

/// The help of the parameter `system`.
pub(crate) const ABOUT_SYSTEM: &str =
    "A system turn before the prompt; a row that brings its own keeps that";

/// The help of the parameter `chat`.
pub(crate) const ABOUT_CHAT: &str =
    "Whether the model's chat template is used; `auto`: when its tokenizer has one";

choices! {
    /// The word that leaves a choice to the program.
    pub(crate) enum Auto {
        /// What the model decides.
        Auto = "auto",
    }
}

one_of! {
    /// Whether rows are rendered as chats.
    #[derive(Copy, PartialEq)]
    pub(crate) enum Chat {
        Given(bool),
        Word(Auto),
    }
}

impl Chat {
    /// Whether rows are rendered as chats with that tokenizer.
    pub fn resolve(self, tokenizer: &Tokenizer) -> Result<bool, StageError> {
        match (self, tokenizer.chat_template().is_some()) {
            (Chat::Given(true), false) => Err(StageError::with_hint(
                "`chat` is true, but the model's tokenizer has no chat template",
                "leave `chat` out, or add a `chat_template.jinja` to the model's folder",
            )),
            (Chat::Given(chat), _) => Ok(chat),
            (Chat::Word(Auto::Auto), has) => Ok(has),
        }
    }
}

/// The column type of `messages`.
pub(crate) fn messages_type() -> DataType {
    let text = |name| Field::new(name, DataType::Utf8, true);
    let turn = DataType::Struct(Fields::from(vec![text("role"), text("content")]));
    list_of(turn)
}

/// Checks the template and that the rows of `input` have what a prompt is made of.
pub(crate) fn check(check: &Check<'_>, input: &str, problems: &mut Vec<Problem>) {
    if let Some(source) = check.params.get("prompt").and_then(|value| value.as_str()) {
        match Template::new(source) {
            Err(error) => problems
                .push(Problem::at("prompt", format!("the template cannot be read: {error}"))),
            Ok(template) => {
                for name in template.columns() {
                    check.need(problems, input, name, &[]);
                }
            }
        }
        return;
    }
    match (check.has(input, "prompt"), check.has(input, "messages")) {
        (Some(true), _) => check.need(problems, input, "prompt", &[DataType::Utf8]),
        (_, Some(true)) => check.need(problems, input, "messages", &[messages_type()]),
        (Some(false), Some(false)) => problems.push(
            Problem::at(input, "the table has neither a column `prompt` nor `messages`")
                .hint("name it where the source is declared: `columns: { prompt: THEIRS }`, or write a template `prompt`"),
        ),
        _ => {}
    }
}

/// Role and content.
type Turn = (String, String);

/// What one row asks of the model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    /// One text.
    Text(String),
    /// A conversation, oldest turn first.
    Turns(Vec<Turn>),
}

/// How rows become prompts, for one node.
#[derive(Debug)]
pub(crate) struct Prompts {
    template: Option<Template>,
    system: Option<String>,
    /// Examples before each prompt: what was asked, and the answer.
    shots: Vec<(Prompt, String)>,
    chat: bool,
}

impl Prompts {
    /// The prompts of a node with these parameters.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn new(
        template: Option<&str>,
        system: Option<String>,
        chat: bool,
    ) -> Result<Prompts, StageError> {
        let template = template.map(Template::new).transpose();
        let template = template.map_err(|e| {
            StageError::failed(format!("the template `prompt` cannot be read: {e}"))
        })?;
        Ok(Prompts { template, system, shots: Vec::new(), chat })
    }

    /// The same with examples drawn from the table `shots.data`.
    pub fn with_shots(
        mut self,
        context: &Context<'_>,
        shots: Option<&Shots>,
    ) -> Result<Prompts, StageError> {
        if let Some(shots) = shots {
            self.shots = shots.draw(context, &self)?;
        }
        Ok(self)
    }

    /// The prompts of the rows of a batch, whose first row is number `first` of its table.
    ///
    /// # Errors
    /// The first row without a prompt, with its name.
    pub fn of_batch(&self, batch: &RecordBatch, first: u64) -> Result<Vec<Prompt>, StageError> {
        let asked = self.asked(batch, first)?;
        Ok(asked.into_iter().map(|prompt| self.complete(prompt)).collect())
    }

    /// The rows' own prompts, without system text and shots.
    fn asked(&self, batch: &RecordBatch, first: u64) -> Result<Vec<Prompt>, StageError> {
        let rows = 0..batch.num_rows();
        if let Some(template) = &self.template {
            let fail = |row, why: String| {
                row_error(batch, row, first, &format!("the template `prompt` fails: {why}"))
            };
            return rows
                .map(|row| template.render(batch, row).map(Prompt::Text).map_err(|e| fail(row, e)))
                .collect();
        }
        if let Some(prompts) = optional_column::<StringArray>(batch, "prompt")? {
            let null = |row| row_error(batch, row, first, "`prompt` is empty");
            return rows
                .map(|row| {
                    cell(prompts, row).map(|p| Prompt::Text(p.into())).ok_or_else(|| null(row))
                })
                .collect();
        }
        let messages = column::<ListArray>(batch, "messages")?;
        let null = |row| {
            row_error(batch, row, first, "`messages` holds no turn, or one without role or content")
        };
        rows.map(|row| turns(messages, row).map(Prompt::Turns).ok_or_else(|| null(row))).collect()
    }

    /// The prompt with system text and shots before it: as turns, or plainly as blocks with a blank line between,
    /// each shot as it would be read together with its answer.
    fn complete(&self, asked: Prompt) -> Prompt {
        let mut own = own_turns(asked);
        let brings_system = own.first().is_some_and(|(role, _)| role == "system");
        let system = if brings_system { Some(own.remove(0).1) } else { self.system.clone() };
        let shots = self.shots.iter().map(|(asked, answer)| (own_turns(asked.clone()), answer));
        if self.chat {
            let mut turns: Vec<Turn> =
                system.into_iter().map(|text| ("system".to_owned(), text)).collect();
            for (asked, answer) in shots {
                turns.extend(asked.into_iter().filter(|(role, _)| role != "system"));
                turns.push(("assistant".into(), answer.clone()));
            }
            turns.extend(own);
            return Prompt::Turns(turns);
        }
        let mut blocks: Vec<String> = system.into_iter().collect();
        blocks.extend(shots.map(|(asked, answer)| contents(asked) + answer));
        blocks.push(contents(own));
        Prompt::Text(blocks.join("\n\n"))
    }
}

/// Calls `use_row` with the row as the renderer takes it.
pub(crate) fn with_row<T>(
    prompt: &Prompt,
    response: Option<&str>,
    use_row: impl FnOnce(&render::RowText<'_>) -> T,
) -> T {
    let turns: Vec<Message>;
    let prompt = match prompt {
        Prompt::Text(text) => render::Prompt::Text(text),
        Prompt::Turns(own) => {
            turns = own.iter().map(|(role, content)| message(role, content)).collect();
            render::Prompt::Messages(&turns)
        }
    };
    use_row(&render::RowText { prompt, system: None, tools: None, response_fields: None, response })
}

fn own_turns(prompt: Prompt) -> Vec<Turn> {
    match prompt {
        Prompt::Text(text) => vec![("user".into(), text)],
        Prompt::Turns(turns) => turns,
    }
}

fn contents(turns: Vec<Turn>) -> String {
    turns.into_iter().map(|(_, content)| content).collect::<Vec<String>>().join("\n\n")
}

fn turns(messages: &ListArray, row: usize) -> Option<Vec<Turn>> {
    if messages.is_null(row) {
        return None;
    }
    let row = messages.value(row);
    let turns = row.as_struct_opt()?;
    let roles = turns.column_by_name("role")?.as_string_opt::<i32>()?;
    let contents = turns.column_by_name("content")?.as_string_opt::<i32>()?;
    let turn = |at| Some((cell(roles, at)?.to_owned(), cell(contents, at)?.to_owned()));
    if turns.is_empty() { None } else { (0..turns.len()).map(turn).collect() }
}

/// The text of a cell, unless it is null.
pub(crate) fn cell(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// What is wrong with a row of a batch whose first row is number `first` of its table.
pub(crate) fn row_error(batch: &RecordBatch, row: usize, first: u64, what: &str) -> StageError {
    StageError::failed(format!("{}: {what}", row_name(batch, first, row)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, ListBuilder, StringBuilder, StructBuilder};

    use super::*;

    fn prompts(system: Option<&str>, chat: bool) -> Prompts {
        let mut prompts = Prompts::new(None, system.map(String::from), chat).unwrap();
        prompts.shots = vec![(Prompt::Text("1+1=".into()), "2".into())];
        prompts
    }

    fn texts(values: Vec<Option<&str>>) -> RecordBatch {
        let ids = StringArray::from_iter_values((0..values.len()).map(|i| format!("q{i}")));
        RecordBatch::try_from_iter([
            ("id", Arc::new(ids) as ArrayRef),
            ("prompt", Arc::new(StringArray::from(values))),
        ])
        .unwrap()
    }

    fn messages(turns: &[(&str, &str)]) -> RecordBatch {
        let DataType::List(item) = messages_type() else { panic!() };
        let DataType::Struct(fields) = item.data_type() else { panic!() };
        let mut lists = ListBuilder::new(StructBuilder::from_fields(fields.clone(), 0));
        for (role, content) in turns {
            lists.values().field_builder::<StringBuilder>(0).unwrap().append_value(role);
            lists.values().field_builder::<StringBuilder>(1).unwrap().append_value(content);
            lists.values().append(true);
        }
        lists.append(true);
        RecordBatch::try_from_iter([("messages", Arc::new(lists.finish()) as ArrayRef)]).unwrap()
    }

    fn turn(role: &str, content: &str) -> Turn {
        (role.into(), content.into())
    }

    #[test]
    fn shots_and_system_come_first() {
        let batch = texts(vec![Some("2+2=")]);
        let plain = prompts(Some("Add."), false).of_batch(&batch, 0).unwrap();
        assert_eq!(plain, [Prompt::Text("Add.\n\n1+1=2\n\n2+2=".into())]);
        let chat = prompts(Some("Add."), true).of_batch(&batch, 0).unwrap();
        let turns = vec![
            turn("system", "Add."),
            turn("user", "1+1="),
            turn("assistant", "2"),
            turn("user", "2+2="),
        ];
        assert_eq!(chat, [Prompt::Turns(turns)]);
    }

    #[test]
    fn a_row_keeps_its_own_system_turn() {
        let batch = messages(&[("system", "Own."), ("user", "Hi")]);
        let Prompt::Turns(turns) =
            prompts(Some("Given."), true).of_batch(&batch, 0).unwrap().remove(0)
        else {
            panic!()
        };
        assert_eq!((turns.len(), turns[0].1.as_str()), (4, "Own."));
        let plain = prompts(Some("Given."), false).of_batch(&batch, 0).unwrap();
        assert_eq!(plain, [Prompt::Text("Own.\n\n1+1=2\n\nHi".into())]);
    }

    #[test]
    fn errors_name_the_row() {
        let error = prompts(None, false).of_batch(&texts(vec![Some("a"), None]), 40).unwrap_err();
        assert_eq!(error.to_string(), "row 41 (`q1`): `prompt` is empty");
        let error = prompts(None, true).of_batch(&messages(&[]), 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "row 0: `messages` holds no turn, or one without role or content"
        );
    }
}
