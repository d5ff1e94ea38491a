//! The one renderer of score, generate and finetune: a row becomes a text, and the text tokens.

mod continuation;
mod turns;

use serde_json::Value;

use crate::chat::{self, ChatError, ChatTemplate, Message, message};
use crate::tokenizer::{Encoding, Tokenizer, TokenizerError};

/// Stands for the response in a trial rendering that shows what the template writes around it:
/// private-use characters, which no template looks for.
const PLACEHOLDER: &str = "\u{F5A3}response\u{F5A4}";

/// Whether the begin token is put before a text. In a chat the template alone writes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Begin {
    /// Where the tokenizer does so, and the text does not begin with it.
    #[default]
    Auto,
    /// Whatever the tokenizer does and the text begins with.
    Always,
    /// Nowhere.
    Never,
}

/// A row's prompt.
#[derive(Debug, Clone, Copy)]
pub enum Prompt<'a> {
    /// One text; in a chat the user's only turn.
    Text(&'a str),
    /// A conversation, oldest turn first, that the response continues.
    Messages(&'a [Message]),
}

/// The parts of a row that are rendered.
#[derive(Debug, Clone, Copy)]
pub struct RowText<'a> {
    /// The prompt.
    pub prompt: Prompt<'a>,
    /// A system turn before the prompt; a conversation that opens with one of its own keeps that.
    pub system: Option<&'a str>,
    /// Tools that the template may describe, as a list of their schemas.
    pub tools: Option<&'a Value>,
    /// The response; without one only the prompt is rendered.
    pub response: Option<&'a str>,
    /// Further fields of the assistant's message, such as `tool_calls`; all that the template
    /// writes of them belongs to the response.
    pub response_fields: Option<&'a Message>,
}

/// A row as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, with the special tokens that the template writes, without those that the tokenizer
    /// adds.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// For each token the first of its bytes in `text`, ascending from 0 and tiling it.
    pub offsets: Vec<u32>,
    /// Number of leading tokens of the prompt: those that end at or before its last byte.
    pub prompt_tokens: usize,
    /// Whether the response is empty as rendered: its tokens are the end of turn alone.
    pub empty: bool,
    /// Whether the data itself begins with the token that would have been put before it, so that
    /// none was.
    pub had_begin: bool,
    /// Whether the data itself ends with the token that would have been put after it, so that none
    /// was.
    pub had_end: bool,
    /// Of each token whether it belongs to a turn of the assistant, where earlier turns count as the
    /// response does; else the response is all behind the prompt.
    pub in_turns: Option<Vec<bool>>,
}

/// An error of rendering a row.
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
    /// The template changes an earlier turn of the assistant instead of writing it as it is.
    #[error(
        "the chat template does not write the earlier turn `{}` of the assistant as it is, so its tokens cannot \
         be told from the others'; train on the last turn alone, or change the template", start.escape_debug()
    )]
    TurnChanged {
        /// The first characters of the turn.
        start: String,
    },
    /// Turns of the assistant are asked for where no template marks them.
    #[error(
        "earlier turns of the assistant can be told apart in a chat alone; the model's chat template is not used"
    )]
    NoTurns,
    /// A begin token is asked of a tokenizer that names none.
    #[error("the tokenizer names no begin token; leave `bos` out, or name a `bos_token`")]
    NoBegin,
    /// A message has no text, and nothing else of it is written without a template.
    #[error("a turn of `{}` has no text; without a chat template nothing else of it is written", .0.escape_debug())]
    NoText(String),
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
    begin: Begin,
}

impl<'t> Renderer<'t> {
    /// A renderer that writes rows through the tokenizer's chat template where `chat` is set, else
    /// as they are. (`chat: auto` is `tokenizer.chat_template().is_some()`.)
    ///
    /// # Errors
    /// `chat` without a template, or with one that is not valid Jinja.
    pub fn new(tokenizer: &'t Tokenizer, chat: bool) -> Result<Renderer<'t>, RenderError> {
        let template = match (chat, tokenizer.chat_template()) {
            (false, _) => None,
            (true, None) => return Err(RenderError::NoTemplate),
            (true, Some(source)) => {
                Some(ChatTemplate::new(source, tokenizer.named_special_tokens())?)
            }
        };
        Ok(Renderer { tokenizer, template, begin: Begin::Auto })
    }

    /// The same with the begin token put before texts as `begin` says.
    ///
    /// # Errors
    /// `Always` with a tokenizer that names no begin token.
    pub fn with_begin(self, begin: Begin) -> Result<Renderer<'t>, RenderError> {
        if begin == Begin::Always && self.tokenizer.bos().is_none() {
            return Err(RenderError::NoBegin);
        }
        Ok(Renderer { begin, ..self })
    }

