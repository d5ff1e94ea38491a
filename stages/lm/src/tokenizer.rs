//! Tokenizers in Hugging Face's format: text to token ids with byte offsets, and back.

mod gguf;
mod offsets;
mod spelling;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::tokenizer::{PostProcessor, Tokenizer as Inner};
use tokenizers::utils::truncation::TruncationDirection;

use refrain_cache::{contained, read_plain};

use crate::config::end_tokens;
use crate::tokenizer::spelling::Spelling;

pub use gguf::{GgufTokenizerError, GgufVocabulary};

/// Largest file of a tokenizer in bytes: ten times the largest that is known.
pub(crate) const MAX_BYTES: u64 = 512 << 20;

/// The tokenizer of a model folder, with what `tokenizer_config.json` says of special tokens and
/// chat.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    spelling: Spelling,
    digest: blake3::Hash,
    special: BTreeMap<String, String>,
    /// The token that ends a text.
    end: Option<(String, u32)>,
    chat_template: Option<String>,
}

/// A tokenised text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// The token ids.
    pub ids: Vec<u32>,
    /// For each token the first of its bytes in the text. They ascend from 0; a token ends where
    /// the next begins, the last one at the end of the text. A token that is not in the text is
    /// empty.
    pub offsets: Vec<u32>,
    /// Number of leading tokens that the post-processor put before the text (`bos`).
    pub added: usize,
}

