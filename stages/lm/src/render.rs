//! The one renderer of score, generate and finetune: a row becomes a text, and the text tokens.

use crate::chat::{ChatError, ChatTemplate, Turn};
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// Stands for the response in a trial rendering that shows what the template writes around it: private-use
/// characters, which no template looks for.
const PLACEHOLDER: &str = "\u{F5A3}response\u{F5A4}";

/// What a row asks.
#[derive(Debug, Clone, Copy)]
pub enum Prompt<'a> {
    /// One text; in a chat the user's only turn.
    Text(&'a str),
    /// A conversation, oldest turn first, that the response continues.
    Messages(&'a [Turn<'a>]),
}

/// The parts of a row that are rendered.
#[derive(Debug, Clone, Copy)]
pub struct RowText<'a> {
    /// The prompt.
    pub prompt: Prompt<'a>,
    /// A system turn before the prompt; a conversation that opens with one of its own keeps that.
    pub system: Option<&'a str>,
    /// The response; without one only the prompt is rendered.
    pub response: Option<&'a str>,
}

/// A row as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, with the special tokens that the template writes, without those that the tokenizer adds.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// For each token the first of its bytes in `text`, ascending from 0 and tiling it.
    pub offsets: Vec<u32>,
    /// How many tokens at the start belong to the prompt: those that end at or before its last byte.
    pub prompt_tokens: usize,
}

/// Why a row cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// Chat is asked of a tokenizer without a template.
    #[error("the tokenizer has no chat template; set `chat: false` or add a `chat_template.jinja`")]
    NoTemplate,
    /// The template changes the response instead of writing it as it is.
    #[error(
        "the chat template does not write the response `{}` as it is, so its tokens cannot be told from the \
         prompt's; set `chat: false` or change the template", start.escape_debug()
    )]
    ResponseChanged {
        /// The first characters of the response.
        start: String,
    },
    /// The template fails.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The tokenizer fails.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Renders rows for one tokenizer, as chat or plainly.
#[derive(Debug)]
pub struct Renderer<'t> {
    tokenizer: &'t Tokenizer,
    template: Option<ChatTemplate>,
}

