//! Which backend a model gets: GGUF files as sources, what a build without mistralrs says, and that nothing asks a hub.

#[cfg(feature = "mistralrs")]
#[path = "../stages/mistralrs/tests/backend/write_gguf.rs"]
mod write_gguf;

use std::path::{Path, PathBuf};

use arrow::array::{AsArray, Float32Array};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::space::{Space, shared};

const WORKFLOW: &str = "
refrain: 1
name: gguf
models:
  small: { path: small.gguf }
data:
  prompts: { path: prompts.jsonl }
stages:
  answers:
    generate: { model: small, data: prompts, max_new_tokens: 5, ignore_eos: true }
  scored:
    score: { model: small, data: answers, of: text }
";

fn space() -> Space {
    let space = Space::new();
    space.write("gguf.yaml", WORKFLOW);
    space.write("prompts.jsonl", "{\"prompt\": \"Once\"}\n{\"prompt\": \"Twice\"}\n");
    space
}

/// The log-probabilities of each row of a scored table; `NaN` where there is none.
fn logprobs(path: &Path) -> Vec<Vec<f32>> {
    let file = std::fs::File::open(path).unwrap();
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in batches.map(Result::unwrap) {
        for row in batch.column_by_name("logprobs").unwrap().as_list::<i32>().iter() {
            let row = row.unwrap();
            let row: &Float32Array = row.as_primitive();
            rows.push(row.iter().map(|value| value.unwrap_or(f32::NAN)).collect());
        }
    }
    rows
}

/// Scores the texts of a parity folder through `auto`: the largest difference from the reference, or the refusal.
fn compared(folder: &Path) -> Result<f64, String> {
    let reference = std::fs::read(folder.join("reference.json")).unwrap();
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let texts: Vec<&Value> = reference["texts"].as_array().unwrap().iter().collect();
    let space = Space::new();
    let model = folder.join("model");
    space.write(
        "parity.yaml",
        &format!(
            "refrain: 1\nname: parity\nmodels: {{ m: {{ path: {} }} }}\ndata: {{ t: {{ path: t.jsonl }} }}\n\
             stages: {{ scored: {{ score: {{ model: m, data: t, of: text }} }} }}\n",
            model.display()
        ),
    );
    let row = |text: &&Value| json!({ "prompt": "", "response": text["text"] }).to_string() + "\n";
    space.write("t.jsonl", &texts.iter().map(row).collect::<String>());
    let said = space.run(&["run", "parity.yaml", "--quiet"]);
    if said.code != 0 {
        return Err(said.stderr);
    }
    let path = space.run(&["show", "parity.yaml", "scored", "--path"]).stdout;
    let rows = logprobs(&space.path(path.trim()));
    assert_eq!(rows.len(), texts.len());
    let mut worst = 0.0f64;
    for (ours, text) in rows.iter().zip(texts) {
        let theirs = text["logprobs_f64"].as_array().unwrap();
        assert_eq!(ours.len(), theirs.len(), "{}", folder.display());
        for (ours, theirs) in ours.iter().zip(theirs).filter(|(_, theirs)| !theirs.is_null()) {
            worst = worst.max((f64::from(*ours) - theirs.as_f64().unwrap()).abs());
        }
    }
    Ok(worst)
}

/// No model is silently wrong: what `auto` chooses gives what transformers gives, or refuses the model by name.
#[test]
fn every_parity_folder_is_right_or_refused_by_name() {
    let Some(shared) = shared() else { return };
    let mut folders: Vec<PathBuf> = std::fs::read_dir(shared.join("parity"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("model/config.json").is_file())
        .collect();
    folders.sort();
    let mut right: Vec<&str> = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_str().unwrap();
        match compared(folder) {
            Ok(worst) => {
                assert!(worst < 1e-4, "{name}: {worst}");
                right.push(name);
            }
            Err(said) => {
                let named = said.contains("as transformers does: ")
                    || said.contains("which this build lacks");
                assert!(named, "{name}: {said}");
            }
        }
    }
    let native = [
        "gemma2",
        "gemma2-caps-absent",
        "gemma2-gelu",
        "gemma3",
        "llama",
        "llama-dynamic",
        "llama-linear",
        "llama-yarn",
        "llama3-rope-tied",
        "mistral",
        "olmo2",
        "phi3",
        "phi3-longrope",
        "qwen2",
        "qwen2-yarn",
        "qwen3",
    ];
    assert_eq!(right, native);
}

