//! Token ids and byte offsets against Hugging Face's, and tokenizers that are broken or spell bytes
//! otherwise.

use std::path::Path;

use proptest::prelude::*;
use refrain_lm::tokenizer::{Encoding, Tokenizer};
use serde_json::{Value, json};

use crate::{ids, parity_folders, read_json};

/// The tokens tile the text: offsets ascend from 0 and stay within it.
fn assert_tiles(encoding: &Encoding, text: &str) {
    assert_eq!(encoding.ids.len(), encoding.offsets.len());
    assert!(encoding.offsets.is_sorted());
    assert_eq!(encoding.offsets.first().copied().unwrap_or(0), 0);
    assert!(encoding.offsets.iter().all(|&at| at as usize <= text.len()));
}

/// The bytes of the text that each token covers.
fn slices<'a>(encoding: &Encoding, text: &'a str) -> Vec<&'a [u8]> {
    let ends = encoding.offsets[1..].iter().map(|&end| end as usize).chain([text.len()]);
    encoding
        .offsets
        .iter()
        .zip(ends)
        .map(|(&start, end)| &text.as_bytes()[start as usize..end])
        .collect()
}

/// A tokenizer from the parts of a `tokenizer.json`.
fn write_tokenizer(folder: &Path, parts: &Value) {
    let mut whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
    });
    for (name, part) in parts.as_object().unwrap() {
        whole[name] = part.clone();
    }
    std::fs::write(folder.join("tokenizer.json"), whole.to_string()).unwrap();
}

#[test]
fn texts_of_all_models_have_the_reference_ids_and_tile() {
    for folder in parity_folders() {
        let tokenizer = Tokenizer::load(&folder.join("model")).unwrap();
        assert_eq!(tokenizer.vocab_size(), 512);
        assert_eq!(tokenizer.eos(), Some(("<|eos|>", 1)));
        let bytes = std::fs::read(folder.join("model/tokenizer.json")).unwrap();
        assert_eq!(tokenizer.digest(), blake3::hash(&bytes));
        let inner = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        let reference = read_json(&folder.join("reference.json"));
        for case in reference["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let encoding = tokenizer.encode(text, true).unwrap();
            assert_eq!(encoding.ids, ids(&case["input_ids"]), "{} {text}", folder.display());
            assert_tiles(&encoding, text);
            assert_eq!((encoding.added, encoding.offsets[0], encoding.offsets[1]), (1, 0, 0));
            for (&id, slice) in encoding.ids.iter().zip(slices(&encoding, text)).skip(1) {
                assert_eq!(tokenizer.token_bytes(id), slice);
            }
            assert_eq!(tokenizer.decode(&encoding.ids, true), text);
            for skip_special in [false, true] {
                assert_eq!(
                    tokenizer.decode(&encoding.ids, skip_special),
                    inner.decode(&encoding.ids, skip_special).unwrap()
                );
            }
            assert_eq!(tokenizer.encode(text, false).unwrap().ids, encoding.ids[1..]);
        }
    }
}

#[test]
fn offsets_survive_normalisation() {
    let Some(folder) = parity_folders().into_iter().find(|folder| folder.ends_with("qwen2")) else {
        return;
    };
    let tokenizer = Tokenizer::load(&folder.join("model")).unwrap();
    // `e` and a combining accent become one character of two bytes; what follows must be in its
    // place again.
    let text = "cafe\u{301} und 日本\u{1F642}, A\u{30A} end";
    let encoding = tokenizer.encode(text, false).unwrap();
    assert_tiles(&encoding, text);
    assert_eq!(tokenizer.decode(&encoding.ids, true), "café und 日本\u{1F642}, Å end");
    let covered = slices(&encoding, text);
    for (&id, slice) in encoding.ids.iter().zip(&covered) {
        let exact = tokenizer.token_bytes(id) == *slice;
        let text = String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        assert!(exact || !text.is_ascii(), "token `{text}` covers {slice:?}");
    }
    assert!(
        encoding.offsets.iter().any(|&at| text.as_bytes()[at as usize..] == *b" end"),
        "{covered:?}"
    );
}