    /// Returns the tokens after which a response is generated. In a chat: the conversation and the
    /// header of the assistant's turn. Plainly: `bos` where the tokenizer adds one, and the prompt.
    ///
    /// # Errors
    /// An error of the template or of the tokenizer.
    pub fn prompt_ids(&self, row: &RowText<'_>) -> Result<Vec<u32>, RenderError> {
        Ok(self.encode(&self.prompt_text(row)?)?.0.ids)
    }

    /// Renders prompt, response and end of turn as a whole, then tokenises once. The end of turn
    /// belongs to the response: the template's (the first special token after the response; what
    /// follows that is cut), else `eos`. Plainly the three stand one after another without a
    /// separator.
    ///
    /// A begin or end token that the data holds already is not added again.
    ///
    /// # Errors
    /// An error of the template or of the tokenizer, and a template that rewrites the response.
    pub fn full(&self, row: &RowText<'_>) -> Result<Rendered, RenderError> {
        let prompt = self.prompt_text(row)?;
        let whole = match (&self.template, row.response) {
            (_, None) => {
                Whole { prompt_bytes: prompt.len(), text: prompt, empty: true, had_end: false }
            }
            (None, Some("")) if row.response_fields.is_some_and(|fields| !fields.is_empty()) => {
                return Err(RenderError::NoText("assistant".to_owned()));
            }
            (None, Some(response)) => {
                let (prompt_bytes, empty) = (prompt.len(), response.is_empty());
                let (text, had_end) = with_end(prompt + response, response, self.eos());
                Whole { text, prompt_bytes, empty, had_end }
            }
            (Some(template), Some(response)) => self.chat_text(template, row, &prompt, response)?,
        };
        let Whole { text, prompt_bytes, empty, had_end } = whole;
        let (encoding, had_begin) = self.encode(&text)?;
        let prompt_tokens = tokens_within(&encoding, text.len(), prompt_bytes);
        let Encoding { ids, offsets, .. } = encoding;
        Ok(Rendered {
            text,
            token_ids: ids,
            offsets,
            prompt_tokens,
            empty,
            had_begin,
            had_end,
            in_turns: None,
        })
    }

    /// Tokenises a response alone, after `bos` where the tokenizer adds one (that is then the
    /// prompt), without an end of turn.
    ///
    /// # Errors
    /// An error of the tokenizer.
    pub fn text_only(&self, response: &str) -> Result<Rendered, RenderError> {
        let (encoding, had_begin) = self.encode_plain(response)?;
        let prompt_tokens = encoding.added;
        let (text, empty) = (response.to_owned(), response.is_empty());
        let Encoding { ids, offsets, .. } = encoding;
        Ok(Rendered {
            text,
            token_ids: ids,
            offsets,
            prompt_tokens,
            empty,
            had_begin,
            had_end: false,
            in_turns: None,
        })
    }