impl<'t> Renderer<'t> {
    /// A renderer that writes rows through the tokenizer's chat template where `chat` is set, else as they are.
    /// (`chat: auto` is `tokenizer.chat_template().is_some()`.)
    ///
    /// # Errors
    /// `chat` without a template, or with one that is no valid Jinja.
    pub fn new(tokenizer: &'t Tokenizer, chat: bool) -> Result<Renderer<'t>, RenderError> {
        let template = match (chat, tokenizer.chat_template()) {
            (false, _) => None,
            (true, None) => return Err(RenderError::NoTemplate),
            (true, Some(source)) => {
                Some(ChatTemplate::new(source, tokenizer.named_special_tokens())?)
            }
        };
        Ok(Renderer { tokenizer, template })
    }

    /// The tokens after which a response is generated. In a chat: the conversation and the header of the assistant's
    /// turn. Plainly: `bos` where the tokenizer adds one, and the prompt.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses.
    pub fn prompt_ids(&self, row: &RowText<'_>) -> Result<Vec<u32>, RenderError> {
        Ok(self.encode(&self.prompt_text(row)?)?.ids)
    }

    /// Prompt, response and end of turn, rendered as a whole and then tokenised once. The end of turn belongs to the
    /// response: the template's (the first special token after the response; what follows that is cut), else
    /// `eos`. Plainly the three stand one after another without a separator.
    ///
    /// # Errors
    /// What the template or the tokenizer refuses, and a template that rewrites the response.
    pub fn full(&self, row: &RowText<'_>) -> Result<Rendered, RenderError> {
        let prompt = self.prompt_text(row)?;
        let (text, prompt_bytes) = match (&self.template, row.response) {
            (_, None) => {
                let bytes = prompt.len();
                (prompt, bytes)
            }
            (None, Some(response)) => (format!("{prompt}{response}{}", self.eos()), prompt.len()),
            (Some(template), Some(response)) => self.chat_text(template, row, &prompt, response)?,
        };
        let encoding = self.encode(&text)?;
        let prompt_tokens = tokens_within(&encoding, text.len(), prompt_bytes);
        Ok(rendered(text, encoding, prompt_tokens))
    }

    /// A response alone, after `bos` where the tokenizer adds one (that is then the prompt), without an end of turn.
    ///
    /// # Errors
    /// What the tokenizer refuses.
    pub fn text_only(&self, response: &str) -> Result<Rendered, RenderError> {
        let encoding = self.tokenizer.encode(response, true)?;
        let added = encoding.added;
        Ok(rendered(response.to_owned(), encoding, added))
    }

    /// A template writes `bos` itself, so the tokenizer must not add another.
    fn encode(&self, text: &str) -> Result<Encoding, TokenizerError> {
        self.tokenizer.encode(text, self.template.is_none())
    }

    fn eos(&self) -> &str {
        self.tokenizer.eos().map_or("", |(text, _)| text)
    }

    fn prompt_text(&self, row: &RowText<'_>) -> Result<String, RenderError> {
        let turns = turns(row);
        match &self.template {
            Some(template) => Ok(template.render(&turns, true)?),
            None => Ok(turns.iter().map(|&(_, content)| content).collect::<Vec<_>>().join("\n\n")),
        }
    }

    /// The rendering up to the end of the assistant's turn, and the length of the prompt in it.
    ///
    /// A trial rendering with a placeholder shows what stands before and after the response; the real one must be
    /// the same but for the response, of which the template may trim white space at the ends.
    fn chat_text(
        &self,
        template: &ChatTemplate,
        row: &RowText<'_>,
        prompt: &str,
        response: &str,
    ) -> Result<(String, usize), RenderError> {
        let mut turns = turns(row);
        let changed = || RenderError::ResponseChanged {
            start: response.chars().take(40).collect::<String>(),
        };
        turns.push(("assistant", PLACEHOLDER));
        let trial = template.render(&turns, false)?;
        let (before, after) = trial.rsplit_once(PLACEHOLDER).ok_or_else(changed)?;
        turns.pop();
        turns.push(("assistant", response));
        let mut text = template.render(&turns, false)?;
        let body = text
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .ok_or_else(changed)?;
        if body.trim() != response.trim() {
            return Err(changed());
        }
        text.truncate(text.len() - after.len());
        match self.first_special(after) {
            Some(end) => text.push_str(&after[..end]),
            None => text.push_str(self.eos()),
        }
        // Where a template opens the assistant's turn in another way than the generation prompt does, the prompt is
        // all that stands before the response.
        let prompt_bytes = if text.starts_with(prompt) { prompt.len() } else { before.len() };
        Ok((text, prompt_bytes))
    }

    /// The end of the first special token in `text`; of several that begin at one place the longest counts.
    fn first_special(&self, text: &str) -> Option<usize> {
        let found = self.tokenizer.special_tokens().iter().filter(|(_, token)| !token.is_empty());
        let places = found.filter_map(|(_, token)| Some((text.find(token.as_str())?, token.len())));
        places
            .min_by_key(|&(at, length)| (at, std::cmp::Reverse(length)))
            .map(|(at, length)| at + length)
    }
}

fn turns<'a>(row: &RowText<'a>) -> Vec<Turn<'a>> {
    let mut turns = match row.prompt {
        Prompt::Text(text) => vec![("user", text)],
        Prompt::Messages(messages) => messages.to_vec(),
    };
    if let Some(system) = row.system
        && turns.first().is_none_or(|&(role, _)| role != "system")
    {
        turns.insert(0, ("system", system));
    }
    turns
}

/// How many tokens at the start end at or before `bytes`.
fn tokens_within(encoding: &Encoding, length: usize, bytes: usize) -> usize {
    let ends = encoding.offsets.iter().skip(1).map(|&end| end as usize).chain([length]);
    ends.take(encoding.offsets.len()).take_while(|&end| end <= bytes).count()
}

fn rendered(text: String, encoding: Encoding, prompt_tokens: usize) -> Rendered {
    Rendered { text, token_ids: encoding.ids, offsets: encoding.offsets, prompt_tokens }
}
