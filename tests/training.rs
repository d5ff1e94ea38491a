//! A training that is killed goes on, and the reference's training runs come out of workflows.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float32Type, Float64Type, Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::space::{Space, shared, small};

/// A training of a few seconds that writes its state as often as it may.
const LONG: &str = r#"refrain: 1
data: { train: { path: train.jsonl } }
stages:
  tuned:
    finetune:
      data: train
      evaluate_on: train
      evaluate_every: 500
      early_stopping: { patience: 100 }
      from:
        config: { hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 128 }
        tokenizer: { vocab_size: 280 }
      steps: 2000
      batch_size: 4
      checkpoint_every: 0
"#;

/// How many steps the state holds that is kept in the space's cache.
fn kept_steps(space: &Space) -> Option<u64> {
    let folder = std::fs::read_dir(space.path(".refrain/unfinished")).ok()?.next()?.ok()?.path();
    let bytes = std::fs::read(folder.join("training")).ok()?;
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    serde_json::from_slice::<Value>(line).ok()?["step"].as_u64()
}

/// Runs a training whole, and another one that is killed after some steps, each time later, and
/// goes on: both must give the same bytes.
fn killed_and_whole(workflow: &str, kills: &[u64]) {
    let whole = Space::new();
    small(&whole);
    whole.write("w.yaml", workflow);
    let expected = whole.digests("w.yaml", &[]);

    let space = Space::new();
    small(&space);
    space.write("w.yaml", workflow);
    for (i, least) in kills.iter().enumerate() {
        let stderr = std::fs::File::create(space.path("stderr")).unwrap();
        let mut command = space.command(&["run", "w.yaml"]);
        let mut child = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(120)
            && kept_steps(&space).is_none_or(|steps| steps < *least)
            && child.try_wait().unwrap().is_none()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        let running = child.try_wait().unwrap().is_none();
        assert!(running, "the training ended before it could be killed after {least} steps");
        child.kill().unwrap();
        child.wait().unwrap();
        let said = space.read("stderr");
        assert!(i == 0 || said.contains("goes on after step "), "killed after {least}: {said}");
    }
    let said = space.run(&["run", "w.yaml"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("goes on after step "), "{}", said.stderr);
    assert_eq!(space.digests("w.yaml", &[]), expected);
    let left = std::fs::read_dir(space.path(".refrain/unfinished")).unwrap().count();
    assert_eq!(left, 0, "the state of a finished training is kept");
}

#[test]
fn a_killed_training_goes_on_and_ends_with_the_same_bytes() {
    killed_and_whole(LONG, &[20, 700]);
}

/// Killed before the first model that it keeps, between two, and behind the last.
#[test]
fn a_killed_training_keeps_the_same_models_on_the_way() {
    let watched = "      evaluate_on: train\n      evaluate_every: 500\n      early_stopping: { \
                   patience: 100 }\n";
    let kept = LONG.replace(watched, "      keep: [300, 301, 1200]\n");
    assert_ne!(kept, LONG);
    killed_and_whole(&kept, &[20, 400, 1300]);
}

pub fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The reference rows with the tokens and the mask that the runs were made with.
pub fn rows(folder: &Path) -> String {
    let rows = json_of(&folder.join("training/rows.json"));
    let mut lines = String::new();
    for row in rows.as_array().unwrap() {
        let labels = row["labels"].as_array().unwrap();
        let mask: Vec<bool> = labels.iter().map(|label| label.as_i64() != Some(-100)).collect();
        let line = json!({ "prompt": "", "response": row["text"], "token_ids": row["input_ids"], "loss_mask": mask });
        writeln!(lines, "{line}").unwrap();
    }
    lines
}

/// All training runs of a folder, the scores of the trained models, and the continuations, as one workflow.
fn workflow(space: &Space, folder: &Path) -> Value {
    let expected = json_of(&folder.join("training/expected.json"));
    let reference = json_of(&folder.join("reference.json"));
    let lines = |values: &Value, ours: &str, theirs: &str| -> String {
        let rows = values.as_array().unwrap().iter();
        rows.map(|row| format!("{}\n", json!({ ours: row[theirs] }))).collect()
    };
    space.write("rows.jsonl", &rows(folder));
    space.write("texts.jsonl", &lines(&reference["texts"], "response", "text"));
    space.write("prompts.jsonl", &lines(&reference["greedy"], "prompt", "prompt"));
    let at = folder.display();
    let mut text = format!(
        "refrain: 1\nmodels:\n  base: {{ path: {at}/model }}\n  lora_init: {{ path: {at}/training/lora_init }}\n  \
         dora_init: {{ path: {at}/training/dora_init }}\ndata:\n  rows: {{ path: rows.jsonl }}\n  \
         texts: {{ path: texts.jsonl }}\n  prompts: {{ path: prompts.jsonl }}\nstages:\n  \
         continued: {{ generate: {{ model: base, data: prompts, chat: false, max_new_tokens: 32, ignore_eos: true }} }}\n"
    );
    for (name, run) in expected.as_object().unwrap() {
        let method = run["init"]
            .as_str()
            .map_or("full: true".into(), |init| format!("lora: {{ from: {init} }}"));
        writeln!(
            text,
            "  {name}: {{ finetune: {{ model: base, data: rows, {method}, steps: {}, batch_size: 2, accumulate: {}, \
             order: given, learning_rate: {}, warmup: {}, betas: {}, eps: {}, weight_decay: {}, clip: {} }} }}\n  \
             {name}_scored: {{ score: {{ model: {name}, data: texts, of: text }} }}",
            run["steps"],
            run["micro_batches_per_step"],
            run["lr"],
            run["warmup"],
            run["betas"],
            run["eps"],
            run["weight_decay"],
            run["clip"].as_f64().unwrap_or(0.0),
        )
        .unwrap();
    }
    space.write("w.yaml", &text);
    expected
}

pub fn path(space: &Space, node: &str) -> PathBuf {
    let said = space.run(&["show", "w.yaml", node, "--path"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    said.stdout.trim().into()
}

pub fn table(path: &Path) -> RecordBatch {
    let file = std::fs::File::open(path).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let schema = builder.schema().clone();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(|batch| batch.unwrap()).collect();
    concat_batches(&schema, &batches).unwrap()
}

#[test]
fn the_reference_runs_come_out_of_workflows() {
    let Some(shared) = shared() else { return };
    for model in [
        "llama",
        "llama3-rope-tied",
        "mistral",
        "gemma2",
        "qwen2",
        "qwen3",
        "gemma3",
        "olmo2",
        "phi3",
    ] {
        let folder = shared.join("parity").join(model);
        let reference = json_of(&folder.join("reference.json"));
        let space = Space::new();
        let expected = workflow(&space, &folder);
        space.report("w.yaml", &[]);
        for (name, run) in expected.as_object().unwrap() {
            let what = format!("{model} {name}");
            let log = near_log(&what, &table(&path(&space, &format!("{name}.log"))), &run["log"]);
            let mut line = format!("{what}: loss {:.1e}, gradient norm {:.1e}", log.0, log.1);
            if let Some(last) = run["final_adapter"].as_str() {
                let (worst, far) =
                    near_adapter(&what, &path(&space, name), &folder.join("training").join(last));
                write!(line, ", weights {worst:.1e} ({far} beyond 2e-4)").unwrap();
            }
            let scored = table(&path(&space, &format!("{name}_scored")));
            let adapter = &reference["adapter_eval"][name];
            if adapter.is_object() {
                let worst = near_scores(&what, &scored, adapter, "logprobs_f64", 1e-4);
                write!(line, ", scores {worst:.1e}").unwrap();
            }
            if run["final_logprobs"].is_object() {
                let worst =
                    near_scores(&what, &scored, &run["final_logprobs"], "logprobs_f64", 1e-3);
                write!(line, ", final scores {worst:.1e}").unwrap();
            }
            println!("{line}");
        }
        let continued = table(&path(&space, "continued"));
        for (row, greedy) in reference["greedy"].as_array().unwrap().iter().enumerate() {
            let ids = continued["response_token_ids"].as_list::<i32>().value(row);
            let ids: Vec<i32> = ids.as_primitive::<Int32Type>().values().to_vec();
            assert_eq!(json!(ids), greedy["new_ids"], "{model}: row {row}");
        }
    }
}

/// The largest differences of losses, and of gradient norms as a share.
pub fn near_log(what: &str, log: &RecordBatch, expected: &Value) -> (f64, f64) {
    let mut worst = (0.0f64, 0.0f64);
    let steps = expected.as_array().unwrap();
    assert_eq!(log.num_rows(), steps.len(), "{what}");
    for (row, step) in steps.iter().enumerate() {
        let near = |column: &str, field: &str, relative: f64, absolute: f64| {
            let (got, want) = (
                log[column].as_primitive::<Float64Type>().value(row),
                step[field].as_f64().unwrap(),
            );
            let bound = relative * want.abs() + absolute;
            assert!(
                (got - want).abs() <= bound,
                "{what} step {row}: {column} {got} in place of {want}"
            );
            ((got - want).abs(), (got / want - 1.0).abs())
        };
        worst.0 = worst.0.max(near("loss", "loss_f64", 0.0, 2e-5).0);
        worst.1 = worst.1.max(near("grad_norm", "grad_norm_f64", 1e-4, 0.0).1);
        near("learning_rate", "lr", 1e-6, 0.0);
        let active = log["active_tokens"].as_primitive::<Int64Type>().value(row);
        assert_eq!(Some(active), step["active_tokens"].as_i64(), "{what} step {row}");
        assert_eq!(log["step"].as_primitive::<Int64Type>().value(row), row as i64);
    }
    worst
}

/// The tensors of an adapter as the file has them, by name.
fn tensors(folder: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut all: Vec<(String, Vec<f32>)> = Vec::new();
    for (name, tensor) in
        header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__")
    {
        assert_eq!(tensor["dtype"], "F32");
        let place = |i: usize| 8 + length + tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let words = bytes[place(0)..place(1)].chunks_exact(4);
        all.push((
            name.clone(),
            words.map(|w| f32::from_le_bytes(w.try_into().unwrap())).collect(),
        ));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// All but one weight in a thousand within 2e-4, the rest within 2e-3. The largest difference, and how many are beyond 2e-4.
pub fn near_adapter(what: &str, got: &Path, want: &Path) -> (f32, usize) {
    let (mut worst, mut far, mut all) = (0.0f32, 0, 0);
    let (got, want) = (tensors(got), tensors(want));
    assert_eq!(got.len(), want.len(), "{what}");
    for ((name, got), (expected, want)) in got.iter().zip(&want) {
        assert_eq!((name, got.len()), (expected, want.len()), "{what}");
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 2e-3, "{what} {name}: {got} in place of {want}");
            worst = worst.max((got - want).abs());
            far += usize::from((got - want).abs() >= 2e-4);
            all += 1;
        }
    }
    assert!(far * 1000 <= all, "{what}: {far} of {all} weights are off");
    (worst, far)
}

/// Compares the scores of one text; the first token has none. The largest difference.
pub fn near_scores(
    what: &str,
    scored: &RecordBatch,
    expected: &Value,
    field: &str,
    bound: f64,
) -> f64 {
    let mut worst = 0.0f64;
    let text = expected["text_index"].as_u64().unwrap() as usize;
    let got = scored["logprobs"].as_list::<i32>().value(text);
    let got = got.as_primitive::<Float32Type>();
    let want =
        if expected[field].is_array() { &expected[field] } else { &expected["logprobs_f32"] };
    let want = want.as_array().unwrap();
    assert_eq!(got.len(), want.len(), "{what}");
    for place in 1..want.len() {
        let (got, want) = (f64::from(got.value(place)), want[place].as_f64().unwrap());
        assert!((got - want).abs() < bound, "{what} token {place}: {got} in place of {want}");
        worst = worst.max((got - want).abs());
    }
    worst
}

/// A model of half a megabyte.
const LARGE: &str = r#"refrain: 1
data: { train: { path: train.jsonl } }
stages:
  tuned:
    finetune:
      data: train
      from:
        config: { hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 128 }
        tokenizer: { vocab_size: 280 }
      steps: 3
      checkpoint_every: 0
"#;

/// A limit on the size of files, as a full disk makes each large write an error.
#[test]
fn a_disk_that_is_full_leaves_nothing_half_written() {
    let whole = Space::new();
    small(&whole);
    whole.write("w.yaml", LARGE);
    let expected = whole.digests("w.yaml", &[]);

    let space = Space::new();
    small(&space);
    space.write("w.yaml", LARGE);
    // In blocks of 512 bytes; without the trap the signal would end the process.
    let limited =
        format!("trap '' XFSZ; ulimit -f 400; exec {} run w.yaml", env!("CARGO_BIN_EXE_refrain"));
    let output = std::process::Command::new("sh")
        .args(["-c", &limited])
        .current_dir(space.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(
        said.contains("cannot write `") && said.contains("model.safetensors`: File too large"),
        "{said}"
    );
    assert!(said.contains("the state of the training could not be kept"), "{said}");
    let models = std::fs::read_dir(space.path(".refrain/objects")).unwrap().filter(|entry| {
        let inside = std::fs::read_dir(entry.as_ref().unwrap().path()).unwrap();
        inside.flatten().any(|object| object.path().is_dir())
    });
    assert_eq!(models.count(), 0, "half a model is in the cache");
    assert_eq!(space.digests("w.yaml", &[]), expected);
}
