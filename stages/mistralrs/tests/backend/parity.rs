//! Every reference model through mistralrs: the scores of transformers, or a refusal by name.

use std::path::Path;

use refrain_lm::tokenizer::Tokenizer;
use refrain_mistralrs::Mistralrs;
use refrain_stages::backend::Backend;
use serde_json::Value;

/// The models that mistralrs computes as transformers does.
const RIGHT: [&str; 5] = ["llama", "llama-linear", "llama3-rope-tied", "qwen2", "qwen3"];

#[test]
fn each_model_is_right_or_refused_by_name() {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity");
    if !parity.is_dir() {
        return eprintln!("skipped: the shared folder with the references is absent");
    }
    let mut right = Vec::new();
    for entry in std::fs::read_dir(&parity).unwrap().map(Result::unwrap) {
        let folder = entry.path();
        if !folder.join("model/config.json").is_file() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let model = match Mistralrs.load(&folder.join("model")) {
            Ok(model) => model,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("as transformers does: "), "{name}: {text}");
                eprintln!("{name}: {text}");
                continue;
            }
        };
        let reference = std::fs::read(folder.join("reference.json")).unwrap();
        let reference: Value = serde_json::from_slice(&reference).unwrap();
        let tokenizer = Tokenizer::load(&folder.join("model")).unwrap();
        let mut worst = 0.0f64;
        for text in reference["texts"].as_array().unwrap() {
            let ids = tokenizer.encode(text["text"].as_str().unwrap(), true).unwrap().ids;
            if ids.len() < 2 {
                continue;
            }
            let expected = &text["logprobs_f64"].as_array().unwrap()[1..];
            for (ours, theirs) in model.score(&ids).unwrap().iter().zip(expected) {
                worst = worst.max((f64::from(*ours) - theirs.as_f64().unwrap()).abs());
            }
        }
        eprintln!("{name}: {worst:.1e}");
        assert!(worst < 1e-4, "{name}: {worst}");
        right.push(name);
    }
    right.sort();
    assert_eq!(right, RIGHT);
}

/// Phi-3 without a window: the texts of the reference that are no longer than its window do not see
/// it.
#[test]
fn phi3_within_its_window_is_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity/phi3");
    if !folder.is_dir() {
        return eprintln!("skipped: the shared folder with the references is absent");
    }
    let copy = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(folder.join("model").join(name), copy.path().join(name)).unwrap();
    }
    let config = std::fs::read(folder.join("model/config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let window = config["sliding_window"].as_u64().unwrap() as usize;
    config["sliding_window"] = Value::Null;
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let model = Mistralrs.load(copy.path()).unwrap();
    let reference = std::fs::read(folder.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let mut tokens = 0;
    for text in reference["texts"].as_array().unwrap() {
        let ids = text["input_ids"].as_array().unwrap().iter();
        let ids: Vec<u32> = ids.map(|id| id.as_u64().unwrap() as u32).take(window).collect();
        if ids.len() < 2 {
            continue;
        }
        let expected = &text["logprobs_f64"].as_array().unwrap()[1..];
        for (ours, theirs) in model.score(&ids).unwrap().iter().zip(expected) {
            let off = (f64::from(*ours) - theirs.as_f64().unwrap()).abs();
            assert!(off < 1e-4, "{off}");
            tokens += 1;
        }
    }
    assert!(tokens > 40, "{tokens}");
}
