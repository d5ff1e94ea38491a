//! The parameters that say how rows are rendered, shared by the kinds that render.

use refrain_engine::kind::{StageError, choices, one_of};
use refrain_lm::render::{Begin, Renderer};
use refrain_lm::tokenizer::Tokenizer;

use crate::models::failed;

/// The help of the parameter `prompt`.
pub(crate) const ABOUT_PROMPT: &str = "A minijinja template over the row's columns that makes the prompt; without it the column \
     `prompt`, else `messages`";

/// The help of the parameter `system`.
pub(crate) const ABOUT_SYSTEM: &str =
    "A system turn before the prompt; a row that brings its own keeps that";

/// The help of the parameter `chat`.
pub(crate) const ABOUT_CHAT: &str =
    "Whether the model's chat template is used; `auto`: when its tokenizer has one";

/// The help of the parameter `bos`.
pub(crate) const ABOUT_BOS: &str = "Whether the tokenizer's begin token is put before a text that no chat template writes; `auto`: \
     where the tokenizer does so, and the text does not begin with it already";

choices! {
    /// When the begin token is put before a text.
    pub(crate) enum Bos {
        /// As the tokenizer does, once.
        Auto = "auto",
        /// Before every text.
        Always = "always",
        /// Before none.
        Never = "never",
    }
}

/// A renderer of rows, with the begin token as the parameter `bos` says.
pub(crate) fn renderer(
    tokenizer: &Tokenizer,
    chat: bool,
    bos: Option<Bos>,
) -> Result<Renderer<'_>, StageError> {
    let begin = match bos {
        None | Some(Bos::Auto) => Begin::Auto,
        Some(Bos::Always) => Begin::Always,
        Some(Bos::Never) => Begin::Never,
    };
    Renderer::new(tokenizer, chat).and_then(|made| made.with_begin(begin)).map_err(failed)
}

choices! {
    /// The word that leaves a choice to the program.
    pub(crate) enum Auto {
        /// As the model decides.
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
