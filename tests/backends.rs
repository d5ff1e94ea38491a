//! Which backend a model gets: GGUF files as sources, what a build without mistralrs says, and that nothing asks a hub.

#[cfg(feature = "mistralrs")]
#[path = "../stages/mistralrs/tests/backend/write_gguf.rs"]
mod write_gguf;

use crate::space::Space;

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
    use serde_json::json;

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
        let (code, said) = run();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("holds no `model.safetensors`"), "{said}");
        assert_eq!(calls.load(Ordering::SeqCst), 0, "something was asked of a hub");
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0, "a cache was begun");
    }
}
