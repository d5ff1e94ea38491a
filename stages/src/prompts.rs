//! Turns the rows of a table into what a model is given: a prompt or messages, with template,
//! system text and shots.

mod messages;
mod options;
mod shots;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use serde_json::Value;

use refrain_cache::columns::{column, optional_column};
use refrain_engine::kind::{Check, Context, Problem, Progress, StageError};
use refrain_lm::chat::{Message, message, role};
use refrain_lm::render::{self, Renderer};

use crate::tables::row_name;

use messages::{json_column, turns};

pub(crate) use messages::messages_types;
pub(crate) use options::{
    ABOUT_BOS, ABOUT_CHAT, ABOUT_PROMPT, ABOUT_SYSTEM, Auto, Bos, Chat, renderer,
};
pub(crate) use shots::Shots;
pub(crate) use template::Template;

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
        (_, Some(true)) => check.need(problems, input, "messages", &messages_types()),
        (Some(false), Some(false)) => problems.push(
            Problem::at(input, "the table has neither a column `prompt` nor `messages`")
                .hint("name it where the source is declared: `columns: { prompt: THEIRS }`, or write a template `prompt`"),
        ),
        _ => {}
    }
}

/// A row's prompt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Prompt {
    /// One text.
    Text(String),
    /// A conversation, oldest turn first.
    Turns(Vec<Message>),
}

/// A row's prompt, and what a chat template may write beside it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RowPrompt {
    pub prompt: Prompt,
    /// The list of tools that the model may call.
    pub tools: Option<Value>,
    /// Further fields of the turn that is the response.
    response_fields: Option<Message>,
}

/// Makes the prompts of one node's rows.
#[derive(Debug)]
pub(crate) struct PromptRenderer {
    template: Option<Template>,
    system: Option<String>,
    /// Examples before each prompt: what was asked, and the answer.
    shots: Vec<(Prompt, String)>,
    chat: bool,
    /// In how many rows each further field of turns is, and `tools`.
    fields: Mutex<BTreeMap<String, u64>>,
}

impl PromptRenderer {
    /// The prompts of a node with these parameters.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn new(
        template: Option<&str>,
        system: Option<String>,
        chat: bool,
    ) -> Result<PromptRenderer, StageError> {
        let template = template.map(Template::new).transpose();
        let template = template.map_err(|e| {
            StageError::failed(format!("the template `prompt` cannot be read: {e}"))
        })?;
        Ok(PromptRenderer { template, system, shots: Vec::new(), chat, fields: Mutex::default() })
    }

    /// The same with examples drawn from the table `shots.data`.
    pub fn with_shots(
        mut self,
        context: &Context<'_>,
        shots: Option<&Shots>,
    ) -> Result<PromptRenderer, StageError> {
        if let Some(shots) = shots {
            self.shots = shots.draw(context, &self)?;
        }
        Ok(self)
    }

    /// The prompts of the rows of a batch, whose first row is number `first` of its table.
    ///
    /// # Errors
    /// The first row without a prompt, with its name.
    pub fn of_batch(&self, batch: &RecordBatch, first: u64) -> Result<Vec<RowPrompt>, StageError> {
        let asked = self.asked(batch, first)?;
        // A text has no turns that could call tools.
        let turns = asked.iter().any(|prompt| matches!(prompt, Prompt::Turns(_)));
        let json = |name: &str| match turns {
            true => json_column(batch, first, name),
            false => Ok(vec![None; batch.num_rows()]),
        };
        let (tools, further) = (json("tools")?, json("response_fields")?);
        let mut rows = Vec::with_capacity(asked.len());
        for ((prompt, tools), further) in asked.into_iter().zip(tools).zip(further) {
            let response_fields = match further {
                Some(Value::Object(fields)) => Some(fields),
                _ => None,
            };
            let tools = tools.filter(|tools| tools.as_array().is_some_and(|t| !t.is_empty()));
            self.count_fields(&prompt, tools.is_some(), response_fields.as_ref());
            rows.push(RowPrompt { prompt: self.complete(prompt), tools, response_fields });
        }
        Ok(rows)
    }

    fn count_fields(&self, prompt: &Prompt, tools: bool, response_fields: Option<&Message>) {
        let turns = match prompt {
            Prompt::Text(_) => &[][..],
            Prompt::Turns(turns) => turns,
        };
        let named = turns.iter().chain(response_fields).flat_map(Message::keys).map(String::as_str);
        let named = named.filter(|name| !["role", "content"].contains(name));
        let names: BTreeSet<&str> = named.chain(tools.then_some("tools")).collect();
        if names.is_empty() {
            return;
        }
        let mut fields = self.fields.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            *fields.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Notes the fields of turns that the rendering does not write, with the number of rows that
    /// have them.
    pub fn note_left_out(&self, renderer: &Renderer<'_>, progress: &Progress) {
        let fields = self.fields.lock().unwrap_or_else(PoisonError::into_inner);
        let all = fields.keys().filter(|name| *name != "tools");
        let turn: Message = all.map(|name| (name.clone(), Value::Bool(true))).collect();
        let tools = fields.contains_key("tools").then_some(Value::Bool(true));
        let row = render::RowText {
            prompt: render::Prompt::Messages(std::slice::from_ref(&turn)),
            system: None,
            tools: tools.as_ref(),
            response: None,
            response_fields: None,
        };
        let left_out = renderer.left_out(&row);
        let counted: Vec<String> = left_out
            .iter()
            .map(|name| format!("`{name}` ({} rows)", fields.get(*name).copied().unwrap_or(0)))
            .collect();
        if !counted.is_empty() {
            progress
                .note(format!("the rendering leaves out of `messages`: {}", counted.join(", ")));
        }
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
        let wrong = |row, what: String| row_error(batch, row, first, &what);
        rows.map(|row| match turns(messages, row) {
            Ok(turns) if self.chat || turns.iter().all(has_text) => Ok(Prompt::Turns(turns)),
            Ok(_) => {
                let what = "`messages` holds a turn without text, of which nothing is written without a chat template";
                Err(wrong(row, what.into()))
            }
            Err(what) => Err(wrong(row, what)),
        })
        .collect()
    }

    /// The prompt with system text and shots before it: as turns, or plainly as blocks with a blank
    /// line between, each shot as it would be read together with its answer.
    fn complete(&self, asked: Prompt) -> Prompt {
        let mut own = own_turns(asked);
        let brings_system = own.first().is_some_and(|turn| role(turn) == "system");
        let given = self.system.as_ref().map(|text| message("system", text));
        let system = if brings_system { Some(own.remove(0)) } else { given };
        let shots = self.shots.iter().map(|(asked, answer)| (own_turns(asked.clone()), answer));
        if self.chat {
            let mut turns: Vec<Message> = system.into_iter().collect();
            for (asked, answer) in shots {
                turns.extend(asked.into_iter().filter(|turn| role(turn) != "system"));
                turns.push(message("assistant", answer));
            }
            turns.extend(own);
            return Prompt::Turns(turns);
        }
        let mut blocks: Vec<String> = system.iter().map(|turn| text(turn).to_owned()).collect();
        blocks.extend(shots.map(|(asked, answer)| contents(&asked) + answer));
        blocks.push(contents(&own));
        Prompt::Text(blocks.join("\n\n"))
    }
}

