//! Reads the header of a GGUF file: its tokenizer, its end tokens, and what mistralrs would pass
//! over.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use refrain_lm::tokenizer::GgufVocabulary;
use serde_json::json;

/// The part of a file's header that is ours to read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Header {
    /// The tokenizer.
    pub vocabulary: GgufVocabulary,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// The fields of a `tokenizer_config.json`.
    pub config: serde_json::Value,
    /// A setting or tensor that mistralrs does not honour.
    pub unhonoured: Option<String>,
}

/// Architectures whose logits were compared with those of the same weights in safetensors.
const COMPARED: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// Settings of an architecture that mistralrs honours, or that say nothing beside the others.
const HONOURED: [&str; 12] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
];

/// Tensors that change the rotary frequencies, and that mistralrs does not read.
const FREQUENCIES: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

impl Header {
    /// Reads the header of a file.
    pub fn read(path: &Path) -> candle_core::Result<Header> {
        let mut file = File::open(path)?;
        let content = Content::read(&mut file)?;
        let mut header = Header::new(&content.metadata);
        let tensor = FREQUENCIES.iter().find(|name| content.tensor_infos.contains_key(**name));
        if let (None, Some(name)) = (&header.unhonoured, tensor) {
            header.unhonoured = Some(format!("the tensor `{name}`"));
        }
        Ok(header)
    }

    fn new(metadata: &HashMap<String, Value>) -> Header {
        let get = |name: &str| metadata.get(&format!("tokenizer.{name}"));
        let text = |name: &str| get(name)?.to_string().ok().cloned();
        let id = |name: &str| get(&format!("ggml.{name}_token_id"))?.to_u32().ok();
        let flag = |name: &str| get(name)?.to_bool().ok();
        let vocabulary = GgufVocabulary {
            model: text("ggml.model").unwrap_or_default(),
            pre: text("ggml.pre"),
            tokens: list(get("ggml.tokens"), |value| value.to_string().ok().cloned()),
            kinds: list(get("ggml.token_type"), integer),
            scores: list(get("ggml.scores"), |value| value.to_f32().ok()),
            merges: list(get("ggml.merges"), |value| value.to_string().ok().cloned()),
            bos: id("bos"),
            unknown: id("unknown"),
            add_bos: flag("ggml.add_bos_token"),
            add_space_prefix: flag("ggml.add_space_prefix"),
        };
        let mut config = serde_json::Map::new();
        for (name, key) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token")] {
            if let Some(text) = id(name).and_then(|id| vocabulary.tokens.get(id as usize)) {
                config.insert(key.into(), json!(text));
            }
        }
        if let Some(template) = text("chat_template") {
            config.insert("chat_template".into(), json!(template));
        }
        Header {
            vocabulary,
            eos: [id("eos"), id("eot")].into_iter().flatten().collect(),
            config: config.into(),
            unhonoured: unhonoured(metadata),
        }
    }
}

/// The items of a list, as far as they are of the type; an empty one where it is absent.
fn list<T>(value: Option<&Value>, item: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let items = value.and_then(|value| value.to_vec().ok()).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(item).collect()
}

/// A whole number, of whatever width.
fn integer(value: &Value) -> Option<i32> {
    let unsigned = || value.to_u32().ok().and_then(|number| i32::try_from(number).ok());
    value.to_i32().ok().or_else(unsigned)
}

/// The first setting of the model that mistralrs does not honour.
fn unhonoured(metadata: &HashMap<String, Value>) -> Option<String> {
    let architecture = metadata.get("general.architecture")?.to_string().ok()?;
    if !COMPARED.contains(&architecture.as_str()) {
        let name = architecture.escape_debug();
        return Some(format!("the architecture `{name}`, which was not compared in this format"));
    }
    let mut names: Vec<&String> = metadata.keys().collect();
    names.sort_unstable();
    let passed_over = |name: &&&String| {
        let setting = name.strip_prefix(architecture.as_str()).and_then(|n| n.strip_prefix('.'));
        setting.is_some_and(|setting| !HONOURED.contains(&setting) && !is_off(&metadata[**name]))
    };
    let name = names.iter().find(passed_over)?;
    Some(format!("the setting `{}`", name.escape_debug()))
}

/// Whether a setting switches something off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Bool(on) => !on,
        Value::String(text) => text.is_empty() || text == "none",
        Value::U32(number) => *number == 0,
        Value::F32(number) => *number == 0.0,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> HashMap<String, Value> {
        let words = ["<s>", "</s>", "a"].map(|word| Value::String(word.into()));
        HashMap::from([
            ("general.architecture".to_owned(), Value::String("llama".into())),
            ("llama.block_count".to_owned(), Value::U32(1)),
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(words.into())),
            ("tokenizer.ggml.model".to_owned(), Value::String("llama".into())),
            ("tokenizer.ggml.token_type".to_owned(), Value::Array(vec![Value::I32(3); 3])),
            ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(0)),
            ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(1)),
            ("tokenizer.chat_template".to_owned(), Value::String("{{ bos_token }}".into())),
        ])
    }

    #[test]
    fn a_header_names_its_special_tokens() {
        let mut metadata = metadata();
        let header = Header::new(&metadata);
        assert_eq!((header.vocabulary.bos, header.vocabulary.add_bos), (Some(0), None));
        assert_eq!(header.vocabulary.kinds, [3, 3, 3]);
        assert_eq!(header.eos, [1]);
        assert_eq!(header.config["eos_token"], "</s>");
        assert_eq!(header.config["chat_template"], "{{ bos_token }}");
        metadata.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(false));
        assert_eq!(Header::new(&metadata).vocabulary.add_bos, Some(false));
        metadata.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(9));
        let header = Header::new(&metadata);
        assert_eq!((header.eos.as_slice(), header.config.get("eos_token")), (&[9][..], None));
    }

    #[test]
    fn settings_that_mistralrs_passes_over_are_found() {
        assert_eq!(Header::new(&metadata()).unhonoured, None);
        for (name, value, found) in [
            ("llama.rope.scaling.type", Value::String("none".into()), None),
            (
                "llama.rope.scaling.type",
                Value::String("yarn".into()),
                Some("`llama.rope.scaling.type`"),
            ),
            (
                "llama.attention.sliding_window",
                Value::U32(24),
                Some("`llama.attention.sliding_window`"),
            ),
            ("general.architecture", Value::String("phi3".into()), Some("`phi3`")),
        ] {
            let mut metadata = metadata();
            metadata.insert(name.into(), value);
            let header = Header::new(&metadata);
            match found {
                None => assert_eq!(header.unhonoured, None),
                Some(found) => assert!(header.unhonoured.unwrap().contains(found)),
            }
        }
    }
}
