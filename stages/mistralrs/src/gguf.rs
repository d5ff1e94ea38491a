//! What a GGUF file says of its tokenizer: the special tokens, whether texts begin with one, and the chat template.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::json;

/// The tokenizer's part of a file's header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Text and id of the token that begins a text, where one is put before it.
    pub bos: Option<(String, u32)>,
    /// The tokens that end a text.
    pub eos: Vec<u32>,
    /// What `tokenizer_config.json` says of other models.
    pub config: serde_json::Value,
}

impl Header {
    /// Reads the header of a file.
    pub fn read(path: &Path) -> candle_core::Result<Header> {
        let mut file = File::open(path)?;
        Ok(Header::new(&Content::read(&mut file)?.metadata))
    }

    fn new(metadata: &HashMap<String, Value>) -> Header {
        let get = |name: &str| metadata.get(&format!("tokenizer.{name}"));
        let text = |name: &str| get(name)?.to_string().ok().cloned();
        let id = |name: &str| get(&format!("ggml.{name}_token_id"))?.to_u32().ok();
        let tokens = get("ggml.tokens").and_then(|tokens| tokens.to_vec().ok());
        let spelled = |id: u32| tokens?.get(id as usize)?.to_string().ok().cloned();
        let token = |name: &str| id(name).and_then(|id| Some((spelled(id)?, id)));
        let mut config = serde_json::Map::new();
        for (name, key) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token")] {
            if let Some((text, _)) = token(name) {
                config.insert(key.into(), json!(text));
            }
        }
        if let Some(template) = text("chat_template") {
            config.insert("chat_template".into(), json!(template));
        }
        // Where the file does not say it, llama.cpp puts one before texts of SentencePiece and of Llama 3.
        let usual = text("ggml.model").as_deref() == Some("llama")
            || matches!(text("ggml.pre").as_deref(), Some("llama-bpe" | "llama3" | "llama-v3"));
        let add = get("ggml.add_bos_token").and_then(|value| value.to_bool().ok()).unwrap_or(usual);
        Header {
            bos: token("bos").filter(|_| add),
            eos: [id("eos"), id("eot")].into_iter().flatten().collect(),
            config: config.into(),
        }
    }
}

/// Adds to a `tokenizer.json` that texts begin with a token.
pub(crate) fn with_bos(tokenizer: &mut serde_json::Value, (text, id): &(String, u32)) {
    let piece = json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let part = |name: &str, number: u32| json!({ "Sequence": { "id": name, "type_id": number } });
    let before = json!({
        "type": "TemplateProcessing",
        "single": [piece, part("A", 0)],
        "pair": [piece, part("A", 0), part("B", 1)],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    });
    let known = tokenizer["post_processor"].take();
    tokenizer["post_processor"] = match known.is_null() {
        true => before,
        false => json!({ "type": "Sequence", "processors": [known, before] }),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_its_special_tokens() {
        let words = ["<s>", "</s>", "a"].map(|word| Value::String(word.into()));
        let mut metadata = HashMap::from([
            ("tokenizer.ggml.tokens".to_owned(), Value::Array(words.into())),
            ("tokenizer.ggml.model".to_owned(), Value::String("llama".into())),
            ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(0)),
            ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(1)),
            ("tokenizer.chat_template".to_owned(), Value::String("{{ bos_token }}".into())),
        ]);
        let header = Header::new(&metadata);
        assert_eq!(header.bos, Some(("<s>".to_owned(), 0)));
        assert_eq!(header.eos, [1]);
        assert_eq!(header.config["eos_token"], "</s>");
        assert_eq!(header.config["chat_template"], "{{ bos_token }}");
        metadata.insert("tokenizer.ggml.add_bos_token".into(), Value::Bool(false));
        assert_eq!(Header::new(&metadata).bos, None);
        metadata.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(9));
        let header = Header::new(&metadata);
        assert_eq!((header.eos.as_slice(), header.config.get("eos_token")), (&[9][..], None));
    }
}
