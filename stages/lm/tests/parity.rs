//! The model against Hugging Face and PEFT: scores, continuations and whole training runs of tiny
//! models.

// Helpers of tests may unwrap and print as the tests themselves do.
#![allow(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

#[path = "parity/switching.rs"]
mod switching;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use refrain_lm::adapter::Adapter;
use refrain_lm::forward::Packed;
use refrain_lm::generate::{Limits, Progress, Request, generate};
use refrain_lm::model::{LanguageModel, LoraSettings, ModelPath};
use refrain_lm::random::Stream;
use refrain_lm::sampling::{Sampler, SamplingParams};
use refrain_lm::score::score;
use refrain_lm::tokenizer::Tokenizer;
use refrain_lm::train::{
    Length, Order, Schedule, StepLog, TrainOptions, TrainRow, Training, train,
};
use serde_json::Value;

const MODELS: [&str; 16] = [
    "llama",
    "llama3-rope-tied",
    "mistral",
    "gemma2",
    "qwen2",
    "llama-linear",
    "llama-yarn",
    "qwen2-yarn",
    "gemma2-gelu",
    "gemma2-caps-absent",
    "qwen3",
    "gemma3",
    "olmo2",
    "phi3",
    "phi3-longrope",
    "llama-dynamic",
];

/// The largest mean difference between the weights of an adapter and those that f64 gives. A bias of the optimizer
/// shows here long before it shows in a loss.
const MEAN_OF_WEIGHTS: f64 = 6e-8;

