//! mistralrs against our own module: the same weights must give the same tokens, whoever computes
//! the logits.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(clippy::disallowed_methods, clippy::print_stderr, clippy::unwrap_used)]

mod gguf_python;
mod parity;
mod write_gguf;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use refrain_engine::kind::StageError;
use refrain_lm::config::ModelConfig;
use refrain_lm::generate::{Finish, Generated, Limits, Progress, Request, generate};
use refrain_lm::model::{LanguageModel, ModelPath};
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::score::score;
use refrain_lm::tokenizer::Tokenizer;
use refrain_mistralrs::{Mistralrs, Model};
use refrain_stages::backend::{Backend, BackendModel};
use serde_json::json;

use write_gguf::{BOS, EOS, gguf, tokens};

const GREEDY: SamplingParams = SamplingParams {
    temperature: 0.0,
    top_k: None,
    top_p: None,
    min_p: None,
    repetition_penalty: None,
};

/// A Llama with random weights, with the tokens of the GGUF file.
fn tiny() -> LanguageModel {
    let config = json!({
        "model_type": "llama", "hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 80, "vocab_size": tokens().len(),
        "max_position_embeddings": 512, "eos_token_id": EOS, "initializer_range": 0.4,
    });
    LanguageModel::random(&ModelConfig::from_json(&config).unwrap(), 11)
}

/// The file of that model, in a folder of its own.
fn tiny_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, gguf(&tiny())).unwrap();
    (folder, path)
}

/// Models of the reference data, or none with a printed reason.
fn parity() -> Vec<PathBuf> {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity");
    if !parity.is_dir() {
        eprintln!("skipped: the shared folder with the references is absent");
        return Vec::new();
    }
    ["llama", "llama3-rope-tied", "qwen2"].map(|name| parity.join(name).join("model")).into()
}

fn requests(sampler: &Sampler, prompts: &[&[u32]], samples: u64) -> Vec<Request> {
    let request = |(k, prompt): (usize, &&[u32])| Request {
        prompt: prompt.to_vec(),
        samples: (0..samples).map(|sample| sampler.stream(&[k as u64, sample])).collect(),
    };
    prompts.iter().enumerate().map(request).collect()
}

fn limits(max_new_tokens: usize) -> Limits {
    Limits { max_new_tokens, ignore_eos: true, ..Limits::default() }
}