/// An error of loading or using a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file is absent or cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("`{}` is not a valid {what}: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The expected kind of file.
        what: &'static str,
        /// The fault.
        detail: String,
    },
    /// The tokenizer draws random numbers, so a text has no fixed tokens.
    #[error("`{}` sets BPE `dropout`, so a text has no fixed tokens; set it to null", path.display())]
    Dropout {
        /// The file.
        path: PathBuf,
    },
    /// The text is too long for offsets of 32 bits.
    #[error("a text of {bytes} bytes is too long to be tokenised; split it into rows below 2 GiB")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The tokenizer refuses a text.
    #[error("cannot tokenise the text `{}`: {detail}", start.escape_debug())]
    Encode {
        /// The first characters of the text.
        start: String,
        /// The tokenizer's error.
        detail: String,
    },
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and beside it `tokenizer_config.json`,
    /// `special_tokens_map.json` and `chat_template.jinja` where they are. Where they name no end
    /// token, `generation_config.json` or `config.json` does. Truncation and padding that the file
    /// asks for are off, as they are in Hugging Face.
    ///
    /// # Errors
    /// A file that is absent (`tokenizer.json` only), unreadable or invalid, or a tokenizer with
    /// dropout.
    pub fn load(folder: &Path) -> Result<Tokenizer, TokenizerError> {
        let path = folder.join("tokenizer.json");
        let bytes = read_plain(&path, MAX_BYTES)
            .map_err(|source| TokenizerError::Read { path: path.clone(), source })?;
        let mut config = read_config(&folder.join("tokenizer_config.json"))?;
        // As in transformers, the older file counts unless the newer one lists the added tokens
        // itself.
        if config.get("added_tokens_decoder").is_none() {
            for (name, value) in read_config(&folder.join("special_tokens_map.json"))? {
                config.insert(name, value);
            }
        }
        let mut tokenizer = Tokenizer::from_parts(&path, &bytes, &Value::Object(config))?;
        if let Some(template) = read_optional(&folder.join("chat_template.jinja"))? {
            tokenizer.chat_template = Some(template);
        }
        if !tokenizer.special.contains_key("eos_token") {
            // A folder without a configuration, or with a broken one, is for others to refuse.
            let ids = end_tokens(folder).unwrap_or_default();
            // One that is not special would not be found again in a rendered text.
            let id = ids.into_iter().find(|id| tokenizer.is_special(*id));
            tokenizer.end = id.and_then(|id| Some((tokenizer.id_to_token(id)?, id)));
        }
        Ok(tokenizer)
    }

    /// Whether the tokenizer of a model folder has a chat template, without reading the tokenizer
    /// itself; `None` where the folder has none, or files that cannot be read.
    pub fn folder_has_chat_template(folder: &Path) -> Option<bool> {
        if !folder.join("tokenizer.json").is_file() {
            return None;
        }
        if folder.join("chat_template.jinja").is_file() {
            return Some(true);
        }
        match read_optional(&folder.join("tokenizer_config.json")).ok()? {
            Some(text) => Some(template_in(&serde_json::from_str(&text).ok()?).is_some()),
            None => Some(false),
        }
    }

    /// The tokenizer of a `tokenizer.json` and a `tokenizer_config.json` (or null) in memory;
    /// `path` is where they come from.
    ///
    /// # Errors
    /// An invalid tokenizer, or one with dropout.
    pub fn from_parts(
        path: &Path,
        bytes: &[u8],
        config: &Value,
    ) -> Result<Tokenizer, TokenizerError> {
        let invalid =
            |detail| TokenizerError::Invalid { path: path.to_owned(), what: "tokenizer", detail };
        let inner = parse(bytes).map_err(invalid)?;
        if let tokenizers::ModelWrapper::BPE(bpe) = inner.get_model()
            && bpe.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(TokenizerError::Dropout { path: path.to_owned() });
        }
        let special = special_tokens(config);
        let end = special.get("eos_token");
        let end = end.and_then(|text| Some((text.clone(), inner.token_to_id(text)?)));
        Ok(Tokenizer {
            spelling: Spelling::new(&inner),
            inner,
            digest: blake3::hash(bytes),
            special,
            end,
            chat_template: template_in(config),
        })
    }

    /// Tokenises a text. Special tokens written in it are parsed as such.
    ///
    /// With `add_special` the tokens that the post-processor puts *before* a text (`bos`) come
    /// first. Those that it puts after one are left out: the renderer writes the end of turn
    /// itself.
    ///
    /// # Errors
    /// A text of 2 GiB or more, or one that the tokenizer refuses (a byte-level one never does).
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoding, TokenizerError> {
        if i32::try_from(text.len()).is_err() {
            return Err(TokenizerError::TooLong { bytes: text.len() });
        }
        let fail = |error: tokenizers::Error| refused(text, error.to_string());
        // A regular expression of the file may give up on a text, and the crate then panics.
        let gave_up = |panic| refused(text, panic);
        let fast = contained(|| self.inner.encode_fast(text, add_special))
            .map_err(gave_up)?
            .map_err(fail)?;
        let mask = fast.get_special_tokens_mask();
        let added = mask.iter().take_while(|&&mark| mark == 1).count();
        let after = mask[added..].iter().rev().take_while(|&&mark| mark == 1).count();
        let within = added..mask.len() - after;
        let ids = &fast.get_ids()[within.clone()];
        let inside = match offsets::exact(ids, &self.spelling, text) {
            Some(offsets) => offsets,
            // The text was changed before it was split; only the slower way keeps track of that.
            None => {
                let slow = contained(|| self.inner.encode(text, add_special))
                    .map_err(gave_up)?
                    .map_err(fail)?;
                offsets::aligned(ids, &self.spelling, &slow.get_offsets()[within.clone()], text)
            }
        };
        let mut offsets = vec![0; added];
        offsets.extend(inside);
        Ok(Encoding { ids: fast.get_ids()[..within.end].to_vec(), offsets, added })
    }

    /// The ids of a text with all that the post-processor puts around it, such as `[CLS]` and
    /// `[SEP]`; of a longer text the first `most` tokens, those around it kept.
    ///
    /// # Errors
    /// A text that the tokenizer refuses.
    pub fn encode_whole(&self, text: &str, most: usize) -> Result<Vec<u32>, TokenizerError> {
        let fail = |error: tokenizers::Error| refused(text, error.to_string());
        // A regular expression of the file may give up on a text, and the crate then panics.
        let gave_up = |panic| refused(text, panic);
        let around =
            self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(false));
        let mut encoding =
            contained(|| self.inner.encode_fast(text, false)).map_err(gave_up)?.map_err(fail)?;
        encoding.truncate(most.saturating_sub(around), 0, TruncationDirection::Right);
        let whole = contained(|| self.inner.post_process(encoding, None, true))
            .map_err(gave_up)?
            .map_err(fail)?;
        Ok(whole.get_ids().to_vec())
    }

    /// Decodes tokens; invalid UTF-8 becomes U+FFFD, ids outside the vocabulary nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        if self.spelling.strips_first_space() && bytes.first() == Some(&b' ') {
            bytes.remove(0);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The bytes that one token adds to a text: what an incremental search for stop strings looks
    /// at. A character may be spread over several tokens. Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.spelling.bytes(id)
    }

    /// Whether the token is special (`bos`, an end of turn, …) and so no part of a decoded text.
    pub fn is_special(&self, id: u32) -> bool {
        self.spelling.is_special(id)
    }

    /// The texts and ids of the special tokens, by id.
    pub fn special_tokens(&self) -> &[(u32, String)] {
        self.spelling.special()
    }

    /// One more than the largest token id. A model may have more rows than that, never used.
    pub fn vocab_size(&self) -> usize {
        self.spelling.len()
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as the vocabulary spells it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The texts of the named special tokens that the configuration gives (`bos_token`,
    /// `eos_token`, …), by name.
    pub fn named_special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special
    }

    /// Returns text and id of the token that ends a text: the tokenizer's, else the model's.
    pub fn eos(&self) -> Option<(&str, u32)> {
        self.end.as_ref().map(|(text, id)| (text.as_str(), *id))
    }

    /// Returns the token that begins a text, where the configuration names one.
    pub fn bos(&self) -> Option<u32> {
        self.token_id(self.special.get("bos_token")?)
    }

    /// The source of the chat template: `chat_template.jinja`, else what the configuration holds
    /// (of several named ones that called `default`).
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// BLAKE3 of the bytes of `tokenizer.json`.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }
}