/// The folders of the references, or nothing with a printed reason.
fn folders() -> Vec<PathBuf> {
    let parity = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity");
    if !parity.is_dir() {
        eprintln!("skipped: the shared folder with the references is absent");
        return Vec::new();
    }
    MODELS.iter().map(|m| parity.join(m)).collect()
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn load(folder: &Path) -> LanguageModel {
    LanguageModel::load(&ModelPath { folder: folder.join("model"), adapters: Vec::new() }).unwrap()
}

fn scores(model: &LanguageModel, rows: &[Vec<u32>], batch: Option<usize>) -> Vec<Vec<f32>> {
    let mut all = vec![Vec::new(); rows.len()];
    let slices: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    score(model, &slices, batch, &mut |row, values| all[row] = values.to_vec()).unwrap();
    all
}

fn largest_difference(ours: &[f32], theirs: &Value) -> f64 {
    let theirs = theirs.as_array().unwrap();
    assert_eq!(ours.len() + 1, theirs.len());
    ours.iter()
        .zip(&theirs[1..])
        .map(|(a, b)| (f64::from(*a) - b.as_f64().unwrap()).abs())
        .fold(0.0, f64::max)
}

#[test]
fn log_probabilities_equal_the_reference() {
    for folder in folders() {
        let model = load(&folder);
        let reference = json(folder.join("reference.json"));
        let texts = reference["texts"].as_array().unwrap();
        let rows: Vec<Vec<u32>> = texts.iter().map(|t| ids(&t["input_ids"])).collect();
        let scores = scores(&model, &rows, None);
        let differences =
            scores.iter().zip(texts).map(|(s, t)| largest_difference(s, &t["logprobs_f64"]));
        let worst = differences.fold(0.0, f64::max);
        println!("{}: log-probabilities differ by at most {worst:.2e}", folder.display());
        assert!(worst < 1e-4);
    }
}

/// A tensor of the reference as f64, and the length of its rows.
fn tensor(folder: &Path, name: &str) -> (Vec<f64>, usize) {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = tensors.tensor(name).unwrap();
    (values(&view), view.shape()[1])
}

fn values(view: &safetensors::tensor::TensorView<'_>) -> Vec<f64> {
    match view.dtype() {
        safetensors::Dtype::F64 => {
            view.data().as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        }
        safetensors::Dtype::F32 => {
            view.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
        }
        other => panic!("{other}"),
    }
}

fn largest(ours: &[f32], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn logits_and_what_is_sampled_from_them_equal_the_reference() {
    for folder in folders() {
        let model = load(&folder);
        let reference = json(folder.join("reference.json"));
        let text = reference["logits_text"].as_u64().unwrap() as usize;
        let row = ids(&reference["texts"][text]["input_ids"]);
        let hidden = model.forward(&Packed::new([row.as_slice()]));
        let logits = model.logits(&hidden);
        let (expected, vocab) = tensor(&folder, "logits_f64");
        let (last_hidden, _) = tensor(&folder, &format!("hidden_states.{}", model.config.layers));
        let (logits_off, hidden_off) =
            (largest(&logits, &expected), largest(&hidden, &last_hidden));
        let mut probabilities_off = 0.0f64;
        for case in reference["sampling"].as_array().unwrap() {
            let number = |name: &str| case["params"].get(name).and_then(Value::as_f64);
            let params = SamplingParams {
                temperature: number("temperature").unwrap_or(1.0),
                top_k: number("top_k").map(|k| k as usize),
                top_p: number("top_p"),
                min_p: number("min_p"),
                repetition_penalty: number("repetition_penalty"),
            };
            let sampler = Sampler::new(params, 0).unwrap();
            let (kept, probabilities) = sampler.distribution(&logits[logits.len() - vocab..], &row);
            assert_eq!(
                kept.len() as u64,
                case["n_kept"].as_u64().unwrap(),
                "{} {case}",
                folder.display()
            );
            for pair in case["top"].as_array().unwrap() {
                let at = kept
                    .binary_search(&(pair[0].as_u64().unwrap() as u32))
                    .expect("the token is kept");
                let off = (probabilities[at] - pair[1].as_f64().unwrap()).abs();
                probabilities_off = probabilities_off.max(off);
            }
        }
        println!(
            "{}: logits differ by at most {logits_off:.1e}, hidden states by {hidden_off:.1e}, sampling probabilities by \
             {probabilities_off:.1e}",
            folder.display()
        );
        assert!(logits_off < 1e-4 && hidden_off < 2e-4 && probabilities_off < 1e-5);
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    for folder in folders() {
        let model = load(&folder);
        let reference = json(folder.join("reference.json"));
        let mut rows: Vec<Vec<u32>> =
            reference["texts"].as_array().unwrap().iter().map(|t| ids(&t["input_ids"])).collect();
        rows.retain(|r| r.len() > 1);
        let alone = scores(&model, &rows, Some(1));
        for batch in [2, 8, 64] {
            assert_eq!(alone, scores(&model, &rows, Some(batch)));
        }
        // Without neighbours, on more threads, in another order.
        for (row, alone) in rows.iter().zip(&alone) {
            assert_eq!(scores(&model, std::slice::from_ref(row), None)[0], *alone);
        }
        for threads in [1, 2] {
            assert_eq!(alone, on(threads, || scores(&model, &rows, None)));
        }
        rows.reverse();
        let mut reversed = scores(&model, &rows, Some(3));
        reversed.reverse();
        assert_eq!(alone, reversed);
    }
}

/// Runs on so many threads.
fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn greedy_limits() -> Limits {
    Limits { max_new_tokens: 32, ignore_eos: true, ..Limits::default() }
}

#[test]
fn greedy_continuations_equal_the_reference_in_every_batch() {
    for folder in folders() {
        let (model, tokenizer) = (load(&folder), Tokenizer::load(&folder.join("model")).unwrap());
        let reference = json(folder.join("reference.json"));
        let greedy = reference["greedy"].as_array().unwrap();
        let stream = Stream::new(0, &[]);
        let requests: Vec<Request> = greedy
            .iter()
            .map(|g| Request { prompt: ids(&g["input_ids"]), samples: vec![stream] })
            .collect();
        let sampler =
            Sampler::new(SamplingParams { temperature: 0.0, ..Default::default() }, 0).unwrap();
        let mut first = None;
        for batch in [1, 2, 8, 64] {
            let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
            let made = generate(
                &model,
                &tokenizer,
                &requests,
                &sampler,
                &greedy_limits(),
                Some(batch),
                go,
            )
            .unwrap();
            for (row, expected) in made.iter().zip(greedy) {
                assert_eq!(row[0].token_ids, ids(&expected["new_ids"]), "{}", folder.display());
                let chosen = expected["chosen_logprobs_f64"].as_array().unwrap();
                for (ours, theirs) in row[0].logprobs.iter().zip(chosen) {
                    assert!((f64::from(*ours) - theirs.as_f64().unwrap()).abs() < 1e-4);
                }
            }
            assert_eq!(*first.get_or_insert(made.clone()), made);
        }
    }
}

#[test]
fn samples_do_not_depend_on_batch_order_threads_or_neighbours() {
    for folder in folders() {
        let (model, tokenizer) = (load(&folder), Tokenizer::load(&folder.join("model")).unwrap());
        let reference = json(folder.join("reference.json"));
        let sampler =
            Sampler::new(SamplingParams { temperature: 0.8, ..Default::default() }, 5).unwrap();
        let mut requests: Vec<Request> = reference["greedy"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .map(|(row, g)| Request {
                prompt: ids(&g["input_ids"]),
                samples: (0..4).map(|s| sampler.stream(&[row as u64, s])).collect(),
            })
            .collect();
        let run = |requests: &[Request], batch: usize| {
            let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
            let limits = Limits { max_new_tokens: 24, ..Limits::default() };
            generate(&model, &tokenizer, requests, &sampler, &limits, Some(batch), go).unwrap()
        };
        let alone = run(&requests, 1);
        for batch in [2, 3, 8, 64] {
            assert_eq!(alone, run(&requests, batch));
        }
        for threads in [1, 2] {
            assert_eq!(alone, on(threads, || run(&requests, 8)));
        }
        for (request, alone) in requests.iter().zip(&alone) {
            assert_eq!(run(std::slice::from_ref(request), 8)[0], *alone, "without neighbours");
        }
        requests.reverse();
        let mut reversed = run(&requests, 7);
        reversed.reverse();
        assert_eq!(alone, reversed);
    }
}

fn rows(folder: &Path, model: &LanguageModel) -> Vec<TrainRow> {
    let mut rows: Vec<TrainRow> = json(folder.join("training/rows.json"))
        .as_array()
        .unwrap()
        .iter()
        .map(|row| TrainRow {
            ids: ids(&row["input_ids"]),
            active: row["labels"]
                .as_array()
                .unwrap()
                .iter()
                .map(|l| l.as_i64() != Some(-100))
                .collect(),
        })
        .collect();
    // Where the frequencies follow the length, the reference's are those of the padded batch.
    if model.config.rope.first_context().is_some() {
        for batch in rows.chunks_mut(2) {
            let longest = batch.iter().map(|row| row.ids.len()).max().unwrap();
            for row in batch {
                row.ids.resize(longest, 4);
                row.active.resize(longest, false);
            }
        }
    }
    rows
}

fn options(run: &Value) -> TrainOptions {
    let number = |name: &str| run[name].as_f64().unwrap();
    TrainOptions {
        length: Length::Steps(run["steps"].as_u64().unwrap()),
        batch_size: 2,
        accumulate: run["micro_batches_per_step"].as_u64().unwrap() as usize,
        order: Order::Given,
        learning_rate: number("lr"),
        schedule: Schedule::Cosine,
        warmup: run["warmup"].as_u64().unwrap(),
        betas: (run["betas"][0].as_f64().unwrap(), run["betas"][1].as_f64().unwrap()),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        clip: run["clip"].as_f64(),
        seed: 0,
        kl_weight: None,
        recompute: false,
    }
}

fn trained(folder: &Path, run: &Value, recompute: bool) -> (LanguageModel, Vec<StepLog>) {
    let mut model = load(folder);
    match run["init"].as_str() {
        Some(init) => {
            let adapter = Adapter::load(&folder.join("training").join(init)).unwrap();
            model.continue_lora(&adapter, 0.0).unwrap();
        }
        None => model.train_all(),
    }
    let (rows, options) = (rows(folder, &model), TrainOptions { recompute, ..options(run) });
    let training =
        Training { rows: &rows, options: &options, evaluation: None, keep: None, snapshots: None };
    let log = train(&mut model, &training, &mut |_| ControlFlow::Continue(())).unwrap().log;
    (model, log)
}

#[test]
fn training_runs_equal_peft() {
    for folder in folders() {
        let expected = json(folder.join("training/expected.json"));
        let strays = strays(&expected);
        for (name, run) in expected.as_object().unwrap() {
            let (model, log) = trained(&folder, run, false);
            let mut worst = (0.0f64, 0.0f64);
            for (ours, theirs) in log.iter().zip(run["log"].as_array().unwrap()) {
                let number = |field: &str| theirs[field].as_f64().unwrap();
                assert_eq!(ours.active_tokens, theirs["active_tokens"].as_u64().unwrap());
                assert!((ours.learning_rate - number("lr")).abs() <= 1e-6 * number("lr"));
                worst.0 = worst.0.max((ours.loss - number("loss_f64")).abs());
                worst.1 = worst.1.max((ours.grad_norm / number("grad_norm_f64") - 1.0).abs());
            }
            println!(
                "{} {name}: loss {:.2e}, gradient norm {:.2e}",
                folder.display(),
                worst.0,
                worst.1
            );
            assert_eq!(log.len() as u64, run["steps"].as_u64().unwrap());
            let bound = f64::max(2.2e-6, 1.5 * strays);
            assert!(worst.0 < bound, "{name}: loss differs by {}, bound {bound}", worst.0);
            assert!(worst.1 < 1.2e-5, "{name}: gradient norm differs by {}", worst.1);
            check_end(&folder, name, run, &model);
        }
    }
}

/// The largest difference between PyTorch's own losses in 32 bits and in 64: AdamW turns the last
/// bits of small gradients into whole steps, in some folders more than in others.
fn strays(expected: &Value) -> f64 {
    let runs = expected.as_object().unwrap().values();
    let steps = runs.flat_map(|run| run["log"].as_array().unwrap());
    let stray = |step: &Value| step["loss"].as_f64().unwrap() - step["loss_f64"].as_f64().unwrap();
    steps.map(|step| stray(step).abs()).fold(0.0, f64::max)
}

/// The tensors of a trained adapter, by their names in PEFT's files.
fn trained_tensors(model: &LanguageModel, dora: bool) -> BTreeMap<String, Vec<f32>> {
    let settings = LoraSettings {
        rank: model.layers[0].q.adapters.last().unwrap().rank,
        alpha: 1.0,
        dropout: 0.0,
        targets: Vec::new(),
        dora,
        rslora: false,
    };
    let adapter = model.adapter(&settings, "");
    let mut tensors = BTreeMap::new();
    for (module, lora) in adapter.tensors {
        let mut put = |part: &str, values| {
            tensors.insert(format!("base_model.model.{module}.{part}"), values);
        };
        put("lora_A.weight", lora.a);
        put("lora_B.weight", lora.b);
        if let Some(magnitude) = lora.magnitude {
            put("lora_magnitude_vector", magnitude);
        }
    }
    tensors
}

/// The absolute differences between a trained adapter and a file of one.
fn differences(model: &LanguageModel, dora: bool, file: &Path) -> Vec<f64> {
    let bytes = std::fs::read(file).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let ours = trained_tensors(model, dora);
    assert_eq!(ours.len(), theirs.len());
    let mut differences = Vec::new();
    for (name, ours) in ours {
        let theirs = values(&theirs.tensor(&name).unwrap());
        assert_eq!(ours.len(), theirs.len(), "{name}");
        differences.extend(ours.iter().zip(&theirs).map(|(a, b)| (f64::from(*a) - b).abs()));
    }
    differences
}

/// Compares the trained adapter, or for full training the scores of a text.
fn check_end(folder: &Path, name: &str, run: &Value, model: &LanguageModel) {
    let dora = run["init"].as_str().is_some_and(|init| init.contains("dora"));
    if let Some(kept) = run["final_adapter"].as_str() {
        let file = folder.join("training").join(kept).join("adapter_model.safetensors");
        let worst = differences(model, dora, &file).into_iter().fold(0.0, f64::max);
        println!("{} {name}: a weight differs by {worst:.2e}", folder.display());
        assert!(worst < 1e-4, "{name}: a weight differs by {worst}");
    }
    let exact = folder.join("training").join(name).join("adapter_model_f64.safetensors");
    if exact.is_file() {
        let differences = differences(model, dora, &exact);
        let mean = differences.iter().sum::<f64>() / differences.len() as f64;
        println!("{} {name}: mean difference of weights {mean:.2e}", folder.display());
        assert!(mean <= MEAN_OF_WEIGHTS, "{name}: weights differ by {mean} on average");
    }
    let text = &run["final_logprobs"];
    if text.is_object() {
        let reference = json(folder.join("reference.json"));
        let row =
            ids(&reference["texts"][text["text_index"].as_u64().unwrap() as usize]["input_ids"]);
        let ours = scores(model, &[row], None);
        let theirs = if text["logprobs_f64"].is_array() {
            &text["logprobs_f64"]
        } else {
            &text["logprobs_f32"]
        };
        let worst = largest_difference(&ours[0], theirs);
        println!("{} {name}: a final score differs by {worst:.2e}", folder.display());
        assert!(worst < 1e-3, "{name}: a final score differs by {worst}");
    }
}

#[test]
fn checkpointing_changes_no_bits() {
    for folder in folders() {
        let expected = json(folder.join("training/expected.json"));
        for name in ["lora_wd01", "full_wd01"].into_iter().filter(|name| !expected[name].is_null())
        {
            let (kept, again) =
                (trained(&folder, &expected[name], false), trained(&folder, &expected[name], true));
            assert_eq!(kept.1, again.1);
            assert!(kept.0.tensors.iter().zip(&again.0.tensors).all(|(a, b)| a.values == b.values));
        }
    }
}

#[test]
fn every_trainable_tensor_receives_a_gradient() {
    for folder in folders() {
        let expected = json(folder.join("training/expected.json"));
        let runs = ["lora_wd0", "dora_wd0", "full_wd0"];
        for name in runs.into_iter().filter(|name| !expected[name].is_null()) {
            let before = {
                let mut model = load(&folder);
                match expected[name]["init"].as_str() {
                    Some(init) => {
                        let adapter = Adapter::load(&folder.join("training").join(init)).unwrap();
                        model.continue_lora(&adapter, 0.0).unwrap();
                    }
                    None => model.train_all(),
                }
                model
            };
            let (after, _) = trained(&folder, &expected[name], false);
            for id in before.trainable() {
                assert_ne!(
                    before.values(id),
                    after.values(id),
                    "`{}` did not move",
                    before.tensors[id].name
                );
            }
        }
    }
}

#[test]
fn a_merged_adapter_scores_as_the_reference_does() {
    for folder in folders() {
        let reference = json(folder.join("reference.json"));
        for (name, scored) in reference["adapter_eval"].as_object().unwrap() {
            let path = ModelPath {
                folder: folder.join("model"),
                adapters: vec![folder.join("training").join(name)],
            };
            let model = LanguageModel::load(&path).unwrap();
            let text = &reference["texts"][scored["text_index"].as_u64().unwrap() as usize];
            let ours = scores(&model, &[ids(&text["input_ids"])], None);
            assert!(
                largest_difference(&ours[0], &scored["logprobs_f64"]) < 1e-4,
                "{} {name}",
                folder.display()
            );
        }
    }
}

#[test]
fn both_spellings_of_a_configuration_are_the_same_model() {
    use refrain_lm::config::ModelConfig;

    for folder in folders() {
        let older = ModelConfig::from_json(&json(folder.join("config_v4.json"))).unwrap();
        let newer = ModelConfig::from_json(&json(folder.join("model/config.json"))).unwrap();
        assert_eq!(older, newer, "{}", folder.display());
    }
}
