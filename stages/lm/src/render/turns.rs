//! Finds every turn of the assistant in a rendered conversation, with its end of turn.

use std::ops::Range;

use serde_json::Value;

use super::{Prompt, RenderError, Rendered, Renderer, RowText, messages};
use crate::chat::{self, ChatTemplate, Message, message};

/// Stand for earlier turns in a trial rendering: private-use characters around the turn's number,
/// which no template looks for.
fn placeholder(turn: usize) -> String {
    format!("\u{F5A5}{turn}\u{F5A6}")
}

impl Renderer<'_> {
    /// Renders as [`Renderer::full`] does, and marks the tokens of every turn of the assistant: its
    /// text and the end of turn that the template writes behind it. The prompt ends where the first
    /// one begins.
    ///
    /// # Errors
    /// Those of [`Renderer::full`]; a conversation without a template, and a template that changes
    /// an earlier turn.
    pub fn full_turns(&self, row: &RowText<'_>) -> Result<Rendered, RenderError> {
        let mut rendered = self.full(row)?;
        let earlier = match (&self.template, row.prompt) {
            (Some(template), Prompt::Messages(_)) => self.earlier(template, row, &rendered.text)?,
            (None, Prompt::Messages(_)) => return Err(RenderError::NoTurns),
            (_, Prompt::Text(_)) => Vec::new(),
        };
        let Rendered { text, offsets, prompt_tokens, .. } = &rendered;
        let ends = offsets.iter().skip(1).map(|end| *end as usize).chain([text.len()]);
        let within = |begin: usize, end: usize| {
            // As the last turn's: a token that ends in the turn is the turn's.
            earlier.iter().any(|turn| begin < end && end > turn.start && end <= turn.end)
        };
        let tokens = offsets.iter().map(|begin| *begin as usize).zip(ends).enumerate();
        let in_turns: Vec<bool> = tokens
            .map(|(token, (begin, end))| token >= *prompt_tokens || within(begin, end))
            .collect();
        rendered.prompt_tokens = in_turns.iter().position(|turn| *turn).unwrap_or(in_turns.len());
        rendered.in_turns = Some(in_turns);
        Ok(rendered)
    }

    /// The bytes of the assistant's turns before the response.
    fn earlier(
        &self,
        template: &ChatTemplate,
        row: &RowText<'_>,
        text: &str,
    ) -> Result<Vec<Range<usize>>, RenderError> {
        let conversation = messages(row);
        let places: Vec<usize> = (0..conversation.len())
            .filter(|place| chat::role(&conversation[*place]) == "assistant")
            .collect();
        let contents: Vec<&str> = places
            .iter()
            .map(|place| plain(&conversation[*place]))
            .collect::<Result<_, RenderError>>()?;

        let mut trial = conversation.clone();
        for (turn, place) in places.iter().enumerate() {
            trial[*place] = message("assistant", &placeholder(turn));
        }
        trial.extend(row.response.map(|_| message("assistant", &placeholder(places.len()))));
        let around = template.render(&trial, row.tools, row.response.is_none())?;

        let mut turns = Vec::with_capacity(places.len());
        let (mut rest, mut at) = (around.as_str(), 0);
        for (turn, content) in contents.iter().enumerate() {
            let changed = || RenderError::TurnChanged { start: content.chars().take(40).collect() };
            let (before, after) = rest.split_once(&placeholder(turn)).ok_or_else(changed)?;
            let until = match after.find(&placeholder(turn + 1)) {
                Some(next) => &after[..next],
                None => after,
            };
            let found = text.get(at..).and_then(|text| text.strip_prefix(before));
            let found = found.ok_or_else(changed)?;
            let start = at + before.len();
            // A template may trim white space at the ends.
            let written = [content, content.trim(), content.trim_start(), content.trim_end()];
            let is_here = |written: &&&str| {
                found.strip_prefix(**written).is_some_and(|rest| rest.starts_with(until))
            };
            let body = written.iter().find(is_here).ok_or_else(changed)?.len();
            turns.push(start..start + body + self.end_of_turn(until));
            (rest, at) = (after, start + body);
        }
        Ok(turns)
    }

    /// The bytes up to the end of the special token with which a template ends a turn.
    fn end_of_turn(&self, after: &str) -> usize {
        match self.first_special(after) {
            Some((at, end)) if after[..at].trim().is_empty() => end,
            _ => 0,
        }
    }
}

/// The text of a turn that holds nothing else.
fn plain(turn: &Message) -> Result<&str, RenderError> {
    let content = turn.get("content").and_then(Value::as_str);
    let further = turn
        .iter()
        .any(|(name, value)| !["role", "content"].contains(&name.as_str()) && !value.is_null());
    match content {
        Some(content) if !further => Ok(content),
        content => {
            let start = content.unwrap_or("a call of a tool").chars().take(40).collect();
            Err(RenderError::TurnChanged { start })
        }
    }
}