fn refused(text: &str, detail: String) -> TokenizerError {
    TokenizerError::Encode { start: text.chars().take(40).collect(), detail }
}

/// The tokenizer that a file describes, or what is wrong with the file.
///
/// The crate panics on some files that it should refuse: JSON that breaks off within a decoder, a
/// post-processor that names a token it does not define. So the syntax is checked first, and the
/// rest, with a text to try it on, runs where a panic is caught.
fn parse(bytes: &[u8]) -> Result<Inner, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| error.to_string())?;
    let attempt = || -> tokenizers::Result<Inner> {
        let mut inner = Inner::from_bytes(bytes)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        inner.encode("A é\n", true)?;
        Ok(inner)
    };
    match contained(attempt) {
        Ok(result) => result.map_err(|error| match error.to_string() {
            words if words.contains("untagged enum Model") => {
                "its `model` is none of BPE, WordPiece, WordLevel and Unigram, or not whole"
                    .to_owned()
            }
            words => words,
        }),
        Err(_) => Err("its parts do not fit together".to_owned()),
    }
}

/// Reads a mapping from a file; an empty one where there is no file.
fn read_config(path: &Path) -> Result<Map<String, Value>, TokenizerError> {
    let Some(text) = read_optional(path)? else { return Ok(Map::new()) };
    serde_json::from_str(&text).map_err(|error| TokenizerError::Invalid {
        path: path.to_owned(),
        what: "tokenizer configuration",
        detail: error.to_string(),
    })
}

fn read_optional(path: &Path) -> Result<Option<String>, TokenizerError> {
    let text = read_plain(path, MAX_BYTES).and_then(|bytes| {
        String::from_utf8(bytes)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    });
    match text {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenizerError::Read { path: path.to_owned(), source }),
    }
}

fn template_in(config: &Value) -> Option<String> {
    let template = config.get("chat_template")?;
    let default = || {
        let named = template.as_array()?.iter().find(|one| one["name"] == "default")?;
        named["template"].as_str()
    };
    template.as_str().or_else(default).map(str::to_owned)
}

/// A token is given as its text, or as an object whose `content` is that.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    const NAMES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let text =
        |token: &Value| token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned);
    NAMES
        .iter()
        .filter_map(|&name| Some((name.to_owned(), config.get(name).and_then(text)?)))
        .collect()
}
