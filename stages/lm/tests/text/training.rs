//! Training of tokenizers: the same bytes whatever the run, the order and the threads.

use refrain_lm::render::{Prompt, Renderer, RowText};
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::tokenizer_training::{
    SPECIAL_TOKENS, TokenizerFiles, TokenizerSettings, train_tokenizer,
};

use crate::{parity_folders, read_json};

/// Texts with many pairs of equal count, so that ties decide.
fn texts() -> Vec<String> {
    let stem =
        ["straw", "berry", "étude", "日本", "🙂", "num", "ber", "  ", "the", "\n", "12", "ab"];
    (0..4000usize)
        .map(|i| {
            let word = |shift: usize| stem[(i / 12usize.pow(shift as u32)) % 12];
            format!("{}{} {}{}", word(0), word(1), word(2), word(3))
        })
        .collect()
}

fn settings(vocab_size: usize) -> TokenizerSettings {
    TokenizerSettings { vocab_size, special_tokens: Vec::new(), chat_template: None }
}

fn load(files: &TokenizerFiles) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), &files.tokenizer).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), &files.config).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

#[test]
fn bytes_depend_neither_on_threads_nor_on_order() {
    let texts = texts();
    let mut results = Vec::new();
    for threads in [1, 2, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for _ in 0..2 {
            results.push(pool.install(|| train_tokenizer(texts.iter(), &settings(700)).unwrap()));
            results.push(
                pool.install(|| train_tokenizer(texts.iter().rev(), &settings(700)).unwrap()),
            );
        }
    }
    assert!(results.iter().all(|result| *result == results[0]));
    // A change here is a change of the component that trains tokenizers.
    assert_eq!(
        blake3::hash(&results[0].tokenizer).to_hex().as_str(),
        "5a77371b72b5e1d7e9d413c8e0846ccdad60b0389a88379d49a309dded86e68c"
    );
}

#[test]
fn a_trained_tokenizer_works() {
    let tokenizer = load(&train_tokenizer(texts().iter(), &settings(400)).unwrap());
    assert_eq!(tokenizer.vocab_size(), 400);
    for (id, token) in SPECIAL_TOKENS.iter().enumerate() {
        assert_eq!(tokenizer.token_id(token), Some(id as u32));
        assert!(tokenizer.is_special(id as u32));
    }
    for text in ["", " strawberry étude日本🙂\r\n\u{0}", "a text of other words ﬁ \u{301}"] {
        let encoding = tokenizer.encode(text, true).unwrap();
        assert_eq!(encoding.ids[0], 0);
        assert_eq!(tokenizer.decode(&encoding.ids, true), text);
    }
    let renderer = Renderer::new(&tokenizer, true).unwrap();
    let row = RowText {
        prompt: Prompt::Text(" q "),
        system: Some("s"),
        tools: None,
        response_fields: None,
        response: Some("r\n"),
    };
    let rendered = renderer.full(&row).unwrap();
    assert_eq!(
        rendered.text,
        "<|bos|><|system|>\ns<|eos|>\n<|user|>\nq<|eos|>\n<|assistant|>\nr<|eos|>"
    );
    assert_eq!(rendered.token_ids[..2], [0, 3]);
}

#[test]
fn files_have_the_shape_of_the_references() {
    let Some(folder) = parity_folders().into_iter().next() else { return };
    let reference = read_json(&folder.join("model/tokenizer.json"));
    let files = train_tokenizer(texts().iter(), &settings(400)).unwrap();
    let ours: serde_json::Value = serde_json::from_slice(&files.tokenizer).unwrap();
    let keys =
        |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&ours), keys(&reference));
    assert_eq!(keys(&ours["model"]), keys(&reference["model"]));
    assert_eq!(ours["pre_tokenizer"], reference["pre_tokenizer"]);
    assert_eq!(ours["decoder"], reference["decoder"]);
    assert_eq!(ours["model"]["merges"].as_array().unwrap().len(), 400 - 256 - SPECIAL_TOKENS.len());
}

#[test]
fn settings_out_of_range_are_named() {
    let message = train_tokenizer(["a"].iter(), &settings(200)).unwrap_err().to_string();
    assert_eq!(
        message,
        "`vocab_size` is 200, but 256 bytes and 6 special tokens need at least 262"
    );
    let empty = TokenizerSettings { special_tokens: vec![String::new()], ..settings(300) };
    assert!(train_tokenizer(["a"].iter(), &empty).unwrap_err().to_string().contains("is empty"));
    // Too little text for the vocabulary gives a smaller one; no text at all gives the bytes.
    assert_eq!(load(&train_tokenizer(["aa"].iter(), &settings(300)).unwrap()).vocab_size(), 263);
    assert_eq!(load(&train_tokenizer([""; 0].iter(), &settings(300)).unwrap()).vocab_size(), 262);
}