/// Only the native module trains, so `finetune` refuses other models before anything runs.
#[test]
fn a_model_that_cannot_be_trained_is_refused_by_check() {
    let space = Space::new();
    space.write(
        "w.yaml",
        "refrain: 1\nname: w\nmodels: { m: { path: m } }\ndata: { t: { path: t.jsonl } }\nstages:\n  \
         tuned: { finetune: { model: m, data: t, lora: { rank: 2 } } }\n  \
         again: { finetune: { model: tuned, data: t, lora: { rank: 2 } } }\n",
    );
    space.write("t.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
    space.write("m/model.safetensors", "");
    for (config, words) in [
        (r#"{"model_type": "falcon"}"#, "it cannot be trained: model type `falcon` is not native"),
        (
            r#"{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 32,
                "num_hidden_layers": 1, "intermediate_size": 16, "quantization_config": {"bits": 4}}"#,
            "it cannot be trained: the model's configuration is not honoured: it sets `quantization_config`",
        ),
    ] {
        space.write("m/config.json", config);
        let said = space.refuses(&["check", "w.yaml"]);
        assert!(said.contains(words), "{said}");
    }
    std::fs::remove_file(space.path("m/config.json")).unwrap();
    std::fs::remove_file(space.path("m/model.safetensors")).unwrap();
    space.write("m/model.gguf", "GGUF");
    let said = space.refuses(&["check", "w.yaml"]);
    assert!(said.contains("it cannot be trained: it is GGUF"), "{said}");
}

#[cfg(not(feature = "mistralrs"))]
#[test]
fn a_build_without_mistralrs_says_so() {
    let space = space();
    space.write("small.gguf", "GGUF");
    let said = space.run(&["run", "gguf.yaml", "--quiet"]);
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(said.stderr.contains("needs mistralrs, which this build lacks"), "{}", said.stderr);
}

#[cfg(feature = "mistralrs")]
mod with_mistralrs {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use refrain_lm::config::ModelConfig;
    use refrain_lm::model::LanguageModel;

    use super::*;

    fn gguf() -> Vec<u8> {
        let config = json!({
            "model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1,
            "intermediate_size": 48, "vocab_size": write_gguf::tokens().len(), "max_position_embeddings": 512,
            "initializer_range": 0.4,
        });
        write_gguf::gguf(&LanguageModel::random(&ModelConfig::from_json(&config).unwrap(), 3))
    }

    #[test]
    fn a_gguf_file_is_a_model() {
        let space = space();
        std::fs::write(space.path("small.gguf"), gguf()).unwrap();
        let report = space.report("gguf.yaml", &[]);
        assert_eq!(report["nodes"].as_array().unwrap().len(), 4, "{report}");
        assert!(space.ran("gguf.yaml", &[]).is_empty());
        let lock = space.read("gguf.lock");
        assert!(lock.contains("mistralrs 0.8.1"), "the profile names the backend: {lock}");
        // What `auto` chooses makes no other key than `auto`.
        space.edit("gguf.yaml", "max_new_tokens: 5", "backend: mistralrs, max_new_tokens: 5");
        assert!(space.ran("gguf.yaml", &[]).is_empty());
        // A folder with the file is another path to the same bytes, but a folder has another digest.
        std::fs::create_dir(space.path("folder")).unwrap();
        std::fs::rename(space.path("small.gguf"), space.path("folder/small.gguf")).unwrap();
        space.edit("gguf.yaml", "path: small.gguf", "path: folder");
        assert!(space.ran("gguf.yaml", &[]).contains("answers"));
        space.edit("gguf.yaml", "backend: mistralrs", "backend: native");
        let said = space.run(&["run", "gguf.yaml", "--quiet"]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(
            said.stderr.contains("is GGUF, which our own module does not read"),
            "{}",
            said.stderr
        );
    }

    #[test]
    fn a_broken_file_is_told_in_words() {
        let space = space();
        std::fs::write(space.path("small.gguf"), &gguf()[..900]).unwrap();
        let said = space.run(&["run", "gguf.yaml", "--quiet"]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("mistralrs cannot load"), "{}", said.stderr);
        assert!(
            !said.stderr.contains("panicked") && !said.stderr.contains("RUST_BACKTRACE"),
            "{}",
            said.stderr
        );
    }

    /// Every way out leads to a listener of ours, and the home folder shows whether a hub's cache was begun.
    #[test]
    fn nothing_asks_a_hub() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        let space = space();
        std::fs::create_dir(space.path("home")).unwrap();
        let home = space.path("home");
        let names =
            ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "HF_ENDPOINT"];
        let mut environment = vec![("HOME", home.to_str().unwrap())];
        environment.extend(names.map(|name| (name, address.as_str())));
        std::fs::write(space.path("small.gguf"), gguf()).unwrap();
        let run = || {
            let mut command = space.command(&["run", "gguf.yaml", "--quiet"]);
            let output = command.envs(environment.iter().copied()).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = run();
        assert_eq!(code, Some(0), "{said}");
        space.write(
            "absent/config.json",
            "{\"model_type\": \"phi3\", \"architectures\": [\"Phi3ForCausalLM\"]}",
        );
        space.edit("gguf.yaml", "path: small.gguf", "path: absent");
        space.edit("gguf.yaml", "max_new_tokens: 5", "backend: mistralrs, max_new_tokens: 5");
        let (code, said) = run();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("holds no `model.safetensors`"), "{said}");
        assert_eq!(calls.load(Ordering::SeqCst), 0, "something was asked of a hub");
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "a cache was begun");
    }
}