fn native(
    model: &LanguageModel,
    tokenizer: &Tokenizer,
    requests: &[Request],
    sampler: &Sampler,
    limits: &Limits,
) -> Vec<Vec<Generated>> {
    generate(model, tokenizer, requests, sampler, limits, None, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn theirs(
    model: &dyn BackendModel,
    requests: &[Request],
    sampler: &Sampler,
    limits: &Limits,
) -> Vec<Vec<Generated>> {
    model.generate(requests, sampler, limits, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Both must have drawn the same tokens with nearly the same probabilities.
fn assert_same(ours: &[Vec<Generated>], theirs: &[Vec<Generated>], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().flatten().zip(theirs.iter().flatten()) {
        assert_eq!(ours.token_ids, theirs.token_ids);
        assert_eq!((ours.finish, &ours.text), (theirs.finish, &theirs.text));
        for (a, b) in ours.logprobs.iter().zip(&theirs.logprobs) {
            assert!((a - b).abs() < tolerance, "{a} {b}");
        }
    }
}

#[test]
fn a_gguf_file_generates_what_its_weights_say() {
    let (_folder, path) = tiny_file();
    let (ours, theirs_model) = (tiny(), Model::load(&path).unwrap());
    let tokenizer = theirs_model.tokenizer();
    let text = "Héllo, wörld! 12\n";
    let ids = tokenizer.encode(text, true).unwrap().ids;
    assert_eq!(
        (ids[0], ids.len()),
        (BOS, text.len() + 1),
        "a byte is a token, and <|bos|> comes first"
    );
    assert_eq!(tokenizer.decode(&ids, true), text);
    assert_eq!(theirs_model.context(), 512);
    for sampling in [GREEDY, SamplingParams { temperature: 1.3, top_p: Some(0.9), ..GREEDY }] {
        let sampler = Sampler::new(sampling, 5).unwrap();
        let requests = requests(&sampler, &[&ids, &ids[..3], &[BOS]], 2);
        let limits = limits(24);
        let expected = native(&ours, tokenizer, &requests, &sampler, &limits);
        let got = theirs(&theirs_model, &requests, &sampler, &limits);
        assert_same(&expected, &got, 2e-4);
        assert_eq!(got, theirs(&theirs_model, &requests, &sampler, &limits), "a second time");
    }
    let mut expected = Vec::new();
    score(&ours, &[&ids], None, &mut |_, values| expected = values.to_vec()).unwrap();
    let got = theirs_model.score(&ids).unwrap();
    assert_eq!(got.len(), ids.len() - 1);
    for (a, b) in expected.iter().zip(&got) {
        assert!((a - b).abs() < 2e-4, "{a} {b}");
    }
}

#[test]
fn a_folder_generates_and_scores_as_our_own_module_does() {
    for folder in parity() {
        let ours = LanguageModel::load(&ModelPath { folder: folder.clone(), adapters: Vec::new() })
            .unwrap();
        let backend = Mistralrs.load(&folder).unwrap();
        let tokenizer = backend.tokenizer();
        let texts = ["What is 2 + 2?", "Name a bird.", "a"];
        let ids = texts.map(|text| tokenizer.encode(text, true).unwrap().ids);
        let prompts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        for sampling in [GREEDY, SamplingParams { temperature: 0.9, top_k: Some(20), ..GREEDY }] {
            let sampler = Sampler::new(sampling, 7).unwrap();
            let requests = requests(&sampler, &prompts, 2);
            let limits = limits(20);
            let expected = native(&ours, tokenizer, &requests, &sampler, &limits);
            assert_same(&expected, &theirs(backend.as_ref(), &requests, &sampler, &limits), 1e-4);
        }
        let long: Vec<u32> = ids.concat();
        let mut expected = Vec::new();
        score(&ours, &[&long], None, &mut |_, values| expected = values.to_vec()).unwrap();
        for (a, b) in expected.iter().zip(backend.score(&long).unwrap()) {
            assert!((a - b).abs() < 1e-4, "{}: {a} {b}", folder.display());
        }
    }
}

#[test]
fn our_rules_end_a_text() {
    let (_folder, path) = tiny_file();
    let model = Model::load(&path).unwrap();
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let prompt = model.tokenizer().encode("Once", true).unwrap().ids;
    let requests = requests(&sampler, &[&prompt], 1);
    let one = |limits: &Limits| theirs(&model, &requests, &sampler, limits).remove(0).remove(0);
    let whole = one(&limits(30));
    assert_eq!((whole.token_ids.len(), whole.finish), (30, Finish::Length));
    // A stop token in the middle, one that begins other tokens too: bytes do.
    let (place, stop) = (0..30)
        .map(|i| (i, whole.token_ids[i]))
        .find(|(i, id)| !whole.token_ids[..*i].contains(id) && *i > 4)
        .unwrap();
    let stopped = one(&Limits { stop_ids: vec![stop], ..limits(30) });
    assert_eq!(
        (stopped.token_ids.as_slice(), stopped.finish),
        (&whole.token_ids[..=place], Finish::Stop)
    );
    // A stop text, noticed with its last token and cut off.
    let text = model.tokenizer().decode(&whole.token_ids[..12], true);
    let stop: String = text.chars().skip(5).take(2).collect();
    let stopped = one(&Limits { stop: vec![stop.clone()], ..limits(30) });
    assert_eq!(stopped.finish, Finish::Stop);
    assert_eq!(stopped.text, text[..text.find(&stop).unwrap()]);
    // The end of the context.
    let near = vec![BOS; 505];
    let requests = self::requests(&sampler, &[&near], 1);
    let full = theirs(&model, &requests, &sampler, &limits(100)).remove(0).remove(0);
    assert_eq!((full.token_ids.len(), full.finish), (7, Finish::Length));
    // The first token can be the last, and the model is as it was after it.
    assert_eq!(one(&limits(1)).token_ids, whole.token_ids[..1]);
    assert_eq!(one(&limits(30)), whole);
}

#[test]
fn a_stop_is_heard_and_nothing_is_the_matter_afterwards() {
    let (_folder, path) = tiny_file();
    let model = Model::load(&path).unwrap();
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let requests = requests(&sampler, &[&[BOS, 3, 4]], 1);
    let mut heard = 0;
    let result = model.generate(&requests, &sampler, &limits(400), &mut |progress| {
        let Progress::Tokens(tokens) = progress else { return ControlFlow::Continue(()) };
        heard = tokens;
        if tokens < 5 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(matches!(result, Err(StageError::Cancelled)));
    assert_eq!(heard, 5);
    assert_eq!(theirs(&model, &requests, &sampler, &limits(3))[0][0].token_ids.len(), 3);
}

#[test]
fn callers_on_several_threads_take_turns() {
    let (_folder, path) = tiny_file();
    let model = Model::load(&path).unwrap();
    let sampler = Sampler::new(GREEDY, 0).unwrap();
    let prompts: Vec<Vec<u32>> = (0..4).map(|i| vec![BOS, 40 + i, 60, 70 + i]).collect();
    let run = |prompt: &Vec<u32>| {
        theirs(&model, &requests(&sampler, &[prompt], 1), &sampler, &limits(12))
    };
    let alone: Vec<_> = prompts.iter().map(run).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let all: Vec<_> = prompts.iter().map(|prompt| scope.spawn(move || run(prompt))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn what_cannot_be_loaded_is_told_in_words() {
    let (folder, path) = tiny_file();
    let message = |path: &Path| match Model::load(path) {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.to_string(),
    };
    let absent = message(&folder.path().join("absent/model"));
    assert!(
        absent.contains("cannot read the model") && absent.contains("absent/model"),
        "{absent}"
    );
    let bytes = std::fs::read(&path).unwrap();
    for size in [0, 3, 20, 400, bytes.len() / 2] {
        let broken = folder.path().join("broken.gguf");
        std::fs::write(&broken, &bytes[..size]).unwrap();
        let text = message(&broken);
        assert!(text.contains("mistralrs cannot load") && text.contains("broken.gguf"), "{text}");
        assert!(!text.contains('\n') && !text.contains("panicked"), "{text}");
    }
    let foreign = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(foreign.path().join(name), text).unwrap();
    write("config.json", r#"{"architectures": ["BloomForCausalLM"], "model_type": "bloom"}"#);
    write("tokenizer.json", "{}");
    assert!(message(foreign.path()).contains("holds no `model.safetensors`"));
    write("model.safetensors", "");
    let text = message(foreign.path());
    assert!(text.contains("`bloom` was not compared"), "{text}");
}
