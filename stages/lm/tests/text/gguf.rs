//! Tokenizers built from the headers of GGUF files against the `tokenizer.json` that such a header
//! is made from.

use std::path::Path;

use refrain_lm::tokenizer::{GgufVocabulary, Tokenizer};
use serde_json::Value;

use crate::{parity_folders, read_json};

const TEXTS: [&str; 9] = [
    "Hello, world!",
    "It's 12345 + 67,890 = 80235.\n\n  Indented,\tand\r\n more…",
    "  two  spaces   here ",
    "l'été à Zürich: naïve façade",
    "日本語のテキスト и русский текст",
    "🙂👍🏽 x²=½ ١٢٣",
    "SELECT * FROM t WHERE a>=10;--x",
    "<|user|>What is 2+2?<|eos|>",
    "\n\n\n\t \u{a0}end",
];

/// The header that PyPI's `gguf` writes for a tokenizer of byte-level merges.
fn header(json: &Value, pre: &str) -> GgufVocabulary {
    let vocabulary = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocabulary.len()];
    let mut kinds = vec![1; tokens.len()];
    for (token, id) in vocabulary {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    for added in json["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap() as usize;
        if id >= tokens.len() {
            tokens.resize(id + 1, String::new());
            kinds.resize(id + 1, 1);
        }
        tokens[id] = added["content"].as_str().unwrap().to_owned();
        kinds[id] = if added["special"] == true { 3 } else { 4 };
    }
    let merge = |pair: &Value| match pair.as_array() {
        Some(pair) => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        None => pair.as_str().unwrap().to_owned(),
    };
    GgufVocabulary {
        model: "gpt2".into(),
        pre: Some(pre.into()),
        tokens,
        kinds,
        merges: json["model"]["merges"].as_array().unwrap().iter().map(merge).collect(),
        bos: Some(0),
        add_bos: Some(true),
        ..GgufVocabulary::default()
    }
}

fn built(vocabulary: &GgufVocabulary) -> Tokenizer {
    let json = vocabulary.tokenizer_json("m.gguf").unwrap();
    Tokenizer::from_parts(Path::new("m.gguf"), json.to_string().as_bytes(), &Value::Null).unwrap()
}

/// The pattern of a parity folder's tokenizer.
fn pattern_of(json: &Value) -> &'static str {
    if json["normalizer"]["type"] == "NFC" { "qwen2" } else { "gpt-2" }
}

#[test]
fn a_header_gives_the_ids_of_the_tokenizer_that_it_was_made_from() {
    for folder in parity_folders() {
        let json = read_json(&folder.join("model/tokenizer.json"));
        let theirs = Tokenizer::load(&folder.join("model")).unwrap();
        let ours = built(&header(&json, pattern_of(&json)));
        for text in TEXTS {
            let (a, b) = (ours.encode(text, true).unwrap(), theirs.encode(text, true).unwrap());
            assert_eq!(a.ids, b.ids, "{} {text:?}", folder.display());
            assert_eq!(ours.decode(&a.ids, true), theirs.decode(&b.ids, true));
        }
    }
}

/// Each pattern against the one that Hugging Face's `tokenizer.json` of such models holds.
#[test]
fn patterns_split_as_their_models_do() {
    let Some(folder) = parity_folders().into_iter().next() else { return };
    let json = read_json(&folder.join("model/tokenizer.json"));
    let pieces = |pre: &str, text: &str| {
        // Without merges a word that is no token falls into bytes, so the whole words are made
        // tokens.
        let words: Vec<String> = text.split('|').map(byte_level).collect();
        let mut vocabulary = header(&json, pre);
        vocabulary.merges.clear();
        vocabulary.tokens.extend(words.clone());
        vocabulary.kinds.resize(vocabulary.tokens.len(), 1);
        vocabulary.add_bos = Some(false);
        let mut file = vocabulary.tokenizer_json("m").unwrap();
        file["model"]["ignore_merges"] = true.into();
        let text = text.replace('|', "");
        let tokenizer =
            Tokenizer::from_parts(Path::new("m"), file.to_string().as_bytes(), &Value::Null)
                .unwrap();
        let ids = tokenizer.encode(&text, false).unwrap().ids;
        ids.iter().map(|id| &vocabulary.tokens[*id as usize]).eq(&words)
    };
    for (pre, text) in [
        ("gpt-2", "It|'s| 12345| été|,|  | two|\n|x"),
        ("llama-bpe", "It|'S| |123|45| été|,\n\n| | two|\n|x"),
        ("qwen2", "It|'S| |1|2|3| été|,\n\n| | two|\n|x"),
        ("smollm", "It|'s| |1|2|3| été|,| | two"),
        ("tekken", "Camel|Case|HTMLParser| |1|2|,/\n"),
        ("gpt-4o", "Camel|Case's| |123|4|,/\n"),
        ("deepseek-v3", "ab|123|4|漢字| été|!x|,| y"),
        ("falcon", "It|'|s| été|123|45"),
    ] {
        assert!(pieces(pre, text), "{pre}");
    }
}

