//! GGUF files that PyPI's `gguf` writes of the reference models, alone and with nothing beside
//! them.

use std::path::{Path, PathBuf};
use std::process::Command;

use refrain_lm::tokenizer::Tokenizer;
use refrain_mistralrs::Model;
use refrain_stages::backend::BackendModel;
use serde_json::Value;

/// Models, their architecture in GGUF, and the pattern of their tokenizer.
const FILES: [(&str, &str, &str); 3] =
    [("llama", "llama", "gpt-2"), ("qwen2", "qwen2", "qwen2"), ("qwen3", "qwen3", "qwen2")];

/// Writes a reference model as GGUF; nothing, with a printed reason, where that cannot be done
/// here.
fn written(name: &str, architecture: &str, pattern: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = root.join("../../../shared/parity").join(name).join("model");
    if !model.is_dir() {
        eprintln!("skipped: `{}` is absent", model.display());
        return None;
    }
    let packages = Command::new("python3").args(["-c", "import gguf, numpy, safetensors"]).output();
    if !packages.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: `python3` with the packages gguf, numpy and safetensors is absent");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let output = Command::new("python3")
        .arg(root.join("tests/backend/write_gguf.py"))
        .args([&model, &path])
        .args([architecture, pattern])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some((folder, path))
}

#[test]
fn a_file_alone_has_the_ids_and_the_scores_of_its_model() {
    for (name, architecture, pattern) in FILES {
        let Some((_folder, path)) = written(name, architecture, pattern) else { return };
        let parity =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity").join(name);
        let theirs = Tokenizer::load(&parity.join("model")).unwrap();
        let model = Model::load(&path).unwrap();
        for text in
            ["It's 12345 + 67,890.\n\n  Indented\t…", "l'été 日本語 🙂x²", "<|user|>a<|eos|>"]
        {
            let (a, b) = (model.tokenizer().encode(text, true), theirs.encode(text, true));
            assert_eq!(a.unwrap().ids, b.unwrap().ids, "{name} {text:?}");
        }
        let reference = std::fs::read(parity.join("reference.json")).unwrap();
        let reference: Value = serde_json::from_slice(&reference).unwrap();
        for text in reference["texts"].as_array().unwrap() {
            let ids = model.tokenizer().encode(text["text"].as_str().unwrap(), true).unwrap().ids;
            let expected: Vec<u64> = text["input_ids"]
                .as_array()
                .unwrap()
                .iter()
                .map(|id| id.as_u64().unwrap())
                .collect();
            assert!(ids.iter().map(|id| u64::from(*id)).eq(expected), "{name}");
            if ids.len() < 2 {
                continue;
            }
            let logprobs = &text["logprobs_f64"].as_array().unwrap()[1..];
            for (ours, theirs) in model.score(&ids).unwrap().iter().zip(logprobs) {
                let off = (f64::from(*ours) - theirs.as_f64().unwrap()).abs();
                assert!(off < 1e-4, "{name}: {off}");
            }
        }
    }
}

#[test]
fn a_pattern_that_is_not_known_is_refused_with_the_remedy() {
    for (pattern, name) in [("poro-chat", "`poro-chat`"), ("", "no named pattern")] {
        let Some((folder, path)) = written("llama", "llama", pattern) else { return };
        let error = Model::load(&path).err().unwrap().to_string();
        assert!(
            error.contains(name) && error.contains("`tokenizer.json` beside the file"),
            "{error}"
        );
        let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity/llama");
        std::fs::copy(parity.join("model/tokenizer.json"), folder.path().join("tokenizer.json"))
            .unwrap();
        assert!(Model::load(folder.path()).is_ok());
    }
}