#[test]
fn sentencepiece_spellings_are_bytes_of_the_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut vocabulary = serde_json::Map::new();
    for (id, token) in ["<unk>", "<s>", "</s>"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), json!(id));
    }
    for byte in 0..=255u8 {
        vocabulary.insert(format!("<0x{byte:02X}>"), json!(3 + usize::from(byte)));
    }
    for (at, token) in ["▁", "a", "b", "▁a", "ab", "▁ab"].iter().enumerate() {
        vocabulary.insert((*token).to_owned(), json!(259 + at));
    }
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    write_tokenizer(
        folder.path(),
        &json!({
            "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
            "padding": { "strategy": { "Fixed": 64 }, "direction": "Right", "pad_to_multiple_of": null,
                         "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>" },
            "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
            "normalizer": { "type": "Sequence", "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
            "post_processor": { "type": "TemplateProcessing",
                "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } },
                           { "SpecialToken": { "id": "</s>", "type_id": 0 } }],
                "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
                "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] },
                                    "</s>": { "id": "</s>", "ids": [2], "tokens": ["</s>"] } } },
            "decoder": { "type": "Sequence", "decoders": [
                { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
                { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
            "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocabulary, "merges": [["a", "b"], ["▁", "ab"], ["▁", "a"]] },
        }),
    );
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    let text = "ab é ab";
    let encoding = tokenizer.encode(text, true).unwrap();
    // <s>, `▁ab`, `▁`, two bytes of é, `▁ab`. The </s> of the post-processor is left out, as are
    // truncation and padding.
    assert_eq!(encoding.ids, [1, 264, 259, 3 + 0xC3, 3 + 0xA9, 264]);
    assert_eq!((encoding.added, encoding.offsets), (1, vec![0, 0, 2, 3, 4, 5]));
    assert_eq!(tokenizer.token_bytes(3 + 0xC3), [0xC3]);
    assert_eq!(tokenizer.decode(&[1, 264, 259, 3 + 0xC3, 3 + 0xA9, 264], true), text);
    assert_eq!(tokenizer.decode(&[3 + 0xC3], true), "\u{FFFD}");
    assert_eq!(tokenizer.decode(&[9999, u32::MAX], true), "");
}

#[test]
fn broken_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = || Tokenizer::load(folder.path()).unwrap_err().to_string();
    assert!(
        message().contains("cannot read") && message().contains("tokenizer.json"),
        "{}",
        message()
    );
    let Some(model) = parity_folders().into_iter().next() else { return };
    let whole = std::fs::read(model.join("model/tokenizer.json")).unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", b"[]", b"{}", b"\xFF"] {
        put("tokenizer.json", broken);
        assert!(message().contains("is not a valid tokenizer"), "{}", message());
    }
    // The post-processor writes a token that it does not define.
    let text = String::from_utf8(whole.clone()).unwrap();
    put(
        "tokenizer.json",
        text.replacen("\"id\": \"<|bos|>\"", "\"id\": \"<|bus|>\"", 1).as_bytes(),
    );
    assert!(message().contains("its parts do not fit together"), "{}", message());
    let mut dropout: Value = serde_json::from_slice(&whole).unwrap();
    dropout["model"]["dropout"] = json!(0.1);
    put("tokenizer.json", dropout.to_string().as_bytes());
    assert!(message().contains("dropout"), "{}", message());
    put("tokenizer.json", &whole);
    put("tokenizer_config.json", b"{");
    assert!(message().contains("tokenizer_config.json` is not a valid"), "{}", message());
}