/// The characters with which GPT-2 writes the bytes of a text.
fn byte_level(text: &str) -> String {
    let plain = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shifted: Vec<u8> = (0..=255).filter(|byte| !plain(*byte)).collect();
    let write = |byte: u8| match shifted.binary_search(&byte) {
        Ok(at) => char::from_u32(256 + at as u32).unwrap(),
        Err(_) => char::from(byte),
    };
    text.bytes().map(write).collect()
}

#[test]
fn a_text_begins_with_the_token_where_header_or_pattern_say_so() {
    let tokens = ["<s>", "</s>", "a"].map(String::from).to_vec();
    let base = GgufVocabulary {
        model: "gpt2".into(),
        pre: Some("gpt-2".into()),
        kinds: vec![3, 3, 1],
        tokens,
        bos: Some(0),
        ..GgufVocabulary::default()
    };
    let added = |pre: &str, add_bos| {
        let vocabulary = GgufVocabulary { pre: Some(pre.into()), add_bos, ..base.clone() };
        built(&vocabulary).encode("a", true).unwrap().added
    };
    assert_eq!((added("gpt-2", None), added("gpt-2", Some(true))), (0, 1));
    assert_eq!((added("llama-bpe", None), added("llama-bpe", Some(false))), (1, 0));
}

/// SentencePiece: the pair whose token has the highest score is merged first.
#[test]
fn scores_are_merges() {
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "ab", "bc", "▁ab", "abc"];
    let scores = [0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0];
    let vocabulary = GgufVocabulary {
        model: "llama".into(),
        tokens: tokens.map(String::from).to_vec(),
        kinds: vec![2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1],
        scores: scores.to_vec(),
        bos: Some(1),
        unknown: Some(0),
        ..GgufVocabulary::default()
    };
    let tokenizer = built(&vocabulary);
    let ids = |text| tokenizer.encode(text, true).unwrap().ids;
    // `bc` goes before `ab`; then `a` and `bc` make `abc`, and no token holds the space with it.
    assert_eq!(ids("abc"), [1, 4, 11]);
    assert_eq!(ids("ab\n"), [1, 10, 3]);
    assert_eq!(tokenizer.decode(&ids("ab ab"), true), "ab ab");
}

#[test]
fn what_is_not_known_is_refused_by_name_with_the_remedy() {
    let error = |change: fn(&mut GgufVocabulary)| {
        let mut vocabulary = GgufVocabulary {
            model: "gpt2".into(),
            pre: Some("gpt-2".into()),
            tokens: vec!["a".into()],
            ..GgufVocabulary::default()
        };
        change(&mut vocabulary);
        vocabulary.tokenizer_json("m.gguf").unwrap_err().to_string()
    };
    for (text, name) in [
        (error(|v| v.pre = Some("poro-chat".into())), "`poro-chat`"),
        (error(|v| v.pre = Some("default".into())), "`default`"),
        (error(|v| v.pre = None), "no named pattern"),
        (error(|v| v.model = "t5".into()), "`t5`"),
    ] {
        assert!(text.contains(name) && text.contains("`m.gguf`"), "{text}");
        assert!(text.contains("put the model's `tokenizer.json` beside the file"), "{text}");
    }
    assert!(error(|v| v.kinds = vec![1, 1]).contains("one kind per token"));
    assert!(error(|v| v.model = "llama".into()).contains("one score per token"));
}