/// Calls `use_row` with the row as the renderer takes it.
pub(crate) fn with_row<T>(
    row: &RowPrompt,
    response: Option<&str>,
    use_row: impl FnOnce(&render::RowText<'_>) -> T,
) -> T {
    let prompt = match &row.prompt {
        Prompt::Text(text) => render::Prompt::Text(text),
        Prompt::Turns(turns) => render::Prompt::Messages(turns),
    };
    let response_fields = row.response_fields.as_ref().filter(|_| response.is_some());
    let tools = row.tools.as_ref();
    use_row(&render::RowText { prompt, system: None, tools, response, response_fields })
}

fn own_turns(prompt: Prompt) -> Vec<Message> {
    match prompt {
        Prompt::Text(text) => vec![message("user", &text)],
        Prompt::Turns(turns) => turns,
    }
}

/// The text of a turn as the source wrote it: parts have been joined there.
fn text(turn: &Message) -> &str {
    turn.get("content").and_then(Value::as_str).unwrap_or_default()
}

fn has_text(turn: &Message) -> bool {
    turn.get("content").is_some_and(Value::is_string)
}

fn contents(turns: &[Message]) -> String {
    turns.iter().map(text).collect::<Vec<&str>>().join("\n\n")
}

/// The text of a cell, unless it is null.
pub(crate) fn cell(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// Makes the error of a row of a batch whose first row is number `first` of its table.
pub(crate) fn row_error(batch: &RecordBatch, row: usize, first: u64, what: &str) -> StageError {
    StageError::failed(format!("{}: {what}", row_name(batch, first, row)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, ListBuilder, StringBuilder, StructBuilder};

    use super::*;

    fn prompts(system: Option<&str>, chat: bool) -> PromptRenderer {
        let mut prompts = PromptRenderer::new(None, system.map(String::from), chat).unwrap();
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
        let [DataType::List(item), _] = messages_types() else { panic!() };
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

    fn prompts_of(rows: Vec<RowPrompt>) -> Vec<Prompt> {
        rows.into_iter().map(|row| row.prompt).collect()
    }

    #[test]
    fn shots_and_system_come_first() {
        let batch = texts(vec![Some("2+2=")]);
        let plain = prompts_of(prompts(Some("Add."), false).of_batch(&batch, 0).unwrap());
        assert_eq!(plain, [Prompt::Text("Add.\n\n1+1=2\n\n2+2=".into())]);
        let chat = prompts_of(prompts(Some("Add."), true).of_batch(&batch, 0).unwrap());
        let turns = vec![
            message("system", "Add."),
            message("user", "1+1="),
            message("assistant", "2"),
            message("user", "2+2="),
        ];
        assert_eq!(chat, [Prompt::Turns(turns)]);
    }

    #[test]
    fn a_row_keeps_its_own_system_turn() {
        let batch = messages(&[("system", "Own."), ("user", "Hi")]);
        let Prompt::Turns(turns) =
            prompts(Some("Given."), true).of_batch(&batch, 0).unwrap().remove(0).prompt
        else {
            panic!()
        };
        assert_eq!((turns.len(), text(&turns[0])), (4, "Own."));
        let plain = prompts_of(prompts(Some("Given."), false).of_batch(&batch, 0).unwrap());
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