#[test]
fn templates_and_tokens_are_found_in_all_spellings() {
    let Some(model) = parity_folders().into_iter().next() else { return };
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::copy(model.join("model/tokenizer.json"), folder.path().join("tokenizer.json"))
        .unwrap();
    let load = || Tokenizer::load(folder.path()).unwrap();
    assert_eq!((load().chat_template(), load().eos()), (None, None));
    put(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "<|eos|>"}, "pad_token": null,
        "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
    );
    assert_eq!((load().chat_template(), load().eos()), (Some("d"), Some(("<|eos|>", 1))));
    assert_eq!(load().named_special_tokens().len(), 1);
    put("chat_template.jinja", "j");
    assert_eq!(load().chat_template(), Some("j"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the text, offsets tile it; for the byte-level tokenizers that do not normalise they
    /// are exact.
    #[test]
    fn any_text_is_tiled(text in "(\\PC|[ \\n\\t\u{301}é🙂日]|<\\|eos\\|>){0,40}") {
        for folder in parity_folders() {
            let tokenizer = Tokenizer::load(&folder.join("model")).unwrap();
            let encoding = tokenizer.encode(&text, true).unwrap();
            assert_tiles(&encoding, &text);
            if !folder.ends_with("qwen2") {
                prop_assert_eq!(tokenizer.decode(&encoding.ids[1..], false), text.clone());
                for (&id, slice) in encoding.ids.iter().zip(slices(&encoding, &text)).skip(1) {
                    prop_assert_eq!(tokenizer.token_bytes(id), slice);
                }
            }
        }
    }

    /// A file with a damaged byte, or one part of which is something else, is an error or a
    /// tokenizer: no panic.
    #[test]
    fn damaged_files_do_not_panic(at in 0usize..30_000, byte in any::<u8>(), part in 0usize..200, other in 0usize..6) {
        let Some(model) = parity_folders().into_iter().last() else { return Ok(()) };
        let whole = std::fs::read(model.join("model/tokenizer.json")).unwrap();
        let mut damaged = whole.clone();
        damaged[at % whole.len()] = byte;
        assert_loads_or_fails(&damaged);
        let mut json: Value = serde_json::from_slice(&whole).unwrap();
        let mut paths = Vec::new();
        collect_paths(&json, "", &mut paths);
        let others = [json!(null), json!(-1), json!(""), json!([]), json!({}), json!("<|bos|>")];
        *json.pointer_mut(&paths[part % paths.len()]).unwrap() = others[other].clone();
        assert_loads_or_fails(json.to_string().as_bytes());
    }
}

fn assert_loads_or_fails(file: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), file).unwrap();
    let Ok(tokenizer) = Tokenizer::load(folder.path()) else { return };
    let text = "What is 2 + 2? <|eos|> é";
    if let Ok(encoding) = tokenizer.encode(text, true) {
        assert_tiles(&encoding, text);
        tokenizer.decode(&encoding.ids, true);
    }
}

/// The JSON pointers of all parts but the single entries of the vocabulary and the merges.
fn collect_paths(value: &Value, path: &str, paths: &mut Vec<String>) {
    paths.push(path.to_owned());
    if path.ends_with("/vocab") || path.ends_with("/merges") {
        return;
    }
    match value {
        Value::Object(entries) => {
            entries.iter().for_each(|(name, entry)| {
                collect_paths(
                    entry,
                    &format!("{path}/{}", name.replace('~', "~0").replace('/', "~1")),
                    paths,
                );
            });
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(at, item)| collect_paths(item, &format!("{path}/{at}"), paths));
        }
        _ => {}
    }
}

/// Writes a small tokenizer whose configuration names no special token.
fn without_names(folder: &Path) {
    let vocabulary = json!({ "<s>": 0, "</s>": 1, "a": 2 });
    let special = |id: u32, text: &str| {
        json!({ "id": id, "content": text, "special": true, "normalized": false, "single_word": false,
                "lstrip": false, "rstrip": false })
    };
    let parts = json!({
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
    });
    write_tokenizer(folder, &parts);
}

#[test]
fn tokens_named_only_in_the_map_of_special_tokens_count() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: Value| {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    };
    without_names(folder.path());
    write(
        "special_tokens_map.json",
        json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" } }),
    );
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.eos(), Some(("</s>", 1)));
    assert_eq!(tokenizer.named_special_tokens()["bos_token"], "<s>");
    // As in transformers: it overrides an older configuration, and is not read beside a newer one.
    write("tokenizer_config.json", json!({ "eos_token": "a" }));
    assert_eq!(Tokenizer::load(folder.path()).unwrap().eos(), Some(("</s>", 1)));
    write("tokenizer_config.json", json!({ "eos_token": "a", "added_tokens_decoder": {} }));
    assert_eq!(Tokenizer::load(folder.path()).unwrap().eos(), Some(("a", 2)));
}

#[test]
fn the_models_end_token_stands_in_for_one_that_the_tokenizer_does_not_name() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, json: Value| {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    };
    without_names(folder.path());
    assert_eq!(Tokenizer::load(folder.path()).unwrap().eos(), None);
    write("config.json", json!({ "eos_token_id": 0 }));
    assert_eq!(Tokenizer::load(folder.path()).unwrap().eos(), Some(("<s>", 0)));
    // A token that is not special would not be found again in a text.
    write("generation_config.json", json!({ "eos_token_id": [2, 1] }));
    assert_eq!(Tokenizer::load(folder.path()).unwrap().eos(), Some(("</s>", 1)));
    // Templates do not see it: Hugging Face gives them what the tokenizer names.
    assert!(Tokenizer::load(folder.path()).unwrap().named_special_tokens().is_empty());
}
