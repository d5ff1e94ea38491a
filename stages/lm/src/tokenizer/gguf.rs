//! Builds the tokenizer that the header of a GGUF file describes, as a `tokenizer.json`.

use std::collections::HashMap;

use serde_json::{Value, json};

/// GPT-2's pattern: words with the space before them.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3: up to three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: each digit alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words end where upper case begins.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o: as Tekken, with contractions, and up to three digits together.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Seed-Coder: as Qwen 2, but signs do not take line ends with them.
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3, after digits and Chinese and Japanese characters.
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// A value of `tokenizer.ggml.pre`, and the rules that llama.cpp has for it.
struct Pattern {
    names: &'static [&'static str],
    /// Applied one after another, each to the pieces that the one before it left.
    splits: &'static [&'static str],
    /// A piece that is a token is not merged from its bytes.
    ignore_merges: bool,
    /// A text begins with the begin token where the header does not say so.
    add_bos: bool,
    /// Characters are composed (NFC) first.
    composed: bool,
}

impl Pattern {
    const fn new(names: &'static [&'static str], splits: &'static [&'static str]) -> Pattern {
        Pattern { names, splits, ignore_merges: false, add_bos: false, composed: false }
    }

    /// Of a vocabulary in which whole words need no merges, and whose texts have a begin token.
    const fn whole(names: &'static [&'static str], splits: &'static [&'static str]) -> Pattern {
        Pattern { ignore_merges: true, add_bos: true, ..Pattern::new(names, splits) }
    }
}

static PATTERNS: [Pattern; 13] = [
    Pattern::new(
        &[
            "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "gigachat", "mellum",
            "a.x-4.0",
        ],
        &[GPT2],
    ),
    Pattern::whole(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        &[LLAMA3],
    ),
    Pattern::new(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[LLAMA3]),
    Pattern { composed: true, ..Pattern::new(&["qwen2"], &[QWEN2]) },
    Pattern::new(
        &["deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[QWEN2],
    ),
    Pattern::new(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        &[r"\p{N}", GPT2],
    ),
    Pattern::whole(&["tekken"], &[TEKKEN]),
    Pattern::new(&["gpt-4o", "llama4", "minimax-m2"], &[GPT4O]),
    Pattern::new(&["seed-coder"], &[SEED_CODER]),
    Pattern::new(
        &["deepseek-v3", "hunyuan-dense"],
        &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3],
    ),
    Pattern::new(
        &["deepseek-coder"],
        &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"],
    ),
    Pattern::new(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    Pattern::new(&["superbpe"], &[r"\p{N}+", r"(?=(\d{3})+(?!\d))"]),
];

/// The tokenizer's part of a GGUF header.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`: `gpt2` for merges of bytes, `llama` for SentencePiece.
    pub model: String,
    /// `tokenizer.ggml.pre`: the name of the pattern that splits a text.
    pub pre: Option<String>,
    /// The tokens, by id.
    pub tokens: Vec<String>,
    /// The kind of each token.
    pub kinds: Vec<i32>,
    /// SentencePiece's score of each token.
    pub scores: Vec<f32>,
    /// Pairs of tokens that are merged, in order, with a space between.
    pub merges: Vec<String>,
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The token for what the vocabulary lacks.
    pub unknown: Option<u32>,
    /// Whether a text begins with the begin token.
    pub add_bos: Option<bool>,
    /// Whether SentencePiece puts a space before a text.
    pub add_space_prefix: Option<bool>,
}

/// An error of building the tokenizer of a GGUF file.
#[derive(Debug, thiserror::Error)]
pub enum GgufTokenizerError {
    /// The splitting pattern is unknown or not given.
    #[error(
        "the tokenizer in `{path}` splits texts by {}, which is not known; put the model's \
         `tokenizer.json` beside the file",
        .pre.as_ref().map_or("no named pattern".to_owned(), |pre| format!("the pattern `{}`", pre.escape_debug()))
    )]
    Pattern {
        /// The file.
        path: String,
        /// `tokenizer.ggml.pre`.
        pre: Option<String>,
    },
    /// The kind of tokenizer is another one.
    #[error(
        "the tokenizer in `{path}` is of the kind `{}`, which is not known; put the model's \
         `tokenizer.json` beside the file", model.escape_debug()
    )]
    Model {
        /// The file.
        path: String,
        /// `tokenizer.ggml.model`.
        model: String,
    },
    /// The header contradicts itself.
    #[error("the tokenizer in `{path}` is damaged: {detail}")]
    Damaged {
        /// The file.
        path: String,
        /// The contradiction.
        detail: String,
    },
}

/// Kinds of tokens in a GGUF file.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