    /// Lists fields of messages, and `tools`, that the row holds and the rendering leaves out.
    pub fn left_out<'r>(&self, row: &RowText<'r>) -> Vec<&'r str> {
        let mentions = |name: &str| self.template.as_ref().is_some_and(|t| t.mentions(name));
        let messages = match row.prompt {
            Prompt::Text(_) => &[],
            Prompt::Messages(messages) => messages,
        };
        let fields = messages.iter().chain(row.response_fields).flat_map(|message| message.iter());
        let mut names: Vec<&str> = fields
            .filter(|(_, value)| !value.is_null())
            .map(|(name, _)| name.as_str())
            .chain(row.tools.map(|_| "tools"))
            .filter(|name| !["role", "content"].contains(name) && !mentions(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A template writes `bos` itself, so the tokenizer must not add another.
    fn encode(&self, text: &str) -> Result<(Encoding, bool), TokenizerError> {
        match &self.template {
            Some(_) => Ok((self.tokenizer.encode(text, false)?, false)),
            None => self.encode_plain(text),
        }
    }

    /// Tokenises a text with the tokens that go before it; whether the text itself begins with them,
    /// so that none was added.
    fn encode_plain(&self, text: &str) -> Result<(Encoding, bool), TokenizerError> {
        let begin = match self.begin {
            Begin::Auto => return encode_once(self.tokenizer, text),
            Begin::Never => None,
            Begin::Always => self.tokenizer.bos(),
        };
        let Encoding { mut ids, mut offsets, .. } = self.tokenizer.encode(text, false)?;
        if let Some(begin) = begin {
            ids.insert(0, begin);
            offsets.insert(0, 0);
        }
        Ok((Encoding { ids, offsets, added: usize::from(begin.is_some()) }, false))
    }

    fn eos(&self) -> &str {
        self.tokenizer.eos().map_or("", |(text, _)| text)
    }

    fn prompt_text(&self, row: &RowText<'_>) -> Result<String, RenderError> {
        let messages = messages(row);
        match &self.template {
            Some(template) => Ok(template.render(&messages, row.tools, true)?),
            None => {
                let text = |message: &Message| {
                    let nothing = || RenderError::NoText(chat::role(message).to_owned());
                    chat::content(message)?.ok_or_else(nothing)
                };
                let texts: Vec<String> = messages.iter().map(text).collect::<Result<_, _>>()?;
                Ok(texts.join("\n\n"))
            }
        }
    }

    /// Renders up to the end of the assistant's turn.
    ///
    /// A trial rendering with a placeholder shows what stands before and after the response; the
    /// real one must be the same but for the response, of which the template may trim white space
    /// at the ends.
    fn chat_text(
        &self,
        template: &ChatTemplate,
        row: &RowText<'_>,
        prompt: &str,
        response: &str,
    ) -> Result<Whole, RenderError> {
        let mut messages = messages(row);
        let changed = || RenderError::ResponseChanged {
            start: response.chars().take(40).collect::<String>(),
        };
        messages.push(message("assistant", PLACEHOLDER));
        let trial = template.render(&messages, row.tools, false)?;
        let (before, after) = trial.rsplit_once(PLACEHOLDER).ok_or_else(changed)?;

        messages.pop();
        messages.push(answer(response, row.response_fields));
        let mut text = template.render(&messages, row.tools, false)?;
        // Where a template opens the assistant's turn in another way than the generation prompt
        // does, the prompt is all that stands before the response.
        let prompt_bytes = if text.starts_with(prompt) { prompt.len() } else { before.len() };
        let fields = row.response_fields.is_some_and(|fields| !fields.is_empty());
        let rest = if fields { text.strip_prefix(prompt) } else { text.strip_prefix(before) };
        let body = rest.and_then(|rest| rest.strip_suffix(after)).ok_or_else(changed)?;
        let as_it_is = match fields {
            true => body.contains(response.trim()),
            false => body.trim() == response.trim(),
        };
        if !as_it_is {
            return Err(changed());
        }

        // One that trims what it writes makes the same tokens of a response of white space as of
        // none.
        let empty = body.is_empty();
        let ends_in = |token: &str| body.ends_with(token);
        let end = self.first_special(after);
        let had_end = end.is_some_and(|(at, end)| ends_in(&after[at..end]))
            || end.is_none() && !self.eos().is_empty() && ends_in(self.eos());
        text.truncate(text.len() - after.len());
        match end {
            _ if had_end => {}
            Some((_, end)) => text.push_str(&after[..end]),
            None => text.push_str(self.eos()),
        }
        Ok(Whole { text, prompt_bytes, empty, had_end })
    }

    /// Finds start and end of the first special token in `text`; of several that begin at one place
    /// the longest counts.
    fn first_special(&self, text: &str) -> Option<(usize, usize)> {
        let found = self.tokenizer.special_tokens().iter().filter(|(_, token)| !token.is_empty());
        let places = found.filter_map(|(_, token)| Some((text.find(token.as_str())?, token.len())));
        let first = places.min_by_key(|&(at, length)| (at, std::cmp::Reverse(length)));
        first.map(|(at, length)| (at, at + length))
    }
}

/// The assistant's message: one without text is what its other fields say.
fn answer(response: &str, fields: Option<&Message>) -> Message {
    let mut answer = message("assistant", response);
    if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
        if response.is_empty() {
            answer.insert("content".into(), Value::Null);
        }
        answer.extend(fields.clone());
    }
    answer
}

/// A rendered row, before it is tokenised.
struct Whole {
    text: String,
    prompt_bytes: usize,
    empty: bool,
    had_end: bool,
}

/// Appends the end token to a text, unless its response ends with it; whether it does.
fn with_end(mut text: String, response: &str, end: &str) -> (String, bool) {
    let had_end = !end.is_empty() && response.ends_with(end);
    if !had_end {
        text.push_str(end);
    }
    (text, had_end)
}

/// Tokenises a text with the tokens that the tokenizer puts before it, unless the text begins with
/// them; whether it does.
fn encode_once(tokenizer: &Tokenizer, text: &str) -> Result<(Encoding, bool), TokenizerError> {
    let encoding = tokenizer.encode(text, true)?;
    let (added, own) = encoding.ids.split_at(encoding.added);
    if added.is_empty() || !own.starts_with(added) {
        return Ok((encoding, false));
    }
    let added = added.len();
    Ok((Encoding { added, ..tokenizer.encode(text, false)? }, true))
}

/// The row's conversation, with the system turn before it.
fn messages(row: &RowText<'_>) -> Vec<Message> {
    let mut messages = match row.prompt {
        Prompt::Text(text) => vec![message("user", text)],
        Prompt::Messages(messages) => messages.to_vec(),
    };
    if let Some(system) = row.system
        && messages.first().is_none_or(|first| chat::role(first) != "system")
    {
        messages.insert(0, message("system", system));
    }
    messages
}

/// Counts the leading tokens that end at or before `bytes`.
fn tokens_within(encoding: &Encoding, length: usize, bytes: usize) -> usize {
    let ends = encoding.offsets.iter().skip(1).map(|&end| end as usize).chain([length]);
    ends.take(encoding.offsets.len()).take_while(|&end| end <= bytes).count()
}