impl GgufVocabulary {
    /// Returns the tokenizer as a `tokenizer.json`; `path` names the file in errors.
    ///
    /// # Errors
    /// A pattern or a kind of tokenizer that is not known: to guess would give other tokens in
    /// silence.
    pub fn tokenizer_json(&self, path: &str) -> Result<Value, GgufTokenizerError> {
        let damaged = |detail: &str| {
            Err(GgufTokenizerError::Damaged { path: path.to_owned(), detail: detail.to_owned() })
        };
        if self.tokens.is_empty() {
            return damaged("it has no tokens");
        }
        if !self.kinds.is_empty() && self.kinds.len() != self.tokens.len() {
            return damaged("it does not have one kind per token");
        }
        let mut json = match self.model.as_str() {
            "gpt2" => match self.pattern() {
                Some(pattern) => self.byte_level(pattern),
                None => {
                    let (path, pre) = (path.to_owned(), self.pre.clone());
                    return Err(GgufTokenizerError::Pattern { path, pre });
                }
            },
            "llama" if self.scores.len() == self.tokens.len() => self.sentence_piece(),
            "llama" => return damaged("it does not have one score per token"),
            _ => {
                let (path, model) = (path.to_owned(), self.model.clone());
                return Err(GgufTokenizerError::Model { path, model });
            }
        };
        json["added_tokens"] = self.added_tokens();
        json["post_processor"] = self.post_processor().unwrap_or(Value::Null);
        Ok(json)
    }

    fn pattern(&self) -> Option<&'static Pattern> {
        let pre = self.pre.as_deref()?;
        PATTERNS.iter().find(|pattern| pattern.names.contains(&pre))
    }

    fn vocabulary(&self) -> HashMap<&str, u32> {
        let tokens = self.tokens.iter().enumerate();
        tokens.map(|(id, token)| (token.as_str(), id as u32)).collect()
    }

    fn token(&self, id: Option<u32>) -> Option<&str> {
        self.tokens.get(id? as usize).map(String::as_str)
    }

    /// Merges of bytes, as in GPT-2 and after.
    fn byte_level(&self, pattern: &Pattern) -> Value {
        let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
        let split = |regex: &&str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let mut steps: Vec<Value> = pattern.splits.iter().map(split).collect();
        steps.push(level.clone());
        let merges: Vec<(&str, &str)> =
            self.merges.iter().filter_map(|merge| merge.split_once(' ')).collect();
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "normalizer": if pattern.composed { json!({ "type": "NFC" }) } else { Value::Null },
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": steps },
            "decoder": level,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pattern.ignore_merges, "vocab": self.vocabulary(), "merges": merges,
            },
        })
    }

    /// SentencePiece: the pair whose token has the highest score is merged first; bytes stand in
    /// for what is lacking.
    fn sentence_piece(&self) -> Value {
        let vocabulary = self.vocabulary();
        let mut merges: Vec<(f32, usize, &str, &str)> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kinds.get(id).is_some_and(|kind| *kind != 1) {
                continue;
            }
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if vocabulary.contains_key(left) && vocabulary.contains_key(right) {
                    merges.push((self.scores[id], id, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let merges: Vec<(&str, &str)> = merges.into_iter().map(|(_, _, l, r)| (l, r)).collect();
        let prefix = self.add_space_prefix.unwrap_or(true);
        let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
        let mut before = vec![space];
        if prefix {
            before.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        }
        let mut after = vec![
            json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            after.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        json!({
            "version": "1.0", "truncation": null, "padding": null,
            "normalizer": { "type": "Sequence", "normalizers": before },
            "pre_tokenizer": null,
            "decoder": { "type": "Sequence", "decoders": after },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": self.token(self.unknown.or(Some(0))),
                "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
                "byte_fallback": true, "ignore_merges": false, "vocab": vocabulary, "merges": merges,
            },
        })
    }

    /// Tokens that are found in a text before it is split.
    fn added_tokens(&self) -> Value {
        let kinds = self.kinds.iter().zip(&self.tokens).enumerate();
        let added = kinds.filter(|(_, (kind, token))| {
            matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED) && !token.is_empty()
        });
        let entry = |(id, (kind, token)): (usize, (&i32, &String))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        };
        added.map(entry).collect()
    }

    /// Puts the begin token before a text, where the header or the pattern asks for it.
    fn post_processor(&self) -> Option<Value> {
        // Where a header is silent, texts of SentencePiece begin with the token.
        let usual = self.model == "llama" || self.pattern().is_some_and(|pattern| pattern.add_bos);
        let text = self.token(self.bos).filter(|_| self.add_bos.unwrap_or(usual))?;
        let id = self.bos?;
        let token = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
        let part =
            |name: &str, number: u32| json!({ "Sequence": { "id": name, "type_id": number } });
        Some(json!({
            "type": "TemplateProcessing",
            "single": [token, part("A", 0)],
            "pair": [token, part("A", 0), part("B", 1)],
            "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
        }))
    }
}
